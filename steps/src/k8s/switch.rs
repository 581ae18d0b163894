//! From here on a revision serves. It changes what the Service's row owns, so it has no row of its own.
use super::{
    Shared,
    app::selector,
    client::{SERVICE, failed},
    fields,
    names::namespace,
    probe::node,
    service,
};
use crate::labels::key;
use kube::api::{ObjectMeta, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Switch(pub Arc<Shared>);

/// Owns the selector alone.
const MANAGER: &str = "syp-switch";

/// Is the selector what a switch made it?
pub(super) fn holds(service: &ObjectMeta) -> bool {
    fields::of(service, |m| m == MANAGER).iter().any(|f| f.starts_with("spec.selector"))
}

impl Step for Switch {
    fn kind(&self) -> &'static str {
        "k8s.switch@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let name = key(&cx.owner, service::NODE);
        let to = json!({
            "apiVersion": SERVICE.api_version(),
            "kind": SERVICE.kind,
            "metadata": { "name": name, "namespace": namespace(cx) },
            "spec": { "selector": selector(&cx.owner, &node(cx)) },
        });
        let how = PatchParams::apply(MANAGER).force();
        let api = SERVICE.api(&self.0.client().await?, namespace(cx));
        api.patch(&name, &how, &Patch::Apply(&to)).await.map_err(|e| failed(&e))?;
        Ok(Done::default())
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
