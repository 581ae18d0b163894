//! The cluster as an effect of each instance in it: whoever is first makes it, whoever is last removes it.
//!
//! Entering and leaving are one thing at a time. An instance has entered when its namespace is there, which is made under the same
//! hold as the cluster: so the last one to leave never takes it from one that has just come.
use super::{Cluster, nodes::Look};
use crate::{
    k8s::{Shared, client::NAMESPACE, namespace, object},
    labels::key,
};
use serde_json::json;
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

/// What a first instance is told while it waits.
const FIRST: &str = "a first time takes a minute, and the pull of kind's node image (about 1 GB) as long as your network needs";

fn no_doors() -> Failure {
    failure(
        Class::Terminal,
        "INGRESS_NOT_READY",
        "no port of this machine was free for an ingress when the cluster was made",
        "take down what is in it ('sypctl down --all' on kind): the next one gets such ports",
    )
}

pub(crate) struct ClusterStep(pub Arc<Cluster>, pub Arc<Shared>);

impl Step for ClusterStep {
    fn kind(&self) -> &'static str {
        "kind.cluster@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        let handle = self.0.name.clone();
        Ok(match self.0.look().await? {
            Look::Absent => Observed::Absent,
            look => Observed::Present { handle, ours: true, healthy: look == Look::Running },
        })
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let _held = self.0.hold().await;
        let say = |what: &str| {
            let what = format!("kind cluster {}: {what}", self.0.name);
            cx.waiting.on(&cx.node, "CLUSTER_MAKING", what, FIRST, self.1.clock.now());
        };
        let (ports, doors) = self.0.ensure(self.1.ingress, &say).await?;
        let c = self.1.client().await?;
        self.0.answers(&c).await?;
        self.0.works(&c, &say).await?;
        if self.1.ingress {
            let doors = doors.ok_or_else(no_doors)?;
            self.0.controller(&c, doors, &say).await?;
        }
        let o = namespace::manifest(cx, &key(&cx.owner, namespace::NODE));
        object::ensure(&c, NAMESPACE, &cx.owner, "", &o).await?;
        Ok(Done { handle: self.0.name.clone(), outputs: json!({ "ports": ports, "doors": doors }) })
    }

    async fn destroy(&self, owner: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        let _held = self.0.hold().await;
        let mut look = self.0.look().await?;
        if look == Look::Stopped {
            self.0.start().await?;
            look = self.0.look().await?;
        }
        match look {
            Look::Absent => return Ok(false),
            // nobody can be in it
            Look::Half => return self.0.delete().await.map(|()| true),
            Look::Stopped | Look::Running => {}
        }
        let c = self.1.client().await?;
        self.0.answers(&c).await?;
        object::remove(&c, NAMESPACE, owner, "", &key(owner, namespace::NODE)).await?;
        if self.0.inside(&c, owner.store.as_str()).await?.is_empty() {
            self.0.delete().await?;
        }
        Ok(true)
    }
}
