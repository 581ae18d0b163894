//! What has to be done on Docker, in which order. Pure.
//!
//! ```text
//! image ─┬─> network ─┬─> gate ──> config ─────────────┐
//!        │            └─> holder-N ─┬─> isolation-N ───┼─> probe
//!        └─> volume-N-M ────────────┴─> app-N ─────────┘
//! ```
use super::client::key;
use serde_json::{Value, json};
use syp_engine::{
    graph::RunKind,
    plan::{Effect, InDoubt, Plan, PlanNode, Policy},
    step::Owner,
};
use syp_proto::v1;

/// Calls that were accepted land within this.
const SETTLE_MS: i64 = 2_000;

struct Builder<'a> {
    owner: &'a Owner,
    nodes: Vec<PlanNode>,
}

impl Builder<'_> {
    fn node(
        &mut self,
        id: &str,
        kind: &str,
        after: &[&str],
        params: &Value,
        policy: Policy,
    ) -> &mut PlanNode {
        self.nodes.push(PlanNode {
            id: id.into(),
            kind: kind.into(),
            after: after.iter().map(|s| (*s).to_owned()).collect(),
            params: params.to_string(),
            effect: None,
            policy: Some(policy),
        });
        let last = self.nodes.len() - 1;
        &mut self.nodes[last]
    }

    fn effect(&mut self, id: &str, kind: &str, after: &[&str], params: &Value, billed: bool) {
        let key = key(self.owner, id);
        let node = self.node(id, kind, after, params, policy(60_000, 5));
        node.effect = Some(Effect { provider: "docker".into(), key, billed });
    }
}

fn policy(attempt_timeout_ms: i64, max_attempts: u32) -> Policy {
    Policy {
        in_doubt: InDoubt::Ensure as i32,
        attempt_timeout_ms,
        max_attempts,
        settle_ms: SETTLE_MS,
        total_timeout_ms: 0,
    }
}

/// The plan of a run.
pub fn plan(kind: RunKind, owner: &Owner, spec: &v1::InstanceSpec, facts: &Value) -> Plan {
    let mut b = Builder { owner, nodes: Vec::new() };
    match kind {
        RunKind::Drain | RunKind::Teardown => {
            b.node("drain", "docker.drain@1", &[], &Value::Null, policy(3_700_000, 3));
        }
        _ => everything(&mut b, spec, facts),
    }
    Plan { target: "docker".into(), version: 1, nodes: b.nodes }
}

fn everything(b: &mut Builder<'_>, spec: &v1::InstanceSpec, facts: &Value) {
    let replicas = spec.scaling.as_ref().map_or(1, |s| s.min.max(1));
    let volumes: Vec<&str> =
        facts["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    b.node("image", "docker.image@1", &[], &Value::Null, policy(900_000, 3));
    b.effect("network", "docker.network@1", &["image"], &json!({ "replicas": replicas }), false);
    b.effect("gate", "docker.gate@1", &["network"], &Value::Null, false);
    b.node("config", "docker.config@1", &["gate"], &Value::Null, policy(15_000, 5));
    let mut before_probe = vec!["config".to_owned()];
    for n in 0..replicas {
        let holder = format!("holder-{n}");
        b.effect(&holder, "docker.holder@1", &["network"], &json!({ "place": n + 3 }), false);
        let isolation = format!("isolation-{n}");
        b.node(&isolation, "docker.isolation@1", &[&holder], &json!({ "holder": holder }), policy(10_000, 3));
        let mut after = vec![holder.clone()];
        for (m, path) in volumes.iter().enumerate() {
            let volume = format!("volume-{n}-{m}");
            b.effect(&volume, "docker.volume@1", &["image"], &json!({ "path": path }), false);
            after.push(volume);
        }
        let app = format!("app-{n}");
        let after: Vec<_> = after.iter().map(String::as_str).collect();
        b.effect(&app, "docker.app@1", &after, &json!({ "holder": holder, "replica": n }), true);
        before_probe.extend([isolation, app]);
    }
    let after: Vec<_> = before_probe.iter().map(String::as_str).collect();
    b.node("probe", "docker.probe@1", &after, &json!({ "replicas": replicas }), policy(120_000, 3));
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_engine::id::{InstanceId, StoreId};

    #[test]
    fn every_plan_is_sound_and_an_apps_volumes_come_before_it() {
        let owner = Owner {
            store: StoreId::random(),
            uid: InstanceId::random(),
            name: "x".into(),
            revision: "x-1".into(),
        };
        let spec = v1::InstanceSpec {
            scaling: Some(v1::Scaling { min: 3, ..Default::default() }),
            ..Default::default()
        };
        for kind in [RunKind::Provision, RunKind::Repair, RunKind::Drain, RunKind::Teardown] {
            let p = plan(kind, &owner, &spec, &json!({ "volumes": ["/data"] }));
            syp_engine::plan::validate(&p).unwrap();
        }
        let p = plan(RunKind::Provision, &owner, &spec, &json!({ "volumes": ["/data"] }));
        let app = p.nodes.iter().find(|n| n.id == "app-2").unwrap();
        assert_eq!(app.after, ["holder-2", "volume-2-0"]);
        assert_eq!(p.nodes.iter().filter(|n| n.effect.as_ref().is_some_and(|e| e.billed)).count(), 3);
    }
}
