//! A real cluster of the kubeconfig (`KUBECONFIG`, its current context), one whose network enforces no NetworkPolicy.
use super::Bed;
use crate::product::{Engine, sh};
use anyhow::{Context, Result, ensure};
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

    /// What `kubectl` prints.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        sh(&self.kubectl, args)
    }

    /// A pod of an instance: its namespace, name and address.
    ///
    /// # Errors
    /// It is not there.
    pub fn pod(&self, e: &Engine, name: &str) -> Result<(String, String, String)> {
        let labels = format!("syp.dev/store={},syp.dev/name={name}", e.store_id()?);
        let all: Value =
            serde_json::from_str(&self.kubectl(&["get", "pods", "-A", "-l", &labels, "-o", "json"])?)?;
        let all = all["items"].as_array().context("pods")?;
        let p = all.iter().find(|p| p["status"]["podIP"].is_string()).context("a pod of it")?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        Ok((text(&p["metadata"]["namespace"]), text(&p["metadata"]["name"]), text(&p["status"]["podIP"])))
    }
}

fn identity(kubectl: &str, name: &str, role: &str) -> Result<tempfile::NamedTempFile> {
    let k = |args: &[&str]| sh(kubectl, args);
    // they may be there
    let _ = k(&["create", "namespace", NAMESPACE]);
    let _ = k(&["create", "serviceaccount", name, "-n", NAMESPACE]);
    let account = format!("--serviceaccount={NAMESPACE}:{name}");
    let _ = k(&["create", "clusterrolebinding", name, &format!("--clusterrole={role}"), &account]);
    let token = k(&["create", "token", name, "-n", NAMESPACE, "--duration=8h"])?;
    let mut config: Value =
        serde_json::from_str(&k(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"])?)?;
    config["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
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
        let kinds = self.kubectl(&["api-resources", "--verbs=list", "-o", "name"])?;
        let kinds =
            kinds.split_whitespace().filter(|k| !k.contains("metrics.k8s.io")).collect::<Vec<_>>().join(",");
        let label = format!("syp.dev/store={store}");
        let found = self.kubectl(&["get", &kinds, "-A", "-l", &label, "-o", "name", "--ignore-not-found"])?;
        Ok(found.lines().map(str::to_owned).collect())
    }

    fn ways_past_the_gate(&self, e: &Engine, name: &str) -> Result<Vec<String>> {
        let (_, _, address) = self.pod(e, name)?;
        // from the node itself, and from a pod elsewhere; the gate's own port shows that the try can succeed
        let pod = format!("syp-test-{}", uuid::Uuid::new_v4().simple());
        let tries = format!(
            "for p in 8080 49149 49151; do /bin/busybox timeout 3 /bin/busybox nc -w 2 {address} $p </dev/null && echo reached $p; done; true"
        );
        let out = self.kubectl(&[
            "run",
            &pod,
            "-n",
            "default",
            "--image",
            self.image(),
            "--image-pull-policy=Never",
            "--restart=Never",
            "--attach",
            "--rm",
            "-q",
            "--command",
            "--",
            "/bin/busybox",
            "sh",
            "-c",
            &tries,
        ])?;
        ensure!(out.contains("reached 49151"), "the neighbour can't even reach the gate: {out}");
        let open = ["8080", "49149"].into_iter().filter(|p| out.contains(&format!("reached {p}")));
        Ok(open.map(|p| format!("from another pod at {p}")).collect())
    }

    fn way_out(&self, e: &Engine, name: &str) -> Result<bool> {
        // the cluster's own API is elsewhere, seen from the app
        let (namespace, pod, _) = self.pod(e, name)?;
        let to = self.kubectl(&[
            "get",
            "service",
            "kubernetes",
            "-n",
            "default",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])?;
        let script = format!("/bin/busybox timeout 3 /bin/busybox nc -w 2 {} 443 </dev/null", to.trim());
        let args = ["exec", "-n", &namespace, &pod, "-c", "app", "--", "/bin/busybox", "sh", "-c", &script];
        Ok(self.kubectl(&args).is_ok())
    }
}
