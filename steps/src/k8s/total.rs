//! Counters of all gates of an instance as those of one that never restarts: pods come and go, requests that were counted stay.
use std::collections::{BTreeMap, BTreeSet};
use syp_auth::door::GateMetrics;

/// What is known of one instance since this engine looks at it.
#[derive(Debug, Default)]
pub struct Totals {
    gates: BTreeMap<String, Gate>,
    /// Of gates that are gone, or of their runs before.
    gone: GateMetrics,
    /// When the first one began to count.
    began_ms: Option<u64>,
    /// Processor time so far, and when it was looked at last.
    cpu: BTreeMap<String, (u64, i64)>,
}

/// One gate, and what it had counted when it was first looked at.
#[derive(Debug)]
struct Gate {
    now: GateMetrics,
    from: Option<GateMetrics>,
}

// === impl Gate ===

impl Gate {
    fn counted(&self) -> GateMetrics {
        let Some(from) = &self.from else { return self.now.clone() };
        let mut out = self.now.clone();
        for (n, f) in out.requests_by_class.iter_mut().zip(from.requests_by_class) {
            *n = n.saturating_sub(f);
        }
        out.denied_401 = out.denied_401.saturating_sub(from.denied_401);
        out.denied_403 = out.denied_403.saturating_sub(from.denied_403);
        out.bytes_in = out.bytes_in.saturating_sub(from.bytes_in);
        out.bytes_out = out.bytes_out.saturating_sub(from.bytes_out);
        out.latency = out.latency.since(&from.latency);
        out
    }
}

// === impl Totals ===

impl Totals {
    /// What a gate says now. What one had counted before this engine began to look was told by the engine before, as far as it
    /// was told: it is not news again.
    pub fn gate(&mut self, pod: &str, now: &GateMetrics, looking_since_ms: u64) {
        self.began_ms.get_or_insert_with(|| now.started_at_ms.max(looking_since_ms));
        if let Some(held) = self.gates.get_mut(pod) {
            if held.now.started_at_ms == now.started_at_ms {
                held.now = now.clone();
                return;
            }
            // it counts anew: what it had counted before stays counted
            let before = std::mem::replace(held, Gate { now: now.clone(), from: None });
            self.gone.merge(&GateMetrics { in_flight: 0, ..before.counted() });
            return;
        }
        let from = (now.started_at_ms < looking_since_ms).then(|| now.clone());
        self.gates.insert(pod.to_owned(), Gate { now: now.clone(), from });
    }

    /// Only these are there: what others had counted stays counted.
    pub fn only(&mut self, pods: &BTreeSet<String>) {
        let (stay, go) =
            std::mem::take(&mut self.gates).into_iter().partition(|(name, _)| pods.contains(name));
        self.gates = stay;
        let go: BTreeMap<String, Gate> = go;
        for g in go.into_values() {
            self.gone.merge(&GateMetrics { in_flight: 0, ..g.counted() });
        }
        self.cpu.retain(|name, _| pods.contains(name));
    }

    /// All of them, as one.
    pub fn merged(&self) -> GateMetrics {
        let mut out = self.gone.clone();
        for g in self.gates.values() {
            out.merge(&g.counted());
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
        let sum = |t: &Totals| t.merged().requests_by_class[2];
        t.gate("a", &counted(1, 10), 0);
        t.gate("b", &counted(2, 5), 0);
        t.gate("a", &counted(1, 12), 0);
        assert_eq!((sum(&t), t.merged().started_at_ms), (17, 1));
        // a restarts, b goes
        t.gate("a", &counted(9, 1), 0);
        t.only(&["a".to_owned()].into());
        assert_eq!((sum(&t), t.merged().started_at_ms), (18, 1));
    }

    #[test]
    fn another_engine_does_not_count_again_what_the_one_before_did() {
        let mut t = Totals::default();
        t.gate("a", &counted(1, 10), 5);
        assert_eq!((t.merged().requests_by_class[2], t.merged().started_at_ms), (0, 5));
        t.gate("a", &counted(1, 13), 5);
        t.gate("new", &counted(7, 2), 5);
        assert_eq!(t.merged().requests_by_class[2], 5, "three more, and all of a pod that came since");
    }

    #[test]
    fn processor_time_is_the_sum_of_what_was_used() {
        let mut t = Totals::default();
        assert_eq!(t.cpu("a", 500_000, 1_000), 0, "nobody knows what was before");
        assert_eq!(t.cpu("a", 500_000, 3_000), 1_000_000, "half a core for two seconds");
    }
}
