//! Brings policy, keys and upstreams to the gate. It changes what the gate's row owns, so it has no row of its own.
use super::{
    Shared, admin,
    gate::{self, subnet},
    names::ADMIN,
    routes::Routes,
};
use serde_json::json;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use syp_auth::door::GateConfig;
use syp_engine::{
    events::Recorder,
    fold::GATE_GENERATION,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Config(pub Arc<Shared>);

/// A gate that was started a moment ago listens within this.
const STARTING: Duration = Duration::from_secs(5);

/// Where the gate of an instance is told things.
pub(super) fn admin_address(cx: &StepCx) -> Result<SocketAddr, Failure> {
    Ok(SocketAddr::new(IpAddr::V4(subnet(cx)?.address(2)), ADMIN))
}

/// The configuration with the replicas in it.
pub(super) fn complete(cx: &StepCx) -> Result<GateConfig, Failure> {
    let routes = Routes::read(&cx.routes, Some(&cx.spec));
    let mut config = cx.gate.clone();
    config.upstreams = routes.upstreams(subnet(cx)?);
    // only what differs: gates of a former version know no more than that
    for u in &mut config.upstreams {
        u.protocol = u.protocol.filter(|p| *p != config.protocol);
        u.probe = u.probe.take().filter(|p| *p != config.probe);
    }
    config.hold_ms = routes.hold_ms;
    Ok(config)
}

/// Pushes. A gate of a former version that does not understand it is replaced by one of this version: what is asked for now
/// counts more than the connections of that moment.
pub(super) async fn push(s: &Arc<Shared>, cx: &StepCx) -> Result<(), Failure> {
    match told(s, cx).await {
        Err(f) if f.reason == "GATE_REFUSED" && Box::pin(gate::replaced_former(s, cx)).await? => {
            told(s, cx).await
        }
        other => other,
    }
}

/// Waits a moment for a gate that starts.
async fn told(s: &Shared, cx: &StepCx) -> Result<(), Failure> {
    let (to, config) = (admin_address(cx)?, complete(cx)?);
    let token = s.admin_token(&cx.owner);
    let mut wait = Duration::from_millis(3);
    let end = tokio::time::Instant::now() + STARTING;
    loop {
        match admin::configure(to, &token, &config).await {
            Err(f) if f.reason == "GATE_UNREACHABLE" && tokio::time::Instant::now() < end => {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_millis(50));
            }
            other => return other,
        }
    }
}

impl Step for Config {
    fn kind(&self) -> &'static str {
        "docker.config@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        push(&self.0, cx).await?;
        Ok(Done { outputs: json!({ GATE_GENERATION: cx.gate.generation }), ..Default::default() })
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
