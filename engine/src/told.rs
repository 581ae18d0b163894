//! What a provider says of an effect while it works on it: written into the journal as it comes, so that it is known later too.
use crate::clock::Millis;
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};
use syp_proto::journal::{self, LedgerRow};
use tokio::sync::Notify;

/// Words that wait to be written, of one instance. A store that is slower than a provider talks does not hold up a step.
const MOST: usize = 256;
/// Letters of one message; a provider's own console has the rest.
const LONGEST: usize = 500;

/// Those of one instance that are not written yet.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    words: Mutex<VecDeque<journal::Told>>,
    pub(crate) come: Notify,
}

/// Where a step says them, of one effect.
///
/// # Guarantees
/// In the order in which they are said; before the outcome of the call in which they are said; each once, over any crash.
/// # Assumptions (of the step)
/// It says again what its provider still tells, each with the provider's id and time. Let go are: of more than 256 that wait the
/// oldest; what becomes known so late that a call after it has something newer in the journal already.
#[derive(Clone, Debug, Default)]
pub struct Told(Option<Arc<Effect>>);

#[derive(Debug)]
struct Effect {
    queue: Arc<Queue>,
    entry: u32,
    removing: bool,
    /// What is in the journal already is until then.
    until: Millis,
    /// Of that moment, and all that was said since.
    seen: Mutex<BTreeSet<String>>,
}

/// One thing that a provider has said.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
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
    pub(crate) fn take(&self) -> VecDeque<journal::Told> {
        std::mem::take(&mut *self.words.lock())
    }

    /// They could not be written.
    pub(crate) fn put_back(&self, mut taken: VecDeque<journal::Told>) {
        let mut words = self.words.lock();
        taken.append(&mut words);
        *words = taken;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.lock().is_empty()
    }
}

// === impl Told ===

impl Told {
    /// Of the effect in this row.
    pub(crate) fn of(queue: &Arc<Queue>, row: &LedgerRow, removing: bool) -> Self {
        Self(Some(Arc::new(Effect {
            queue: Arc::clone(queue),
            entry: row.ordinal,
            removing,
            until: row.told.as_ref().map_or(0, |t| t.told_ms),
            seen: Mutex::new(row.told_ids.iter().cloned().collect()),
        })))
    }

    /// Says it; what was said before, in this attempt or in one before, is not said twice.
    pub fn say(&self, w: Words<'_>) {
        let Some(e) = &self.0 else { return };
        if w.at_ms < e.until || !e.seen.lock().insert(w.id.to_owned()) {
            return;
        }
        let mut words = e.queue.words.lock();
        if words.len() == MOST {
            words.pop_front();
        }
        words.push_back(journal::Told {
            entry: e.entry,
            removing: e.removing,
            reason: w.reason.to_owned(),
            message: w.message.chars().take(LONGEST).collect(),
            told_ms: w.at_ms,
            id: w.id.to_owned(),
        });
        e.queue.come.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(t: &Told, at_ms: Millis, id: &str) {
        t.say(Words { at_ms, id, reason: "CREATE_COMPLETE", message: id });
    }

    fn taken(q: &Queue) -> Vec<String> {
        q.take().into_iter().map(|t| t.message).collect()
    }

    #[test]
    fn each_is_told_once_in_order_and_only_what_is_new() {
        let q = Arc::new(Queue::default());
        let row = LedgerRow { ordinal: 3, ..Default::default() };
        let t = Told::of(&q, &row, false);
        for (at, id) in [(5, "a"), (5, "b"), (5, "a"), (7, "c"), (6, "late")] {
            say(&t, at, id);
        }
        let all = q.take();
        assert_eq!((all[0].entry, all.len()), (3, 4));
        q.put_back(all);
        say(&t, 8, "d");
        assert_eq!(taken(&q), ["a", "b", "c", "late", "d"]);
        assert!(q.is_empty());
        // whoever goes on after a crash knows what is written
        let told = Some(journal::Told { told_ms: 7, ..Default::default() });
        let row = LedgerRow { told, told_ids: vec!["c".into()], ..row };
        let t = Told::of(&q, &row, true);
        for (at, id) in [(5, "a"), (7, "c"), (7, "with c"), (8, "d")] {
            say(&t, at, id);
        }
        assert_eq!(taken(&q), ["with c", "d"]);
        say(&Told::default(), 1, "nobody hears");
    }

    #[test]
    fn what_waits_is_bounded() {
        let q = Arc::new(Queue::default());
        let t = Told::of(&q, &LedgerRow::default(), false);
        for n in 1..=300 {
            say(&t, n, &format!("{n}é{}", "x".repeat(900)));
        }
        let all = q.take();
        assert_eq!((all.len(), all[0].told_ms, all[255].told_ms), (MOST, 45, 300));
        assert!(all.iter().all(|t| t.message.chars().count() == LONGEST));
    }
}
