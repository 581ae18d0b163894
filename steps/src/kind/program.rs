//! The `kind` program. One at a time works on a cluster, also when the engine that started it has been killed: it holds a lock by its
//! standard input, which ends with it and not with us.
use super::{Cluster, failed_io};
use std::{fs::File, path::Path, process::Stdio, time::Duration};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// Lines of it that an error shows.
const LINES: usize = 12;
/// A program that another engine left behind ends within this, or is shown.
const OTHER: Duration = Duration::from_secs(20);

fn missing(e: &std::io::Error) -> Failure {
    failure(
        Class::Terminal,
        "KIND_MISSING",
        format!("'kind' can't be run: {e}"),
        "install it where the engine finds it (https://kind.sigs.k8s.io), then 'sypctl server stop': the next command starts the engine anew; or choose another target with --on",
    )
}

/// Its version, as it says it.
///
/// # Errors
/// `KIND_MISSING`.
pub async fn version() -> Result<String, Failure> {
    let out =
        Command::new("kind").arg("version").kill_on_drop(true).output().await.map_err(|e| missing(&e))?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn lock(path: &Path) -> Result<Option<File>, Failure> {
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
    let file = file.map_err(|e| failed_io(path, &e))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(e)) => Err(failed_io(path, &e)),
    }
}

// === impl Cluster ===

impl Cluster {
    /// Nobody works on the cluster while this is held, no program of an engine that is no more either.
    ///
    /// # Errors
    /// `PROVIDER_BUSY` after a while.
    pub(super) async fn alone(&self) -> Result<File, Failure> {
        tokio::fs::create_dir_all(&self.dir).await.map_err(|e| failed_io(&self.dir, &e))?;
        let path = self.dir.join("lock");
        let tries = OTHER.as_millis() / 100;
        for _ in 0..tries {
            if let Some(held) = lock(&path)? {
                return Ok(held);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(failure(
            Class::Conflict,
            "PROVIDER_BUSY",
            format!("a 'kind' that was started before still works on the cluster {}", self.name),
            "the engine waits for it; 'pgrep -a kind' shows it",
        ))
    }

    /// Runs it, tells each line that it writes, and what it wrote when it fails.
    ///
    /// # Errors
    /// `KIND_MISSING`, `CLUSTER_FAILED`.
    pub(super) async fn kind(
        &self,
        held: &File,
        args: &[&str],
        mut said: impl FnMut(&str),
    ) -> Result<(), Failure> {
        let input = held.try_clone().map_err(|e| failed_io(&self.dir, &e))?;
        let mut child = Command::new("kind")
            .args(args)
            .args(["--name", &self.name, "--kubeconfig"])
            .arg(self.kubeconfig())
            // the cluster is in this very engine, and the user's kubeconfig is not ours
            .env("KIND_EXPERIMENTAL_PROVIDER", "docker")
            .env_remove("KUBECONFIG")
            .stdin(Stdio::from(input))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| missing(&e))?;
        let mut last = std::collections::VecDeque::new();
        if let Some(err) = child.stderr.take() {
            let mut lines = BufReader::new(err).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let line = line.trim().to_owned();
                if line.is_empty() {
                    continue;
                }
                said(line.trim_matches(|c: char| !c.is_ascii_graphic()));
                if last.len() == LINES {
                    last.pop_front();
                }
                last.push_back(line);
            }
        }
        let status = child.wait().await.map_err(|e| missing(&e))?;
        if status.success() {
            return Ok(());
        }
        let lines: Vec<String> = last.into();
        Err(failure(
            Class::Transient,
            "CLUSTER_FAILED",
            format!(
                "'kind {}' failed ({status}). Its last lines:\n{}",
                args.iter().take(2).copied().collect::<Vec<_>>().join(" "),
                lines.join("\n")
            ),
            "the engine removes what is half made and tries again; 'kind create cluster --name try' shows whether kind works here at all",
        ))
    }
}
