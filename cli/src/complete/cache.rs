//! What the engine said a moment ago: pressing the key twice asks once.
use super::Word;
use crate::paths;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long it is good for.
const KEPT: Duration = Duration::from_secs(2);

#[derive(Deserialize, Serialize)]
struct Entry {
    at_ms: u64,
    words: Vec<Word>,
}

/// What is known and young enough.
pub(super) fn get(data_dir: &Path, key: &str) -> Option<Vec<Word>> {
    read(data_dir, now()?).remove(key).map(|e| e.words)
}

/// Keeps it. Only a hint: where it can't be kept, the next call asks again. No folder is made for it.
pub(super) fn put(data_dir: &Path, key: String, words: &[Word]) {
    let Some(at_ms) = now() else { return };
    let mut all = read(data_dir, at_ms);
    all.insert(key, Entry { at_ms, words: words.to_vec() });
    if let Ok(bytes) = serde_json::to_vec(&all) {
        let _ = paths::write_private(&file(data_dir), &bytes);
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("completion.json")
}

fn read(data_dir: &Path, now: u64) -> BTreeMap<String, Entry> {
    let all = fs::read(file(data_dir)).ok().and_then(|b| serde_json::from_slice(&b).ok());
    let mut all: BTreeMap<String, Entry> = all.unwrap_or_default();
    // a clock that was set back makes entries of the future: they are as good as old ones
    all.retain(|_, e| now.checked_sub(e.at_ms).is_some_and(|age| u128::from(age) < KEPT.as_millis()));
    all
}

fn now() -> Option<u64> {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_or_of_the_future_is_asked_again() {
        let d = tempfile::tempdir().unwrap();
        assert_eq!(get(d.path(), "k"), None);
        put(d.path(), "k".into(), &[("shop".into(), String::new())]);
        assert_eq!(get(d.path(), "k").unwrap()[0].0, "shop");
        assert_eq!(get(d.path(), "other"), None);
        let now = now().unwrap();
        assert!(read(d.path(), now + 2_100).is_empty() && read(d.path(), now - 2_100).is_empty());
    }
}
