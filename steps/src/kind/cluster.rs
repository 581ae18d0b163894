//! The cluster's life: made for the first instance, started when the machine was, removed with the last.
use super::{
    failed_io,
    ingress::{Authority, Doors},
    load::REGISTRY,
    nodes::{COMPLETE, Look, gone},
    ports::{self, Pairs},
};
use crate::{docker::GateImage, labels::STORE};
use bollard::{Docker, query_parameters::ListContainersOptions};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, api::ListParams};
use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;
use tokio::sync::{Mutex, MutexGuard, watch};

/// kind waits so long for the node to be ready; the pull of its image is not in it.
const READY: &str = "120s";
/// An API server that was started a moment ago answers within this.
const ANSWERS: Duration = Duration::from_secs(90);
/// The network that kind puts all its clusters into.
const NETWORK: &str = "kind";
/// Says that there was no such network before us.
const OUR_NETWORK: &str = "network";

/// The cluster of an engine.
pub struct Cluster {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) node_image: Option<String>,
    pub(super) ingress_image: Option<String>,
    pub(super) authority: Arc<Authority>,
    pub(super) docker: Docker,
    pub(super) gate: GateImage,
    /// Who makes it, removes it, enters it, or looks whether anybody is in it.
    pub(super) held: Mutex<()>,
    /// Told whenever it is there now.
    pub(super) made: watch::Sender<()>,
}

// === impl Cluster ===

impl Cluster {
    /// Nobody else makes it, removes it or enters it meanwhile.
    pub(super) async fn hold(&self) -> MutexGuard<'_, ()> {
        self.held.lock().await
    }

    /// The gate's image here and what it is called in the nodes.
    pub(super) async fn gate(&self) -> Result<(String, String), Failure> {
        let here = self.gate.ensure(&self.docker).await?;
        let there = format!("{REGISTRY}/{here}");
        Ok((here, there))
    }

    /// Makes it, or what is missing of it. The caller holds it.
    pub(super) async fn ensure(
        &self,
        ingress: bool,
        say: &impl Fn(&str),
    ) -> Result<(Pairs, Option<Doors>), Failure> {
        let mut look = self.look().await?;
        if look == Look::Stopped {
            say("starting its nodes");
            self.start().await?;
            // one that was never whole says so only when it runs
            look = self.look().await?;
        }
        if matches!(look, Look::Half | Look::Absent) {
            say("making it");
            let program = self.alone().await?;
            // whoever worked on it has come to an end meanwhile
            look = self.look().await?;
            if look == Look::Half {
                say("removing what is half made");
                self.kind(&program, &["delete", "cluster"], |_| {}).await?;
            }
            if matches!(look, Look::Half | Look::Absent) {
                self.create(&program, ingress, say).await?;
            }
        }
        if !self.kubeconfig().exists() {
            let program = self.alone().await?;
            self.kind(&program, &["export", "kubeconfig"], |_| {}).await?;
        }
        let (here, there) = self.gate().await?;
        if !self.has(&there).await? {
            say("loading the gate's image");
            self.load(&here, &there).await?;
        }
        self.made.send_replace(());
        Ok(ports::split(ports::of(&self.control_plane().await?)))
    }

    async fn create(
        &self,
        program: &std::fs::File,
        ingress: bool,
        say: &impl Fn(&str),
    ) -> Result<(), Failure> {
        let ours = self.dir.join(OUR_NETWORK);
        if crate::docker::client::optional(self.docker.inspect_network(NETWORK, None).await)?.is_none() {
            tokio::fs::write(&ours, b"").await.map_err(|e| failed_io(&ours, &e))?;
        }
        let config = self.dir.join("cluster.yaml");
        let before = tokio::fs::read(&config).await.unwrap_or_default();
        let pairs = ports::again(&before).unwrap_or_else(|| ports::choose(&self.name, ingress));
        let said = ports::config(&self.name, self.node_image.as_deref(), &pairs);
        tokio::fs::write(&config, said.to_string()).await.map_err(|e| failed_io(&config, &e))?;
        let path = config.display().to_string();
        self.kind(program, &["create", "cluster", "--config", &path, "--wait", READY], say).await?;
        self.mark().await
    }

    /// Waits until its API answers.
    pub(super) async fn answers(&self, c: &Client) -> Result<(), Failure> {
        let end = tokio::time::Instant::now() + ANSWERS;
        loop {
            match c.apiserver_version().await {
                Ok(_) => return Ok(()),
                Err(e) if tokio::time::Instant::now() >= end => return Err(crate::k8s::client::failed(&e)),
                Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
            }
        }
    }

    /// Namespaces of this store's instances in it: who still needs it.
    pub(super) async fn inside(&self, c: &Client, store: &str) -> Result<Vec<String>, Failure> {
        let how = ListParams::default().labels(&format!("{STORE}={store}"));
        let all =
            Api::<Namespace>::all(c.clone()).list(&how).await.map_err(|e| crate::k8s::client::failed(&e))?;
        Ok(all.items.into_iter().filter_map(|n| n.metadata.name).collect())
    }

    /// Removes it with all that is in it. The caller holds it.
    pub(super) async fn delete(&self) -> Result<(), Failure> {
        let program = self.alone().await?;
        self.kind(&program, &["delete", "cluster"], |_| {}).await?;
        if let Some(left) = self.nodes().await?.first() {
            return Err(failure(
                Class::Transient,
                "CLUSTER_FAILED",
                format!("'kind delete cluster' left the container {}", super::nodes::name(left)),
                format!(
                    "the engine tries again; 'docker ps -a --filter label={}={}' shows it",
                    super::LABEL,
                    self.name
                ),
            ));
        }
        self.remove_network().await?;
        for file in ["kubeconfig", "cluster.yaml", COMPLETE, OUR_NETWORK] {
            let path = self.dir.join(file);
            match tokio::fs::remove_file(&path).await {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed_io(&path, &e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// kind's network, when there was none before us and nobody is in it, not even a stopped container.
    async fn remove_network(&self) -> Result<(), Failure> {
        if !self.dir.join(OUR_NETWORK).exists() {
            return Ok(());
        }
        let filters = HashMap::from([("network".to_owned(), vec![NETWORK.to_owned()])]);
        let how = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        if !self
            .docker
            .list_containers(Some(how))
            .await
            .map_err(|e| crate::docker::client::failed(&e))?
            .is_empty()
        {
            return Ok(());
        }
        match self.docker.remove_network(NETWORK).await {
            // somebody entered it in this moment
            Err(e) if crate::docker::client::code(&e) == Some(403) => Ok(()),
            r => crate::docker::client::optional(r).map(drop),
        }
    }

    /// A failure when it can't be asked: there is none, or it does not run.
    pub(crate) async fn there(&self) -> Result<(), Failure> {
        match self.look().await? {
            Look::Running => Ok(()),
            Look::Absent | Look::Half => Err(gone(&self.name)),
            Look::Stopped => Err(failure(
                Class::Transient,
                "CLUSTER_STOPPED",
                format!("the nodes of the kind cluster {} don't run", self.name),
                "the engine starts them when it repairs what serves there",
            )),
        }
    }
}
