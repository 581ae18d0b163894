//! Which instances changed, in order, for watchers: state is sent, not deltas, so a slow watcher misses nothing that still matters.
use crate::id::InstanceId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use tokio::sync::watch;

/// Instances whose last change is remembered; older ones make a watcher start again from a snapshot.
const KEPT: usize = 20_000;

/// Numbers of last changes.
#[derive(Debug)]
pub struct Changes {
    inner: Mutex<Inner>,
    tick: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    oldest: u64,
    by_number: BTreeMap<u64, InstanceId>,
    by_id: HashMap<InstanceId, u64>,
}

// === impl Changes ===

impl Default for Changes {
    fn default() -> Self {
        Self { inner: Mutex::default(), tick: watch::Sender::new(0) }
    }
}

impl Changes {
    /// Notes a change.
    pub fn note(&self, id: InstanceId) {
        let n = {
            let mut i = self.inner.lock();
            i.last += 1;
            let n = i.last;
            if let Some(old) = i.by_id.insert(id, n) {
                i.by_number.remove(&old);
            }
            i.by_number.insert(n, id);
            if i.by_number.len() > KEPT
                && let Some((k, v)) = i.by_number.pop_first()
            {
                i.by_id.remove(&v);
                i.oldest = k;
            }
            n
        };
        self.tick.send_replace(n);
    }

    /// The number of the newest change.
    pub fn last(&self) -> u64 {
        self.inner.lock().last
    }

    /// What changed after `n`, oldest first; `None` when that is no longer known.
    pub fn after(&self, n: u64) -> Option<Vec<(u64, InstanceId)>> {
        let i = self.inner.lock();
        (n >= i.oldest).then(|| i.by_number.range(n + 1..).map(|(k, v)| (*k, *v)).collect())
    }

    /// Wakes at every change.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.tick.subscribe()
    }
}
