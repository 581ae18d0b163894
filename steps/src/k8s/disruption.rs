//! Nodes that are emptied take one pod of an instance at a time. An only pod may be taken: an update of the cluster must not wait for
//! somebody to scale.
use super::{
    client::{DISRUPTION_BUDGET, Kind},
    one::Manifest,
};
use crate::labels::{INSTANCE, STEP, STORE};
use serde_json::{Value, json};
use syp_engine::step::StepCx;

pub(super) struct Disruption;

impl Manifest for Disruption {
    const STEP: &'static str = "k8s.disruption@1";
    const KIND: Kind = DISRUPTION_BUDGET;

    fn rest(cx: &StepCx) -> Value {
        json!({ "spec": {
            "maxUnavailable": 1,
            "selector": {
                "matchLabels": { STORE: cx.owner.store.to_string(), INSTANCE: cx.owner.uid.to_string() },
                // a pod that has no controller would make the budget good for nothing
                "matchExpressions": [{ "key": STEP, "operator": "NotIn", "values": ["isolation"] }],
            },
        } })
    }
}
