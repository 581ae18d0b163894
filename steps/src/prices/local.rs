//! Electricity of this machine: a power model times a tariff, in decimal.
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use syp_engine::{api::validate, cost};
use syp_proto::v1;

/// Price of energy and what a core and a GiB draw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// ISO 4217.
    pub currency: String,
    /// Per kWh.
    pub per_kwh: Decimal,
    /// Watts of one busy core, its share of fans and supply included.
    pub watts_per_core: Decimal,
    /// Watts of one GiB.
    pub watts_per_gib: Decimal,
}

impl Default for Tariff {
    /// An average European household price and a laptop to small-server class core.
    fn default() -> Self {
        Self {
            currency: "EUR".into(),
            per_kwh: Decimal::new(30, 2),
            watts_per_core: Decimal::new(10, 0),
            watts_per_gib: Decimal::new(4, 1),
        }
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
        })
    }

    /// The facts of a revision with its price in them: of one replica, so that a plan can price each.
    pub fn price(&self, spec: &v1::InstanceSpec, facts: &Value) -> (Decimal, Vec<v1::offer::Line>, Value) {
        let (hourly, lines) = self.hourly(spec);
        let replicas = Decimal::from(spec.scaling.as_ref().map_or(1, |s| s.min.max(1)));
        let mut facts = facts.clone();
        facts["replica_hourly"] = json!((hourly / replicas).normalize().to_string());
        facts["currency"] = json!(self.currency);
        (hourly, lines, facts)
    }

    /// Per hour for all replicas of a spec, with a line for each part.
    pub fn hourly(&self, spec: &v1::InstanceSpec) -> (Decimal, Vec<v1::offer::Line>) {
        let r = spec.resources.clone().unwrap_or_default();
        let given = |v: Option<u64>, or: u64| v.map_or((or, " (no limit set: assumed)"), |v| (v, ""));
        let (millis, cpu_note) =
            given(validate::cpu_millis(&r.cpu).filter(|_| !r.cpu.is_empty()), cost::ASSUMED_MILLICORES);
        let (bytes, mem_note) =
            given(validate::memory_bytes(&r.memory).filter(|_| !r.memory.is_empty()), cost::ASSUMED_BYTES);
        let replicas = Decimal::from(spec.scaling.as_ref().map_or(1, |s| s.min.max(1)));
        let cores = Decimal::from(millis) / Decimal::from(1000) * replicas;
        let gib = Decimal::from(bytes) / Decimal::from(1u64 << 30) * replicas;
        let price = |watts: Decimal| watts / Decimal::from(1000) * self.per_kwh;
        let (cpu, mem) = (price(cores * self.watts_per_core), price(gib * self.watts_per_gib));
        let line = |kind: &str, description: String, amount: Decimal| v1::offer::Line {
            kind: kind.into(),
            description,
            hourly: Some(cost::money(amount, &self.currency)),
            shared: false,
        };
        let rate = format!("{} {}/kWh", self.per_kwh.normalize(), self.currency);
        let lines = vec![
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
        (cpu + mem, lines)
    }
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
    }
}
