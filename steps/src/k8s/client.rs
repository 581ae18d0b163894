//! The Kubernetes API with our field manager and words.
use kube::{
    Api, Client, Config, Error,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use std::path::Path;
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// Field manager of everything that we apply.
pub const MANAGER: &str = "syp";

/// A kind of object that we make: its group, version and plural, so that nothing has to be discovered first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `Deployment`.
    pub kind: &'static str,
    /// Empty: core.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `deployments`.
    pub plural: &'static str,
    /// In a namespace.
    pub namespaced: bool,
}

macro_rules! kinds {
    ($($name:ident = $kind:literal $group:literal $version:literal $plural:literal $namespaced:literal;)*) => {
        $(#[doc = concat!("`", $kind, "`.")]
        pub const $name: Kind = Kind { kind: $kind, group: $group, version: $version, plural: $plural, namespaced: $namespaced };)*
    };
}
kinds! {
    NAMESPACE = "Namespace" "" "v1" "namespaces" false;
    SERVICE_ACCOUNT = "ServiceAccount" "" "v1" "serviceaccounts" true;
    SECRET = "Secret" "" "v1" "secrets" true;
    SERVICE = "Service" "" "v1" "services" true;
    POD = "Pod" "" "v1" "pods" true;
    DEPLOYMENT = "Deployment" "apps" "v1" "deployments" true;
    NETWORK_POLICY = "NetworkPolicy" "networking.k8s.io" "v1" "networkpolicies" true;
    INGRESS = "Ingress" "networking.k8s.io" "v1" "ingresses" true;
    DISRUPTION_BUDGET = "PodDisruptionBudget" "policy" "v1" "poddisruptionbudgets" true;
    AUTOSCALER = "HorizontalPodAutoscaler" "autoscaling" "v2" "horizontalpodautoscalers" true;
}

// === impl Kind ===

impl Kind {
    /// `apps/v1`.
    pub fn api_version(self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    fn resource(self) -> ApiResource {
        ApiResource {
            group: self.group.into(),
            version: self.version.into(),
            api_version: self.api_version(),
            kind: self.kind.into(),
            plural: self.plural.into(),
        }
    }

    /// Where objects of it are.
    pub fn api(self, c: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(c.clone(), namespace, &self.resource())
        } else {
            Api::all_with(c.clone(), &self.resource())
        }
    }
}

/// A client of one context. Nothing is called yet.
///
/// # Errors
/// `KUBECONFIG` when there is no such context, or it can't be used.
pub async fn connect(path: Option<&Path>, context: &str) -> Result<(Client, String), Failure> {
    let read = path.map_or_else(Kubeconfig::read, Kubeconfig::read_from);
    let options = KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
    let wrong = |e: &dyn std::fmt::Display| {
        failure(
            Class::Terminal,
            "KUBECONFIG",
            format!("context '{context}' can't be used: {e}"),
            "'kubectl config get-contexts' shows those that are there; KUBECONFIG says which file counts",
        )
    };
    let config = read.map_err(|e| wrong(&e))?;
    let config = Config::from_custom_kubeconfig(config, &options).await.map_err(|e| wrong(&e))?;
    let namespace = config.default_namespace.clone();
    Ok((Client::try_from(config).map_err(|e| wrong(&e))?, namespace))
}

/// The contexts of a kubeconfig, and which one is current.
///
/// # Errors
/// `KUBECONFIG`.
pub fn contexts(path: Option<&Path>) -> Result<(Vec<String>, Option<String>), Failure> {
    let read = path.map_or_else(Kubeconfig::read, Kubeconfig::read_from).map_err(|e| {
        failure(
            Class::Terminal,
            "KUBECONFIG",
            e.to_string(),
            "KUBECONFIG names the file; by default ~/.kube/config",
        )
    })?;
    Ok((read.contexts.into_iter().map(|c| c.name).collect(), read.current_context))
}

/// The status code, when the API server answered at all.
pub fn code(e: &Error) -> Option<u16> {
    match e {
        Error::Api(s) => Some(s.code),
        _ => None,
    }
}

/// `Ok(None)` for 404.
///
/// # Errors
/// Everything else, in our words.
pub fn optional<T>(r: Result<T, Error>) -> Result<Option<T>, Failure> {
    match r {
        Ok(v) => Ok(Some(v)),
        Err(e) if code(&e) == Some(404) => Ok(None),
        Err(e) => Err(failed(&e)),
    }
}

/// An error of the API server as a failure with a reason and a way out.
pub fn failed(e: &Error) -> Failure {
    let Error::Api(s) = e else {
        let auth = matches!(e, Error::Auth(_));
        return failure(
            Class::Transient,
            if auth { "CREDENTIALS" } else { "PROVIDER_UNREACHABLE" },
            format!("the cluster can't be reached: {}", chain(e)),
            if auth {
                "log in to the cluster again; 'kubectl get ns' must work"
            } else {
                "'kubectl cluster-info' must work; the engine tries again by itself"
            },
        );
    };
    let message = s.message.clone();
    match s.code {
        401 => failure(
            Class::Transient,
            "CREDENTIALS",
            format!("the cluster does not accept the credentials: {message}"),
            "log in to the cluster again; the engine goes on by itself",
        ),
        403 if message.contains("exceeded quota") => failure(
            Class::Terminal,
            "QUOTA_EXCEEDED",
            message,
            "raise the namespace's ResourceQuota, or ask for less with --cpu, --memory and --replicas",
        ),
        403 => failure(
            Class::Terminal,
            "RIGHTS_MISSING",
            message,
            "give the engine's identity that right; 'sypctl sweep' and the role files in deploy/ name all that are needed",
        ),
        404 => failure(Class::Transient, "NOT_FOUND", message, ""),
        409 => failure(Class::Conflict, "PROVIDER_BUSY", message, "the engine looks again by itself"),
        422 | 400 => failure(
            Class::Terminal,
            "PROVIDER_REFUSED",
            message,
            "the message is the API server's own: change what it names, then try again",
        ),
        429 => failure(Class::Throttled, "PROVIDER_THROTTLED", message, "the engine slows down by itself"),
        _ => failure(
            Class::Transient,
            "PROVIDER_ERROR",
            message,
            "the engine tries again by itself; 'kubectl get --raw /readyz' shows how the API server is",
        ),
    }
}

/// An error with what caused it: the outer ones often say nothing.
fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut at = e.source();
    while let Some(cause) = at {
        let words = cause.to_string();
        if !out.contains(&words) {
            out.push_str(": ");
            out.push_str(&words);
        }
        at = cause.source();
    }
    out
}

/// Server-side apply: what we say is ours, whatever others said about it.
///
/// # Errors
/// The API server's.
pub async fn apply(
    c: &Client,
    kind: Kind,
    namespace: &str,
    object: &Value,
) -> Result<DynamicObject, Failure> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let how = PatchParams::apply(MANAGER).force();
    kind.api(c, namespace).patch(name, &how, &Patch::Apply(object)).await.map_err(|e| failed(&e))
}
