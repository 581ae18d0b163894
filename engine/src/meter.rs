//! What has been spent, by revision and by day, from the ledger: each billed row its own rate for the time in which it existed or
//! may have existed. Exact: sums of rate times milliseconds in decimal, divided once at the end.
use crate::{clock::Millis, cost::decimal, revision};
use rust_decimal::Decimal;
use std::collections::BTreeMap;
use syp_proto::journal::{Instance, LedgerRow, Spent, Use, Used};

/// A day, in UTC.
pub const DAY_MS: Millis = 86_400_000;
/// Hours, in what sums are kept in.
pub const HOUR_MS: i64 = 3_600_000;
/// Sums kept apart; beyond them the oldest day goes into what is no day's.
const KEPT: usize = 160;

/// Rate times milliseconds of one revision in one day; day 0: of older days together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Number.
    pub revision: u32,
    /// Days since 1970.
    pub day: i64,
    /// Rate times milliseconds.
    pub rate_ms: Decimal,
}

/// The day of a time.
pub fn day(at: Millis) -> i64 {
    at.div_euclid(DAY_MS)
}

/// What of a row is not settled yet: from, until, at which rate.
fn open(r: &LedgerRow, now: Millis) -> Option<(Millis, Millis, Decimal)> {
    let rate = decimal(r.hourly.as_ref().filter(|_| r.billed)?);
    // not the later of the two: a clock that was set back may be behind the intent
    let from = if r.settled_ms == 0 { r.intent_ms } else { r.settled_ms };
    let until = if r.gone_ms != 0 { r.gone_ms } else { now };
    (until > from).then_some((from, until, rate))
}

/// A stretch of time, cut at midnights.
fn by_day(from: Millis, until: Millis) -> impl Iterator<Item = (i64, Millis)> {
    (day(from)..=day(until - 1)).map(move |d| {
        let (begin, end) = (d * DAY_MS, (d + 1) * DAY_MS);
        (d, until.min(end) - from.max(begin))
    })
}

/// Everything that was spent until `now`.
pub fn pieces(i: &Instance, now: Millis) -> Vec<Piece> {
    let mut sums: BTreeMap<(i64, u32), Decimal> = BTreeMap::new();
    for s in &i.spent {
        *sums.entry((s.day, s.revision)).or_default() += s.rate_ms.parse::<Decimal>().unwrap_or_default();
    }
    for r in &i.ledger {
        let Some((from, until, rate)) = open(r, now) else { continue };
        for (day, ms) in by_day(from, until) {
            *sums.entry((day, r.revision.max(1))).or_default() += rate * Decimal::from(ms);
        }
    }
    sums.into_iter().map(|((day, revision), rate_ms)| Piece { revision, day, rate_ms }).collect()
}

/// What was spent in a stretch of time that begins at a midnight, as far as days are still apart.
pub fn since(i: &Instance, from: Millis, now: Millis) -> Decimal {
    let first = day(from);
    let sum: Decimal = pieces(i, now).iter().filter(|p| p.day >= first).map(|p| p.rate_ms).sum();
    sum / Decimal::from(HOUR_MS)
}

/// Puts what a row has cost until now among what is spent; from then on it may cost something else.
pub(crate) fn settle(i: &mut Instance, ordinal: u32, at: Millis) {
    let Ok(n) = i.ledger.binary_search_by_key(&ordinal, |r| r.ordinal) else { return };
    let row = &mut i.ledger[n];
    let Some((from, until, rate)) = open(row, at) else { return };
    row.settled_ms = until;
    let revision = row.revision.max(1);
    for (day, ms) in by_day(from, until) {
        add(&mut i.spent, revision, day, rate * Decimal::from(ms));
    }
    keep_few(i);
}

/// What is paid by use and was counted by its provider: what it cost, by day, goes to what serves.
pub(crate) fn used(i: &mut Instance, u: &Used) -> Result<(), &'static str> {
    if u.from_ms < i.used_until_ms || u.until_ms <= u.from_ms {
        return Err("use of a time that was counted");
    }
    i.used_until_ms = u.until_ms;
    let revision = revision::number(i);
    let number = |s: &str| s.parse::<Decimal>().map_err(|_| "use without a number");
    for x in &u.uses {
        let (quantity, amount) = (number(&x.quantity)?, number(&x.amount)?);
        add(&mut i.spent, revision, x.day, amount * Decimal::from(HOUR_MS));
        let at = i.used.iter().position(|s| s.kind == x.kind).unwrap_or_else(|| {
            let (kind, unit) = (x.kind.clone(), x.unit.clone());
            i.used.push(Use { kind, unit, quantity: "0".into(), amount: "0".into(), day: 0 });
            i.used.len() - 1
        });
        let sum = &mut i.used[at];
        sum.quantity = (number(&sum.quantity)? + quantity).to_string();
        sum.amount = (number(&sum.amount)? + amount).to_string();
    }
    keep_few(i);
    Ok(())
}

/// Beyond so many sums the oldest day becomes no day's.
fn keep_few(i: &mut Instance) {
    while i.spent.len() > KEPT {
        let Some(oldest) = i.spent.iter().map(|s| s.day).filter(|d| *d != 0).min() else { return };
        let (old, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut i.spent).into_iter().partition(|s| s.day == oldest);
        i.spent = kept;
        for s in old {
            add(&mut i.spent, 0, 0, s.rate_ms.parse().unwrap_or_default());
        }
    }
}

/// Adds to the sum of a revision and a day.
pub(crate) fn add(spent: &mut Vec<Spent>, revision: u32, day: i64, rate_ms: Decimal) {
    let at = spent.iter().position(|s| (s.day, s.revision) == (day, revision)).unwrap_or_else(|| {
        spent.push(Spent { revision, day, rate_ms: "0".into() });
        spent.len() - 1
    });
    let before: Decimal = spent[at].rate_ms.parse().unwrap_or_default();
    spent[at].rate_ms = (before + rate_ms).to_string();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{accrued, money};
    use syp_proto::journal::ledger_row;

    /// 3.6 an hour is a thousandth a second.
    fn row(ordinal: u32, revision: u32, from: Millis, gone: Millis) -> LedgerRow {
        let state = if gone == 0 { ledger_row::State::Exists } else { ledger_row::State::Gone };
        LedgerRow {
            ordinal,
            revision,
            intent_ms: from,
            gone_ms: gone,
            billed: true,
            hourly: Some(money(Decimal::new(36, 1), "EUR")),
            state: state as i32,
            ..Default::default()
        }
    }

    fn amounts(i: &Instance, now: Millis) -> Vec<(i64, u32, Decimal)> {
        let hours = |d: Decimal| (d / Decimal::from(HOUR_MS)).normalize();
        pieces(i, now).into_iter().map(|p| (p.day, p.revision, hours(p.rate_ms))).collect()
    }

    #[test]
    fn midnight_parts_what_one_replica_costs() {
        // from 10 s before a midnight to 20 s after it
        let midnight = 100 * DAY_MS;
        let i = Instance { ledger: vec![row(0, 1, midnight - 10_000, 0)], ..Default::default() };
        let seen = amounts(&i, midnight + 20_000);
        assert_eq!(seen, [(99, 1, Decimal::new(1, 2)), (100, 1, Decimal::new(2, 2))]);
        assert_eq!(since(&i, midnight, midnight + 20_000), Decimal::new(2, 2));
        assert_eq!(accrued(&i, midnight + 20_000), Decimal::new(3, 2));
    }

    #[test]
    fn what_is_settled_is_counted_once_and_a_new_price_is_for_later() {
        let mut i =
            Instance { ledger: vec![row(0, 1, 0, 0), row(4, 2, 5_000, 15_000)], ..Default::default() };
        let before = accrued(&i, 30_000);
        settle(&mut i, 4, 15_000);
        settle(&mut i, 4, 15_000);
        settle(&mut i, 0, 30_000);
        assert_eq!(accrued(&i, 30_000), before);
        i.ledger[0].hourly = Some(money(Decimal::new(72, 1), "EUR"));
        // 30 s at a thousandth, 10 s of the other, then 10 s at two thousandths
        assert_eq!(accrued(&i, 40_000), Decimal::new(60, 3));
        assert_eq!(amounts(&i, 40_000), [(0, 1, Decimal::new(5, 2)), (0, 2, Decimal::new(1, 2))]);
    }

    #[test]
    fn old_days_become_one_and_nothing_is_lost() {
        let mut i = Instance { ledger: vec![row(0, 1, DAY_MS, 0)], ..Default::default() };
        for d in 2..400 {
            settle(&mut i, 0, d * DAY_MS);
        }
        assert!(i.spent.len() <= KEPT, "{}", i.spent.len());
        assert_eq!(accrued(&i, 399 * DAY_MS), Decimal::new(36, 1) * Decimal::from(24 * 398));
    }
}
