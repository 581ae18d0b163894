//! Which replica gets a request.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use crate::replica::{Replica, pick};
use crate::state::State;

/// Requests that may wait for a replica at once; more are refused, as they would be without waiting.
const WAITING: usize = 4096;

/// A ready replica that is none of those tried, by the configuration of this very moment: one that a request began under may
/// name replicas that are gone since. Where the configuration says so, the first try waits for one.
pub async fn next(state: &State, tried: &[Arc<Replica>]) -> Option<Arc<Replica>> {
    let now = || {
        let active = state.active()?;
        let turn = active.turn.fetch_add(1, Relaxed);
        pick(&active.open, turn, tried).cloned()
    };
    match now() {
        None if tried.is_empty() => Box::pin(hold(state, now)).await,
        found => found,
    }
}

async fn hold(state: &State, now: impl Fn() -> Option<Arc<Replica>>) -> Option<Arc<Replica>> {
    let limit = Duration::from_millis(state.active()?.config.hold_ms);
    if limit.is_zero() || state.waiting.fetch_add(1, Relaxed) >= WAITING {
        if !limit.is_zero() {
            state.waiting.fetch_sub(1, Relaxed);
        }
        return None;
    }
    let end = Instant::now() + limit;
    let found = loop {
        // asked for before looking, so that none is missed between the two
        let came = state.came.notified();
        tokio::pin!(came);
        came.as_mut().enable();
        if let Some(replica) = now() {
            break Some(replica);
        }
        if state.draining() || tokio::time::timeout_at(end, came).await.is_err() {
            break None;
        }
    };
    state.waiting.fetch_sub(1, Relaxed);
    found
}
