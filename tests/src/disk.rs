//! A disk that stands still when told to: for callers who go away in the middle of a write.
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use syp_engine::store::{Error, Kv, MemKv, Op, Pair};
use tokio::sync::Notify;

/// Memory behind a switch.
#[derive(Clone, Default)]
pub struct Disk {
    mem: MemKv,
    held: Arc<(Mutex<bool>, Condvar)>,
    stood: Arc<Notify>,
    /// Which process has it, and which one this handle was given to.
    owner: Arc<Mutex<u64>>,
    me: u64,
}

// === impl Disk ===

impl Disk {
    /// For another process: whatever the one before still wants to write is not written any more, as after `kill -9`.
    ///
    /// # Errors
    /// The memory's.
    pub fn taken_over(&self) -> Result<Self, Error> {
        let mut owner = self.owner.lock();
        *owner += 1;
        // what it had handed to the system is there
        self.mem.sync()?;
        Ok(Self { me: *owner, ..self.clone() })
    }

    /// From now on no write ends.
    pub fn hold(&self) {
        *self.held.0.lock() = true;
    }

    /// Until a write stands still.
    pub async fn stands_still(&self) {
        self.stood.notified().await;
    }

    /// Writes end again.
    pub fn release(&self) {
        *self.held.0.lock() = false;
        self.held.1.notify_all();
    }

    /// Every value below a prefix loses its end, as after damage to the disk.
    ///
    /// # Errors
    /// The memory's.
    pub fn damage(&self, prefix: &[u8]) -> Result<usize, Error> {
        let mut to = prefix.to_vec();
        to.push(0xff);
        let all = self.mem.scan(prefix, &to, usize::MAX, false)?;
        let n = all.len();
        self.mem.apply(all.into_iter().map(|(k, v)| (k, Some(v[..v.len() - 3].to_vec()))).collect())?;
        self.mem.sync()?;
        Ok(n)
    }

    /// As if a newer version had written the store.
    ///
    /// # Errors
    /// The memory's.
    pub fn raise_format(&self) -> Result<(), Error> {
        self.mem.apply(vec![(b"m|format".to_vec(), Some(u64::MAX.to_be_bytes().to_vec()))])?;
        self.mem.sync()
    }

    /// Power loss.
    pub fn crash(&self) {
        self.mem.crash();
    }
}

impl Kv for Disk {
    fn apply(&self, ops: Vec<Op>) -> Result<(), Error> {
        let owner = self.owner.lock();
        if *owner == self.me { self.mem.apply(ops) } else { Err(Error::Stopped) }
    }

    fn sync(&self) -> Result<(), Error> {
        let mut held = self.held.0.lock();
        while *held {
            self.stood.notify_one();
            self.held.1.wait(&mut held);
        }
        drop(held);
        let owner = self.owner.lock();
        if *owner == self.me { self.mem.sync() } else { Err(Error::Stopped) }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.mem.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Pair>, Error> {
        self.mem.scan(from, to, limit, reverse)
    }
}
