//! A bounded map from token digest to what was verified; two generations instead of a linked list.

use std::collections::HashMap;

use parking_lot::Mutex;

const SHARDS: usize = 16;

/// SHA-256 of a token.
pub type Digest = [u8; 32];

/// Approximately least recently used: an entry lives in `young`, moves to `old` when `young` is full, and back when it is
/// used. Sharded, so that runtime threads do not wait for each other.
pub struct Cache<T> {
    shards: Vec<Mutex<Shard<T>>>,
    half: usize,
}

struct Shard<T> {
    young: HashMap<Digest, T>,
    old: HashMap<Digest, T>,
}

impl<T: Clone> Cache<T> {
    /// A cache of at most about `capacity` entries.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let shard = || Mutex::new(Shard { young: HashMap::new(), old: HashMap::new() });
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), half: (capacity / SHARDS / 2).max(1) }
    }

    fn shard(&self, key: &Digest) -> &Mutex<Shard<T>> {
        &self.shards[usize::from(key[0]) % SHARDS]
    }

    /// The entry, if there is one.
    pub fn get(&self, key: &Digest) -> Option<T> {
        let mut shard = self.shard(key).lock();
        if let Some(found) = shard.young.get(key) {
            return Some(found.clone());
        }
        let found = shard.old.remove(key)?;
        self.put(&mut shard, *key, found.clone());
        Some(found)
    }

    /// Adds or replaces an entry.
    pub fn insert(&self, key: Digest, value: T) {
        self.put(&mut self.shard(&key).lock(), key, value);
    }

    /// Forgets an entry.
    pub fn remove(&self, key: &Digest) {
        let mut shard = self.shard(key).lock();
        shard.young.remove(key);
        shard.old.remove(key);
    }

    fn put(&self, shard: &mut Shard<T>, key: Digest, value: T) {
        if shard.young.len() >= self.half && !shard.young.contains_key(&key) {
            shard.old = std::mem::take(&mut shard.young);
        }
        shard.young.insert(key, value);
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock()).map(|s| s.young.len() + s.old.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = Cache::new(64);
        let key = |n: u32| {
            let mut key = [0; 32];
            key[1..5].copy_from_slice(&n.to_be_bytes());
            key
        };
        cache.insert(key(0), 0);
        for n in 1..1000 {
            assert_eq!(cache.get(&key(0)), Some(0), "used all the time, lost at {n}");
            cache.insert(key(n), n);
            assert!(cache.len() <= 64);
        }
        assert_eq!(cache.get(&key(1)), None);
        cache.remove(&key(0));
        assert_eq!(cache.get(&key(0)), None);
    }
}
