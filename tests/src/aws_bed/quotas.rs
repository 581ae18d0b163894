//! What the account may have at once: Service Quotas, as far as it is asked here, and how many load balancers there are.
use super::{
    wire::Refused,
    world::{Shared, World},
};
use serde_json::{Value, json};

/// Of the vCPU of tasks: what AWS counts for it in CloudWatch.
pub const USAGE: [(&str, &str); 4] =
    [("Class", "Standard/OnDemand"), ("Resource", "vCPU"), ("Service", "Fargate"), ("Type", "Resource")];
const BALANCERS: u32 = 50;

/// Of tasks, in vCPU.
#[derive(Clone, Copy)]
pub struct Room {
    pub limit: f64,
    /// What others use.
    pub others: f64,
}

impl Default for Room {
    fn default() -> Self {
        Self { limit: 4_000.0, others: 0.0 }
    }
}

/// Answers `GetServiceQuota`.
pub fn get(shared: &Shared, asked: &Value) -> Result<Value, Refused> {
    let of = |key: &str| asked[key].as_str().unwrap_or_default();
    let mut quota = match (of("ServiceCode"), of("QuotaCode")) {
        ("fargate", "L-3032A538") => json!({
            "Value": shared.see(|w| w.room.limit),
            "UsageMetric": { "MetricNamespace": "AWS/Usage", "MetricName": "ResourceCount",
                "MetricDimensions": USAGE.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
                "MetricStatisticRecommendation": "Maximum" },
        }),
        ("elasticloadbalancing", "L-53DA6B97") => json!({ "Value": BALANCERS }),
        _ => return Err(Refused::new("NoSuchResourceException", "no such quota")),
    };
    (quota["ServiceCode"], quota["QuotaCode"]) = (of("ServiceCode").into(), of("QuotaCode").into());
    Ok(json!({ "Quota": quota }))
}

/// Answers `DescribeLoadBalancers`, without what nobody asks for here.
pub fn balancers(shared: &Shared) -> String {
    let one = "<member><Type>application</Type></member>";
    let all = one.repeat(shared.see(|w| w.fronts.len()));
    format!(
        "<DescribeLoadBalancersResponse xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/\">\
         <DescribeLoadBalancersResult><LoadBalancers>{all}</LoadBalancers></DescribeLoadBalancersResult>\
         </DescribeLoadBalancersResponse>"
    )
}

/// Is there none for a task of this revision?
pub fn is_full(w: &World, definition: &str) -> bool {
    let of = |arn: &str| {
        let cpu = super::definition::find(w, arn).map_or(Value::Null, |d| d.properties["Cpu"].clone());
        cpu.as_str().and_then(|c| c.parse::<f64>().ok()).unwrap_or(0.0) / 1_024.0
    };
    let ours: f64 = w.tasks.values().filter(|t| t.counts()).map(|t| of(&t.definition)).sum();
    ours + w.room.others + of(definition) > w.room.limit
}
