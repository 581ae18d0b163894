//! Gates of a revision that serves no more send their callers elsewhere and finish what they have, for as long as the grace lasts.
use super::{Shared, pods};
use crate::admin;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use std::{sync::Arc, time::Duration};
use syp_auth::door::GateStatus;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::time::Instant;

pub(super) struct Settle(pub Arc<Shared>);

/// Nodes are told of the other selector one after another: until then callers still come here.
const TOLD: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(300);

/// What is under way at a gate; `None`: it does not answer.
pub(super) async fn open(s: &Shared, c: &Client, cx: &StepCx, p: &Pod) -> Option<u64> {
    let way = pods::admin(c, cx, p).await.ok()?;
    let status: GateStatus = admin::read(way, &s.admin_token(&cx.owner), "/status").await.ok()?;
    Some(status.in_flight + status.tunnels)
}

/// Waits until nothing is under way at these, or the grace is over. One that does not answer holds nothing that could be saved.
pub(super) async fn emptied(s: &Shared, c: &Client, cx: &StepCx, pods: &[Pod], at_least: Duration) {
    let start = Instant::now();
    loop {
        let mut under_way = 0;
        for p in pods {
            under_way += open(s, c, cx, p).await.unwrap_or(0);
        }
        let waited = start.elapsed();
        if cx.cancel.is_cancelled()
            || (under_way == 0 && waited >= at_least)
            || waited >= cx.grace.max(at_least)
        {
            return;
        }
        let left = cx.grace.saturating_sub(waited).as_secs();
        let message = format!("{under_way} requests in flight, at most {left} s more");
        cx.waiting.on(&cx.node, "DRAINING", message, "--grace changes how long", s.clock.now());
        tokio::time::sleep(LOOK).await;
    }
}

impl Step for Settle {
    fn kind(&self) -> &'static str {
        "k8s.settle@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let c = self.0.client().await?;
        let mut old = Vec::new();
        for n in cx.params["revisions"].as_array().into_iter().flatten() {
            old.extend(pods::with_gates(&c, cx, Some(&format!("app-{n}"))).await?);
        }
        for p in &old {
            // one that can't be told is ended by its pod's own hook
            if let Ok(way) = pods::admin(&c, cx, p).await {
                let _ = admin::leave(way, &self.0.admin_token(&cx.owner)).await;
            }
        }
        emptied(&self.0, &c, cx, &old, TOLD).await;
        Ok(Done::default())
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
