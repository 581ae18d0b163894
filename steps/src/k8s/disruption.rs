//! Nodes that are emptied take one pod of an instance at a time. An only pod may be taken: an update of the cluster must not wait for
//! somebody to scale.
use super::{
    Shared,
    client::DISRUPTION_BUDGET,
    names::{namespace, namespace_of},
    object, rehearse,
};
use crate::labels::{INSTANCE, STEP, STORE};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::sync::Arc;
use syp_engine::step::{Done, Observed, Owner, Rehearsed, Step, StepCx};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Disruption(pub Arc<Shared>);

/// Node of the budget.
pub(super) const NODE: &str = "disruption";

fn manifest(cx: &StepCx, key: &str) -> Value {
    let rest = json!({ "spec": {
        "maxUnavailable": 1,
        "selector": {
            "matchLabels": { STORE: cx.owner.store.to_string(), INSTANCE: cx.owner.uid.to_string() },
            // a pod that has no controller would make the budget good for nothing
            "matchExpressions": [{ "key": STEP, "operator": "NotIn", "values": ["isolation"] }],
        },
    } });
    object::object(DISRUPTION_BUDGET, &cx.owner, NODE, key, namespace(cx), rest)
}

#[async_trait]
impl Step for Disruption {
    fn kind(&self) -> &'static str {
        "k8s.disruption@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, DISRUPTION_BUDGET, &cx.owner, namespace(cx), key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let o = manifest(cx, key);
        let c = self.0.client().await?;
        let made = object::ensure(&c, DISRUPTION_BUDGET, &cx.owner, namespace(cx), &o).await?;
        Ok(object::done(&made))
    }

    async fn rehearse(&self, cx: &StepCx, key: &str) -> Result<Option<Rehearsed>, Failure> {
        rehearse::rehearse(&self.0, DISRUPTION_BUDGET, cx, &manifest(cx, key)).await
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, DISRUPTION_BUDGET, owner, &namespace_of(row), &row.key).await
    }
}
