//! What AWS itself measures of an instance: what its load balancer answered before any gate saw it, what its tasks use of what they have, and
//! what is paid by use. CloudWatch is asked only by somebody who looks, and of one instance once a minute: each figure costs.
//!
//! Source: CloudWatch API reference, `GetMetricData`; "CloudWatch metrics for your Application Load Balancer"; "Amazon ECS CloudWatch
//! metrics". What is not reported had no event: CloudWatch keeps no zeros.
use super::{Shared, names, query::CLOUDWATCH, stack_step, tasks::Of};
use serde::Deserialize;
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
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// CloudWatch has nothing that is newer by itself.
const FRESH_MS: Millis = 60_000;
/// Up to this length of time by steps of a minute, beyond by hours: an answer has 500 values of a figure and more come in pages.
const BY_MINUTE_MS: Millis = 6 * 3_600_000;
const PAGES: usize = 10;
/// Instances that are remembered.
const MOST: usize = 1_000;

/// Whose figure it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Service,
    Balancer,
    Group,
    Lines,
}

/// How values of a time become one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Sum,
    Average,
    Maximum,
}

struct Wanted {
    name: &'static str,
    from: From,
    metric: &'static str,
    how: As,
    unit: &'static str,
}

const fn wanted(name: &'static str, from: From, metric: &'static str, how: As, unit: &'static str) -> Wanted {
    Wanted { name, from, metric, how, unit }
}

/// All that is asked for.
const ALL: [Wanted; 10] = [
    wanted("requests at the load balancer", From::Balancer, "RequestCount", As::Sum, ""),
    wanted("new connections", From::Balancer, "NewConnectionCount", As::Sum, ""),
    wanted("refused connections", From::Balancer, "RejectedConnectionCount", As::Sum, ""),
    wanted("5xx of the load balancer itself", From::Balancer, "HTTPCode_ELB_5XX_Count", As::Sum, ""),
    wanted("5xx of gates and apps", From::Balancer, "HTTPCode_Target_5XX_Count", As::Sum, ""),
    wanted("unhealthy tasks, at most", From::Group, "UnHealthyHostCount", As::Maximum, ""),
    wanted("processed by the load balancer", From::Balancer, "ProcessedBytes", As::Sum, "bytes"),
    wanted("log lines", From::Lines, "IncomingBytes", As::Sum, "bytes"),
    wanted("CPU of what tasks have", From::Service, "CPUUtilization", As::Average, "%"),
    wanted("memory of what tasks have", From::Service, "MemoryUtilization", As::Average, "%"),
];

/// What was told, and of which time.
pub(super) type Kept = BTreeMap<InstanceId, (Millis, Millis, ProviderFigures)>;

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "GetMetricDataResult")]
    result: Page,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    metric_data_results: Members<Series>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
struct Members<T> {
    #[serde(rename = "member", default = "Vec::new")]
    all: Vec<T>,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self { all: vec![] }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Series {
    id: String,
    #[serde(default)]
    values: Members<f64>,
}

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
    let Some(fields) = question(cx, from, until) else { return Ok(None) };
    let query = &s.clients().await?.query;
    let (mut values, mut page): (BTreeMap<String, Vec<f64>>, _) = (BTreeMap::new(), None::<String>);
    for _ in 0..PAGES {
        let more = page.as_ref().map(|p| ("NextToken".to_owned(), p.clone()));
        let all: Vec<(&str, &str)> =
            fields.iter().chain(more.as_ref()).map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let said: Answer = query.read(CLOUDWATCH, "GetMetricData", &all).await?;
        for series in said.result.metric_data_results.all {
            values.entry(series.id).or_default().extend(series.values.all);
        }
        page = said.result.next_token.filter(|t| !t.is_empty());
        if page.is_none() {
            break;
        }
    }
    let figures =
        ALL.iter().enumerate().filter_map(|(n, w)| told(w, values.get(&format!("m{n}"))?)).collect();
    let told = ProviderFigures {
        source: "CloudWatch".into(),
        figures,
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

/// Fields of the request.
fn question(cx: &StepCx, from: Millis, until: Millis) -> Option<Vec<(String, String)>> {
    let service = Of::stack(cx)?;
    let of = |field| cx.output(stack_step::NODE, field);
    // a dimension is the last part of an ARN
    let tail = |field, mark| of(field).and_then(|arn| arn.split_once(mark)).map(|(_, tail)| tail);
    let balancer = tail("load_balancer", "loadbalancer/")?;
    let group = tail("target_group", ":targetgroup/").map(|t| format!("targetgroup/{t}"))?;
    let lines = names::logs(&cx.owner);
    let service_name = service.service.rsplit('/').next().unwrap_or(service.service);
    let period = if until - from <= BY_MINUTE_MS { "60" } else { "3600" };
    let mut out = vec![
        ("StartTime".to_owned(), moment(from)?),
        ("EndTime".to_owned(), moment(until)?),
        ("ScanBy".to_owned(), "TimestampAscending".to_owned()),
    ];
    for (n, w) in ALL.iter().enumerate() {
        let (namespace, dimensions): (_, Vec<(&str, &str)>) = match w.from {
            From::Service => {
                ("AWS/ECS", vec![("ClusterName", service.cluster), ("ServiceName", service_name)])
            }
            From::Balancer => ("AWS/ApplicationELB", vec![("LoadBalancer", balancer)]),
            From::Group => {
                ("AWS/ApplicationELB", vec![("LoadBalancer", balancer), ("TargetGroup", group.as_str())])
            }
            From::Lines => ("AWS/Logs", vec![("LogGroupName", lines.as_str())]),
        };
        let how = match w.how {
            As::Sum => "Sum",
            As::Average => "Average",
            As::Maximum => "Maximum",
        };
        let query = format!("MetricDataQueries.member.{}", n + 1);
        let mut put = |key: &str, value: &str| out.push((format!("{query}.{key}"), value.to_owned()));
        put("Id", &format!("m{n}"));
        put("MetricStat.Metric.Namespace", namespace);
        put("MetricStat.Metric.MetricName", w.metric);
        put("MetricStat.Period", period);
        put("MetricStat.Stat", how);
        for (at, (name, value)) in dimensions.into_iter().enumerate() {
            let dimension = format!("MetricStat.Metric.Dimensions.member.{}", at + 1);
            put(&format!("{dimension}.Name"), name);
            put(&format!("{dimension}.Value"), value);
        }
    }
    Some(out)
}

fn moment(at: Millis) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(at.div_euclid(1_000)).ok()?.format(&Rfc3339).ok()
}

/// Its values as one; `None`: AWS has none.
fn told(w: &Wanted, values: &[f64]) -> Option<Figure> {
    if values.is_empty() && w.how != As::Sum {
        return None;
    }
    #[allow(clippy::cast_precision_loss)]
    let value = match w.how {
        As::Sum => values.iter().sum(),
        As::Average => values.iter().sum::<f64>() / values.len() as f64,
        As::Maximum => values.iter().copied().fold(0.0, f64::max),
    };
    Some(Figure { name: w.name.into(), value, unit: w.unit.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_values_become_one() {
        let text = "<GetMetricDataResponse xmlns=\"http://monitoring.amazonaws.com/doc/2010-08-01/\"><GetMetricDataResult>\
            <MetricDataResults><member><Id>m0</Id><Label>x</Label><StatusCode>Complete</StatusCode>\
            <Timestamps><member>2026-11-27T00:00:00Z</member><member>2026-11-27T00:01:00Z</member></Timestamps>\
            <Values><member>2.0</member><member>3.5</member></Values></member>\
            <member><Id>m1</Id><Values/></member></MetricDataResults><Messages/></GetMetricDataResult>\
            <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetMetricDataResponse>";
        let page = quick_xml::de::from_str::<Answer>(text).unwrap().result;
        let all: Vec<_> =
            page.metric_data_results.all.iter().map(|s| (s.id.as_str(), s.values.all.clone())).collect();
        assert_eq!(all, [("m0", vec![2.0, 3.5]), ("m1", vec![])]);
        assert!(page.next_token.is_none());
        let of = |how| wanted("x", From::Balancer, "X", how, "");
        let value = |how, values: &[f64]| told(&of(how), values).map(|f| f.value);
        assert_eq!(value(As::Sum, &[2.0, 3.5]), Some(5.5));
        assert_eq!(value(As::Average, &[2.0, 4.0]), Some(3.0));
        assert_eq!(value(As::Maximum, &[2.0, 4.0]), Some(4.0));
        // no event is none; of a share nobody knows
        assert_eq!((value(As::Sum, &[]), value(As::Average, &[])), (Some(0.0), None));
    }
}
