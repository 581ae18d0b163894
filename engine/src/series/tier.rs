//! Resolutions, and how points of a finer one become points of a coarser one.
use super::Point;
use crate::clock::Millis;
use std::collections::BTreeMap;

/// A resolution. The numbers are part of the store's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tier {
    /// 10 s, kept for an hour.
    Seconds = 0,
    /// 1 min, kept for a day.
    Minutes = 1,
    /// 1 h, kept for a month.
    Hours = 2,
}

// === impl Tier ===

impl Tier {
    /// Finest first.
    pub const ALL: [Self; 3] = [Self::Seconds, Self::Minutes, Self::Hours];

    /// Length of an interval.
    pub const fn step_ms(self) -> Millis {
        match self {
            Self::Seconds => 10_000,
            Self::Minutes => 60_000,
            Self::Hours => 3_600_000,
        }
    }

    /// Length of what lies in one row. Chosen so that a row of full histograms stays below the store's limit for a value.
    pub const fn chunk_ms(self) -> Millis {
        match self {
            Self::Seconds => 60_000,
            Self::Minutes => 15 * 60_000,
            Self::Hours => 12 * 3_600_000,
        }
    }

    /// How far back there is something to be asked for.
    pub const fn keep_ms(self) -> Millis {
        match self {
            Self::Seconds => 3_600_000,
            Self::Minutes => 24 * 3_600_000,
            Self::Hours => 31 * 24 * 3_600_000,
        }
    }

    /// Rows that begin before this time may go: a chunk longer than asked for, because the range asked for begins in one.
    pub const fn over_ms(self, now: Millis) -> Millis {
        now - self.keep_ms() - 2 * self.chunk_ms()
    }

    /// In words.
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Seconds => ("10s", "an hour"),
            Self::Minutes => ("1m", "a day"),
            Self::Hours => ("1h", "a month"),
        }
    }
}

/// The multiple of `step` at or before `at`.
pub const fn floor(at: Millis, step: Millis) -> Millis {
    at - at.rem_euclid(step)
}

/// Adds up points by intervals of `step`, in order.
pub fn regroup(points: impl IntoIterator<Item = Point>, step: Millis) -> Vec<Point> {
    let mut out: BTreeMap<Millis, Point> = BTreeMap::new();
    for p in points {
        let at = floor(p.at, step);
        out.entry(at).or_insert_with(|| Point { at, ..Default::default() }).merge(&p);
    }
    out.into_values().collect()
}

/// All counters of some points.
#[cfg(test)]
pub fn total<'a>(points: impl IntoIterator<Item = &'a Point>) -> super::Counters {
    let mut out = super::Counters::default();
    points.into_iter().for_each(|p| out.add(&p.counters));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    /// Points as a sampler makes them, with gaps.
    fn some(r: &mut StdRng) -> Vec<Point> {
        let mut out = Vec::new();
        let mut at = floor(1_800_000_000_000 + r.random_range(0..86_400_000), 10_000);
        for _ in 0..r.random_range(1..400) {
            at += 10_000 * if r.random_bool(0.05) { r.random_range(1..500) } else { 1 };
            let mut p = Point { at, counted_ms: 10_000, gate_samples: 1, ..Default::default() };
            for _ in 0..r.random_range(0..20) {
                let us = 1_u64 << r.random_range(0..30);
                p.counters.latency.record(us);
                p.counters.classes[r.random_range(0..6)] += 1;
            }
            p.in_flight_max = r.random_range(0..9);
            p.ready_min = r.random_bool(0.9).then(|| r.random_range(0..4));
            if r.random_bool(0.1) {
                p.early_ms = r.random_range(10_001..9_000_000);
            }
            p.memory_max = r.random_range(0..1 << 40);
            out.push(p);
        }
        out
    }

    #[test]
    fn whatever_is_added_up_keeps_its_sums_its_extremes_and_its_distribution() {
        let mut r = StdRng::seed_from_u64(7);
        for _ in 0..200 {
            let all = some(&mut r);
            let minutes = regroup(all.clone(), 60_000);
            let hours = regroup(minutes.clone(), 3_600_000);
            assert_eq!(hours, regroup(all.clone(), 3_600_000), "in two steps as in one");
            for (coarse, step) in [(&minutes, 60_000), (&hours, 3_600_000)] {
                assert_eq!(total(coarse), total(&all));
                let sum = |ps: &[Point], f: fn(&Point) -> u64| ps.iter().map(f).sum::<u64>();
                assert_eq!(sum(coarse, |p| p.counted_ms), sum(&all, |p| p.counted_ms));
                let max = |ps: &[Point], f: fn(&Point) -> u64| ps.iter().map(f).max();
                assert_eq!(max(coarse, |p| p.memory_max), max(&all, |p| p.memory_max));
                assert_eq!(max(coarse, |p| p.in_flight_max), max(&all, |p| p.in_flight_max));
                let least = |ps: &[Point]| ps.iter().filter_map(|p| p.ready_min).min();
                assert_eq!(least(coarse), least(&all));
                // what reaches back beyond the larger interval, reaches back just as far
                let reach = |p: &Point| (p.at - p.early_ms, floor(p.at, step));
                let back = |ps: &[Point]| ps.iter().map(reach).filter(|(r, at)| r < at).min();
                assert_eq!(back(coarse), back(&all));
            }
            assert!(minutes.iter().all(|p| p.at % 60_000 == 0) && minutes.is_sorted_by_key(|p| p.at));
        }
    }

    #[test]
    fn a_point_that_reaches_back_within_a_larger_interval_does_not_reach_back_from_it() {
        let p = Point { at: 3_600_000 + 1_800_000, early_ms: 60_000, ..Default::default() };
        assert!(p.is_spanning());
        assert!(!regroup([p.clone()], 3_600_000)[0].is_spanning());
        assert_eq!(regroup([p], 60_000)[0].early_ms, 60_000);
    }

    #[test]
    fn each_resolution_is_a_multiple_of_the_one_before() {
        for t in Tier::ALL.windows(2) {
            assert_eq!(t[1].step_ms() % t[0].step_ms(), 0);
            assert_eq!(t[1].chunk_ms() % t[1].step_ms(), 0);
            assert_eq!(t[1].chunk_ms() % t[0].chunk_ms(), 0);
            assert!(t[0].keep_ms() >= 2 * t[1].chunk_ms() || t[1] == Tier::Hours, "rolled up before it goes");
        }
    }
}
