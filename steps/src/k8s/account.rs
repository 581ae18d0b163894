//! The pods' service account: it has no rights and no token.
use super::{
    Shared,
    client::SERVICE_ACCOUNT,
    names::{namespace, namespace_of},
    object, rehearse,
};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::sync::Arc;
use syp_engine::step::{Done, Observed, Owner, Rehearsed, Step, StepCx};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Account(pub Arc<Shared>);

fn manifest(cx: &StepCx, key: &str) -> Value {
    let rest = json!({ "automountServiceAccountToken": false });
    object::object(SERVICE_ACCOUNT, &cx.owner, &cx.node, key, namespace(cx), rest)
}

#[async_trait]
impl Step for Account {
    fn kind(&self) -> &'static str {
        "k8s.account@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, SERVICE_ACCOUNT, &cx.owner, namespace(cx), key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let o = manifest(cx, key);
        let made =
            object::ensure(&self.0.client().await?, SERVICE_ACCOUNT, &cx.owner, namespace(cx), &o).await?;
        Ok(object::done(&made))
    }

    async fn rehearse(&self, cx: &StepCx, key: &str) -> Result<Option<Rehearsed>, Failure> {
        rehearse::rehearse(&self.0, SERVICE_ACCOUNT, cx, &manifest(cx, key)).await
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, SERVICE_ACCOUNT, owner, &namespace_of(row), &row.key).await
    }
}
