//! The way in from outside by name: an Ingress of whatever class the cluster has.
use super::{
    Shared,
    client::INGRESS,
    names::{PORT, namespace, namespace_of},
    object, rehearse, service,
};
use crate::{kind, labels::key};
use serde_json::{Value, json};
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Rehearsed, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1,
};

pub(super) struct Ingress(pub Arc<Shared>);

/// Annotations that name who signs for cert-manager.
const ISSUERS: [&str; 2] = ["cert-manager.io/issuer", "cert-manager.io/cluster-issuer"];
/// The Secret that it is to make.
const CERTIFICATE: &str = "certificate";

fn manifest(cx: &StepCx, name: &str) -> Value {
    let mut k = cx.spec.kubernetes.clone().unwrap_or_default();
    if cx.facts["doors"] == true {
        // in a cluster of our own all is ours
        k.ingress_class = kind::ingress::CLASS.into();
        k.tls_secret = key(&cx.owner, kind::ingress::TLS);
    }
    if k.tls_secret.is_empty() && gets_certificate(&k) {
        // in the instance's own namespace, with which it goes
        k.tls_secret = key(&cx.owner, CERTIFICATE);
    }
    let backend = json!({ "service": { "name": key(&cx.owner, service::NODE), "port": { "number": PORT } } });
    let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
    let rules: Vec<Value> =
        cx.spec.domains.iter().map(|d| json!({ "host": d, "http": { "paths": [path] } })).collect();
    let mut spec = json!({ "rules": rules });
    if !k.ingress_class.is_empty() {
        spec["ingressClassName"] = k.ingress_class.into();
    }
    if !k.tls_secret.is_empty() {
        spec["tls"] = json!([{ "hosts": cx.spec.domains, "secretName": k.tls_secret }]);
    }
    let mut rest = json!({ "spec": spec });
    if !k.ingress_annotations.is_empty() {
        rest["metadata"]["annotations"] = json!(k.ingress_annotations);
    }
    object::object(INGRESS, &cx.owner, &cx.node, name, namespace(cx), rest)
}

/// Does cert-manager make the certificate (<https://cert-manager.io/docs/usage/ingress/>)? Pure.
pub(super) fn gets_certificate(k: &v1::Kubernetes) -> bool {
    ISSUERS.iter().any(|a| k.ingress_annotations.contains_key(*a))
}

impl Step for Ingress {
    fn kind(&self) -> &'static str {
        "k8s.ingress@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, INGRESS, cx, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let o = manifest(cx, key);
        let made = object::ensure(&self.0.client().await?, INGRESS, &cx.owner, namespace(cx), &o).await?;
        let tls = cx.facts["doors"] == true
            || cx.spec.kubernetes.as_ref().is_some_and(|k| !k.tls_secret.is_empty() || gets_certificate(k));
        let scheme = if tls { "https" } else { "http" };
        let mut domain = cx.spec.domains.first().cloned().unwrap_or_default();
        let port = cx.outputs.get("cluster").and_then(|o| o["doors"]["https"].as_u64());
        if let Some(port) = port.filter(|p| *p != 443) {
            domain.push_str(&format!(":{port}"));
        }
        Ok(object::done_with(&made, json!({ "endpoint": format!("{scheme}://{domain}") })))
    }

    async fn rehearse(&self, cx: &StepCx, key: &str) -> Result<Option<Rehearsed>, Failure> {
        rehearse::rehearse(&self.0, INGRESS, cx, &manifest(cx, key)).await
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, INGRESS, owner, &namespace_of(row), &row.key).await
    }
}
