//! The pods of an instance, and the way to the gates in them: a port-forward of the API server, which needs no network path and
//! reaches what listens on loopback alone.
use super::{
    client::failed,
    names::{ADMIN, TRAFFIC, namespace},
};
use crate::{
    admin::unreachable,
    labels::{INSTANCE, STEP, STORE},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt, api::ListParams};
use std::time::Duration;
use syp_engine::step::StepCx;
use syp_proto::journal::Failure;
use tokio::io::{AsyncRead, AsyncWrite};

/// Opening a way takes no longer.
const OPEN: Duration = Duration::from_secs(10);

/// Pods of an instance; of one node, if it is said.
pub fn selector(cx: &StepCx, node: Option<&str>) -> String {
    let mut out = format!("{STORE}={},{INSTANCE}={}", cx.owner.store, cx.owner.uid);
    if let Some(node) = node {
        out.push_str(&format!(",{STEP}={node}"));
    }
    out
}

/// The pods with a gate in them, those of two revisions during an update.
///
/// # Errors
/// The API server's.
pub async fn with_gates(c: &Client, cx: &StepCx, node: Option<&str>) -> Result<Vec<Pod>, Failure> {
    let api: Api<Pod> = Api::namespaced(c.clone(), namespace(cx));
    let all = api.list(&ListParams::default().labels(&selector(cx, node))).await.map_err(|e| failed(&e))?;
    Ok(all.items.into_iter().filter(|p| container(p, "gate", true).is_some_and(|s| s.running)).collect())
}

/// A container of a pod.
#[derive(Clone, Debug, Default)]
pub struct Container {
    pub running: bool,
    pub restarts: i32,
    /// Why it waits, and in which words.
    pub waiting: Option<(String, String)>,
    /// How it ended last.
    pub ended: Option<(i32, String)>,
    pub started_ms: i64,
}

/// What the kubelet says of a container.
pub fn container(p: &Pod, name: &str, sidecar: bool) -> Option<Container> {
    let status = p.status.as_ref()?;
    let all = if sidecar { &status.init_container_statuses } else { &status.container_statuses };
    let s = all.as_ref()?.iter().find(|s| s.name == name)?;
    let state = s.state.clone().unwrap_or_default();
    let last = s.last_state.clone().unwrap_or_default();
    let ended = state.terminated.clone().or(last.terminated);
    let started = state.running.as_ref().and_then(|r| r.started_at.as_ref());
    Some(Container {
        running: state.running.is_some(),
        restarts: s.restart_count,
        waiting: state.waiting.map(|w| (w.reason.unwrap_or_default(), w.message.unwrap_or_default())),
        ended: ended.map(|t| (t.exit_code, t.reason.unwrap_or_default())),
        started_ms: started.map_or(0, |t| t.0.as_millisecond()),
    })
}

/// Is the pod on its way out?
pub fn leaving(p: &Pod) -> bool {
    p.metadata.deletion_timestamp.is_some()
}

/// Is it ready by its own conditions?
pub fn ready(p: &Pod) -> bool {
    let conditions = p.status.as_ref().and_then(|s| s.conditions.as_ref());
    !leaving(p) && conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// A way to the admin port of a pod's gate.
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub async fn admin(
    c: &Client,
    cx: &StepCx,
    pod: &Pod,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, Failure> {
    forward(c, namespace(cx), &pod.name_any(), ADMIN).await
}

/// A way to the traffic port of a pod's gate.
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub async fn traffic(
    c: &Client,
    cx: &StepCx,
    pod: &Pod,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, Failure> {
    forward(c, namespace(cx), &pod.name_any(), TRAFFIC).await
}

async fn forward(
    c: &Client,
    namespace: &str,
    pod: &str,
    port: u16,
) -> Result<tokio::io::DuplexStream, Failure> {
    let api: Api<Pod> = Api::namespaced(c.clone(), namespace);
    let ports = [port];
    let opened = tokio::time::timeout(OPEN, api.portforward(pod, &ports)).await;
    let mut way = opened.map_err(|e| unreachable("port-forward", e))?.map_err(|e| match e {
        kube::Error::Api(_) => failed(&e),
        e => unreachable("port-forward", e),
    })?;
    way.take_stream(port).ok_or_else(|| unreachable("port-forward", "no stream"))
}
