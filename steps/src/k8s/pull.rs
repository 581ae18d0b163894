//! What nodes pull the images with: the engine's own login for their registries, where the user has asked for that.
use super::{
    Shared,
    client::SECRET,
    names::{namespace, namespace_of},
    object,
};
use crate::{labels::key, registry};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1,
};

pub(super) struct Pull(pub Arc<Shared>);

/// Node of the Secret.
pub(super) const NODE: &str = "pull";

/// The Secrets that a pod names.
pub(super) fn secrets(cx: &StepCx) -> Value {
    let k = cx.spec.kubernetes.clone().unwrap_or_default();
    let login = k.pull_login.then(|| key(&cx.owner, NODE));
    let given = Some(k.pull_secret).filter(|s| !s.is_empty());
    given.into_iter().chain(login).map(|name| json!({ "name": name })).collect()
}

/// Is there a login to hand on?
///
/// # Errors
/// `IMAGE_AUTH_FAILED`.
pub(crate) async fn check(spec: &v1::InstanceSpec) -> Result<(), Failure> {
    let asked = spec.kubernetes.as_ref().is_some_and(|k| k.pull_login);
    if asked {
        registry::handed_on(&spec.image, "the nodes").await?;
    }
    Ok(())
}

impl Step for Pull {
    fn kind(&self) -> &'static str {
        "k8s.pull@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, SECRET, cx, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let config = registry::config_of(&[&cx.spec.image, &self.0.gate_image(&cx.facts)]).await;
        let data = json!({ ".dockerconfigjson": BASE64_STANDARD.encode(config.expose_secret()) });
        let rest = json!({ "type": "kubernetes.io/dockerconfigjson", "data": data });
        let o = object::object(SECRET, &cx.owner, &cx.node, key, namespace(cx), rest);
        let made = object::ensure(&self.0.client().await?, SECRET, &cx.owner, namespace(cx), &o).await?;
        Ok(object::done(&made))
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, SECRET, owner, &namespace_of(row), &row.key).await
    }
}
