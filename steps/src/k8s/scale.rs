//! More or fewer pods of a revision that is there. It changes what the Deployment's row owns, so it has no row of its own.
use super::{
    Shared,
    client::{DEPLOYMENT, MANAGER, failed},
    names::namespace,
    probe::node,
};
use crate::labels::key;
use async_trait::async_trait;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;
use syp_engine::step::{Done, Observed, Owner, Step, StepCx};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Scale(pub Arc<Shared>);

#[async_trait]
impl Step for Scale {
    fn kind(&self) -> &'static str {
        "k8s.scale@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let api = DEPLOYMENT.api(&self.0.client().await?, namespace(cx));
        let to = json!({ "spec": { "replicas": cx.params["replicas"] } });
        let how = PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
        api.patch(&key(&cx.owner, &node(cx)), &how, &Patch::Merge(&to)).await.map_err(|e| failed(&e))?;
        Ok(Done::default())
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow) -> Result<bool, Failure> {
        Ok(false)
    }
}
