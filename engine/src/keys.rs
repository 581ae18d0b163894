//! The issuers' keys, on their way to the gates: a gate may not reach an issuer that the engine reaches.
//!
//! Guarantees: keys that changed are at every serving gate as soon as it answers; a gate that saw a token with a key it lacks
//! makes the engine ask the issuer, under the limits of [`Issuer::refetch`].
use crate::{cell::Cell, engine::Engine, graph::State, id::InstanceId};
use futures_util::future::{join_all, select_all};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use syp_auth::jwks::{Issuer, Issuers};
use tokio::{sync::watch, time::Instant};

/// A push that began before a change, with the keys of then, has ended after this: the new ones are pushed once more.
const SETTLED: Duration = Duration::from_secs(6);
/// A gate that fetches for itself forgets keys it can't refresh; it is told that they are still good. Keys that became too old
/// are taken from the gates by then.
const REMIND: Duration = Duration::from_secs(3600);
/// A gate that did not take its keys is offered them again after this.
const AGAIN: Duration = Duration::from_millis(500);
/// A gate that does not answer is asked again after this.
const DEAF: Duration = Duration::from_secs(2);
/// Changes of instances within this time are looked at together.
const GATHER: Duration = Duration::from_millis(100);

struct Follower {
    engine: Engine,
    issuers: Vec<Arc<Issuer>>,
    /// Gates that have not got the keys of now.
    due: HashSet<InstanceId>,
    listeners: HashMap<InstanceId, tokio::task::JoinHandle<()>>,
    /// The last change of an instance that was looked at.
    seen: u64,
}

// === impl Engine ===

impl Engine {
    /// Brings the keys of the configured issuers to every gate, and the gates' questions for keys to the issuers.
    pub fn follow_issuers(&self, issuers: &Issuers) {
        let issuers: Vec<_> = issuers.all().into_iter().filter(|i| !i.is_fixed()).collect();
        if issuers.is_empty() {
            return;
        }
        let (due, listeners) = (HashSet::new(), HashMap::new());
        let f = Follower { engine: self.clone(), issuers, due, listeners, seen: 0 };
        self.spawn(f.run());
    }
}

// === impl Follower ===

impl Follower {
    async fn run(mut self) {
        let mut instances = self.engine.changes().subscribe();
        let mut keys: Vec<watch::Receiver<u64>> = self.issuers.iter().map(|i| i.news()).collect();
        let mut again = self.renew(SETTLED);
        self.seen = self.engine.changes().last();
        self.listen(self.engine.cells().iter().map(|c| c.id).collect());
        loop {
            let retry = if self.push().await { Instant::now() + AGAIN } else { again };
            tokio::select! {
                _ = select_all(keys.iter_mut().map(|k| Box::pin(k.changed()))) => again = self.renew(SETTLED),
                () = tokio::time::sleep_until(again) => again = self.renew(REMIND),
                () = tokio::time::sleep_until(retry) => {}
                _ = instances.changed() => {
                    tokio::time::sleep(GATHER).await;
                    self.listen_to_changed();
                }
            }
        }
    }

    /// Every gate is to get the keys of now, and once more after a while.
    fn renew(&mut self, then: Duration) -> Instant {
        self.engine.inner.door.set_others(self.issuers.iter().filter_map(|i| i.for_gate()).collect());
        self.due.extend(self.engine.cells().iter().map(|c| c.id));
        Instant::now() + then
    }

    /// True when one that serves did not take them. One that does not serve yet stays due: its first configuration may be from
    /// before.
    async fn push(&mut self) -> bool {
        let engine = &self.engine;
        self.due.retain(|id| engine.cell(*id).is_some());
        let pushes = self.due.iter().filter_map(|id| engine.cell(*id)).map(|cell| async move {
            let i = cell.get();
            if i.state() != State::Serving {
                return None;
            }
            let pushed = engine.inner.target(&i).ok()?.push_gate(&engine.context(&cell)).await;
            if let Err(f) = &pushed {
                let (instance, reason) = (cell.id, &f.reason);
                tracing::warn!(%instance, reason, "keys not brought to the gate yet: {}", f.message);
            }
            Some((cell.id, pushed.is_ok()))
        });
        // one gate that is slow to answer keeps the others no longer than itself
        let mut failed = false;
        for (id, taken) in join_all(pushes).await.into_iter().flatten() {
            if taken {
                self.due.remove(&id);
            }
            failed |= !taken;
        }
        failed
    }

    fn listen_to_changed(&mut self) {
        // what changes while this looks is looked at next time
        let last = self.engine.changes().last();
        let ids = match self.engine.changes().after(self.seen) {
            Some(changed) => changed.into_iter().map(|(_, id)| id).collect(),
            None => self.engine.cells().iter().map(|c| c.id).collect(),
        };
        self.seen = last;
        self.listen(ids);
    }

    fn listen(&mut self, ids: Vec<InstanceId>) {
        self.listeners.retain(|_, task| !task.is_finished());
        for cell in ids.into_iter().filter_map(|id| self.engine.cell(id)) {
            if cell.get().state() == State::Serving && !self.listeners.contains_key(&cell.id) {
                let (e, issuers) = (self.engine.clone(), self.issuers.clone());
                let id = cell.id;
                let task = tokio::spawn(async move { hear(&e, &cell, &issuers).await });
                self.listeners.insert(id, task);
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.listeners.values().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Listens to the gate of one instance while it serves.
async fn hear(e: &Engine, cell: &Arc<Cell>, issuers: &[Arc<Issuer>]) {
    while cell.get().state() == State::Serving {
        let i = cell.get();
        let Ok(target) = e.inner.target(&i) else { return };
        match target.wanted_key(&e.context(cell)).await {
            Ok(Some(wanted)) => {
                if let Some(issuer) = issuers.iter().find(|i| i.name() == wanted.issuer) {
                    issuer.refetch(&wanted.kid).await;
                }
            }
            Ok(None) => {}
            Err(_) => tokio::time::sleep(DEAF).await,
        }
    }
}
