//! What the gates shall enforce: in a Secret, for the pods that are yet to come, and told at once to those that are there.
use super::{
    Shared,
    client::SECRET,
    names::{namespace, namespace_of},
    object, pods,
};
use crate::{admin, labels::key};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use syp_auth::door::{GateConfig, Probe, Protocol};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    fold::GATE_GENERATION,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Config(pub Arc<Shared>);

/// Node of the Secret.
pub(super) const NODE: &str = "config";
/// A gate that was started a moment ago listens within this.
const STARTING: Duration = Duration::from_secs(3);

/// The same for pods of every revision: what differs between them is in their own arguments.
fn told(cx: &StepCx) -> GateConfig {
    GateConfig {
        upstreams: vec![],
        protocol: Protocol::default(),
        probe: Probe::default(),
        revision: String::new(),
        ..cx.gate.clone()
    }
}

fn secret(s: &Shared, cx: &StepCx, key: &str) -> Result<Value, Failure> {
    let config = serde_json::to_string(&told(cx)).map_err(|e| {
        failure(Class::Terminal, "INTERNAL", e.to_string(), "this is a bug: please report it")
    })?;
    let token = s.admin_token(&cx.owner);
    // what is in 'stringData' belongs to nobody once it is kept, and a change of it would not be seen
    let data = json!({
        "gate.json": BASE64_STANDARD.encode(config),
        "admin.token": BASE64_STANDARD.encode(token.expose_secret()),
    });
    let rest = json!({ "type": "Opaque", "data": data });
    Ok(object::object(SECRET, &cx.owner, NODE, key, namespace(cx), rest))
}

/// The Secret first: a pod that starts in this moment reads it, or is told.
pub(super) async fn push(s: &Shared, cx: &StepCx) -> Result<(), Failure> {
    let c = s.client().await?;
    object::ensure(&c, SECRET, &cx.owner, namespace(cx), &secret(s, cx, &key(&cx.owner, NODE))?).await?;
    tell(s, &c, cx).await
}

/// Every gate that runs. One that is ready and can't be told fails the push, which is tried again: a policy that holds for some is
/// none. One that is not ready gets no callers, and is told when it is found behind ([`tell_one`]).
pub(super) async fn tell(s: &Shared, c: &Client, cx: &StepCx) -> Result<(), Failure> {
    let all = pods::with_gates(c, cx, None).await?;
    let told = join_all(all.iter().map(|p| tell_one(s, c, cx, p))).await;
    let failed = |p: &Pod, t: &Result<(), Failure>| t.is_err() && pods::ready(p);
    if !all.iter().zip(&told).any(|(p, t)| failed(p, t)) {
        return Ok(());
    }
    // those that went meanwhile admit nobody
    let now = pods::with_gates(c, cx, None).await?;
    let there = |p: &Pod| now.iter().any(|n| n.metadata.uid == p.metadata.uid);
    all.iter().zip(told).find(|(p, t)| failed(p, t) && there(p)).map_or(Ok(()), |(_, t)| t)
}

/// One gate.
///
/// # Errors
/// It can't be told.
pub(super) async fn tell_one(s: &Shared, c: &Client, cx: &StepCx, p: &Pod) -> Result<(), Failure> {
    let (token, config) = (s.admin_token(&cx.owner), told(cx));
    let end = tokio::time::Instant::now() + STARTING;
    loop {
        let asked = async { admin::configure(pods::admin(c, cx, p).await?, &token, &config).await };
        match asked.await {
            Err(f) if f.reason == "NOT_FOUND" => return Ok(()),
            Err(f) if f.reason == "GATE_UNREACHABLE" && tokio::time::Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => return other,
        }
    }
}

impl Step for Config {
    fn kind(&self) -> &'static str {
        "k8s.config@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, SECRET, cx, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let c = self.0.client().await?;
        let made = object::ensure(&c, SECRET, &cx.owner, namespace(cx), &secret(&self.0, cx, key)?).await?;
        tell(&self.0, &c, cx).await?;
        Ok(object::done_with(&made, json!({ GATE_GENERATION: cx.gate.generation })))
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, SECRET, owner, &namespace_of(row), &row.key).await
    }
}
