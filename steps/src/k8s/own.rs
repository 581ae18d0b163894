//! What our own containers ask for and may have: said once, for who makes pods and for who counts what a quota leaves.
use crate::prices::nodes::Requests;
use serde_json::{Value, json};

/// Thousandths of a core and bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    /// Asked for.
    pub millis: u64,
    pub bytes: u64,
    /// Had at most. Cores only where a quota wants every container to say them: elsewhere a gate is not slowed down.
    pub most_millis: u64,
    pub most_bytes: u64,
}

/// The gate, in every pod.
pub(super) const GATE: Own = Own { millis: 10, bytes: 16 << 20, most_millis: 500, most_bytes: 256 << 20 };
/// Those that end by themselves: what seals a pod, and the two containers of the pod that tries the app's port.
pub(super) const SHORT: Own = Own { millis: 10, bytes: 16 << 20, most_millis: 100, most_bytes: 64 << 20 };

/// The fact that a namespace wants a limit of cores, and how many it lets a container have.
pub(super) const CORES: &str = "own_cpu_limit_millis";

// === impl Own ===

impl Own {
    /// What is paid for.
    pub fn requests(self) -> Requests {
        Requests { millis: self.millis, bytes: self.bytes }
    }

    /// The limit of cores where no container may have more than `most`.
    pub fn cores(self, most: u64) -> u64 {
        self.most_millis.min(most)
    }

    /// As a pod says it, by what preflight found out.
    pub fn resources(self, facts: &Value) -> Value {
        let mib = |bytes: u64| format!("{}Mi", bytes >> 20);
        let mut limits = json!({ "memory": mib(self.most_bytes) });
        if let Some(most) = facts[CORES].as_u64() {
            limits["cpu"] = format!("{}m", self.cores(most)).into();
        }
        json!({ "requests": { "cpu": format!("{}m", self.millis), "memory": mib(self.bytes) }, "limits": limits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_limited_only_where_a_quota_wants_it() {
        assert_eq!(
            GATE.resources(&json!({})),
            json!({ "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "memory": "256Mi" } })
        );
        assert_eq!(
            GATE.resources(&json!({ CORES: 2000 }))["limits"],
            json!({ "cpu": "500m", "memory": "256Mi" })
        );
        // what a LimitRange lets a container have at most
        assert_eq!(
            SHORT.resources(&json!({ CORES: 50 }))["limits"],
            json!({ "cpu": "50m", "memory": "64Mi" })
        );
    }
}
