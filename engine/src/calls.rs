//! Making the calls of a decision and turning what came back into records.
use crate::{
    cell::Cell,
    events::Recorder,
    failure::{Class, backoff_ms, failure},
    fault::Point,
    fold::{next_ordinal, over, row_at},
    graph::State,
    id::InstanceId,
    inner::Inner,
    plan::InDoubt,
    revision,
    scheduler::{Call, settle_ms},
    step::{DynStep, Observed, Of, Owner, StepCx, Waiting},
    targets::Placed,
    used,
    vault::Secrets,
};
use futures_util::FutureExt;
use rand::Rng;
use serde_json::Value;
use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use syp_auth::door::{GateConfig, Mode};
use syp_proto::journal::{
    self, Failure, Instance, LedgerRow, PlanNode, Revision, RunKind, StepOutcome, UndoOutcome, node,
    record::Body, step_outcome, undo_outcome,
};
use tokio::sync::SemaphorePermit;
use tokio_util::sync::CancellationToken;

/// A call that does not end by itself is given up after this, if its plan does not say otherwise.
const DEFAULT_TIMEOUT_MS: i64 = 60_000;

/// Makes one call. The records say how it ended; none when it must be asked again.
pub(crate) async fn make(
    e: &Inner,
    cell: &Cell,
    call: &Call,
    fresh: bool,
    cancel: CancellationToken,
) -> Vec<Body> {
    let i = cell.get();
    let placed = e.placed(&i).ok();
    let _place = match &placed {
        Some(p) => place(e, p, cell, call).await,
        // a target that this build does not know needs none: nobody is called
        None => None,
    };
    match call {
        Call::Apply { run, node, attempt } => {
            let (mut out, result) = apply(e, cell, &i, node, fresh, cancel).await;
            cell.waiting.clear(node);
            e.faults.at(Point::Answered, node).await;
            out.push(Body::StepOutcome(outcome(e, &i, *run, node, *attempt, result)));
            out
        }
        Call::Undo { entry, attempt } => undo(e, cell, &i, *entry, *attempt).await,
        Call::List { run, .. } => list(e, &i, cell.id, *run).await,
        Call::Push { generation, attempt } => {
            let cx = context(e, cell, &i, "gate", Value::Null, cancel);
            let result = match e.target(&i) {
                Ok(t) => limit(5_000, t.push_gate(&cx)).await,
                Err(f) => Err(f),
            };
            let failure = result.err();
            let wait = backoff_ms(*attempt + 1, Class::Transient, rand::rng().random::<f64>()).min(1_500);
            let retry_at_ms = if failure.is_some() { e.clock.now() + wait } else { 0 };
            vec![Body::GatePushed(journal::GatePushed { generation: *generation, failure, retry_at_ms })]
        }
    }
}

/// One of the target's places, for as long as the call takes.
async fn place<'a>(e: &Inner, placed: &'a Placed, cell: &Cell, call: &Call) -> Option<SemaphorePermit<'a>> {
    let places = &placed.places;
    if let Ok(place) = places.try_acquire() {
        return Some(place);
    }
    if let Call::Apply { node, .. } = call {
        let words = "as many calls as its provider is given at once are under way";
        cell.waiting.on(node, "QUEUED", words, "it goes on by itself", e.clock.now());
    }
    places.acquire().await.ok()
}

pub(crate) async fn limit<T>(ms: i64, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let ms = u64::try_from(if ms <= 0 { DEFAULT_TIMEOUT_MS } else { ms }).unwrap_or(60_000);
    let caught = AssertUnwindSafe(call).catch_unwind();
    match tokio::time::timeout(Duration::from_millis(ms), caught).await {
        Ok(Ok(result)) => result,
        // where is in the engine's log; the instance goes on as after any failure
        Ok(Err(_)) => Err(failure(
            Class::Terminal,
            "INTERNAL",
            "the step failed in a way that nobody thought of",
            "this is a bug: please report it with the engine's log",
        )),
        Err(_) => Err(failure(
            Class::Timeout,
            "STEP_TIMEOUT",
            format!("no answer within {} s", ms / 1000),
            "the engine looks again by itself",
        )),
    }
}

type Applied = Result<crate::step::Done, Failure>;

async fn apply(
    e: &Inner,
    cell: &Cell,
    i: &Instance,
    node: &str,
    fresh: bool,
    cancel: CancellationToken,
) -> (Vec<Body>, Applied) {
    let mut out = Vec::new();
    let result = async {
        let def = definition(i, node)?;
        let step = e.step(i, &def.kind)?;
        let params = serde_json::from_str(&def.params).unwrap_or(Value::Null);
        let row = i.ledger.iter().rfind(|r| r.node == node && !over(r));
        let events = row.map_or_else(Recorder::default, |r| Recorder::of(&cell.events, r, false));
        let cx = StepCx { events, ..context(e, cell, i, node, params, cancel) };
        let policy = def.policy.unwrap_or_default();
        let key = def.effect.as_ref().map_or("", |f| f.key.as_str());
        if !fresh && def.effect.is_some() {
            resolve_doubt(i, &*step, &cx, key, &policy, &mut out).await?;
        }
        let done = limit(policy.attempt_timeout_ms, step.apply(&cx, key)).await;
        e.faults.at(Point::Called, node).await;
        match done {
            // the words of a failure are written down, and an app may have printed what it was given
            Err(f) if !cx.spec.secrets.is_empty() => Err(cx.secrets.redacted(f, &cx.spec.secrets).await),
            done => done,
        }
    }
    .await;
    (out, result)
}

/// An intent whose end nobody saw: find out before doing it again.
async fn resolve_doubt(
    i: &Instance,
    step: &dyn DynStep,
    cx: &StepCx,
    key: &str,
    policy: &journal::Policy,
    out: &mut Vec<Body>,
) -> Result<(), Failure> {
    let mut seen = limit(policy.attempt_timeout_ms, step.observe(cx, key)).await?;
    if seen == Observed::Absent && policy.in_doubt() == InDoubt::Lookup {
        // no key that the provider would recognise: a create from before may still land
        tokio::time::sleep(Duration::from_millis(u64::try_from(policy.settle_ms).unwrap_or(0))).await;
        seen = limit(policy.attempt_timeout_ms, step.observe(cx, key)).await?;
    }
    match seen {
        Observed::Absent => Ok(()),
        Observed::Busy => Err(failure(
            Class::Conflict,
            "PROVIDER_BUSY",
            format!("{key} is being changed"),
            "the engine looks again",
        )),
        Observed::Present { ours: false, .. } => Err(name_conflict(key)),
        Observed::Present { handle, .. } | Observed::Changed { handle, .. } => {
            if let Some(row) = i.ledger.iter().rfind(|r| r.node == cx.node && !over(r)) {
                out.push(Body::Adopted(journal::Adopted { entry: row.ordinal, handle, found: None }));
            }
            Ok(())
        }
    }
}

/// Something with our name that does not carry our labels.
pub fn name_conflict(key: &str) -> Failure {
    failure(
        Class::Terminal,
        "NAME_CONFLICT",
        format!("{key} exists and is not ours; it was not touched"),
        "remove or rename it, then try again",
    )
}

fn outcome(e: &Inner, i: &Instance, run: u32, node: &str, attempt: u32, result: Applied) -> StepOutcome {
    let mut o = StepOutcome { run, node: node.into(), attempt, ..Default::default() };
    let f = match result {
        Ok(done) => {
            o.set_result(step_outcome::Result::Ok);
            o.handle = done.handle;
            o.outputs = if done.outputs.is_null() { String::new() } else { done.outputs.to_string() };
            return o;
        }
        Err(f) => f,
    };
    let class = Class::parse(&f.class);
    let max = definition(i, node).ok().and_then(|d| d.policy).map_or(5, |p| p.max_attempts.max(1));
    let over = gives_up(class, &f.reason, attempt, max);
    o.set_result(if over { step_outcome::Result::Terminal } else { step_outcome::Result::Retry });
    if !over {
        o.retry_at_ms = e.clock.now() + backoff_ms(attempt, class, rand::rng().random::<f64>());
    }
    o.failure = Some(f);
    o
}

/// Is it over after this attempt? Waiting for somebody else, for a login too, uses up no attempt: the run's deadline ends it. Pure.
fn gives_up(class: Class, reason: &str, attempt: u32, max: u32) -> bool {
    let waits = class == Class::Throttled || class == Class::Transient && reason == "CREDENTIALS";
    class == Class::Terminal || attempt >= max && !waits
}

async fn undo(e: &Inner, cell: &Cell, i: &Instance, entry: u32, attempt: u32) -> Vec<Body> {
    let Some(row) = row_at(&i.ledger, entry) else { return vec![] };
    let what = format!("undo {}", row.node);
    let result = async {
        let step = e.step(i, &row.kind)?;
        let events = Recorder::of(&cell.events, row, true);
        limit(row.undo_timeout_ms, step.destroy(&owner(e, i, revision::number(i)), row, &events)).await
    }
    .await;
    e.faults.at(Point::Called, &what).await;
    e.faults.at(Point::Answered, &what).await;
    let mut o = UndoOutcome { entry, attempt, ..Default::default() };
    match result {
        Ok(true) => o.set_result(undo_outcome::Result::Gone),
        Ok(false) => o.set_result(undo_outcome::Result::AlreadyAbsent),
        Err(f) => {
            // a teardown never gives up, whatever the class
            o.set_result(undo_outcome::Result::Retry);
            o.retry_at_ms =
                e.clock.now() + backoff_ms(attempt, Class::parse(&f.class), rand::rng().random::<f64>());
            o.failure = Some(f);
        }
    }
    vec![Body::UndoOutcome(o)]
}

async fn list(e: &Inner, i: &Instance, id: InstanceId, run: u32) -> Vec<Body> {
    let result = match e.target(i) {
        Ok(t) => limit(30_000, t.list(e.store.store_id(), Some(Of { uid: id, ledger: &i.ledger }))).await,
        Err(f) => Err(f),
    };
    e.faults.at(Point::Swept, "list").await;
    let now = e.clock.now();
    let mut listed = journal::Listed { run, method: "listing by label".into(), ..Default::default() };
    let mut out = Vec::new();
    match result {
        Err(f) => {
            let attempt = i.run.as_ref().map_or(1, |r| r.listing_attempt + 1);
            listed.retry_at_ms =
                now + backoff_ms(attempt, Class::parse(&f.class), rand::rng().random::<f64>());
            listed.failure = Some(f);
        }
        Ok(found) => {
            let kept =
                |handle: &str| i.ledger.iter().any(|r| r.handle == handle && !r.retained_reason.is_empty());
            let known = |key: &str| i.ledger.iter().any(|r| r.key == key && !over(r));
            listed.found = found.into_iter().filter(|f| !kept(&f.handle) && !known(&f.key)).collect();
            listed.retry_at_ms = now + settle_ms(i);
            for (n, f) in listed.found.iter().enumerate() {
                let entry = next_ordinal(&i.ledger) + u32::try_from(n).unwrap_or(0);
                out.push(Body::Adopted(journal::Adopted {
                    entry,
                    handle: f.handle.clone(),
                    found: Some(f.clone()),
                }));
            }
        }
    }
    let clean = listed.failure.is_none() && listed.found.is_empty() && i.ledger.iter().all(over);
    out.insert(0, Body::Listed(listed));
    if clean {
        // before it is over: what it used last is in the receipt's total
        out.splice(0..0, used::last(e, i).await);
    }
    out
}

fn definition(i: &Instance, node: &str) -> Result<PlanNode, Failure> {
    let plan = i.run.as_ref().and_then(|r| r.plan.as_ref());
    plan.and_then(|p| p.nodes.iter().find(|n| n.id == node)).cloned().ok_or_else(|| {
        failure(
            Class::Terminal,
            "STORE_CORRUPT",
            format!("step {node} is not in the plan"),
            "run 'sypctl fsck'",
        )
    })
}

/// Whose effects they are.
pub(crate) fn owner(e: &Inner, i: &Instance, number: u32) -> Owner {
    Owner {
        store: e.store.store_id().clone(),
        uid: InstanceId::parse(&i.uid).unwrap_or_else(|| InstanceId::from_bytes([0; 16])),
        name: i.name.clone(),
        revision: revision::name(&i.name, number),
    }
}

/// The revision that a node makes: the wanted one in an update, else the one that serves.
fn made_by<'a>(i: &'a Instance, node: &str) -> Option<&'a Revision> {
    let run = i.run.as_ref().filter(|r| r.kind() == RunKind::Update)?;
    run.nodes.iter().find(|n| n.id == node)?;
    i.wanted.as_ref()
}

/// How long what is in flight may take to end, in ms.
pub(crate) fn grace_ms(spec: Option<&syp_proto::v1::InstanceSpec>) -> i64 {
    spec.and_then(|s| s.drain_grace.as_ref()).map_or(10_000, crate::clock::duration_millis)
}

/// Everything a step may use, from the journal alone.
pub(crate) fn context(
    e: &Inner,
    cell: &Cell,
    i: &Instance,
    node: &str,
    params: Value,
    cancel: CancellationToken,
) -> StepCx {
    StepCx { waiting: cell.waiting.clone(), cancel, ..planned(e, i, node, params) }
}

/// The same for a plan: nobody hears what it waits for.
pub(crate) fn planned(e: &Inner, i: &Instance, node: &str, params: Value) -> StepCx {
    let grace = i.run.as_ref().and_then(|r| r.grace_ms).unwrap_or_else(|| grace_ms(i.spec.as_ref()));
    let mut spec = i.spec.clone().unwrap_or_default();
    let (mut facts, mut number) = (&i.facts, revision::number(i));
    if let Some(new) = made_by(i, node) {
        spec = revision::merged(&spec, &new.spec.clone().unwrap_or_default());
        (facts, number) = (&new.facts, new.no);
    }
    let owner = owner(e, i, number);
    StepCx {
        secrets: Secrets::new(Arc::clone(&e.vault), Arc::clone(&e.store), owner.uid, &i.project),
        owner,
        spec: Arc::new(spec),
        run: i.run.as_ref().map_or(i.runs, |r| r.no),
        node: node.into(),
        params,
        facts: serde_json::from_str(facts).unwrap_or(Value::Null),
        outputs: Arc::new(outputs(i, |r| !over(r))),
        gate: gate_config(e, i, grace),
        cancel: CancellationToken::new(),
        waiting: Waiting::default(),
        events: Recorder::default(),
        routes: serde_json::from_str(&i.routes).unwrap_or(Value::Null),
        live: Arc::new(i.ledger.iter().filter(|r| !over(r)).map(|r| r.node.clone()).collect()),
        grace: Duration::from_millis(u64::try_from(grace).unwrap_or(0)),
    }
}

/// What steps have given, of these rows and of the open run.
pub(crate) fn outputs(i: &Instance, of: impl Fn(&LedgerRow) -> bool) -> BTreeMap<String, Value> {
    let json = |s: &str| serde_json::from_str(s).ok();
    let has = |r: &&LedgerRow| of(r) && !r.outputs.is_empty();
    let mut out: BTreeMap<_, _> =
        i.ledger.iter().filter(has).filter_map(|r| Some((r.node.clone(), json(&r.outputs)?))).collect();
    let done = i.run.iter().flat_map(|r| &r.nodes).filter(|n| n.state() == node::State::Ok);
    out.extend(done.filter_map(|n| Some((n.id.clone(), json(&n.outputs)?))));
    out
}

fn gate_config(e: &Inner, i: &Instance, grace_ms: i64) -> GateConfig {
    let mode = if i.state() == State::Draining { Mode::Drain } else { Mode::Serve };
    e.door.config(i, mode, u64::try_from(grace_ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_login_or_for_room_is_not_given_up() {
        let over = |class, reason, attempt| gives_up(class, reason, attempt, 12);
        assert!(over(Class::Terminal, "CREDENTIALS", 1));
        assert!(over(Class::Transient, "PROVIDER_UNREACHABLE", 12));
        assert!(!over(Class::Transient, "PROVIDER_UNREACHABLE", 11));
        assert!(!over(Class::Transient, "CREDENTIALS", 500));
        assert!(!over(Class::Throttled, "PROVIDER_THROTTLED", 500));
    }
}
