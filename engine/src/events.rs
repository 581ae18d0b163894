//! Events: what a provider says of an effect while it works on it. Written into the journal as they come, so that they are known later too.
use crate::clock::Millis;
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};
use syp_proto::journal::{LedgerRow, ProviderEvent};
use tokio::sync::Notify;

/// Events that wait to be written, of one instance. A store that is slower than a provider talks does not hold up a step.
const MOST: usize = 256;
/// Letters of one message; a provider's own console has the rest.
const LONGEST: usize = 500;

/// Those of one instance that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    events: Mutex<VecDeque<ProviderEvent>>,
    pub(crate) come: Notify,
}

/// Takes those of one effect from its step.
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
    pub(crate) fn take(&self) -> VecDeque<ProviderEvent> {
        std::mem::take(&mut *self.events.lock())
    }

    /// They could not be written.
    pub(crate) fn put_back(&self, mut taken: VecDeque<ProviderEvent>) {
        let mut events = self.events.lock();
        taken.append(&mut events);
        *events = taken;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.lock().is_empty()
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
        })))
    }

    /// Takes it; one that was recorded before, in this attempt or in one before, is not recorded twice.
    pub fn record(&self, event: Event<'_>) {
        let Some(of) = &self.0 else { return };
        if event.at_ms < of.until || !of.seen.lock().insert(event.id.to_owned()) {
            return;
        }
        let mut events = of.queue.events.lock();
        if events.len() == MOST {
            events.pop_front();
        }
        events.push_back(ProviderEvent {
            entry: of.entry,
            removing: of.removing,
            reason: event.reason.to_owned(),
            message: event.message.chars().take(LONGEST).collect(),
            event_ms: event.at_ms,
            id: event.id.to_owned(),
        });
        of.queue.come.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(r: &Recorder, at_ms: Millis, id: &str) {
        r.record(Event { at_ms, id, reason: "CREATE_COMPLETE", message: id });
    }

    fn taken(q: &Queue) -> Vec<String> {
        q.take().into_iter().map(|e| e.message).collect()
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
        assert_eq!((all[0].entry, all.len()), (3, 4));
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
        let all = q.take();
        assert_eq!((all.len(), all[0].event_ms, all[255].event_ms), (MOST, 45, 300));
        assert!(all.iter().all(|e| e.message.chars().count() == LONGEST));
    }
}
