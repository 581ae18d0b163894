//! The configuration that was pushed last, kept for the next start of this gate.
//!
//! The configuration that a gate begins with may be older than what it was pushed (a mounted Secret is a minute behind): a gate
//! that starts again must not go back to an older policy.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use syp_auth::door::GateConfig;
use tokio::sync::Mutex;

/// A file for one configuration.
#[derive(Debug)]
pub struct Keep {
    path: PathBuf,
    /// Held over putting into force and writing: what is written last is what was put into force last.
    pub one_at_a_time: Mutex<()>,
}

// === impl Keep ===

impl Keep {
    /// In this file, which need not be there.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, one_at_a_time: Mutex::new(()) }
    }

    /// What is kept.
    ///
    /// # Errors
    /// In words, when there is none or it can't be understood.
    pub fn read(&self) -> Result<GateConfig, String> {
        let text = std::fs::read(&self.path).map_err(|e| format!("reading {}: {e}", self.path.display()))?;
        serde_json::from_slice(&text).map_err(|e| format!("{} is damaged: {e}", self.path.display()))
    }

    /// Keeps this text. It is in force whether or not that works, so that a failure is only told.
    pub async fn write(&self, text: bytes::Bytes) {
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || replace(&path, &text)).await;
        if let Err(error) = written.map_err(std::io::Error::other).flatten() {
            let message = format!(
                "the configuration is in force but could not be kept in {}: {error}; a restart of this gate begins with an older one",
                self.path.display()
            );
            println!("{}", serde_json::json!({ "event": "error", "message": message }));
        }
    }
}

/// Which of the two to begin with, and why not the kept one. Of one generation the kept one is newer: keys rotate without.
///
/// # Errors
/// Why the kept one does not count, in words.
pub fn newer(kept: Result<GateConfig, String>, given: Option<&GateConfig>) -> Result<GateConfig, String> {
    let kept = kept?;
    match given {
        Some(given) if given.instance_uid != kept.instance_uid => {
            Err(format!("it is of another instance, {}", kept.instance_uid))
        }
        Some(given) if given.generation > kept.generation => Err(format!(
            "its generation {} is lower than {}, the one given",
            kept.generation, given.generation
        )),
        _ => Ok(kept),
    }
}

/// Whole or not at all, also when the machine stops in the middle.
fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    // of a process that was killed: it may be somebody else's to read
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::{newer, replace};
    use std::os::unix::fs::PermissionsExt as _;
    use syp_auth::door::GateConfig;

    fn config(uid: &str, generation: u64) -> GateConfig {
        let value = serde_json::json!({ "generation": generation, "instance_uid": uid, "audiences": [], "issuers": [],
            "policy": { "rules": [] }, "upstreams": [] });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_higher_generation_counts_and_the_kept_one_among_equals() {
        let of = |kept, given: Option<GateConfig>| newer(Ok(config("a", kept)), given.as_ref()).is_ok();
        assert!(of(2, None) && of(2, Some(config("a", 1))) && of(2, Some(config("a", 2))));
        assert!(!of(2, Some(config("a", 3))) && !of(2, Some(config("b", 1))));
        assert!(newer(Err("damaged".to_owned()), None).is_err());
    }

    #[test]
    fn it_is_replaced_whole_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kept.json");
        // left behind by a process that was killed
        std::fs::write(directory.path().join("kept.json.new"), "a longer text than the next").unwrap();
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
