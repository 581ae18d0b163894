//! Does the cluster work, and not only answer? Without kube-proxy no port of this machine leads anywhere, and kind does not look.
use super::Cluster;
use crate::k8s::client::optional;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams},
};
use std::time::Duration;
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

const NAMESPACE: &str = "kube-system";
const PROXY: &str = "kube-proxy";
/// It is ready within this, on a machine that is busy.
const READY: Duration = Duration::from_secs(90);
/// Lines of it that an error shows.
const LINES: i64 = 5;

/// What to do about what a component said last. Pure.
fn advice(said: &str) -> &'static str {
    if said.contains("too many open files") {
        "the kernel's limit is reached: 'sudo sysctl fs.inotify.max_user_instances=1024' (and in /etc/sysctl.d for good), or fewer clusters; the engine tries again by itself"
    } else {
        "the engine tries again by itself; 'kubectl -n kube-system logs daemonset/kube-proxy' with the kubeconfig in the data directory shows more"
    }
}

// === impl Cluster ===

impl Cluster {
    /// Waits until connections get to where they should.
    pub(super) async fn works(&self, c: &Client, say: &impl Fn(&str)) -> Result<(), Failure> {
        let sets: Api<DaemonSet> = Api::namespaced(c.clone(), NAMESPACE);
        let end = tokio::time::Instant::now() + READY;
        loop {
            // whoever told kind to do without it has something in its place
            let Some(set) = optional(sets.get(PROXY).await)? else { return Ok(()) };
            let status = set.status.unwrap_or_default();
            if status.desired_number_scheduled > 0 && status.number_ready >= status.desired_number_scheduled {
                return Ok(());
            }
            let said = last_words(c).await;
            if tokio::time::Instant::now() >= end || said.contains("too many open files") {
                return Err(failure(
                    Class::Transient,
                    "CLUSTER_FAILED",
                    format!(
                        "kube-proxy does not run in the kind cluster {}. Its last lines:\n{said}",
                        self.name
                    ),
                    advice(&said),
                ));
            }
            say("waiting for kube-proxy");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

async fn last_words(c: &Client) -> String {
    let api: Api<Pod> = Api::namespaced(c.clone(), NAMESPACE);
    let Ok(all) = api.list(&ListParams::default().labels("k8s-app=kube-proxy")).await else {
        return String::new();
    };
    let how = LogParams { tail_lines: Some(LINES), limit_bytes: Some(2_000), ..Default::default() };
    match all.items.first() {
        Some(p) => api.logs(&p.name_any(), &how).await.unwrap_or_default().trim_end().to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::advice;

    #[test]
    fn a_limit_of_the_kernel_is_known_by_its_words() {
        assert!(advice("E0101 fsnotify watcher: too many open files").contains("sysctl"));
        assert!(!advice("it is busy").contains("sysctl"));
    }
}
