//! The targets that come to be known when somebody names them: clusters, and this machine's Docker where it came after the engine.
use crate::clusters::Clusters;
use std::sync::Arc;
use syp_engine::{step::Target, targets::Resolve};
use syp_proto::journal::Failure;
use syp_steps::docker::{self, DockerTarget};

/// Both kinds.
pub struct Named {
    /// What the docker target is made of.
    pub docker: docker::Options,
    /// Clusters.
    pub clusters: Clusters,
}

// === impl Named ===

impl Named {
    /// Those that are there at the start. An engine without Docker (a pod, a laptop that only talks to clusters) has none.
    ///
    /// # Errors
    /// A setting of Docker that can't be understood.
    pub fn at_start(&self) -> Result<Vec<Arc<dyn Target>>, Failure> {
        match DockerTarget::new(self.docker.clone()) {
            Ok(docker) => Ok(vec![Arc::new(docker)]),
            Err(f) if f.reason == "PROVIDER_UNREACHABLE" => {
                tracing::info!("{}; it is looked for again when somebody asks for it", f.message);
                Ok(vec![])
            }
            Err(f) => Err(f),
        }
    }
}

impl Resolve for Named {
    fn resolve(&self, name: &str) -> Result<Option<Arc<dyn Target>>, Failure> {
        if name == "docker" {
            return Ok(Some(Arc::new(DockerTarget::new(self.docker.clone())?)));
        }
        self.clusters.resolve(name)
    }
}
