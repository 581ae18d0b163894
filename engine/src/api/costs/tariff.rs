//! A new price: of energy on the engine's own host, or of the nodes of a cluster. What is not said stays.
use crate::{
    api::{
        Api,
        status::{invalid, of_failure},
    },
    tariffs,
};
use rust_decimal::Decimal;
use syp_proto::v1::Tariff;
use tonic::Status;

/// What a number may be.
const MOST: i64 = 1_000_000;

fn numbers(all: &[(&str, &str)]) -> Result<(), Status> {
    for (field, value) in all {
        let fine = value.parse::<Decimal>().is_ok_and(|d| d >= Decimal::ZERO && d <= Decimal::from(MOST));
        if !fine {
            return Err(invalid(&format!("tariff.{field}"), "a decimal number of 0 or more"));
        }
    }
    Ok(())
}

fn or(new: String, held: &str) -> String {
    if new.is_empty() { held.to_owned() } else { new }
}

/// Fields that are of the other kind of tariff.
fn none_of(all: &[(&str, &str)], why: &str) -> Result<(), Status> {
    match all.iter().find(|(_, value)| !value.is_empty()) {
        Some((field, _)) => Err(invalid(&format!("tariff.{field}"), why)),
        None => Ok(()),
    }
}

impl Api {
    /// What would count, and what it takes the place of.
    pub(in crate::api) async fn new_tariff(&self, new: Tariff) -> Result<(Tariff, Tariff), Status> {
        let (new, held) = if tariffs::is_energy(&new) { self.energy(new)? } else { self.nodes(new).await? };
        if new.currency_code != *self.currency {
            return Err(invalid(
                "tariff.currency_code",
                &format!("this engine counts in {}: sums of two currencies are none", self.currency),
            ));
        }
        Ok((new, held))
    }

    fn energy(&self, new: Tariff) -> Result<(Tariff, Tariff), Status> {
        let held = self.engine.targets().find_map(|t| t.tariff());
        let held = held.ok_or_else(|| invalid("tariff", "no target of this engine has one"))?;
        none_of(
            &[
                ("per_vcpu_hour", &new.per_vcpu_hour),
                ("per_gib_hour", &new.per_gib_hour),
                ("instance_type", &new.instance_type),
                ("region", &new.region),
                ("zone", &new.zone),
            ],
            "is of the nodes of a cluster: name the target, such as k8s:CONTEXT",
        )?;
        let new = Tariff {
            currency_code: or(new.currency_code, &held.currency_code),
            per_kwh: or(new.per_kwh, &held.per_kwh),
            watts_per_core: or(new.watts_per_core, &held.watts_per_core),
            watts_per_gib: or(new.watts_per_gib, &held.watts_per_gib),
            idle_watts: or(new.idle_watts, &held.idle_watts),
            ..Default::default()
        };
        numbers(&[
            ("per_kwh", &new.per_kwh),
            ("watts_per_core", &new.watts_per_core),
            ("watts_per_gib", &new.watts_per_gib),
            ("idle_watts", &new.idle_watts),
        ])?;
        Ok((new, held))
    }

    /// A cluster need not be there yet: what is set for its name holds when it comes to be known.
    async fn nodes(&self, mut new: Tariff) -> Result<(Tariff, Tariff), Status> {
        if new.target == "k8s" {
            self.engine.target("k8s").map_err(|f| of_failure(&f))?.name().clone_into(&mut new.target);
        }
        if new.target.strip_prefix("k8s:").is_none_or(str::is_empty) {
            return Err(invalid(
                "tariff.target",
                "k8s:CONTEXT; what energy costs on this machine is said without a target",
            ));
        }
        none_of(
            &[
                ("per_kwh", &new.per_kwh),
                ("watts_per_core", &new.watts_per_core),
                ("watts_per_gib", &new.watts_per_gib),
                ("idle_watts", &new.idle_watts),
            ],
            "is of this machine's energy: leave the target away",
        )?;
        let held = tariffs::held(&tariffs::all(&**self.engine.store()).await?, &new).unwrap_or_default();
        let new = Tariff {
            currency_code: or(new.currency_code, &self.currency),
            per_vcpu_hour: or(new.per_vcpu_hour, &held.per_vcpu_hour),
            per_gib_hour: or(new.per_gib_hour, &held.per_gib_hour),
            from_time: None,
            creator: String::new(),
            ..new
        };
        for (field, value) in [("per_vcpu_hour", &new.per_vcpu_hour), ("per_gib_hour", &new.per_gib_hour)] {
            if value.is_empty() {
                return Err(invalid(
                    &format!("tariff.{field}"),
                    "required: there is none of these nodes yet",
                ));
            }
        }
        numbers(&[("per_vcpu_hour", &new.per_vcpu_hour), ("per_gib_hour", &new.per_gib_hour)])?;
        Ok((new, held))
    }
}
