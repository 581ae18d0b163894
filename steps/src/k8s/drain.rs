//! Lets what is in flight finish and refuses what is new, for as long as the grace lasts.
use super::{Shared, client::optional, config, names::namespace, pods, settle::emptied};
use crate::labels::key;
use std::{sync::Arc, time::Duration};
use syp_auth::door::Mode;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Drain(pub Arc<Shared>);

impl Step for Drain {
    fn kind(&self) -> &'static str {
        "k8s.drain@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let c = self.0.client().await?;
        // nothing was made yet, or it is gone: nobody is admitted and nothing is held
        let secret = super::client::SECRET.api(&c, namespace(cx)).get(&key(&cx.owner, config::NODE)).await;
        if optional(secret)?.is_none_or(|s| s.metadata.deletion_timestamp.is_some()) {
            return Ok(Done::default());
        }
        let mut cx = cx.clone();
        cx.gate.mode = Mode::Drain;
        config::push(&self.0, &cx).await?;
        let all = pods::with_gates(&c, &cx, None).await?;
        emptied(&self.0, &c, &cx, &all, Duration::ZERO).await;
        Ok(Done::default())
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
