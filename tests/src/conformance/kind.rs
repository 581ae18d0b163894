//! The cluster that an engine makes for itself with `kind`, here one whose network enforces no NetworkPolicy.
use super::{Bed, pods};
use crate::product::{Engine, sh};
use anyhow::Result;

/// `kind` on this host.
pub struct Kind {
    kubectl: String,
    ingress: bool,
}

// === impl Kind ===

impl Kind {
    /// Where there is one; `ingress`: reached by name.
    pub fn from_env(ingress: bool) -> Option<Self> {
        std::env::var_os("SYP_TEST_KIND")?;
        let kubectl = std::env::var("SYP_K8S_KUBECTL").unwrap_or_else(|_| "kubectl".into());
        Some(Self { kubectl, ingress })
    }

    /// What `kubectl` prints about an engine's cluster.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl(&self, e: &Engine, args: &[&str]) -> Result<String> {
        let config = e.dir().join("kind/kubeconfig").display().to_string();
        let all: Vec<&str> = ["--kubeconfig", &config].into_iter().chain(args.iter().copied()).collect();
        sh(&self.kubectl, &all)
    }

    /// Containers of a store's cluster.
    ///
    /// # Errors
    /// Docker does not answer.
    pub fn nodes(store: &str) -> Result<Vec<String>> {
        let label = format!("label=io.x-k8s.kind.cluster=syp-{store}");
        let out = sh("docker", &["ps", "-a", "--filter", &label, "--format", "{{.Names}}"])?;
        Ok(out.lines().map(str::to_owned).collect())
    }
}

impl Bed for Kind {
    fn on(&self) -> &'static str {
        if self.ingress { "kind-ingress" } else { "kind" }
    }

    fn image(&self) -> &'static str {
        "syp-test/hello:latest"
    }

    fn broken(&self) -> &'static str {
        "syp-test/crash:latest"
    }

    fn args(&self) -> Vec<&'static str> {
        vec!["--port", "8080", "--isolation", "rules"]
    }

    fn left(&self, store: &str) -> Result<Vec<String>> {
        Self::nodes(store)
    }

    fn ways_past_the_gate(&self, e: &Engine, name: &str) -> Result<Vec<String>> {
        pods::ways_past_the_gate(&|args| self.kubectl(e, args), e, name)
    }

    fn way_out(&self, e: &Engine, name: &str) -> Result<bool> {
        pods::way_out(&|args| self.kubectl(e, args), e, name)
    }
}
