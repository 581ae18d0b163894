//! What is learnt of an effect before its step has ended: its handle, and what its provider says of it. Written into the journal as it
//! comes, so that it is known later too.
use crate::clock::Millis;
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};
use syp_proto::journal::{LedgerRow, ProviderEvent, StepProgress, record::Body};
use tokio::sync::Notify;

/// Events that wait to be written, of one instance. A store that is slower than a provider talks does not hold up a step.
const MOST: usize = 256;
/// Letters of one message; a provider's own console has the rest.
const LONGEST: usize = 500;

/// Those of one instance that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    records: Mutex<VecDeque<Body>>,
    pub(crate) come: Notify,
}

/// Takes what is learnt of one effect from its step.
///
/// # Guarantees
/// They are written in the order in which they are recorded; before the outcome of the call in which they are recorded; each once, over any crash.
/// # Assumptions (of the step)
/// It records again what its provider still tells, each with the provider's id and time. Let go are: of more than 256 that wait the
/// oldest; what becomes known so late that a call after it has something newer in the journal already.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Option<Arc<Effect>>);

#[derive(Debug)]
struct Effect {
    queue: Arc<Queue>,
    entry: u32,
    removing: bool,
    /// What is in the journal already is until then.
    until: Millis,
    /// Of that moment, and all that was recorded since.
    seen: Mutex<BTreeSet<String>>,
    /// The newest.
    handle: Mutex<String>,
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// When, by the provider's clock.
    pub at_ms: Millis,
    /// The provider's id of it.
    pub id: &'a str,
    /// UPPER_SNAKE, the provider's.
    pub reason: &'a str,
    /// About what, and why.
    pub message: &'a str,
}

// === impl Queue ===

impl Queue {
    /// All of them.
    pub(crate) fn take(&self) -> VecDeque<Body> {
        std::mem::take(&mut *self.records.lock())
    }

    /// They could not be written.
    pub(crate) fn put_back(&self, mut taken: VecDeque<Body>) {
        let mut records = self.records.lock();
        taken.append(&mut records);
        *records = taken;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.lock().is_empty()
    }

    fn push(&self, body: Body) {
        let mut records = self.records.lock();
        if records.len() >= MOST {
            // never a handle: what is at the provider must be found again
            let oldest = records.iter().position(|b| matches!(b, Body::ProviderEvent(_)));
            records.remove(oldest.unwrap_or(0));
        }
        records.push_back(body);
        self.come.notify_one();
    }
}

// === impl Recorder ===

impl Recorder {
    /// Of the effect in this row.
    pub(crate) fn of(queue: &Arc<Queue>, row: &LedgerRow, removing: bool) -> Self {
        Self(Some(Arc::new(Effect {
            queue: Arc::clone(queue),
            entry: row.ordinal,
            removing,
            until: row.last_event.as_ref().map_or(0, |e| e.event_ms),
            seen: Mutex::new(row.last_event_ids.iter().cloned().collect()),
            handle: Mutex::new(row.handle.clone()),
        })))
    }

    /// Takes it; one that was recorded before, in this attempt or in one before, is not recorded twice.
    pub fn record(&self, event: Event<'_>) {
        let Some(of) = &self.0 else { return };
        if event.at_ms < of.until || !of.seen.lock().insert(event.id.to_owned()) {
            return;
        }
        of.queue.push(Body::ProviderEvent(ProviderEvent {
            entry: of.entry,
            removing: of.removing,
            reason: event.reason.to_owned(),
            message: event.message.chars().take(LONGEST).collect(),
            event_ms: event.at_ms,
            id: event.id.to_owned(),
        }));
    }

    /// Takes the effect's handle, which the step's outcome will have too: a teardown knows it then if there never is one.
    pub fn handle(&self, handle: &str) {
        let Some(of) = &self.0 else { return };
        let mut known = of.handle.lock();
        if *known != handle {
            handle.clone_into(&mut known);
            let handle = handle.to_owned();
            of.queue.push(Body::StepProgress(StepProgress { entry: of.entry, handle }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(r: &Recorder, at_ms: Millis, id: &str) {
        r.record(Event { at_ms, id, reason: "CREATE_COMPLETE", message: id });
    }

    fn taken(q: &Queue) -> Vec<String> {
        q.take().into_iter().map(said).collect()
    }

    fn said(body: Body) -> String {
        match body {
            Body::ProviderEvent(e) => e.message,
            Body::StepProgress(p) => format!("handle {} of {}", p.handle, p.entry),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_is_taken_once_in_order_and_only_what_is_new() {
        let q = Arc::new(Queue::default());
        let row = LedgerRow { ordinal: 3, ..Default::default() };
        let r = Recorder::of(&q, &row, false);
        for (at, id) in [(5, "a"), (5, "b"), (5, "a"), (7, "c"), (6, "late")] {
            record(&r, at, id);
        }
        let all = q.take();
        assert!(matches!(&all[0], Body::ProviderEvent(ProviderEvent { entry: 3, .. })) && all.len() == 4);
        q.put_back(all);
        record(&r, 8, "d");
        assert_eq!(taken(&q), ["a", "b", "c", "late", "d"]);
        assert!(q.is_empty());
        // whoever goes on after a crash knows what is written
        let last_event = Some(ProviderEvent { event_ms: 7, ..Default::default() });
        let row = LedgerRow { last_event, last_event_ids: vec!["c".into()], ..row };
        let r = Recorder::of(&q, &row, true);
        for (at, id) in [(5, "a"), (7, "c"), (7, "with c"), (8, "d")] {
            record(&r, at, id);
        }
        assert_eq!(taken(&q), ["with c", "d"]);
        record(&Recorder::default(), 1, "nobody hears");
    }

    #[test]
    fn what_waits_is_bounded() {
        let q = Arc::new(Queue::default());
        let r = Recorder::of(&q, &LedgerRow::default(), false);
        for n in 1..=300 {
            record(&r, n, &format!("{n}é{}", "x".repeat(900)));
        }
        let all: Vec<_> = q.take().into_iter().map(said).collect();
        assert!(all.len() == MOST && all[0].starts_with("45é") && all[255].starts_with("300é"), "{all:?}");
        assert!(all.iter().all(|m| m.chars().count() == LONGEST));
    }

    #[test]
    fn a_handle_is_taken_when_it_is_new_and_never_given_up_for_events() {
        let q = Arc::new(Queue::default());
        let row = LedgerRow { ordinal: 3, handle: "old".into(), ..Default::default() };
        let r = Recorder::of(&q, &row, false);
        for handle in ["old", "new", "new"] {
            r.handle(handle);
        }
        for n in 1..=300 {
            record(&r, n, &n.to_string());
        }
        let all = taken(&q);
        assert_eq!((all.len(), &*all[0], &*all[1]), (MOST, "handle new of 3", "46"));
    }
}
