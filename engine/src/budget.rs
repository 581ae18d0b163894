//! Budgets: which line is crossed when. Pure. Between two records the rate is constant, so the moment of the next crossing is known.
use crate::{
    clock::Millis,
    cost::{self, decimal},
    meter,
};
use rust_decimal::{Decimal, prelude::ToPrimitive};
use syp_proto::{
    journal::{BudgetReached, Instance},
    v1::{
        Budget,
        budget::{Action, Period},
    },
};
use time::{Duration, OffsetDateTime};

/// When the period of a time began (UTC; weeks begin on Mondays); the beginning of time for one without an end.
pub fn begins(period: Period, now: Millis) -> Millis {
    // a clock beyond the calendar has no periods
    let Ok(at) = OffsetDateTime::from_unix_timestamp(now.div_euclid(1_000)) else { return 0 };
    let date = at.date();
    let first = match period {
        Period::Day => Some(date),
        Period::Week => date.checked_sub(Duration::days(date.weekday().number_days_from_monday().into())),
        Period::Month => date.replace_day(1).ok(),
        Period::Lifetime | Period::Unspecified => None,
    };
    first.map_or(0, |d| d.midnight().assume_utc().unix_timestamp() * 1_000)
}

/// When it ends; `None`: never.
fn ends(period: Period, now: Millis) -> Option<Millis> {
    let begin = begins(period, now);
    let days = match period {
        Period::Day => 1,
        Period::Week => 7,
        // one of the days after the shortest month is in the next one
        Period::Month => return Some(begins(Period::Month, begin + 31 * meter::DAY_MS)),
        Period::Lifetime | Period::Unspecified => return None,
    };
    Some(begin + days * meter::DAY_MS)
}

/// What a budget says now.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    /// Lines crossed that nobody has acted on.
    pub crossed: Vec<BudgetReached>,
    /// When to look again, if nothing else happens.
    pub wake_at: Option<Millis>,
}

/// Spent in the period that runs.
pub fn spent(i: &Instance, b: &Budget, now: Millis) -> Decimal {
    match b.period() {
        Period::Lifetime | Period::Unspecified => cost::accrued(i, now),
        period => meter::since(i, begins(period, now), now),
    }
}

/// Was the last line of this period crossed already?
pub fn is_reached(i: &Instance, now: Millis) -> bool {
    let Some(b) = i.spec.as_ref().and_then(|s| s.budget.as_ref()) else { return false };
    let begin = begins(b.period(), now);
    i.reached.iter().any(|r| r.percent >= 100 && r.period_ms == begin)
}

/// A crossed line for people.
pub fn words(i: &Instance, r: &BudgetReached) -> String {
    let b = i.spec.as_ref().and_then(|s| s.budget.clone()).unwrap_or_default();
    let amount = |m: Option<&syp_proto::google::r#type::Money>| {
        m.map_or_else(String::new, |m| format!("{} {}", decimal(m).normalize(), m.currency_code))
    };
    let period = match b.period() {
        Period::Day => "a day",
        Period::Week => "a week",
        Period::Month => "a month",
        Period::Lifetime | Period::Unspecified => "in all",
    };
    let (spent, limit) = (amount(r.spent.as_ref()), amount(b.limit.as_ref()));
    let done = match r.action() {
        Action::Drain => "; it drains",
        Action::Destroy => "; it is taken down",
        _ => "",
    };
    format!("{spent} of {limit} {period} are spent, {} % was the line{done}", r.percent)
}

/// Looks.
pub fn look(i: &Instance, now: Millis) -> Verdict {
    let mut out = Verdict::default();
    let Some(b) = i.spec.as_ref().and_then(|s| s.budget.as_ref()) else { return out };
    let (Some(limit), period) = (b.limit.as_ref(), b.period()) else { return out };
    let (limit, begin, rate) = (decimal(limit), begins(period, now), cost::rate(i));
    let spent = spent(i, b, now);
    out.wake_at = ends(period, now);
    for t in &b.thresholds {
        let held =
            |r: &&BudgetReached| r.percent == t.percent && r.action == t.action && r.period_ms == begin;
        if i.reached.iter().any(|r| held(&r)) {
            continue;
        }
        let line = limit * Decimal::from(t.percent) / Decimal::from(100);
        if spent >= line {
            let currency = b.limit.as_ref().map_or("", |m| m.currency_code.as_str());
            let spent = Some(cost::money(spent, currency));
            out.crossed.push(BudgetReached { percent: t.percent, action: t.action, period_ms: begin, spent });
        } else if rate > Decimal::ZERO {
            let ms = ((line - spent) * Decimal::from(meter::HOUR_MS) / rate).ceil().to_i64();
            let at = now.saturating_add(ms.unwrap_or(i64::MAX).max(1));
            out.wake_at = Some(out.wake_at.map_or(at, |w| w.min(at)));
        }
    }
    out.crossed.sort_by_key(|r| (r.percent, r.action));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cost::money, meter::DAY_MS};
    use syp_proto::{
        journal::LedgerRow,
        v1::{InstanceSpec, budget::Threshold},
    };

    #[test]
    fn periods_begin_where_calendars_say() {
        // 2024-02-29 is day 19782, a Thursday
        let leap = 19_782;
        let at = leap * DAY_MS + 5;
        assert_eq!(begins(Period::Day, at), leap * DAY_MS);
        assert_eq!(begins(Period::Week, at), (leap - 3) * DAY_MS);
        assert_eq!(begins(Period::Month, at), (leap - 28) * DAY_MS);
        assert_eq!(ends(Period::Month, at), Some((leap + 1) * DAY_MS));
        assert_eq!((begins(Period::Lifetime, at), ends(Period::Lifetime, at)), (0, None));
    }

    /// 3.6 EUR an hour since a midnight, a budget of 1 EUR a day: half of it after 500 s, all of it after 1,000 s.
    fn instance() -> Instance {
        let line = |percent, action: Action| Threshold { percent, action: action as i32 };
        let budget = Budget {
            limit: Some(money(Decimal::ONE, "EUR")),
            period: Period::Day as i32,
            thresholds: vec![line(50, Action::Notify), line(100, Action::Drain)],
            ..Default::default()
        };
        Instance {
            spec: Some(InstanceSpec { budget: Some(budget), ..Default::default() }),
            ledger: vec![LedgerRow {
                intent_ms: 10 * DAY_MS,
                billed: true,
                hourly: Some(money(Decimal::new(36, 1), "EUR")),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_next_line_is_known_to_the_millisecond() {
        let (mut i, day) = (instance(), 10 * DAY_MS);
        assert_eq!(look(&i, day).wake_at, Some(day + 500_000));
        assert!(look(&i, day + 499_999).crossed.is_empty());
        let half = look(&i, day + 500_000);
        assert_eq!(half.crossed.iter().map(|r| r.percent).collect::<Vec<_>>(), [50]);
        assert_eq!(half.wake_at, Some(day + 1_000_000));
        i.reached = half.crossed;
        let v = look(&i, day + 500_000);
        assert_eq!((v.crossed.len(), v.wake_at), (0, Some(day + 1_000_000)));
        let all = look(&i, day + 1_000_000);
        assert_eq!(
            all.crossed.iter().map(|r| (r.percent, r.action())).collect::<Vec<_>>(),
            [(100, Action::Drain)]
        );
        // another day has another budget, and its lines count anew
        let next = look(&i, day + DAY_MS);
        assert!(next.crossed.is_empty());
        assert_eq!(next.wake_at, Some(day + DAY_MS + 500_000));
    }
}
