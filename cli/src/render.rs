//! Values in words: money, times, states; plain tables.
use comfy_table::{Cell, Color, ContentArrangement, Table, presets::NOTHING};
use prost_types::{Duration, Timestamp};
use std::time::{SystemTime, UNIX_EPOCH};
use syp_proto::{
    google::r#type::Money,
    v1::{self, instance::State},
};

/// `0.0021 EUR`: at least two decimals, at most six unless there is nothing before them.
pub fn money(m: &Money) -> String {
    let negative = if m.units < 0 || m.nanos < 0 { "-" } else { "" };
    let digits = format!("{:09}", m.nanos.unsigned_abs());
    let units = m.units.unsigned_abs();
    let keep = if units == 0 && digits.starts_with("000000") { 9 } else { 6 };
    let cut = digits[..keep].trim_end_matches('0');
    format!("{negative}{units}.{cut:0<2} {}", m.currency_code)
}

/// Of an hour's: what a month of 730 hours costs.
pub fn month(hour: &Money) -> Money {
    const NANOS: i128 = 1_000_000_000;
    // an hour's has nine digits: the last ones of a month's are its rounding
    const SHOWN: i128 = 1_000;
    let exact = (i128::from(hour.units) * NANOS + i128::from(hour.nanos)) * 730;
    let all = (exact + SHOWN / 2).div_euclid(SHOWN) * SHOWN;
    // both are within the bounds of what they came from, but for sums that no price has
    let units = i64::try_from(all / NANOS).unwrap_or(i64::MAX);
    Money { currency_code: hour.currency_code.clone(), units, nanos: i32::try_from(all % NANOS).unwrap_or(0) }
}

/// Money, or `unknown`.
pub fn money_or(m: Option<&Money>) -> String {
    m.map_or_else(|| "unknown".into(), money)
}

/// What it costs an hour, `unpriced` where nobody has said what its target costs.
pub fn rate(c: &v1::CostSummary) -> String {
    priced(c, c.rate_per_hour.as_ref())
}

/// A figure of what it costs, `unpriced` where nobody has said what its target costs.
pub fn priced(c: &v1::CostSummary, m: Option<&Money>) -> String {
    match m {
        None if c.accuracy() == v1::cost_summary::Accuracy::UnknownPrice => "unpriced".into(),
        m => money_or(m),
    }
}

/// `5.00 EUR a day: 80% notify, 100% drain`.
pub fn budget(b: &v1::Budget) -> String {
    let lines =
        b.thresholds.iter().map(|t| format!("{}% {}", t.percent, t.action().as_str_name().to_lowercase()));
    let lines = lines.collect::<Vec<_>>().join(", ");
    format!("{} a {}: {lines}", money_or(b.limit.as_ref()), b.period().as_str_name().to_lowercase())
}

/// The last second that has four digits for its year.
const LAST_SECOND: i64 = 253_402_300_799;

/// How good a figure is.
pub fn accuracy(c: &v1::CostSummary) -> &'static str {
    use v1::cost_summary::Accuracy;
    match c.accuracy() {
        Accuracy::Estimate => " (estimated)",
        Accuracy::Metered => " (metered)",
        Accuracy::Billed => " (billed)",
        Accuracy::UnknownPrice | Accuracy::Unspecified => "",
    }
}

/// `2026-11-24T19:00:00Z`; any time can be shown, whatever a store may hold.
pub fn time(t: Option<&Timestamp>) -> String {
    let Some(t) = t else { return "-".into() };
    if t.seconds > LAST_SECOND {
        return "after the year 9999".into();
    }
    let at =
        u64::try_from(t.seconds).ok().and_then(|s| UNIX_EPOCH.checked_add(std::time::Duration::from_secs(s)));
    at.map_or_else(|| "-".into(), |at| humantime::format_rfc3339_seconds(at).to_string())
}

/// Milliseconds since 1970.
pub fn millis(t: &Timestamp) -> i64 {
    t.seconds.saturating_mul(1000).saturating_add(i64::from(t.nanos) / 1_000_000)
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// `3m`, `2h`, `5d` since then.
pub fn age(t: Option<&Timestamp>, now: i64) -> String {
    let Some(t) = t else { return "-".into() };
    let s = (now - millis(t)).max(0) / 1000;
    match s {
        0..120 => format!("{s}s"),
        120..7_200 => format!("{}m", s / 60),
        7_200..172_800 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

/// `0.1s`, `12.3s`, `2m05s`.
pub fn took(ms: i64) -> String {
    let ms = ms.max(0);
    if ms < 60_000 {
        format!("{}.{}s", ms / 1000, ms % 1000 / 100)
    } else {
        format!("{}m{:02}s", ms / 60_000, ms / 1000 % 60)
    }
}

/// `1.2ms`, `340us`, `2s`.
pub fn latency(d: Option<&Duration>) -> String {
    let Some(d) = d else { return "-".into() };
    let us = d.seconds.saturating_mul(1_000_000) + i64::from(d.nanos) / 1000;
    match us {
        ..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}.{}ms", us / 1000, us % 1000 / 100),
        _ => took(us / 1000),
    }
}

/// `12.5 MiB`.
pub fn bytes(n: i64) -> String {
    let mut n = n as f64;
    for unit in ["B", "KiB", "MiB"] {
        if n < 1024.0 {
            return if unit == "B" { format!("{n:.0} B") } else { format!("{n:.1} {unit}") };
        }
        n /= 1024.0;
    }
    format!("{n:.1} GiB")
}

/// `SERVING`.
pub fn state(s: i32) -> &'static str {
    State::try_from(s).map_or("UNKNOWN", |s| s.as_str_name())
}

/// A state as a cell with its colour.
pub fn state_cell(i: &v1::Instance) -> Cell {
    let colour = match i.state() {
        State::Serving => Color::Green,
        State::Destroyed => Color::DarkGrey,
        _ => Color::Yellow,
    };
    let ready = i.conditions.iter().find(|c| c.r#type == "Ready");
    let broken =
        i.state() == State::Serving && ready.is_some_and(|c| c.status() == v1::condition::Status::False);
    Cell::new(state(i.state)).fg(if broken { Color::Red } else { colour })
}

/// A table without lines; the last column is not padded.
pub fn table<R: Into<comfy_table::Row>>(
    header: &[&str],
    rows: impl IntoIterator<Item = R>,
    colours: bool,
) -> String {
    let mut t = Table::new();
    t.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if colours {
        t.enforce_styling();
    } else {
        t.force_no_tty();
    }
    if !header.is_empty() {
        t.set_header(header.to_vec());
    }
    for r in rows {
        t.add_row(r);
    }
    for c in t.column_iter_mut() {
        c.set_padding((0, 2));
    }
    t.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `Word       value` lines.
pub fn fields<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let rows: Vec<_> = rows.into_iter().filter(|(_, v)| !v.is_empty()).collect();
    let width = rows.iter().map(|(k, _)| k.len()).max().unwrap_or(0) + 2;
    let line = |(k, v): &(&str, String)| {
        let mut lines = v.lines();
        let first = format!("{k:width$}{}", lines.next().unwrap_or_default());
        lines.fold(first, |all, l| format!("{all}\n{:width$}{l}", ""))
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A rule of a policy in one line.
pub fn rule(r: &v1::access_policy::Rule) -> String {
    let mut who = r.members.clone();
    let mut claims: Vec<_> = r.claims.iter().map(|(k, v)| format!("claim:{k}={v}")).collect();
    claims.sort();
    who.extend(claims);
    let mut out = if who.is_empty() { "everybody with a token".into() } else { who.join(", ") };
    if r.effect() == v1::access_policy::Effect::Deny {
        out = format!("not {out}");
    }
    if !r.path_prefixes.is_empty() {
        out = format!("{out} on {}", r.path_prefixes.join(", "));
    }
    if !r.methods.is_empty() {
        out = format!("{out} with {}", r.methods.join(", "));
    }
    out
}

/// Who gets through, in one line.
pub fn callers(p: Option<&v1::AccessPolicy>) -> String {
    let rules = p.map(|p| p.rules.as_slice()).unwrap_or_default();
    if rules.is_empty() { "nobody".into() } else { rules.iter().map(rule).collect::<Vec<_>>().join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eur(units: i64, nanos: i32) -> String {
        money(&Money { currency_code: "EUR".into(), units, nanos })
    }

    #[test]
    fn money_is_exact_and_short() {
        assert_eq!(eur(0, 0), "0.00 EUR");
        assert_eq!(eur(12, 500_000_000), "12.50 EUR");
        assert_eq!(eur(0, 2_100_000), "0.0021 EUR");
        assert_eq!(eur(0, 42), "0.000000042 EUR");
        assert_eq!(eur(1, 123_456_789), "1.123456 EUR");
        assert_eq!(eur(-1, -500_000_000), "-1.50 EUR");
    }

    #[test]
    fn a_month_is_rounded_where_its_hour_was() {
        let of = |nanos| money(&month(&Money { currency_code: "USD".into(), units: 0, nanos }));
        assert_eq!(of(25_200_000), "18.396 USD");
        // 0.4 a month, as an hour's 0.000547945...
        assert_eq!(of(547_945), "0.40 USD");
        assert_eq!(of(42), "0.000031 USD");
    }

    #[test]
    fn times() {
        let t = Timestamp { seconds: 1_000, nanos: 0 };
        assert_eq!(time(Some(&t)), "1970-01-01T00:16:40Z");
        for (seconds, want) in
            [(LAST_SECOND, "9999-12-31T23:59:59Z"), (LAST_SECOND + 1, "after the year 9999"), (-1, "-")]
        {
            assert_eq!(time(Some(&Timestamp { seconds, nanos: 0 })), want);
        }
        assert_eq!(time(Some(&Timestamp { seconds: i64::MAX, nanos: 0 })), "after the year 9999");
        assert_eq!(age(Some(&t), 1_090_000), "90s");
        assert_eq!(age(Some(&t), 1_000_000 + 3 * 3_600_000), "3h");
        assert_eq!((took(120), took(3_260), took(125_000)), ("0.1s".into(), "3.2s".into(), "2m05s".into()));
        assert_eq!(latency(Some(&Duration { seconds: 0, nanos: 1_250_000 })), "1.2ms");
        assert_eq!(bytes(13 << 20), "13.0 MiB");
    }

    #[test]
    fn tables_are_plain_when_piped() {
        let t = table(&["NAME", "STATE"], [vec!["a", "SERVING"], vec!["longer", "PENDING"]], false);
        assert_eq!(t, "NAME    STATE\na       SERVING\nlonger  PENDING");
        assert_eq!(
            fields([("A", "1".into()), ("Long", "2\n3".into()), ("No", String::new())]),
            "A     1\nLong  2\n      3"
        );
    }

    #[test]
    fn rules_in_words() {
        let r = v1::access_policy::Rule {
            effect: 2,
            members: vec!["user:a@x".into()],
            path_prefixes: vec!["/admin".into()],
            ..Default::default()
        };
        assert_eq!(rule(&r), "not user:a@x on /admin");
        assert_eq!(callers(None), "nobody");
    }
}
