//! What has to be done on a cluster, in which order. Pure. Each revision is a Deployment of its own; the Service says which serves.
//!
//! ```text
//! up, repair:  (cluster) ─> namespace ─> account, config, policy, disruption, (pull), (image-N), (secret-N) ─> app-N ─> scale ─> probe ─> isolation ─> (autoscaler-N) ─> switch ─┬─> check
//!                       └─> service ─> (tls ─> ingress or route) ────────────────────────────────────────────────────────────────────────────────────┘
//! update:      namespace, account, config, policy, disruption, (pull), (image-N), (secret-N) ─> app-N ─> scale ─> probe ─> isolation ─> (autoscaler-N) ─> switch ─> settle ─> (retire-autoscaler-M) ─> retire-app-M ─> retire-secret-M, retire-image-M
//! scale:       (retire-autoscaler-N) ─> scale ─> probe ─> (autoscaler-N) ─> switch
//! ```
use super::{names::revision_of, pull};
use crate::{kind, labels::key};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use syp_engine::{
    cost,
    graph::RunKind,
    plan::{Effect, InDoubt, Plan, PlanNode, Policy},
    revision, scaling,
    step::{Have, Owner},
};
use syp_proto::{
    journal::{LedgerRow, ledger_row},
    v1,
};

/// Calls that were accepted land within this, admission webhooks included.
const SETTLE_MS: i64 = 15_000;
/// As long as the longest grace, and a little.
const DRAIN_MS: i64 = 3_700_000;
/// What is being removed by somebody else, or an API server that restarts, takes minutes; what no more trying helps against ends at
/// once, whatever is left.
const ATTEMPTS: u32 = 12;
/// Nodes may have to be added, images pulled.
const ROLLOUT_MS: i64 = 900_000;

/// Before every app.
const BASE: [&str; 4] = ["account", "config", "policy", "disruption"];

struct Builder<'a> {
    owner: &'a Owner,
    spec: &'a v1::InstanceSpec,
    facts: &'a Value,
    have: &'a Have<'a>,
    template: String,
    nodes: Vec<PlanNode>,
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
pub fn plan(
    target: &str,
    kind: RunKind,
    owner: &Owner,
    spec: &v1::InstanceSpec,
    facts: &Value,
    have: &Have<'_>,
) -> Plan {
    let template = revision::template(spec, facts);
    let mut b = Builder { owner, spec, facts, have, template, nodes: Vec::new() };
    match kind {
        RunKind::Drain | RunKind::Teardown => {
            b.node("drain", "k8s.drain@1", &[], &Value::Null, policy(DRAIN_MS, ATTEMPTS));
        }
        RunKind::Update => b.update(),
        _ => b.everything(),
    }
    Plan { target: target.into(), version: 1, nodes: b.nodes }
}

// === impl Builder ===

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
            policy: Some(policy),
            ..Default::default()
        });
        self.last()
    }

    fn effect(&mut self, id: &str, kind: &str, after: &[&str], more: Value) -> &mut Effect {
        let key = key(self.owner, id);
        let mut params = json!({ "namespace": self.facts["namespace"] });
        super::object::merge(&mut params, more);
        let node = self.node(id, kind, after, &params, policy(60_000, ATTEMPTS));
        node.effect.insert(Effect { provider: "k8s".into(), key, ..Default::default() })
    }

    /// The node that was added last; there is one wherever this is called.
    fn last(&mut self) -> &mut PlanNode {
        let last = self.nodes.len().saturating_sub(1);
        &mut self.nodes[last]
    }

    /// Revisions of which a Deployment may be there, each with its row.
    fn apps(&self) -> Vec<(u32, &LedgerRow)> {
        let mut out: Vec<_> =
            self.have.live().filter_map(|r| Some((revision_of(&r.node, "app")?, r))).collect();
        out.sort_by_key(|(n, _)| *n);
        out
    }

    /// The one that runs just what is wanted, but for how many.
    fn same(&self) -> Option<u32> {
        let is = |r: &LedgerRow| {
            let params: Value = serde_json::from_str(&r.params).unwrap_or_default();
            params["template"].as_str() == Some(self.template.as_str())
        };
        self.apps().into_iter().rev().find(|(_, r)| is(r)).map(|(n, _)| n)
    }

    /// A revision's Deployment and what it mounts; the node after which it is applied.
    fn app(&mut self, n: u32, after: &[&str]) -> String {
        let template = self.template.clone();
        let of = json!({ "template": template, "revision": n });
        let mut after: Vec<String> = after.iter().map(|s| (*s).to_owned()).collect();
        if self.pulls() {
            after.push(pull::NODE.into());
        }
        if self.facts["load"] == true {
            let image = format!("image-{n}");
            self.effect(&image, "kind.image@1", &["namespace"], of.clone());
            // a first import takes as long as the image is large
            self.last().policy = Some(policy(600_000, ATTEMPTS));
            after.push(image);
        }
        if !self.spec.secrets.is_empty() {
            let secret = format!("secret-{n}");
            let before: Vec<_> = after.iter().map(String::as_str).collect();
            self.effect(&secret, "k8s.secret@1", &before, of.clone());
            after.push(secret);
        }
        let replicas = Decimal::from(scaling::now(self.spec, self.facts));
        let hourly = self.facts["replica_hourly"]
            .as_str()
            .and_then(|h| h.parse::<Decimal>().ok())
            .map(|h| h * replicas);
        let currency = self.facts["currency"].as_str().unwrap_or_default().to_owned();
        let id = format!("app-{n}");
        let before: Vec<_> = after.iter().map(String::as_str).collect();
        let effect = self.effect(&id, "k8s.app@1", &before, of);
        effect.billed = true;
        effect.hourly = hourly.map(|h| cost::money(h, &currency));
        id
    }

    /// How many of it there are: a number, or where it is in a range what is there already, and `begin` of what is new.
    fn scale(&mut self, n: u32, after: &[&str]) {
        let (least, most) = scaling::range(self.spec);
        let of = json!({ "revision": n, "least": least, "most": most, "begin": self.begin() });
        self.node("scale", "k8s.scale@1", after, &of, policy(60_000, ATTEMPTS));
    }

    /// A revision that replaces another begins with as many as that has.
    fn begin(&self) -> u32 {
        scaling::now(self.spec, self.facts)
    }

    /// Waits until so many of its pods are ready.
    fn probe(&mut self, n: u32, need: u32) {
        let of = json!({ "revision": n, "need": need });
        self.node("probe", "k8s.probe@1", &["scale"], &of, policy(ROLLOUT_MS, ATTEMPTS));
    }

    /// Waits until its pods are ready, and tries that nobody gets to the app past the gate; the last node.
    fn prove(&mut self, n: u32, after: &str, need: u32) -> String {
        let before = self.fixed(n);
        self.scale(n, &before.iter().map(String::as_str).chain([after]).collect::<Vec<_>>());
        self.probe(n, need);
        let of = json!({ "revision": n });
        self.node("isolation", "k8s.isolation@1", &["probe"], &of, policy(ROLLOUT_MS, ATTEMPTS));
        self.elastic(n, "isolation")
    }

    /// From here on the cluster chooses how many, where that was asked for; the last node.
    fn elastic(&mut self, n: u32, after: &str) -> String {
        if !scaling::is_elastic(self.spec) {
            return after.to_owned();
        }
        let (id, app) = (format!("autoscaler-{n}"), format!("app-{n}"));
        let mut before = vec![after];
        // what only scales makes no app
        before.extend(self.nodes.iter().any(|x| x.id == app).then_some(app.as_str()));
        self.effect(&id, "k8s.autoscaler@1", &before, json!({ "revision": n }));
        id
    }

    /// Nobody else chooses how many, where a number was asked for.
    fn fixed(&mut self, n: u32) -> Option<String> {
        if scaling::is_elastic(self.spec) {
            return None;
        }
        self.retire(&format!("autoscaler-{n}"), &[])
    }

    /// From here on this revision serves.
    fn switch(&mut self, n: u32, after: &str) -> &mut PlanNode {
        self.node("switch", "k8s.switch@1", &[after], &json!({ "revision": n }), policy(60_000, ATTEMPTS))
    }

    /// What every pod rests on; made again in each plan, so that every revision's app goes before it.
    fn base(&mut self) -> Vec<&'static str> {
        let mut base = Vec::new();
        if self.facts["cluster"].is_string() {
            self.effect("cluster", "kind.cluster@1", &[], json!({}));
            // nodes of a first cluster are pulled
            self.last().policy = Some(policy(1_800_000, 3));
            base.push("cluster");
        }
        if self.facts["own_namespace"] == true {
            self.effect("namespace", "k8s.namespace@1", &base, json!({}));
            base.clear();
            base.push("namespace");
        }
        self.effect("account", "k8s.account@1", &base, json!({}));
        self.effect("config", "k8s.config@1", &base, json!({}));
        self.effect("policy", "k8s.policy@1", &base, json!({}));
        self.effect("disruption", "k8s.disruption@1", &base, json!({}));
        if self.pulls() {
            self.effect(pull::NODE, "k8s.pull@1", &base, json!({}));
        }
        base
    }

    /// With the engine's own login?
    fn pulls(&self) -> bool {
        self.spec.kubernetes.as_ref().is_some_and(|k| k.pull_login)
    }

    fn everything(&mut self) {
        let n = self.same().unwrap_or(self.have.revision);
        let base = self.base();
        // they stay for the life of the instance, so they rest on no revision: the Service leads nowhere until 'switch'
        self.effect("service", "k8s.service@1", &base, json!({}));
        let mut last = "service";
        if !self.spec.domains.is_empty() {
            let mut before = vec!["service"];
            if self.facts["doors"] == true {
                self.effect(kind::ingress::TLS, "kind.tls@1", &base, json!({}));
                before.push(kind::ingress::TLS);
            }
            let gateway = self.spec.kubernetes.as_ref().is_some_and(|k| !k.gateway.is_empty());
            last = if gateway { "route" } else { "ingress" };
            self.effect(last, &format!("k8s.{last}@1"), &before, json!({}));
        }
        let app = self.app(n, &BASE);
        // of one that is there some may have gone since
        let proven = self.prove(n, &app, scaling::range(self.spec).0);
        self.switch(n, &proven);
        self.node(
            "check",
            "k8s.check@1",
            &["switch", last],
            &json!({ "revision": n }),
            policy(60_000, ATTEMPTS),
        );
        let mut last = "check";
        if self.facts["doors"] == true {
            self.node("entrance", "kind.entrance@1", &["check"], &Value::Null, policy(120_000, ATTEMPTS));
            last = "entrance";
        }
        self.retire_others(n, last);
    }

    fn update(&mut self) {
        let same = self.same();
        let n = same.unwrap_or(self.have.revision);
        // a repair that was pre-empted may have written down what it had not made yet
        let made = self.apps().into_iter().any(|(m, r)| m == n && r.state() == ledger_row::State::Exists);
        let proven = if same.is_some() && made {
            // the same pods, whose isolation was tried
            let before = self.fixed(n);
            self.scale(n, &before.iter().map(String::as_str).collect::<Vec<_>>());
            self.probe(n, scaling::range(self.spec).0);
            self.elastic(n, "probe")
        } else {
            self.base();
            let app = self.app(n, &BASE);
            self.prove(n, &app, self.begin())
        };
        self.switch(n, &proven).activates = true;
        self.retire_others(n, "switch");
    }

    /// What is not of this revision finishes what it has, and goes.
    fn retire_others(&mut self, n: u32, after: &str) {
        let old: Vec<u32> = self.apps().into_iter().map(|(m, _)| m).filter(|m| *m != n).collect();
        let of = |kind: &str| {
            let all = self.have.live().filter_map(|r| revision_of(&r.node, kind)).filter(|m| *m != n);
            all.map(|m| format!("{kind}-{m}")).collect::<Vec<_>>()
        };
        // what an app rests on goes after it, what rests on it before
        let gone = ["autoscaler", "app", "secret", "image"].map(of).concat();
        let mut last = after.to_owned();
        if !old.is_empty() {
            self.node(
                "settle",
                "k8s.settle@1",
                &[&last],
                &json!({ "revisions": old }),
                policy(DRAIN_MS, ATTEMPTS),
            );
            last = "settle".into();
        }
        for node in gone {
            last = self.retire(&node, &[&last]).unwrap_or(last);
        }
    }

    /// Removes what a row stands for, if there is one; the node that does.
    fn retire(&mut self, node: &str, after: &[&str]) -> Option<String> {
        let row = self.have.live().find(|r| r.node == node)?;
        let (kind, ordinal) = (row.kind.clone(), row.ordinal);
        let id = format!("retire-{node}");
        self.node(&id, &kind, after, &Value::Null, policy(120_000, ATTEMPTS)).retires = Some(ordinal);
        Some(id)
    }
}

#[cfg(test)]
mod tests;
