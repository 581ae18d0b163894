//! What one interval looked like, in figures that can be added up over time.
use crate::clock::Millis;
use syp_auth::{door::GateMetrics, histogram::Histogram};

/// Counters of a gate, or how they grew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests by the first digit of their status.
    pub classes: [u64; 6],
    /// Without a valid token.
    pub denied_401: u64,
    /// Of strangers.
    pub denied_403: u64,
    /// From clients, bytes.
    pub bytes_in: u64,
    /// To clients, bytes.
    pub bytes_out: u64,
    /// Of admitted requests.
    pub latency: Histogram,
}

/// One interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Its beginning.
    pub at: Millis,
    /// By how much the counted time begins before `at`; zero unless that is more than an interval of the sampler.
    pub early_ms: Millis,
    /// Time over which the counters grew; 0: nobody could read them.
    pub counted_ms: u64,
    /// By how much they grew.
    pub counters: Counters,
    /// How often the gate was asked with success.
    pub gate_samples: u32,
    /// Requests under way, added up over the samples.
    pub in_flight_sum: u64,
    /// At most.
    pub in_flight_max: u64,
    /// Replicas that were ready, at least; `None`: the gate did not say.
    pub ready_min: Option<u32>,
    /// Time over which the processor was used; 0: not known.
    pub cpu_ms: u64,
    /// Processor time in it, microseconds.
    pub cpu_us: u64,
    /// How often the replicas were asked with success.
    pub replica_samples: u32,
    /// Resident bytes, added up over the samples.
    pub memory_sum: u64,
    /// At most.
    pub memory_max: u64,
    /// Replicas that began anew.
    pub restarts: u32,
}

// === impl Counters ===

impl Counters {
    /// Of a gate.
    pub fn of(g: &GateMetrics) -> Self {
        Self {
            classes: g.requests_by_class,
            denied_401: g.denied_401,
            denied_403: g.denied_403,
            bytes_in: g.bytes_in,
            bytes_out: g.bytes_out,
            latency: g.latency.clone(),
        }
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.classes.iter().sum()
    }

    fn plain(&self) -> impl Iterator<Item = u64> {
        self.classes.into_iter().chain([self.denied_401, self.denied_403, self.bytes_in, self.bytes_out])
    }

    /// Counters only grow: is one of them smaller than it was?
    pub fn went_back(&self, earlier: &Self) -> bool {
        self.plain().zip(earlier.plain()).any(|(now, then)| now < then)
            || self.latency.count < earlier.latency.count
    }

    /// Adds.
    pub fn add(&mut self, more: &Self) {
        for (mine, theirs) in self.classes.iter_mut().zip(more.classes) {
            *mine = mine.saturating_add(theirs);
        }
        for (mine, theirs) in [
            (&mut self.denied_401, more.denied_401),
            (&mut self.denied_403, more.denied_403),
            (&mut self.bytes_in, more.bytes_in),
            (&mut self.bytes_out, more.bytes_out),
        ] {
            *mine = mine.saturating_add(theirs);
        }
        self.latency.merge(&more.latency);
    }

    /// By how much they grew since `earlier`, a snapshot of the same counters.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut classes = self.classes;
        for (now, then) in classes.iter_mut().zip(earlier.classes) {
            *now = now.saturating_sub(then);
        }
        Self {
            classes,
            denied_401: self.denied_401.saturating_sub(earlier.denied_401),
            denied_403: self.denied_403.saturating_sub(earlier.denied_403),
            bytes_in: self.bytes_in.saturating_sub(earlier.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(earlier.bytes_out),
            latency: self.latency.since(&earlier.latency),
        }
    }
}

// === impl Point ===

impl Point {
    /// Adds another one, of the same interval or of a part of a larger one that begins at `self.at`.
    pub fn merge(&mut self, more: &Self) {
        let early = self.at.saturating_sub(more.at.saturating_sub(more.early_ms));
        if more.early_ms > 0 && early > self.early_ms {
            self.early_ms = early;
        }
        self.ready_min = self.ready_min.into_iter().chain(more.ready_min).min();
        self.counted_ms = self.counted_ms.saturating_add(more.counted_ms);
        self.counters.add(&more.counters);
        self.gate_samples = self.gate_samples.saturating_add(more.gate_samples);
        self.in_flight_sum = self.in_flight_sum.saturating_add(more.in_flight_sum);
        self.in_flight_max = self.in_flight_max.max(more.in_flight_max);
        self.cpu_ms = self.cpu_ms.saturating_add(more.cpu_ms);
        self.cpu_us = self.cpu_us.saturating_add(more.cpu_us);
        self.replica_samples = self.replica_samples.saturating_add(more.replica_samples);
        self.memory_sum = self.memory_sum.saturating_add(more.memory_sum);
        self.memory_max = self.memory_max.max(more.memory_max);
        self.restarts = self.restarts.saturating_add(more.restarts);
    }

    /// Do its counts reach back before it?
    pub fn is_spanning(&self) -> bool {
        self.early_ms > 0
    }
}
