//! What an attempt of a step is given, and where it says what it waits for.
use crate::{
    clock::Millis,
    events::Recorder,
    id::{InstanceId, StoreId},
    vault::Secrets,
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use syp_auth::door::GateConfig;
use syp_proto::v1;
use tokio_util::sync::CancellationToken;

/// Whose effects they are: what every label and name is made of.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The engine's store.
    pub store: StoreId,
    /// The incarnation.
    pub uid: InstanceId,
    /// The user's name for it.
    pub name: String,
    /// The revision that is being made.
    pub revision: String,
}

/// What a step says it waits for; shown as `waiting_on`, not stored.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<parking_lot::Mutex<BTreeMap<String, Said>>>);

/// What one node says.
#[derive(Clone, Debug)]
pub struct Said {
    /// UPPER_SNAKE.
    pub reason: String,
    /// What it waits for.
    pub message: String,
    /// What a person could do.
    pub hint: String,
    /// Since when it says so.
    pub since: Millis,
}

/// Everything a step may use. Built anew for each attempt from the journal alone.
#[derive(Clone, Debug)]
pub struct StepCx {
    /// Whose.
    pub owner: Owner,
    /// What the user asked for.
    pub spec: Arc<v1::InstanceSpec>,
    /// Number of the run: the same for each attempt of it, another for the next.
    pub run: u32,
    /// The node's id in its plan.
    pub node: String,
    /// The node's own parameters, frozen in the plan.
    pub params: Value,
    /// What preflight found out, frozen when the instance was created.
    pub facts: Value,
    /// Outputs of the nodes that are done, by node id.
    pub outputs: Arc<BTreeMap<String, Value>>,
    /// What the gate shall enforce; the step adds the upstreams.
    pub gate: GateConfig,
    /// Cancelled when the attempt should end at its next safe point.
    pub cancel: CancellationToken,
    /// Where the step says what it waits for.
    pub waiting: Waiting,
    /// Takes what the provider says of the effect into the journal.
    pub events: Recorder,
    /// Time the run has for draining.
    pub grace: Duration,
    /// Where the gate shall send requests from now on, in the target's own words (`PlanNode.routes`).
    pub routes: Value,
    /// Values of the spec's secrets.
    pub secrets: Secrets,
    /// Nodes whose effects may exist now: replicas of more than one revision while an update is under way.
    pub live: Arc<Vec<String>>,
}

// === impl Waiting ===

impl Waiting {
    /// Says what `node` waits for, and what a person could do about it.
    pub fn on(
        &self,
        node: &str,
        reason: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
        now: Millis,
    ) {
        let mut all = self.0.lock();
        let since = all.get(node).filter(|w| w.reason == reason).map_or(now, |w| w.since);
        let said = Said { reason: reason.to_owned(), message: message.into(), hint: hint.into(), since };
        all.insert(node.to_owned(), said);
    }

    /// `node` waits no more.
    pub fn clear(&self, node: &str) {
        self.0.lock().remove(node);
    }

    /// What every node says.
    pub fn all(&self) -> BTreeMap<String, Said> {
        self.0.lock().clone()
    }
}

// === impl StepCx ===

impl StepCx {
    /// A text output of a node that is done.
    pub fn output(&self, node: &str, field: &str) -> Option<&str> {
        self.outputs.get(node)?.get(field)?.as_str()
    }
}
