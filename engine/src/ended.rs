//! Operations that ended, for whoever tells others of them (traces).
use crate::{engine::Engine, id::InstanceId, view};
use std::{collections::HashMap, sync::Arc};
use syp_proto::{google::longrunning::Operation, journal::Instance};
use tokio::sync::mpsc;

// === impl Engine ===

impl Engine {
    /// Every operation that ends from now on, with its instance as it was then. Those that end while the receiver is full wait.
    pub fn ended_operations(&self) -> mpsc::Receiver<(Arc<Instance>, Operation)> {
        let (to, ended) = mpsc::channel(256);
        let (e, begun) = (self.clone(), self.clock().now());
        // both before the first change can come
        let (mut news, mut seen) = (self.changes().subscribe(), self.changes().last());
        self.spawn(async move {
            let mut told: HashMap<InstanceId, u32> = HashMap::new();
            while news.changed().await.is_ok() {
                let last = e.changes().last();
                let changed = e.changes().after(seen).unwrap_or_default();
                seen = last;
                for id in changed.into_iter().map(|(_, id)| id) {
                    let live = e.cell(id);
                    let i = match &live {
                        Some(cell) => cell.get(),
                        // its last operation is the one that took it down
                        None => match view::load_any(&**e.store(), id).await {
                            Ok(Some(i)) => Arc::new(i),
                            _ => continue,
                        },
                    };
                    let before = told.get(&id).copied().unwrap_or(0);
                    let new = i.past.iter().filter(|r| r.no > before && r.ended_ms >= begun);
                    for no in new.map(|r| r.no).collect::<Vec<_>>() {
                        told.insert(id, no);
                        let Some(operation) = view::operation(&i, no, None, e.clock().now()) else {
                            continue;
                        };
                        if to.send((Arc::clone(&i), operation)).await.is_err() {
                            return;
                        }
                    }
                    if live.is_none() {
                        told.remove(&id);
                    }
                }
            }
        });
        ended
    }
}
