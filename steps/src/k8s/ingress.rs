//! The way in from outside by name: an Ingress of whatever class the cluster has.
use super::{
    Shared,
    client::INGRESS,
    names::{PORT, namespace, namespace_of},
    object, preflight, rehearse, service,
};
use crate::{kind, labels::key};
use k8s_openapi::api::networking::v1::IngressClass;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
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

/// Would somebody take an Ingress as it is asked for? Where classes may not be looked at, nobody knows.
///
/// # Errors
/// `INGRESS_CLASS_NOT_FOUND`, the API server's.
pub(super) async fn check(c: &Client, k: &v1::Kubernetes) -> Result<(), Failure> {
    let there = preflight::all::<IngressClass>(Api::all(c.clone())).await?;
    there.map_or(Ok(()), |there| taken(&there, k))
}

/// Is the class there, or, without one, one that is the cluster's default
/// (<https://kubernetes.io/docs/concepts/services-networking/ingress/#default-ingress-class>)? Pure.
fn taken(there: &[IngressClass], k: &v1::Kubernetes) -> Result<(), Failure> {
    let is_default = |c: &IngressClass| {
        c.annotations().get("ingressclass.kubernetes.io/is-default-class").is_some_and(|v| v == "true")
    };
    let names = there.iter().map(ResourceExt::name_any).collect::<Vec<_>>();
    let all = names.join(", ");
    let (what, next) = match k.ingress_class.as_str() {
        // how it was said before there were classes
        _ if k.ingress_annotations.contains_key("kubernetes.io/ingress.class") => return Ok(()),
        "" if there.iter().any(is_default) => return Ok(()),
        class if names.iter().any(|n| n == class) => return Ok(()),
        _ if there.is_empty() => (
            "the cluster has no ingress class: nobody would take the name".to_owned(),
            "install an ingress controller, or name a Gateway with --gateway",
        ),
        "" => (
            format!("none of the cluster's ingress classes ({all}) is its default, and none was named"),
            "say which with --ingress-class",
        ),
        class => (
            format!("the cluster has no ingress class '{class}': it has {all}"),
            "name one of those with --ingress-class, or leave it away for the cluster's default",
        ),
    };
    Err(failure(Class::Terminal, "INGRESS_CLASS_NOT_FOUND", what, next))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_nobody_serves_is_refused_by_name() {
        let class = |name: &str, default: &str| -> IngressClass {
            let annotations = json!({ "ingressclass.kubernetes.io/is-default-class": default });
            serde_json::from_value(json!({ "metadata": { "name": name, "annotations": annotations } }))
                .unwrap()
        };
        let said = |there: &[IngressClass], class: &str, old: bool| {
            let annotation = ("kubernetes.io/ingress.class".to_owned(), "nginx".to_owned());
            let ingress_annotations = old.then_some(annotation).into_iter().collect();
            let k = v1::Kubernetes { ingress_class: class.into(), ingress_annotations, ..Default::default() };
            taken(there, &k).err().map(|f| f.message).unwrap_or_default()
        };
        let two = [class("nginx", "false"), class("traefik", "true")];
        assert_eq!([said(&two, "", false), said(&two, "nginx", false)], ["", ""]);
        assert!(said(&two, "haproxy", false).ends_with("no ingress class 'haproxy': it has nginx, traefik"));
        assert!(said(&two[..1], "", false).contains("(nginx) is its default"));
        assert!(said(&[], "", false).contains("nobody would take the name"));
        assert!(said(&[], "nginx", false).contains("nobody would take the name"));
        assert_eq!(said(&[], "", true), "", "by annotation");
    }
}
