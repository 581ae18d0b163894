//! A cluster of this machine's own, made with `kind` in its Docker engine when the first instance needs it, shared by all instances of
//! this engine, removed with the last. What is in it is the k8s target's; here is the cluster around it.
mod cluster;
pub(crate) mod examine;
mod health;
mod image;
pub(crate) mod ingress;
pub(crate) mod listing;
mod load;
mod nodes;
mod observed;
mod ports;
pub(crate) mod preflight;
mod program;
mod step;
mod usage;

pub use cluster::Cluster;
pub(crate) use image::{Image, reference};
pub(crate) use observed::Observed;
pub(crate) use ports::Pairs;
pub(crate) use step::ClusterStep;
pub(crate) use usage::usage;

use crate::docker::GateImage;
use bollard::Docker;
use ingress::Authority;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use syp_engine::{
    failure::{Class, failure},
    id::StoreId,
};
use syp_proto::journal::Failure;
use tokio::sync::{Mutex, watch};

/// What kind writes on the containers of a cluster.
const LABEL: &str = "io.x-k8s.kind.cluster";

/// What an engine's cluster is made of.
#[derive(Clone)]
pub struct Options {
    /// `unix:///var/run/docker.sock` or what `DOCKER_HOST` says; empty: the default socket.
    pub docker_host: String,
    /// The static `syp-gate`.
    pub gate_binary: PathBuf,
    /// A folder for the kubeconfig.
    pub dir: PathBuf,
    /// The store, whose id the cluster's name carries.
    pub store: StoreId,
    /// Another image for the nodes than kind's own.
    pub node_image: Option<String>,
    /// Another image for the ingress controller.
    pub ingress_image: Option<String>,
    /// A folder for the authority that signs certificates of local names.
    pub authority: PathBuf,
}

// === impl Cluster ===

impl Cluster {
    /// Nothing is made yet, and nothing is asked.
    ///
    /// # Errors
    /// A Docker host that can't be understood.
    pub fn new(o: Options) -> Result<Self, Failure> {
        Ok(Self {
            name: format!("syp-{}", o.store),
            dir: o.dir,
            node_image: o.node_image,
            ingress_image: o.ingress_image,
            authority: Arc::new(Authority::new(o.authority)),
            docker: crate::docker::connect(&o.docker_host)?,
            gate: GateImage::new(o.gate_binary),
            held: Mutex::new(()),
            made: watch::Sender::new(()),
        })
    }

    /// The context of its kubeconfig.
    pub fn context(&self) -> String {
        format!("kind-{}", self.name)
    }

    /// Its kubeconfig, in a file of its own: the user's is never touched.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    pub(crate) fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    pub(crate) fn docker(&self) -> &Docker {
        &self.docker
    }
}

fn failed_io(path: &Path, e: &std::io::Error) -> Failure {
    failure(
        Class::Transient,
        "PROVIDER_ERROR",
        format!("{}: {e}", path.display()),
        "the engine tries again; its user must be allowed to use the folder, and the disk must have room",
    )
}
