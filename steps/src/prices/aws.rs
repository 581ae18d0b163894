//! What an instance on AWS costs: list prices from a catalogue with currency, source and date, times what is provisioned. Decimal and
//! pure. Free tiers are never subtracted. The catalogue that comes with the program has one region; of others the provider's list is read.
use super::aws_use::{FIGURES, figure};
use rust_decimal::Decimal;
use serde::Deserialize;
use std::collections::BTreeMap;
use syp_engine::cost;
use syp_proto::v1::{self, PriceList, price_list};

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
    unit: String,
    /// Whose price it is.
    service: String,
    /// How its use is called on bills and in the list, behind a prefix of the region.
    usagetype: String,
    /// Where a service's kinds of things have uses of the same name.
    #[serde(rename = "productFamily")]
    family: Option<String>,
}

/// Prices without which nothing can be priced.
const NEEDED: [&str; 10] = [
    "fargate_vcpu_hour",
    "fargate_gb_hour",
    "fargate_arm_vcpu_hour",
    "fargate_arm_gb_hour",
    "public_ipv4_hour",
    "alb_hour",
    "alb_lcu_hour",
    "secret_month",
    "alarm_month",
    "logs_ingest_gb",
];
/// The region of the catalogue that comes with the program, and its prefix.
const HOME: (&str, &str) = ("us-east-1", "USE1-");

/// How a price is found in the provider's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its key here.
    pub key: &'static str,
    /// For what it is.
    pub unit: String,
    /// Whose it is.
    pub service: String,
    /// How its use is called, without the region's prefix.
    pub usage: String,
    /// Only products of this family.
    pub family: Option<String>,
}

// === impl Wanted ===

impl Wanted {
    /// Is this the use? The prefix of a region is one word of capitals and digits; other words mean other things (`SpotUsage-`).
    pub fn is(&self, usage: &str) -> bool {
        usage.strip_suffix(self.usage.as_str()).is_some_and(|before| {
            before.is_empty()
                || before.strip_suffix('-').is_some_and(|p| {
                    !p.is_empty() && p.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
                })
        })
    }
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

    /// With a list of the provider for one region, instead of what it had for that.
    ///
    /// # Errors
    /// A price that is no number.
    pub fn with(&self, region: &str, list: &PriceList) -> Result<Self, rust_decimal::Error> {
        let price = |p: &price_list::Price| {
            let held = Price {
                price: p.amount.parse()?,
                unit: p.unit.clone(),
                service: String::new(),
                usagetype: p.usage_type.clone(),
                family: None,
            };
            Ok::<_, rust_decimal::Error>((p.key.clone(), held))
        };
        let prices: Result<BTreeMap<_, _>, _> = list.prices.iter().map(price).collect();
        Ok(Self {
            version: list.source.clone(),
            currency: list.currency_code.clone(),
            fetched: list.as_of.as_ref().map(day).unwrap_or_default(),
            hours_per_month: self.hours_per_month,
            regions: [(region.to_owned(), prices?)].into(),
        })
    }

    /// The prices of a region; none, where none are known.
    pub fn list(&self, region: &str) -> PriceList {
        let price = |(key, p): (&String, &Price)| price_list::Price {
            key: key.clone(),
            unit: p.unit.clone(),
            amount: p.price.normalize().to_string(),
            usage_type: p.usagetype.clone(),
        };
        PriceList {
            target: format!("aws:{region}"),
            currency_code: self.currency.clone(),
            as_of: format!("{}T00:00:00Z", self.fetched).parse().ok(),
            source: self.version.clone(),
            prices: self.regions.get(region).into_iter().flatten().map(price).collect(),
        }
    }

    /// What to look for in the provider's list.
    pub fn wanted(&self) -> Vec<Wanted> {
        let home = self.regions.get(HOME.0);
        let one = |key: &'static str| {
            let p = home?.get(key)?;
            Some(Wanted {
                key,
                unit: p.unit.clone(),
                service: p.service.clone(),
                usage: p.usagetype.strip_prefix(HOME.1).unwrap_or(&p.usagetype).to_owned(),
                family: p.family.clone(),
            })
        };
        NEEDED.into_iter().filter_map(one).collect()
    }

    /// Where its prices are from.
    pub fn words(&self) -> String {
        format!(
            "list prices of AWS in {}, catalogue {} as of {}; free tiers not subtracted",
            self.currency, self.version, self.fetched
        )
    }

    /// Has it prices of a region?
    pub fn knows(&self, region: &str) -> bool {
        self.regions.contains_key(region)
    }

    pub(super) fn price(&self, region: &str, key: &'static str) -> Result<Decimal, Missing> {
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
        line(
            "counting that",
            format!("by use: {FIGURES} figures of CloudWatch an hour, {} {c} each", n(figure())),
            Decimal::ZERO,
        );
        let out = self
            .price(region, "data_out_gb")
            .map_or_else(|_| "unpriced".into(), |p| format!("{} {c} a GB", n(p)));
        line("data sent", format!("by use, {out}: only in what AWS bills, not counted here"), Decimal::ZERO);
        Ok(Rate { hourly: sum, task, lines })
    }
}

fn day(at: &prost_types::Timestamp) -> String {
    at.to_string().split('T').next().unwrap_or_default().to_owned()
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
            assert_eq!(by_use, ["requests", "logs", "counting that", "data sent"]);
        }
    }

    #[test]
    fn arm_is_cheaper_and_an_address_costs() {
        assert!(of(Provisioned { arm: true, ..SMALL }).hourly < of(SMALL).hourly);
        let inside = of(Provisioned { public_ip: false, ..SMALL });
        assert_eq!(of(SMALL).hourly - inside.hourly, decimal("0.005"));
    }

    #[test]
    fn a_use_is_known_behind_the_prefix_of_its_region() {
        let all = Catalogue::built_in().unwrap().wanted();
        assert_eq!(all.len(), NEEDED.len(), "{all:?}");
        let of = |key| all.iter().find(|w| w.key == key).unwrap();
        let cpu = of("fargate_vcpu_hour");
        for here in
            ["Fargate-vCPU-Hours:perCPU", "USE1-Fargate-vCPU-Hours:perCPU", "EUC1-Fargate-vCPU-Hours:perCPU"]
        {
            assert!(cpu.is(here), "{here}");
        }
        for other in [
            "EU-Fargate-ARM-vCPU-Hours:perCPU",
            "EU-SpotUsage-Fargate-vCPU-Hours:perCPU",
            "EU-Fargate-vCPU-Hours",
            "-Fargate-vCPU-Hours:perCPU",
        ] {
            assert!(!cpu.is(other), "{other}");
        }
        assert!(of("alb_hour").is("EU-LoadBalancerUsage") && of("alb_hour").family.is_some());
    }

    #[test]
    fn a_list_of_the_provider_takes_the_place_of_the_catalogue() {
        let built_in = Catalogue::built_in().unwrap();
        assert!(built_in.list("eu-west-1").prices.is_empty());
        let mut list = built_in.list("us-east-1");
        list.as_of = "2026-12-01T10:00:00Z".parse().ok();
        list.source = "AWS Price List API".into();
        let cpu = list.prices.iter_mut().find(|p| p.key == "fargate_vcpu_hour").unwrap();
        cpu.amount = "1".into();
        let other = built_in.with("eu-west-1", &list).unwrap();
        assert!(
            other
                .words()
                .ends_with("catalogue AWS Price List API as of 2026-12-01; free tiers not subtracted")
        );
        let dear = other.rate("eu-west-1", &SMALL).unwrap().hourly - of(SMALL).hourly;
        assert_eq!(dear, decimal("0.25") * (decimal("1") - decimal("0.04048")));
        assert_eq!(other.list("eu-west-1").prices, list.prices);
        assert!(!other.knows("us-east-1"));
        list.prices[0].amount = "x".into();
        assert!(built_in.with("eu-west-1", &list).is_err());
    }

    #[test]
    fn a_region_without_prices_is_unpriced_in_words() {
        let missing = Catalogue::built_in().unwrap().rate("mars-1", &SMALL).unwrap_err();
        assert!(missing.to_string().contains("no 'fargate_vcpu_hour' of mars-1"), "{missing}");
    }
}
