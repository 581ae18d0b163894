//! The `docker` command. When the bed ends nothing new is begun, and what is under way is waited for: a command that is cut off may have
//! made its container all the same.
use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::process::Command;

/// The command.
pub struct Docker {
    bed: String,
    busy: AtomicUsize,
    closed: AtomicBool,
}

/// One command under way.
struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

// === impl Docker ===

impl Docker {
    /// For the bed of this id.
    pub fn new(bed: &str) -> Self {
        Self { bed: bed.to_owned(), busy: AtomicUsize::new(0), closed: AtomicBool::new(false) }
    }

    /// The bed's own network.
    pub fn network(&self) -> String {
        format!("syp-bed-{}", self.bed)
    }

    /// From now on nothing is begun.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Commands under way.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::SeqCst)
    }

    /// Its standard output; else what it said.
    pub async fn run(&self, args: &[&str]) -> Result<String, String> {
        self.told(args, &[]).await.map(|(out, _)| out.trim().to_owned())
    }

    /// Both its outputs, with these variables.
    pub async fn told(&self, args: &[&str], env: &[(&str, &str)]) -> Result<(String, String), String> {
        // counted first: who closes it and then finds nobody busy must be right
        self.busy.fetch_add(1, Ordering::SeqCst);
        let _busy = Busy(&self.busy);
        if self.closed.load(Ordering::SeqCst) {
            return Err("the bed ends".into());
        }
        let mut command = Command::new("docker");
        command.args(args).envs(env.iter().copied()).stdin(Stdio::null());
        let o = command.output().await.map_err(|e| format!("docker: {e}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if o.status.success() {
            Ok((text(&o.stdout), text(&o.stderr)))
        } else {
            Err(text(&o.stderr).trim().to_owned())
        }
    }
}
