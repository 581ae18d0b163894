//! Whether the domain's name leads to the load balancer. Where nobody has told us its zone, its owner makes the record, and an instance
//! serves until then under a name that nobody finds: that is said, and holds nothing up.
use super::{Shared, check::no_front, door::Front};
use std::{sync::Arc, time::Duration};
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::time::Instant;

pub(super) struct Domain(pub Arc<Shared>);

/// A record that the stack has made is known within a minute (Route 53 developer guide, "How changes propagate").
const KNOWN: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_secs(3);

/// The condition.
pub(super) const RESOLVES: &str = "DomainResolves";

/// Does it lead there by now? `None`: not yet.
///
/// # Errors
/// Nobody knows where the load balancer is.
pub(super) async fn resolves(cx: &StepCx) -> Result<Option<String>, Failure> {
    let front = Front::of(cx).ok_or_else(no_front)?;
    let domain = cx.spec.domains.first().map(String::as_str).unwrap_or_default();
    Ok(front.named().await?.then(|| leads(domain)))
}

fn leads(domain: &str) -> String {
    format!("{domain} leads to the load balancer")
}

impl Step for Domain {
    fn kind(&self) -> &'static str {
        "aws.domain@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let front = Front::of(cx).ok_or_else(no_front)?;
        let domain = cx.spec.domains.first().map(String::as_str).unwrap_or_default();
        let ours = cx.spec.aws.as_ref().is_some_and(|a| !a.zone.is_empty());
        let end = Instant::now() + if ours { KNOWN } else { Duration::ZERO };
        loop {
            if front.named().await? {
                return Ok(Done::condition(RESOLVES, true, "TRIED", &leads(domain)));
            }
            if Instant::now() >= end {
                let words = format!(
                    "{domain} does not lead to the load balancer yet: make it a CNAME of {} where the domain is kept",
                    front.dns()
                );
                return Ok(Done::condition(RESOLVES, false, "DNS_RECORD", &words));
            }
            let words = format!("the name {domain} to be known");
            cx.waiting.on(&cx.node, "DNS_RECORD", words, "Route 53 takes up to a minute", self.0.clock.now());
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
