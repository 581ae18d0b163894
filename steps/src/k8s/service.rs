//! The way to the gates. It leads nowhere until a revision is proven: the selector is the switch's to say, under a field manager of
//! its own, so that making the Service again changes nothing of who serves.
use super::{
    Shared,
    client::{SERVICE, failed},
    names::{PORT, TRAFFIC, namespace, namespace_of},
    object,
};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, api::ListParams};
use serde_json::{Value, json};
use std::sync::Arc;
use syp_engine::step::{Done, Observed, Owner, Step, StepCx};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Service(pub Arc<Shared>);

/// Node of the Service.
pub(super) const NODE: &str = "service";

fn manifest(cx: &StepCx, key: &str) -> Value {
    // a node's port only where its address is known; a name of the cluster's own otherwise, and behind an ingress
    let outside = cx.facts["node_address"].is_string() && cx.spec.domains.is_empty();
    let rest = json!({ "spec": {
        "type": if outside { "NodePort" } else { "ClusterIP" },
        "ports": [{ "name": "http", "port": PORT, "targetPort": TRAFFIC, "protocol": "TCP" }],
    } });
    object::object(SERVICE, &cx.owner, NODE, key, namespace(cx), rest)
}

/// An address of a node that this cluster is reached by; `None` where nodes may not be seen.
pub(super) async fn node_address(c: &Client) -> Result<Option<String>, Failure> {
    let nodes = match Api::<Node>::all(c.clone()).list(&ListParams::default()).await {
        Ok(nodes) => nodes.items,
        Err(e) if super::client::code(&e) == Some(403) => return Ok(None),
        Err(e) => return Err(failed(&e)),
    };
    let addresses = |kind: &str| {
        let all = nodes.iter().flat_map(|n| n.status.iter().flat_map(|s| s.addresses.iter().flatten()));
        all.filter(|a| a.type_ == kind).map(|a| a.address.clone()).next()
    };
    Ok(addresses("ExternalIP").or_else(|| addresses("InternalIP")))
}

#[async_trait]
impl Step for Service {
    fn kind(&self) -> &'static str {
        "k8s.service@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, SERVICE, &cx.owner, namespace(cx), key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let c = self.0.client().await?;
        let made = object::ensure(&c, SERVICE, &cx.owner, namespace(cx), &manifest(cx, key)).await?;
        let port = made.data["spec"]["ports"][0]["nodePort"].as_u64();
        let endpoint = match (port, cx.facts["node_address"].as_str()) {
            (Some(port), Some(host)) if host.contains(':') => format!("http://[{host}]:{port}"),
            (Some(port), Some(host)) => format!("http://{host}:{port}"),
            _ => format!("http://{key}.{}.svc", namespace(cx)),
        };
        let mut done = object::done(&made);
        done.outputs = if cx.spec.domains.is_empty() { json!({ "endpoint": endpoint }) } else { json!({}) };
        Ok(done)
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, SERVICE, owner, &namespace_of(row), &row.key).await
    }
}
