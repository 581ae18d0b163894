//! A step in a cluster that may be gone with all that was in it, by hand or with its last instance: what is in it is gone then, not
//! out of reach.
use super::{
    Cluster,
    nodes::{Look, gone},
};
use std::sync::Arc;
use syp_engine::failure::Class;
use syp_engine::{
    events::Recorder,
    step::{Done, DynStep, Observed as Seen, Owner, Rehearsed, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(crate) struct Observed {
    pub cluster: Arc<Cluster>,
    pub step: Arc<dyn DynStep>,
}

impl Step for Observed {
    fn kind(&self) -> &'static str {
        self.step.kind()
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Seen, Failure> {
        match self.cluster.look().await? {
            Look::Absent | Look::Half => Ok(Seen::Absent),
            // the cluster's own row says that it does not run
            Look::Stopped => Ok(Seen::Busy),
            Look::Running => self.step.observe(cx, key).await,
        }
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        match self.cluster.look().await? {
            // made again from its beginning by the next run, not by going on in the middle
            Look::Absent | Look::Half => {
                Err(Failure { class: Class::Terminal.as_str().into(), ..gone(&self.cluster.name) })
            }
            // in the middle of a run: nobody else starts it
            Look::Stopped => {
                self.cluster.start().await?;
                self.step.apply(cx, key).await
            }
            Look::Running => self.step.apply(cx, key).await,
        }
    }

    async fn rehearse(&self, cx: &StepCx, key: &str) -> Result<Option<Rehearsed>, Failure> {
        match self.cluster.look().await? {
            Look::Running => self.step.rehearse(cx, key).await,
            _ => Ok(None),
        }
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, events: &Recorder) -> Result<bool, Failure> {
        match self.cluster.look().await? {
            Look::Absent | Look::Half => return Ok(false),
            Look::Stopped => {
                self.cluster.start().await?;
            }
            Look::Running => {}
        }
        self.step.destroy(owner, row, events).await
    }
}
