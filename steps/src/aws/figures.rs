//! What AWS itself measures of an instance: what its load balancer answered before any gate saw it, what its tasks use of what they have, and
//! what is paid by use. CloudWatch is asked only by somebody who looks, and of one instance once a minute.
use super::{
    Shared,
    cloudwatch::{self, As, Source, Span, Wanted},
};
use std::collections::BTreeMap;
use syp_engine::{
    clock::{Millis, timestamp},
    id::InstanceId,
    step::StepCx,
};
use syp_proto::{
    journal::Failure,
    v1::{ProviderFigures, provider_figures::Figure},
};

/// CloudWatch has nothing that is newer by itself.
const FRESH_MS: Millis = 60_000;
/// Up to this length of time by steps of a minute, beyond by hours.
const BY_MINUTE_MS: Millis = 6 * 3_600_000;
/// Instances that are remembered.
const MOST: usize = 1_000;

/// A figure, for people.
struct Named {
    name: &'static str,
    wanted: Wanted,
    unit: &'static str,
}

const fn named(name: &'static str, from: Source, metric: &'static str, how: As, unit: &'static str) -> Named {
    Named { name, wanted: Wanted { from, metric, how }, unit }
}

/// All that is asked for.
const ALL: [Named; 10] = [
    named("requests at the load balancer", Source::Balancer, "RequestCount", As::Sum, ""),
    named("new connections", Source::Balancer, "NewConnectionCount", As::Sum, ""),
    named("refused connections", Source::Balancer, "RejectedConnectionCount", As::Sum, ""),
    named("5xx of the load balancer itself", Source::Balancer, "HTTPCode_ELB_5XX_Count", As::Sum, ""),
    named("5xx of gates and apps", Source::Balancer, "HTTPCode_Target_5XX_Count", As::Sum, ""),
    named("unhealthy tasks, at most", Source::Group, "UnHealthyHostCount", As::Maximum, ""),
    named("processed by the load balancer", Source::Balancer, "ProcessedBytes", As::Sum, "bytes"),
    named("log lines", Source::Lines, "IncomingBytes", As::Sum, "bytes"),
    named("CPU of what tasks have", Source::Service, "CPUUtilization", As::Average, "%"),
    named("memory of what tasks have", Source::Service, "MemoryUtilization", As::Average, "%"),
];

/// What was told, and of which time.
pub(super) type Kept = BTreeMap<InstanceId, (Millis, Millis, ProviderFigures)>;

/// Of this time; `None`: there is nothing of it at AWS yet.
///
/// # Errors
/// AWS'.
pub(super) async fn read(
    s: &Shared,
    cx: &StepCx,
    from: Millis,
    until: Millis,
) -> Result<Option<ProviderFigures>, Failure> {
    let now = s.clock.now();
    if let Some((at, span, told)) = s.figures.lock().get(&cx.owner.uid)
        && now - at < FRESH_MS
        && (span - (until - from)).abs() <= span / 10
    {
        return Ok(Some(told.clone()));
    }
    let span = Span { from, until, step_s: if until - from <= BY_MINUTE_MS { 60 } else { 3_600 } };
    let Some(values) = cloudwatch::ask(s, cx, &ALL.map(|n| n.wanted), span).await? else { return Ok(None) };
    let figures = ALL.iter().zip(&values).filter_map(|(n, values)| {
        let values: Vec<f64> = values.iter().map(|(_, v)| *v).collect();
        told(n, &values)
    });
    let told = ProviderFigures {
        source: "CloudWatch".into(),
        figures: figures.collect(),
        note: format!("asked at most once a minute; {} figures a question, 0.01 USD a thousand", ALL.len()),
        as_of: timestamp(now),
    };
    let mut kept = s.figures.lock();
    if kept.len() >= MOST {
        kept.retain(|_, (at, ..)| now - *at < FRESH_MS);
    }
    kept.insert(cx.owner.uid, (now, until - from, told.clone()));
    Ok(Some(told))
}

/// Its values as one; `None`: AWS has none.
fn told(n: &Named, values: &[f64]) -> Option<Figure> {
    if values.is_empty() && n.wanted.how != As::Sum {
        return None;
    }
    #[allow(clippy::cast_precision_loss)]
    let value = match n.wanted.how {
        As::Sum => values.iter().sum(),
        As::Average => values.iter().sum::<f64>() / values.len() as f64,
        As::Maximum => values.iter().copied().fold(0.0, f64::max),
    };
    Some(Figure { name: n.name.into(), value, unit: n.unit.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_one() {
        let of = |how| named("x", Source::Balancer, "X", how, "");
        let value = |how, values: &[f64]| told(&of(how), values).map(|f| f.value);
        assert_eq!(value(As::Sum, &[2.0, 3.5]), Some(5.5));
        assert_eq!(value(As::Average, &[2.0, 4.0]), Some(3.0));
        assert_eq!(value(As::Maximum, &[2.0, 4.0]), Some(4.0));
        // no event is none; of a share nobody knows
        assert_eq!((value(As::Sum, &[]), value(As::Average, &[])), (Some(0.0), None));
    }
}
