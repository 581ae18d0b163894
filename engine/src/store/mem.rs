//! Memory with a power switch: what was not synced is gone after [`MemKv::crash`].
use super::{Error, Kv, Op, Pair};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// An ordered map, and what takes back all that is not synced; what is applied can be read at once, as in every other store. Clones
/// share it, so that a test can open it again after a crash.
#[derive(Clone, Debug, Default)]
pub struct MemKv(Arc<Mutex<(Map, Vec<Op>)>>);

/// Writes or removes; what was there before.
fn put(map: &mut Map, key: Vec<u8>, value: Option<Vec<u8>>) -> Option<Vec<u8>> {
    match value {
        Some(v) => map.insert(key, v),
        None => map.remove(&key),
    }
}

// === impl MemKv ===

impl MemKv {
    /// Power loss: unsynced writes are gone.
    pub fn crash(&self) {
        let mut all = self.0.lock();
        let back = std::mem::take(&mut all.1);
        for (k, v) in back.into_iter().rev() {
            put(&mut all.0, k, v);
        }
    }
}

impl Kv for MemKv {
    fn apply(&self, ops: Vec<Op>) -> Result<(), Error> {
        let mut all = self.0.lock();
        for (k, v) in ops {
            let before = put(&mut all.0, k.clone(), v);
            all.1.push((k, before));
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        self.0.lock().1.clear();
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.lock().0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Pair>, Error> {
        let all = self.0.lock();
        let range = all.0.range(from.to_vec()..to.to_vec()).map(|(k, v)| (k.clone(), v.clone()));
        Ok(if reverse { range.rev().take(limit).collect() } else { range.take(limit).collect() })
    }
}
