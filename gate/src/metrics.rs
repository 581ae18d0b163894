//! Counters: one set for each worker thread, so that cores do not fight over a cache line; added up when somebody asks.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use syp_auth::door::GateMetrics;
use syp_auth::histogram::{BUCKETS, Histogram, bucket, upper_bound};

/// One worker's counters.
#[repr(align(128))]
pub struct Worker {
    classes: [AtomicU64; 6],
    denied_401: AtomicU64,
    denied_403: AtomicU64,
    /// Requests under way (may wrap for one worker; the sum does not).
    pub in_flight: AtomicU64,
    /// Bytes from clients.
    pub bytes_in: AtomicU64,
    /// Bytes to clients.
    pub bytes_out: AtomicU64,
    latency: Box<[AtomicU64]>,
    latency_sum: AtomicU64,
}

/// All counters of this process.
pub struct Metrics {
    started_at_ms: u64,
    /// One for each worker.
    pub workers: Vec<Worker>,
    /// Upgraded connections under way.
    pub tunnels: AtomicU64,
    /// Log lines that were dropped.
    pub log_dropped: AtomicU64,
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections to the app that could not be opened.
    pub connect_failures: AtomicU64,
}

impl Worker {
    fn new() -> Self {
        let zeros = || (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        let (denied_401, denied_403, in_flight) = Default::default();
        let (bytes_in, bytes_out, latency_sum) = Default::default();
        let classes = Default::default();
        Self {
            classes,
            denied_401,
            denied_403,
            in_flight,
            bytes_in,
            bytes_out,
            latency: zeros(),
            latency_sum,
        }
    }

    /// Counts a request that is over.
    pub fn finished(&self, status: u16, latency: Option<Duration>) {
        self.classes[usize::from(status / 100).min(5)].fetch_add(1, Relaxed);
        match status {
            401 => self.denied_401.fetch_add(1, Relaxed),
            403 if latency.is_none() => self.denied_403.fetch_add(1, Relaxed),
            _ => 0,
        };
        if let Some(latency) = latency {
            let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            self.latency[usize::from(bucket(us))].fetch_add(1, Relaxed);
            self.latency_sum.fetch_add(us, Relaxed);
        }
    }
}

impl Metrics {
    /// All zero, from now on.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let workers = (0..workers).map(|_| Worker::new()).collect();
        let (tunnels, log_dropped, connections, connect_failures) = Default::default();
        let started_at_ms = u64::try_from(since.as_millis()).unwrap_or(0);
        Self { started_at_ms, workers, tunnels, log_dropped, connections, connect_failures }
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.workers.iter().fold(0, |sum, w| sum.wrapping_add(w.in_flight.load(Relaxed)))
    }

    /// The sums.
    #[must_use]
    pub fn snapshot(&self) -> GateMetrics {
        let mut out = GateMetrics { started_at_ms: self.started_at_ms, ..GateMetrics::default() };
        for worker in &self.workers {
            for (sum, one) in out.requests_by_class.iter_mut().zip(&worker.classes) {
                *sum += one.load(Relaxed);
            }
            out.denied_401 += worker.denied_401.load(Relaxed);
            out.denied_403 += worker.denied_403.load(Relaxed);
            out.bytes_in += worker.bytes_in.load(Relaxed);
            out.bytes_out += worker.bytes_out.load(Relaxed);
            let mut latency = Histogram { sum_us: worker.latency_sum.load(Relaxed), ..Histogram::default() };
            for (n, count) in (0_u16..).zip(worker.latency.iter()) {
                latency.add(n, count.load(Relaxed));
            }
            out.latency.merge(&latency);
        }
        out.in_flight = self.in_flight();
        out.log_dropped = self.log_dropped.load(Relaxed);
        out.more.insert("tunnels".to_owned(), self.tunnels.load(Relaxed));
        out.more.insert("connections".to_owned(), self.connections.load(Relaxed));
        out.more.insert("connect_failures".to_owned(), self.connect_failures.load(Relaxed));
        out
    }
}

/// The Prometheus text form.
#[must_use]
pub fn prometheus(m: &GateMetrics, instance: &str) -> String {
    let mut out = String::with_capacity(4096);
    let safe: String = instance.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    let i = format!("instance_uid=\"{safe}\"");
    let mut line = |kind: &str, name: &str, labels: &str, value: u64| {
        if !kind.is_empty() {
            let _ = writeln!(out, "# TYPE syp_gate_{} {kind}", name.trim_end_matches("_bucket"));
        }
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = writeln!(out, "syp_gate_{name}{{{i}{comma}{labels}}} {value}");
    };
    for (class, count) in m.requests_by_class.iter().enumerate() {
        line(
            if class == 0 { "counter" } else { "" },
            "requests_total",
            &format!("class=\"{class}xx\""),
            *count,
        );
    }
    line("counter", "denied_total", "status=\"401\"", m.denied_401);
    line("", "denied_total", "status=\"403\"", m.denied_403);
    line("counter", "bytes_in_total", "", m.bytes_in);
    line("counter", "bytes_out_total", "", m.bytes_out);
    line("counter", "log_dropped_total", "", m.log_dropped);
    line("gauge", "in_flight", "", m.in_flight);
    for (name, value) in &m.more {
        let (kind, suffix) = if name == "tunnels" { ("gauge", "") } else { ("counter", "_total") };
        line(kind, &format!("{name}{suffix}"), "", *value);
    }
    // one bound for each power of two keeps the list short; the JSON form has all
    let mut seen = 0;
    let mut last = None;
    for (n, count) in &m.latency.buckets {
        seen += count;
        let bound = upper_bound(*n).next_power_of_two();
        let next = m.latency.buckets.range(n + 1..).next().map(|(n, _)| upper_bound(*n).next_power_of_two());
        if next != Some(bound) {
            let kind = if last.is_none() { "histogram" } else { "" };
            line(kind, "latency_us_bucket", &format!("le=\"{bound}\""), seen);
            last = Some(bound);
        }
    }
    if last.is_some() {
        line("", "latency_us_bucket", "le=\"+Inf\"", m.latency.count);
        line("", "latency_us_sum", "", m.latency.sum_us);
        line("", "latency_us_count", "", m.latency.count);
    }
    out
}
