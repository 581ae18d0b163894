//! The issuers' keys, on their way to the gates: a gate may not reach an issuer that the engine reaches.
//!
//! Guarantees: keys that changed are at every serving gate as soon as it answers; a gate that saw a token with a key it lacks
//! makes the engine ask the issuer, under the limits of [`Issuer::refetch`].
use crate::{cell::Cell, engine::Engine, graph::State, id::InstanceId};
use futures_util::future::join_all;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use syp_auth::jwks::{Issuer, Issuers};
use tokio::{sync::Notify, time::Instant};

/// How often is looked for changed keys and new instances.
const LOOK: Duration = Duration::from_millis(500);
/// A push that began before a change, with the keys of then, has ended after this: the new ones are pushed once more.
const SETTLED: Duration = Duration::from_secs(6);
/// A gate that fetches for itself forgets keys it can't refresh; it is told that they are still good.
const REMIND: Duration = Duration::from_secs(3600);
/// A gate that does not answer is asked again after this.
const DEAF: Duration = Duration::from_secs(2);

struct Follower {
    engine: Engine,
    issuers: Vec<Arc<Issuer>>,
    news: Arc<Notify>,
    /// Gates that have not got the keys of now.
    due: HashSet<InstanceId>,
    listeners: HashMap<InstanceId, tokio::task::JoinHandle<()>>,
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
        let f = Follower { engine: self.clone(), issuers, news: Arc::default(), due, listeners };
        self.spawn(f.run());
    }
}

// === impl Follower ===

impl Follower {
    async fn run(mut self) {
        let (mut before, mut again) = (Vec::new(), Instant::now());
        loop {
            let stamps: Vec<_> = self.issuers.iter().map(|i| i.stamp()).collect();
            if stamps != before {
                before = stamps;
                let others = self.issuers.iter().filter_map(|i| i.for_gate()).collect();
                self.engine.inner.door.set_others(others);
                self.due.extend(self.engine.cells().iter().map(|c| c.id));
                again = Instant::now() + SETTLED;
            } else if Instant::now() >= again {
                self.due.extend(self.engine.cells().iter().map(|c| c.id));
                again = Instant::now() + REMIND;
            }
            self.push().await;
            self.listen();
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.news.notified() => {}
            }
        }
    }

    /// One that does not serve yet stays due: its first configuration may be from before.
    async fn push(&mut self) {
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
            pushed.ok().map(|()| cell.id)
        });
        // one gate that is slow to answer keeps the others no longer than itself
        for id in join_all(pushes).await.into_iter().flatten() {
            self.due.remove(&id);
        }
    }

    fn listen(&mut self) {
        self.listeners.retain(|_, task| !task.is_finished());
        for cell in self.engine.cells() {
            if cell.get().state() == State::Serving && !self.listeners.contains_key(&cell.id) {
                let (e, issuers, news) = (self.engine.clone(), self.issuers.clone(), self.news.clone());
                let id = cell.id;
                let task = tokio::spawn(async move { hear(&e, &cell, &issuers, &news).await });
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
async fn hear(e: &Engine, cell: &Arc<Cell>, issuers: &[Arc<Issuer>], news: &Notify) {
    while cell.get().state() == State::Serving {
        let i = cell.get();
        let Ok(target) = e.inner.target(&i) else { return };
        match target.wanted_key(&e.context(cell)).await {
            Ok(Some(wanted)) => {
                if let Some(issuer) = issuers.iter().find(|i| i.name() == wanted.issuer) {
                    issuer.refetch(&wanted.kid).await;
                    news.notify_one();
                }
            }
            Ok(None) => {}
            Err(_) => tokio::time::sleep(DEAF).await,
        }
    }
}
