//! The values that a revision's app gets, straight from the engine's secret source.
use super::{
    Shared,
    client::SECRET,
    names::{namespace, namespace_of},
    object,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1,
};

pub(super) struct Secret(pub Arc<Shared>);

/// The key of a value in the Secret: its place among the revision's.
pub(super) fn entry(n: usize) -> String {
    format!("v{n}")
}

/// The revision's values, each with its place.
pub(super) fn values(spec: &v1::InstanceSpec) -> impl Iterator<Item = (usize, &v1::SecretRef)> {
    spec.secrets.iter().enumerate()
}

impl Step for Secret {
    fn kind(&self) -> &'static str {
        "k8s.secret@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, SECRET, cx, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let mut data = Map::new();
        for (n, r) in values(&cx.spec) {
            let value = cx.secrets.get(r).await?;
            data.insert(entry(n), Value::String(BASE64_STANDARD.encode(value.expose_secret())));
        }
        let rest = json!({ "type": "Opaque", "data": data });
        let o = object::object(SECRET, &cx.owner, &cx.node, key, namespace(cx), rest);
        let made = object::ensure(&self.0.client().await?, SECRET, &cx.owner, namespace(cx), &o).await?;
        Ok(object::done(&made))
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, SECRET, owner, &namespace_of(row), &row.key).await
    }
}
