//! Electricity of this machine: a power model times a tariff, in decimal.
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syp_engine::{
    api::validate,
    clock::{Millis, millis as millis_of},
    cost,
    energy::Model,
    tariffs::is_energy,
};
use syp_proto::v1;

/// Price of energy and what a core and a GiB draw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// ISO 4217.
    pub currency: String,
    /// Per kWh.
    pub per_kwh: Decimal,
    /// Watts of one busy core beyond the host's idle ones, its share of fans and supply included.
    pub watts_per_core: Decimal,
    /// Watts of one GiB.
    pub watts_per_gib: Decimal,
    /// Watts of the whole host when it does nothing; `None`: so many a core as is usual.
    #[serde(default)]
    pub idle_watts: Option<Decimal>,
    /// Cores of the host, whose idle watts are shared out by them; 0: not known, and nobody pays for them.
    #[serde(skip)]
    pub host_cores: u32,
}

/// Idle draw a logical core: the average of servers by SPECpower that Cloud Carbon Footprint takes for the least (0.74 W).
const IDLE_MILLIWATTS: i64 = 740;

impl Default for Tariff {
    /// An average European household price, and a core of a small server: 65 W of a processor with eight, through a supply that
    /// takes a fifth for itself and fans.
    fn default() -> Self {
        Self {
            currency: "EUR".into(),
            per_kwh: Decimal::new(30, 2),
            watts_per_core: Decimal::new(10, 0),
            watts_per_gib: Decimal::new(4, 1),
            idle_watts: None,
            host_cores: 0,
        }
    }
}

/// The tariff that counts, and those before it that a look at what was drawn may still reach back to.
#[derive(Clone, Debug)]
pub struct Tariffs(Vec<(Millis, Tariff)>);

/// Looks reach back for some seconds, and over the time in which no engine ran.
const KEPT: usize = 16;

// === impl Tariffs ===

impl Tariffs {
    /// Those that were set, oldest first; without any, `first`.
    pub fn new(set: &[v1::Tariff], first: Tariff) -> Self {
        let one = |t: &v1::Tariff| Some((t.from_time.as_ref().map_or(0, millis_of), Tariff::from_api(t)?));
        let mut all: Vec<_> = set.iter().filter(|t| is_energy(t)).filter_map(one).collect();
        if all.is_empty() {
            all.push((0, first));
        }
        all.drain(..all.len().saturating_sub(KEPT));
        Self(all)
    }

    /// On a host with so many cores.
    #[must_use]
    pub fn of_host(mut self, cores: u32) -> Self {
        self.0.iter_mut().for_each(|(_, t)| t.host_cores = cores);
        self
    }

    /// The one that counts.
    pub fn now(&self) -> &Tariff {
        // there is always one
        &self.0[self.0.len() - 1].1
    }

    /// Another one from a time on. What was set for later than that was not set.
    pub fn set(&mut self, from: Millis, tariff: Tariff) {
        let tariff = Tariff { host_cores: self.now().host_cores, ..tariff };
        self.0.retain(|(at, _)| *at < from);
        self.0.push((from, tariff));
        self.0.drain(..self.0.len().saturating_sub(KEPT));
    }

    /// What an instance of this spec pays for what it draws, from when on.
    pub fn models(&self, spec: &v1::InstanceSpec) -> Vec<(Millis, Model)> {
        self.0.iter().map(|(at, t)| (*at, t.model(spec))).collect()
    }
}

impl Default for Tariffs {
    fn default() -> Self {
        Self(vec![(0, Tariff::default())])
    }
}

// === impl Tariff ===

impl Tariff {
    /// As the API has it.
    pub fn to_api(&self) -> v1::Tariff {
        v1::Tariff {
            currency_code: self.currency.clone(),
            per_kwh: self.per_kwh.to_string(),
            watts_per_core: self.watts_per_core.to_string(),
            watts_per_gib: self.watts_per_gib.to_string(),
            idle_watts: self.idle_watts().to_string(),
            ..Default::default()
        }
    }

    /// From the API; `None` when a number is none.
    pub fn from_api(t: &v1::Tariff) -> Option<Self> {
        Some(Self {
            currency: t.currency_code.clone(),
            per_kwh: t.per_kwh.parse().ok()?,
            watts_per_core: t.watts_per_core.parse().ok()?,
            watts_per_gib: t.watts_per_gib.parse().ok()?,
            // those of former versions had none
            idle_watts: Some(if t.idle_watts.is_empty() {
                Decimal::ZERO
            } else {
                t.idle_watts.parse().ok()?
            }),
            host_cores: 0,
        })
    }

    /// Watts of the whole host when it does nothing.
    pub fn idle_watts(&self) -> Decimal {
        self.idle_watts.unwrap_or_else(|| Decimal::new(IDLE_MILLIWATTS, 3) * Decimal::from(self.host_cores))
    }

    /// The share of the host's cores that one replica reserves, 0 to 1.
    pub fn reserved(&self, spec: &v1::InstanceSpec) -> Decimal {
        if self.host_cores == 0 {
            return Decimal::ZERO;
        }
        let cores = Decimal::from(given_millis(spec).0) / Decimal::ONE_THOUSAND;
        (cores / Decimal::from(self.host_cores)).min(Decimal::ONE)
    }

    /// What an instance of this spec pays for what it draws.
    pub fn model(&self, spec: &v1::InstanceSpec) -> Model {
        Model {
            idle_watts: self.idle_watts(),
            watts_per_core: self.watts_per_core,
            per_kwh: self.per_kwh,
            currency: self.currency.clone(),
            reserved: self.reserved(spec),
        }
    }

    /// The facts of a revision with its price in them: of one replica, so that a plan can price each.
    pub fn price(&self, spec: &v1::InstanceSpec, facts: &Value) -> (Decimal, Vec<v1::offer::Line>, Value) {
        let (hourly, lines) = self.hourly(spec);
        let replicas = Decimal::from(syp_engine::scaling::range(spec).0);
        let mut facts = facts.clone();
        facts["replica_hourly"] = json!((hourly / replicas).normalize().to_string());
        facts["currency"] = json!(self.currency);
        (hourly, lines, facts)
    }

    /// What one replica costs an hour, and of what that is made.
    pub fn replica_in_words(&self, spec: &v1::InstanceSpec) -> String {
        let one = v1::InstanceSpec { scaling: None, ..spec.clone() };
        let (hourly, lines) = self.hourly(&one);
        let of: Vec<_> = lines.iter().map(|l| l.description.as_str()).collect();
        format!("{} {} an hour: {}", hourly.normalize(), self.currency, of.join(", "))
    }

    /// Per hour for all replicas of a spec, with a line for each part.
    pub fn hourly(&self, spec: &v1::InstanceSpec) -> (Decimal, Vec<v1::offer::Line>) {
        let (millis, cpu_note) = given_millis(spec);
        let (bytes, mem_note) = given_bytes(spec);
        let replicas = Decimal::from(syp_engine::scaling::range(spec).0);
        let cores = Decimal::from(millis) / Decimal::from(1000) * replicas;
        let gib = Decimal::from(bytes) / Decimal::from(1u64 << 30) * replicas;
        let price = |watts: Decimal| watts / Decimal::from(1000) * self.per_kwh;
        let (cpu, mem) = (price(cores * self.watts_per_core), price(gib * self.watts_per_gib));
        let share = self.reserved(spec) * replicas;
        let idle = price(share * self.idle_watts());
        let line = |kind: &str, description: String, amount: Decimal| v1::offer::Line {
            kind: kind.into(),
            description,
            hourly: Some(cost::money(amount, &self.currency)),
            shared: false,
        };
        let rate = format!("{} {}/kWh", self.per_kwh.normalize(), self.currency);
        let mut lines = vec![
            line(
                "cpu",
                format!(
                    "{} cores x {} W x {rate}{cpu_note}",
                    cores.normalize(),
                    self.watts_per_core.normalize()
                ),
                cpu,
            ),
            line(
                "memory",
                format!("{} GiB x {} W x {rate}{mem_note}", gib.normalize(), self.watts_per_gib.normalize()),
                mem,
            ),
        ];
        if !idle.is_zero() {
            let of = format!(
                "{} of the host's {} idle W x {rate}",
                share.round_dp(4).normalize(),
                self.idle_watts().normalize()
            );
            lines.push(line("idle", of, idle));
        }
        (cpu + mem + idle, lines)
    }
}

const ASSUMED: &str = " (no limit set: assumed)";

fn given(v: Option<u64>, or: u64) -> (u64, &'static str) {
    v.map_or((or, ASSUMED), |v| (v, ""))
}

/// Bytes of memory that a replica reserves, and whether that is assumed.
pub(super) fn given_bytes(spec: &v1::InstanceSpec) -> (u64, &'static str) {
    let memory = spec.resources.as_ref().map_or("", |r| r.memory.as_str());
    given(validate::memory_bytes(memory).filter(|_| !memory.is_empty()), cost::ASSUMED_BYTES)
}

/// Thousandths of a core that a replica reserves, and whether that is assumed.
pub(super) fn given_millis(spec: &v1::InstanceSpec) -> (u64, &'static str) {
    let cpu = spec.resources.as_ref().map_or("", |r| r.cpu.as_str());
    given(validate::cpu_millis(cpu).filter(|_| !cpu.is_empty()), cost::ASSUMED_MILLICORES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_computed() {
        let t = Tariff::default();
        let spec = v1::InstanceSpec {
            resources: Some(v1::Resources { cpu: "2".into(), memory: "4Gi".into(), ..Default::default() }),
            scaling: Some(v1::Scaling { min: 3, ..Default::default() }),
            ..Default::default()
        };
        // 3 x 2 cores x 10 W = 60 W; 3 x 4 GiB x 0.4 W = 4.8 W; 64.8 W x 0.30 EUR/kWh = 0.01944 EUR/h
        let (hourly, lines) = t.hourly(&spec);
        assert_eq!(hourly, Decimal::new(1944, 5));
        let sum: Decimal = lines.iter().filter_map(|l| l.hourly.as_ref()).map(cost::decimal).sum();
        assert_eq!(sum, hourly, "the lines add up to the rate");
        // on 16 cores with 48 W idle: 6 of 16 are reserved, 18 W x 0.30 EUR/kWh = 0.0054 EUR/h more
        let t = Tariff { idle_watts: Some(Decimal::from(48)), host_cores: 16, ..t };
        let (hourly, lines) = t.hourly(&spec);
        assert_eq!(hourly, Decimal::new(1944 + 540, 5));
        assert_eq!(lines[2].description, "0.375 of the host's 48 idle W x 0.3 EUR/kWh");
        assert_eq!(t.model(&spec).reserved, Decimal::new(125, 3), "one replica: 2 of 16");
    }

    #[test]
    fn a_tariff_counts_from_its_time_on_and_one_that_was_not_kept_never_did() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let t = |per_kwh: i64| Tariff { per_kwh: per_kwh.into(), ..Default::default() };
        let set = [v1::Tariff { from_time: at(5), ..t(1).to_api() }];
        let mut all = Tariffs::new(&set, t(9)).of_host(4);
        all.set(9_000, t(2));
        let told = |all: &Tariffs| -> Vec<_> {
            all.models(&v1::InstanceSpec::default()).into_iter().map(|(at, m)| (at, m.per_kwh)).collect()
        };
        assert_eq!(told(&all), [(5_000, 1.into()), (9_000, 2.into())]);
        assert_eq!(all.now().host_cores, 4);
        // the store did not take it
        all.set(5_000, t(1));
        assert_eq!(told(&all), [(5_000, 1.into())]);
        assert_eq!(Tariffs::new(&[], t(9)).now().per_kwh, 9.into());
    }

    #[test]
    fn idle_watts_that_nobody_set_are_those_of_its_cores_and_old_tariffs_have_none() {
        let t = Tariff { host_cores: 8, ..Default::default() };
        assert_eq!((t.idle_watts(), t.to_api().idle_watts.as_str()), (Decimal::new(592, 2), "5.920"));
        let old = v1::Tariff { idle_watts: String::new(), ..t.to_api() };
        assert_eq!(Tariff::from_api(&old).unwrap().idle_watts(), Decimal::ZERO);
        assert_eq!(Tariff::from_api(&t.to_api()).unwrap().idle_watts(), Decimal::new(592, 2));
        let file: Tariff = serde_json::from_str(
            r#"{"currency":"EUR","per_kwh":"1","watts_per_core":"1","watts_per_gib":"1"}"#,
        )
        .unwrap();
        assert_eq!(file.idle_watts, None);
    }
}
