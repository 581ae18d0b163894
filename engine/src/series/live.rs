//! What is in memory of an instance that is looked at: its head, the points that are not on disk yet, the newest figures.
use super::{EVERY_MS, Head, Point, tier::floor};
use crate::{clock::Millis, id::InstanceId, step::Stats};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use syp_proto::google::r#type::Money;

/// Points that wait for the disk; beyond this the oldest become one.
const WAITING: usize = 360;
/// A point that is older than this says nothing about now.
const FRESH_MS: Millis = 3 * EVERY_MS;
/// A clock that went back further than this is believed.
const BACK_MS: Millis = 60_000;

/// The instances that are looked at.
#[derive(Debug, Default)]
pub struct Series {
    lives: Mutex<HashMap<InstanceId, Arc<Mutex<Live>>>>,
}

/// One of them.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Its project.
    pub project: String,
    /// Its name.
    pub name: String,
    /// Cost while it serves, per hour.
    pub hourly: Option<Money>,
    /// Where the next difference begins.
    pub head: Head,
    /// Not on disk yet, in order, none before [`Head::written`].
    pub points: Vec<Point>,
    /// The newest look, when somebody answered.
    pub newest: Option<Newest>,
    /// When points were last brought to disk.
    pub flushed: Millis,
    /// When its provider was last asked what it has used.
    pub use_asked: Millis,
    /// When it was last looked whether conditions hold by now.
    pub mended: Millis,
}

/// What the newest look saw.
#[derive(Clone, Debug)]
pub struct Newest {
    /// When.
    pub now: Millis,
    /// What came since the look before.
    pub point: Point,
}

// === impl Series ===

impl Series {
    /// One that is looked at.
    pub fn get(&self, id: InstanceId) -> Option<Arc<Mutex<Live>>> {
        self.lives.lock().get(&id).cloned()
    }

    /// All that are looked at.
    pub fn all(&self) -> Vec<(InstanceId, Arc<Mutex<Live>>)> {
        self.lives.lock().iter().map(|(id, l)| (*id, Arc::clone(l))).collect()
    }

    pub(super) fn put(&self, id: InstanceId, live: Live) -> Arc<Mutex<Live>> {
        let live = Arc::new(Mutex::new(live));
        self.lives.lock().insert(id, Arc::clone(&live));
        live
    }

    pub(super) fn remove(&self, id: InstanceId) -> Option<Arc<Mutex<Live>>> {
        self.lives.lock().remove(&id)
    }
}

// === impl Live ===

impl Live {
    /// Takes in what was seen at `now`.
    pub fn see(&mut self, s: &Stats, now: Millis) {
        let at = self.place(now);
        let Some(p) = self.head.take(s, now, at) else { return };
        self.newest = Some(Newest { now, point: p.clone() });
        match self.points.last_mut().filter(|last| last.at == at) {
            Some(last) => last.merge(&p),
            None => self.points.push(p),
        }
        if self.points.len() > WAITING {
            // a store that does not take them: when it was is lost before what it was
            let oldest = self.points.remove(0);
            let next = &mut self.points[0];
            next.early_ms = next.early_ms.max(next.at - oldest.at + oldest.early_ms);
            next.merge(&oldest);
        }
    }

    /// The interval of a look: the one that most of the time since the last look lies in, and none that is on disk already.
    fn place(&mut self, now: Millis) -> Millis {
        let at = floor(now - EVERY_MS / 2, EVERY_MS);
        let h = &mut self.head;
        if h.written == 0 || h.written - at > BACK_MS && self.points.is_empty() {
            h.written = at;
            h.minutes = floor(at, super::Tier::Minutes.chunk_ms());
            h.hours = floor(at, super::Tier::Hours.step_ms());
        }
        at.max(h.written).max(self.points.last().map_or(0, |p| p.at))
    }

    /// Is something on disk that is over before `until` and not added up yet?
    pub fn is_behind(&self, until: Millis) -> bool {
        self.head.minutes > 0 && self.head.minutes < until.min(self.head.written)
    }

    /// The newest point, if it says something about now.
    pub fn fresh(&self, now: Millis) -> Option<&Newest> {
        self.newest.as_ref().filter(|n| (now - n.now).abs() <= FRESH_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_auth::door::GateMetrics;

    fn seen(live: &mut Live, now: Millis, ok: u64) {
        let mut g = GateMetrics { started_at_ms: 1_000_000, ..Default::default() };
        g.requests_by_class[2] = ok;
        live.see(&Stats { gate: Some(g), ..Default::default() }, now);
    }

    #[test]
    fn a_look_at_the_end_of_an_interval_is_a_point_of_that_interval() {
        let mut l = Live::default();
        for (now, ok) in [(1_010_003, 3), (1_020_001, 5), (1_029_999, 9), (1_034_000, 10)] {
            seen(&mut l, now, ok);
        }
        let got: Vec<_> = l.points.iter().map(|p| (p.at, p.counters.requests(), p.is_spanning())).collect();
        assert_eq!(got, [(1_000_000, 3, false), (1_010_000, 2, false), (1_020_000, 5, false)]);
        assert_eq!(l.fresh(1_050_000).unwrap().point.counters.requests(), 1);
        assert!(l.fresh(1_070_000).is_none(), "long ago is not now");
    }

    #[test]
    fn nothing_is_put_where_the_disk_has_a_point_already() {
        let mut l = Live { head: Head { written: 1_030_000, ..Default::default() }, ..Default::default() };
        seen(&mut l, 1_012_000, 4);
        assert_eq!(l.points[0].at, 1_030_000);
        // a clock that was set back by a day
        let mut l = Live { head: Head { written: 87_400_000, ..Default::default() }, ..Default::default() };
        seen(&mut l, 1_012_000, 4);
        assert_eq!((l.points[0].at, l.head.written, l.head.minutes), (1_000_000, 1_000_000, 900_000));
    }

    #[test]
    fn a_store_that_takes_nothing_costs_bounded_memory_and_no_request() {
        let mut l = Live::default();
        for n in 0..1_000_u64 {
            seen(&mut l, 1_010_000 + Millis::try_from(n).unwrap() * 10_000, n * 3);
        }
        assert_eq!(l.points.len(), WAITING);
        let sum: u64 = l.points.iter().map(|p| p.counters.requests()).sum();
        assert_eq!(sum, 999 * 3);
        assert!(l.points[0].is_spanning() && !l.points[1].is_spanning());
        assert_eq!(l.points[0].at - l.points[0].early_ms, 1_000_000);
    }
}
