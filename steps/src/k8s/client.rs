//! The Kubernetes API with our field manager and words.
use super::patience::{CALL, Patience};
use kube::{
    Api, Client, Config, Error,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;
use tokio::{runtime::Handle, task::JoinHandle, time::Instant};

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
    HTTP_ROUTE = "HTTPRoute" "gateway.networking.k8s.io" "v1" "httproutes" true;
    GATEWAY = "Gateway" "gateway.networking.k8s.io" "v1" "gateways" true;
    DISRUPTION_BUDGET = "PodDisruptionBudget" "policy" "v1" "poddisruptionbudgets" true;
    AUTOSCALER = "HorizontalPodAutoscaler" "autoscaling" "v2" "horizontalpodautoscalers" true;
}

// === impl Kind ===

impl Kind {
    /// `apps/v1`.
    pub fn api_version(self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As kube names it.
    pub fn resource(self) -> ApiResource {
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

/// A client that is on its way, and when it set out: a credential program may ask somebody, or a server that says nothing.
pub(super) struct Coming {
    since: Instant,
    task: JoinHandle<Result<(Client, String), Failure>>,
}

/// Such a program has so long.
const CREDENTIALS: Duration = Duration::from_secs(20);
/// One that hung for so long is let go, and another is started.
const HUNG: Duration = Duration::from_secs(300);

// === impl Coming ===

impl Coming {
    /// A client of one context, and the namespace that the context names. No cluster is called yet.
    pub fn new(files: &[PathBuf], context: &str) -> Self {
        let (files, context, handle) = (files.to_vec(), context.to_owned(), Handle::current());
        // kube runs credential programs where it is called, and waits
        let task = tokio::task::spawn_blocking(move || connect(&files, &context, &handle));
        Self { since: Instant::now(), task }
    }

    /// Did it hang for so long that nobody waits for it any more?
    pub fn hung(&self) -> bool {
        self.since.elapsed() > HUNG
    }

    /// Waits for it, for as long as it has; may be asked again.
    ///
    /// # Errors
    /// `KUBECONFIG` when there is no such context, or it can't be used; `CREDENTIALS`.
    pub async fn come(&mut self) -> Result<Result<(Client, String), Failure>, Failure> {
        let end = self.since + CREDENTIALS;
        match tokio::time::timeout_at(end, &mut self.task).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(e)) => Ok(Err(unusable("the kubeconfig", &e))),
            Err(_) => Err(credentials(&format!(
                "the credential program of the kubeconfig did not end within {} s",
                CREDENTIALS.as_secs()
            ))),
        }
    }
}

/// Without files it is the cluster of [`IN_CLUSTER`]: a token that was rotated is read again by itself.
fn connect(files: &[PathBuf], context: &str, handle: &Handle) -> Result<(Client, String), Failure> {
    let what = format!("context '{context}'");
    let config = if files.is_empty() && context == IN_CLUSTER {
        Config::incluster().map_err(|e| unmounted(&e))?
    } else {
        let options = KubeConfigOptions { context: Some(context.to_owned()), ..Default::default() };
        handle
            .block_on(Config::from_custom_kubeconfig(read(files)?, &options))
            .map_err(|e| unusable(&what, &e))?
    };
    let namespace = config.default_namespace.clone();
    let way = ClientBuilder::try_from(config).map_err(|e| match e {
        Error::Auth(_) => credentials(NO_CREDENTIALS),
        e => unusable(&what, &e),
    })?;
    Ok((way.with_layer(&Patience(CALL)).build(), namespace))
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
        Error::Auth(_) => return credentials(NO_CREDENTIALS),
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

const NO_CREDENTIALS: &str = "the credentials of the kubeconfig can't be had";

fn credentials(what: &str) -> Failure {
    failure(
        Class::Transient,
        "CREDENTIALS",
        what,
        "'kubectl get namespaces' must work as the engine's user; log in to the cluster again",
    )
}

/// What to do where a quota leaves too little.
pub(super) const QUOTA: &str =
    "raise the namespace's ResourceQuota, or ask for less with --cpu, --memory and --replicas";

/// What to do where a LimitRange refused one.
const LIMITS: &str = "the namespace's LimitRange does not allow it: other --cpu and --memory, or other limits (a pod is the app and its gate)";

/// What to do where a quota refused a pod. Pure.
pub(super) fn quota(message: &str) -> &'static str {
    if message.contains("must specify") {
        "say --cpu and --memory, and let the engine list resourcequotas and limitranges (the role files in deploy/kubernetes/): its gate then says its own"
    } else {
        QUOTA
    }
}

/// Why a pod is not made, where its controller asked for it: for ever, or until the cluster tries again by itself. Pure.
pub(super) fn refused_pod(message: &str) -> Failure {
    let f = forbidden(message.to_owned());
    if ["QUOTA_EXCEEDED", "POD_SECURITY", "ADMISSION_DENIED"].contains(&f.reason.as_str()) {
        return f;
    }
    // a webhook that does not answer, an account that is not there yet
    failure(
        Class::Transient,
        "PROVIDER_REFUSED",
        message,
        "the message is the cluster's own: change what it names, and it goes on by itself",
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
    let (reason, hint) = if has(&["denied the request", "denied request"]) {
        // a webhook, a ValidatingAdmissionPolicy: words of their own follow, which may be any
        (
            "ADMISSION_DENIED",
            "a policy of this cluster says no, in its own words: change what it names, or ask who keeps it",
        )
    } else if has(&["exceeded quota", "failed quota"]) {
        ("QUOTA_EXCEEDED", quota(&message))
    } else if has(&["usage per ", "limit to request ratio per "]) {
        ("QUOTA_EXCEEDED", LIMITS)
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
    use std::time::Instant as Clock;

    /// A kubeconfig whose credentials come from a shell script.
    fn kubeconfig(dir: &std::path::Path, script: &str) -> Vec<PathBuf> {
        let file = dir.join("config");
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config",
            "clusters": [{ "name": "c", "cluster": { "server": "http://127.0.0.1:1" } }],
            "users": [{ "name": "u", "user": { "exec": {
                "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
                "command": "/bin/sh", "args": ["-c", script],
            } } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u", "namespace": "n" } }],
        });
        std::fs::write(&file, text.to_string()).unwrap();
        vec![file]
    }

    #[tokio::test]
    async fn a_credential_program_that_hangs_is_met_with_words_and_started_once() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("started");
        // it hangs for as long as this test runs
        let script = format!("echo x >> {0}; while [ -e {0} ]; do sleep 0.1; done", mark.display());
        let mut coming = Coming::new(&kubeconfig(dir.path(), &script), "c");
        let started = async {
            while std::fs::read_to_string(&mark).unwrap_or_default() != "x\n" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), started).await.expect("it is started");
        // as if it had been waited for long enough
        coming.since = Instant::now() - CREDENTIALS + Duration::from_millis(300);
        let began = Clock::now();
        for _ in 0..3 {
            let f = coming.come().await.err().unwrap();
            assert_eq!(f.reason, "CREDENTIALS");
            assert!(f.message.contains("did not end within 20 s"), "{}", f.message);
        }
        assert!(began.elapsed() < CREDENTIALS, "nobody waits once more: {:?}", began.elapsed());
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), "x\n");
        assert!(!coming.hung());
    }

    #[tokio::test]
    async fn a_credential_program_that_is_slow_holds_no_one_else() {
        let dir = tempfile::tempdir().unwrap();
        let said = r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t"}}"#;
        let go = dir.path().join("go");
        // ten seconds, unless somebody goes on meanwhile
        let script = format!(
            "n=0; until [ -e {} ] || [ $n -ge 100 ]; do sleep 0.1; n=$((n+1)); done; echo '{said}'",
            go.display()
        );
        let began = Clock::now();
        let mut coming = Coming::new(&kubeconfig(dir.path(), &script), "c");
        // this test has one thread: it goes on while the program runs
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        std::fs::write(&go, "").unwrap();
        let (_, namespace) = coming.come().await.unwrap().unwrap();
        assert_eq!(namespace, "n");
    }

    #[test]
    fn a_no_has_its_own_reason() {
        let reason = |m: &str| forbidden(m.to_owned()).reason;
        assert_eq!(
            reason("secrets is forbidden: User \"x\" cannot list resource \"secrets\""),
            "RIGHTS_MISSING"
        );
        assert_eq!(reason("pods \"a\" is forbidden: exceeded quota: q"), "QUOTA_EXCEEDED");
        assert_eq!(
            reason("pods \"a\" is forbidden: failed quota: q: must specify limits.cpu"),
            "QUOTA_EXCEEDED"
        );
        assert!(quota("failed quota: q: must specify limits.cpu for: gate").contains("list resourcequotas"));
        assert_eq!(
            reason("unable to create new content in namespace n because it is being terminated"),
            "DELETING"
        );
        assert_eq!(
            reason("pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\""),
            "POD_SECURITY"
        );
        assert_eq!(reason("admission webhook \"w\" denied the request: exceeded quota"), "ADMISSION_DENIED");
        assert_eq!(
            reason(
                "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"
            ),
            "ADMISSION_DENIED"
        );
        assert_eq!(
            reason("pods \"a\" is forbidden: maximum cpu usage per Pod is 1, but limit is 2"),
            "QUOTA_EXCEEDED"
        );
        assert_eq!(reason("whatever else"), "PROVIDER_REFUSED");
    }

    #[test]
    fn a_pod_that_the_cluster_goes_on_to_try_is_waited_for() {
        for m in [
            "Internal error occurred: failed calling webhook \"w\": connection refused",
            "pods \"a\" is forbidden: error looking up service account n/app: serviceaccount \"app\" not found",
        ] {
            let f = refused_pod(m);
            assert_eq!((f.class.as_str(), f.message.as_str()), ("transient", m));
        }
        let f = refused_pod("pods \"a\" is forbidden: exceeded quota: q, requested: pods=1");
        assert_eq!((f.class.as_str(), f.reason.as_str()), ("terminal", "QUOTA_EXCEEDED"));
    }
}
