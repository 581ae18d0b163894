//! What to do next: a pure function of the projection and the time.
//!
//! No async, no clock, no randomness, no logging. The worker commits the records first, then makes the calls.
mod teardown;
pub use teardown::settle_ms;

use crate::{
    budget,
    clock::Millis,
    failure::{Class, failure},
    fold::{DRIFTED, drifted, is_done, over, row_at},
    graph::{self, State, Trigger},
};
use std::collections::BTreeMap;
use syp_proto::{
    journal::{self, Failure, Instance, Plan, Run, RunKind, ledger_row, node, record::Body},
    v1::{Condition, budget::Action, condition::Status},
};

/// Steps of one run that may be under way together.
pub const PARALLEL: usize = 8;

/// A call to the provider. Read from open intents alone: after a crash the same calls come out again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `apply` of a node (after `observe`, when nobody in this process knows its intent).
    Apply {
        /// Run.
        run: u32,
        /// Node.
        node: String,
        /// Attempt.
        attempt: u32,
    },
    /// `destroy` of a ledger row.
    Undo {
        /// Row.
        entry: u32,
        /// Attempt.
        attempt: u32,
    },
    /// An independent listing, the `nth` of the run.
    List {
        /// Run.
        run: u32,
        /// Counts listings, so that each is a call of its own.
        nth: u32,
    },
    /// Bring the gate to this generation.
    Push {
        /// Generation.
        generation: u64,
        /// Attempt.
        attempt: u32,
    },
}

/// The answer of [`decide`].
#[derive(Debug, Default)]
pub struct Decision {
    /// To be committed, in this order, before anything is called.
    pub records: Vec<Body>,
    /// Open intents: to be called unless already under way in this process.
    pub calls: Vec<Call>,
    /// Something that needs a plan from the target.
    pub trigger: Option<Trigger>,
    /// When to ask again, if nothing else happens.
    pub wake_at: Option<Millis>,
}

/// Decides.
pub fn decide(i: &Instance, now: Millis) -> Decision {
    let mut d = Decision::default();
    let state = i.state();
    if state == State::Destroyed {
        return d;
    }
    expiry(i, now, &mut d);
    budget(i, now, &mut d);
    if d.trigger.is_some() {
        // the open run ends with it: nothing more of that is begun
        return d;
    }
    push(i, now, &mut d);
    let Some(run) = &i.run else {
        revert(i, now, &mut d);
        return d;
    };
    match (state, run.kind()) {
        (State::Pending, RunKind::Provision) => {
            if run.cancel_requested {
                end_provision(i, run, Trigger::Cancel, None, &mut d);
            } else {
                d.records.extend(transition(i, Trigger::Start));
            }
        }
        (_, RunKind::Teardown) => teardown::teardown(i, run, now, &mut d),
        _ => forward(i, run, now, &mut d),
    }
    d
}

impl Decision {
    fn wake(&mut self, at: Millis) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }
}

fn expiry(i: &Instance, now: Millis, d: &mut Decision) {
    let tearing = i.run.as_ref().is_some_and(|r| r.kind() == RunKind::Teardown);
    if i.expire_ms == 0 || tearing {
        return;
    }
    if i.expire_ms <= now {
        d.trigger = Some(Trigger::Expired);
    } else {
        d.wake(i.expire_ms);
    }
}

/// A line that was crossed is written down with what is done about it, once.
fn budget(i: &Instance, now: Millis, d: &mut Decision) {
    if i.run.as_ref().is_some_and(|r| r.kind() == RunKind::Teardown) || d.trigger.is_some() {
        return;
    }
    let v = budget::look(i, now);
    if let Some(at) = v.wake_at {
        d.wake(at.max(now + 1));
    }
    let exceeded = i.conditions.iter().any(|c| c.r#type == "BudgetOk" && c.status() == Status::False);
    let Some(worst) = v.crossed.last() else {
        // another period, or a larger budget
        if exceeded && !budget::is_reached(i, now) {
            let why = Failure { reason: "WITHIN_BUDGET".into(), ..Default::default() };
            d.records.push(condition("BudgetOk", Status::True, &why));
        }
        return;
    };
    d.records.extend(v.crossed.iter().cloned().map(Body::BudgetReached));
    let over = worst.percent >= 100;
    let why = Failure {
        reason: if over { "BUDGET_EXCEEDED" } else { "BUDGET_NEAR" }.into(),
        message: budget::words(i, worst),
        ..Default::default()
    };
    d.records.push(condition("BudgetOk", if over { Status::False } else { Status::True }, &why));
    // what is asked for at several lines at once: the strongest
    let action = v.crossed.iter().map(|r| r.action).max().unwrap_or_default();
    d.trigger = match (Action::try_from(action), i.state()) {
        (Ok(Action::Destroy), State::Serving) => Some(Trigger::BudgetExceeded),
        (Ok(Action::Destroy), _) => Some(Trigger::Delete),
        (Ok(Action::Drain), State::Serving) => Some(Trigger::Drain),
        // nothing is served yet: it would only go on to spend
        (Ok(Action::Drain), State::Pending | State::Provisioning) => Some(Trigger::Delete),
        _ => None,
    };
}

/// An update that did not come to its end left things behind: bring back what serves, remove the rest.
fn revert(i: &Instance, now: Millis, d: &mut Decision) {
    if i.revert_ms == 0 || i.state() != State::Serving {
        return;
    }
    if i.revert_ms > now {
        d.wake(i.revert_ms);
    } else {
        d.trigger = Some(Trigger::Drift);
    }
}

fn push(i: &Instance, now: Millis, d: &mut Decision) {
    let resting = i.run.is_none() && i.state() == State::Draining;
    if i.gate_pushed >= i.gate_generation || !(i.state() == State::Serving || resting) || is_routing(i) {
        return;
    }
    if i.gate_retry_ms > now {
        d.wake(i.gate_retry_ms);
    } else {
        d.calls.push(Call::Push { generation: i.gate_generation, attempt: i.gate_attempt });
    }
}

/// Does a step of the open run tell the gate already?
fn is_routing(i: &Instance) -> bool {
    let Some(run) = &i.run else { return false };
    let open = |id: &str| run.nodes.iter().any(|n| n.id == id && n.state() == node::State::Intent);
    run.plan.iter().flat_map(|p| &p.nodes).any(|n| !n.routes.is_empty() && open(&n.id))
}

/// Provision, update, repair and drain: steps in the order of the plan.
fn forward(i: &Instance, run: &Run, now: Millis, d: &mut Decision) {
    if run.cancel_requested {
        if run.kind() == RunKind::Provision {
            return end_provision(i, run, Trigger::Cancel, None, d);
        }
        d.records.push(ended(run, None, true));
        return;
    }
    let failed = run.nodes.iter().find(|n| n.state() == node::State::Terminal);
    // once the new revision serves, an update only cleans up: that takes as long as it takes
    let limited =
        run.deadline_ms != 0 && run.paused_ms == 0 && !(run.kind() == RunKind::Update && i.wanted.is_none());
    let late = limited && run.deadline_ms <= now;
    if failed.is_some() || late {
        let why = failed.map_or_else(|| deadline(run), of_node);
        if run.kind() == RunKind::Provision {
            return end_provision(i, run, Trigger::RunFailed, Some(why), d);
        }
        d.records.push(ended(run, Some(why.clone()), false));
        // after an update that failed, what served before serves on
        let what = if run.kind() == RunKind::Update { "Updated" } else { "Ready" };
        d.records.push(condition(what, Status::False, &why));
        return;
    }
    if run.nodes.iter().all(|n| is_done(&i.ledger, run, &n.id)) {
        d.records.push(ended(run, None, false));
        if run.kind() == RunKind::Update {
            let why = Failure {
                reason: "REVISION_SERVES".into(),
                message: i.revision.clone(),
                ..Default::default()
            };
            d.records.push(condition("Updated", Status::True, &why));
        }
        if run.kind() == RunKind::Provision {
            d.records.extend(transition(i, Trigger::RunSucceeded).map(|b| with_endpoint(b, run)));
        }
        if run.kind() == RunKind::Repair && drifted(i).is_some() {
            d.records.push(drift(&[]));
        }
        if run.kind() != RunKind::Drain {
            d.records.extend(found_out(i, run));
            d.records.push(ready());
        }
        return;
    }
    if limited {
        d.wake(run.deadline_ms);
    }
    steps(i, run, now, d);
}

fn steps(i: &Instance, run: &Run, now: Millis, d: &mut Decision) {
    let Some(plan) = &run.plan else { return };
    let retires = |id: &str| plan.nodes.iter().find(|x| x.id == id).and_then(|x| x.retires);
    let makes = |n: &&journal::Node| n.state() == node::State::Intent && retires(&n.id).is_none();
    let mut open = run.nodes.iter().filter(makes).count();
    for n in &run.nodes {
        let ready = || {
            let def = plan.nodes.iter().find(|x| x.id == n.id);
            def.is_some_and(|x| x.after.iter().all(|a| is_done(&i.ledger, run, a)))
        };
        if let Some(row) = retires(&n.id).and_then(|e| row_at(&i.ledger, e)) {
            if !over(row) && ready() && (run.paused_ms == 0 || row.undo_open) {
                teardown::undo(row, now, &mut open, d);
            }
            continue;
        }
        match n.state() {
            node::State::Intent => {
                d.calls.push(Call::Apply { run: run.no, node: n.id.clone(), attempt: n.attempt })
            }
            _ if run.paused_ms != 0 => {}
            node::State::Retry if n.retry_at_ms > now => d.wake(n.retry_at_ms),
            node::State::Waiting if run.hold && activates(plan, &n.id) && ready() => {
                d.records.push(Body::Paused(journal::Paused { run: run.no, on: true }));
            }
            node::State::Waiting | node::State::Retry if open < PARALLEL && ready() => {
                open += 1;
                d.records.push(Body::StepIntent(journal::StepIntent {
                    run: run.no,
                    node: n.id.clone(),
                    attempt: n.attempt + 1,
                }));
            }
            _ => {}
        }
    }
}

fn activates(plan: &Plan, id: &str) -> bool {
    plan.nodes.iter().any(|n| n.id == id && n.activates)
}

fn end_provision(i: &Instance, run: &Run, on: Trigger, why: Option<Failure>, d: &mut Decision) {
    d.records.push(ended(run, why.clone(), why.is_none()));
    d.records.extend(transition(i, on));
    d.records.push(Body::RunCreated(journal::RunCreated {
        run: i.runs + 1,
        kind: RunKind::Teardown as i32,
        plan: Some(Plan {
            target: run.plan.as_ref().map_or_else(String::new, |p| p.target.clone()),
            version: 1,
            nodes: vec![],
        }),
        cause: why.clone(),
        verb: if why.is_some() { "failed up" } else { "cancelled up" }.into(),
        ..Default::default()
    }));
    if let Some(why) = &why {
        d.records.push(condition("Ready", Status::False, why));
    }
}

/// The transition of a trigger, if the graph has it.
pub fn transition(i: &Instance, on: Trigger) -> Option<Body> {
    let edge = graph::next(i.state(), on)?;
    Some(Body::Transition(journal::Transition {
        from: i.state,
        to: edge.to as i32,
        trigger: format!("{on:?}"),
        ..Default::default()
    }))
}

fn with_endpoint(mut body: Body, run: &Run) -> Body {
    if let Body::Transition(t) = &mut body {
        let all: Vec<serde_json::Value> =
            run.nodes.iter().filter_map(|n| serde_json::from_str(&n.outputs).ok()).collect();
        let first = |field: &str| all.iter().find_map(|o| o.get(field)?.as_str().map(str::to_owned));
        t.endpoint = first("endpoint").unwrap_or_default();
        t.endpoint_ca = first("endpoint_ca").unwrap_or_default();
    }
    body
}

/// The end of a run.
pub fn ended(run: &Run, failure: Option<Failure>, cancelled: bool) -> Body {
    Body::RunEnded(journal::RunEnded { run: run.no, failure, cancelled, preempted_by: String::new() })
}

/// Sets a condition.
pub fn condition(kind: &str, status: Status, why: &Failure) -> Body {
    Body::ConditionSet(journal::ConditionSet {
        condition: Some(Condition {
            r#type: kind.into(),
            status: status as i32,
            reason: why.reason.clone(),
            message: why.message.clone(),
            last_transition_time: None,
        }),
    })
}

/// The condition that says what differs and is left so; cleared when nothing does.
pub fn drift(findings: &[String]) -> Body {
    if findings.is_empty() {
        return cleared(DRIFTED);
    }
    let why = Failure { reason: "DRIFT".into(), message: findings.join("; "), ..Default::default() };
    condition(DRIFTED, Status::True, &why)
}

pub(crate) fn cleared(kind: &str) -> Body {
    Body::ConditionSet(journal::ConditionSet {
        condition: Some(Condition { r#type: kind.into(), ..Default::default() }),
    })
}

/// Conditions that the steps of a run found out, where they are news. What one replica fails holds for all.
fn found_out(i: &Instance, run: &Run) -> Vec<Body> {
    let said = run.nodes.iter().filter_map(|n| serde_json::from_str::<serde_json::Value>(&n.outputs).ok());
    let mut found: BTreeMap<String, (Status, Failure)> = BTreeMap::new();
    for c in said.filter_map(|o| o.get("condition").cloned()) {
        let text = |field: &str| c[field].as_str().unwrap_or_default().to_owned();
        let status = if c["holds"] == true { Status::True } else { Status::False };
        let why = Failure { reason: text("reason"), message: text("message"), ..Default::default() };
        let old = found.get(&text("type")).map(|f| f.0);
        if old != Some(Status::False) {
            found.insert(text("type"), (status, why));
        }
    }
    let known = |kind: &str, status: Status, why: &Failure| {
        let same = |c: &Condition| c.r#type == kind && c.status() == status && c.reason == why.reason;
        i.conditions.iter().any(same)
    };
    let news = found.into_iter().filter(|(kind, (status, why))| !known(kind, *status, why));
    news.map(|(kind, (status, why))| condition(&kind, status, &why)).collect()
}

fn ready() -> Body {
    condition("Ready", Status::True, &Failure { reason: "SERVING".into(), ..Default::default() })
}

fn of_node(n: &journal::Node) -> Failure {
    let mut f = n.failure.clone().unwrap_or_default();
    f.node.clone_from(&n.id);
    f
}

fn deadline(run: &Run) -> Failure {
    let open: Vec<_> = run.nodes.iter().filter(|n| n.state() != node::State::Ok).collect();
    let last = open.iter().find_map(|n| n.failure.as_ref());
    let names = open.iter().map(|n| n.id.as_str()).collect::<Vec<_>>().join(", ");
    let mut f = last.cloned().unwrap_or_else(|| failure(Class::Terminal, "DEADLINE_EXCEEDED", "", ""));
    f.message = format!("not done in time; still open: {names}. {}", f.message);
    f
}

/// A row that is not over, for errors that name what is left.
pub fn left(i: &Instance) -> Vec<&journal::LedgerRow> {
    i.ledger.iter().filter(|r| !over(r) && r.state() != ledger_row::State::Unspecified).collect()
}
