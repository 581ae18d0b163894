//! Everything that can be refused before a cluster is made: the cluster may not be there yet, so it is not asked.
use super::{Cluster, ingress::DOMAIN, program};
use crate::{
    docker::{client::failed, preflight},
    k8s::{Shared, namespace, preflight::fits, pull},
    labels::key,
};
use serde_json::json;
use syp_engine::{
    failure::{Class, failure},
    scaling,
    step::{Owner, Preflight},
};
use syp_proto::{journal::Failure, v1};

fn refuse(what: &str, next: &str) -> Failure {
    failure(Class::Terminal, "NOT_SUPPORTED", what, next)
}

/// The names of an instance: below `localhost`, which is this machine for whoever asks. Pure.
fn named(ingress: bool, name: &str, spec: &mut v1::InstanceSpec) -> Result<(), Failure> {
    if !ingress && !spec.domains.is_empty() {
        return Err(refuse(
            "instances of the target 'kind' are reached at a port of this machine, not by name",
            "leave --domain away, or use --on kind-ingress",
        ));
    }
    let k = spec.kubernetes.clone().unwrap_or_default();
    let asked = [&k.ingress_class, &k.tls_secret, &k.gateway].iter().any(|s| !s.is_empty());
    if asked || !k.ingress_annotations.is_empty() {
        return Err(refuse(
            "the ingress and the certificates on kind are this engine's own",
            "leave --ingress-class, --ingress-annotation, --tls-secret and --gateway away, or use your own cluster with --on k8s:CONTEXT",
        ));
    }
    if !ingress {
        return Ok(());
    }
    if spec.domains.is_empty() {
        spec.domains.push(format!("{name}.{DOMAIN}"));
    }
    let foreign = spec
        .domains
        .iter()
        .find(|d| !d.strip_suffix(DOMAIN).is_some_and(|d| d.len() > 1 && d.ends_with('.')));
    match foreign {
        None => Ok(()),
        Some(d) => Err(failure(
            Class::Terminal,
            "INVALID_ARGUMENT",
            format!("'{d}' does not lead to this machine: the names on kind-ingress end in .{DOMAIN}"),
            format!("--domain {name}.{DOMAIN}"),
        )),
    }
}

/// Looks at kind, Docker, the image and the spec.
pub(crate) async fn check(
    s: &Shared,
    cluster: &Cluster,
    owner: &Owner,
    spec: &v1::InstanceSpec,
) -> Result<Preflight, Failure> {
    let mut spec = spec.clone();
    let asked = spec.kubernetes.clone().unwrap_or_default();
    if !asked.namespace.is_empty() {
        return Err(refuse(
            "an instance on kind has a namespace of its own",
            "leave --namespace away, or use your own cluster with --on k8s:CONTEXT",
        ));
    }
    named(s.ingress, &owner.name, &mut spec)?;
    if scaling::is_elastic(&spec) {
        return Err(failure(
            Class::Terminal,
            "METRICS_MISSING",
            "a cluster of kind has no metrics API: it can't tell how busy a replica is, and would never scale",
            "say one number with --replicas, or use your own cluster with --on k8s:CONTEXT",
        ));
    }
    let d = cluster.docker();
    let host = d.version().await.map_err(|e| failed(&e))?;
    program::version().await?;
    if spec.resources.is_some() {
        let info = d.info().await.map_err(|e| failed(&e))?;
        preflight::within(&spec, info.ncpu.unwrap_or(0), info.mem_total.unwrap_or(0))?;
    }
    let mut facts = preflight::image(d, &spec.image, host.arch.as_deref().unwrap_or_default()).await?;
    if spec.port == 0 {
        spec.port = preflight::only_port(&facts)?;
    }
    fits(&spec)?;
    pull::check(&spec).await?;
    let (_, gate_image) = cluster.gate().await?;
    let more = json!({
        "cluster": cluster.name,
        "namespace": key(owner, namespace::NODE),
        "own_namespace": true,
        "gate_image": gate_image,
        "restricted": false,
        // what has to be pulled is pulled by the node
        "load": facts["pull"].is_null(),
        "doors": s.ingress,
    });
    crate::k8s::object::merge(&mut facts, more);
    let (hourly, lines, facts) = s.tariffs.read().now().price(&spec, &facts);
    Ok(Preflight { facts, spec, hourly, lines })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_its_own_below_localhost() {
        let spec = |domains: &[&str]| v1::InstanceSpec {
            domains: domains.iter().map(|d| (*d).to_owned()).collect(),
            ..Default::default()
        };
        let mut s = spec(&[]);
        named(true, "shop", &mut s).unwrap();
        assert_eq!(s.domains, ["shop.localhost"]);
        assert!(named(true, "shop", &mut spec(&["a.b.localhost"])).is_ok());
        for wrong in ["localhost", ".localhost", "shop.example.com", "xlocalhost"] {
            assert_eq!(
                named(true, "shop", &mut spec(&[wrong])).unwrap_err().reason,
                "INVALID_ARGUMENT",
                "{wrong}"
            );
        }
        assert_eq!(named(false, "shop", &mut spec(&["a.localhost"])).unwrap_err().reason, "NOT_SUPPORTED");
        let mut s = spec(&[]);
        named(false, "shop", &mut s).unwrap();
        assert!(s.domains.is_empty());
    }
}
