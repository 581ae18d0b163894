//! One instance in memory: its committed projection, who may write, who is to be woken.
use crate::{events::Queue, id::InstanceId, step::Waiting};
use arc_swap::ArcSwap;
use prost::Message;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};
use syp_proto::journal::Instance;
use tokio::sync::{Mutex, Notify};

/// A live instance. Readers never wait: they see the last committed projection.
#[derive(Debug)]
pub struct Cell {
    /// Whose.
    pub id: InstanceId,
    published: ArcSwap<Kept>,
    /// Held from reading the projection to having the next one on disk; of this instance only.
    pub(crate) writer: Mutex<()>,
    pub(crate) wake: Notify,
    changed: Notify,
    pub(crate) running: AtomicBool,
    /// What its steps wait for right now.
    pub waiting: Waiting,
    /// Events of its provider that are not written yet.
    pub(crate) events: Arc<Queue>,
    blocked: OnceLock<String>,
}

/// A projection. Most instances rest most of the time, and a message in its own encoding takes a fraction of the room.
#[derive(Debug)]
enum Kept {
    Awake(Arc<Instance>),
    Resting(Box<[u8]>),
}

// === impl Cell ===

impl Cell {
    pub(crate) fn new(id: InstanceId, instance: Instance) -> Arc<Self> {
        Arc::new(Self {
            id,
            published: ArcSwap::from_pointee(Kept::Awake(Arc::new(instance))),
            writer: Mutex::new(()),
            wake: Notify::new(),
            changed: Notify::new(),
            running: AtomicBool::new(false),
            waiting: Waiting::default(),
            events: Arc::default(),
            blocked: OnceLock::new(),
        })
    }

    /// Why it is not worked on: its records can't be read, or the engine failed on it. It alone stands still (I17).
    pub fn blocked(&self) -> Option<&str> {
        self.blocked.get().map(String::as_str)
    }

    pub(crate) fn block(&self, why: String) {
        tracing::error!(instance = %self.id, why, "this instance is left alone");
        // the first reason is the one that counts
        let _ = self.blocked.set(why);
        self.changed.notify_waiters();
    }

    /// The last committed projection.
    pub fn get(&self) -> Arc<Instance> {
        match &**self.published.load() {
            Kept::Awake(i) => Arc::clone(i),
            // these bytes were encoded here: they can't fail to be read
            Kept::Resting(bytes) => Arc::new(Instance::decode(&**bytes).unwrap_or_default()),
        }
    }

    pub(crate) fn publish(&self, next: Instance) {
        self.published.store(Arc::new(Kept::Awake(Arc::new(next))));
        self.changed.notify_waiters();
    }

    /// Nothing is to be done now: the projection may take less room until the next change.
    pub(crate) fn rest(&self) {
        let now = self.published.load();
        if let Kept::Awake(i) = &**now {
            let resting = Arc::new(Kept::Resting(i.encode_to_vec().into_boxed_slice()));
            // a change that came meanwhile stays
            self.published.compare_and_swap(&now, resting);
        }
    }

    /// Resolves at the next change after this call.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// True for the one that may start the worker.
    pub(crate) fn take(&self) -> bool {
        !self.running.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resting_instance_is_read_as_it_was() {
        let i =
            Instance { name: "shop".into(), head_seq: 7, facts: "{\"a\":1}".into(), ..Default::default() };
        let cell = Cell::new(InstanceId::random(), i.clone());
        cell.rest();
        assert!(matches!(&**cell.published.load(), Kept::Resting(_)));
        assert_eq!(*cell.get(), i);
        let next = Instance { head_seq: 8, ..i };
        cell.publish(next.clone());
        assert_eq!(*cell.get(), next);
    }
}
