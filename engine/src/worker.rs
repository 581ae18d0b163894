//! Drives one instance: commit what `decide` wants written, make the calls it wants made, wait for the first to end.
//!
//! # Guarantees
//! A call is made only after the commit that holds its intent returned. Outcomes of attempts that are no longer current are dropped.
//! The worker can be dropped at any await: everything it knows is read again from the projection.
use crate::{
    calls,
    cell::Cell,
    fault::Point,
    fold::{fold, next_ordinal, row_at},
    graph::{State, Trigger},
    inner::{Beginning, Inner},
    scheduler::{Call, Decision, decide},
    store,
};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use syp_proto::journal::{Instance, ProviderEvent, Record, StepProgress, node, record::Body};
use tokio_util::sync::CancellationToken;

/// How long a cancelled call may take to end by itself.
const CANCEL_GRACE: Duration = Duration::from_secs(5);
/// Records that one round may add to what came in; more means that `decide` and `fold` disagree.
const ROUND_LIMIT: usize = 512;

/// Times in a row that the store may know more than this process; it is the only writer, so once is a wonder.
const MOVED_LIMIT: u32 = 3;

type Ended = (Call, Vec<Body>);

/// Runs until there is nothing to do now; a timer or [`crate::engine::Engine::kick`] starts it again.
pub(crate) async fn run(e: Arc<Inner>, cell: Arc<Cell>) {
    let mut work = Work { open: HashMap::new(), calls: FuturesUnordered::new(), outcomes: Vec::new() };
    let mut moved = 0;
    loop {
        let wake_at = match work.round(&e, &cell).await {
            Ok(at) => {
                moved = 0;
                at
            }
            // somebody else's write was newer: it has been read again
            Err(store::Error::HeadMoved) if cell.blocked().is_none() && moved < MOVED_LIMIT => {
                moved += 1;
                continue;
            }
            Err(err) => {
                e.store_failed(&err);
                if !e.stop.is_cancelled() {
                    cell.block(err.to_string());
                }
                break;
            }
        };
        if work.calls.is_empty() && work.outcomes.is_empty() && cell.events.is_empty() {
            e.timer.set(cell.id, wake_at);
            cell.running.store(false, Ordering::Release);
            // somebody may have written between the round and here
            let again = {
                let d = decide(&cell.get(), e.clock.now());
                !d.records.is_empty() || !d.calls.is_empty() || d.trigger.is_some()
            };
            if e.stop.is_cancelled() || !again || !cell.take() {
                cell.rest();
                return;
            }
            continue;
        }
        work.wait(&e, &cell, wake_at).await;
    }
    cell.running.store(false, Ordering::Release);
}

struct Work {
    open: HashMap<Call, CancellationToken>,
    calls: FuturesUnordered<BoxFuture<'static, Ended>>,
    outcomes: Vec<Body>,
}

// === impl Work ===

impl Work {
    async fn round(&mut self, e: &Arc<Inner>, cell: &Arc<Cell>) -> Result<Option<i64>, store::Error> {
        let guard = cell.writer.lock().await;
        let base = cell.get();
        let mut next = Instance::clone(&base);
        let mut records = Vec::new();
        let now = e.clock.now();
        let mut push = |next: &mut Instance, body: Body| -> Result<(), store::Error> {
            let r = Record {
                seq: next.head_seq + 1,
                at_ms: now,
                epoch: e.epoch,
                actor: "engine".into(),
                body: Some(body),
            };
            fold(next, &r).map_err(|x| store::Error::Corrupt(x.to_string()))?;
            records.push(r);
            Ok(())
        };
        let events = cell.events.take();
        for body in events.iter().cloned().chain(self.outcomes.drain(..)) {
            if is_current(&next, &body) {
                let body = renumbered(&next, body);
                push(&mut next, body)?;
            }
        }
        let came = next.head_seq;
        let decision = loop {
            let d = decide(&next, now);
            if let Some(on) = d.trigger {
                // what led to it is written before it
                for body in d.records {
                    push(&mut next, body)?;
                }
                let last = next.past.last().and_then(|r| r.failure.clone());
                let cause = last.as_ref().filter(|_| on == Trigger::Drift);
                let b = Beginning { verb: verb(&next, on), cause, ..Default::default() };
                for body in e.begin(&next, on, &b) {
                    push(&mut next, body)?;
                }
                continue;
            }
            if d.records.is_empty() || next.head_seq - came > ROUND_LIMIT as u64 {
                break d;
            }
            for body in d.records {
                push(&mut next, body)?;
            }
        };
        // an update that only changes how many there are keeps what it prices by the number
        if base.run.is_some()
            && next.run.is_none()
            && next.state() == State::Serving
            && let Some(body) = e.repriced(&next)
        {
            push(&mut next, body)?;
        }
        if !records.is_empty() {
            e.faults.at(Point::BeforeCommit, "").await;
            if let Err(err) = e.write(cell, &base, next, records, None, vec![]).await {
                cell.events.put_back(events);
                return Err(err);
            }
            e.faults.at(Point::OutcomeSynced, "").await;
        }
        drop(guard);
        if cell.get().state() == State::Destroyed {
            e.forget(cell);
        }
        if !e.stop.is_cancelled() {
            self.start(e, cell, &base, &decision);
        }
        Ok(decision.wake_at)
    }

    fn start(&mut self, e: &Arc<Inner>, cell: &Arc<Cell>, base: &Instance, d: &Decision) {
        for (call, token) in &self.open {
            if !d.calls.contains(call) {
                token.cancel();
            }
        }
        for call in &d.calls {
            if self.open.contains_key(call) || self.is_held(cell, call) {
                continue;
            }
            let fresh = !is_in_doubt(base, call);
            let token = CancellationToken::new();
            self.open.insert(call.clone(), token.clone());
            let (e, cell, call) = (Arc::clone(e), Arc::clone(cell), call.clone());
            self.calls.push(Box::pin(async move {
                let what = label(&cell.get(), &call);
                e.faults.at(Point::IntentSynced, &what).await;
                let out = tokio::select! {
                    out = calls::make(&e, &cell, &call, fresh, token.clone()) => out,
                    () = async { token.cancelled().await; tokio::time::sleep(CANCEL_GRACE).await } => vec![],
                };
                (call, out)
            }));
        }
    }

    /// What a step of an earlier run is still making is not removed under its hands.
    fn is_held(&self, cell: &Cell, call: &Call) -> bool {
        let Call::Undo { entry, .. } = call else { return false };
        let i = cell.get();
        let Some(row) = row_at(&i.ledger, *entry) else { return false };
        self.open.keys().any(|c| matches!(c, Call::Apply { node, .. } if *node == row.node))
    }

    async fn wait(&mut self, e: &Inner, cell: &Cell, wake_at: Option<i64>) {
        let sleep = wake_at.map_or(60_000, |at| (at - e.clock.now()).clamp(1, 60_000));
        let sleep = tokio::time::sleep(Duration::from_millis(u64::try_from(sleep).unwrap_or(1)));
        tokio::select! {
            Some(ended) = self.calls.next() => {
                self.ended(ended);
                // what has ended in the meantime goes into the same commit
                while let Some(Some(more)) = futures_util::FutureExt::now_or_never(self.calls.next()) {
                    self.ended(more);
                }
            }
            () = cell.wake.notified() => {}
            () = cell.events.come.notified() => {}
            () = sleep => {}
        }
    }

    fn ended(&mut self, (call, out): Ended) {
        self.open.remove(&call);
        self.outcomes.extend(out);
    }
}

/// What the engine calls a run that it begins by itself.
fn verb(i: &Instance, on: Trigger) -> &'static str {
    match on {
        Trigger::Drift if i.past.last().is_some_and(|r| r.failure.is_some()) => "roll back",
        Trigger::Drift if crate::fold::drifted(i).is_some() => "repair",
        Trigger::Drift => "clean up",
        Trigger::Drain | Trigger::Delete | Trigger::BudgetExceeded => "budget",
        _ => "expired",
    }
}

/// Whose outcome it is still waited for (I10).
fn is_current(i: &Instance, body: &Body) -> bool {
    let run = |no: u32| i.run.as_ref().filter(|r| r.no == no);
    match body {
        Body::StepOutcome(o) => run(o.run).is_some_and(|r| {
            r.nodes
                .iter()
                .any(|n| n.id == o.node && n.attempt == o.attempt && n.state() == node::State::Intent)
        }),
        Body::UndoOutcome(o) => {
            row_at(&i.ledger, o.entry).is_some_and(|r| r.undo_open && r.undo_attempt == o.attempt)
        }
        Body::ProviderEvent(ProviderEvent { entry, .. }) | Body::StepProgress(StepProgress { entry, .. }) => {
            row_at(&i.ledger, *entry).is_some_and(|r| !crate::fold::over(r))
        }
        Body::Listed(l) => run(l.run).is_some(),
        Body::Used(u) => u.from_ms >= i.used_until_ms,
        Body::Adopted(a) => {
            a.found.is_some() || row_at(&i.ledger, a.entry).is_some_and(|r| !crate::fold::over(r))
        }
        _ => true,
    }
}

/// Rows found by a listing get the next free numbers, whatever was there when the listing was made.
fn renumbered(i: &Instance, mut body: Body) -> Body {
    if let Body::Adopted(a) = &mut body
        && a.found.is_some()
    {
        a.entry = next_ordinal(&i.ledger);
    }
    body
}

/// May the effect be there already? From an intent of an earlier process, an attempt that failed, or an earlier run: a listing
/// that lags may not show yet what a run before this one has made.
fn is_in_doubt(base: &Instance, call: &Call) -> bool {
    let Call::Apply { run, node, attempt } = call else { return false };
    let open = base.run.as_ref().is_some_and(|r| {
        r.no == *run
            && r.nodes
                .iter()
                .any(|n| n.id == *node && n.attempt == *attempt && n.state() == node::State::Intent)
    });
    open || base.ledger.iter().any(|r| r.node == *node && !crate::fold::over(r))
}

fn label(i: &Instance, call: &Call) -> String {
    match call {
        Call::Apply { node, .. } => node.clone(),
        Call::Undo { entry, .. } => {
            format!("undo {}", row_at(&i.ledger, *entry).map_or("", |r| r.node.as_str()))
        }
        Call::List { .. } => "list".into(),
        Call::Push { .. } => "push".into(),
    }
}
