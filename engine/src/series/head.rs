//! From counters that only grow to differences: where the last one ended, and what the next one is.
use super::{Counters, EVERY_MS, Point};
use crate::{clock::Millis, energy::Meter, step::Stats};
use std::collections::BTreeMap;

/// Replicas that are remembered when they do not answer: revisions come and go.
const MOST: usize = 256;

/// What was last seen of an instance, and how far its points have come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// When the gate's counters were last read; 0: never.
    pub gate_ms: Millis,
    /// Which gate: when its counters began.
    pub gate_started_ms: u64,
    /// Its counters then.
    pub gate: Counters,
    /// What the gates before it had counted when they were last read.
    pub carried: Counters,
    /// By replica: when it began, and the processor time it had used, in microseconds.
    pub replicas: BTreeMap<String, (Millis, u64)>,
    /// When the replicas were last looked at; 0: never.
    pub cpu_ms: Millis,
    /// Processor time in all, in microseconds.
    pub cpu_us: u64,
    /// Replicas that began anew.
    pub restarts: u64,
    /// What it has drawn, where that is known.
    pub energy: Meter,
    /// Points before this are on disk.
    pub written: Millis,
    /// Those before this are also there by minutes.
    pub minutes: Millis,
    /// Those before this are also there by hours.
    pub hours: Millis,
}

// === impl Head ===

impl Head {
    /// What came since the last look, as a point of the interval at `at`; `None` when nobody answered.
    pub fn take(&mut self, s: &Stats, now: Millis, at: Millis) -> Option<Point> {
        let mut p = Point { at, ..Default::default() };
        if let Some(g) = &s.gate {
            let counters = Counters::of(g);
            let from = if self.gate_ms != 0
                && g.started_at_ms == self.gate_started_ms
                && !counters.went_back(&self.gate)
            {
                p.counters = counters.since(&self.gate);
                self.gate_ms
            } else {
                // another gate: all that it has counted is news. What the one before counted after it was last read is lost
                p.counters = counters.clone();
                self.carried.add(&std::mem::take(&mut self.gate));
                let began = Millis::try_from(g.started_at_ms).ok().filter(|ms| *ms > 0);
                began.unwrap_or(now - EVERY_MS).max(self.gate_ms)
            };
            p.counted_ms = u64::try_from((now - from).max(1)).unwrap_or(1);
            let early = at - from;
            p.early_ms = if early > EVERY_MS { early } else { 0 };
            p.gate_samples = 1;
            (p.in_flight_sum, p.in_flight_max) = (g.in_flight, g.in_flight);
            let ready = s.status.as_ref().map(|s| s.upstreams.iter().filter(|u| u.ready).count());
            p.ready_min = ready.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            (self.gate_ms, self.gate_started_ms, self.gate) = (now, g.started_at_ms, counters);
        }
        if !s.replicas.is_empty() {
            for r in &s.replicas {
                let (grown, anew) = match self.replicas.get(&r.id) {
                    Some((began, cpu)) if *began == r.started_ms && r.cpu_us >= *cpu => {
                        (r.cpu_us - cpu, false)
                    }
                    Some(_) => (r.cpu_us, true),
                    // one that began since the last look has used all its time since then; of others nobody knows when
                    None if self.cpu_ms != 0 && r.started_ms > self.cpu_ms => (r.cpu_us, false),
                    None => (0, false),
                };
                p.cpu_us += grown;
                p.restarts += u32::from(anew);
                p.memory_sum = p.memory_sum.saturating_add(r.memory_bytes);
                self.replicas.insert(r.id.clone(), (r.started_ms, r.cpu_us));
            }
            if self.replicas.len() > MOST {
                self.replicas.retain(|id, _| s.replicas.iter().any(|r| r.id == *id));
            }
            p.memory_max = p.memory_sum;
            p.replica_samples = 1;
            if self.cpu_ms != 0 {
                p.cpu_ms = u64::try_from((now - self.cpu_ms).max(1)).unwrap_or(1);
            }
            if let Some(power) = &s.power {
                self.energy.take(power, s.replicas.len(), p.cpu_us, now);
            }
            self.cpu_ms = now;
            self.cpu_us = self.cpu_us.saturating_add(p.cpu_us);
            self.restarts = self.restarts.saturating_add(u64::from(p.restarts));
        }
        (p.gate_samples + p.replica_samples > 0).then_some(p)
    }

    /// All that was ever counted: it grows over new gates and new engines.
    pub fn total(&self) -> Counters {
        let mut all = self.carried.clone();
        all.add(&self.gate);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::ReplicaStats;
    use syp_auth::door::GateMetrics;

    #[test]
    fn a_joule_is_counted_once_over_a_crash() {
        use crate::{
            energy::{Model, Power, Reading},
            series::{head_of, to_head},
        };
        let model = Model {
            watts_per_core: 10.into(),
            idle_watts: 4.into(),
            reserved: rust_decimal::Decimal::new(5, 1),
            per_kwh: 1.into(),
            ..Default::default()
        };
        let stats = |cpu_us| Stats {
            replicas: vec![ReplicaStats { id: "app-0".into(), started_ms: 5, cpu_us, memory_bytes: 0 }],
            power: Some(Power { reading: Reading::default(), models: vec![(0, model.clone())] }),
            ..Default::default()
        };
        let at = |h: &mut Head, ms: Millis, cpu_us| h.take(&stats(cpu_us), ms, 0);
        let (mut one, mut other) = (Head::default(), Head::default());
        for h in [&mut one, &mut other] {
            at(h, 10_000, 100);
            at(h, 20_000, 2_000_100);
        }
        let on_disk = to_head(&other);
        for h in [&mut one, &mut other] {
            at(h, 30_000, 3_000_100);
        }
        // one lives on, the other was killed with that look in memory alone
        let mut other = head_of(&on_disk);
        at(&mut one, 40_000, 5_000_100);
        at(&mut other, 40_000, 5_000_100);
        assert_eq!(one.energy, other.energy);
        // 5 s of a core at 10 W, and 30 s of half of 4 W
        assert_eq!(one.energy.modelled_uj, rust_decimal::Decimal::from(50_000_000 + 60_000_000));
    }

    fn gate(started: u64, ok: u64) -> Stats {
        let mut g = GateMetrics { started_at_ms: started, ..Default::default() };
        g.requests_by_class[2] = ok;
        (0..ok).for_each(|n| g.latency.record(1_000 + n));
        Stats { gate: Some(g), ..Default::default() }
    }

    fn replicas(all: &[(&str, Millis, u64)]) -> Stats {
        let one = |(id, started_ms, cpu_us): &(&str, Millis, u64)| ReplicaStats {
            id: (*id).to_owned(),
            started_ms: *started_ms,
            cpu_us: *cpu_us,
            memory_bytes: 100,
        };
        Stats { replicas: all.iter().map(one).collect(), ..Default::default() }
    }

    #[test]
    fn counters_become_differences_and_a_replaced_gate_counts_from_nothing() {
        let mut h = Head::default();
        let first = h.take(&gate(100_000, 5), 101_000, 100_000).unwrap();
        assert_eq!((first.counters.requests(), first.counted_ms), (5, 1_000));
        let next = h.take(&gate(100_000, 12), 111_000, 110_000).unwrap();
        assert_eq!((next.counters.requests(), next.counted_ms, next.early_ms), (7, 10_000, 0));
        assert_eq!(next.counters.latency.count, 7);
        // another gate, which has counted more already than the one before
        let anew = h.take(&gate(113_000, 40), 121_000, 120_000).unwrap();
        assert_eq!((anew.counters.requests(), anew.counted_ms), (40, 8_000));
        // one that does not say that it is another
        let back = h.take(&gate(113_000, 3), 131_000, 130_000).unwrap();
        assert_eq!((back.counters.requests(), h.total().requests()), (3, 55));
        assert_eq!(h.total().latency.count, 55);
    }

    #[test]
    fn what_was_counted_while_nobody_looked_is_in_one_point_that_says_so() {
        let mut h = Head::default();
        h.take(&gate(1_000, 5), 1_500, 1_000).unwrap();
        assert_eq!(h.take(&Stats::default(), 10_000, 10_000), None, "a gap");
        let p = h.take(&gate(1_000, 6_005), 601_500, 600_000).unwrap();
        assert_eq!((p.counters.requests(), p.counted_ms, p.early_ms), (6_000, 600_000, 598_500));
        assert!(p.is_spanning());
        // an engine that never knew the instance
        let p = Head::default().take(&gate(1_000, 6_005), 601_000, 600_000).unwrap();
        assert_eq!((p.counters.requests(), p.counted_ms), (6_005, 600_000));
        assert!(p.is_spanning());
    }

    #[test]
    fn each_replica_has_a_processor_time_of_its_own() {
        let mut h = Head::default();
        let p = h.take(&replicas(&[("0", 5, 1_000_000), ("1", 5, 500)]), 10_000, 0).unwrap();
        assert_eq!((p.cpu_us, p.cpu_ms, p.memory_sum), (0, 0, 200), "since when is not known");
        // one began anew, the other went on
        let p = h.take(&replicas(&[("0", 12_000, 300), ("1", 5, 700)]), 20_000, 10_000).unwrap();
        assert_eq!((p.cpu_us, p.cpu_ms, p.restarts), (500, 10_000, 1));
        // it says nothing of it, and has less
        let p = h.take(&replicas(&[("0", 12_000, 50), ("1", 5, 700)]), 30_000, 20_000).unwrap();
        assert_eq!((p.cpu_us, p.restarts), (50, 1));
        // one does not answer, a new one comes
        let p = h.take(&replicas(&[("1", 5, 800), ("2", 35_000, 90)]), 40_000, 30_000).unwrap();
        assert_eq!((p.cpu_us, p.restarts), (190, 0));
        // what one used while it did not answer is not lost
        let p = h.take(&replicas(&[("0", 12_000, 1_050), ("1", 5, 800)]), 50_000, 40_000).unwrap();
        assert_eq!((p.cpu_us, h.cpu_us, h.restarts), (1_000, 500 + 50 + 190 + 1_000, 2));
    }
}
