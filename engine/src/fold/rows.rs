//! Rows of the ledger: what may exist, from the intent to make it to the outcome of its removal.
use super::{GATE_GENERATION, is_done, next_ordinal, open_run, over, row, row_of_node, update};
use crate::{meter, plan};
use syp_proto::journal::{self, Instance, LedgerRow, Record, ledger_row, node, step_outcome, undo_outcome};

pub(super) fn step_intent(i: &mut Instance, r: &Record, s: &journal::StepIntent) -> Result<(), &'static str> {
    let run = i.run.as_mut().filter(|r| r.no == s.run).ok_or("that run is not open")?;
    let plan = run.plan.as_ref().ok_or("run without a plan")?;
    let at =
        plan.nodes.iter().position(|n| n.id == s.node).ok_or("intent of a node that is not in the plan")?;
    let def = &plan.nodes[at];
    if def.retires.is_some() {
        return Err("a row is retired by an undo");
    }
    if !def.after.iter().all(|id| is_done(&i.ledger, run, id)) {
        return Err("intent before its dependencies are done");
    }
    let state = run.nodes[at].state();
    if matches!(state, node::State::Ok | node::State::Terminal) {
        return Err("intent of a node that is over");
    }
    if s.attempt != run.nodes[at].attempt + 1 {
        return Err("attempts have a gap");
    }
    let again = state == node::State::Intent;
    let def = def.clone();
    let deps = def.effect.as_ref().map(|_| plan::effect_deps(plan, &s.node));
    let n = &mut run.nodes[at];
    n.attempt = s.attempt;
    n.set_state(node::State::Intent);
    n.start_ms = r.at_ms;
    if n.first_ms == 0 {
        n.first_ms = r.at_ms;
    }
    n.failure = None;
    update::routed(i, r, &def, s);
    let revision = update::owner_of(i);
    let (Some(effect), Some(deps)) = (def.effect, deps) else { return Ok(()) };
    let live = i.ledger.iter().position(|x| x.key == effect.key && x.kind == def.kind && !over(x));
    if let Some(x) = live {
        // while it is made anew it rests on what it rested on and on what it will
        let more: Vec<u32> =
            i.ledger.iter().filter(|x| !over(x) && deps.contains(&x.node)).map(|x| x.ordinal).collect();
        let moves = i.run.as_ref().is_some_and(|run| i.ledger[x].deps.iter().any(|d| retires(run, *d)));
        let x = &mut i.ledger[x];
        if moves {
            x.deps.extend(more);
            x.deps.sort_unstable();
            x.deps.dedup();
        }
        x.ever_in_doubt |= again;
        x.in_doubt = true;
        x.attempt_ms = r.at_ms;
        return Ok(());
    }
    let deps = i.ledger.iter().filter(|x| !over(x) && deps.contains(&x.node)).map(|x| x.ordinal).collect();
    let policy = def.policy.unwrap_or_default();
    i.ledger.push(LedgerRow {
        ordinal: next_ordinal(&i.ledger),
        node: def.id,
        kind: def.kind,
        provider: effect.provider,
        key: effect.key,
        state: ledger_row::State::Intended as i32,
        deps,
        intent_ms: r.at_ms,
        attempt_ms: r.at_ms,
        in_doubt: true,
        params: def.params,
        settle_ms: policy.settle_ms,
        billed: effect.billed,
        undo_timeout_ms: policy.attempt_timeout_ms,
        revision,
        hourly: effect.hourly,
        ..Default::default()
    });
    Ok(())
}

pub(super) fn step_outcome(
    i: &mut Instance,
    r: &Record,
    o: &journal::StepOutcome,
) -> Result<(), &'static str> {
    let run = open_run(i, o.run)?;
    let n = run.nodes.iter_mut().find(|n| n.id == o.node).ok_or("outcome of an unknown node")?;
    if n.state() != node::State::Intent || n.attempt != o.attempt {
        return Err("outcome without its intent");
    }
    n.failure.clone_from(&o.failure);
    n.end_ms = r.at_ms;
    let def = run.plan.iter().flat_map(|p| &p.nodes).find(|d| d.id == o.node);
    let has_effect = def.is_some_and(|d| d.effect.is_some());
    let activates = def.is_some_and(|d| d.activates) && o.result() == step_outcome::Result::Ok;
    match o.result() {
        step_outcome::Result::Ok => {
            n.set_state(node::State::Ok);
            n.outputs.clone_from(&o.outputs);
            // a step that brought a configuration to the gate says which
            if o.outputs.contains(GATE_GENERATION) {
                let outputs: serde_json::Value = serde_json::from_str(&o.outputs).unwrap_or_default();
                let generation = outputs[GATE_GENERATION].as_u64().unwrap_or(0);
                i.gate_pushed = i.gate_pushed.max(generation);
            }
        }
        step_outcome::Result::Retry => {
            n.set_state(node::State::Retry);
            n.retry_at_ms = o.retry_at_ms;
        }
        step_outcome::Result::Terminal => n.set_state(node::State::Terminal),
        step_outcome::Result::Unspecified => return Err("outcome without a result"),
    }
    if activates {
        update::activated(i, r);
    }
    if !has_effect {
        return Ok(());
    }
    let at = row_of_node(i, &o.node).ok_or("outcome without a ledger row")?;
    let row = &mut i.ledger[at];
    if o.result() == step_outcome::Result::Ok
        && let Some(run) = &i.run
    {
        // what the plan takes away after it, it rests on no more
        row.deps.retain(|d| !retires(run, *d));
    }
    if o.result() == step_outcome::Result::Ok {
        row.set_state(ledger_row::State::Exists);
        row.exists_ms = if row.exists_ms == 0 { r.at_ms } else { row.exists_ms };
        row.handle.clone_from(&o.handle);
        row.outputs.clone_from(&o.outputs);
        row.in_doubt = false;
    } else {
        // a call that failed may have worked by half and may still land: only success ends the doubt
        row.ever_in_doubt = true;
    }
    Ok(())
}

fn retires(run: &journal::Run, row: u32) -> bool {
    run.plan.iter().flat_map(|p| &p.nodes).any(|n| n.retires == Some(row))
}

pub(super) fn undo_intent(i: &mut Instance, r: &Record, u: &journal::UndoIntent) -> Result<(), &'static str> {
    let blocked = i.ledger.iter().any(|x| x.deps.contains(&u.entry) && !over(x));
    let held = row(i, u.entry)?;
    if over(held) {
        return Err("undo of what is gone");
    }
    if blocked {
        return Err("undo before what rests on it is gone");
    }
    if u.attempt != held.undo_attempt + 1 {
        return Err("undo attempts have a gap");
    }
    update::undo_begins(i, r, u.entry)?;
    let row = row(i, u.entry)?;
    row.undo_attempt = u.attempt;
    row.undo_open = true;
    row.ever_in_doubt |= row.in_doubt;
    row.attempt_ms = r.at_ms;
    row.set_state(ledger_row::State::Deleting);
    Ok(())
}

pub(super) fn undo_outcome(
    i: &mut Instance,
    r: &Record,
    u: &journal::UndoOutcome,
) -> Result<(), &'static str> {
    let row = row(i, u.entry)?;
    if !row.undo_open || row.undo_attempt != u.attempt {
        return Err("outcome of an undo without its intent");
    }
    row.undo_open = false;
    row.failure.clone_from(&u.failure);
    match u.result() {
        undo_outcome::Result::Gone | undo_outcome::Result::AlreadyAbsent => {
            row.set_state(ledger_row::State::Gone);
            row.gone_ms = r.at_ms;
            row.last_event = None;
            row.last_event_ids.clear();
            row.retry_at_ms = 0;
            row.in_doubt = false;
        }
        undo_outcome::Result::Retry => row.retry_at_ms = u.retry_at_ms,
        undo_outcome::Result::Unspecified => return Err("outcome without a result"),
    }
    if over(
        &i.ledger
            [i.ledger.binary_search_by_key(&u.entry, |x| x.ordinal).map_err(|_| "no such ledger row")?],
    ) {
        meter::settle(i, u.entry, r.at_ms);
    }
    update::undo_ended(i, r, u);
    Ok(())
}

pub(super) fn step_progress(i: &mut Instance, p: &journal::StepProgress) -> Result<(), &'static str> {
    let row = row(i, p.entry)?;
    if over(row) {
        return Err("a handle of what is gone");
    }
    row.handle.clone_from(&p.handle);
    Ok(())
}

pub(super) fn provider_event(i: &mut Instance, e: &journal::ProviderEvent) -> Result<(), &'static str> {
    let row = row(i, e.entry)?;
    if over(row) {
        return Err("an event of what is gone");
    }
    if e.removing {
        // it is at work again: what failed before is over
        row.failure = None;
    }
    let newest = row.last_event.as_ref().map_or(0, |n| n.event_ms);
    if e.event_ms > newest {
        row.last_event_ids.clear();
    }
    if e.event_ms >= newest {
        row.last_event_ids.push(e.id.clone());
        row.last_event = Some(e.clone());
    }
    Ok(())
}

pub(super) fn adopted(i: &mut Instance, r: &Record, a: &journal::Adopted) -> Result<(), &'static str> {
    let next = next_ordinal(&i.ledger);
    if a.entry == next {
        let f = a.found.as_ref().ok_or("adoption of nothing")?;
        i.ledger.push(LedgerRow {
            ordinal: next,
            node: f.node.clone(),
            kind: f.kind.clone(),
            key: f.key.clone(),
            handle: f.handle.clone(),
            state: ledger_row::State::Exists as i32,
            intent_ms: r.at_ms,
            exists_ms: r.at_ms,
            by_sweep: true,
            ever_in_doubt: true,
            ..Default::default()
        });
        return Ok(());
    }
    let row = row(i, a.entry)?;
    if over(row) {
        return Err("adoption of what is gone");
    }
    row.handle.clone_from(&a.handle);
    row.ever_in_doubt = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::journal::{Failure, ProviderEvent, record::Body};

    #[test]
    fn what_a_provider_says_is_kept_of_the_newest_moment_and_changes_nothing_else() {
        let failure = Some(Failure { reason: "PROVIDER_UNREACHABLE".into(), ..Default::default() });
        let row =
            LedgerRow { ordinal: 4, failure, state: ledger_row::State::Exists as i32, ..Default::default() };
        let mut i = Instance { head_seq: 1, changed_seq: 1, ledger: vec![row], ..Default::default() };
        let before = crate::ops::etag(&i);
        for (id, event_ms, removing) in [("a", 7, false), ("b", 9, true), ("late", 8, true), ("c", 9, true)] {
            let failed = i.ledger[0].failure.is_some();
            let event = ProviderEvent { entry: 4, id: id.into(), event_ms, removing, ..Default::default() };
            let r =
                Record { seq: i.head_seq + 1, body: Some(Body::ProviderEvent(event)), ..Default::default() };
            crate::fold::fold(&mut i, &r).unwrap();
            assert_eq!(i.ledger[0].failure.is_some(), failed && !removing, "{id}");
        }
        assert_eq!((i.ledger[0].last_event.as_ref().unwrap().event_ms, i.head_seq), (9, 5));
        assert_eq!(i.ledger[0].last_event_ids, ["b", "c"]);
        // its gate has what was asked for, or not yet
        for failure in [None, Some(Failure::default())] {
            let body = Some(Body::GatePushed(journal::GatePushed { failure, ..Default::default() }));
            let r = Record { seq: i.head_seq + 1, body, ..Default::default() };
            crate::fold::fold(&mut i, &r).unwrap();
        }
        assert_eq!(crate::ops::etag(&i), before);
        assert!(
            provider_event(&mut i, &ProviderEvent { entry: 5, ..Default::default() }).is_err(),
            "of nothing"
        );
        i.ledger[0].set_state(ledger_row::State::Gone);
        assert!(
            provider_event(&mut i, &ProviderEvent { entry: 4, ..Default::default() }).is_err(),
            "of what is gone"
        );
    }
}
