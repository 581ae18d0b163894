//! What the account may have at once. A new one may run few tasks, and a service that can't place one says so nowhere where a user looks.
//! What can't be asked is no reason against anything: AWS knows its own quotas.
use super::{
    Shared,
    cloudwatch::{self, Figure, Span},
    query::{BALANCERS, QUOTAS},
    size::Size,
};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use syp_engine::{
    examined::Examined,
    failure::{Class, failure},
    scaling,
};
use syp_proto::{journal::Failure, v1};

/// Service, code and name. Source: AWS general reference, "Amazon ECS endpoints and quotas", "Elastic Load Balancing endpoints and quotas".
type Name = (&'static str, &'static str, &'static str);
const VCPUS: Name = ("fargate", "L-3032A538", "Fargate On-Demand vCPU resource count");
const FRONTS: Name = ("elasticloadbalancing", "L-53DA6B97", "Application Load Balancers per Region");
/// CloudWatch has a value every few minutes.
const STEP_S: u32 = 300;
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_BACK_MS: i64 = 3_600_000;
/// Nobody has more load balancers than so many pages.
const PAGES: usize = 20;

/// A quota.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
struct Quota {
    value: f64,
    /// How much of it is used, where AWS counts that.
    #[serde(default)]
    usage_metric: Option<Figure>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Quota")]
    quota: Quota,
}

/// Of load balancers: only how many there are.
#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "DescribeLoadBalancersResult")]
    result: Page,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    load_balancers: Members,
    next_marker: Option<String>,
}

#[derive(Default, Deserialize)]
struct Members {
    #[serde(rename = "member", default)]
    all: Vec<Front>,
}

#[derive(Deserialize)]
struct Front {
    #[serde(rename = "Type", default)]
    kind: String,
}

async fn quota(s: &Shared, (service, code, _): Name) -> Result<Quota, Failure> {
    let body = json!({ "ServiceCode": service, "QuotaCode": code });
    s.clients().await?.query.json::<Answer>(QUOTAS, "GetServiceQuota", &body).await.map(|a| a.quota)
}

async fn fronts(s: &Shared) -> Result<usize, Failure> {
    let query = &s.clients().await?.query;
    let (mut n, mut marker) = (0, None::<String>);
    for _ in 0..PAGES {
        let more: Vec<(&str, &str)> = marker.iter().map(|m| ("Marker", m.as_str())).collect();
        let said: Listed = query.read(BALANCERS, "DescribeLoadBalancers", &more).await?;
        n += said.result.load_balancers.all.iter().filter(|f| f.kind == "application").count();
        marker = said.result.next_marker.filter(|m| !m.is_empty());
        if marker.is_none() {
            break;
        }
    }
    Ok(n)
}

/// Of the fewest tasks and of the most that there may be.
fn vcpus(spec: &v1::InstanceSpec, size: Size) -> (f64, f64) {
    let (min, max) = scaling::range(spec);
    let of = |n: u32| f64::from(size.cpu) / 1_024.0 * f64::from(n);
    (of(min), of(max))
}

fn exceeded(what: String, (service, code, name): Name) -> Failure {
    let next = format!(
        "ask for a higher quota '{name}' in the Service Quotas console ({service}, {code}), or for less"
    );
    failure(Class::Terminal, "QUOTA_EXCEEDED", what, next)
}

/// Is there room for what could never be placed? `new`: it needs a load balancer.
///
/// # Errors
/// `QUOTA_EXCEEDED`.
pub(super) async fn check(s: &Shared, spec: &v1::InstanceSpec, size: Size, new: bool) -> Result<(), Failure> {
    // a network without a way to that service is no reason to wait
    tokio::time::timeout(PATIENCE, Box::pin(asked(s, spec, size, new))).await.unwrap_or(Ok(()))
}

async fn asked(s: &Shared, spec: &v1::InstanceSpec, size: Size, new: bool) -> Result<(), Failure> {
    let balancers = async {
        if !new {
            return None;
        }
        let (limit, used) = tokio::join!(quota(s, FRONTS), fronts(s));
        Some((limit.ok()?.value, used.ok()?))
    };
    let (limit, balancers) = tokio::join!(quota(s, VCPUS), balancers);
    if let Ok(q) = limit {
        enough(s, spec, size, q.value)?;
    }
    match balancers {
        Some((limit, used)) => a_front(s, limit, used),
        None => Ok(()),
    }
}

fn enough(s: &Shared, spec: &v1::InstanceSpec, size: Size, limit: f64) -> Result<(), Failure> {
    let need = vcpus(spec, size).0;
    if need <= limit {
        return Ok(());
    }
    let what = format!("its tasks need {need} vCPU, and the account may run {limit} in {}", s.region);
    Err(exceeded(what, VCPUS))
}

#[allow(clippy::cast_precision_loss)] // quotas are small
fn a_front(s: &Shared, limit: f64, used: usize) -> Result<(), Failure> {
    if (used as f64) < limit {
        return Ok(());
    }
    let what = format!("the account has {used} load balancers in {}, and may have {limit}", s.region);
    Err(exceeded(what, FRONTS))
}

/// Tells of both, with how much is used.
pub(super) async fn examine(s: &Shared, spec: &v1::InstanceSpec, size: Size, out: &mut Examined) {
    let (vcpu, limit, there) = tokio::join!(quota(s, VCPUS), quota(s, FRONTS), fronts(s));
    let used = used(s, vcpu.as_ref().ok(), out).await;
    match vcpu {
        Ok(q) => {
            let words = match used {
                Some(used) => format!("{used} of {} vCPU of tasks are in use", q.value),
                None => format!("{} vCPU of tasks", q.value),
            };
            let (_, need) = vcpus(spec, size);
            match enough(s, spec, size, q.value) {
                Err(f) => out.fail("quota of tasks", f),
                Ok(()) if used.is_some_and(|used| used + need > q.value) => out.warn(
                    "quota of tasks",
                    format!("{words}: {need} more can't be placed until others end"),
                    exceeded(String::new(), VCPUS).hint,
                ),
                Ok(()) => out.ok("quota of tasks", words),
            }
        }
        Err(f) => unknown("quota of tasks", f, out),
    }
    match (limit, there) {
        (Ok(limit), Ok(there)) => match a_front(s, limit.value, there) {
            Ok(()) => {
                out.ok("quota of load balancers", format!("{there} of {} are in use", limit.value));
            }
            Err(f) => out.fail("quota of load balancers", f),
        },
        (Err(f), _) | (_, Err(f)) => unknown("quota of load balancers", f, out),
    }
}

/// `up` passes without it.
fn unknown(what: &str, f: Failure, out: &mut Examined) {
    out.warn(what, format!("not known: {}", f.message), f.hint);
}

/// The same right tells later what is paid by use.
async fn used(s: &Shared, q: Option<&Quota>, out: &mut Examined) -> Option<f64> {
    let told = q.and_then(|q| q.usage_metric.clone()).filter(|f| !f.name.is_empty());
    let figure = &told.unwrap_or_else(usage);
    let now = s.clock.now();
    let span = Span { from: now - LOOK_BACK_MS, until: now, step_s: STEP_S };
    match cloudwatch::newest(s, figure, span).await {
        // what is not in use is not counted
        Ok(value) => Some(value.unwrap_or(0.0)),
        Err(f) => {
            let next = format!("{}; without it what is paid by use is not counted", f.hint);
            out.warn("figures", f.message, next);
            None
        }
    }
}

/// As it is known without Service Quotas. Source: Amazon ECS developer guide, "AWS Fargate usage metrics".
fn usage() -> Figure {
    let of =
        [("Class", "Standard/OnDemand"), ("Resource", "vCPU"), ("Service", "Fargate"), ("Type", "Resource")];
    Figure {
        namespace: "AWS/Usage".into(),
        name: "ResourceCount".into(),
        dimensions: of.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        statistic: "Maximum".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_and_load_balancers_are_read_as_aws_writes_them() {
        let text = r#"{"Quota":{"ServiceCode":"fargate","QuotaCode":"L-3032A538","Value":6.0,"Adjustable":true,
            "UsageMetric":{"MetricNamespace":"AWS/Usage","MetricName":"ResourceCount",
            "MetricDimensions":{"Class":"Standard/OnDemand","Resource":"vCPU","Service":"Fargate","Type":"Resource"},
            "MetricStatisticRecommendation":"Maximum"}}}"#;
        let q = serde_json::from_str::<Answer>(text).unwrap().quota;
        let figure = q.usage_metric.unwrap();
        assert_eq!((q.value, &figure), (6.0, &usage()));
        assert_eq!((figure.dimensions["Resource"].as_str(), figure.statistic.as_str()), ("vCPU", "Maximum"));
        let without = r#"{"Quota":{"Value":50.0}}"#;
        assert_eq!(serde_json::from_str::<Answer>(without).unwrap().quota.usage_metric, None);
        let text = "<DescribeLoadBalancersResponse><DescribeLoadBalancersResult><LoadBalancers>\
            <member><Type>application</Type><Scheme>internal</Scheme></member><member><Type>network</Type></member>\
            </LoadBalancers><NextMarker>m</NextMarker></DescribeLoadBalancersResult></DescribeLoadBalancersResponse>";
        let page = quick_xml::de::from_str::<Listed>(text).unwrap().result;
        let kinds: Vec<_> = page.load_balancers.all.iter().map(|f| f.kind.as_str()).collect();
        assert_eq!((kinds, page.next_marker.as_deref()), (vec!["application", "network"], Some("m")));
        let none = "<R><DescribeLoadBalancersResult><LoadBalancers/></DescribeLoadBalancersResult></R>";
        assert!(quick_xml::de::from_str::<Listed>(none).unwrap().result.load_balancers.all.is_empty());
    }

    #[test]
    fn what_could_never_be_placed_is_the_fewest_and_what_may_not_is_the_most() {
        let spec = |min, max| v1::InstanceSpec {
            scaling: Some(v1::Scaling { min, max, ..Default::default() }),
            ..Default::default()
        };
        let size = Size { cpu: 512, memory: 1_024 };
        assert_eq!(vcpus(&spec(1, 1), size), (0.5, 0.5));
        assert_eq!(vcpus(&spec(2, 7), size), (1.0, 3.5));
    }
}
