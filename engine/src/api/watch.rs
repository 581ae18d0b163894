//! Streams: snapshot first, then what changed, with resume tokens and a heartbeat every 20 s (proxies cut idle streams).
//!
//! State is sent, not deltas: a slow reader gets the newest state later, nothing is buffered for it.
use super::{Api, authz::Authz, page::Filter};
use crate::{
    clock::timestamp,
    error::Error,
    graph::State,
    id::{InstanceId, OperationId},
    used, view,
};
use futures_util::{StreamExt, stream::BoxStream};
use prost_types::Timestamp;
use std::{collections::HashMap, sync::Arc, time::Duration};
use syp_auth::policy::Role;
use syp_proto::{
    journal::{self, Record, record::Body},
    v1::{self, operation_event, watch_instances_response as wi},
};
use tonic::Status;

/// What handlers return.
pub type Stream<T> = BoxStream<'static, Result<T, Status>>;

pub(super) const HEARTBEAT: Duration = Duration::from_secs(20);
/// What steps say they wait for changes without a record.
const LOOK: Duration = Duration::from_millis(500);
/// Changes of one moment go out together.
const GATHER: Duration = Duration::from_millis(20);

/// Why a stream looks again.
pub(super) enum Woke {
    News,
    Beat,
}

/// Waits for news; every `beat` without any is a reason to look too.
pub(super) async fn woken(
    news: &mut tokio::sync::watch::Receiver<u64>,
    beat: Duration,
) -> Result<Woke, Status> {
    tokio::select! {
        changed = news.changed() => changed.map(|()| Woke::News).map_err(|_| Status::unavailable("the engine stops")),
        () = tokio::time::sleep(beat) => Ok(Woke::Beat),
    }
}

/// Steps of an operation as they change, then its end.
pub(super) fn operation(api: Api, op: OperationId) -> Stream<v1::OperationEvent> {
    Box::pin(async_stream::try_stream! {
        let mut news = api.engine.changes().subscribe();
        let mut sent: HashMap<String, v1::operation_metadata::Step> = HashMap::new();
        let mut first = true;
        let mut last_sent = tokio::time::Instant::now();
        loop {
            let cell = api.engine.cell(op.instance);
            let (i, waiting) = match &cell {
                Some(c) => (c.get(), Some(&c.waiting)),
                None => {
                    let i = view::load_any(&**api.engine.store(), op.instance).await.map_err(Status::from)?;
                    (std::sync::Arc::new(i.ok_or_else(|| Status::from(Error::NotFound(op.to_string())))?), None)
                }
            };
            let token = i.head_seq.to_string();
            let run = i.run.iter().chain(&i.past).find(|r| r.no == op.run);
            let run = run.ok_or_else(|| Status::from(Error::NotFound(op.to_string())))?;
            let meta = view::metadata(&i, run, waiting);
            let event = |e| v1::OperationEvent { resume_token: token.clone(), event: Some(e) };
            if first {
                first = false;
                sent.extend(meta.steps.iter().map(|s| (s.id.clone(), s.clone())));
                last_sent = tokio::time::Instant::now();
                yield event(operation_event::Event::Snapshot(meta.clone()));
            } else {
                for s in &meta.steps {
                    if sent.get(&s.id) != Some(s) {
                        sent.insert(s.id.clone(), s.clone());
                        last_sent = tokio::time::Instant::now();
                        yield event(operation_event::Event::Step(s.clone()));
                    }
                }
            }
            // nobody works on it any more: waiting would be for ever
            if let Some(why) = cell.as_ref().and_then(|c| c.blocked()) {
                Err(Status::from(Error::Corrupt(why.to_owned())))?;
            }
            if run.ended_ms != 0 {
                let now = api.engine.clock().now();
                if let Some(o) = view::operation(&i, op.run, None, now) {
                    yield event(operation_event::Event::Done(o));
                }
                return;
            }
            if last_sent.elapsed() >= HEARTBEAT {
                last_sent = tokio::time::Instant::now();
                yield event(operation_event::Event::Heartbeat(timestamp(api.engine.clock().now()).unwrap_or_default()));
            }
            woken(&mut news, LOOK).await?;
        }
    })
}

/// Instances: a snapshot, a bookmark, then every change.
pub(super) fn instances(
    api: Api,
    a: Authz,
    r: v1::WatchInstancesRequest,
) -> Result<Stream<v1::WatchInstancesResponse>, Status> {
    let project = super::validate::parent(&r.parent)?.to_owned();
    let filter = Filter::parse(&r.filter)?;
    let boot = api.engine.store().boot_epoch();
    // a token of another boot can't be continued: the snapshot says everything
    let resume = r
        .resume_token
        .split_once('-')
        .and_then(|(b, n)| (b.parse() == Ok(boot)).then(|| n.parse::<u64>().ok())?);
    let lost = if r.resume_token.is_empty() {
        None
    } else if resume.is_none() {
        Some("the engine was started again")
    } else {
        // what no longer fits the filter has to be told, and nobody remembers what did
        (!r.filter.is_empty()).then_some("what has left the filter is not known")
    };
    let resume = resume.filter(|_| lost.is_none());
    Ok(Box::pin(async_stream::try_stream! {
        let mut news = api.engine.changes().subscribe();
        let token = |n: u64| format!("{boot}-{n}");
        let send = |n: u64, e: wi::Event| v1::WatchInstancesResponse { resume_token: token(n), event: Some(e) };
        let mut last = resume.unwrap_or(0);
        let mut known: HashMap<InstanceId, ()> = HashMap::new();
        let mut snapshot = resume.is_none();
        if let Some(reason) = lost {
            yield send(0, wi::Event::Resync(wi::Resync { reason: reason.into() }));
        }
        loop {
            let now = api.engine.clock().now();
            let wanted = |i: &syp_proto::journal::Instance| {
                (project == "-" || i.project == project) && a.role_on(i).is_some_and(|r| r >= Role::Viewer)
            };
            let shown = |c: &crate::cell::Cell| {
                let i = c.get();
                wanted(&i).then(|| view::instance(c, &i, now))
            };
            if snapshot {
                snapshot = false;
                last = api.engine.changes().last();
                for c in api.engine.cells() {
                    if let Some(v) = shown(&c).filter(|v| filter.matches(v)) {
                        known.insert(c.id, ());
                        yield send(last, wi::Event::Added(super::mask::keep(v, r.read_mask.as_ref())?));
                    }
                }
                yield send(last, wi::Event::Bookmark(wi::Bookmark { snapshot_complete: true }));
            }
            match api.engine.changes().after(last) {
                None => {
                    snapshot = true;
                    yield send(last, wi::Event::Resync(wi::Resync { reason: "too far behind".into() }));
                    continue;
                }
                Some(changed) => for (n, id) in changed {
                    last = n;
                    let v = match api.engine.cell(id) {
                        Some(c) => shown(&c),
                        None => view::load_any(&**api.engine.store(), id).await.ok().flatten()
                            .filter(|i| wanted(i))
                            .map(|i| view::of_projection(&i, now)),
                    };
                    let Some(v) = v.filter(|v| filter.matches(v) || known.contains_key(&id)) else { continue };
                    let gone = v.state() == State::Destroyed;
                    let new = known.insert(id, ()).is_none() && resume.is_none();
                    if gone {
                        known.remove(&id);
                    }
                    let v = super::mask::keep(v, r.read_mask.as_ref())?;
                    yield send(n, if new { wi::Event::Added(v) } else { wi::Event::Modified(v) });
                },
            }
            match woken(&mut news, HEARTBEAT).await? {
                Woke::News => tokio::time::sleep(GATHER).await,
                Woke::Beat => yield send(last, wi::Event::Heartbeat(heartbeat(&api))),
            }
        }
    }))
}

/// Lines as they come, and a heartbeat where none does.
pub(super) fn with_heartbeats(
    mut lines: BoxStream<'static, Result<v1::LogEntry, Status>>,
    api: Api,
) -> Stream<v1::LogEntry> {
    Box::pin(async_stream::try_stream! {
        loop {
            match tokio::time::timeout(HEARTBEAT, lines.next()).await {
                Ok(None) => return,
                Ok(Some(line)) => yield line?,
                Err(_) => yield v1::LogEntry {
                    time: Some(heartbeat(&api)),
                    heartbeat: true,
                    ..Default::default()
                },
            }
        }
    })
}

fn heartbeat(api: &Api) -> Timestamp {
    timestamp(api.engine.clock().now()).unwrap_or_default()
}

/// The journal of an instance in words, from a number on; ends with the instance.
pub(super) fn events(
    api: Api,
    i: Arc<journal::Instance>,
    id: InstanceId,
    after: u64,
) -> Stream<v1::WatchInstanceEventsResponse> {
    use v1::watch_instance_events_response::Event;
    Box::pin(async_stream::try_stream! {
        let mut news = api.engine.changes().subscribe();
        // names of its resources: once it is gone nobody else has them
        let (mut after, mut held) = (after, i);
        loop {
            loop {
                let batch = api.engine.store().events(id, after, 500).await.map_err(Error::from).map_err(Status::from)?;
                let Some(last) = batch.last() else { break };
                after = last.seq;
                held = api.engine.cell(id).map_or(held, |c| c.get());
                for r in &batch {
                    yield v1::WatchInstanceEventsResponse {
                        resume_token: r.seq.to_string(),
                        event: Some(Event::Item(in_words(id, Some(&held), r))),
                    };
                }
            }
            if api.engine.cell(id).is_none() {
                return;
            }
            if let Woke::Beat = woken(&mut news, HEARTBEAT).await? {
                yield v1::WatchInstanceEventsResponse {
                    resume_token: after.to_string(),
                    event: Some(Event::Heartbeat(heartbeat(&api))),
                };
            }
        }
    })
}

/// A record for people; the instance has the names of its resources.
pub(super) fn in_words(id: InstanceId, now: Option<&journal::Instance>, r: &Record) -> v1::InstanceEvent {
    let resource = |entry: u32| {
        let row = now.and_then(|i| i.ledger.iter().find(|x| x.ordinal == entry));
        row.map_or_else(|| format!("resource {entry}"), |x| x.node.clone())
    };
    let state = |s: i32| State::try_from(s).map_or("?", |s| s.as_str_name());
    let fail = |f: &Option<journal::Failure>| f.clone().unwrap_or_default();
    let (kind, step, reason, message, run) = match r.body.as_ref() {
        Some(Body::Created(c)) => {
            ("created", String::new(), String::new(), format!("created by {}", c.creator), 0)
        }
        Some(Body::RunCreated(c)) => {
            let f = fail(&c.cause);
            ("run_created", String::new(), f.reason, format!("{} begins", c.verb), c.run)
        }
        Some(Body::StepIntent(s)) => {
            ("step_intent", s.node.clone(), String::new(), format!("attempt {}", s.attempt), s.run)
        }
        Some(Body::StepProgress(p)) => {
            ("step_progress", resource(p.entry), String::new(), p.handle.clone(), 0)
        }
        Some(Body::ProviderEvent(e)) => {
            ("provider_event", resource(e.entry), e.reason.clone(), e.message.clone(), 0)
        }
        Some(Body::StepOutcome(o)) => {
            let f = fail(&o.failure);
            let word = if o.failure.is_none() { "done".to_owned() } else { f.message };
            ("step_outcome", o.node.clone(), f.reason, word, o.run)
        }
        Some(Body::UndoIntent(u)) => {
            ("undo_intent", resource(u.entry), String::new(), format!("attempt {}", u.attempt), 0)
        }
        Some(Body::UndoOutcome(u)) => {
            let f = fail(&u.failure);
            let word = match u.result() {
                journal::undo_outcome::Result::Gone => "gone".to_owned(),
                journal::undo_outcome::Result::AlreadyAbsent => "was not there".to_owned(),
                _ => f.message,
            };
            ("undo_outcome", resource(u.entry), f.reason, word, 0)
        }
        Some(Body::Adopted(a)) => {
            ("adopted", resource(a.entry), String::new(), format!("found {}", a.handle), 0)
        }
        Some(Body::Listed(l)) => {
            let f = fail(&l.failure);
            let word = if l.failure.is_some() { f.message } else { format!("{} found", l.found.len()) };
            ("listed", "list".into(), f.reason, word, l.run)
        }
        Some(Body::Transition(t)) => (
            "transition",
            String::new(),
            t.trigger.clone(),
            format!("{} -> {}", state(t.from), state(t.to)),
            0,
        ),
        Some(Body::CancelRequested(c)) => {
            ("cancel_requested", String::new(), String::new(), "cancel was asked for".into(), c.run)
        }
        Some(Body::Paused(p)) => {
            let word = if p.on { "nothing more is begun" } else { "goes on" };
            ("paused", String::new(), "PAUSED".into(), word.into(), p.run)
        }
        Some(Body::RunEnded(e)) => {
            let f = fail(&e.failure);
            let word = match (&e.failure, e.cancelled, e.preempted_by.as_str()) {
                (Some(_), ..) => f.message,
                (None, true, "") => "cancelled".into(),
                (None, true, by) => format!("ended by '{by}'"),
                _ => "succeeded".into(),
            };
            ("run_ended", f.node, f.reason, word, e.run)
        }
        Some(Body::ConditionSet(c)) => {
            let c = c.condition.clone().unwrap_or_default();
            let word = if c.status == 0 {
                "cleared".to_owned()
            } else {
                format!("{} {}", c.status().as_str_name(), c.message)
            };
            ("condition", c.r#type, c.reason, word, 0)
        }
        Some(Body::Edited(_)) => ("edited", String::new(), String::new(), "changed".into(), 0),
        Some(Body::TokenChanged(t)) => {
            let word = match &t.created {
                Some(new) => format!("token {} for {} is made", new.id, new.display_name),
                None => format!("token {} is revoked", t.revoked),
            };
            ("token", String::new(), String::new(), word, 0)
        }
        Some(Body::Revised(x)) => {
            let new = x.revision.clone().unwrap_or_default();
            let image = new.spec.map_or_else(String::new, |s| s.image);
            ("revised", String::new(), String::new(), format!("revision {} is wanted: {image}", new.no), 0)
        }
        Some(Body::BudgetReached(b)) => {
            let what = format!("{} % of the budget: {}", b.percent, b.action().as_str_name().to_lowercase());
            ("budget_reached", String::new(), "BUDGET_EXCEEDED".into(), what, 0)
        }
        Some(Body::ClockJumped(j)) => {
            let by = Duration::from_millis((j.to_ms - j.from_ms).unsigned_abs());
            let word = if j.to_ms > j.from_ms { "forward" } else { "back" };
            (
                "clock_jumped",
                String::new(),
                "CLOCK_JUMPED".into(),
                format!("the host's clock went {word} by {by:?}"),
                0,
            )
        }
        Some(Body::Restored(_)) => {
            ("restored", String::new(), String::new(), "the store came back from a backup".into(), 0)
        }
        Some(Body::Repriced(p)) => {
            let facts: serde_json::Value = serde_json::from_str(&p.facts).unwrap_or_default();
            let n = facts[crate::scaling::REPLICAS].as_u64();
            let word = n.map_or_else(|| "other prices".into(), |n| format!("priced for {n} replicas"));
            ("repriced", String::new(), String::new(), word, 0)
        }
        Some(Body::Used(u)) => {
            let one = |x: &journal::Use| format!("{} {} of {}", used::quantity(x), x.unit, x.kind);
            let until = timestamp(u.until_ms).map_or_else(String::new, |t| t.to_string());
            let all: Vec<_> = u.uses.iter().map(one).collect();
            ("used", String::new(), String::new(), format!("until {until}: {}", all.join(", ")), 0)
        }
        Some(Body::Drift(d)) => ("drift", String::new(), "DRIFT".into(), d.findings.join("; "), 0),
        Some(Body::GatePushed(p)) => {
            let f = fail(&p.failure);
            let word =
                if p.failure.is_some() { f.message } else { format!("gate has generation {}", p.generation) };
            ("gate_pushed", "gate".into(), f.reason, word, 0)
        }
        Some(Body::Retained(k)) => {
            ("retained", resource(k.entry), "RESIDUAL_RESOURCES".into(), k.reason.clone(), 0)
        }
        None => ("unknown", String::new(), String::new(), String::new(), 0),
    };
    // it may have happened while nobody listened
    let at_ms = if let Some(Body::ProviderEvent(e)) = &r.body { e.event_ms } else { r.at_ms };
    v1::InstanceEvent {
        seq: i64::try_from(r.seq).unwrap_or(i64::MAX),
        time: timestamp(at_ms),
        r#type: kind.into(),
        actor: r.actor.clone(),
        step,
        reason,
        message,
        operation: if run == 0 { String::new() } else { OperationId { instance: id, run }.to_string() },
    }
}
