//! One instance in memory: its committed projection, who may write, who is to be woken.
use crate::{id::InstanceId, step::Waiting};
use arc_swap::ArcSwap;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use syp_proto::journal::Instance;
use tokio::sync::{Mutex, Notify};

/// A live instance. Readers never wait: they see the last committed projection.
#[derive(Debug)]
pub struct Cell {
    /// Whose.
    pub id: InstanceId,
    published: ArcSwap<Instance>,
    /// Held from reading the projection to having the next one on disk; of this instance only.
    pub(crate) writer: Mutex<()>,
    pub(crate) wake: Notify,
    changed: Notify,
    pub(crate) running: AtomicBool,
    /// What its steps wait for right now.
    pub waiting: Waiting,
    /// Why it can't be worked on, when its records can't be read.
    pub corrupt: Option<String>,
}

// === impl Cell ===

impl Cell {
    pub(crate) fn new(id: InstanceId, instance: Instance, corrupt: Option<String>) -> Arc<Self> {
        Arc::new(Self {
            id,
            published: ArcSwap::from_pointee(instance),
            writer: Mutex::new(()),
            wake: Notify::new(),
            changed: Notify::new(),
            running: AtomicBool::new(false),
            waiting: Waiting::default(),
            corrupt,
        })
    }

    /// The last committed projection.
    pub fn get(&self) -> Arc<Instance> {
        self.published.load_full()
    }

    pub(crate) fn publish(&self, next: Arc<Instance>) {
        self.published.store(next);
        self.changed.notify_waiters();
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
