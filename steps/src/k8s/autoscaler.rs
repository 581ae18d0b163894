//! How many pods of a revision there are, between the least and the most that were asked for, is the cluster's choice: by how busy
//! the app's processor is, by how many requests are let in, or by whichever of the two wants more. It belongs to the revision's
//! Deployment, comes after its first pods are proven, and goes before it.
//!
//! Requests are counted by the gates and told by the engine (`GET /metrics`), for the instance as a whole; whatever serves
//! external.metrics.k8s.io divides them by time (`examples/scaling`), and the autoscaler by the number of pods.
use super::{
    client::{AUTOSCALER, DEPLOYMENT, Kind},
    one::Manifest,
    probe,
};
use crate::labels::key;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use syp_engine::{clock::millis, scaling, step::StepCx};

pub(super) struct Autoscaler;

/// The API that serves [`RATE`].
pub(super) const EXTERNAL: &str = "external.metrics.k8s.io/v1beta1";
/// Admitted requests a second, of the instance that its label `uid` names. Who is refused makes nobody pay for more replicas.
pub(super) const RATE: &str = "syp_admitted_requests_per_second";

/// What it is chosen by. Pure.
fn metrics(cx: &StepCx) -> Vec<Value> {
    let mut all = Vec::new();
    if scaling::by_cpu(&cx.spec) {
        // of the app alone: a gate that is busy is no reason for more apps
        all.push(json!({ "type": "ContainerResource", "containerResource": {
            "name": "cpu",
            "container": "app",
            "target": { "type": "Utilization", "averageUtilization": scaling::target_cpu(&cx.spec) },
        } }));
    }
    if let Some(milli) = scaling::target_millirps(&cx.spec) {
        all.push(json!({ "type": "External", "external": {
            "metric": { "name": RATE, "selector": { "matchLabels": { "uid": cx.owner.uid.to_string() } } },
            // as the API server writes it: anything else would look like another's change
            "target": { "type": "AverageValue", "averageValue": match milli % 1000 {
                0 => (milli / 1000).to_string(),
                _ => format!("{milli}m"),
            } },
        } }));
    }
    all
}

/// Why it can't choose: the words of the cluster, once they have held for two minutes. A first figure may take as long. Pure.
pub(super) fn blind(o: &DynamicObject, now_ms: i64) -> Option<String> {
    let all = o.data["status"]["conditions"].as_array()?;
    let c = all.iter().find(|c| c["type"] == "ScalingActive" && c["status"] == "False")?;
    let since = millis(&c["lastTransitionTime"].as_str()?.parse().ok()?);
    // at zero replicas nobody chooses, and no figure is missing
    if c["reason"] == "ScalingDisabled" || now_ms - since < BLIND_MS {
        return None;
    }
    let text = |field: &str| c[field].as_str().unwrap_or_default().to_owned();
    Some(format!(
        "the cluster can't tell how many replicas there should be ({}): {}",
        text("reason"),
        text("message")
    ))
}

/// How long a figure may be missing before it is said, ms.
const BLIND_MS: i64 = 120_000;

impl Manifest for Autoscaler {
    const STEP: &'static str = "k8s.autoscaler@1";
    const KIND: Kind = AUTOSCALER;

    fn rest(cx: &StepCx) -> Value {
        let (least, most) = scaling::range(&cx.spec);
        json!({ "spec": {
            "scaleTargetRef": {
                "apiVersion": DEPLOYMENT.api_version(),
                "kind": DEPLOYMENT.kind,
                "name": key(&cx.owner, &probe::node(cx)),
            },
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": metrics(cx),
        } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_the_cluster_has_no_figure_is_said_once_it_lasts_and_in_its_own_words() {
        let of = |kind: &str, status: &str, reason: &str| -> DynamicObject {
            serde_json::from_value(json!({
                "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "x" },
                "status": { "conditions": [
                    { "type": "AbleToScale", "status": "True", "reason": "SucceededGetScale" },
                    { "type": kind, "status": status, "reason": reason, "message": "none was returned",
                      "lastTransitionTime": "1970-01-01T00:00:10Z" },
                ] },
            }))
            .unwrap()
        };
        let none = of("ScalingActive", "False", "FailedGetExternalMetric");
        assert_eq!(blind(&none, 129_999), None, "a first figure takes a while");
        let said = blind(&none, 130_000).unwrap();
        assert!(said.ends_with("(FailedGetExternalMetric): none was returned"), "{said}");
        assert_eq!(blind(&of("ScalingActive", "True", "ValidMetricFound"), 130_000), None);
        assert_eq!(blind(&of("ScalingActive", "False", "ScalingDisabled"), 130_000), None);
    }
}
