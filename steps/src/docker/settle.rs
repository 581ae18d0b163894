//! Waits until replicas that get nothing new have finished what they have, for as long as the grace lasts.
use super::{Shared, admin, config};
use std::{sync::Arc, time::Duration};
use syp_auth::door::GateStatus;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::time::Instant;

pub(super) struct Settle(pub Arc<Shared>);

/// A request that had chosen its replica when the new routes came is counted within this.
const CHOSEN: Duration = Duration::from_millis(100);

impl Step for Settle {
    fn kind(&self) -> &'static str {
        "docker.settle@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let (to, token) = (config::admin_address(cx)?, self.0.admin_token(&cx.owner));
        let slots: Vec<String> =
            cx.params["slots"].as_array().into_iter().flatten().map(ToString::to_string).collect();
        let end = Instant::now() + cx.grace;
        let mut quiet_since = None;
        loop {
            let s: GateStatus = admin::read(to, &token, "/status").await?;
            let open: u64 = s.upstreams.iter().filter(|u| slots.contains(&u.id)).map(|u| u.in_flight).sum();
            let now = Instant::now();
            let since = *quiet_since.get_or_insert(now);
            if open > 0 {
                quiet_since = None;
            } else if now - since >= CHOSEN {
                return Ok(Done::default());
            }
            if now >= end + CHOSEN {
                return Ok(Done::default());
            }
            let left = end.saturating_duration_since(now).as_secs();
            let message = format!("{open} requests in flight at the replicas that go, at most {left} s more");
            cx.waiting.on(&cx.node, "DRAINING", message, "--grace changes how long", self.0.clock.now());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
