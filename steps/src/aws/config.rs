//! What the gates shall enforce: in a secret, for the tasks that are yet to come, and told at once to those that are there.
use super::{Shared, door, kept, names};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::sync::Arc;
use syp_auth::door::{GateConfig, Probe, Protocol};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    fold::GATE_GENERATION,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Config(pub Arc<Shared>);

/// Node of the secret.
pub(super) const NODE: &str = "config";

/// The same for tasks of every revision: what differs between them is in their own arguments.
fn told(cx: &StepCx) -> Result<String, Failure> {
    let config = GateConfig {
        upstreams: vec![],
        protocol: Protocol::default(),
        probe: Probe::default(),
        revision: String::new(),
        ..cx.gate.clone()
    };
    serde_json::to_string(&config)
        .map_err(|e| failure(Class::Terminal, "INTERNAL", e.to_string(), "this is a bug: please report it"))
}

async fn put(s: &Shared, cx: &StepCx, config: &str) -> Result<String, Failure> {
    let token = s.admin_token(&cx.owner);
    let value = SecretString::from(json!({ "token": token.expose_secret(), "config": config }).to_string());
    let name = names::secret(&cx.owner, NODE_NAME);
    let wanted = kept::Wanted { owner: &cx.owner, node: NODE, name: &name, value: &value };
    kept::bring(&s.clients().await?.secrets, &s.key, &wanted).await
}

/// How the secret is called.
const NODE_NAME: &str = "gate";

/// The key of the effect.
pub(super) fn key(owner: &Owner) -> String {
    names::secret(owner, NODE_NAME)
}

/// The secret first: a task that starts in this moment reads it, or is told.
pub(super) async fn push(s: &Shared, cx: &StepCx) -> Result<(), Failure> {
    let config = told(cx)?;
    put(s, cx, &config).await?;
    tell(s, cx, &config).await
}

/// Every gate that callers reach. Without a stack there is none.
async fn tell(s: &Shared, cx: &StepCx, config: &str) -> Result<(), Failure> {
    let Some(front) = door::Front::of(cx) else { return Ok(()) };
    let need = super::tasks::healthy(s, cx).await?;
    if need == 0 {
        return Ok(());
    }
    front.configure(&s.admin_token(&cx.owner), config, need).await
}

impl Step for Config {
    fn kind(&self) -> &'static str {
        "aws.config@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        kept::observe(&self.0.clients().await?.secrets, &cx.owner, key).await
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let config = told(cx)?;
        let arn = put(&self.0, cx, &config).await?;
        let mut outputs = json!({ "arn": arn });
        // a way to the gates that is broken is mended by the steps after this; whoever could not be told is told by the engine then
        match tell(&self.0, cx, &config).await {
            Ok(()) => outputs[GATE_GENERATION] = cx.gate.generation.into(),
            Err(f) if Class::parse(&f.class) == Class::Terminal => return Err(f),
            Err(f) => tracing::info!(instance = cx.owner.name, "gates are told later: {}", f.message),
        }
        Ok(Done { handle: arn, outputs })
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        kept::remove(&self.0.clients().await?.secrets, owner, &row.key).await
    }
}
