//! The clusters of the user's kubeconfig as targets: each becomes one when somebody names it.
use secrecy::SecretSlice;
use std::{path::PathBuf, sync::Arc};
use syp_engine::{
    clock::Clock,
    failure::{Class, failure},
    step::Target,
    targets::Resolve,
};
use syp_proto::journal::Failure;
use syp_steps::{
    k8s::{self, K8sTarget, client::contexts},
    kind::{self, Cluster},
    prices::local::Tariffs,
};

/// What every cluster's target is made of.
pub struct Clusters {
    kubeconfig: Vec<PathBuf>,
    gate_image: Option<String>,
    key: SecretSlice<u8>,
    tariffs: Tariffs,
}

// === impl Clusters ===

impl Clusters {
    /// As the engine's environment says: `KUBECONFIG`, `SYP_GATE_IMAGE`.
    pub fn new(key: SecretSlice<u8>, tariffs: Tariffs) -> Self {
        let gate_image = std::env::var("SYP_GATE_IMAGE").ok().filter(|i| !i.is_empty());
        let named = std::env::var_os("KUBECONFIG").filter(|k| !k.is_empty());
        let kubeconfig = named.map_or_else(
            || std::env::home_dir().into_iter().map(|h| h.join(".kube/config")).collect(),
            |k| std::env::split_paths(&k).collect(),
        );
        Self { kubeconfig, gate_image, key, tariffs }
    }
}

impl Resolve for Clusters {
    fn resolve(&self, name: &str) -> Result<Option<Arc<dyn Target>>, Failure> {
        let asked = match name.split_once(':') {
            Some(("k8s", context)) => Some(context),
            None if name == "k8s" => None,
            _ => return Ok(None),
        };
        let (all, current) = contexts(&self.kubeconfig)?;
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
        Ok(Some(Arc::new(K8sTarget::new(k8s::Options {
            kubeconfig: self.kubeconfig.clone(),
            context,
            gate_image: self.gate_image.clone(),
            key: self.key.clone(),
            tariffs: self.tariffs.clone(),
            clock: Clock::System,
            kind: None,
            ingress: false,
        }))))
    }
}

/// The cluster of this engine's own, made with `kind` when an instance needs it, as two targets: by a port of this machine, and by
/// name through an ingress.
///
/// # Errors
/// A Docker host that can't be understood.
pub fn own(o: kind::Options, key: &SecretSlice<u8>, tariffs: &Tariffs) -> Result<[K8sTarget; 2], Failure> {
    let cluster = Arc::new(Cluster::new(o)?);
    let target = |ingress| {
        K8sTarget::new(k8s::Options {
            kubeconfig: vec![cluster.kubeconfig()],
            context: cluster.context(),
            gate_image: None,
            key: key.clone(),
            tariffs: tariffs.clone(),
            clock: Clock::System,
            kind: Some(Arc::clone(&cluster)),
            ingress,
        })
    };
    Ok([target(false), target(true)])
}
