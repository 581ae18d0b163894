//! Whether the gate admits requests and keeps connections. Connections and tunnels watch it, so that it costs a request nothing.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

/// A connection on which nothing happens for so long is not about to be used: in a leave it is closed then. Closing one in the
/// moment in which its client sends loses that request, and this moment is the rarer the longer nothing came before it.
pub const QUIET: Duration = Duration::from_secs(2);

/// What the gate does with requests and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It admits requests and keeps connections for the next ones.
    Serve,
    /// It admits requests, and asks clients to go elsewhere with the next ones.
    Leave,
    /// It refuses requests; what is under way has until then.
    Drain(Instant),
}

/// Until a drain begins.
pub async fn draining(phase: &mut watch::Receiver<Phase>) {
    if phase.wait_for(|p| matches!(p, Phase::Drain(_))).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Until the deadline of a drain; a drain that is called off has none.
pub async fn overdue(phase: &mut watch::Receiver<Phase>) {
    loop {
        let until = match *phase.borrow_and_update() {
            Phase::Drain(until) => Some(until),
            Phase::Serve | Phase::Leave => None,
        };
        let passed = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = passed => return,
            changed = phase.changed() => if changed.is_err() { return },
        }
    }
}

/// Until a connection has to say goodbye.
///
/// In a drain that is when its client has asked something, or had its second for that: hyper closes a connection that is shut
/// down before its first request, and that client would have no answer at all. When the gate leaves, `left` says when.
pub async fn goodbye<F: Future<Output = ()>>(
    asked: &Notify,
    phase: &mut watch::Receiver<Phase>,
    left: impl Fn() -> F,
) {
    loop {
        let now = phase.wait_for(|p| *p != Phase::Serve).await.map(|p| *p);
        let Ok(now) = now else { return std::future::pending().await };
        if now != Phase::Leave {
            let _ = timeout(Duration::from_secs(1), asked.notified()).await;
            return;
        }
        // boxed: few connections live to see it, and all would be as large
        tokio::select! {
            () = Box::pin(left()) => return,
            () = draining(phase) => {}
        }
    }
}

/// Until two looks in a row, [`QUIET`] apart, found the connection idle.
///
/// It was idle all the while between them: a request that comes when the gate leaves is the last one of an HTTP/1 connection.
pub async fn idle(is_idle: impl Fn() -> bool) {
    let mut before = is_idle();
    loop {
        tokio::time::sleep(QUIET).await;
        let now = is_idle();
        if before && now {
            return;
        }
        before = now;
    }
}
