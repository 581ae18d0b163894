//! `SYP_CRASH_AT=CP4:gate:1` ends the process, as `kill -9` would, at the first hit of that point. For the crash suites.
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use syp_engine::fault::{Faults, NoFaults, Point};

struct CrashAt {
    point: String,
    what: String,
    left: AtomicU32,
}

/// What the environment asks for; without it, no faults.
pub fn from_environment() -> Arc<dyn Faults> {
    let Ok(text) = std::env::var("SYP_CRASH_AT") else { return Arc::new(NoFaults) };
    let mut parts = text.splitn(3, ':');
    let point = parts.next().unwrap_or_default().to_owned();
    let what = parts.next().unwrap_or_default().to_owned();
    let nth = parts.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    Arc::new(CrashAt { point, what, left: AtomicU32::new(nth) })
}

#[async_trait::async_trait]
impl Faults for CrashAt {
    async fn at(&self, point: Point, what: &str) {
        if point.name() != self.point || (what != self.what && self.what != "*") {
            return;
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // no destructor, no flush: what SIGKILL leaves behind
            let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
            std::process::abort();
        }
    }
}
