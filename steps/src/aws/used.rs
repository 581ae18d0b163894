//! What an instance is charged for by use: capacity of its load balancer and log lines, as CloudWatch has counted them.
use super::{
    Shared,
    cloudwatch::{self, As, Source, Span, Values, Wanted},
};
use crate::prices::aws_use::{Counted, FIGURES};
use rust_decimal::{Decimal, prelude::FromPrimitive};
use std::collections::BTreeMap;
use syp_engine::{
    clock::Millis,
    failure::{Class, failure},
    meter::HOUR_MS,
    step::{StepCx, Use},
};
use syp_proto::journal::Failure;

const fn sum(from: Source, metric: &'static str) -> Wanted {
    Wanted { from, metric, how: As::Sum }
}

/// What is asked for, each hour.
const ALL: [Wanted; FIGURES as usize] = [
    sum(Source::Balancer, "NewConnectionCount"),
    // of each minute: how many there were in it
    sum(Source::Balancer, "ActiveConnectionCount"),
    sum(Source::Balancer, "ProcessedBytes"),
    sum(Source::Lines, "IncomingBytes"),
];
/// A longer time than this is asked about by hours: values by minute are kept for 15 days, and an answer has its limits.
const BY_MINUTE_MS: Millis = 24 * HOUR_MS;

/// Of this time.
///
/// # Errors
/// AWS', or a price that is missing.
pub(super) async fn read(s: &Shared, cx: &StepCx, from: Millis, until: Millis) -> Result<Vec<Use>, Failure> {
    let by_hour = until - from > BY_MINUTE_MS;
    let span = match by_hour {
        false => Span { from, until, step_s: 60 },
        true => Span { from: hour(from), until, step_s: 3_600 },
    };
    let Some(values) = cloudwatch::ask(s, cx, &ALL, span).await? else { return Ok(vec![]) };
    let prices = s.prices.read().clone();
    prices.used(&s.region, &hours(&values), from).map_err(|why| {
        let next = format!("'sypctl prices refresh {}' reads the prices", s.name);
        failure(Class::Terminal, "PROVIDER_ERROR", why.to_string(), next)
    })
}

fn hour(at: Millis) -> Millis {
    at - at.rem_euclid(HOUR_MS)
}

/// What was counted in each hour, in the order of what was asked for. Counts and bytes are whole numbers.
fn hours(values: &[Values]) -> BTreeMap<Millis, Counted> {
    let mut out: BTreeMap<Millis, Counted> = BTreeMap::new();
    for (n, series) in values.iter().enumerate() {
        for (at, value) in series {
            let counted = out.entry(hour(*at)).or_default();
            let into = match n {
                0 => &mut counted.connections,
                1 => &mut counted.open_minutes,
                2 => &mut counted.bytes,
                _ => &mut counted.log_bytes,
            };
            // only what is no number is none: CloudWatch has no such values (API reference, `MetricDatum`)
            *into += Decimal::from_f64(*value).unwrap_or_default();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_an_hour_add_up_whatever_their_step() {
        let minute = 60_000;
        let values = [
            vec![(0, 3.0), (59 * minute, 4.0), (60 * minute, 5.0)],
            vec![(minute, 2.0)],
            vec![(90 * minute, 1e9)],
            vec![],
        ];
        let all = hours(&values);
        let d = Decimal::from;
        let first = Counted { connections: d(7), open_minutes: d(2), ..Default::default() };
        let second = Counted { connections: d(5), bytes: d(1_000_000_000), ..Default::default() };
        assert_eq!(all.into_iter().collect::<Vec<_>>(), [(0, first), (HOUR_MS, second)]);
    }
}
