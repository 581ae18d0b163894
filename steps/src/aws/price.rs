//! What an instance costs at AWS, by the catalogue of list prices.
use super::{Shared, facts::Facts};
use crate::prices::aws::Provisioned;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use syp_engine::scaling;
use syp_proto::v1;

/// Alarms of a policy that follows one figure: one for more, one for less.
const ALARMS: u32 = 2;

/// Per hour, what it is made of, and the facts with the price in them.
pub(super) fn price(
    s: &Shared,
    spec: &v1::InstanceSpec,
    facts: &Value,
) -> (Decimal, Vec<v1::offer::Line>, Value) {
    let mut facts = facts.clone();
    let Ok(f) = Facts::read(&facts) else { return (Decimal::ZERO, vec![], facts) };
    let provisioned = Provisioned {
        cpu: f.cpu,
        memory: f.memory,
        arm: f.arm,
        tasks: scaling::now(spec, &facts),
        public_ip: true,
        zones: u32::try_from(f.place.subnets.len()).unwrap_or(u32::MAX),
        secrets: 1 + u32::from(!spec.secrets.is_empty()) + u32::from(f.login),
        alarms: if scaling::is_elastic(spec) { ALARMS } else { 0 },
    };
    facts["currency"] = json!(s.currency);
    facts["provisioned"] = json!(true);
    if let Some(f) = facts.as_object_mut() {
        f.remove("unpriced");
        f.remove("price_source");
    }
    let prices = s.prices.read();
    match prices.rate(&s.region, &provisioned) {
        Ok(rate) => {
            facts["hourly"] = json!(rate.hourly.normalize().to_string());
            facts["replica_hourly"] = json!(rate.task.normalize().to_string());
            facts["price_source"] = json!(prices.words());
            (rate.hourly, rate.lines, facts)
        }
        Err(why) => {
            facts["hourly"] = json!("0");
            facts["replica_hourly"] = json!("0");
            facts["unpriced"] =
                json!(format!("unpriced: {why}; 'sypctl prices refresh {}' reads them", s.name));
            (Decimal::ZERO, vec![], facts)
        }
    }
}
