//! Traefik as the ingress controller of the cluster: it lives as long as the cluster, and looks at Ingress objects of our class alone.
use super::{CLASS, Doors};
use crate::{
    k8s::client::{MANAGER, failed},
    kind::{Cluster, load::REGISTRY, ports},
};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::time::Duration;
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// Where it is.
const NAMESPACE: &str = "syp-ingress";
const NAME: &str = "traefik";
/// The release that is pulled when nobody has said another.
pub const IMAGE: &str = "docker.io/library/traefik:v3.6.12";
/// It is ready within this, its pull included.
const READY: Duration = Duration::from_secs(300);

/// Everything that it is made of, in the order in which it is applied: group, version, kind, plural, namespaced.
fn objects(image: &str, doors: Doors) -> Vec<(ApiResource, bool, Value)> {
    let r = |group: &str, version: &str, kind: &str, plural: &str| ApiResource {
        group: group.into(),
        version: version.into(),
        api_version: if group.is_empty() { version.into() } else { format!("{group}/{version}") },
        kind: kind.into(),
        plural: plural.into(),
    };
    let labels = json!({ "app.kubernetes.io/name": NAME, "app.kubernetes.io/managed-by": "sypctl" });
    let meta = |name: &str| json!({ "name": name, "labels": labels });
    let look = json!(["get", "list", "watch"]);
    let rules = json!([
        { "apiGroups": [""], "resources": ["services", "secrets", "nodes", "pods", "endpoints", "configmaps", "namespaces"], "verbs": look },
        { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": look },
        { "apiGroups": ["networking.k8s.io"], "resources": ["ingresses", "ingressclasses"], "verbs": look },
        { "apiGroups": ["networking.k8s.io"], "resources": ["ingresses/status"], "verbs": ["update"] },
    ]);
    let args = json!([
        "--entrypoints.web.address=:8000",
        format!("--entrypoints.web.http.redirections.entrypoint.to=:{}", doors.https),
        "--entrypoints.web.http.redirections.entrypoint.scheme=https",
        "--entrypoints.websecure.address=:8443",
        "--entrypoints.websecure.http.tls=true",
        // a call that was let in may take as long as it needs, as at a gate of any other target
        "--entrypoints.websecure.transport.respondingtimeouts.readtimeout=0",
        "--providers.kubernetesingress",
        format!("--providers.kubernetesingress.ingressclass={CLASS}"),
        "--ping",
        "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
    ]);
    let container = json!({
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": args,
        "ports": [{ "name": "web", "containerPort": 8000 }, { "name": "websecure", "containerPort": 8443 }],
        "readinessProbe": { "httpGet": { "path": "/ping", "port": 8080 }, "periodSeconds": 1 },
        "resources": { "requests": { "cpu": "20m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } },
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65_532, "runAsGroup": 65_532, "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    let select = json!({ "app.kubernetes.io/name": NAME });
    vec![
        (r("", "v1", "Namespace", "namespaces"), false, json!({ "metadata": meta(NAMESPACE) })),
        (r("", "v1", "ServiceAccount", "serviceaccounts"), true, json!({ "metadata": meta(NAME) })),
        (
            r("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles"),
            false,
            json!({ "metadata": meta("syp-ingress"), "rules": rules }),
        ),
        (
            r("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings"),
            false,
            json!({
                "metadata": meta("syp-ingress"),
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "syp-ingress" },
                "subjects": [{ "kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE }],
            }),
        ),
        (
            r("networking.k8s.io", "v1", "IngressClass", "ingressclasses"),
            false,
            json!({ "metadata": meta(CLASS), "spec": { "controller": "traefik.io/ingress-controller" } }),
        ),
        (
            r("", "v1", "Service", "services"),
            true,
            json!({ "metadata": meta(NAME), "spec": { "type": "NodePort", "selector": select, "ports": [
                { "name": "web", "port": 80, "targetPort": "web", "nodePort": ports::HTTP },
                { "name": "websecure", "port": 443, "targetPort": "websecure", "nodePort": ports::HTTPS },
            ] } }),
        ),
        (
            r("apps", "v1", "Deployment", "deployments"),
            true,
            json!({ "metadata": meta(NAME), "spec": {
                "replicas": 1,
                "selector": { "matchLabels": select },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "serviceAccountName": NAME, "containers": [container] },
                },
            } }),
        ),
    ]
}

// === impl Cluster ===

impl Cluster {
    /// Makes the controller, and waits until it is ready. The caller holds the cluster.
    pub(crate) async fn controller(
        &self,
        c: &Client,
        doors: Doors,
        say: &impl Fn(&str),
    ) -> Result<(), Failure> {
        let image = self.controller_image(say).await?;
        let how = PatchParams::apply(MANAGER).force();
        for (r, namespaced, mut o) in objects(&image, doors) {
            o["apiVersion"] = r.api_version.clone().into();
            o["kind"] = r.kind.clone().into();
            let name = o["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let api: Api<DynamicObject> = if namespaced {
                Api::namespaced_with(c.clone(), NAMESPACE, &r)
            } else {
                Api::all_with(c.clone(), &r)
            };
            api.patch(&name, &how, &Patch::Apply(&o)).await.map_err(|e| failed(&e))?;
        }
        self.controller_ready(c, &image, say).await
    }

    /// What the Docker engine has is loaded, all else the node pulls.
    async fn controller_image(&self, say: &impl Fn(&str)) -> Result<String, Failure> {
        let wanted = self.ingress_image.as_deref().unwrap_or(IMAGE);
        let here = crate::docker::client::optional(self.docker.inspect_image(wanted).await)?;
        let Some(id) = here.and_then(|i| i.id) else { return Ok(wanted.to_owned()) };
        let short: String = id.trim_start_matches("sha256:").chars().take(12).collect();
        let name = format!("{REGISTRY}/ingress:{short}");
        if !self.has(&name).await? {
            say("loading the ingress controller's image");
            self.load(&id, &name).await?;
        }
        Ok(name)
    }

    async fn controller_ready(&self, c: &Client, image: &str, say: &impl Fn(&str)) -> Result<(), Failure> {
        let api: Api<k8s_openapi::api::apps::v1::Deployment> = Api::namespaced(c.clone(), NAMESPACE);
        let end = tokio::time::Instant::now() + READY;
        loop {
            let d = api.get(NAME).await.map_err(|e| failed(&e))?;
            let seen = d.status.as_ref().and_then(|s| s.observed_generation) == d.metadata.generation;
            let ready = d.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0) > 0;
            if seen && ready {
                return Ok(());
            }
            if tokio::time::Instant::now() >= end {
                return Err(failure(
                    Class::Transient,
                    "INGRESS_NOT_READY",
                    format!("the ingress controller ({image}) is not ready after {} s", READY.as_secs()),
                    "its node must be able to pull that image, or Docker must have it; SYP_KIND_INGRESS_IMAGE of the engine names another",
                ));
            }
            say("waiting for the ingress controller");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}
