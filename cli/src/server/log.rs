//! The engine's log: to stderr, for people on a terminal, one JSON object a line elsewhere. Where stderr is the file `engine.log`
//! it begins anew when it is large; a service's log is kept by its supervisor.
use crate::paths::append_private;
use std::{
    fs::{self, File},
    io::{self, IsTerminal as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// The log begins anew beyond this; one former one is kept.
pub const MOST: u64 = 16 << 20;
/// How often is looked.
const LOOK: Duration = Duration::from_secs(10);

/// `RUST_LOG` changes what is told.
pub fn to_stderr() {
    use tracing_subscriber::{EnvFilter, fmt};
    // a call to a cluster that failed is told by whoever made it, with words
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,kube_client::client::builder=off"));
    let logs = fmt().with_env_filter(filter).with_writer(io::stderr);
    // a process has one; a second one would be this same
    let _ = if io::stderr().is_terminal() { logs.try_init() } else { logs.json().try_init() };
}

/// Puts a log that is too large aside; true when it did.
///
/// # Errors
/// As the file system says.
pub fn put_aside(log: &Path) -> io::Result<bool> {
    if fs::metadata(log).map_or(0, |m| m.len()) <= MOST {
        return Ok(false);
    }
    let mut old = log.as_os_str().to_owned();
    old.push(".1");
    fs::rename(log, PathBuf::from(old))?;
    Ok(true)
}

/// Looks after the log for as long as the engine runs.
pub async fn keep_small(log: PathBuf) {
    loop {
        tokio::time::sleep(LOOK).await;
        if !is_stderr(&log) {
            return;
        }
        let anew = || -> io::Result<()> {
            if put_aside(&log)? {
                // all that this process writes there from now on, a panic too
                nix::unistd::dup2_stderr(append_private(&log)?)?;
            }
            Ok(())
        };
        if let Err(error) = anew() {
            tracing::warn!(%error, "the log can't begin anew");
        }
    }
}

fn is_stderr(log: &Path) -> bool {
    let same = || -> io::Result<bool> {
        let ours = File::from(io::stderr().as_fd().try_clone_to_owned()?).metadata()?;
        let there = fs::metadata(log)?;
        Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    };
    same().unwrap_or(false)
}
