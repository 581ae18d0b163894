//! Proves that nobody gets in without a token: asked as a caller asks.
use super::door::Front;
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Check;

/// No stack of it says where it is.
pub(super) fn no_front() -> Failure {
    let next = "the engine looks again by itself";
    failure(Class::Transient, "ENDPOINT_UNREACHABLE", "its load balancer is not known yet", next)
}

impl Step for Check {
    fn kind(&self) -> &'static str {
        "aws.check@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let front = Front::of(cx).ok_or_else(no_front)?;
        let status = front.anonymous().await?;
        // a load balancer whose tasks change says so by itself
        if matches!(status, 502..=504) {
            let what = format!("the load balancer answers {status}");
            return Err(failure(
                Class::Transient,
                "ENDPOINT_UNREACHABLE",
                what,
                "the engine tries again by itself",
            ));
        }
        crate::admin::enforced(status)
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
