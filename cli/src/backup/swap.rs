//! Puts a restored data directory in the place of the one that is there. Killed at any moment, it is finished by the next
//! `server restore`; until then no engine starts on what is half.
use crate::paths::{private_dir, write_private};
use anyhow::{Context, ensure};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};
use syp_engine::store::{Kv, SledKv};
use syp_proto::v1::backup_chunk::Batch;

/// What is replaced: the store, and the keys that its content is made with.
pub const NAMES: [&str; 4] = ["store", "engine.key", "local-issuer.key", "tariff.json"];
const STAGING: &str = "restoring";
/// Written when all of it is there.
const COMPLETE: &str = "complete";

/// What will be moved, and where to the former ones.
#[derive(serde::Serialize, serde::Deserialize)]
struct Moves {
    former: String,
    names: Vec<String>,
}

/// A restored data directory that is not in its place yet.
pub struct Staging {
    place: PathBuf,
    kv: SledKv,
}

// === impl Staging ===

impl Staging {
    /// An empty one; what an interrupted restore left is removed.
    ///
    /// # Errors
    /// As the file system says.
    pub fn new(data_dir: &Path) -> anyhow::Result<Self> {
        let place = data_dir.join(STAGING);
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        private_dir(&place)?;
        let kv = SledKv::open(&place.join("store"))?;
        Ok(Self { place, kv })
    }

    /// # Errors
    /// As the store says.
    pub fn apply(&self, batch: Batch) -> anyhow::Result<()> {
        Ok(self.kv.apply(batch.pairs.into_iter().map(|p| (p.key, p.value)).collect())?)
    }

    /// # Errors
    /// A name that no backup has; as the file system says.
    pub fn file(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        ensure!(NAMES[1..].contains(&name), "it has a file '{name}', which no backup has");
        Ok(write_private(&self.place.join(name), content)?)
    }

    /// All of it is there and on the disk: from here on it will be in its place.
    ///
    /// # Errors
    /// As the file system says.
    pub fn complete(self, former: &str) -> anyhow::Result<()> {
        self.kv.apply(syp_engine::store::restored(crate::render::now_ms()))?;
        self.kv.sync()?;
        drop(self.kv);
        for file in NAMES.iter().map(|n| self.place.join(n)).filter(|p| p.is_file()) {
            File::open(file)?.sync_all()?;
        }
        let names = NAMES.iter().filter(|n| self.place.join(n).exists()).map(|n| (*n).to_owned()).collect();
        let plan = serde_json::to_vec(&Moves { former: former.into(), names })?;
        write_private(&self.place.join(COMPLETE), &plan)?;
        File::open(self.place.join(COMPLETE))?.sync_all()?;
        Ok(File::open(&self.place)?.sync_all()?)
    }
}

/// Was a restore interrupted when all was there?
pub fn unfinished(data_dir: &Path) -> bool {
    data_dir.join(STAGING).join(COMPLETE).is_file()
}

/// Moves everything to its place; what was there goes to a folder of its own, whose path is given back if there was anything.
///
/// # Errors
/// As the file system says; then it is unfinished.
pub fn finish(data_dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    let staging = data_dir.join(STAGING);
    let plan = fs::read(staging.join(COMPLETE)).context("nothing was restored")?;
    let plan: Moves = serde_json::from_slice(&plan).context("the list of what is to be moved is damaged")?;
    let former = data_dir.join(&plan.former);
    for name in NAMES {
        let (new, place) = (staging.join(name), data_dir.join(name));
        // moved before an interruption
        if plan.names.iter().any(|n| n == name) && !new.exists() {
            continue;
        }
        if place.exists() {
            private_dir(&former)?;
            fs::rename(&place, former.join(name))?;
        }
        if new.exists() {
            fs::rename(&new, &place)?;
        }
    }
    File::open(data_dir)?.sync_all()?;
    fs::remove_dir_all(&staging)?;
    Ok(former.exists().then_some(former))
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1::backup_chunk::Pair;

    fn staged(dir: &Path) {
        let s = Staging::new(dir).unwrap();
        s.apply(Batch { pairs: vec![Pair { key: b"k".to_vec(), value: Some(b"new".to_vec()) }] }).unwrap();
        s.file("engine.key", b"new").unwrap();
        assert!(s.file("../x", b"").is_err());
        s.complete("replaced-1").unwrap();
    }

    fn is_new(dir: &Path) {
        assert!(!unfinished(dir) && !dir.join(STAGING).exists());
        assert_eq!(fs::read(dir.join("engine.key")).unwrap(), b"new");
        assert_eq!(SledKv::open(&dir.join("store")).unwrap().get(b"k").unwrap(), Some(b"new".to_vec()));
    }

    #[test]
    fn an_empty_directory_is_filled() {
        let d = tempfile::tempdir().unwrap();
        staged(d.path());
        assert_eq!(finish(d.path()).unwrap(), None);
        is_new(d.path());
    }

    #[test]
    fn what_was_there_is_kept_aside_and_an_interruption_anywhere_is_finished() {
        for moves in 0..6 {
            let d = tempfile::tempdir().unwrap();
            let (dir, former) = (d.path(), d.path().join("replaced-1"));
            fs::create_dir(dir.join("store")).unwrap();
            fs::write(dir.join("store/old"), b"old").unwrap();
            fs::write(dir.join("tariff.json"), b"old").unwrap();
            staged(dir);
            assert!(unfinished(dir));
            // the moves of `finish`, as far as they came
            fs::create_dir(&former).unwrap();
            let steps = [
                (dir.join("store"), former.join("store")),
                (dir.join("restoring/store"), dir.join("store")),
                (dir.join("restoring/engine.key"), dir.join("engine.key")),
                (dir.join("tariff.json"), former.join("tariff.json")),
            ];
            for (from, to) in steps.iter().take(moves) {
                fs::rename(from, to).unwrap();
            }
            assert_eq!(finish(dir).unwrap(), Some(former.clone()));
            is_new(dir);
            assert!(!dir.join("tariff.json").exists(), "the backup has none");
            assert_eq!(fs::read(former.join("store/old")).unwrap(), b"old");
            assert_eq!(fs::read(former.join("tariff.json")).unwrap(), b"old");
        }
    }
}
