//! What a cluster and a namespace have room for, in figures and in words. Pure.
use super::own::{GATE, Own, SHORT};
use crate::prices::nodes::Kind;
use k8s_openapi::{
    api::core::v1::{LimitRange, Node, ResourceQuota},
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::{BTreeMap, BTreeSet};
use syp_engine::api::validate::{cpu_millis, memory_bytes};
use syp_proto::v1;

/// API groups of networks that enforce NetworkPolicy.
const ENFORCERS: [(&str, &str); 4] = [
    ("crd.projectcalico.org", "Calico"),
    ("cilium.io", "Cilium"),
    ("crd.antrea.io", "Antrea"),
    ("k8s.ovn.org", "OVN-Kubernetes"),
];

/// The label that says which machine a node is.
const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";

/// The network of a cluster that serves these API groups, where they tell that it enforces NetworkPolicy.
pub fn enforcer(groups: &[String]) -> Option<&'static str> {
    ENFORCERS.iter().find(|(group, _)| groups.iter().any(|g| g == group)).map(|(_, name)| *name)
}

/// The nodes of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All of them.
    pub nodes: usize,
    /// Ready, and not cordoned.
    pub usable: usize,
    /// Thousandths of a core that pods may have on those.
    pub millis: u64,
    /// Bytes that pods may have on those.
    pub bytes: u64,
    /// How many there are of each kind of machine.
    pub types: BTreeMap<String, usize>,
}

// === impl Census ===

impl Census {
    /// Counts.
    pub fn of(nodes: &[Node]) -> Self {
        let mut out = Self { nodes: nodes.len(), ..Self::default() };
        for n in nodes.iter().filter(|n| usable(n)) {
            out.usable += 1;
            let has = n.status.as_ref().and_then(|s| s.allocatable.as_ref());
            let of = |what: &str| has.and_then(|h| h.get(what)).map(|q| q.0.as_str());
            out.millis += of("cpu").and_then(cpu_millis).unwrap_or(0);
            out.bytes += of("memory").and_then(memory_bytes).unwrap_or(0);
            let kind = kind(n).instance_type;
            if !kind.is_empty() {
                *out.types.entry(kind).or_default() += 1;
            }
        }
        out
    }

    /// `3 of 4 take pods: 12 cores, 46.5 GiB; 2 m5.large, 1 m5.xlarge`.
    pub fn words(&self) -> String {
        let cores = decimal(self.millis, 1000);
        let gib = decimal(self.bytes / (1 << 20), 1 << 10);
        let types: Vec<_> = self.types.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        let types = if types.is_empty() { String::new() } else { format!("; {}", types.join(", ")) };
        format!("{} of {} take pods: {cores} cores, {gib} GiB{types}", self.usable, self.nodes)
    }
}

/// One decimal place, where there is one to show.
fn decimal(n: u64, by: u64) -> String {
    let tenths = n * 10 / by;
    if tenths.is_multiple_of(10) {
        (tenths / 10).to_string()
    } else {
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}

/// What its labels say of it.
pub fn kind(n: &Node) -> Kind {
    let label =
        |name: &str| n.metadata.labels.as_ref().and_then(|l| l.get(name)).cloned().unwrap_or_default();
    Kind {
        instance_type: label(INSTANCE_TYPE),
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
    }
}

/// Does it take pods?
pub fn usable(n: &Node) -> bool {
    let conditions = n.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    ready && !n.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false)
}

type Figures = BTreeMap<String, Quantity>;
type Parse = fn(&str) -> Option<u64>;

/// What quotas and limits of a namespace leave for a new instance.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Name, hard limits, what is used of them.
    quotas: Vec<(String, Figures, Figures)>,
    /// Some quota, perhaps of some pods alone, wants every container to say how many cores it may have.
    wants_cores: bool,
    /// What a container gets that does not say (requests, limits).
    default_request: Figures,
    default_limit: Figures,
    /// What a container may have at most.
    max: Figures,
}

/// Containers of the pod that tries the app's port.
const TRY: u64 = 2;

// === impl Room ===

impl Room {
    /// Of what the namespace says.
    pub fn new(quotas: &[ResourceQuota], limits: &[LimitRange]) -> Self {
        let mut out = Self::default();
        for q in quotas {
            let status = q.status.clone().unwrap_or_default();
            let hard = status.hard.or_else(|| q.spec.clone().unwrap_or_default().hard).unwrap_or_default();
            out.wants_cores |= hard.contains_key("limits.cpu");
            // one of some pods alone may or may not count ours
            let scoped = q.spec.as_ref().is_some_and(|s| s.scopes.is_some() || s.scope_selector.is_some());
            if !scoped {
                let name = q.metadata.name.clone().unwrap_or_default();
                out.quotas.push((name, hard, status.used.unwrap_or_default()));
            }
        }
        let items = limits.iter().filter_map(|l| l.spec.as_ref()).flat_map(|s| &s.limits);
        for i in items.filter(|i| i.type_ == "Container") {
            out.default_request.extend(i.default_request.clone().unwrap_or_default());
            out.default_limit.extend(i.default.clone().unwrap_or_default());
            out.max.extend(i.max.clone().unwrap_or_default());
        }
        out
    }

    /// The most cores that a container of ours may say it has, in thousandths; `None`: it need not say it.
    pub fn cores(&self) -> Option<u64> {
        let most = figure(&self.max, "cpu", cpu_millis).unwrap_or(u64::MAX);
        (self.wants_cores && !self.default_limit.contains_key("cpu")).then_some(most)
    }

    /// What stands in the way of a spec, each in words.
    pub fn problems(&self, spec: &v1::InstanceSpec) -> Vec<String> {
        let mut out = self.unsaid(spec);
        for (name, hard, used) in &self.quotas {
            for (what, most) in hard {
                let Some((needs, parse)) = self.needs(spec, what) else { continue };
                let taken = figure(used, what, parse).unwrap_or(0);
                if parse(&most.0).is_some_and(|most| most.saturating_sub(taken) < needs) {
                    let used = used.get(what).map_or("0", |q| q.0.as_str());
                    out.push(format!(
                        "quota '{name}' leaves too little of {what}: {used} of {} is used",
                        most.0
                    ));
                }
            }
        }
        out
    }

    /// What would keep each of its pods from being made, however much is left: what has to be said and is not, what is too much.
    pub fn unsaid(&self, spec: &v1::InstanceSpec) -> Vec<String> {
        let mut out = Vec::new();
        for (what, asked, parse) in asked(spec) {
            if let (Some(asked), Some(most)) = (asked, self.max.get(what))
                && parse(&most.0).is_some_and(|m| asked > m)
            {
                out.push(format!("a container may have at most {} of {what} there (LimitRange)", most.0));
            }
        }
        for (name, hard, _) in &self.quotas {
            let (mut unsaid, mut add) = (Vec::new(), BTreeSet::new());
            for (what, kind, defaults) in [
                ("cpu", "cpu", &self.default_request),
                ("requests.cpu", "cpu", &self.default_request),
                ("limits.cpu", "cpu", &self.default_limit),
                ("memory", "memory", &self.default_request),
                ("requests.memory", "memory", &self.default_request),
                ("limits.memory", "memory", &self.default_limit),
            ] {
                let says = asked(spec).iter().any(|(k, asked, _)| *k == kind && asked.is_some());
                if hard.contains_key(what) && !says && !defaults.contains_key(kind) {
                    unsaid.push(what);
                    add.insert(format!("--{kind}"));
                }
            }
            if !unsaid.is_empty() {
                let add: Vec<_> = add.into_iter().collect();
                out.push(format!(
                    "quota '{name}' wants every container to say {}, and no LimitRange says it for those that don't: add {}",
                    unsaid.join(", "),
                    add.join(" and ")
                ));
            }
        }
        out
    }

    /// What a new instance takes of a quota, the pod that tries the app's port among it, and how that is read; `None`: nothing.
    fn needs(&self, spec: &v1::InstanceSpec, what: &str) -> Option<(u64, Parse)> {
        let pods = u64::from(syp_engine::scaling::range(spec).0);
        let [(_, cpu, _), (_, memory, _)] = asked(spec);
        let all =
            |app: u64, gate: u64, short: u64| pods.saturating_mul(app.saturating_add(gate)) + TRY * short;
        let request = |kind: &str, parse| figure(&self.default_request, kind, parse).unwrap_or(0);
        let limit = |kind: &str, parse| figure(&self.default_limit, kind, parse);
        Some(match what {
            "pods" | "count/pods" => (pods + 1, |n| n.parse().ok()),
            "cpu" | "requests.cpu" => {
                let app = cpu.unwrap_or_else(|| request("cpu", cpu_millis));
                (all(app, GATE.millis, SHORT.millis), cpu_millis)
            }
            "memory" | "requests.memory" => {
                let app = memory.unwrap_or_else(|| request("memory", memory_bytes));
                (all(app, GATE.bytes, SHORT.bytes), memory_bytes)
            }
            "limits.cpu" => {
                let default = limit("cpu", cpu_millis).unwrap_or(0);
                let ours = |own: Own| self.cores().map_or(default, |most| own.cores(most));
                (all(cpu.unwrap_or(default), ours(GATE), ours(SHORT)), cpu_millis)
            }
            "limits.memory" => {
                let app = memory.or_else(|| limit("memory", memory_bytes)).unwrap_or(0);
                (all(app, GATE.most_bytes, SHORT.most_bytes), memory_bytes)
            }
            _ => return None,
        })
    }

    /// What is used of each.
    pub fn words(&self) -> String {
        let one = |(name, hard, used): &(String, Figures, Figures)| {
            let each: Vec<_> = hard
                .iter()
                .map(|(what, most)| format!("{what} {} of {}", used.get(what).map_or("0", |q| &q.0), most.0))
                .collect();
            format!("{name}: {}", each.join(", "))
        };
        let all: Vec<_> = self.quotas.iter().map(one).collect();
        let limited =
            !(self.default_limit.is_empty() && self.default_request.is_empty() && self.max.is_empty());
        let limits = if limited { "; a LimitRange says what containers have" } else { "" };
        if all.is_empty() { format!("none{limits}") } else { format!("{}{limits}", all.join("; ")) }
    }
}

/// What the app asks for.
fn asked(spec: &v1::InstanceSpec) -> [(&'static str, Option<u64>, Parse); 2] {
    let r = spec.resources.clone().unwrap_or_default();
    let said = |text: &str, parse: Parse| Some(text).filter(|t| !t.is_empty()).and_then(parse);
    [("cpu", said(&r.cpu, cpu_millis), cpu_millis), ("memory", said(&r.memory, memory_bytes), memory_bytes)]
}

fn figure(of: &Figures, what: &str, parse: Parse) -> Option<u64> {
    of.get(what).and_then(|q| parse(&q.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn node(cpu: &str, memory: &str, kind: &str, ready: bool, cordoned: bool) -> Node {
        from_value(json!({
            "metadata": { "labels": { INSTANCE_TYPE: kind } },
            "spec": { "unschedulable": cordoned },
            "status": {
                "allocatable": { "cpu": cpu, "memory": memory },
                "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn only_nodes_that_take_pods_count() {
        let all = [
            node("3920m", "16393220Ki", "m5.xlarge", true, false),
            node("2", "4Gi", "m5.large", true, false),
            node("64", "64Gi", "big", true, true),
            node("64", "64Gi", "big", false, false),
        ];
        let c = Census::of(&all);
        assert_eq!((c.nodes, c.usable, c.millis), (4, 2, 5920));
        assert_eq!(c.words(), "2 of 4 take pods: 5.9 cores, 19.6 GiB; 1 m5.large, 1 m5.xlarge");
        assert_eq!(Census::of(&[]).words(), "0 of 0 take pods: 0 cores, 0 GiB");
    }

    #[test]
    fn a_network_is_known_by_what_it_serves() {
        let groups = |g: &[&str]| g.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>();
        assert_eq!(enforcer(&groups(&["apps", "cilium.io"])), Some("Cilium"));
        assert_eq!(enforcer(&groups(&["apps", "networking.k8s.io"])), None);
    }

    fn room(hard: Value, used: Value, limit: Value) -> Room {
        let q = json!({ "metadata": { "name": "q" }, "spec": { "hard": hard }, "status": { "hard": hard, "used": used } });
        let l = json!({ "metadata": { "name": "l" }, "spec": { "limits": [limit] } });
        Room::new(&[from_value(q).unwrap()], &[from_value(l).unwrap()])
    }

    fn spec(cpu: &str, memory: &str, replicas: i32) -> v1::InstanceSpec {
        v1::InstanceSpec {
            resources: Some(v1::Resources { cpu: cpu.into(), memory: memory.into(), ..Default::default() }),
            scaling: Some(v1::Scaling { min: replicas, max: replicas, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn what_a_quota_leaves_must_be_enough_for_all_replicas_and_the_pod_that_tries() {
        let none = json!({ "type": "Container" });
        let r = room(json!({ "pods": "5" }), json!({ "pods": "2" }), none.clone());
        assert!(r.problems(&spec("", "", 2)).is_empty());
        assert_eq!(r.problems(&spec("", "", 3)), ["quota 'q' leaves too little of pods: 2 of 5 is used"]);
        let r = room(json!({ "requests.cpu": "1" }), json!({ "requests.cpu": "400m" }), none);
        // 2 x (250 + 10) + 20 = 540 of 600, 2 x (280 + 10) + 20 = 600, one more is too many
        assert!(r.problems(&spec("280m", "1Gi", 2)).is_empty());
        assert_eq!(r.problems(&spec("281m", "1Gi", 2)).len(), 1);
        assert_eq!(r.words(), "q: requests.cpu 400m of 1");
    }

    #[test]
    fn where_a_quota_wants_limits_somebody_must_say_them() {
        let hard = json!({ "limits.cpu": "4", "limits.memory": "4Gi" });
        let r = room(hard.clone(), json!({}), json!({ "type": "Container" }));
        assert!(r.problems(&spec("1", "1Gi", 1)).is_empty(), "the gate says what is wanted of it");
        assert_eq!(r.cores(), Some(u64::MAX));
        let unsaid = r.problems(&spec("1", "", 1));
        assert!(
            unsaid.len() == 1 && unsaid[0].contains("limits.memory") && unsaid[0].ends_with("add --memory")
        );
        assert_eq!(
            r.unsaid(&spec("", "", 1)),
            [
                "quota 'q' wants every container to say limits.cpu, limits.memory, and no LimitRange says it for those that don't: add --cpu and --memory"
            ]
        );
        let said = json!({ "type": "Container", "default": { "cpu": "100m", "memory": "64Mi" }, "max": { "cpu": "2" } });
        let r = room(hard, json!({}), said);
        assert!(r.problems(&spec("1", "", 1)).is_empty());
        assert_eq!(r.cores(), None, "the LimitRange says it for the gate");
        assert_eq!(
            r.problems(&spec("3", "", 1)),
            ["a container may have at most 2 of cpu there (LimitRange)"]
        );
    }

    #[test]
    fn the_gates_own_limits_count_and_keep_to_what_a_container_may_have() {
        let hard = json!({ "limits.cpu": "2", "limits.memory": "1Gi" });
        let r = room(hard.clone(), json!({ "limits.cpu": "300m" }), json!({ "type": "Container" }));
        // 1 x (1000 + 500) + 2 x 100 = 1700 of 1700
        assert!(r.problems(&spec("1", "512Mi", 1)).is_empty());
        assert_eq!(
            r.problems(&spec("1001m", "512Mi", 1)),
            ["quota 'q' leaves too little of limits.cpu: 300m of 2 is used"]
        );
        // 1 x (640 + 256) + 2 x 64 = 1024 MiB
        assert!(r.problems(&spec("1", "640Mi", 1)).is_empty());
        assert_eq!(r.problems(&spec("1", "641Mi", 1)).len(), 1);
        assert!(r.unsaid(&spec("1", "641Mi", 1)).is_empty(), "what is left is another matter");
        let r = room(hard, json!({}), json!({ "type": "Container", "max": { "cpu": "200m" } }));
        // 4 x (200 + 200) + 2 x 100 = 1800 of 2000
        assert_eq!(r.cores(), Some(200));
        assert!(!r.problems(&spec("200m", "1Mi", 4)).iter().any(|p| p.contains("cpu")));
        assert!(r.problems(&spec("200m", "1Mi", 5)).iter().any(|p| p.contains("limits.cpu")));
    }

    #[test]
    fn a_quota_of_some_pods_alone_is_not_counted_and_the_gate_says_what_it_may_want() {
        let q = json!({ "metadata": { "name": "q" }, "spec": { "hard": { "limits.cpu": "1m" }, "scopes": ["Terminating"] } });
        let r = Room::new(&[from_value(q).unwrap()], &[]);
        assert!(r.problems(&spec("", "", 9)).is_empty());
        assert_eq!(r.cores(), Some(u64::MAX));
        assert_eq!(Room::new(&[], &[]).cores(), None);
    }

    #[test]
    fn what_a_limit_range_says_for_the_app_is_counted() {
        let hard = json!({ "requests.cpu": "1" });
        let said =
            json!({ "type": "Container", "default": { "cpu": "1" }, "defaultRequest": { "cpu": "990m" } });
        let r = room(hard, json!({}), said);
        assert_eq!(
            r.problems(&spec("", "", 1)),
            ["quota 'q' leaves too little of requests.cpu: 0 of 1 is used"]
        );
        assert!(r.problems(&spec("970m", "", 1)).is_empty());
    }
}
