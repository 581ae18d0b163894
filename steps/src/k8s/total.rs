//! Counters of all gates of an instance as those of one that never restarts: pods come and go, requests that were counted stay.
use std::collections::BTreeMap;
use syp_auth::door::GateMetrics;

/// What is known of one instance since this engine looks at it.
#[derive(Debug, Default)]
pub struct Totals {
    gates: BTreeMap<String, GateMetrics>,
    /// Of gates that are gone, or of their runs before.
    gone: GateMetrics,
    /// When the first one began to count.
    began_ms: Option<u64>,
    /// Processor time so far, and when it was looked at last.
    cpu: BTreeMap<String, (u64, i64)>,
}

// === impl Totals ===

impl Totals {
    /// What a gate says now.
    pub fn gate(&mut self, pod: &str, now: &GateMetrics) {
        self.began_ms.get_or_insert(now.started_at_ms);
        let held = self.gates.insert(pod.to_owned(), now.clone());
        // it counts anew: what it had counted before stays counted
        if let Some(before) = held.filter(|h| h.started_at_ms != now.started_at_ms) {
            self.gone.merge(&GateMetrics { in_flight: 0, ..before });
        }
    }

    /// All of them, as one.
    pub fn merged(&self) -> GateMetrics {
        let mut out = self.gone.clone();
        for g in self.gates.values() {
            out.merge(g);
        }
        out.started_at_ms = self.began_ms.unwrap_or(0);
        out
    }

    /// Processor time of a pod in microseconds, from what it uses now (millionths of a core): clusters tell the rate, not the sum.
    pub fn cpu(&mut self, pod: &str, micros: u64, now_ms: i64) -> u64 {
        let (sum, at) = self.cpu.get(pod).copied().unwrap_or((0, now_ms));
        let ms = u64::try_from(now_ms - at).unwrap_or(0);
        let sum = sum.saturating_add(micros.saturating_mul(ms) / 1_000);
        self.cpu.insert(pod.to_owned(), (sum, now_ms));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(started_at_ms: u64, ok: u64) -> GateMetrics {
        GateMetrics { started_at_ms, requests_by_class: [0, 0, ok, 0, 0, 0], ..Default::default() }
    }

    #[test]
    fn what_was_counted_stays_counted_when_pods_restart_and_go() {
        let mut t = Totals::default();
        t.gate("a", &counted(1, 10));
        t.gate("b", &counted(2, 5));
        t.gate("a", &counted(1, 12));
        assert_eq!((t.merged().requests_by_class[2], t.merged().started_at_ms), (17, 1));
        // a restarts, b is not heard of any more
        t.gate("a", &counted(9, 1));
        assert_eq!((t.merged().requests_by_class[2], t.merged().started_at_ms), (18, 1));
    }

    #[test]
    fn processor_time_is_the_sum_of_what_was_used() {
        let mut t = Totals::default();
        assert_eq!(t.cpu("a", 500_000, 1_000), 0, "nobody knows what was before");
        assert_eq!(t.cpu("a", 500_000, 3_000), 1_000_000, "half a core for two seconds");
    }
}
