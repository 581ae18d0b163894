//! What an instance draws on a host that is the owner's: measured where the host measures itself, by a power model elsewhere. Pure.
//!
//! # Who pays for what
//! - Busy: the host's energy beyond its idle watts goes by processor time, that of the instance's replicas of all that the host was
//!   busy. By the model: processor time times the watts of a busy core.
//! - Idle: of the host's idle watts an instance pays the share of the host's cores that its replicas have reserved (their limits;
//!   what a price assumes for one without). What nobody has reserved is nobody's: the owner's.
//!
//! # Caveats
//! Package energy is that of processors: memory, disks, fans and the supply's losses are not in it. Gates and the engine are not
//! the instance's. Where a tariff changed between two looks, what came is parted by time.
use crate::{
    clock::{Millis, timestamp},
    cost,
};
use rust_decimal::{Decimal, RoundingStrategy};
use syp_proto::v1::{self, energy::Source};

/// Microjoules of a kWh.
const UJ_PER_KWH: i64 = 3_600_000_000_000;
/// After a longer time without a look a counter may have wrapped more than once: the model counts then. The smallest range in use
/// (some 65 kJ) lasts for more than this at 100 W.
const TRUSTED_MS: Millis = 10 * 60_000;
/// The rule for idle watts, for people.
pub const IDLE_RULE: &str = "the share of the host's cores that its replicas reserve";

/// A processor package that counts its energy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// Which one.
    pub name: String,
    /// Counter, microjoules.
    pub uj: u64,
    /// Where it begins anew, microjoules.
    pub range_uj: u64,
}

/// Counters of a host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Which boot: counters of another one began anew.
    pub boot: String,
    /// Processor time that was not idle, microseconds.
    pub busy_us: u64,
    /// Its packages; none: `why` says why.
    pub packages: Vec<Package>,
    /// Why nothing is measured.
    pub why: String,
}

/// What energy costs, and what a host draws that does not measure itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Of the whole host, doing nothing.
    pub idle_watts: Decimal,
    /// Of one busy core, beyond that.
    pub watts_per_core: Decimal,
    /// Price.
    pub per_kwh: Decimal,
    /// ISO 4217.
    pub currency: String,
    /// Share of the host's cores that one replica reserves, 0 to 1.
    pub reserved: Decimal,
}

/// Counters and prices of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Power {
    /// Counters.
    pub reading: Reading,
    /// Prices, each from its time on, oldest first; the first also before that.
    pub models: Vec<(Millis, Model)>,
}

/// All that an instance has drawn. It is kept with the counters from which it goes on, so that no joule is counted twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    /// Since when; 0: never looked at.
    pub from: Millis,
    /// When the host was last read.
    pub at: Millis,
    /// Its counters then.
    pub base: Reading,
    /// Microjoules by the host's own counters.
    pub measured_uj: Decimal,
    /// Microjoules by the model.
    pub modelled_uj: Decimal,
    /// Those of both that are a share of idle watts.
    pub idle_uj: Decimal,
    /// Sum of microjoules times their price of a kWh.
    pub priced: Decimal,
    /// ISO 4217.
    pub currency: String,
    /// Share of idle watts, at the last look.
    pub share: Decimal,
}

/// What came between two readings, microjoules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Portion {
    busy: Decimal,
    idle: Decimal,
    measured: bool,
}

/// By how much the packages' counters grew; `None` when that can't be known.
fn grown(before: &Reading, after: &Reading, elapsed: Millis) -> Option<u64> {
    if before.boot != after.boot || after.packages.is_empty() || !(1..=TRUSTED_MS).contains(&elapsed) {
        return None;
    }
    let one = |now: &Package| {
        let then = before.packages.iter().find(|p| p.name == now.name)?;
        now.uj.checked_sub(then.uj).or_else(|| Some(now.uj + now.range_uj.checked_sub(then.uj)?))
    };
    // all that there were and no others: a package that comes or goes makes a sum of something else
    (before.packages.len() == after.packages.len()).then(|| after.packages.iter().map(one).sum()).flatten()
}

/// `share` of idle watts, and the processor time of the instance.
fn portion(
    before: &Reading,
    now: &Reading,
    model: &Model,
    share: Decimal,
    cpu_us: u64,
    elapsed: Millis,
) -> Portion {
    let elapsed = elapsed.max(0);
    // watts are microjoules a microsecond
    let idle = model.idle_watts * Decimal::from(elapsed) * Decimal::ONE_THOUSAND;
    let cpu = Decimal::from(cpu_us);
    let Some(all) = grown(before, now, elapsed).map(Decimal::from) else {
        return Portion { busy: model.watts_per_core * cpu, idle: idle * share, measured: false };
    };
    // a host that draws less than it is said to
    let idle = idle.min(all);
    let host = Decimal::from(now.busy_us.saturating_sub(before.busy_us)).max(cpu);
    let busy = if host.is_zero() { Decimal::ZERO } else { (all - idle) * cpu / host };
    Portion { busy, idle: idle * share, measured: true }
}

/// Which model counts for which part of a stretch of time; the parts add up to one.
fn parts(models: &[(Millis, Model)], from: Millis, until: Millis) -> impl Iterator<Item = (&Model, Decimal)> {
    let ends = models.iter().skip(1).map(|(at, _)| *at).chain([Millis::MAX]);
    models.iter().enumerate().zip(ends).filter_map(move |((n, (begin, model)), end)| {
        let begin = if n == 0 { Millis::MIN } else { *begin };
        let whole = until - from;
        if whole <= 0 {
            // a clock that stands or goes back: what came is of now
            return (end == Millis::MAX).then_some((model, Decimal::ONE));
        }
        let len = until.min(end) - from.max(begin);
        (len > 0).then(|| (model, Decimal::from(len) / Decimal::from(whole)))
    })
}

// === impl Meter ===

impl Meter {
    /// Takes in what the host says at `now`; `cpu_us`: processor time of the instance since the last look.
    pub fn take(&mut self, p: &Power, replicas: usize, cpu_us: u64, now: Millis) {
        let Some((_, newest)) = p.models.last() else { return };
        let share = (newest.reserved * Decimal::from(replicas)).min(Decimal::ONE);
        if self.from == 0 {
            self.from = now;
        }
        for (model, part) in parts(&p.models, self.at, now).filter(|_| self.at != 0) {
            let x = portion(&self.base, &p.reading, model, share, cpu_us, now - self.at);
            let whole = |d: Decimal| d.round_dp_with_strategy(0, RoundingStrategy::MidpointNearestEven);
            let (busy, idle) = (whole(x.busy * part), whole(x.idle * part));
            *(if x.measured { &mut self.measured_uj } else { &mut self.modelled_uj }) += busy + idle;
            self.idle_uj += idle;
            self.priced += (busy + idle) * model.per_kwh;
        }
        (self.at, self.base, self.share) = (now, p.reading.clone(), share);
        self.currency.clone_from(&newest.currency);
    }

    /// For the API; `None` when nobody has looked.
    pub fn shown(&self) -> Option<v1::Energy> {
        if self.from == 0 {
            return None;
        }
        let joules = |uj: Decimal| (uj / Decimal::from(1_000_000)).round_dp(3).normalize().to_string();
        let source = match (self.measured_uj.is_zero(), self.modelled_uj.is_zero()) {
            (false, true) => Source::Measured,
            (false, false) => Source::Both,
            _ if !self.base.packages.is_empty() => Source::Measured,
            _ => Source::Modelled,
        };
        Some(v1::Energy {
            source: source as i32,
            joules: joules(self.measured_uj + self.modelled_uj),
            measured_joules: joules(self.measured_uj),
            modelled_joules: joules(self.modelled_uj),
            idle_joules: joules(self.idle_uj),
            cost: Some(cost::money(self.priced / Decimal::from(UJ_PER_KWH), &self.currency)),
            idle_share: self.share.round_dp(6).normalize().to_string(),
            idle_rule: IDLE_RULE.into(),
            why_modelled: self.base.why.clone(),
            from_time: timestamp(self.from),
            as_of: timestamp(self.at),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(busy_s: u64, uj: &[(u64, u64)]) -> Reading {
        let package = |(n, (uj, range_uj)): (usize, &(u64, u64))| Package {
            name: format!("package-{n}"),
            uj: *uj,
            range_uj: *range_uj,
        };
        let packages = uj.iter().enumerate().map(package).collect();
        Reading { boot: "b".into(), busy_us: busy_s * 1_000_000, packages, why: String::new() }
    }

    /// 12 W idle, 10 W a busy core, 0.36 EUR a kWh (a tenth of a millionth a joule), a quarter of the cores a replica.
    fn power(reading: Reading) -> Power {
        let model = Model {
            idle_watts: Decimal::from(12),
            watts_per_core: Decimal::from(10),
            per_kwh: Decimal::new(36, 2),
            currency: "EUR".into(),
            reserved: Decimal::new(25, 2),
        };
        Power { reading, models: vec![(0, model)] }
    }

    const RANGE: u64 = 1_000_000_000;

    #[test]
    fn by_hand_with_counters() {
        let mut m = Meter::default();
        m.take(&power(reading(100, &[(0, RANGE), (0, RANGE)])), 2, 7_000_000, 1_000);
        assert_eq!(
            (m.measured_uj, m.from),
            (Decimal::ZERO, 1_000),
            "what was before the first look is nobody's"
        );
        // 10 s; 300 J + 20 J of two packages, of which 120 J are idle; 4 of 16 busy seconds: 50 J; half of the idle ones: 60 J
        m.take(&power(reading(116, &[(300_000_000, RANGE), (20_000_000, RANGE)])), 2, 4_000_000, 11_000);
        assert_eq!((m.measured_uj, m.idle_uj), (Decimal::from(110_000_000), Decimal::from(60_000_000)));
        let e = m.shown().unwrap();
        assert_eq!((e.source(), e.joules.as_str(), e.idle_share.as_str()), (Source::Measured, "110", "0.5"));
        // 110 J at a ten millionth of a EUR
        assert_eq!(cost::decimal(&e.cost.unwrap()), Decimal::new(11, 6));
    }

    #[test]
    fn by_hand_without_counters() {
        let mut m = Meter::default();
        let none = |busy| Reading { why: "none here".into(), ..reading(busy, &[]) };
        m.take(&power(none(0)), 1, 0, 1_000);
        // 10 s: 4 busy seconds at 10 W: 40 J; a quarter of 12 W: 30 J
        m.take(&power(none(5)), 1, 4_000_000, 11_000);
        let e = m.shown().unwrap();
        assert_eq!(
            (e.source(), e.modelled_joules.as_str(), e.idle_joules.as_str()),
            (Source::Modelled, "70", "30")
        );
        assert_eq!(
            (cost::decimal(&e.cost.unwrap()), e.why_modelled.as_str()),
            (Decimal::new(7, 6), "none here")
        );
    }

    #[test]
    fn a_counter_that_begins_anew_has_gone_through_its_range() {
        let before = reading(0, &[(990_000_000, RANGE)]);
        assert_eq!(grown(&before, &reading(1, &[(15_000_000, RANGE)]), 10_000), Some(25_000_000));
        // what is no wrap: another boot, a package that is gone, a counter that nobody can read any more, too long ago
        let other = Reading { boot: "c".into(), ..reading(1, &[(15_000_000, RANGE)]) };
        assert_eq!(grown(&before, &other, 10_000), None);
        assert_eq!(grown(&reading(0, &[(1, RANGE), (1, RANGE)]), &reading(1, &[(2, RANGE)]), 10_000), None);
        assert_eq!(grown(&before, &reading(1, &[]), 10_000), None);
        assert_eq!(grown(&before, &reading(1, &[(15_000_000, RANGE)]), TRUSTED_MS + 1), None);
        assert_eq!(grown(&before, &reading(1, &[(15_000_000, 9)]), 10_000), None, "a range that can't be");
    }

    #[test]
    fn counters_that_vanish_leave_it_to_the_model_and_what_was_measured_stays() {
        let mut m = Meter::default();
        m.take(&power(reading(0, &[(0, RANGE)])), 1, 0, 1_000);
        m.take(&power(reading(2, &[(220_000_000, RANGE)])), 1, 1_000_000, 11_000);
        // 220 J, 120 J of them idle: half of 100 J, a quarter of 120 J
        assert_eq!(m.measured_uj, Decimal::from(80_000_000));
        m.take(&power(Reading { why: "gone".into(), ..reading(3, &[]) }), 1, 1_000_000, 21_000);
        let e = m.shown().unwrap();
        assert_eq!(
            (e.source(), e.measured_joules.as_str(), e.modelled_joules.as_str()),
            (Source::Both, "80", "40")
        );
        // and when they are back there is no difference to be had at first
        m.take(&power(reading(4, &[(900_000_000, RANGE)])), 1, 1_000_000, 31_000);
        assert_eq!((m.measured_uj, m.modelled_uj), (Decimal::from(80_000_000), Decimal::from(80_000_000)));
    }

    #[test]
    fn nobody_gets_more_than_there_is() {
        let before = reading(0, &[(0, RANGE)]);
        // the host says less busy time than the instance had, and draws less than it is said to when idle
        let p = power(reading(1, &[(50_000_000, RANGE)]));
        let of =
            |p: &Power, share, cpu_us, ms| portion(&before, &p.reading, &p.models[0].1, share, cpu_us, ms);
        let x = of(&p, Decimal::ONE, 4_000_000, 10_000);
        assert_eq!((x.busy, x.idle), (Decimal::ZERO, Decimal::from(50_000_000)));
        let p = power(reading(1, &[(220_000_000, RANGE)]));
        let x = of(&p, Decimal::ZERO, 4_000_000, 10_000);
        assert_eq!((x.busy, x.idle), (Decimal::from(100_000_000), Decimal::ZERO));
        // a clock that goes back charges no idle time
        let x = of(&p, Decimal::ONE, 1_000_000, -5_000);
        assert_eq!((x.busy, x.idle, x.measured), (Decimal::from(10_000_000), Decimal::ZERO, false));
        let mut m = Meter::default();
        m.take(&power(before.clone()), 9, 0, 1);
        assert_eq!(m.share, Decimal::ONE, "more than all is all");
    }

    #[test]
    fn another_price_or_model_is_for_later() {
        let mut m = Meter::default();
        let none = |busy| reading(busy, &[]);
        m.take(&power(none(0)), 1, 0, 1_000);
        m.take(&power(none(1)), 1, 4_000_000, 11_000);
        let before = m.shown().unwrap().cost;
        let mut dear = power(none(1));
        let model =
            Model { per_kwh: Decimal::new(72, 2), idle_watts: Decimal::from(24), ..dear.models[0].1.clone() };
        dear.models.push((12_000, model));
        m.take(&dear, 1, 0, 11_000);
        assert_eq!(m.shown().unwrap().cost, before);
        // 1 s of a quarter of 12 W at the old price, 3 s of a quarter of 24 W at twice that: 3 J and 18 J
        m.take(&dear, 1, 0, 15_000);
        let now = cost::decimal(&m.shown().unwrap().cost.unwrap());
        assert_eq!(now - cost::decimal(&before.unwrap()), Decimal::new(3 + 2 * 18, 7));
        // once more with a clock that went back: what came is of now
        m.take(&dear, 1, 1_000_000, 14_000);
        assert_eq!(cost::decimal(&m.shown().unwrap().cost.unwrap()) - now, Decimal::new(2 * 10, 7));
    }
}
