//! The clusters of the user's kubeconfig as targets: each becomes one when somebody names it. An engine that is a pod knows its own
//! cluster by its service account.
use parking_lot::RwLock;
use secrecy::SecretSlice;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use syp_engine::{
    clock::Clock,
    failure::{Class, failure},
    step::Target,
    targets::Resolve,
};
use syp_proto::{journal::Failure, v1};
use syp_steps::{
    k8s::{
        self, K8sTarget,
        client::{IN_CLUSTER, contexts},
    },
    kind::Cluster,
    prices::{
        local::{Tariff, Tariffs},
        nodes::Prices,
    },
};

/// What every cluster's target is made of.
pub struct Clusters {
    kubeconfig: Vec<PathBuf>,
    /// The engine is a pod, has a service account, and was told no kubeconfig.
    in_cluster: bool,
    gate_image: Option<String>,
    key: SecretSlice<u8>,
    /// All that were ever set, oldest first: a cluster that comes to be known later has them too.
    set: RwLock<Vec<v1::Tariff>>,
    /// What energy costs when nobody has said so.
    first: Tariff,
}

/// Where a pod finds who it is.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

// === impl Clusters ===

impl Clusters {
    /// As the engine's environment says: `KUBECONFIG`, `SYP_GATE_IMAGE`.
    pub fn new(key: SecretSlice<u8>, set: Vec<v1::Tariff>, first: Tariff) -> Self {
        let gate_image = std::env::var("SYP_GATE_IMAGE").ok().filter(|i| !i.is_empty());
        let named = std::env::var_os("KUBECONFIG").filter(|k| !k.is_empty());
        // a file that was named counts, there or not
        let in_cluster = named.is_none() && Path::new(SERVICE_ACCOUNT).exists();
        let kubeconfig = named.map_or_else(
            || std::env::home_dir().into_iter().map(|h| h.join(".kube/config")).collect(),
            |k| std::env::split_paths(&k).collect(),
        );
        Self { kubeconfig, in_cluster, gate_image, key, set: RwLock::new(set), first }
    }

    /// The contexts of the files, and the current one. Without a file, a pod has its own cluster.
    fn contexts(&self, files: &[PathBuf]) -> Result<(Vec<String>, Option<String>), Failure> {
        if files.is_empty() && self.in_cluster {
            return Ok((vec![IN_CLUSTER.into()], Some(IN_CLUSTER.into())));
        }
        contexts(files)
    }

    /// None in a pod that was given none.
    fn files(&self) -> Vec<PathBuf> {
        let none = self.in_cluster && !self.kubeconfig.iter().any(|f| f.exists());
        if none { vec![] } else { self.kubeconfig.clone() }
    }
}

impl Resolve for Clusters {
    fn resolve(&self, name: &str) -> Result<Option<Arc<dyn Target>>, Failure> {
        let asked = match name.split_once(':') {
            Some(("k8s", context)) => Some(context),
            None if name == "k8s" => None,
            _ => return Ok(None),
        };
        let kubeconfig = self.files();
        let (all, current) = self.contexts(&kubeconfig)?;
        let context = asked.map(str::to_owned).or(current).filter(|c| all.contains(c)).ok_or_else(|| {
            let what = asked.map_or_else(|| "no context is current".to_owned(), |c| format!("there is no context '{c}'"));
            let known = if all.is_empty() { "it has none".to_owned() } else { format!("it has {}", all.join(", ")) };
            failure(
                Class::Terminal,
                "KUBECONFIG",
                format!("{what} in the engine's kubeconfig; {known}"),
                "KUBECONFIG in the engine's environment says which file counts; a local engine takes it when it starts: 'sypctl server stop'",
            )
        })?;
        let set = self.set.read();
        Ok(Some(Arc::new(K8sTarget::new(k8s::Options {
            kubeconfig,
            prices: Prices::new(&set, &format!("k8s:{context}")),
            tariffs: Tariffs::new(&set, self.first.clone()),
            context,
            gate_image: self.gate_image.clone(),
            key: self.key.clone(),
            clock: Clock::System,
            kind: None,
            ingress: false,
        }))))
    }

    fn set_tariff(&self, new: &v1::Tariff) {
        self.set.write().push(new.clone());
    }
}

/// The cluster of this engine's own as a target: by a port of this machine, or (`ingress`) by name.
pub fn own(cluster: &Arc<Cluster>, key: &SecretSlice<u8>, tariffs: &Tariffs, ingress: bool) -> K8sTarget {
    K8sTarget::new(k8s::Options {
        kubeconfig: vec![cluster.kubeconfig()],
        context: cluster.context(),
        gate_image: None,
        key: key.clone(),
        tariffs: tariffs.clone(),
        prices: Prices::new(&[], ""),
        clock: Clock::System,
        kind: Some(Arc::clone(cluster)),
        ingress,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_without_a_kubeconfig_knows_its_own_cluster_and_nobody_else_does() {
        let given = tempfile::tempdir().unwrap();
        let file = given.path().join("config");
        let of = |in_cluster| Clusters {
            kubeconfig: vec![file.clone()],
            in_cluster,
            gate_image: None,
            key: vec![0; 32].into(),
            set: RwLock::default(),
            first: Tariff::default(),
        };
        let name = |c: &Clusters, n: &str| c.resolve(n).map(|t| t.map(|t| t.name().to_owned()));
        let pod = of(true);
        assert_eq!(name(&pod, "k8s").unwrap().as_deref(), Some("k8s:in-cluster"));
        assert_eq!(name(&pod, "k8s:in-cluster").unwrap().as_deref(), Some("k8s:in-cluster"));
        let other = name(&pod, "k8s:kind-a").unwrap_err();
        assert!(other.message.contains("it has in-cluster"), "{}", other.message);
        assert!(of(false).resolve("k8s").is_err());
        // a kubeconfig that it was given counts
        std::fs::write(&file, "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n").unwrap();
        assert_eq!(name(&pod, "k8s").unwrap().as_deref(), Some("k8s:a"));
        assert!(pod.resolve("k8s:in-cluster").is_err());
    }
}
