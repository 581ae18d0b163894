//! The instance's own namespace, where none was named. What we make keeps to the baseline of Pod Security; the rules of
//! `--isolation rules` need more.
use super::{Shared, client::NAMESPACE, object, rehearse};
use serde_json::{Value, json};
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Rehearsed, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1::instance_spec::Isolation,
};

pub(super) struct Namespace(pub Arc<Shared>);

/// Node of the namespace.
pub(crate) const NODE: &str = "namespace";

/// The namespace of an instance.
pub(crate) fn manifest(cx: &StepCx, key: &str) -> Value {
    // an init container with NET_ADMIN is beyond the baseline
    let level = if cx.spec.isolation() == Isolation::Rules { "privileged" } else { "baseline" };
    let rest = json!({ "metadata": { "labels": {
        "pod-security.kubernetes.io/enforce": level,
        "pod-security.kubernetes.io/warn": "restricted",
    } } });
    object::object(NAMESPACE, &cx.owner, NODE, key, "", rest)
}

impl Step for Namespace {
    fn kind(&self) -> &'static str {
        "k8s.namespace@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, NAMESPACE, cx, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let o = manifest(cx, key);
        let made = object::ensure(&self.0.client().await?, NAMESPACE, &cx.owner, "", &o).await?;
        Ok(object::done(&made))
    }

    async fn rehearse(&self, cx: &StepCx, key: &str) -> Result<Option<Rehearsed>, Failure> {
        rehearse::rehearse(&self.0, NAMESPACE, cx, &manifest(cx, key)).await
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, NAMESPACE, owner, "", &row.key).await
    }
}
