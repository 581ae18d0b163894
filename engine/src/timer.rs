//! One sleeping task for all parked instances.
use crate::{
    clock::{Clock, Millis},
    id::InstanceId,
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};
use tokio::sync::Notify;

/// When to wake whom; one time per instance.
#[derive(Debug, Default)]
pub struct Timer {
    inner: Mutex<Times>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Times {
    in_order: BTreeSet<(Millis, InstanceId)>,
    of: HashMap<InstanceId, Millis>,
}

// === impl Timer ===

impl Timer {
    /// Sets or (with `None`) clears the time of an instance.
    pub fn set(&self, id: InstanceId, at: Option<Millis>) {
        let mut i = self.inner.lock();
        if let Some(old) = i.of.remove(&id) {
            i.in_order.remove(&(old, id));
        }
        let Some(at) = at else { return };
        let first = i.in_order.first().is_none_or(|f| at < f.0);
        i.in_order.insert((at, id));
        i.of.insert(id, at);
        drop(i);
        if first {
            self.changed.notify_one();
        }
    }

    /// Waits for the next one that is due. Long sleeps are cut to a minute, so that a clock that jumps only delays a timer.
    pub async fn next(&self, clock: &Clock) -> InstanceId {
        loop {
            let first = self.inner.lock().in_order.first().copied();
            let wait = first.map_or(60_000, |(at, _)| (at - clock.now()).min(60_000));
            if let Some((_, id)) = first.filter(|_| wait <= 0) {
                self.set(id, None);
                return id;
            }
            let sleep = tokio::time::sleep(Duration::from_millis(u64::try_from(wait).unwrap_or(0)));
            tokio::select! {
                () = sleep => {}
                () = self.changed.notified() => {}
            }
        }
    }
}
