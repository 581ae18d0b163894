//! A real cluster of the kubeconfig (`KUBECONFIG`, its current context), one whose network enforces no NetworkPolicy.
use super::{Bed, pods};
use crate::product::{Engine, pause, sh};
use anyhow::Result;
use serde_json::Value;

/// The cluster, the `kubectl` to look at it from outside, and the kubeconfig of an identity that may do just what
/// `deploy/kubernetes/cluster-role.yaml` says.
pub struct Cluster {
    kubectl: String,
    least: tempfile::NamedTempFile,
}

/// Where the engine's identity is.
const NAMESPACE: &str = "syp-system";
const IDENTITY: &str = "syp-engine";

// === impl Cluster ===

impl Cluster {
    /// The testbed's, if there is one.
    ///
    /// # Errors
    /// The identity can't be made.
    pub fn from_env() -> Result<Option<Self>> {
        if std::env::var_os("SYP_TEST_K8S").is_none() {
            return Ok(None);
        }
        let kubectl = std::env::var("SYP_K8S_KUBECTL").unwrap_or_else(|_| "kubectl".into());
        let role = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/cluster-role.yaml");
        sh(&kubectl, &["apply", "-f", role])?;
        let least = identity(&kubectl, IDENTITY, "syp-engine")?;
        Ok(Some(Self { kubectl, least }))
    }

    /// The kubeconfig of an identity of this name that has just one ClusterRole.
    ///
    /// # Errors
    /// It can't be made.
    pub fn identity(&self, name: &str, role: &str) -> Result<tempfile::NamedTempFile> {
        identity(&self.kubectl, name, role)
    }

    /// The kubeconfig of an identity that may do in one namespace what `deploy/kubernetes/namespace-role.yaml` says, and nothing
    /// anywhere else.
    ///
    /// # Errors
    /// It can't be made.
    pub fn confined(&self, namespace: &str) -> Result<tempfile::NamedTempFile> {
        self.confined_without(namespace, &[])
    }

    /// The same, but for the rules of some resources.
    ///
    /// # Errors
    /// Of `kubectl`.
    pub fn confined_without(&self, namespace: &str, missing: &[&str]) -> Result<tempfile::NamedTempFile> {
        let role = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/namespace-role.yaml");
        let said =
            self.kubectl(&["create", "--dry-run=client", "-o", "json", "-n", namespace, "-f", role])?;
        let mut role: serde_json::Value = serde_json::from_str(&said)?;
        if let Some(rules) = role["rules"].as_array_mut() {
            rules.retain(|r| !missing.iter().any(|m| r["resources"][0] == *m));
        }
        self.apply(&role)?;
        account(&self.kubectl, IDENTITY, namespace)?;
        let who = format!("--serviceaccount={namespace}:{IDENTITY}");
        let _ = sh(
            &self.kubectl,
            &["create", "rolebinding", IDENTITY, "-n", namespace, "--role=syp-engine", &who],
        );
        kubeconfig(&self.kubectl, IDENTITY, namespace)
    }

    /// Makes an object, or makes it so.
    ///
    /// # Errors
    /// Of `kubectl`.
    pub fn apply(&self, object: &serde_json::Value) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), object.to_string())?;
        self.kubectl(&["apply", "-f", &file.path().display().to_string()]).map(drop)
    }

    /// What `kubectl` prints.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        sh(&self.kubectl, args)
    }
}

fn identity(kubectl: &str, name: &str, role: &str) -> Result<tempfile::NamedTempFile> {
    // it may be there
    let _ = sh(kubectl, &["create", "namespace", NAMESPACE]);
    account(kubectl, name, NAMESPACE)?;
    let who = format!("--serviceaccount={NAMESPACE}:{name}");
    let _ = sh(kubectl, &["create", "clusterrolebinding", name, &format!("--clusterrole={role}"), &who]);
    kubeconfig(kubectl, name, NAMESPACE)
}

fn account(kubectl: &str, name: &str, namespace: &str) -> Result<()> {
    let manifest =
        sh(kubectl, &["create", "serviceaccount", name, "-n", namespace, "--dry-run=client", "-o", "yaml"])?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), manifest)?;
    let apply = || sh(kubectl, &["apply", "-f", &file.path().display().to_string()]).map(drop);
    // another suite may have made it in this moment
    apply().or_else(|_| apply())
}

/// The current context with the token of a service account, its namespace in it.
fn kubeconfig(kubectl: &str, name: &str, namespace: &str) -> Result<tempfile::NamedTempFile> {
    let k = |args: &[&str]| sh(kubectl, args);
    let token = k(&["create", "token", name, "-n", namespace, "--duration=8h"])?;
    let mut config: Value =
        serde_json::from_str(&k(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"])?)?;
    config["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
    config["contexts"][0]["context"]["namespace"] = namespace.into();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), config.to_string())?;
    Ok(file)
}

impl Bed for Cluster {
    fn on(&self) -> &'static str {
        "k8s"
    }

    fn image(&self) -> &'static str {
        "syp-test/hello:latest"
    }

    fn broken(&self) -> &'static str {
        "syp-test/crash:latest"
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        vec![("KUBECONFIG", self.least.path().display().to_string())]
    }

    fn args(&self) -> Vec<&'static str> {
        vec!["--port", "8080", "--isolation", "rules"]
    }

    fn left(&self, store: &str) -> Result<Vec<String>> {
        // an API of another suite that comes or goes makes kubectl give up for a second or two
        let mut tries = 0;
        let kinds = loop {
            tries += 1;
            match self.kubectl(&["api-resources", "--verbs=list", "-o", "name"]) {
                Err(e) if tries < 10 && format!("{e:#}").contains("server APIs") => pause(1_000),
                said => break said?,
            }
        };
        let kinds =
            kinds.split_whitespace().filter(|k| !k.contains("metrics.k8s.io")).collect::<Vec<_>>().join(",");
        let label = format!("syp.dev/store={store}");
        let found = self.kubectl(&["get", &kinds, "-A", "-l", &label, "-o", "name", "--ignore-not-found"])?;
        Ok(found.lines().map(str::to_owned).collect())
    }

    fn ways_past_the_gate(&self, e: &Engine, name: &str) -> Result<Vec<String>> {
        pods::ways_past_the_gate(&|args| self.kubectl(args), e, name)
    }

    fn way_out(&self, e: &Engine, name: &str) -> Result<bool> {
        pods::way_out(&|args| self.kubectl(args), e, name)
    }
}
