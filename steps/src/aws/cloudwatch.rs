//! Questions to CloudWatch: values of figures of one instance, by step of time. Each figure of a question costs, so nobody asks unless
//! somebody looks, or something is paid by it.
//!
//! Source: CloudWatch API reference, `GetMetricData`; "CloudWatch metrics for your Application Load Balancer"; "Amazon ECS CloudWatch
//! metrics". What is not reported had no event: CloudWatch keeps no zeros. Values by minute are kept for 15 days, by hour for 455.
use super::{
    Shared, names,
    query::{CLOUDWATCH, Query},
    stack_step,
    tasks::Of,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use syp_engine::{
    clock::Millis,
    failure::{Class, failure},
    step::StepCx,
};
use syp_proto::journal::Failure;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const PAGES: usize = 10;

/// Whose figure it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Service,
    Balancer,
    Group,
    Lines,
}

/// How values of a time become one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    Sum,
    Average,
    Maximum,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub from: Source,
    pub metric: &'static str,
    pub how: As,
}

/// A stretch of time, and the steps of its values in seconds.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub from: Millis,
    pub until: Millis,
    pub step_s: u32,
}

/// Of the account, as Service Quotas names it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub(super) struct Figure {
    #[serde(rename = "MetricNamespace", default)]
    pub namespace: String,
    #[serde(rename = "MetricName", default)]
    pub name: String,
    #[serde(rename = "MetricDimensions", default)]
    pub dimensions: BTreeMap<String, String>,
    #[serde(rename = "MetricStatisticRecommendation", default)]
    pub statistic: String,
}

/// Values with the time at which their step begins.
pub(super) type Values = Vec<(Millis, f64)>;

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
    status_code: String,
    #[serde(default)]
    timestamps: Members<String>,
    #[serde(default)]
    values: Members<f64>,
}

/// In the order of what is wanted; `None`: the instance has nothing at AWS that could have figures.
///
/// # Errors
/// AWS'.
pub(super) async fn ask(
    s: &Shared,
    cx: &StepCx,
    wanted: &[Wanted],
    span: Span,
) -> Result<Option<Vec<Values>>, Failure> {
    let Some(fields) = question(cx, wanted, span) else { return Ok(None) };
    let mut values = answered(&s.clients().await?.query, &fields).await?;
    let of = |n: usize| values.remove(&format!("m{n}")).unwrap_or_default();
    Ok(Some((0..wanted.len()).map(of).collect()))
}

/// Values of a question by its ids, page after page.
async fn answered(query: &Query, fields: &[(String, String)]) -> Result<BTreeMap<String, Values>, Failure> {
    let (mut values, mut page): (BTreeMap<String, Values>, _) = (BTreeMap::new(), None::<String>);
    for _ in 0..PAGES {
        let more = page.as_ref().map(|p| ("NextToken".to_owned(), p.clone()));
        let all: Vec<(&str, &str)> =
            fields.iter().chain(more.as_ref()).map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let said: Answer = query.read(CLOUDWATCH, "GetMetricData", &all).await?;
        for series in said.result.metric_data_results.all {
            // it has no values then, which is not the same as none
            if ["InternalError", "Forbidden"].contains(&series.status_code.as_str()) {
                let why = format!("CloudWatch has no answer about {}: {}", series.id, series.status_code);
                return Err(failure(Class::Transient, "PROVIDER_ERROR", why, "ask again in a while"));
            }
            let at: Option<Vec<_>> = series.timestamps.all.iter().map(|t| millis(t)).collect();
            let Some(at) = at.filter(|at| at.len() == series.values.all.len()) else {
                let why = format!("CloudWatch's answer about {} has values without times", series.id);
                return Err(failure(Class::Transient, "PROVIDER_ERROR", why, "ask again in a while"));
            };
            values.entry(series.id).or_default().extend(at.into_iter().zip(series.values.all));
        }
        page = said.result.next_token.filter(|t| !t.is_empty());
        if page.is_none() {
            break;
        }
    }
    if page.is_some() {
        let why = format!("CloudWatch's answer has more than {PAGES} pages");
        return Err(failure(Class::Terminal, "PROVIDER_ERROR", why, "ask about a shorter time"));
    }
    Ok(values)
}

/// A figure of the account, which is told with its name and dimensions: the newest of its values.
///
/// # Errors
/// AWS'.
pub(super) async fn newest(s: &Shared, of: &Figure, span: Span) -> Result<Option<f64>, Failure> {
    let Some(mut fields) = begun(span) else { return Ok(None) };
    let dimensions: Vec<(&str, &str)> = of.dimensions.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let metric = Metric { namespace: &of.namespace, name: &of.name, dimensions: &dimensions };
    metric.put(&mut fields, 0, &of.statistic, span);
    let values = answered(&s.clients().await?.query, &fields).await?;
    Ok(values.into_values().flatten().max_by_key(|(at, _)| *at).map(|(_, value)| value))
}

fn begun(span: Span) -> Option<Vec<(String, String)>> {
    Some(vec![
        ("StartTime".to_owned(), moment(span.from)?),
        ("EndTime".to_owned(), moment(span.until)?),
        ("ScanBy".to_owned(), "TimestampAscending".to_owned()),
    ])
}

/// One to be asked about.
struct Metric<'a> {
    namespace: &'a str,
    name: &'a str,
    dimensions: &'a [(&'a str, &'a str)],
}

// === impl Metric ===

impl Metric<'_> {
    /// As the `n`th of a question.
    fn put(&self, fields: &mut Vec<(String, String)>, n: usize, statistic: &str, span: Span) {
        let query = format!("MetricDataQueries.member.{}", n + 1);
        let mut put = |key: &str, value: &str| fields.push((format!("{query}.{key}"), value.to_owned()));
        put("Id", &format!("m{n}"));
        put("MetricStat.Metric.Namespace", self.namespace);
        put("MetricStat.Metric.MetricName", self.name);
        put("MetricStat.Period", &span.step_s.to_string());
        put("MetricStat.Stat", statistic);
        for (at, (name, value)) in self.dimensions.iter().enumerate() {
            let dimension = format!("MetricStat.Metric.Dimensions.member.{}", at + 1);
            put(&format!("{dimension}.Name"), name);
            put(&format!("{dimension}.Value"), value);
        }
    }
}

fn millis(text: &str) -> Option<Millis> {
    Some(OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp() * 1_000)
}

/// Fields of the request.
fn question(cx: &StepCx, wanted: &[Wanted], span: Span) -> Option<Vec<(String, String)>> {
    let service = Of::stack(cx)?;
    let of = |field| cx.output(stack_step::NODE, field);
    // a dimension is the last part of an ARN
    let tail = |field, mark| of(field).and_then(|arn| arn.split_once(mark)).map(|(_, tail)| tail);
    let balancer = tail("load_balancer", "loadbalancer/")?;
    let group = tail("target_group", ":targetgroup/").map(|t| format!("targetgroup/{t}"))?;
    let lines = names::logs(&cx.owner);
    let service_name = service.service.rsplit('/').next().unwrap_or(service.service);
    let mut out = begun(span)?;
    for (n, w) in wanted.iter().enumerate() {
        let (namespace, dimensions): (_, Vec<(&str, &str)>) = match w.from {
            Source::Service => {
                ("AWS/ECS", vec![("ClusterName", service.cluster), ("ServiceName", service_name)])
            }
            Source::Balancer => ("AWS/ApplicationELB", vec![("LoadBalancer", balancer)]),
            Source::Group => {
                ("AWS/ApplicationELB", vec![("LoadBalancer", balancer), ("TargetGroup", group.as_str())])
            }
            Source::Lines => ("AWS/Logs", vec![("LogGroupName", lines.as_str())]),
        };
        let how = match w.how {
            As::Sum => "Sum",
            As::Average => "Average",
            As::Maximum => "Maximum",
        };
        Metric { namespace, name: w.metric, dimensions: &dimensions }.put(&mut out, n, how, span);
    }
    Some(out)
}

fn moment(at: Millis) -> Option<String> {
    OffsetDateTime::from_unix_timestamp(at.div_euclid(1_000)).ok()?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_its_times() {
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
        let first = &page.metric_data_results.all[0].timestamps.all;
        assert_eq!(
            first.iter().map(|t| millis(t)).collect::<Vec<_>>(),
            [Some(1_795_737_600_000), Some(1_795_737_660_000)]
        );
    }
}
