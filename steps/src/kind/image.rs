//! A revision's image in the nodes, where it is one of this machine's Docker engine.
use super::{Cluster, load::REGISTRY, nodes::Look};
use crate::labels::key;
use serde_json::Value;
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(crate) struct Image(pub Arc<Cluster>);

/// What a revision's image is called in the nodes; `None`: it is not loaded, the nodes pull it.
pub(crate) fn reference(owner: &Owner, revision: u64, facts: &Value) -> Option<String> {
    (facts["load"] == true).then(|| named(&key(owner, &format!("image-{revision}"))))
}

fn named(key: &str) -> String {
    format!("{REGISTRY}/{key}:1")
}

impl Step for Image {
    fn kind(&self) -> &'static str {
        "kind.image@1"
    }

    async fn observe(&self, _: &StepCx, key: &str) -> Result<Observed, Failure> {
        if self.0.look().await? != Look::Running {
            return Ok(Observed::Absent);
        }
        let (there, handle) = (self.0.has(&named(key)).await?, named(key));
        Ok(if there { Observed::Present { handle, ours: true, healthy: true } } else { Observed::Absent })
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let id = cx.facts["image"].as_str().unwrap_or_default();
        self.0.load(id, &named(key)).await?;
        Ok(Done { handle: named(key), ..Done::default() })
    }

    async fn destroy(&self, _: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        match self.0.look().await? {
            // it goes with the cluster
            Look::Absent | Look::Half => Ok(false),
            Look::Running => self.0.unload(&named(&row.key)).await,
            Look::Stopped => {
                self.0.start().await?;
                self.0.unload(&named(&row.key)).await
            }
        }
    }
}
