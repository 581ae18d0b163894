//! Lets what is in flight finish and refuses what is new, for as long as the grace lasts.
use super::{Shared, config, door::Front, kept, tasks};
use std::{sync::Arc, time::Duration};
use syp_auth::door::Mode;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::time::Instant;

pub(super) struct Drain(pub Arc<Shared>);

const LOOK: Duration = Duration::from_millis(500);

impl Step for Drain {
    fn kind(&self) -> &'static str {
        "aws.drain@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let c = self.0.clients().await?;
        // nothing was made yet, or it is gone: nobody is admitted and nothing is held
        if kept::look(&c.secrets, &cx.owner, &config::key(&cx.owner)).await?.is_none() {
            return Ok(Done::default());
        }
        let mut cx = cx.clone();
        cx.gate.mode = Mode::Drain;
        config::push(&self.0, &cx).await?;
        let Some(front) = Front::of(&cx) else { return Ok(Done::default()) };
        let (token, start) = (self.0.admin_token(&cx.owner), Instant::now());
        loop {
            let need = tasks::healthy(&self.0, &cx).await?;
            if need == 0 {
                return Ok(Done::default());
            }
            // gates that do not answer hold nothing that could be saved
            let told = Box::pin(front.look(&token, need)).await.unwrap_or_default();
            let under_way: u64 =
                told.values().filter_map(|(_, s)| s.as_ref()).map(|s| s.in_flight + s.tunnels).sum();
            let waited = start.elapsed();
            if under_way == 0 || waited >= cx.grace || cx.cancel.is_cancelled() {
                return Ok(Done::default());
            }
            let left = cx.grace.saturating_sub(waited).as_secs();
            let message = format!("{under_way} requests in flight, at most {left} s more");
            cx.waiting.on(&cx.node, "DRAINING", message, "--grace changes how long", self.0.clock.now());
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
