//! The projection of an instance: `fold` applies one record and refuses what cannot happen.
//!
//! Everything the engine knows about an instance is `fold` over its journal; a checkpoint only saves time. A record that does
//! not fit is an error: a bad journal then blocks this instance alone.
mod jump;
mod rows;
mod tokens;
mod update;
use crate::{
    clock::{Millis, timestamp},
    graph::{self, State},
    meter, revision,
};
use syp_proto::{
    journal::{self, Failure, Instance, LedgerRow, Node, Record, Run, RunKind, ledger_row, record::Body},
    v1::{Condition, condition, condition::Status},
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
        Body::StepIntent(s) => rows::step_intent(i, r, s)?,
        Body::StepProgress(p) => rows::step_progress(i, p)?,
        Body::ProviderEvent(e) => rows::provider_event(i, e)?,
        Body::StepOutcome(o) => rows::step_outcome(i, r, o)?,
        Body::UndoIntent(u) => rows::undo_intent(i, r, u)?,
        Body::UndoOutcome(u) => rows::undo_outcome(i, r, u)?,
        Body::Adopted(a) => rows::adopted(i, r, a)?,
        Body::Listed(l) => {
            let nothing_known = i.ledger.iter().all(over);
            let run = open_run(i, l.run)?;
            if run.kind() != RunKind::Teardown {
                return Err("only a teardown lists");
            }
            run.next_listing_ms = l.retry_at_ms;
            if l.failure.is_some() {
                run.listing_attempt += 1;
            } else {
                run.listing_attempt = 0;
                let clean = l.found.is_empty() && nothing_known;
                run.clean_listings = if clean { run.clean_listings + 1 } else { 0 };
            }
            run.failure.clone_from(&l.failure);
        }
        Body::Transition(t) => transition(i, r, t)?,
        Body::CancelRequested(c) => open_run(i, c.run)?.cancel_requested = true,
        Body::Paused(p) => paused(open_run(i, p.run)?, p.on, r.at_ms),
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
        Body::BudgetReached(b) => {
            i.reached.retain(|x| x.period_ms == b.period_ms);
            i.reached.push(b.clone());
        }
        Body::Repriced(p) => repriced(i, r, p),
        Body::Used(u) => meter::used(i, u)?,
        Body::Drift(_) => {}
        Body::ClockJumped(j) => jump::jumped(i, j),
        Body::Restored(x) => {
            i.restored_ms = x.restored_ms;
            // above all that gates may have: there are fewer records than milliseconds
            next_generation(i, u64::try_from(x.restored_ms).unwrap_or(0));
            (i.gate_retry_ms, i.gate_attempt) = (0, 0);
        }
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
    // what its provider says and counts, and that its gate has by now what was asked for, is no change that anybody made
    if !matches!(body, Body::ProviderEvent(_) | Body::StepProgress(_) | Body::Used(_) | Body::GatePushed(_)) {
        i.changed_seq = r.seq;
        i.update_ms = r.at_ms;
    }
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
    next_generation(i, r.seq);
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
        hold: c.hold,
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
        i.endpoint_ca.clone_from(&t.endpoint_ca);
    }
    // what the gate does differs only in and out of draining
    if (i.state() == State::Draining) != (to == State::Draining) {
        next_generation(i, r.seq);
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

/// The gate must hear of something new.
fn next_generation(i: &mut Instance, at_least: u64) {
    i.gate_generation = at_least.max(i.gate_generation + 1);
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

pub(crate) const DRIFTED: &str = "Drifted";

/// The condition that something differs at the provider and is left so, when it holds.
pub fn drifted(i: &Instance) -> Option<&Condition> {
    i.conditions.iter().find(|c| c.r#type == DRIFTED && c.status() == Status::True)
}

fn edited(i: &mut Instance, r: &Record, e: &journal::Edited) {
    if e.access.is_some() || e.set_cors {
        next_generation(i, r.seq);
        i.gate_retry_ms = 0;
    }
    let spec = i.spec.get_or_insert_default();
    if e.access.is_some() {
        spec.access.clone_from(&e.access);
    }
    if e.set_cors {
        spec.cors_origins.clone_from(&e.cors_origins);
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
    if e.set_budget {
        spec.budget.clone_from(&e.budget);
        i.reached.clear();
    }
    if e.set_protect {
        spec.protect = e.protect;
    }
    if e.set_report_drift {
        spec.report_drift = e.report_drift;
        if !e.report_drift && drifted(i).is_some() {
            // what was only told so far is put back now
            i.revert_ms = r.at_ms;
        }
    }
}

/// The time that a run has stands still with it.
fn paused(run: &mut Run, on: bool, at_ms: Millis) {
    run.hold = false;
    if on {
        run.paused_ms = at_ms;
        return;
    }
    if run.paused_ms != 0 && run.deadline_ms != 0 {
        run.deadline_ms += (at_ms - run.paused_ms).max(0);
    }
    run.paused_ms = 0;
}

/// Other prices from now on; what was spent before stays as it was.
fn repriced(i: &mut Instance, r: &Record, p: &journal::Repriced) {
    update::priced(i);
    for price in &p.prices {
        meter::settle(i, price.entry, r.at_ms);
        if let Ok(row) = row(i, price.entry) {
            row.hourly.clone_from(&price.hourly);
        }
    }
    i.hourly_rate.clone_from(&p.hourly_rate);
    i.facts.clone_from(&p.facts);
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
