//! Projections as the API shows them.
use crate::{
    cell::Cell,
    clock::{Millis, duration, timestamp},
    cost,
    fold::over,
    id::OperationId,
    ops, scaling,
    store::Store,
};
use prost::Name;
use prost_types::Any;
use syp_proto::{
    google::{
        longrunning::{Operation, operation},
        rpc,
    },
    journal::{self, Failure, Instance, Run, RunKind, node},
    v1::{
        self, WaitingOn,
        instance_spec::DesiredState,
        operation_metadata::{Step, StepState},
    },
};

/// Full name: `projects/{project}/instances/{name}`.
pub fn full_name(i: &Instance) -> String {
    format!("projects/{}/instances/{}", i.project, i.name)
}

fn operation_name(i: &Instance, run: u32) -> String {
    format!("operations/{}-{run}", i.uid)
}

/// A live instance and its projection of now.
pub fn instance(cell: &Cell, i: &Instance, now: Millis) -> v1::Instance {
    let mut out = of_projection(i, now);
    out.waiting_on = waiting_on(i, &cell.waiting);
    if let Some(why) = cell.blocked() {
        out.conditions.push(v1::Condition {
            r#type: "Corrupt".into(),
            status: v1::condition::Status::True as i32,
            reason: "STORE_CORRUPT".into(),
            message: why.to_owned(),
            last_transition_time: None,
        });
    }
    out
}

/// An instance from its projection alone.
pub fn of_projection(i: &Instance, now: Millis) -> v1::Instance {
    let mut spec = i.spec.clone().unwrap_or_default();
    let facts: serde_json::Value = serde_json::from_str(&i.facts).unwrap_or_default();
    spec.set_desired_state(desired(i));
    v1::Instance {
        name: full_name(i),
        uid: i.uid.clone(),
        display_name: i.name.clone(),
        labels: i.labels.clone(),
        spec: Some(spec),
        state: i.state,
        reconciling: i.run.is_some(),
        conditions: i.conditions.clone(),
        waiting_on: vec![],
        endpoint: i.endpoint.clone(),
        endpoint_ca: i.endpoint_ca.clone(),
        active_revision: i.revision.clone(),
        cost: Some(cost::summary(i, now)),
        current_operation: i.run.as_ref().map_or_else(String::new, |r| operation_name(i, r.no)),
        last_operation: if i.runs == 0 { String::new() } else { operation_name(i, i.runs) },
        generation: i.generation,
        observed_generation: i.observed_generation,
        etag: ops::etag(i),
        create_time: timestamp(i.create_ms),
        update_time: timestamp(i.update_ms),
        destroy_time: timestamp(i.destroy_ms),
        expire_time: timestamp(i.expire_ms),
        creator: i.creator.clone(),
        allowed_transitions: ops::allowed(i).into_iter().map(|s| s as i32).collect(),
        image_digest: facts.get("digest").and_then(|d| d.as_str()).unwrap_or_default().into(),
        replicas_ready: replicas_ready(i),
    }
}

/// From what is recorded: lists must not ask every gate. `GetMetrics` asks the gate itself.
fn replicas_ready(i: &Instance) -> i32 {
    let ready = i.conditions.iter().any(|c| c.r#type == "Ready" && c.status() == v1::condition::Status::True);
    let facts = serde_json::from_str(&i.facts).unwrap_or_default();
    let there = i.spec.as_ref().map_or(1, |s| scaling::now(s, &facts));
    if ready { i32::try_from(there).unwrap_or(0) } else { 0 }
}

fn desired(i: &Instance) -> DesiredState {
    match (i.state(), i.run.as_ref().map(Run::kind)) {
        (_, Some(RunKind::Teardown)) | (v1::instance::State::Destroyed, _) => DesiredState::DesiredDestroyed,
        (v1::instance::State::Draining, _) => DesiredState::DesiredDraining,
        _ => DesiredState::DesiredServing,
    }
}

/// Why it is not done.
pub fn waiting_on(i: &Instance, live: &crate::step::Waiting) -> Vec<WaitingOn> {
    let mut out = Vec::new();
    let said = live.all();
    for n in i.run.iter().flat_map(|r| &r.nodes) {
        let why = n.failure.clone().unwrap_or_default();
        match n.state() {
            node::State::Retry => {
                out.push(of_failure(&n.id, &n.id, &why, n.end_ms, n.retry_at_ms, n.attempt))
            }
            node::State::Intent => {
                let w = said.get(&n.id);
                out.push(WaitingOn {
                    step: n.id.clone(),
                    resource: n.id.clone(),
                    reason: w.map_or_else(|| "RUNNING".into(), |w| w.reason.clone()),
                    message: w.map_or_else(|| "being done".into(), |w| w.message.clone()),
                    hint: w.map_or_else(String::new, |w| w.hint.clone()),
                    since: timestamp(w.map_or(n.start_ms, |w| w.since)),
                    attempt: i32::try_from(n.attempt).unwrap_or(i32::MAX),
                    ..Default::default()
                });
            }
            _ => {}
        }
    }
    out.extend(i.run.as_ref().filter(|r| r.paused_ms != 0).map(|r| paused(i, r)));
    let Some(run) = i.run.as_ref().filter(|r| r.kind() == RunKind::Teardown) else { return out };
    for r in i.ledger.iter().filter(|r| !over(r) && (r.undo_open || r.retry_at_ms != 0)) {
        let said = r.last_event.as_ref().filter(|e| e.removing);
        let said = said.map_or_else(String::new, |e| format!(": {} {}", e.message, e.reason));
        let why = r.failure.clone().unwrap_or_else(|| Failure {
            reason: "REMOVING".into(),
            message: format!("removing {}{said}", r.key),
            ..Default::default()
        });
        out.push(of_failure(
            &format!("undo {}", r.node),
            &r.key,
            &why,
            r.attempt_ms,
            r.retry_at_ms,
            r.undo_attempt,
        ));
    }
    if let Some(f) = &run.failure {
        out.push(of_failure("list", "provider", f, run.created_ms, run.next_listing_ms, run.listing_attempt));
    } else if i.ledger.iter().all(over) {
        let why = Failure {
            reason: "LISTING".into(),
            message: "looking at the provider whether anything is left".into(),
            ..Default::default()
        };
        out.push(of_failure("list", "provider", &why, run.created_ms, run.next_listing_ms, 0));
    }
    out
}

/// At the first step that would be next.
fn paused(i: &Instance, run: &Run) -> WaitingOn {
    let next = run.nodes.iter().find(|n| n.state() == node::State::Waiting);
    let why = Failure {
        reason: "PAUSED".into(),
        message: format!("paused; revision {} serves", i.revision),
        hint: format!(
            "'sypctl op resume {0}' goes on, 'sypctl op cancel {0}' takes back what was made",
            i.name
        ),
        ..Default::default()
    };
    let step = next.map_or("", |n| n.id.as_str());
    of_failure(step, step, &why, run.paused_ms, 0, 0)
}

fn of_failure(
    step: &str,
    resource: &str,
    f: &Failure,
    since: Millis,
    next: Millis,
    attempt: u32,
) -> WaitingOn {
    WaitingOn {
        step: step.into(),
        resource: resource.into(),
        reason: f.reason.clone(),
        message: f.message.clone(),
        since: timestamp(since),
        next_attempt_time: timestamp(next),
        attempt: i32::try_from(attempt).unwrap_or(i32::MAX),
        hint: f.hint.clone(),
        ..Default::default()
    }
}

/// Metadata of a run.
pub fn metadata(i: &Instance, run: &Run, live: Option<&crate::step::Waiting>) -> v1::OperationMetadata {
    let waiting = live.filter(|_| run.ended_ms == 0).map_or_else(Vec::new, |w| waiting_on(i, w));
    let mut steps: Vec<Step> = run.nodes.iter().map(|n| step(n, &waiting)).collect();
    if run.kind() == RunKind::Teardown {
        let of_this_run = i.ledger.iter().filter(|r| r.gone_ms == 0 || r.gone_ms >= run.created_ms);
        steps.extend(of_this_run.map(|r| undo_step(r, run, &waiting)));
        let list = if run.ended_ms != 0 { StepState::Succeeded } else { StepState::Queued };
        let w = waiting.iter().find(|w| w.step == "list").cloned();
        steps.push(Step {
            id: "list".into(),
            state: if w.is_some() { StepState::Running } else { list } as i32,
            waiting_on: w,
            ..Default::default()
        });
    }
    v1::OperationMetadata {
        target: full_name(i),
        verb: run.verb.clone(),
        actor: run.actor.clone(),
        request_id: run.request_id.clone(),
        create_time: timestamp(run.created_ms),
        end_time: timestamp(run.ended_ms),
        steps,
        cancel_requested: run.cancel_requested,
        preempted_by: run.preempted_by.clone(),
        resumed_count: 0,
        fence_epoch: i64::try_from(run.epoch).unwrap_or(i64::MAX),
        from_state: name_of(run.from_state),
        to_state: name_of(i.state),
    }
}

fn name_of(state: i32) -> String {
    v1::instance::State::try_from(state).map_or_else(|_| String::new(), |s| s.as_str_name().into())
}

fn step(n: &journal::Node, waiting: &[WaitingOn]) -> Step {
    let state = match n.state() {
        node::State::Waiting => StepState::Queued,
        node::State::Intent => StepState::Running,
        node::State::Ok => StepState::Succeeded,
        node::State::Retry => StepState::Waiting,
        node::State::Terminal => StepState::Failed,
    };
    Step {
        id: n.id.clone(),
        state: state as i32,
        attempt: i32::try_from(n.attempt).unwrap_or(i32::MAX),
        start_time: timestamp(n.first_ms),
        end_time: timestamp(n.end_ms),
        waiting_on: waiting.iter().find(|w| w.step == n.id).cloned(),
        last_error: n.failure.as_ref().map(status),
    }
}

fn undo_step(r: &journal::LedgerRow, run: &Run, waiting: &[WaitingOn]) -> Step {
    let id = format!("undo {}", r.node);
    let state = match (over(r), r.undo_open, r.undo_attempt) {
        (true, ..) => StepState::Compensated,
        (_, true, _) => StepState::Running,
        (_, _, 0) => StepState::Queued,
        _ => StepState::Waiting,
    };
    Step {
        state: state as i32,
        attempt: i32::try_from(r.undo_attempt).unwrap_or(i32::MAX),
        start_time: timestamp(if r.undo_attempt == 0 { 0 } else { r.attempt_ms.max(run.created_ms) }),
        end_time: timestamp(r.gone_ms),
        waiting_on: waiting.iter().find(|w| w.step == id).cloned(),
        last_error: r.failure.as_ref().map(status),
        id,
    }
}

/// A failure as `google.rpc.Status` with its reason.
pub fn status(f: &Failure) -> rpc::Status {
    let info = rpc::ErrorInfo {
        reason: f.reason.clone(),
        domain: "syp.dev".into(),
        metadata: [("hint".to_owned(), f.hint.clone()), ("step".to_owned(), f.node.clone())]
            .into_iter()
            .filter(|(_, v)| !v.is_empty())
            .collect(),
    };
    rpc::Status {
        code: tonic::Code::FailedPrecondition as i32,
        message: f.message.clone(),
        details: vec![any(&info)],
    }
}

/// Packs a message.
pub fn any<M: prost::Message + Name>(m: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: m.encode_to_vec() }
}

/// An operation; `None` when that run is no longer kept.
pub fn operation(
    i: &Instance,
    no: u32,
    live: Option<&crate::step::Waiting>,
    now: Millis,
) -> Option<Operation> {
    let run = i.run.iter().chain(&i.past).find(|r| r.no == no)?;
    let done = run.ended_ms != 0;
    let result = done.then(|| match (&run.failure, run.cancelled) {
        (Some(f), _) => operation::Result::Error(status(f)),
        (None, true) => operation::Result::Error(rpc::Status {
            code: tonic::Code::Cancelled as i32,
            message: if run.preempted_by.is_empty() {
                "cancelled".into()
            } else {
                format!("ended by '{}'", run.preempted_by)
            },
            details: vec![],
        }),
        (None, false) => operation::Result::Response(any(&of_projection(i, now))),
    });
    Some(Operation {
        name: operation_name(i, no),
        metadata: Some(any(&metadata(i, run, live))),
        done,
        result,
    })
}

/// Name of an operation.
pub fn operation_id(i: &Instance, no: u32) -> Option<OperationId> {
    Some(OperationId { instance: crate::id::InstanceId::parse(&i.uid)?, run: no })
}

/// The edges of the graph, each once: several triggers may take the same way.
fn edges() -> Vec<v1::state_graph::Edge> {
    let mut seen = std::collections::BTreeSet::new();
    let pairs = crate::graph::TABLE.iter().map(|e| (e.from as i32, e.to as i32));
    pairs
        .filter(|e| seen.insert(*e))
        .map(|(from, to)| v1::state_graph::Edge { from, to, min_role: v1::Role::Operator as i32 })
        .collect()
}

/// The state graph with the steps of the newest run.
pub fn graph(i: &Instance) -> v1::StateGraph {
    let run = i.run.as_ref().or_else(|| i.past.last());
    let plan = run.and_then(|r| r.plan.as_ref());
    let steps = plan.into_iter().flat_map(|p| &p.nodes).map(|d| {
        let n = run.and_then(|r| r.nodes.iter().find(|n| n.id == d.id));
        v1::state_graph::StepNode {
            id: d.id.clone(),
            depends_on: d.after.clone(),
            state: n.map_or(0, |n| step(n, &[]).state),
            took: n.filter(|n| n.end_ms != 0).map(|n| duration((n.end_ms - n.first_ms).max(0))),
            kind: d.kind.clone(),
        }
    });
    v1::StateGraph { edges: edges(), steps: steps.collect(), current: i.state }
}

/// Has the store more than the projection keeps? (the API then reads it)
pub async fn load_any(
    store: &dyn Store,
    id: crate::id::InstanceId,
) -> Result<Option<Instance>, crate::error::Error> {
    match store.load(id).await? {
        Some(l) => l.instance.map(Some).map_err(crate::error::Error::Corrupt),
        None => Ok(None),
    }
}
