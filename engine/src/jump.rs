//! The host's clock jumps: somebody sets it, or a machine that slept wakes up.
//!
//! Times that people see and promise (the end of a lifetime, the days of a budget) go by the clock. Durations don't: an hour's
//! cost, a pause before another attempt and a time limit are as long as they are. So each instance gets a record that says which
//! two times were one moment, and what counts goes on from the second as it would have from the first.
use crate::{
    cell::Cell,
    clock::Millis,
    engine::{Caller, Engine},
    error::Error,
};
use std::{sync::Arc, time::Duration};
use syp_proto::journal::{self, record::Body};
use tokio::time::Instant;

/// Less is what keeps a clock right.
const TOLERANCE: Millis = 2_000;
/// How often is looked.
const LOOK: Duration = Duration::from_secs(5);

/// Two times that were one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// What the clock would have said.
    pub from: Millis,
    /// What it said.
    pub to: Millis,
}

/// Compares the clock with time that only goes on.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    wall: Millis,
    at: Instant,
}

// === impl Watch ===

impl Watch {
    /// From now on.
    pub fn new(wall: Millis, at: Instant) -> Self {
        Self { wall, at }
    }

    /// What happened since the last look.
    pub fn look(&mut self, wall: Millis, at: Instant) -> Option<Jump> {
        let passed = Millis::try_from((at - self.at).as_millis()).unwrap_or(Millis::MAX);
        let from = self.wall.saturating_add(passed);
        (self.wall, self.at) = (wall, at);
        between(from, wall)
    }
}

fn between(from: Millis, to: Millis) -> Option<Jump> {
    ((to - from).abs() > TOLERANCE).then_some(Jump { from, to })
}

// === impl Engine ===

impl Engine {
    /// Looks at the clock for as long as the engine runs.
    pub(crate) fn watch_clock(&self) {
        let e = self.clone();
        self.spawn(async move {
            let mut watch = Watch::new(e.clock().now(), Instant::now());
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = e.inner.stop.cancelled() => return,
                }
                if let Some(jump) = watch.look(e.clock().now(), Instant::now()) {
                    tracing::warn!(ms = jump.to - jump.from, "the host's clock jumped");
                    for cell in e.cells() {
                        e.tell_of_jump(&cell, jump).await;
                    }
                }
            }
        });
    }

    /// At a start: a clock that is behind what was written before was set back while no engine ran. One that was set forward
    /// can't be told from a time without an engine.
    pub(crate) async fn set_back(&self, cells: &[Arc<Cell>]) {
        for cell in cells {
            let (from, to) = (cell.get().update_ms, self.clock().now());
            if let Some(jump) = between(from, to).filter(|j| j.to < j.from) {
                self.tell_of_jump(cell, jump).await;
            }
        }
    }

    async fn tell_of_jump(&self, cell: &Arc<Cell>, jump: Jump) {
        if cell.blocked().is_some() {
            return;
        }
        let body = Body::ClockJumped(journal::ClockJumped { from_ms: jump.from, to_ms: jump.to });
        let who = Caller { actor: "engine".into(), ..Default::default() };
        let guard = cell.writer.lock().await;
        let done: Result<_, Error> = self.append_locked(cell, vec![body], &who, None).await.map(drop);
        drop(guard);
        match done {
            Ok(()) => self.kick(cell),
            Err(error) => {
                tracing::warn!(instance = %cell.id, %error, "it was not told that the clock jumped")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_kept_right_does_not_jump_and_one_that_is_set_does() {
        let at = Instant::now();
        let after = |s: u64| at + Duration::from_secs(s);
        let mut w = Watch::new(1_000_000, at);
        assert_eq!(w.look(1_005_400, after(5)), None, "slewed");
        assert_eq!(w.look(4_610_400, after(10)), Some(Jump { from: 1_010_400, to: 4_610_400 }));
        assert_eq!(w.look(4_615_400, after(15)), None, "told once");
        assert_eq!(w.look(1_020_400, after(20)), Some(Jump { from: 4_620_400, to: 1_020_400 }));
    }
}
