//! Money from the ledger: what exists costs, from its intent to its confirmed end. Decimal throughout.
use crate::{
    clock::{Millis, timestamp},
    fold::over,
    meter, used,
};
use rust_decimal::{Decimal, prelude::ToPrimitive};
use serde::Deserialize;
use serde_json::Value;
use syp_proto::{
    google::r#type::Money,
    journal::{Instance, LedgerRow, ledger_row},
    v1::{self, cost_summary::Accuracy, resource::Phase},
};

/// Thousandths of a core that a price model assumes for a replica without a limit.
pub const ASSUMED_MILLICORES: u64 = 500;
/// Why a target that is the owner's own machine has no bill.
pub const NOT_BILLED: &str = "none: nobody bills this machine";
/// Bytes of memory that a price model assumes for a replica without a limit.
pub const ASSUMED_BYTES: u64 = 256 << 20;

/// Why there is no bill where a provider has one.
pub const NOT_ASKED: &str = "none: the engine does not ask the provider for its bill";
/// How a price is given to what has none.
pub const SET_TARIFF: &str = "'sypctl tariff set TARGET --per-vcpu-hour PRICE --per-gib-hour PRICE' says it";

/// What a revision's facts say of its price.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pricing {
    /// Why nobody knows what it costs; its rate is 0 then, which is never shown.
    pub unpriced: Option<String>,
    /// Where the price is from; nothing: the power model.
    pub price_source: Option<String>,
    /// It had no price until then, and that time is not counted.
    pub unpriced_until: Option<Millis>,
    /// A size is provisioned, and paid whatever is used of it.
    pub provisioned: bool,
}

// === impl Pricing ===

impl Pricing {
    /// Of an instance.
    pub fn of(i: &Instance) -> Self {
        serde_json::from_str(&i.facts).unwrap_or_default()
    }

    /// Of a revision that is about to be made.
    pub fn of_facts(facts: &Value) -> Self {
        Self::deserialize(facts).unwrap_or_default()
    }

    /// Is there a price?
    pub fn is_priced(&self) -> bool {
        self.unpriced.is_none()
    }

    /// Where the price is from, or why there is none.
    pub fn words(&self) -> String {
        let words = match (&self.unpriced, &self.price_source) {
            // nobody says what a cloud costs but its catalogue
            (Some(why), _) if self.provisioned => why.clone(),
            (Some(why), _) => format!("{why}; {SET_TARIFF}"),
            (None, Some(source)) => source.clone(),
            (None, None) => "power model x tariff".into(),
        };
        match self.unpriced_until.and_then(timestamp) {
            Some(at) => format!("{words}; unpriced, and not counted, until {at}"),
            None => words,
        }
    }
}

/// As `google.type.Money`, to the nano.
pub fn money(amount: Decimal, currency: &str) -> Money {
    let amount = amount.round_dp(9);
    let units = amount.trunc();
    let nanos = ((amount - units) * Decimal::from(1_000_000_000)).round();
    Money {
        currency_code: currency.into(),
        units: units.to_i64().unwrap_or(i64::MAX),
        nanos: nanos.to_i32().unwrap_or(0),
    }
}

/// From `google.type.Money`.
pub fn decimal(m: &Money) -> Decimal {
    Decimal::from(m.units) + Decimal::new(i64::from(m.nanos), 9)
}

/// What it has cost until `now`: each billed row its own rate for the time in which it existed or may have existed. Rows
/// without a rate of their own (of former versions) share the instance's.
pub fn accrued(i: &Instance, now: Millis) -> Decimal {
    let own: Decimal = meter::pieces(i, now).iter().map(|p| p.rate_ms).sum();
    let shared = union_ms(i.ledger.iter().filter(|r| r.billed && r.hourly.is_none()), now);
    let of_all = i.hourly_rate.as_ref().map_or(Decimal::ZERO, decimal) * Decimal::from(shared);
    // divided once, at the end: thirds of an hour have no end in decimal
    (own + of_all) / Decimal::from(meter::HOUR_MS)
}

/// What it costs per hour right now: of everything that exists, replicas of two revisions during an update among it.
pub fn rate(i: &Instance) -> Decimal {
    let live = || i.ledger.iter().filter(|r| r.billed && !over(r));
    let own: Decimal = live().filter_map(|r| r.hourly.as_ref()).map(decimal).sum();
    let shared = live().any(|r| r.hourly.is_none());
    own + i.hourly_rate.as_ref().filter(|_| shared).map_or(Decimal::ZERO, decimal)
}

/// Time covered by the rows, overlaps once: the rate is of the instance, not of each row.
fn union_ms<'a>(rows: impl Iterator<Item = &'a LedgerRow>, now: Millis) -> Millis {
    let mut spans: Vec<_> = rows
        .map(|r| (r.intent_ms, if r.gone_ms != 0 { r.gone_ms } else { now }))
        .filter(|s| s.1 > s.0)
        .collect();
    spans.sort_unstable();
    let mut end = 0;
    let mut sum = 0;
    for (from, to) in spans {
        sum += (to - from.max(end)).max(0);
        end = end.max(to);
    }
    sum
}

/// The figures of an instance.
pub fn summary(i: &Instance, now: Millis) -> v1::CostSummary {
    let currency = i.hourly_rate.as_ref().map_or("EUR", |m| m.currency_code.as_str());
    let (rate, pricing) = (rate(i), Pricing::of(i));
    let priced = pricing.is_priced();
    let assumed = assumed(i).filter(|_| priced);
    let known = |amount: Decimal| Some(money(amount, currency)).filter(|_| priced);
    let accuracy = match (priced, &assumed) {
        (false, _) => Accuracy::UnknownPrice,
        (true, Some(_)) => Accuracy::Estimate,
        (true, None) => Accuracy::Metered,
    };
    let own_machine = priced && pricing.price_source.is_none();
    v1::CostSummary {
        rate_per_hour: known(rate),
        accrued: total(i, &pricing, now),
        projected_month: known(rate * Decimal::from(730)),
        accuracy: accuracy as i32,
        price_source: format!("{}{}", pricing.words(), assumed.unwrap_or_default()),
        price_as_of: timestamp(i.create_ms),
        rate_as_of: timestamp(now),
        accrued_as_of: timestamp(now),
        billed_note: if own_machine { NOT_BILLED } else { NOT_ASKED }.into(),
        uses: used::shown(i, currency),
        used_until: timestamp(i.used_until_ms),
        used_note: used::missing(i, pricing.provisioned && priced, now),
        ..Default::default()
    }
}

/// What it has cost, as far as it had a price; nothing where it never had one.
fn total(i: &Instance, pricing: &Pricing, now: Millis) -> Option<Money> {
    let currency = i.hourly_rate.as_ref().map_or("EUR", |m| m.currency_code.as_str());
    let spent = accrued(i, now);
    (pricing.is_priced() || !spent.is_zero()).then(|| money(spent, currency))
}

/// What the rate rests on besides the spec: a replica without a limit may use more or less than is assumed.
fn assumed(i: &Instance) -> Option<String> {
    // where a size is provisioned, that is what costs, whatever a replica uses of it
    if Pricing::of(i).provisioned {
        return None;
    }
    let r = i.spec.as_ref().and_then(|s| s.resources.clone()).unwrap_or_default();
    let cores = Decimal::from(ASSUMED_MILLICORES) / Decimal::from(1000);
    let cores = r.cpu.is_empty().then(|| format!("{} cores", cores.normalize()));
    let memory = r.memory.is_empty().then(|| format!("{}Mi", ASSUMED_BYTES >> 20));
    let what: Vec<_> = cores.into_iter().chain(memory).collect();
    (!what.is_empty()).then(|| format!(" (no limit set: assumed {} a replica)", what.join(" and ")))
}

/// A ledger row as the API shows it.
pub fn resource(i: &Instance, r: &LedgerRow) -> v1::Resource {
    let phase = match r.state() {
        ledger_row::State::Exists => Phase::Created,
        ledger_row::State::Deleting => Phase::Deleting,
        ledger_row::State::Gone => Phase::Gone,
        ledger_row::State::Retained => Phase::Residual,
        _ => Phase::Intent,
    };
    v1::Resource {
        name: format!("projects/{}/instances/{}/resources/{}", i.project, i.name, r.ordinal),
        kind: r.kind.split('@').next().unwrap_or_default().into(),
        step: r.node.clone(),
        deterministic_id: r.key.clone(),
        provider_id: r.handle.clone(),
        phase: phase as i32,
        intent_time: timestamp(r.intent_ms),
        create_time: timestamp(r.exists_ms),
        verified_gone_time: timestamp(r.gone_ms),
        hourly_rate: (r.billed && Pricing::of(i).is_priced())
            .then(|| r.hourly.clone().or_else(|| i.hourly_rate.clone()))
            .flatten(),
    }
}

/// The proof at the end: built only when an independent listing was clean.
pub fn receipt(i: &Instance, now: Millis) -> v1::TeardownReceipt {
    let currency = i.hourly_rate.as_ref().map_or("EUR", |m| m.currency_code.as_str());
    let pricing = Pricing::of(i);
    let rows: Vec<_> = i.ledger.iter().map(|r| resource(i, r)).collect();
    let residuals: Vec<_> = rows.iter().filter(|r| r.phase() == Phase::Residual).cloned().collect();
    let gone = rows.iter().filter(|r| r.phase() == Phase::Gone).count();
    v1::TeardownReceipt {
        name: format!("projects/{}/instances/{}@{}", i.project, i.name, i.uid),
        instance_uid: i.uid.clone(),
        created_count: count(rows.len() + i.let_go as usize),
        verified_gone_count: count(gone + i.let_go as usize),
        residual_monthly_cost: Some(money(Decimal::ZERO, currency)),
        resources: rows,
        residuals,
        total_cost: total(i, &pricing, now),
        price_note: if pricing.is_priced() && pricing.unpriced_until.is_none() {
            String::new()
        } else {
            pricing.words()
        },
        verify_time: timestamp(now),
        verify_method: "listing by label at the provider".into(),
        signature: Vec::new(),
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(from: Millis, gone: Millis, billed: bool) -> LedgerRow {
        LedgerRow { intent_ms: from, gone_ms: gone, billed, ..Default::default() }
    }

    #[test]
    fn accrued_is_the_rate_times_the_union_of_the_intervals() {
        let i = Instance {
            hourly_rate: Some(money(Decimal::new(36, 1), "EUR")), // 3.6 EUR/h = 0.001 EUR/s
            ledger: vec![
                row(0, 0, false),
                row(1_000, 11_000, true),
                row(6_000, 21_000, true),
                row(31_000, 0, true),
            ],
            ..Default::default()
        };
        // 1 s .. 21 s and 31 s .. 41 s: 30 s
        assert_eq!(accrued(&i, 41_000), Decimal::new(30, 3));
        assert_eq!(accrued(&Instance::default(), 41_000), Decimal::ZERO);
    }

    #[test]
    fn rows_with_a_rate_of_their_own_count_each_for_itself() {
        let own = |from, gone, hourly: i64| LedgerRow {
            hourly: Some(money(Decimal::new(hourly, 1), "EUR")),
            state: if gone == 0 { ledger_row::State::Exists } else { ledger_row::State::Gone } as i32,
            ..row(from, gone, true)
        };
        let i = Instance {
            hourly_rate: Some(money(Decimal::new(72, 1), "EUR")),
            // 3.6 EUR/h = 0.001 EUR/s for 10 s, then 7.2 EUR/h for 20 s, side by side for 5 s
            ledger: vec![own(1_000, 11_000, 36), own(6_000, 0, 72)],
            ..Default::default()
        };
        assert_eq!(accrued(&i, 26_000), Decimal::new(50, 3));
        assert_eq!(rate(&i), Decimal::new(72, 1));
    }

    #[test]
    fn a_rate_that_rests_on_assumptions_is_an_estimate_and_says_so() {
        let with = |cpu: &str, memory: &str| {
            let resources = v1::Resources { cpu: cpu.into(), memory: memory.into(), ..Default::default() };
            let spec = v1::InstanceSpec { resources: Some(resources), ..Default::default() };
            let c = summary(&Instance { spec: Some(spec), ..Default::default() }, 1);
            (c.accuracy(), c.price_source)
        };
        assert_eq!(with("1", "1Gi"), (Accuracy::Metered, "power model x tariff".into()));
        let (accuracy, source) = with("", "1Gi");
        assert_eq!(
            (accuracy, source.as_str()),
            (Accuracy::Estimate, "power model x tariff (no limit set: assumed 0.5 cores a replica)")
        );
        assert!(with("", "").1.ends_with("assumed 0.5 cores and 256Mi a replica)"));
    }

    #[test]
    fn what_has_no_price_is_said_so_and_never_0() {
        let i = Instance {
            hourly_rate: Some(money(Decimal::ZERO, "EUR")),
            facts: r#"{"unpriced":"unpriced: nobody has said what k8s:prod costs","currency":"EUR"}"#.into(),
            ledger: vec![LedgerRow {
                hourly: Some(money(Decimal::ZERO, "EUR")),
                state: ledger_row::State::Exists as i32,
                ..row(0, 0, true)
            }],
            ..Default::default()
        };
        let c = summary(&i, 3_600_000);
        assert_eq!(
            (c.rate_per_hour.clone(), c.accrued.clone(), c.projected_month.clone()),
            (None, None, None)
        );
        assert_eq!((c.accuracy(), c.billed_note.as_str()), (Accuracy::UnknownPrice, NOT_ASKED));
        assert!(
            c.price_source.starts_with("unpriced: nobody has said what k8s:prod costs; 'sypctl tariff set")
        );
        let r = receipt(&i, 3_600_000);
        assert_eq!((r.total_cost.clone(), r.resources[0].hourly_rate.clone()), (None, None));
        assert!(r.price_note.starts_with("unpriced: "), "{}", r.price_note);
        // once it has a price, what is counted is told with what is not
        let later = Instance {
            hourly_rate: Some(money(Decimal::ONE, "EUR")),
            facts: r#"{"price_source":"requests x price","unpriced_until":1000}"#.into(),
            ledger: vec![LedgerRow {
                hourly: Some(money(Decimal::ONE, "EUR")),
                settled_ms: 1_000,
                ..i.ledger[0].clone()
            }],
            ..i
        };
        let r = receipt(&later, 3_601_000);
        assert_eq!(r.total_cost, Some(money(Decimal::ONE, "EUR")));
        assert_eq!(r.price_note, "requests x price; unpriced, and not counted, until 1970-01-01T00:00:01Z");
    }

    #[test]
    fn money_round_trips_to_the_nano() {
        let d = Decimal::new(-12_345_678_901, 9);
        assert_eq!(decimal(&money(d, "EUR")), d);
    }
}
