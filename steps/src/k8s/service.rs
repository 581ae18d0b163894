//! The way to the gates. It leads nowhere until a revision is proven: the selector is the switch's to say, under a field manager of
//! its own, so that making the Service again changes nothing of who serves.
use super::{
    Shared,
    client::{SERVICE, failed, optional},
    fields,
    names::{PORT, TRAFFIC, namespace, namespace_of},
    object, rehearse, switch,
};
use crate::kind::Pairs;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};
use serde_json::{Value, json};
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Rehearsed, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Service(pub Arc<Shared>);

/// Node of the Service.
pub(super) const NODE: &str = "service";

/// The range of node ports, where nobody has said another.
const RANGE: std::ops::Range<u16> = 30_000..32_768;
/// Ports that are tried before the cluster may choose.
const TRIES: usize = 3;

/// `port`: a node's; `None` in it: whichever is free.
fn manifest(cx: &StepCx, key: &str, port: Option<Option<u16>>) -> Value {
    let mut entry = json!({ "name": "http", "port": PORT, "targetPort": TRAFFIC, "protocol": "TCP" });
    if let Some(Some(port)) = port {
        entry["nodePort"] = port.into();
    }
    let kind = if port.is_some() { "NodePort" } else { "ClusterIP" };
    let rest = json!({ "spec": { "type": kind, "ports": [entry] } });
    object::object(SERVICE, &cx.owner, NODE, key, namespace(cx), rest)
}

/// Ports that lead from a node's to this machine, of a cluster of our own.
fn mapped(cx: &StepCx) -> Pairs {
    cx.outputs
        .get("cluster")
        .and_then(|o| serde_json::from_value(o["ports"].clone()).ok())
        .unwrap_or_default()
}

/// Which node ports to ask for, best first: always the same for an instance, so that a Service that has to be made again comes back
/// where its callers look for it. Pure.
fn candidates(uid: &[u8], mapped: &Pairs) -> Vec<u16> {
    let seed = uid.iter().fold(0_usize, |s, b| s.wrapping_mul(31).wrapping_add(usize::from(*b)));
    let all: Vec<u16> = if mapped.is_empty() { RANGE.collect() } else { mapped.keys().copied().collect() };
    let tries = if mapped.is_empty() { TRIES } else { all.len() };
    (0..tries).map(|n| all[(seed + n) % all.len()]).collect()
}

/// Another Service has the port, or the cluster gives no such ports.
fn taken(f: &Failure) -> bool {
    f.reason == "PROVIDER_REFUSED" && f.message.contains("nodePort")
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

impl Service {
    /// Made with the port that is its own, or the next; as it is when it is there.
    async fn ensure(
        &self,
        c: &Client,
        cx: &StepCx,
        key: &str,
        outside: bool,
        mapped: &Pairs,
    ) -> Result<DynamicObject, Failure> {
        let held = optional(SERVICE.api(c, namespace(cx)).get(key).await)?;
        let held = held
            .and_then(|s| s.data["spec"]["ports"][0]["nodePort"].as_u64())
            .and_then(|p| u16::try_from(p).ok());
        let ports: Vec<Option<u16>> = match held {
            _ if !outside => vec![],
            Some(port) => vec![Some(port)],
            None => candidates(cx.owner.uid.as_bytes(), mapped).into_iter().map(Some).chain([None]).collect(),
        };
        for port in ports {
            match object::ensure(c, SERVICE, &cx.owner, namespace(cx), &manifest(cx, key, Some(port))).await {
                Err(f) if port.is_some() && held.is_none() && taken(&f) => {}
                r => return r,
            }
        }
        object::ensure(c, SERVICE, &cx.owner, namespace(cx), &manifest(cx, key, None)).await
    }
}

impl Step for Service {
    fn kind(&self) -> &'static str {
        "k8s.service@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        let held = optional(SERVICE.api(&self.0.client().await?, namespace(cx)).get(key).await)?;
        let Some(o) = held else { return Ok(Observed::Absent) };
        Ok(match object::judged(cx, &o) {
            // looked at while it serves: somebody else says by now who does
            Observed::Present { handle, ours: true, .. } if !switch::holds(&o.metadata) => {
                Observed::Changed { handle, by: format!("its selector; {}", fields::others(&o.metadata)) }
            }
            seen => seen,
        })
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let c = self.0.client().await?;
        let mapped = mapped(cx);
        let address = match cx.facts["node_address"].as_str() {
            Some(a) => Some(a.to_owned()),
            None if self.0.kind.is_some() => node_address(&c).await?,
            None => None,
        };
        // a node's port only where its address is known; a name of the cluster's own otherwise, and behind an ingress
        let outside = address.is_some() && cx.spec.domains.is_empty();
        let made = self.ensure(&c, cx, key, outside, &mapped).await?;
        let port = made.data["spec"]["ports"][0]["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok());
        let here = port.and_then(|p| mapped.get(&p));
        let endpoint = match (port, here, address) {
            (_, Some(port), _) => format!("http://127.0.0.1:{port}"),
            (Some(port), None, Some(host)) if host.contains(':') => format!("http://[{host}]:{port}"),
            (Some(port), None, Some(host)) => format!("http://{host}:{port}"),
            _ => format!("http://{key}.{}.svc", namespace(cx)),
        };
        let more = if cx.spec.domains.is_empty() { json!({ "endpoint": endpoint }) } else { json!({}) };
        Ok(object::done_with(&made, more))
    }

    async fn rehearse(&self, cx: &StepCx, key: &str) -> Result<Option<Rehearsed>, Failure> {
        rehearse::rehearse(&self.0, SERVICE, cx, &manifest(cx, key, None)).await
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, SERVICE, owner, &namespace_of(row), &row.key).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_asks_for_the_same_ports_each_time_and_a_cluster_of_ours_for_those_that_lead_here() {
        let (a, b) =
            (candidates(b"0123456789abcdef", &Pairs::new()), candidates(b"0123456789abcdef", &Pairs::new()));
        assert!(a == b && a.len() == TRIES && a.iter().all(|p| RANGE.contains(p)), "{a:?}");
        let pairs = Pairs::from([(30_000, 20_001), (30_001, 20_002)]);
        let mut c = candidates(b"x", &pairs);
        c.sort_unstable();
        assert_eq!(c, [30_000, 30_001]);
    }

    #[test]
    fn a_port_that_is_taken_is_known_by_the_words_of_the_api_server() {
        let said = |m: &str| {
            syp_engine::failure::failure(syp_engine::failure::Class::Terminal, "PROVIDER_REFUSED", m, "")
        };
        assert!(taken(&said(
            "Service \"a\" is invalid: spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"
        )));
        assert!(!taken(&said("Service \"a\" is invalid: metadata.name")));
    }
}
