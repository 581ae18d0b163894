//! Revisions in the projection: one is wanted, then it serves or it is history; rows of what it replaced are retired.
use super::{over, row_at};
use crate::{cost, meter, revision};
use prost::Message;
use rust_decimal::Decimal;
use syp_proto::journal::{
    self, Instance, LedgerRow, Node, PlanNode, Record, Revision, Run, RunKind, StepIntent, ledger_row, node,
    undo_outcome,
};

pub(super) fn revised(i: &mut Instance, r: &Record, x: &journal::Revised) -> Result<(), &'static str> {
    let wanted = x.revision.as_ref().ok_or("revision without content")?;
    if i.state() != crate::graph::State::Serving {
        return Err("a revision of what does not serve");
    }
    if i.run.is_some() {
        return Err("a revision while a run is open");
    }
    if wanted.no != revision::next_number(i) {
        return Err("revision numbers have a gap");
    }
    i.generation = i64::from(wanted.no);
    i.wanted = Some(Revision { create_ms: r.at_ms, creator: r.actor.clone(), ..wanted.clone() });
    Ok(())
}

/// A node that says where requests go has begun: the gate must hear of it, whoever tells it.
pub(super) fn routed(i: &mut Instance, r: &Record, def: &PlanNode, s: &StepIntent) {
    if !def.routes.is_empty() && s.attempt == 1 {
        i.routes.clone_from(&def.routes);
        super::next_generation(i, r.seq);
        (i.gate_retry_ms, i.gate_attempt) = (0, 0);
    }
}

/// The wanted revision serves from now on.
pub(super) fn activated(i: &mut Instance, r: &Record) {
    let Some(new) = i.wanted.take() else { return };
    priced(i);
    let old = revision::serving(i);
    i.history.retain(|x| x.no != old.no);
    i.history.push(old);
    let beside = i.spec.clone().unwrap_or_default();
    i.spec = Some(revision::merged(&beside, &new.spec.clone().unwrap_or_default()));
    i.facts.clone_from(&new.facts);
    i.hourly_rate.clone_from(&new.hourly_rate);
    i.revision = revision::name(&i.name, new.no);
    i.revision_no = new.no;
    // what it is made of is in the projection itself; here only what that does not say
    i.history.push(Revision { spec: None, facts: String::new(), serving_ms: r.at_ms, ..new });
    forget(i);
}

/// Rows of former versions have no rate of their own; before the instance's changes they get their share of it.
pub(super) fn priced(i: &mut Instance) {
    let Some(rate) = i.hourly_rate.clone() else { return };
    let shares = i.ledger.iter().filter(|r| r.billed && r.hourly.is_none() && !over(r)).count().max(1);
    let share = cost::money(cost::decimal(&rate) / Decimal::from(shares), &rate.currency_code);
    for r in i.ledger.iter_mut().filter(|r| r.billed && r.hourly.is_none()) {
        r.hourly = Some(share.clone());
    }
}

/// A run has ended: what was wanted and does not serve never will.
pub(super) fn ended(i: &mut Instance, r: &Record, kind: RunKind, e: &journal::RunEnded) {
    let well = e.failure.is_none() && !e.cancelled;
    match kind {
        RunKind::Update => {
            if let Some(lost) = i.wanted.take() {
                let cancelled = journal::Failure {
                    reason: "CANCELLED".into(),
                    message: "cancelled before it served".into(),
                    ..Default::default()
                };
                let failure = e.failure.clone().or(Some(cancelled));
                i.history.push(Revision { failure, ..lost });
                forget(i);
            }
            i.revert_ms = if well { 0 } else { r.at_ms };
            let_go(i);
            i.observed_generation = i.generation;
        }
        RunKind::Repair if i.revert_ms != 0 => {
            i.revert_ms = if well { 0 } else { r.at_ms + REVERT_AGAIN_MS };
            let_go(i);
        }
        RunKind::Provision if well => i.observed_generation = i.generation,
        _ => {}
    }
}

/// A repair that failed is not begun again at once.
const REVERT_AGAIN_MS: i64 = 30_000;

fn forget(i: &mut Instance) {
    i.history.sort_by_key(|x| x.no);
    let serving = revision::number(i);
    let size = |i: &Instance| i.history.iter().map(Message::encoded_len).sum::<usize>();
    while i.history.len() > revision::HISTORY || size(i) > HISTORY_BYTES {
        let Some(at) = i.history.iter().position(|x| x.no != serving) else { return };
        i.history.remove(at);
    }
}

/// Is a node of a run done? One that retires a row is when the row is over, whoever removed it.
pub(crate) fn is_done(ledger: &[journal::LedgerRow], run: &Run, id: &str) -> bool {
    let ok = run.nodes.iter().any(|n| n.id == id && n.state() == node::State::Ok);
    let gone = |d: &PlanNode| d.retires.is_some_and(|e| row_at(ledger, e).is_none_or(over));
    ok || run.plan.iter().flat_map(|p| &p.nodes).any(|d| d.id == id && gone(d))
}

/// The node of the open run that retires this row.
fn retiring(run: &mut Run, entry: u32) -> Option<(&PlanNode, &mut Node)> {
    let def = run.plan.as_ref()?.nodes.iter().find(|d| d.retires == Some(entry))?;
    let node = run.nodes.iter_mut().find(|n| n.id == def.id)?;
    Some((def, node))
}

/// Retired rows that the ledger keeps.
const GONE_ROWS: usize = 32;
/// What the history may take, in bytes: it is in every checkpoint.
const HISTORY_BYTES: usize = 48 * 1024;

/// The oldest rows of which nothing is left are let go, so that an instance may be updated as often as one likes.
pub(super) fn let_go(i: &mut Instance) {
    let gone = |r: &LedgerRow| r.state() == ledger_row::State::Gone;
    let mut extra = i.ledger.iter().filter(|r| gone(r)).count().saturating_sub(GONE_ROWS);
    let mut kept = Vec::with_capacity(i.ledger.len());
    let last = i.ledger.last().map_or(0, |r| r.ordinal);
    for row in std::mem::take(&mut i.ledger) {
        // numbers go on from the last row
        if extra == 0 || !gone(&row) || row.ordinal == last {
            kept.push(row);
            continue;
        }
        extra -= 1;
        i.let_go += 1;
        i.let_go_in_doubt |= row.ever_in_doubt;
        // what has a rate of its own was settled when it went
        if row.billed && row.hourly.is_none() {
            let rate = i.hourly_rate.as_ref().map_or(Decimal::ZERO, cost::decimal);
            let spent = rate * Decimal::from((row.gone_ms - row.intent_ms).max(0));
            meter::add(&mut i.spent, row.revision.max(1), 0, spent);
        }
    }
    i.ledger = kept;
}

/// May this row be removed now, and if a node does it: it has begun.
pub(super) fn undo_begins(i: &mut Instance, r: &Record, entry: u32) -> Result<(), &'static str> {
    let run = i.run.as_mut().ok_or("undo without a run")?;
    if run.kind() == RunKind::Teardown {
        return Ok(());
    }
    let ready = |run: &Run, def: &PlanNode| def.after.iter().all(|a| is_done(&i.ledger, run, a));
    let def = run.plan.iter().flat_map(|p| &p.nodes).find(|d| d.retires == Some(entry));
    let def = def.ok_or("undo of what no node retires")?;
    if !ready(run, def) {
        return Err("undo before its dependencies are done");
    }
    if let Some((_, n)) = retiring(run, entry) {
        n.attempt += 1;
        n.set_state(node::State::Intent);
        n.start_ms = r.at_ms;
        n.first_ms = if n.first_ms == 0 { r.at_ms } else { n.first_ms };
        n.failure = None;
    }
    Ok(())
}

/// How it went.
pub(super) fn undo_ended(i: &mut Instance, r: &Record, u: &journal::UndoOutcome) {
    let Some((_, n)) = i.run.as_mut().and_then(|run| retiring(run, u.entry)) else { return };
    n.end_ms = r.at_ms;
    n.failure.clone_from(&u.failure);
    if u.result() == undo_outcome::Result::Retry {
        n.set_state(node::State::Retry);
        n.retry_at_ms = u.retry_at_ms;
    } else {
        n.set_state(node::State::Ok);
    }
}

/// The revision that a new row belongs to.
pub(super) fn owner_of(i: &Instance) -> u32 {
    i.wanted
        .as_ref()
        .filter(|_| i.run.as_ref().is_some_and(|r| r.kind() == RunKind::Update))
        .map_or_else(|| revision::number(i), |w| w.no)
}
