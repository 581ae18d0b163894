//! What an instance on AWS costs: list prices from a catalogue with currency, source and date, times what is provisioned. Decimal and
//! pure. Free tiers are never subtracted.
use rust_decimal::Decimal;
use serde::Deserialize;
use std::collections::BTreeMap;
use syp_engine::cost;
use syp_proto::v1;

/// The catalogue that comes with the program.
const BUILT_IN: &str = include_str!("aws.json");

/// Prices of all regions that are known.
#[derive(Clone, Debug, Deserialize)]
pub struct Catalogue {
    /// Its version.
    pub version: String,
    /// ISO 4217.
    pub currency: String,
    /// When the prices were read.
    pub fetched: String,
    hours_per_month: Decimal,
    regions: BTreeMap<String, BTreeMap<String, Price>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Price {
    price: Decimal,
}

/// What is provisioned for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisioned {
    /// Of a task, in units of 1/1024 of a core.
    pub cpu: u32,
    /// Of a task, in MiB.
    pub memory: u32,
    /// Another price.
    pub arm: bool,
    /// How many tasks.
    pub tasks: u32,
    /// Each task has an address of its own.
    pub public_ip: bool,
    /// Zones of the load balancer: it has an address in each.
    pub zones: u32,
    /// Secrets.
    pub secrets: u32,
    /// Alarms of autoscaling.
    pub alarms: u32,
}

/// What it costs an hour, without what depends on use.
#[derive(Clone, Debug)]
pub struct Rate {
    /// All of it.
    pub hourly: Decimal,
    /// One more task.
    pub task: Decimal,
    /// What it is made of; what depends on use has no amount.
    pub lines: Vec<v1::offer::Line>,
}

/// Prices of a region that are missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the price catalogue {version} ({fetched}) has no '{key}' of {region}")]
pub struct Missing {
    version: String,
    fetched: String,
    key: &'static str,
    region: String,
}

// === impl Catalogue ===

impl Catalogue {
    /// The one that comes with the program.
    ///
    /// # Errors
    /// It can't be read, which a test rules out.
    pub fn built_in() -> Result<Self, serde_json::Error> {
        serde_json::from_str(BUILT_IN)
    }

    fn price(&self, region: &str, key: &'static str) -> Result<Decimal, Missing> {
        let missing = || Missing {
            version: self.version.clone(),
            fetched: self.fetched.clone(),
            key,
            region: region.to_owned(),
        };
        self.regions.get(region).and_then(|r| r.get(key)).map(|p| p.price).ok_or_else(missing)
    }

    /// The rate of what is provisioned in a region.
    ///
    /// # Errors
    /// Which price is missing: what is not known is unpriced, never 0.
    pub fn rate(&self, region: &str, p: &Provisioned) -> Result<Rate, Missing> {
        let (cpu_key, memory_key) = match p.arm {
            false => ("fargate_vcpu_hour", "fargate_gb_hour"),
            true => ("fargate_arm_vcpu_hour", "fargate_arm_gb_hour"),
        };
        let of = |key| self.price(region, key);
        let (vcpu, gb, address) = (of(cpu_key)?, of(memory_key)?, of("public_ipv4_hour")?);
        let (balancer, secret, alarm) = (of("alb_hour")?, of("secret_month")?, of("alarm_month")?);
        let (lcu, log) = (of("alb_lcu_hour")?, of("logs_ingest_gb")?);
        let cores = Decimal::from(p.cpu) / Decimal::from(1_024);
        let gbs = Decimal::from(p.memory) / Decimal::from(1_024);
        let own = if p.public_ip { address } else { Decimal::ZERO };
        let task = cores * vcpu + gbs * gb + own;
        let (tasks, zones) = (Decimal::from(p.tasks), Decimal::from(p.zones));
        let monthly = |price: Decimal, n: u32| price * Decimal::from(n) / self.hours_per_month;
        let mut lines = Vec::new();
        let mut sum = Decimal::ZERO;
        let mut line = |kind: &str, description: String, amount: Decimal| {
            sum += amount;
            let hourly = (!amount.is_zero()).then(|| cost::money(amount, &self.currency));
            lines.push(v1::offer::Line { kind: kind.into(), description, hourly, shared: false });
        };
        let c = &self.currency;
        let n = |d: Decimal| d.normalize().to_string();
        line("cpu", format!("{} vCPU x {} {c}/h", n(cores * tasks), n(vcpu)), cores * vcpu * tasks);
        line("memory", format!("{} GB x {} {c}/h", n(gbs * tasks), n(gb)), gbs * gb * tasks);
        line("load balancer", format!("1 x {} {c}/h", n(balancer)), balancer);
        let addresses = zones + if p.public_ip { tasks } else { Decimal::ZERO };
        line(
            "addresses",
            format!("{} public IPv4 x {} {c}/h", n(addresses), n(address)),
            addresses * address,
        );
        line("secrets", format!("{} x {} {c}/month", p.secrets, n(secret)), monthly(secret, p.secrets));
        if p.alarms > 0 {
            line("alarms", format!("{} x {} {c}/month", p.alarms, n(alarm)), monthly(alarm, p.alarms));
        }
        line(
            "requests",
            format!("by use: {} {c} an hour and capacity unit of the load balancer", n(lcu)),
            Decimal::ZERO,
        );
        line("logs", format!("by use: {} {c} a GB", n(log)), Decimal::ZERO);
        Ok(Rate { hourly: sum, task, lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Provisioned = Provisioned {
        cpu: 256,
        memory: 512,
        arm: false,
        tasks: 1,
        public_ip: true,
        zones: 2,
        secrets: 1,
        alarms: 2,
    };

    fn of(p: Provisioned) -> Rate {
        Catalogue::built_in().unwrap().rate("us-east-1", &p).unwrap()
    }

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn a_rate_is_what_a_hand_computes() {
        let rate = of(SMALL);
        // 0.25 x 0.04048 + 0.5 x 0.004445 + 0.0225 + 3 x 0.005 + (0.40 + 2 x 0.10) / 730
        let by_hand = decimal("0.01012")
            + decimal("0.0022225")
            + decimal("0.0225")
            + decimal("0.015")
            + decimal("0.6") / decimal("730");
        assert_eq!(rate.hourly.round_dp(12), by_hand.round_dp(12));
        assert_eq!((rate.hourly * decimal("730")).round_dp(2), decimal("36.99"));
        // 9.01 + 3.65 a month
        assert_eq!((rate.task * decimal("730")).round_dp(2), decimal("12.66"));
        let three = of(Provisioned { tasks: 3, ..SMALL });
        assert_eq!(three.hourly - rate.hourly, rate.task * decimal("2"));
    }

    #[test]
    fn the_lines_are_the_sum_and_what_depends_on_use_has_no_amount() {
        for p in
            [SMALL, Provisioned { arm: true, tasks: 4, public_ip: false, alarms: 0, secrets: 3, ..SMALL }]
        {
            let rate = of(p);
            let amount = |l: &v1::offer::Line| {
                l.hourly
                    .as_ref()
                    .map_or(Decimal::ZERO, |m| Decimal::from(m.units) + Decimal::new(i64::from(m.nanos), 9))
            };
            let sum: Decimal = rate.lines.iter().map(amount).sum();
            assert!((sum - rate.hourly).abs() < decimal("0.00000001"), "{sum} {}", rate.hourly);
            let by_use: Vec<_> =
                rate.lines.iter().filter(|l| l.hourly.is_none()).map(|l| l.kind.as_str()).collect();
            assert_eq!(by_use, ["requests", "logs"]);
        }
    }

    #[test]
    fn arm_is_cheaper_and_an_address_costs() {
        assert!(of(Provisioned { arm: true, ..SMALL }).hourly < of(SMALL).hourly);
        let inside = of(Provisioned { public_ip: false, ..SMALL });
        assert_eq!(of(SMALL).hourly - inside.hourly, decimal("0.005"));
    }

    #[test]
    fn a_region_without_prices_is_unpriced_in_words() {
        let missing = Catalogue::built_in().unwrap().rate("mars-1", &SMALL).unwrap_err();
        assert!(missing.to_string().contains("no 'fargate_vcpu_hour' of mars-1"), "{missing}");
    }
}
