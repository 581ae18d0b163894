//! The Kubernetes API with our field manager and words.
use kube::{
    Api, Client, Config, Error,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use std::{path::PathBuf, time::SystemTime};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// Field manager of everything that we apply.
pub const MANAGER: &str = "syp";
/// The context of no file: the cluster whose pod the engine is, with the pod's service account.
pub const IN_CLUSTER: &str = "in-cluster";

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

/// The files as one kubeconfig, as `kubectl` reads them: what is said first counts, a file that is not there says nothing.
fn read(files: &[PathBuf]) -> Result<Kubeconfig, Failure> {
    let mut out: Option<Kubeconfig> = None;
    for file in files.iter().filter(|f| f.exists()) {
        let more = Kubeconfig::read_from(file);
        let both = more.and_then(|more| match out.take() {
            Some(held) => held.merge(more),
            None => Ok(more),
        });
        out = Some(both.map_err(|e| unusable(&file.display().to_string(), &e))?);
    }
    out.ok_or_else(|| {
        let named: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
        unusable(&named.join(":"), &"there is no such file")
    })
}

fn unusable(what: &str, e: &dyn std::fmt::Display) -> Failure {
    failure(
        // it may be written in this moment, and comes back when somebody logs in again
        Class::Transient,
        "KUBECONFIG",
        format!("{what} can't be used: {e}"),
        "'kubectl config get-contexts' shows what is there; KUBECONFIG in the engine's environment says which file counts",
    )
}

fn unmounted(e: &dyn std::error::Error) -> Failure {
    failure(
        Class::Transient,
        "KUBECONFIG",
        format!("the service account of the engine's pod can't be used: {}", chain(e)),
        "its pod needs a serviceAccountName and must not have automountServiceAccountToken: false",
    )
}

/// When the files were written last: credentials are exchanged by writing them.
pub(super) fn written(files: &[PathBuf]) -> Option<SystemTime> {
    files.iter().filter_map(|f| std::fs::metadata(f).ok()?.modified().ok()).max()
}

/// A client of one context, and the namespace that the context names. Nothing is called yet. Without files it is that of
/// [`IN_CLUSTER`]: a token that was rotated is read again by itself.
///
/// # Errors
/// `KUBECONFIG` when there is no such context, or it can't be used.
pub async fn connect(files: &[PathBuf], context: &str) -> Result<(Client, String), Failure> {
    let what = format!("context '{context}'");
    let config = if files.is_empty() && context == IN_CLUSTER {
        Config::incluster().map_err(|e| unmounted(&e))?
    } else {
        let options = KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
        Config::from_custom_kubeconfig(read(files)?, &options).await.map_err(|e| unusable(&what, &e))?
    };
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|e| match e {
        Error::Auth(_) => credentials(),
        e => unusable(&what, &e),
    })?;
    Ok((client, namespace))
}

/// The contexts of a kubeconfig, and which one is current.
///
/// # Errors
/// `KUBECONFIG`.
pub fn contexts(files: &[PathBuf]) -> Result<(Vec<String>, Option<String>), Failure> {
    let read = read(files)?;
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
    let s = match e {
        Error::Api(s) => s,
        // its words hold the whole command of a credential program, variables and output included
        Error::Auth(_) => return credentials(),
        e => {
            return failure(
                Class::Transient,
                "PROVIDER_UNREACHABLE",
                format!("the cluster can't be reached: {}", chain(e)),
                "'kubectl cluster-info' must work; the engine tries again by itself",
            );
        }
    };
    let message = s.message.clone();
    match s.code {
        401 => failure(
            Class::Transient,
            "CREDENTIALS",
            format!("the cluster does not accept the credentials: {message}"),
            "log in to the cluster again; the engine goes on by itself",
        ),
        403 => forbidden(message),
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

fn credentials() -> Failure {
    failure(
        Class::Transient,
        "CREDENTIALS",
        "the credentials of the kubeconfig can't be had",
        "'kubectl get namespaces' must work as the engine's user; log in to the cluster again",
    )
}

/// The API server says no for more than one reason. Pure.
fn forbidden(message: String) -> Failure {
    let has = |words: &[&str]| words.iter().any(|w| message.contains(w));
    if has(&["being terminated"]) {
        return failure(
            Class::Conflict,
            "DELETING",
            message,
            "the engine waits until it is gone, and goes on",
        );
    }
    let (reason, hint) = if has(&["exceeded quota", "failed quota"]) {
        (
            "QUOTA_EXCEEDED",
            "raise the namespace's ResourceQuota, or ask for less with --cpu, --memory and --replicas",
        )
    } else if has(&["PodSecurity"]) {
        (
            "POD_SECURITY",
            "the namespace's Pod Security level does not allow it: use another namespace, or without --isolation rules",
        )
    } else if has(&["cannot "]) {
        (
            "RIGHTS_MISSING",
            "give the engine's identity that right; the role files in deploy/kubernetes/ hold all that are needed",
        )
    } else {
        ("PROVIDER_REFUSED", "the message is the API server's own: change what it names, then try again")
    };
    failure(Class::Terminal, reason, message, hint)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_has_its_own_reason() {
        let reason = |m: &str| forbidden(m.to_owned()).reason;
        assert_eq!(
            reason("secrets is forbidden: User \"x\" cannot list resource \"secrets\""),
            "RIGHTS_MISSING"
        );
        assert_eq!(reason("pods \"a\" is forbidden: exceeded quota: q"), "QUOTA_EXCEEDED");
        assert_eq!(
            reason("unable to create new content in namespace n because it is being terminated"),
            "DELETING"
        );
        assert_eq!(
            reason("pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\""),
            "POD_SECURITY"
        );
        assert_eq!(reason("admission webhook \"w\" denied the request"), "PROVIDER_REFUSED");
    }
}
