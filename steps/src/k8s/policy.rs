//! Who reaches a pod: everybody the gate's traffic port, nobody anything else. Whether the cluster enforces it is tried, not assumed.
use super::{
    Shared,
    client::NETWORK_POLICY,
    names::{TRAFFIC, namespace, namespace_of},
    object, rehearse,
};
use crate::labels::{INSTANCE, STEP, STORE};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::sync::Arc;
use syp_engine::step::{Done, Observed, Owner, Rehearsed, Step, StepCx};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1::instance_spec::Egress,
};

pub(super) struct Policy(pub Arc<Shared>);

fn manifest(cx: &StepCx, key: &str) -> Value {
    let mut types = vec!["Ingress"];
    if cx.spec.egress() == Egress::Off {
        // no rule: nothing goes out but answers
        types.push("Egress");
    }
    let rest = json!({ "spec": {
        "podSelector": {
            "matchLabels": { STORE: cx.owner.store.to_string(), INSTANCE: cx.owner.uid.to_string() },
            // what tries the app's port must not be kept from trying
            "matchExpressions": [{ "key": STEP, "operator": "NotIn", "values": ["isolation"] }],
        },
        "policyTypes": types,
        "ingress": [{ "ports": [{ "port": TRAFFIC, "protocol": "TCP" }] }],
    } });
    object::object(NETWORK_POLICY, &cx.owner, &cx.node, key, namespace(cx), rest)
}

#[async_trait]
impl Step for Policy {
    fn kind(&self) -> &'static str {
        "k8s.policy@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, NETWORK_POLICY, &cx.owner, namespace(cx), key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let o = manifest(cx, key);
        let made =
            object::ensure(&self.0.client().await?, NETWORK_POLICY, &cx.owner, namespace(cx), &o).await?;
        Ok(object::done(&made))
    }

    async fn rehearse(&self, cx: &StepCx, key: &str) -> Result<Option<Rehearsed>, Failure> {
        rehearse::rehearse(&self.0, NETWORK_POLICY, cx, &manifest(cx, key)).await
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, NETWORK_POLICY, owner, &namespace_of(row), &row.key).await
    }
}
