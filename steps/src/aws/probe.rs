//! Waits until the gates answer behind the load balancer and their app is ready, as many as are wanted.
use super::{Shared, check::no_front, door::Front, tasks};
use crate::verdict;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use syp_engine::{
    events::Recorder,
    scaling,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::time::Instant;

pub(super) struct Probe(pub Arc<Shared>);

const LOOK: Duration = Duration::from_secs(1);
const LOGS: &str = "'sypctl logs' shows what the app says";

impl Step for Probe {
    fn kind(&self) -> &'static str {
        "aws.probe@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let front = Front::of(cx).ok_or_else(no_front)?;
        let token = self.0.admin_token(&cx.owner);
        let (start, limit) = (Instant::now(), verdict::limit(cx));
        loop {
            let least = usize::try_from(scaling::range(&cx.spec).0).unwrap_or(1);
            let need = tasks::healthy(&self.0, cx).await?.max(least);
            let said = match Box::pin(front.look(&token, need)).await {
                Ok(told) => {
                    let all: Vec<_> = told.values().filter_map(|(_, s)| s.as_ref()).collect();
                    let late = all.iter().flat_map(|s| &s.upstreams).find(|u| !u.ready);
                    if all.len() >= need && late.is_none() {
                        return Ok(Done::default());
                    }
                    if let Some(f) = late.and_then(|u| {
                        let others: BTreeSet<u16> = u.listeners.iter().map(|l| l.port).collect();
                        verdict::verdict(cx, u, &super::names::without_own(&others), start.elapsed(), limit)
                    }) {
                        return Err(f);
                    }
                    late.map_or_else(
                        || format!("{} of {need} gates have answered", all.len()),
                        |u| u.detail.clone(),
                    )
                }
                Err(f) => f.message,
            };
            cx.waiting.on(&cx.node, "PROBING", said, LOGS, self.0.clock.now());
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = cx.cancel.cancelled() => {
                    return Err(syp_engine::failure::failure(
                        syp_engine::failure::Class::Transient, "CANCELLED", "cancelled", "",
                    ));
                }
            }
        }
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
