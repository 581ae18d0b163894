//! What has to be done on Docker, in which order. Pure.
//!
//! ```text
//! up, repair:  image ─┬─> network ─┬─> gate ──> config ─────────────┐
//!                     │            └─> holder-N ─┬─> isolation-N ───┼─> probe
//!                     └─> volume-N-M ────────────┴─> app-N ─────────┘
//! update:      image ──> (holder, isolation, app of each new one) ──> standby ──> probe ──> switch
//!              switch ──> settle ──> final ──> retire-app-N ──> retire-holder-N        (of each old one)
//! in place:    close-N ──> settle-N ──> forget-N ──> retire-app-N ──> retire-holder-N ──> (holder, app) ──> standby-N ──> probe-N
//! ```
use super::{
    client::key,
    files,
    names::Subnet,
    rollout::{Rollout, rollout, rows_of},
    routes::{FIRST_PLACE, Route, Routes, wanted},
};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use syp_engine::{
    cost,
    graph::RunKind,
    plan::{Effect, InDoubt, Plan, PlanNode, Policy},
    revision,
    step::{Have, Owner},
};
use syp_proto::v1;

/// Calls that were accepted land within this.
const SETTLE_MS: i64 = 2_000;
/// As long as the longest grace, and a little.
const DRAIN_MS: i64 = 3_700_000;
/// How long requests wait for the only replica while it is replaced.
const HOLD_MS: u64 = 30_000;

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
pub fn plan(kind: RunKind, owner: &Owner, spec: &v1::InstanceSpec, facts: &Value, have: &Have<'_>) -> Plan {
    let template = revision::template(spec, facts);
    let mut b = Builder { owner, spec, facts, have, template, nodes: Vec::new() };
    match kind {
        RunKind::Drain | RunKind::Teardown => {
            b.node("drain", "docker.drain@1", &[], &Value::Null, policy(DRAIN_MS, 3));
        }
        RunKind::Update => b.update(),
        _ => b.everything(),
    }
    Plan { target: "docker".into(), version: 1, nodes: b.nodes }
}

/// How many replicas the network of an instance has room for; `None` before there is one.
pub(super) fn room(have: &Have<'_>) -> Option<u32> {
    let row = have.live().find(|r| r.node == "network")?;
    let outputs: Value = serde_json::from_str(&row.outputs).ok()?;
    Some(Subnet::parse(outputs["subnet"].as_str()?)?.replicas())
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
        let last = self.nodes.len() - 1;
        &mut self.nodes[last]
    }

    fn effect(&mut self, id: &str, kind: &str, after: &[&str], params: &Value) -> &mut Effect {
        let key = key(self.owner, id);
        let node = self.node(id, kind, after, params, policy(60_000, 5));
        node.effect.insert(Effect { provider: "docker".into(), key, ..Default::default() })
    }

    /// Tells the gate where to send requests.
    fn route(&mut self, id: &str, after: &[String], routes: &Routes) -> &mut PlanNode {
        let after: Vec<_> = after.iter().map(String::as_str).collect();
        let node = self.node(id, "docker.config@1", &after, &Value::Null, policy(15_000, 5));
        node.routes = routes.to_json();
        node
    }

    /// Waits until these are ready, and tries that nobody gets in without a token.
    fn probe(&mut self, id: &str, after: &[String], slots: &[u32]) {
        let after: Vec<_> = after.iter().map(String::as_str).collect();
        self.node(id, "docker.probe@1", &after, &json!({ "slots": slots }), policy(120_000, 3));
    }

    /// Waits until these have nothing to do any more.
    fn settle(&mut self, id: &str, after: &str, slots: &[u32]) {
        self.node(id, "docker.settle@1", &[after], &json!({ "slots": slots }), policy(DRAIN_MS, 3));
    }

    /// One replica of the revision; the nodes that a probe of it comes after.
    fn replica(&mut self, n: u32, base: &str) -> Vec<String> {
        let facts = self.facts;
        let volumes: Vec<&str> =
            facts["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (holder, isolation, app) = (format!("holder-{n}"), format!("isolation-{n}"), format!("app-{n}"));
        let template = self.template.clone();
        let place = json!({ "place": n + FIRST_PLACE, "template": template });
        self.effect(&holder, "docker.holder@1", &[base], &place);
        let held = json!({ "holder": holder });
        self.node(&isolation, "docker.isolation@1", &[&holder], &held, policy(10_000, 3));
        let image = if base == "network" { "image" } else { base };
        let mut after = vec![holder.clone()];
        if base == "network" {
            after.push(image.into());
        }
        for (m, path) in volumes.iter().enumerate() {
            let volume = format!("volume-{n}-{m}");
            self.effect(&volume, "docker.volume@1", &[image], &json!({ "path": path }));
            after.push(volume);
        }
        if files::needed(self.spec) {
            let node = format!("files-{n}");
            self.effect(&node, files::KIND, &[base], &json!({ "template": template }));
            after.push(node);
        }
        let after: Vec<_> = after.iter().map(String::as_str).collect();
        let params = json!({ "holder": holder, "replica": n, "template": template });
        let hourly = facts["replica_hourly"].as_str().and_then(|h| h.parse::<Decimal>().ok());
        let currency = facts["currency"].as_str().unwrap_or_default();
        let effect = self.effect(&app, "docker.app@1", &after, &params);
        effect.billed = true;
        effect.hourly = hourly.map(|h| cost::money(h, currency));
        vec![isolation, app]
    }

    /// Removes a replica; the node after which it is gone.
    fn retire(&mut self, n: u32, after: &str) -> String {
        let mut last = after.to_owned();
        for row in rows_of(self.have, n) {
            let id = format!("retire-{}", row.node);
            let node = self.node(&id, &row.kind, &[&last], &Value::Null, policy(60_000, 5));
            node.retires = Some(row.ordinal);
            last = id;
        }
        last
    }

    /// Routes to slots of this revision, and to others as the gate knows them.
    fn routes(&self, open: &[u32], closed: &[u32], known: &[Route], hold_ms: u64) -> Routes {
        let mut replicas: Vec<_> = open.iter().map(|n| Route::of(*n, self.spec, false)).collect();
        replicas.extend(closed.iter().map(|n| Route::of(*n, self.spec, true)));
        let ours = |n: u32| open.contains(&n) || closed.contains(&n);
        replicas.extend(known.iter().filter(|r| !ours(r.slot)).cloned());
        replicas.sort_by_key(|r| r.slot);
        Routes { replicas, hold_ms }
    }

    /// What the gate knows of the given slots.
    fn known(&self, slots: &[u32], closed: Option<bool>) -> Vec<Route> {
        let stored = serde_json::from_str(self.have.routes).unwrap_or_default();
        let mut all = Routes::read(&stored, self.have.serving).replicas;
        all.retain(|r| slots.contains(&r.slot));
        all.iter_mut().for_each(|r| r.closed = closed.unwrap_or(r.closed));
        all
    }

    fn rollout(&self) -> Rollout {
        let wanted = wanted(self.spec);
        let has_volumes = self.facts["volumes"].as_array().is_some_and(|v| !v.is_empty());
        let room = room(self.have).unwrap_or(wanted);
        rollout(self.have, &self.template, wanted, room, has_volumes)
    }

    fn everything(&mut self) {
        let r = self.rollout();
        let size = json!({ "replicas": wanted(self.spec) });
        self.effect("network", "docker.network@1", &[], &size);
        self.effect("gate", "docker.gate@1", &["network"], &Value::Null);
        // last of what an update rests on: where the image is lost with all else, 'set --image' finds the rest repaired
        self.node("image", "docker.image@1", &["gate"], &Value::Null, policy(900_000, 3));
        let open: Vec<u32> = [&r.keep[..], &r.make[..]].concat();
        // what an update that failed left behind gets nothing more; what will be replaced where it is goes on until then
        let mut others = self.known(&r.retire, Some(true));
        others.extend(self.known(&r.replace, None));
        // with nothing of this revision there yet, callers wait for the first one that comes back
        let hold_ms = if r.keep.is_empty() && !r.replace.is_empty() { HOLD_MS } else { 0 };
        let routes = self.routes(&open, &[], &others, hold_ms);
        self.route("config", &["gate".into()], &routes);
        let mut before_probe = vec!["config".to_owned()];
        for n in &open {
            before_probe.extend(self.replica(*n, "network"));
        }
        if !open.is_empty() {
            self.probe("probe", &before_probe, &open);
            before_probe = vec!["probe".into()];
        }
        let last = self.in_place(&r, open, &before_probe);
        self.clean_up(&r, &last, "last");
    }

    fn update(&mut self) {
        let r = self.rollout();
        self.node("image", "docker.image@1", &[], &Value::Null, policy(900_000, 3));
        let others = [&r.replace[..], &r.retire[..]].concat();
        let mut after = vec!["image".to_owned()];
        for n in &r.make {
            after.extend(self.replica(*n, "image"));
        }
        if !r.make.is_empty() {
            let known = self.known(&others, None);
            let routes = self.routes(&r.keep, &r.make, &known, 0);
            self.route("standby", &after, &routes);
            self.probe("probe", &["standby".into()], &r.make);
            after = vec!["probe".into()];
        }
        let open = [&r.keep[..], &r.make[..]].concat();
        let last = self.in_place(&r, open, &after);
        self.clean_up(&r, &last, "switch");
        if let Some(switch) = self.nodes.iter_mut().find(|n| n.id == "switch") {
            switch.activates = true;
        }
    }

    /// Replaces one replica after another; `open` are those of this revision that serve already.
    fn in_place(&mut self, r: &Rollout, mut open: Vec<u32>, after: &[String]) -> Vec<String> {
        let mut last = after.to_vec();
        for (at, n) in r.replace.iter().enumerate() {
            let later = self.known(&[&r.replace[at + 1..], &r.retire[..]].concat(), None);
            let mut known = self.known(&[*n], Some(true));
            known.extend(later.clone());
            let (close, settle) = (format!("close-{n}"), format!("settle-{n}"));
            let routes = self.routes(&open, &[], &known, HOLD_MS);
            self.route(&close, &last, &routes);
            self.settle(&settle, &close, &[*n]);
            // what the gate found out about the old one must not be taken for the new one in its place
            let forget = format!("forget-{n}");
            let routes = self.routes(&open, &[], &later, HOLD_MS);
            self.route(&forget, std::slice::from_ref(&settle), &routes);
            let gone = self.retire(*n, &forget);
            let made = self.replica(*n, &gone);
            let (standby, probe) = (format!("standby-{n}"), format!("probe-{n}"));
            let routes = self.routes(&open, &[*n], &later, HOLD_MS);
            self.route(&standby, &made, &routes);
            self.probe(&probe, &[standby], &[*n]);
            open.push(*n);
            last = vec![probe];
        }
        last
    }

    /// From here on only this revision gets requests; what else there is finishes what it has, and goes.
    fn clean_up(&mut self, r: &Rollout, after: &[String], switch: &str) {
        if switch != "switch" && r.retire.is_empty() && r.replace.is_empty() {
            return;
        }
        let open = [&r.keep[..], &r.make[..], &r.replace[..]].concat();
        let known = self.known(&r.retire, Some(true));
        let routes = self.routes(&open, &[], &known, 0);
        self.route(switch, after, &routes);
        if r.retire.is_empty() {
            return;
        }
        self.settle("settle", switch, &r.retire);
        let routes = self.routes(&open, &[], &[], 0);
        self.route("final", &["settle".into()], &routes);
        for n in &r.retire {
            self.retire(*n, "final");
        }
    }
}

#[cfg(test)]
mod tests;
