//! Nodes of a cluster that somebody bills: what a vCPU and a GiB cost for an hour, by kind of node. Decimal and pure.
use super::local::{given_bytes, given_millis};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use syp_engine::{
    clock::{Millis, millis as millis_of},
    cost,
};
use syp_proto::v1;

/// What is known of a node by its labels; of a price: which nodes it is for. Empty: not known, or any.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Kind {
    /// `node.kubernetes.io/instance-type`.
    #[serde(default)]
    pub instance_type: String,
    /// `topology.kubernetes.io/region`.
    #[serde(default)]
    pub region: String,
    /// `topology.kubernetes.io/zone`.
    #[serde(default)]
    pub zone: String,
}

/// Of an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// Which nodes.
    pub kind: Kind,
    /// Of a vCPU.
    pub per_vcpu: Decimal,
    /// Of a GiB.
    pub per_gib: Decimal,
    currency: String,
}

/// What the nodes of one cluster cost: the newest price of each kind.
#[derive(Clone, Debug, Default)]
pub struct Prices(Vec<(Millis, Price)>);

/// What a spec costs.
pub struct Rate {
    /// Per hour, all replicas.
    pub hourly: Decimal,
    /// What it is made of.
    pub lines: Vec<v1::offer::Line>,
    /// Where the price is from.
    pub source: String,
}

// === impl Kind ===

impl Kind {
    /// How much a price for such nodes says, if it is for this one: a machine more than a zone, a zone more than its region.
    fn fits(&self, node: &Self) -> Option<u8> {
        let parts = [
            (&self.region, &node.region, 1),
            (&self.zone, &node.zone, 2),
            (&self.instance_type, &node.instance_type, 4),
        ];
        parts.iter().try_fold(0, |sum, (said, is, weight)| match said.as_str() {
            "" => Some(sum),
            said if said == is.as_str() => Some(sum + weight),
            _ => None,
        })
    }

    /// `m5.large in eu-west-1a`.
    pub fn words(&self) -> String {
        let place = if self.zone.is_empty() { &self.region } else { &self.zone };
        match (self.instance_type.as_str(), place.as_str()) {
            ("", "") => "any node".into(),
            ("", place) => format!("nodes in {place}"),
            (kind, "") => kind.into(),
            (kind, place) => format!("{kind} in {place}"),
        }
    }
}

// === impl Price ===

impl Price {
    /// From the API; `None` when a number is none.
    fn from_api(t: &v1::Tariff) -> Option<Self> {
        let kind =
            Kind { instance_type: t.instance_type.clone(), region: t.region.clone(), zone: t.zone.clone() };
        let (per_vcpu, per_gib) = (t.per_vcpu_hour.parse().ok()?, t.per_gib_hour.parse().ok()?);
        Some(Self { kind, per_vcpu, per_gib, currency: t.currency_code.clone() })
    }

    /// Of one replica of this spec.
    fn of_one(&self, spec: &v1::InstanceSpec) -> (Decimal, Decimal) {
        let cores = Decimal::from(given_millis(spec).0) / Decimal::ONE_THOUSAND;
        let gib = Decimal::from(given_bytes(spec).0) / Decimal::from(1u64 << 30);
        (cores * self.per_vcpu, gib * self.per_gib)
    }

    fn rate(&self, target: &str, spec: &v1::InstanceSpec, dearest: bool) -> Rate {
        let replicas = Decimal::from(syp_engine::scaling::range(spec).0);
        let ((millis, cpu_note), (bytes, mem_note)) = (given_millis(spec), given_bytes(spec));
        let cores = Decimal::from(millis) / Decimal::ONE_THOUSAND * replicas;
        let gib = Decimal::from(bytes) / Decimal::from(1u64 << 30) * replicas;
        let (cpu, mem) = self.of_one(spec);
        let line = |kind: &str, description: String, amount: Decimal| v1::offer::Line {
            kind: kind.into(),
            description,
            hourly: Some(cost::money(amount, &self.currency)),
            shared: false,
        };
        let of = |n: Decimal, unit: &str, price: Decimal, note: &str| {
            let (n, price) = (n.normalize(), price.normalize());
            format!("{n} {unit} x {price} {}/h{note}", self.currency)
        };
        let lines = vec![
            line("cpu", of(cores, "vCPU", self.per_vcpu, cpu_note), cpu * replicas),
            line("memory", of(gib, "GiB", self.per_gib, mem_note), mem * replicas),
        ];
        let dearest = if dearest { ", the dearest that it may run on" } else { "" };
        Rate {
            hourly: (cpu + mem) * replicas,
            lines,
            source: format!("requests x price of {} (tariff of {target}{dearest})", self.kind.words()),
        }
    }
}

// === impl Prices ===

impl Prices {
    /// Those that were set for a target, oldest first.
    pub fn new(set: &[v1::Tariff], target: &str) -> Self {
        let mut out = Self::default();
        for t in set.iter().filter(|t| t.target == target) {
            // what was set was checked before it was kept
            let _ = out.set(t);
        }
        out
    }

    /// Another one; false when a number is none.
    pub fn set(&mut self, t: &v1::Tariff) -> bool {
        let Some(price) = Price::from_api(t) else { return false };
        self.0.retain(|(_, p)| p.kind != price.kind);
        self.0.push((t.from_time.as_ref().map_or(0, millis_of), price));
        true
    }

    /// Is there any?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The price that says most about a node.
    fn of(&self, node: &Kind) -> Option<&Price> {
        let fit = self.0.iter().filter_map(|(_, p)| Some((p.kind.fits(node)?, p)));
        fit.max_by_key(|(says, _)| *says).map(|(_, p)| p)
    }

    /// What a spec costs on these nodes: where it may run on several, on the dearest. Nodes that nobody may see are of no kind.
    ///
    /// # Errors
    /// Why nobody knows, in words.
    pub fn rate(&self, target: &str, spec: &v1::InstanceSpec, nodes: &[Kind]) -> Result<Rate, String> {
        if self.is_empty() {
            return Err(format!("unpriced: nobody has said what {target} costs"));
        }
        let unseen = [Kind::default()];
        let nodes = if nodes.is_empty() { &unseen } else { nodes };
        let mut prices = Vec::new();
        for node in nodes {
            let Some(p) = self.of(node) else {
                return Err(format!("unpriced: the tariff of {target} has no price for {}", node.words()));
            };
            prices.push(p);
        }
        prices.dedup();
        let sum = |p: &&&Price| {
            let (cpu, mem) = p.of_one(spec);
            cpu + mem
        };
        match prices.iter().max_by_key(sum) {
            Some(p) => Ok(p.rate(target, spec, prices.len() > 1)),
            None => Err(format!("unpriced: {target} has no node")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tariff(vcpu: &str, gib: &str, instance_type: &str, region: &str, zone: &str) -> v1::Tariff {
        v1::Tariff {
            target: "k8s:prod".into(),
            currency_code: "EUR".into(),
            per_vcpu_hour: vcpu.into(),
            per_gib_hour: gib.into(),
            instance_type: instance_type.into(),
            region: region.into(),
            zone: zone.into(),
            ..Default::default()
        }
    }

    fn node(instance_type: &str, region: &str, zone: &str) -> Kind {
        Kind { instance_type: instance_type.into(), region: region.into(), zone: zone.into() }
    }

    fn spec(cpu: &str, memory: &str, replicas: i32) -> v1::InstanceSpec {
        v1::InstanceSpec {
            resources: Some(v1::Resources { cpu: cpu.into(), memory: memory.into(), ..Default::default() }),
            scaling: Some(v1::Scaling { min: replicas, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn hand_computed() {
        let all = Prices::new(&[tariff("0.0333", "0.00447", "", "", "")], "k8s:prod");
        // 3 x 0.25 vCPU x 0.0333 = 0.024975; 3 x 0.5 GiB x 0.00447 = 0.006705; together 0.03168 EUR/h
        let r = all.rate("k8s:prod", &spec("250m", "512Mi", 3), &[]).unwrap();
        assert_eq!(r.hourly, Decimal::new(3168, 5));
        let said: Vec<_> = r.lines.iter().map(|l| l.description.as_str()).collect();
        assert_eq!(said, ["0.75 vCPU x 0.0333 EUR/h", "1.5 GiB x 0.00447 EUR/h"]);
        let sum: Decimal = r.lines.iter().filter_map(|l| l.hourly.as_ref()).map(cost::decimal).sum();
        assert_eq!(sum, r.hourly, "the lines add up to the rate");
        assert_eq!(r.source, "requests x price of any node (tariff of k8s:prod)");
        // without limits: 0.5 vCPU and 256 MiB are assumed: 0.01665 + 0.0011175
        let r = all.rate("k8s:prod", &spec("", "", 1), &[]).unwrap();
        assert_eq!(r.hourly, Decimal::new(177_675, 7));
        assert!(r.lines[0].description.ends_with("(no limit set: assumed)"));
    }

    #[test]
    fn the_price_that_says_most_about_a_node_counts_and_the_newest_of_those() {
        let set = [
            tariff("1", "0", "", "", ""),
            tariff("2", "0", "", "eu", ""),
            tariff("3", "0", "", "", "eu-a"),
            tariff("4", "0", "big", "", ""),
            tariff("5", "0", "big", "eu", ""),
            tariff("9", "0", "", "", ""),
            v1::Tariff { target: "k8s:other".into(), ..tariff("7", "0", "big", "eu", "eu-a") },
        ];
        let all = Prices::new(&set, "k8s:prod");
        let of =
            |n: Kind| all.rate("k8s:prod", &spec("1", "1Gi", 1), &[n]).map(|r| r.hourly.to_string()).unwrap();
        assert_eq!(of(node("small", "us", "us-a")), "9");
        assert_eq!(of(node("small", "eu", "eu-b")), "2");
        assert_eq!(of(node("small", "eu", "eu-a")), "3");
        assert_eq!(of(node("big", "us", "us-a")), "4");
        assert_eq!(of(node("big", "eu", "eu-a")), "5");
    }

    #[test]
    fn on_several_kinds_of_nodes_the_dearest_counts_for_this_very_spec() {
        // one is dear for its cores, the other for its memory
        let all =
            Prices::new(&[tariff("4", "1", "cpu", "", ""), tariff("1", "2", "mem", "", "")], "k8s:prod");
        let nodes = [node("cpu", "", ""), node("mem", "", "")];
        let r = all.rate("k8s:prod", &spec("1", "1Gi", 1), &nodes).unwrap();
        assert_eq!((r.hourly, r.source.contains("price of cpu")), (5.into(), true));
        assert!(r.source.contains("the dearest that it may run on"), "{}", r.source);
        let r = all.rate("k8s:prod", &spec("1", "8Gi", 1), &nodes).unwrap();
        assert_eq!((r.hourly, r.source.contains("price of mem")), (17.into(), true));
    }

    #[test]
    fn what_nobody_has_priced_is_said_and_never_0() {
        let one = spec("1", "1Gi", 1);
        let why = |all: &Prices, nodes: &[Kind]| all.rate("k8s:prod", &one, nodes).err().unwrap();
        assert_eq!(why(&Prices::default(), &[]), "unpriced: nobody has said what k8s:prod costs");
        let all = Prices::new(&[tariff("4", "1", "big", "", "")], "k8s:prod");
        assert_eq!(
            why(&all, &[node("big", "", ""), node("small", "eu", "eu-a")]),
            "unpriced: the tariff of k8s:prod has no price for small in eu-a"
        );
        assert_eq!(why(&all, &[]), "unpriced: the tariff of k8s:prod has no price for any node");
        let mut all = all;
        assert!(!all.set(&tariff("much", "1", "", "", "")), "no number");
    }
}
