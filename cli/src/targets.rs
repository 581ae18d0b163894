//! The targets that come to be known when somebody names them: clusters, and what needs this machine's Docker where that came after the
//! engine.
use crate::clusters::{self, Clusters};
#[cfg(feature = "aws")]
use crate::regions::Regions;
use parking_lot::Mutex;
use std::sync::Arc;
use syp_engine::{step::Target, targets::Resolve};
use syp_proto::{journal::Failure, v1};
use syp_steps::{
    docker::{self, DockerTarget},
    kind::{self, Cluster},
};

/// On this machine's Docker.
const HERE: [&str; 3] = ["docker", "kind", "kind-ingress"];

/// All kinds.
pub struct Named {
    docker: docker::Options,
    kind: kind::Options,
    /// One for both targets in it.
    cluster: Mutex<Option<Arc<Cluster>>>,
    clusters: Clusters,
    #[cfg(feature = "aws")]
    regions: Regions,
}

// === impl Named ===

impl Named {
    /// Of what the targets are made of.
    pub fn new(docker: docker::Options, kind: kind::Options, clusters: Clusters) -> Self {
        #[cfg(feature = "aws")]
        let regions = Regions::new(docker.key.clone());
        Self {
            docker,
            kind,
            cluster: Mutex::default(),
            clusters,
            #[cfg(feature = "aws")]
            regions,
        }
    }

    /// Those that are there at the start. An engine without Docker (a pod, a laptop that only talks to clusters) has none.
    ///
    /// # Errors
    /// A setting of Docker that can't be understood.
    pub fn at_start(&self) -> Result<Vec<Arc<dyn Target>>, Failure> {
        let all: Result<Vec<_>, _> = HERE.iter().map(|name| self.here(name)).collect();
        match all {
            Ok(all) => Ok(all),
            Err(f) if f.reason == "PROVIDER_UNREACHABLE" => {
                tracing::info!("{}; it is looked for again when somebody asks for it", f.message);
                Ok(vec![])
            }
            Err(f) => Err(f),
        }
    }

    fn here(&self, name: &str) -> Result<Arc<dyn Target>, Failure> {
        if name == "docker" {
            return Ok(Arc::new(DockerTarget::new(self.docker.clone())?));
        }
        let mut held = self.cluster.lock();
        let cluster = match &*held {
            Some(cluster) => Arc::clone(cluster),
            None => Arc::clone(held.insert(Arc::new(Cluster::new(self.kind.clone())?))),
        };
        let tariffs = self.docker.tariffs.clone().of_host(self.docker.power.cores());
        Ok(Arc::new(clusters::own(&cluster, &self.docker.key, &tariffs, name == "kind-ingress")))
    }
}

impl Resolve for Named {
    fn resolve(&self, name: &str) -> Result<Option<Arc<dyn Target>>, Failure> {
        if HERE.contains(&name) {
            return self.here(name).map(Some);
        }
        #[cfg(feature = "aws")]
        if let Some(found) = self.regions.resolve(name)? {
            return Ok(Some(found));
        }
        self.clusters.resolve(name)
    }

    fn set_tariff(&self, new: &v1::Tariff) {
        self.clusters.set_tariff(new);
    }

    #[cfg(feature = "aws")]
    fn set_prices(&self, new: &v1::PriceList) {
        self.regions.set_prices(new);
    }
}
