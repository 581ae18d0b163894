//! Images of this machine's Docker engine into the nodes, under names of ours: what a user's tag means tomorrow is another thing.
use super::{
    Cluster,
    nodes::{self, Input},
};
use std::time::Duration;
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// Names that no registry answers for.
pub const REGISTRY: &str = "syp.local";
/// The kubelet's side of containerd hears of a new name within this.
const HEARD: Duration = Duration::from_secs(10);

const CTR: [&str; 4] = ["ctr", "-n", "k8s.io", "images"];

fn ctr<'a>(more: &[&'a str]) -> Vec<&'a str> {
    CTR.into_iter().chain(more.iter().copied()).collect()
}

/// `syp.local/NAME`, without tag or digest.
fn base(reference: &str) -> &str {
    reference.rsplit_once(':').map_or(reference, |(base, _)| base)
}

// === impl Cluster ===

impl Cluster {
    /// Names of ours that a node has.
    async fn names_in(&self, node: &str) -> Result<Vec<String>, Failure> {
        let all = self.run(node, &ctr(&["ls", "-q"]), None::<Input>).await?;
        Ok(all.lines().filter(|l| l.starts_with(REGISTRY)).map(str::to_owned).collect())
    }

    /// Do all nodes have it?
    pub(super) async fn has(&self, reference: &str) -> Result<bool, Failure> {
        for node in self.nodes().await? {
            if !self.names_in(&nodes::name(&node)).await?.iter().any(|n| n == reference) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Brings an image of the Docker engine (by its id, so that nothing else comes when a tag has moved) into every node that lacks it.
    ///
    /// # Errors
    /// `IMAGE_NOT_FOUND`, the daemon's.
    pub(super) async fn load(&self, id: &str, reference: &str) -> Result<(), Failure> {
        for node in self.nodes().await? {
            let node = nodes::name(&node);
            let held = self.names_in(&node).await?;
            if !held.iter().any(|n| n == reference) {
                self.import(&node, id, reference).await?;
            }
            self.heard(&node, reference).await?;
        }
        Ok(())
    }

    async fn import(&self, node: &str, id: &str, reference: &str) -> Result<(), Failure> {
        if crate::docker::client::optional(self.docker.inspect_image(id).await)?.is_none() {
            return Err(failure(
                Class::Terminal,
                "IMAGE_NOT_FOUND",
                format!("image {id} is no longer in the Docker engine, and the node {node} does not have it"),
                "build or pull it again, then 'sypctl set NAME --image IMAGE'",
            ));
        }
        let base = base(reference);
        let how = ctr(&["import", "--base-name", base, "--digests", "-"]);
        self.run(node, &how, Some(self.docker.export_image(id))).await?;
        let digest = format!("{base}@");
        let made = self.names_in(node).await?.into_iter().find(|n| n.starts_with(&digest));
        let made = made.ok_or_else(|| {
            failure(
                Class::Transient,
                "CLUSTER_FAILED",
                format!("{node} took image {id} and does not have it"),
                "the engine tries again by itself",
            )
        })?;
        // a node that runs out of room must not throw away what it can't get again
        self.run(node, &ctr(&["label", &made, "io.cri-containerd.pinned=pinned"]), None::<Input>).await?;
        self.run(node, &ctr(&["tag", "--force", &made, reference]), None::<Input>).await?;
        self.run(node, &ctr(&["label", reference, "io.cri-containerd.pinned=pinned"]), None::<Input>).await?;
        self.run(node, &ctr(&["rm", &made]), None::<Input>).await.map(drop)
    }

    /// The kubelet would try to pull what it has not heard of.
    async fn heard(&self, node: &str, reference: &str) -> Result<(), Failure> {
        let ask = ["crictl", "images", "-q", reference];
        for _ in 0..HEARD.as_millis() / 100 {
            if !self.run(node, &ask, None::<Input>).await?.trim().is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(failure(
            Class::Transient,
            "CLUSTER_FAILED",
            format!("the kubelet of {node} does not see the image {reference}"),
            "the engine tries again by itself",
        ))
    }

    /// Removes it from the nodes, with whatever an import that broke off left; false if none had it.
    pub(super) async fn unload(&self, reference: &str) -> Result<bool, Failure> {
        let mut was = false;
        let base = base(reference);
        for node in self.nodes().await? {
            let node = nodes::name(&node);
            for name in self.names_in(&node).await? {
                if name == reference || name.starts_with(&format!("{base}@")) {
                    self.run(&node, &ctr(&["rm", &name]), None::<Input>).await?;
                    was = true;
                }
            }
        }
        Ok(was)
    }

    /// Names that begin so, in any node: `syp.local/` and what a key begins with.
    pub(super) async fn loaded(&self, prefix: &str) -> Result<Vec<String>, Failure> {
        let prefix = format!("{REGISTRY}/{prefix}");
        let mut out = std::collections::BTreeSet::new();
        for node in self.nodes().await? {
            let all = self.names_in(&nodes::name(&node)).await?;
            out.extend(all.into_iter().filter(|n| n.starts_with(&prefix)));
        }
        Ok(out.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_its_tag() {
        assert_eq!(base("syp.local/syp-a-b-image-1:1"), "syp.local/syp-a-b-image-1");
        assert_eq!(ctr(&["ls"]), ["ctr", "-n", "k8s.io", "images", "ls"]);
    }
}
