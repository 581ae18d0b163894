//! The clusters of the user's kubeconfig as targets: each becomes one when somebody names it.
use parking_lot::RwLock;
use secrecy::SecretSlice;
use std::{path::PathBuf, sync::Arc};
use syp_engine::{
    clock::Clock,
    failure::{Class, failure},
    step::Target,
    targets::Resolve,
};
use syp_proto::{journal::Failure, v1};
use syp_steps::{
    k8s::{self, K8sTarget, client::contexts},
    prices::{
        local::{Tariff, Tariffs},
        nodes::Prices,
    },
};

/// What every cluster's target is made of.
pub struct Clusters {
    kubeconfig: Vec<PathBuf>,
    gate_image: Option<String>,
    key: SecretSlice<u8>,
    /// All that were ever set, oldest first: a cluster that comes to be known later has them too.
    set: RwLock<Vec<v1::Tariff>>,
    /// What energy costs when nobody has said so.
    first: Tariff,
}

// === impl Clusters ===

impl Clusters {
    /// As the engine's environment says: `KUBECONFIG`, `SYP_GATE_IMAGE`.
    pub fn new(key: SecretSlice<u8>, set: Vec<v1::Tariff>, first: Tariff) -> Self {
        let gate_image = std::env::var("SYP_GATE_IMAGE").ok().filter(|i| !i.is_empty());
        let named = std::env::var_os("KUBECONFIG").filter(|k| !k.is_empty());
        let kubeconfig = named.map_or_else(
            || std::env::home_dir().into_iter().map(|h| h.join(".kube/config")).collect(),
            |k| std::env::split_paths(&k).collect(),
        );
        Self { kubeconfig, gate_image, key, set: RwLock::new(set), first }
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
        let set = self.set.read();
        Ok(Some(Arc::new(K8sTarget::new(k8s::Options {
            kubeconfig: self.kubeconfig.clone(),
            prices: Prices::new(&set, &format!("k8s:{context}")),
            tariffs: Tariffs::new(&set, self.first.clone()),
            context,
            gate_image: self.gate_image.clone(),
            key: self.key.clone(),
            clock: Clock::System,
        }))))
    }

    fn set_tariff(&self, new: &v1::Tariff) {
        self.set.write().push(new.clone());
    }
}
