//! Lets what is in flight finish and refuses what is new, for as long as the grace lasts.
use super::{
    Shared, admin,
    client::{inspect, key, running},
    config,
};
use std::{sync::Arc, time::Duration};
use syp_auth::door::{GateStatus, Mode};
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::time::Instant;

pub(super) struct Drain(pub Arc<Shared>);

impl Step for Drain {
    fn kind(&self) -> &'static str {
        "docker.drain@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        // a gate that is gone admits nobody and holds nothing
        let name = key(&cx.owner, "gate");
        if !inspect(&self.0.docker, &name).await?.is_some_and(|c| running(&c)) {
            return Ok(Done::default());
        }
        let mut cx = cx.clone();
        cx.gate.mode = Mode::Drain;
        config::push(&self.0, &cx).await?;
        let (to, token) = (config::admin_address(&cx)?, self.0.admin_token(&cx.owner));
        let end = Instant::now() + cx.grace;
        let mut wait = Duration::from_millis(5);
        loop {
            let s: GateStatus = admin::read(to, &token, "/status").await?;
            let open = s.in_flight + s.tunnels;
            if open == 0 || Instant::now() >= end {
                return Ok(Done::default());
            }
            let left = end.saturating_duration_since(Instant::now()).as_secs();
            let message = format!("{open} requests in flight, at most {left} s more");
            cx.waiting.on(&cx.node, "DRAINING", message, "--grace changes how long", self.0.clock.now());
            tokio::time::sleep(wait.min(end.saturating_duration_since(Instant::now()))).await;
            wait = (wait * 2).min(Duration::from_millis(200));
        }
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
