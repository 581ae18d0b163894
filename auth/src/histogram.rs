//! Latencies in buckets that can be added up across replicas and over time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Sub-buckets for each power of two: a value is known to about 3 percent.
const SUB_BITS: u32 = 5;
const SUB: u64 = 1 << SUB_BITS;

/// How many buckets there are: values up to 2^40 microseconds (12 days); longer ones count as that.
pub const BUCKETS: usize = (SUB as usize) * 36;

/// A sparse log-linear histogram of microseconds. Merging two is exact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Count by bucket (see [`bucket`]).
    #[serde(default)]
    pub buckets: BTreeMap<u16, u64>,
    /// How many values.
    #[serde(default)]
    pub count: u64,
    /// Their sum in microseconds.
    #[serde(default)]
    pub sum_us: u64,
}

/// The bucket a value falls into: one each below 32, then 32 for each power of two.
#[must_use]
pub fn bucket(us: u64) -> u16 {
    let us = us.min((1 << 40) - 1);
    if us < SUB {
        return us as u16;
    }
    let power = us.ilog2();
    let sub = (us >> (power - SUB_BITS)) - SUB;
    ((u64::from(power - SUB_BITS) + 1) * SUB + sub) as u16
}

/// The largest value of a bucket.
#[must_use]
pub fn upper_bound(bucket: u16) -> u64 {
    let (group, sub) = (u64::from(bucket) / SUB, u64::from(bucket) % SUB);
    if group == 0 { sub } else { ((SUB + sub + 1) << (group - 1).min(40)) - 1 }
}

impl Histogram {
    /// Adds one value.
    pub fn record(&mut self, us: u64) {
        self.add(bucket(us), 1);
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Adds `count` values of one bucket; the caller keeps [`Histogram::sum_us`].
    pub fn add(&mut self, bucket: u16, count: u64) {
        if count > 0 {
            *self.buckets.entry(bucket).or_default() += count;
            self.count += count;
        }
    }

    /// Adds all values of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.buckets {
            self.add(*bucket, *count);
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// What came since `earlier`, a snapshot of the same counters. A counter that went back (restart) counts from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        if earlier.count > self.count {
            return self.clone();
        }
        let mut out = Self { sum_us: self.sum_us.saturating_sub(earlier.sum_us), ..Self::default() };
        for (bucket, count) in &self.buckets {
            out.add(*bucket, count.saturating_sub(earlier.buckets.get(bucket).copied().unwrap_or(0)));
        }
        out
    }

    /// The value in microseconds that `percent` (0 to 100) of the values do not exceed; `None` without values.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<u64> {
        let rank = ((self.count as f64) * percent.clamp(0.0, 100.0) / 100.0).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.buckets.iter().find_map(|(bucket, count)| {
            seen += count;
            (seen >= rank).then(|| upper_bound(*bucket))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Histogram, bucket, upper_bound};

    #[test]
    fn buckets_are_contiguous_and_three_percent_wide() {
        let mut last = 0;
        for us in (0..100_000).chain([1 << 30, (1 << 40) - 1, u64::MAX]) {
            let b = bucket(us);
            assert!(b == last || b == last + 1 || us > 100_000, "{us}");
            last = b;
            assert!(usize::from(b) < BUCKETS);
            let top = upper_bound(b);
            if us < 1 << 40 {
                assert!(top >= us && (top - us) as f64 <= us as f64 * 0.032, "{us} in bucket up to {top}");
            }
        }
    }

    #[test]
    fn merged_equals_recorded_together() {
        let (mut a, mut b, mut both) = (Histogram::default(), Histogram::default(), Histogram::default());
        for us in 0..5000 {
            if us % 3 == 0 {
                a.record(us)
            } else {
                b.record(us)
            }
            both.record(us);
        }
        a.merge(&b);
        assert_eq!(a, both);
        assert_eq!(a.since(&both).count, 0);
        let p99 = both.percentile(99.0).unwrap();
        assert!((4949..5110).contains(&p99), "{p99}");
        assert_eq!(Histogram::default().percentile(50.0), None);
        let json = serde_json::to_string(&both).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&json).unwrap(), both);
    }
}
