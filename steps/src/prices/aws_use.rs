//! What use costs on AWS, by what was counted in each hour. Decimal and pure.
//!
//! # Sources
//! - Load balancer: "Elastic Load Balancing pricing", capacity units of an Application Load Balancer. One has 25 new connections a
//!   second, 3,000 active ones a minute, 1 GB an hour, and 1,000 rules evaluated a second beyond the first 10 rules (there is one
//!   here). Only the dimension that is used most is charged, averaged over an hour.
//! - Log lines: "Amazon CloudWatch pricing", GB taken in. A GB is taken for 10^9 bytes in both: AWS does not say, and a larger one
//!   would cost less.
//! - Figures: the same page, `GetMetricData`, 0.01 USD a thousand in all regions.
use super::aws::{Catalogue, Missing};
use rust_decimal::Decimal;
use std::collections::BTreeMap;
use syp_engine::{clock::Millis, meter, step::Use};

/// New connections of a capacity unit in an hour.
const CONNECTIONS: i64 = 25 * 3_600;
/// Its active connections, added up over the minutes of an hour.
const OPEN_MINUTES: i64 = 3_000 * 60;
const GB: i64 = 1_000_000_000;

/// So many figures are asked for, each hour.
pub const FIGURES: u32 = 4;

/// What a figure of CloudWatch costs to ask for, USD.
pub fn figure() -> Decimal {
    Decimal::new(1, 5)
}

/// What was counted in an hour, or in a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// New connections.
    pub connections: Decimal,
    /// Those that were open, of each minute, added up.
    pub open_minutes: Decimal,
    /// Processed by the load balancer, in both directions.
    pub bytes: Decimal,
    /// Of log lines.
    pub log_bytes: Decimal,
}

// === impl Counted ===

impl Counted {
    /// Hours of a capacity unit.
    pub fn capacity(&self) -> Decimal {
        let of = |amount: Decimal, unit: i64| amount / Decimal::from(unit);
        of(self.connections, CONNECTIONS).max(of(self.open_minutes, OPEN_MINUTES)).max(of(self.bytes, GB))
    }
}

// === impl Catalogue ===

impl Catalogue {
    /// What hours cost that were asked about from `from` on, by day.
    ///
    /// # Errors
    /// Which price is missing.
    pub fn used(
        &self,
        region: &str,
        hours: &BTreeMap<Millis, Counted>,
        from: Millis,
    ) -> Result<Vec<Use>, Missing> {
        let (unit, gb) = (self.price(region, "alb_lcu_hour")?, self.price(region, "logs_ingest_gb")?);
        let mut days: BTreeMap<i64, (Decimal, Decimal)> = BTreeMap::new();
        for (at, counted) in hours {
            let day = days.entry(meter::day(*at)).or_default();
            day.0 += counted.capacity();
            day.1 += counted.log_bytes / Decimal::from(GB);
        }
        let mut out = Vec::new();
        for (day, (capacity, log)) in days {
            out.push(Use {
                kind: "load balancer",
                unit: "LCU-hours",
                day,
                quantity: capacity,
                amount: capacity * unit,
            });
            out.push(Use { kind: "log lines", unit: "GB", day, quantity: log, amount: log * gb });
        }
        out.retain(|u| !u.quantity.is_zero());
        let quantity = Decimal::from(FIGURES);
        let (kind, unit, day) = ("these questions", "figures", meter::day(from));
        out.push(Use { kind, unit, day, quantity, amount: quantity * figure() });
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_engine::meter::HOUR_MS;

    fn d(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn an_hour_costs_its_busiest_dimension_alone() {
        // the example of AWS' page: 1 new connection a second, each open for 2 minutes (120 at a time), 5 requests of 300 KB in all
        // a second: 0.04, 0.04 and 1.08 units
        let hour = Counted {
            connections: d("3600"),
            open_minutes: d("7200"),
            bytes: d("1080000000"),
            log_bytes: Decimal::ZERO,
        };
        assert_eq!(hour.capacity(), d("1.08"));
        let dials = Counted { connections: d("180000"), ..hour };
        assert_eq!(dials.capacity(), d("2"));
        let holds = Counted { open_minutes: d("540000"), ..hour };
        assert_eq!(holds.capacity(), d("3"));
        assert_eq!(Counted::default().capacity(), Decimal::ZERO);
    }

    #[test]
    fn use_is_what_a_hand_computes_by_day() {
        let c = Catalogue::built_in().unwrap();
        let of = |bytes: &str, log_bytes: &str| Counted {
            bytes: d(bytes),
            log_bytes: d(log_bytes),
            ..Default::default()
        };
        // 23:00 of a day, and 0:00 and 1:00 of the next
        let hours =
            [(23, of("500000000", "2000000000")), (24, of("1500000000", "0")), (25, of("250000000", "0"))]
                .map(|(h, counted)| (h * HOUR_MS, counted));
        let all = c.used("us-east-1", &hours.into(), 23 * HOUR_MS).unwrap();
        let rows: Vec<_> =
            all.iter().map(|u| (u.kind, u.day, u.quantity.normalize(), u.amount.normalize())).collect();
        assert_eq!(
            rows,
            [
                // 0.5 x 0.008; 2 x 0.50; 1.75 x 0.008; 4 x 0.00001
                ("load balancer", 0, d("0.5"), d("0.004")),
                ("log lines", 0, d("2"), d("1")),
                ("load balancer", 1, d("1.75"), d("0.014")),
                ("these questions", 0, d("4"), d("0.00004")),
            ]
        );
        // the day's and the hours' sum, exact
        assert_eq!(all.iter().map(|u| u.amount).sum::<Decimal>(), d("1.01804"));
        assert!(c.used("eu-nowhere-1", &BTreeMap::new(), 0).is_err(), "unpriced, never 0");
    }
}
