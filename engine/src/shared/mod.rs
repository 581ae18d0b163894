//! Secrets that several instances of a project use. What they are called, which versions there are and who may is kept here; the
//! sealed values are rows of their own, which only a step opens.
//!
//! # Guarantees
//! - A version number of a name is never used again, not even after the secret was deleted: `pw@3` is one value for ever.
//! - What a revision refers to is there, also one that can only be gone back to. Binding and letting go exclude each other.
//! - A new version makes one update of each instance that follows, exactly once, also over a crash (`rollout.rs`).
mod bind;
mod rollout;
mod uses;
mod write;

pub use bind::{Bound, Find, check};
pub use rollout::Rolled;
pub use uses::{Use, follows, uses};
pub use write::{Change, NewSecret};

use crate::{
    clock::Millis,
    error::Error,
    journal::{self as codec, Kind},
    store::Store,
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};
use syp_proto::journal::{SharedSecret, SharedVersion};

/// Live secrets of one engine.
pub const MOST: usize = 1_000;
/// Versions of one secret that are kept at a time; only those that revisions refer to are.
pub const MOST_VERSIONS: usize = 500;
/// Setting under which each is.
const SETTING: &str = "secret|";
/// The number of the last version of one that is gone is kept so long: answers to request ids are gone by then.
const GONE_MS: Millis = 90 * 24 * 3_600_000;

/// What a shared secret is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretName {
    /// Project.
    pub project: String,
    /// Name in it.
    pub id: String,
}

/// All that there are, as they are on disk.
#[derive(Default)]
pub struct Directory {
    all: RwLock<BTreeMap<SecretName, Arc<SharedSecret>>>,
    /// Read while a revision that refers to secrets is written down, written while a secret changes: so no version goes between
    /// being found and being bound, and none is added that somebody who has just bound the newest would not hear of.
    pub(crate) binding: tokio::sync::RwLock<()>,
    /// Secrets that a task rolls out.
    rolling: Mutex<BTreeSet<SecretName>>,
}

// === impl SecretName ===

impl SecretName {
    fn setting(&self) -> String {
        format!("{SETTING}{}/{}", self.project, self.id)
    }

    /// Of a record.
    pub fn of(s: &SharedSecret) -> Self {
        Self { project: s.project.clone(), id: s.name.clone() }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "projects/{}/secrets/{}", self.project, self.id)
    }
}

// === impl Directory ===

impl Directory {
    /// As the store has it; the last numbers of secrets that are long gone are let go.
    ///
    /// # Errors
    /// The store's, or a record that can't be read: an engine that does not know its secrets must not go on.
    pub(crate) async fn load(store: &dyn Store, now: Millis) -> Result<Self, Error> {
        let mut all = BTreeMap::new();
        let mut over = Vec::new();
        for (setting, bytes) in store.settings(SETTING).await? {
            let s: SharedSecret = codec::decode(Kind::SharedSecret, &bytes)
                .map_err(|e| Error::Corrupt(format!("{setting}: {e}")))?;
            if s.delete_ms != 0 && s.delete_ms < now - GONE_MS {
                over.push((setting, vec![]));
            } else {
                all.insert(SecretName::of(&s), Arc::new(s));
            }
        }
        if !over.is_empty() {
            let commit = crate::store::Commit { settings: over, ..Default::default() };
            store.commit(commit).await?;
        }
        Ok(Self { all: RwLock::new(all), ..Default::default() })
    }

    /// One that is there.
    pub fn get(&self, name: &SecretName) -> Option<Arc<SharedSecret>> {
        self.all.read().get(name).filter(|s| s.delete_ms == 0).cloned()
    }

    /// All that are there, by name.
    pub fn all(&self) -> Vec<Arc<SharedSecret>> {
        self.all.read().values().filter(|s| s.delete_ms == 0).cloned().collect()
    }

    /// The last version number that a name ever had.
    fn last_number(&self, name: &SecretName) -> u32 {
        self.all.read().get(name).map_or(0, |s| s.latest)
    }

    fn put(&self, s: SharedSecret) -> Arc<SharedSecret> {
        let s = Arc::new(s);
        self.all.write().insert(SecretName::of(&s), Arc::clone(&s));
        s
    }
}

/// The etag of a secret.
pub fn etag(s: &SharedSecret) -> String {
    format!("\"{}-{}\"", s.create_ms, s.generation)
}

/// A version that is kept.
pub fn version<'a>(s: &'a SharedSecret, number: &str) -> Option<&'a SharedVersion> {
    let no: u32 = number.parse().ok()?;
    s.versions.iter().find(|v| v.no == no)
}
