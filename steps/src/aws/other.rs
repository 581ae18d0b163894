//! What a listing found and no step makes: a task definition that outlived its stack, or whatever else carries the instance's tags. It is
//! removed where it was found, as far as the engine has a right to.
use super::{Shared, listing};
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Of, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Other {
    pub shared: Arc<Shared>,
    /// As the listing says it.
    pub kind: &'static str,
}

impl Step for Other {
    fn kind(&self) -> &'static str {
        self.kind
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, _: &StepCx, key: &str) -> Result<Done, Failure> {
        let why = format!("{key}: no plan makes it");
        Err(failure(Class::Terminal, "INTERNAL", why, "please report this bug"))
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        // by its tags and its name it is still ours
        let of = Of { uid: owner.uid, ledger: &[] };
        let all = Box::pin(listing::list(&self.shared, &owner.store, Some(of))).await?;
        let Some(found) = all.iter().find(|f| f.handle == row.handle) else { return Ok(false) };
        listing::remove(&self.shared, found).await?;
        Ok(true)
    }
}
