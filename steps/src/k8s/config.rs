//! What the gates shall enforce: in a Secret, for the pods that are yet to come, and told at once to those that are there.
use super::{
    Shared,
    client::SECRET,
    names::{namespace, namespace_of},
    object, pods,
};
use crate::{admin, labels::key};
use async_trait::async_trait;
use futures_util::future::join_all;
use kube::Client;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use syp_engine::{
    failure::{Class, failure},
    fold::GATE_GENERATION,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Config(pub Arc<Shared>);

/// Node of the Secret.
pub(super) const NODE: &str = "config";
/// A gate that was started a moment ago listens within this.
const STARTING: Duration = Duration::from_secs(5);

fn secret(s: &Shared, cx: &StepCx, key: &str) -> Result<Value, Failure> {
    let config = serde_json::to_string(&cx.gate).map_err(|e| {
        failure(Class::Terminal, "INTERNAL", e.to_string(), "this is a bug: please report it")
    })?;
    let token = s.admin_token(&cx.owner);
    let rest = json!({ "type": "Opaque", "stringData": { "gate.json": config, "admin.token": token.expose_secret() } });
    Ok(object::object(SECRET, &cx.owner, NODE, key, namespace(cx), rest))
}

/// The Secret first: a pod that starts in this moment reads it, or is told.
pub(super) async fn push(s: &Shared, cx: &StepCx) -> Result<(), Failure> {
    let c = s.client().await?;
    object::ensure(&c, SECRET, &cx.owner, namespace(cx), &secret(s, cx, &key(&cx.owner, NODE))?).await?;
    tell(s, &c, cx).await
}

/// Every gate that runs. One that can't be told fails the push, which is tried again: a policy that holds for some is none.
pub(super) async fn tell(s: &Shared, c: &Client, cx: &StepCx) -> Result<(), Failure> {
    let token = s.admin_token(&cx.owner);
    let all = pods::with_gates(c, cx, None).await?;
    let told = all.iter().map(async |p| {
        let end = tokio::time::Instant::now() + STARTING;
        loop {
            let asked = async { admin::configure(pods::admin(c, cx, p).await?, &token, &cx.gate).await };
            match asked.await {
                Err(f) if f.reason == "NOT_FOUND" => return Ok(()),
                Err(f) if f.reason == "GATE_UNREACHABLE" && tokio::time::Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                other => return other,
            }
        }
    });
    let mut worst = Ok(());
    for (p, told) in all.iter().zip(join_all(told).await) {
        if told.is_err() && still_there(c, cx, p).await? {
            worst = told;
        }
    }
    worst
}

/// A pod that has gone meanwhile admits nobody.
async fn still_there(c: &Client, cx: &StepCx, p: &k8s_openapi::api::core::v1::Pod) -> Result<bool, Failure> {
    let now = pods::with_gates(c, cx, None).await?;
    Ok(now.iter().any(|n| n.metadata.uid == p.metadata.uid))
}

#[async_trait]
impl Step for Config {
    fn kind(&self) -> &'static str {
        "k8s.config@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, SECRET, &cx.owner, namespace(cx), key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let c = self.0.client().await?;
        let made = object::ensure(&c, SECRET, &cx.owner, namespace(cx), &secret(&self.0, cx, key)?).await?;
        tell(&self.0, &c, cx).await?;
        let mut done = object::done(&made);
        done.outputs = json!({ GATE_GENERATION: cx.gate.generation });
        Ok(done)
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, SECRET, owner, &namespace_of(row), &row.key).await
    }
}
