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

/// What one pod asks for.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// Thousandths of a core.
    pub millis: u64,
    /// Of memory.
    pub bytes: u64,
}

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

// === impl Requests ===

impl Requests {
    /// Of the app.
    fn of(spec: &v1::InstanceSpec) -> Self {
        Self { millis: given_millis(spec).0, bytes: given_bytes(spec).0 }
    }

    fn cores(self) -> Decimal {
        Decimal::from(self.millis) / Decimal::ONE_THOUSAND
    }

    fn gib(self) -> Decimal {
        Decimal::from(self.bytes) / Decimal::from(1u64 << 30)
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

    /// Of so much, for its cores and its memory.
    fn of(&self, r: Requests) -> (Decimal, Decimal) {
        (r.cores() * self.per_vcpu, r.gib() * self.per_gib)
    }

    /// Of one replica of this spec, with what is beside the app in each.
    fn of_one(&self, spec: &v1::InstanceSpec, beside: Requests) -> Decimal {
        let [(cpu, mem), (cpu_beside, mem_beside)] = [self.of(Requests::of(spec)), self.of(beside)];
        cpu + mem + cpu_beside + mem_beside
    }

    fn rate(&self, target: &str, spec: &v1::InstanceSpec, beside: Requests, dearest: bool) -> Rate {
        let replicas = Decimal::from(syp_engine::scaling::range(spec).0);
        let (cpu_note, mem_note) = (given_millis(spec).1, given_bytes(spec).1);
        let one = Requests::of(spec);
        let (cores, gib) = (one.cores() * replicas, one.gib() * replicas);
        let ((cpu, mem), (cpu_beside, mem_beside)) = (self.of(one), self.of(beside));
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
            line(
                "gate",
                format!(
                    "{} vCPU and {} GiB at the same prices, in each replica",
                    beside.cores().normalize(),
                    beside.gib().normalize()
                ),
                (cpu_beside + mem_beside) * replicas,
            ),
        ];
        let dearest = if dearest { ", the dearest that it may run on" } else { "" };
        Rate {
            hourly: self.of_one(spec, beside) * replicas,
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

    /// What a spec costs on these nodes, with what each pod asks for beside its app: where it may run on several, on the dearest. Nodes that nobody may see are of no kind.
    ///
    /// # Errors
    /// Why nobody knows, in words.
    pub fn rate(
        &self,
        target: &str,
        spec: &v1::InstanceSpec,
        beside: Requests,
        nodes: &[Kind],
    ) -> Result<Rate, String> {
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
        match prices.iter().max_by_key(|p| p.of_one(spec, beside)) {
            Some(p) => Ok(p.rate(target, spec, beside, prices.len() > 1)),
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

    const GATE: Requests = Requests { millis: 10, bytes: 16 << 20 };
    const NOTHING: Requests = Requests { millis: 0, bytes: 0 };

    #[test]
    fn hand_computed() {
        let all = Prices::new(&[tariff("0.0333", "0.00447", "", "", "")], "k8s:prod");
        // 3 x 0.25 vCPU x 0.0333 = 0.024975; 3 x 0.5 GiB x 0.00447 = 0.006705; the gates 3 x (0.01 x 0.0333 + 0.015625 x 0.00447)
        // = 0.00120853125; together 0.03288853125 EUR/h
        let r = all.rate("k8s:prod", &spec("250m", "512Mi", 3), GATE, &[]).unwrap();
        assert_eq!(r.hourly, Decimal::new(3_288_853_125, 11));
        let said: Vec<_> = r.lines.iter().map(|l| l.description.as_str()).collect();
        let gate = "0.01 vCPU and 0.015625 GiB at the same prices, in each replica";
        assert_eq!(said, ["0.75 vCPU x 0.0333 EUR/h", "1.5 GiB x 0.00447 EUR/h", gate]);
        let sum: Decimal = r.lines.iter().filter_map(|l| l.hourly.as_ref()).map(cost::decimal).sum();
        assert_eq!(sum, r.hourly.round_dp(9), "the lines add up to the rate");
        assert_eq!(r.source, "requests x price of any node (tariff of k8s:prod)");
        // without limits: 0.5 vCPU and 256 MiB are assumed: 0.01665 + 0.0011175
        let r = all.rate("k8s:prod", &spec("", "", 1), NOTHING, &[]).unwrap();
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
        let of = |n: Kind| {
            all.rate("k8s:prod", &spec("1", "1Gi", 1), NOTHING, &[n]).map(|r| r.hourly.to_string()).unwrap()
        };
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
        let r = all.rate("k8s:prod", &spec("1", "1Gi", 1), NOTHING, &nodes).unwrap();
        assert_eq!((r.hourly, r.source.contains("price of cpu")), (5.into(), true));
        assert!(r.source.contains("the dearest that it may run on"), "{}", r.source);
        let r = all.rate("k8s:prod", &spec("1", "8Gi", 1), NOTHING, &nodes).unwrap();
        assert_eq!((r.hourly, r.source.contains("price of mem")), (17.into(), true));
    }

    #[test]
    fn what_nobody_has_priced_is_said_and_never_0() {
        let one = spec("1", "1Gi", 1);
        let why = |all: &Prices, nodes: &[Kind]| all.rate("k8s:prod", &one, NOTHING, nodes).err().unwrap();
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
