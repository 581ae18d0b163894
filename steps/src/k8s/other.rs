//! What a listing found and no step makes: a pod or a replica set that outlived what made it. It is removed where it was found.
use super::{Shared, client::code, listing::resource_of};
use crate::labels::{INSTANCE, STORE};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, Preconditions},
};
use std::{sync::Arc, time::Duration};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::time::Instant;

pub(super) struct Other(pub Arc<Shared>);

/// Kind of the step.
pub(super) const KIND: &str = "k8s.object@1";
/// How long a removal is waited for before the engine shows what holds it.
const GONE: Duration = Duration::from_secs(20);

impl Step for Other {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, _: &StepCx, key: &str) -> Result<Done, Failure> {
        Err(failure(
            Class::Terminal,
            "INTERNAL",
            format!("{key}: no plan makes it"),
            "please report this bug",
        ))
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        let Some((r, namespace)) = resource_of(&row.handle) else { return Ok(false) };
        let c = self.0.client().await?;
        let api: Api<DynamicObject> =
            if namespace.is_empty() { Api::all_with(c, &r) } else { Api::namespaced_with(c, &namespace, &r) };
        let Some(held) = super::client::optional(api.get(&row.key).await)? else { return Ok(false) };
        let is = |k: &str, v: &str| held.labels().get(k).is_some_and(|l| l == v);
        if !is(STORE, owner.store.as_str()) || !is(INSTANCE, &owner.uid.to_string()) {
            return Ok(false);
        }
        if held.metadata.deletion_timestamp.is_none() {
            let only = Preconditions { uid: held.uid(), resource_version: None };
            let how = DeleteParams { preconditions: Some(only), ..DeleteParams::foreground() };
            match api.delete(&row.key, &how).await {
                Ok(_) => {}
                Err(e) if code(&e) == Some(404) => return Ok(true),
                Err(e) => return Err(super::client::failed(&e)),
            }
        }
        let end = Instant::now() + GONE;
        loop {
            match super::client::optional(api.get(&row.key).await)? {
                Some(o) if o.uid() == held.uid() && Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Some(o) if o.uid() == held.uid() => return Err(super::object::going(&r.kind, &o)),
                _ => return Ok(true),
            }
        }
    }
}
