//! The projection of an instance: `fold` applies one record and refuses what cannot happen.
//!
//! Everything the engine knows about an instance is `fold` over its journal; a checkpoint only saves time. A record that does
//! not fit is an error: a bad journal then blocks this instance alone.
mod tokens;
mod update;
use crate::{
    clock::{Millis, timestamp},
    graph::{self, State},
    plan, revision,
};
use syp_proto::{
    journal::{
        self, Failure, Instance, LedgerRow, Node, Record, Run, RunKind, ledger_row, node, record::Body,
        step_outcome, undo_outcome,
    },
    v1::{Condition, condition},
};

pub(crate) use update::is_done;

/// Runs kept whole in the projection; older ones stay in the journal.
const PAST_RUNS: usize = 8;

/// Output in which a step says the generation of the configuration that it brought to the gate.
pub const GATE_GENERATION: &str = "gate_generation";

/// A record that cannot follow.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("record {seq} of {uid} cannot be: {why}")]
pub struct Illegal {
    /// Its number.
    pub seq: u64,
    /// Whose.
    pub uid: String,
    /// Why.
    pub why: &'static str,
}

/// Applies one record.
///
/// # Errors
/// [`Illegal`] with the rule that it breaks; the projection may then be half changed and must be dropped.
pub fn fold(i: &mut Instance, r: &Record) -> Result<(), Illegal> {
    let uid = i.uid.clone();
    apply(i, r).map_err(|why| Illegal { seq: r.seq, uid, why })
}

fn apply(i: &mut Instance, r: &Record) -> Result<(), &'static str> {
    if r.seq != i.head_seq + 1 {
        return Err("numbers have a gap");
    }
    let body = r.body.as_ref().ok_or("empty")?;
    if i.head_seq == 0 && !matches!(body, Body::Created(_)) {
        return Err("the first record must be the creation");
    }
    match body {
        Body::Created(c) => created(i, r, c)?,
        Body::RunCreated(c) => run_created(i, r, c)?,
        Body::StepIntent(s) => step_intent(i, r, s)?,
        Body::StepProgress(p) => {
            let row = row_of_node(i, &p.node).ok_or("progress of a step without a row")?;
            i.ledger[row].handle.clone_from(&p.handle);
        }
        Body::StepOutcome(o) => step_outcome(i, r, o)?,
        Body::UndoIntent(u) => undo_intent(i, r, u)?,
        Body::UndoOutcome(u) => undo_outcome(i, r, u)?,
        Body::Adopted(a) => adopted(i, r, a)?,
        Body::Listed(l) => {
            let run = open_run(i, l.run)?;
            if run.kind() != RunKind::Teardown {
                return Err("only a teardown lists");
            }
            run.next_listing_ms = l.retry_at_ms;
            if l.failure.is_some() {
                run.listing_attempt += 1;
            } else {
                run.listing_attempt = 0;
                run.clean_listings = if l.found.is_empty() { run.clean_listings + 1 } else { 0 };
            }
            run.failure.clone_from(&l.failure);
        }
        Body::Transition(t) => transition(i, r, t)?,
        Body::CancelRequested(c) => open_run(i, c.run)?.cancel_requested = true,
        Body::RunEnded(e) => {
            let run = open_run(i, e.run)?;
            if run.kind() == RunKind::Teardown && !e.preempted_by.is_empty() {
                return Err("nothing ends a teardown but its own end");
            }
            run.ended_ms = r.at_ms;
            run.failure.clone_from(&e.failure);
            run.cancelled = e.cancelled;
            run.preempted_by.clone_from(&e.preempted_by);
            let kind = run.kind();
            if let Some(run) = i.run.take() {
                i.past.push(run);
            }
            update::ended(i, r, kind, e);
            if i.past.len() > PAST_RUNS {
                i.past.remove(0);
            }
        }
        Body::ConditionSet(c) => {
            let c = c.condition.as_ref().ok_or("empty condition")?;
            set_condition(i, c.clone(), r.at_ms);
        }
        Body::Edited(e) => edited(i, r, e),
        Body::TokenChanged(t) => tokens::changed(i, r, t)?,
        Body::Revised(x) => update::revised(i, r, x)?,
        Body::Drift(_) => {}
        Body::GatePushed(p) => {
            if p.failure.is_some() {
                i.gate_retry_ms = p.retry_at_ms;
                i.gate_attempt += 1;
            } else {
                i.gate_pushed = i.gate_pushed.max(p.generation);
                i.gate_retry_ms = 0;
                i.gate_attempt = 0;
            }
        }
        Body::Retained(k) => {
            let row = row(i, k.entry)?;
            row.set_state(ledger_row::State::Retained);
            row.retained_reason.clone_from(&k.reason);
            row.undo_open = false;
        }
    }
    i.head_seq = r.seq;
    i.update_ms = r.at_ms;
    Ok(())
}

fn created(i: &mut Instance, r: &Record, c: &journal::Created) -> Result<(), &'static str> {
    if i.head_seq != 0 {
        return Err("created twice");
    }
    i.project.clone_from(&c.project);
    i.name.clone_from(&c.name);
    i.labels.clone_from(&c.labels);
    i.spec.clone_from(&c.spec);
    i.facts.clone_from(&c.facts);
    i.creator.clone_from(&c.creator);
    i.expire_ms = c.expire_ms;
    i.hourly_rate.clone_from(&c.hourly_rate);
    i.graph_version = c.graph_version;
    i.create_ms = r.at_ms;
    i.generation = 1;
    i.revision = revision::name(&c.name, 1);
    i.gate_generation = r.seq;
    i.set_state(State::Pending);
    Ok(())
}

fn run_created(i: &mut Instance, r: &Record, c: &journal::RunCreated) -> Result<(), &'static str> {
    if i.run.is_some() {
        return Err("a run is open already");
    }
    if c.run != i.runs + 1 {
        return Err("run numbers have a gap");
    }
    let plan = c.plan.as_ref().ok_or("run without a plan")?;
    let nodes = plan.nodes.iter().map(|n| Node { id: n.id.clone(), ..Default::default() }).collect();
    i.runs = c.run;
    i.run = Some(Run {
        no: c.run,
        kind: c.kind,
        plan: c.plan.clone(),
        nodes,
        created_ms: r.at_ms,
        deadline_ms: c.deadline_ms,
        actor: r.actor.clone(),
        request_id: c.request_id.clone(),
        cause: c.cause.clone(),
        verb: c.verb.clone(),
        epoch: r.epoch,
        from_state: i.state,
        grace_ms: c.grace_ms,
        ..Default::default()
    });
    Ok(())
}

fn step_intent(i: &mut Instance, r: &Record, s: &journal::StepIntent) -> Result<(), &'static str> {
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
        let x = &mut i.ledger[x];
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

fn step_outcome(i: &mut Instance, r: &Record, o: &journal::StepOutcome) -> Result<(), &'static str> {
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

fn undo_intent(i: &mut Instance, r: &Record, u: &journal::UndoIntent) -> Result<(), &'static str> {
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

fn undo_outcome(i: &mut Instance, r: &Record, u: &journal::UndoOutcome) -> Result<(), &'static str> {
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
            row.retry_at_ms = 0;
            row.in_doubt = false;
        }
        undo_outcome::Result::Retry => row.retry_at_ms = u.retry_at_ms,
        undo_outcome::Result::Unspecified => return Err("outcome without a result"),
    }
    update::undo_ended(i, r, u);
    Ok(())
}

fn adopted(i: &mut Instance, r: &Record, a: &journal::Adopted) -> Result<(), &'static str> {
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

fn transition(i: &mut Instance, r: &Record, t: &journal::Transition) -> Result<(), &'static str> {
    if t.from != i.state {
        return Err("transition from another state");
    }
    let to = State::try_from(t.to).map_err(|_| "unknown state")?;
    let known = graph::TABLE.iter().any(|e| e.from as i32 == t.from && e.to == to);
    if !known {
        return Err("no such edge");
    }
    if to == State::Destroyed {
        if i.ledger.iter().any(|x| !over(x)) {
            return Err("destroyed while something may exist");
        }
        i.destroy_ms = r.at_ms;
        i.receipt.clone_from(&t.receipt);
    }
    if to == State::Serving && i.serving_ms == 0 {
        i.serving_ms = r.at_ms;
    }
    if !t.endpoint.is_empty() {
        i.endpoint.clone_from(&t.endpoint);
    }
    // what the gate does differs only in and out of draining
    if (i.state() == State::Draining) != (to == State::Draining) {
        i.gate_generation = r.seq;
    }
    i.state = t.to;
    // nobody is served any more, for a reason that is not a failure (a failure has said so itself)
    if matches!(to, State::Draining | State::Destroyed)
        && i.conditions.iter().any(|c| c.r#type == "Ready" && is_calm(c))
    {
        let status = condition::Status::False as i32;
        let reason = to.as_str_name().to_owned();
        set_condition(i, Condition { r#type: "Ready".into(), status, reason, ..Default::default() }, r.at_ms);
    }
    Ok(())
}

/// A `Ready` that tells of no failure.
fn is_calm(c: &Condition) -> bool {
    c.status() == condition::Status::True || c.reason == State::Draining.as_str_name()
}

/// A condition's time is that of its last change of status, not of its last mention.
fn set_condition(i: &mut Instance, mut c: Condition, at_ms: Millis) {
    let old = i.conditions.iter().position(|x| x.r#type == c.r#type).map(|at| i.conditions.remove(at));
    c.last_transition_time = match old {
        Some(old) if old.status == c.status => old.last_transition_time,
        _ => timestamp(at_ms),
    };
    if c.status != 0 {
        i.conditions.push(c);
    }
}

fn edited(i: &mut Instance, r: &Record, e: &journal::Edited) {
    let spec = i.spec.get_or_insert_default();
    if e.access.is_some() {
        spec.access.clone_from(&e.access);
        i.gate_generation = r.seq;
        i.gate_retry_ms = 0;
    }
    if e.set_cors {
        spec.cors_origins.clone_from(&e.cors_origins);
        i.gate_generation = r.seq;
        i.gate_retry_ms = 0;
    }
    if e.operators.is_some() {
        spec.operators.clone_from(&e.operators);
    }
    if e.set_expire {
        i.expire_ms = e.expire_ms;
    }
    if e.set_labels {
        i.labels.clone_from(&e.labels);
    }
    if e.set_protect {
        spec.protect = e.protect;
    }
}

/// The row of a number; one that was let go is not there any more.
pub fn row_at(ledger: &[LedgerRow], ordinal: u32) -> Option<&LedgerRow> {
    ledger.get(ledger.binary_search_by_key(&ordinal, |r| r.ordinal).ok()?)
}

/// The number of the next row.
pub fn next_ordinal(ledger: &[LedgerRow]) -> u32 {
    ledger.last().map_or(0, |r| r.ordinal + 1)
}

/// Nothing of it is left, or an operator chose to keep it.
pub fn over(row: &LedgerRow) -> bool {
    matches!(row.state(), ledger_row::State::Gone | ledger_row::State::Retained)
}

/// Why the newest run that failed did so.
pub fn last_failure(i: &Instance) -> Option<&Failure> {
    i.run.iter().chain(i.past.iter().rev()).find_map(|r| r.cause.as_ref().or(r.failure.as_ref()))
}

fn open_run(i: &mut Instance, no: u32) -> Result<&mut Run, &'static str> {
    i.run.as_mut().filter(|r| r.no == no).ok_or("that run is not open")
}

fn row(i: &mut Instance, ordinal: u32) -> Result<&mut LedgerRow, &'static str> {
    let at = i.ledger.binary_search_by_key(&ordinal, |r| r.ordinal).map_err(|_| "no such ledger row")?;
    i.ledger.get_mut(at).ok_or("no such ledger row")
}

fn row_of_node(i: &Instance, node: &str) -> Option<usize> {
    i.ledger.iter().rposition(|x| x.node == node && !over(x))
}
