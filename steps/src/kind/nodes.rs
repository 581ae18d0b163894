//! The containers that are the cluster's nodes, and programs in them.
use super::{Cluster, LABEL};
use crate::docker::client::{self, failed, inspect};
use bollard::{
    container::LogOutput,
    exec::{CreateExecOptions, StartExecResults},
    models::{ContainerInspectResponse, ContainerSummary},
    query_parameters::ListContainersOptions,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use std::collections::HashMap;
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;
use tokio::io::AsyncWriteExt;

/// Says that the cluster was made to its end. It is in the node's container, so it can't be about another cluster of the same name,
/// and it is there when the API server is not. Nodes that don't run are not asked: a container's files must not be looked at while
/// it is being removed (Docker 20.10 then leaves it behind).
const MARK_DIR: &str = "/kind";
const MARK: &str = "syp-complete";

/// How the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// There is none.
    Absent,
    /// Whoever made it did not come to the end.
    Half,
    /// It is whole, and its nodes don't run.
    Stopped,
    /// Its nodes run.
    Running,
}

/// Says which container's is complete, on our side.
pub const COMPLETE: &str = "complete";

/// What the states of all nodes come to. One that is being removed, or could not be, is removed again. Pure.
fn worst(states: &[String]) -> Look {
    if states.iter().any(|s| ["removing", "dead", "created"].contains(&s.as_str())) {
        return Look::Half;
    }
    if states.iter().all(|s| s == "running") { Look::Running } else { Look::Stopped }
}

/// A stream of nothing, for programs that read nothing.
pub type Input = futures_util::stream::Empty<Result<Bytes, bollard::errors::Error>>;

// === impl Cluster ===

impl Cluster {
    /// Names of its nodes, the control plane first.
    pub(super) async fn nodes(&self) -> Result<Vec<ContainerSummary>, Failure> {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{LABEL}={}", self.name)])]);
        let how = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let mut all = self.docker.list_containers(Some(how)).await.map_err(|e| failed(&e))?;
        all.sort_by_key(|c| !name(c).ends_with("control-plane"));
        Ok(all)
    }

    /// How it is.
    pub(crate) async fn look(&self) -> Result<Look, Failure> {
        let all = self.nodes().await?;
        let Some(first) = all.first() else { return Ok(Look::Absent) };
        let states: Vec<String> =
            all.iter().map(|c| c.state.as_ref().map_or_else(String::new, ToString::to_string)).collect();
        let known = self.known_complete().await == first.id;
        Ok(match worst(&states) {
            Look::Running if known || self.says_complete(first).await? => Look::Running,
            Look::Running => Look::Half,
            other => other,
        })
    }

    /// The control plane's container that was complete when it was looked at last.
    async fn known_complete(&self) -> Option<String> {
        tokio::fs::read_to_string(self.dir.join(COMPLETE)).await.ok()
    }

    /// What the node says. A data directory may be another than that of the engine that made it (a restore), so it is asked once.
    async fn says_complete(&self, first: &ContainerSummary) -> Result<bool, Failure> {
        let seen = self.run(&name(first), &["find", MARK_DIR, "-name", MARK], None::<Input>).await?;
        if seen.trim().is_empty() {
            return Ok(false);
        }
        self.remember(first).await?;
        Ok(true)
    }

    async fn remember(&self, first: &ContainerSummary) -> Result<(), Failure> {
        let path = self.dir.join(COMPLETE);
        let write = async {
            tokio::fs::create_dir_all(&self.dir).await?;
            tokio::fs::write(&path, first.id.clone().unwrap_or_default()).await
        };
        write.await.map_err(|e| super::failed_io(&path, &e))
    }

    /// Writes down that it is whole.
    pub(super) async fn mark(&self) -> Result<(), Failure> {
        let all = self.nodes().await?;
        let first = all.first().ok_or_else(|| gone(&self.name))?;
        let path = format!("{MARK_DIR}/{MARK}");
        self.run(&name(first), &["touch", &path], None::<Input>).await?;
        self.remember(first).await
    }

    /// The node with the API server.
    pub(super) async fn control_plane(&self) -> Result<ContainerInspectResponse, Failure> {
        let all = self.nodes().await?;
        let there = match all.first() {
            Some(first) => inspect(&self.docker, &name(first)).await?,
            None => None,
        };
        there.ok_or_else(|| gone(&self.name))
    }

    /// Starts what does not run.
    pub(super) async fn start(&self) -> Result<(), Failure> {
        for node in self.nodes().await? {
            client::start(&self.docker, &name(&node)).await?;
        }
        Ok(())
    }

    /// Runs a program in a node and gives it `input` to read; what it wrote.
    ///
    /// # Errors
    /// `CLUSTER_FAILED` with what it wrote, the daemon's.
    pub(super) async fn run<S>(&self, node: &str, cmd: &[&str], input: Option<S>) -> Result<String, Failure>
    where
        S: Stream<Item = Result<Bytes, bollard::errors::Error>>,
    {
        let how = CreateExecOptions {
            cmd: Some(cmd.iter().map(|s| (*s).to_owned()).collect()),
            attach_stdin: Some(input.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let id = self.docker.create_exec(node, how).await.map_err(|e| failed(&e))?.id;
        let started = self.docker.start_exec(&id, None).await.map_err(|e| failed(&e))?;
        let StartExecResults::Attached { mut output, input: mut to } = started else {
            return Err(failure(Class::Transient, "PROVIDER_ERROR", "a detached program", ""));
        };
        let feed = async {
            if let Some(input) = input {
                let mut input = std::pin::pin!(input);
                while let Some(bytes) = input.next().await {
                    // one that ended early says why on its own
                    if to.write_all(&bytes.map_err(|e| failed(&e))?).await.is_err() {
                        break;
                    }
                }
            }
            let _ = to.shutdown().await;
            Ok::<_, Failure>(())
        };
        let read = async {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            while let Some(Ok(l)) = output.next().await {
                match l {
                    LogOutput::StdErr { message } => err.extend_from_slice(&message),
                    l => out.extend_from_slice(&l.into_bytes()),
                }
            }
            (out, err)
        };
        let (fed, (out, err)) = tokio::join!(feed, read);
        fed?;
        let code = self.docker.inspect_exec(&id).await.map_err(|e| failed(&e))?.exit_code.unwrap_or(-1);
        if code != 0 {
            return Err(failure(
                Class::Transient,
                "CLUSTER_FAILED",
                format!("'{}' in {node}: {}", cmd.join(" "), String::from_utf8_lossy(&err).trim()),
                "the engine tries again by itself",
            ));
        }
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

/// A container's name.
pub fn name(c: &ContainerSummary) -> String {
    let first = c.names.iter().flatten().next();
    first.map_or_else(|| c.id.clone().unwrap_or_default(), |n| n.trim_start_matches('/').to_owned())
}

/// There is no such cluster.
pub fn gone(name: &str) -> Failure {
    failure(
        Class::Transient,
        "CLUSTER_GONE",
        format!("the kind cluster {name} is not there"),
        "the engine makes it again for what serves in it; somebody removed it by hand",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_removed_is_half_a_cluster() {
        let of = |s: &[&str]| worst(&s.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["running", "running"]), Look::Running);
        assert_eq!(of(&["running", "exited"]), Look::Stopped);
        assert_eq!(of(&["removing"]), Look::Half);
        assert_eq!(of(&["exited", "dead"]), Look::Half);
    }
}
