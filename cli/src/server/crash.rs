//! `SYP_CRASH_AT=CP4:gate:1` ends the process, as `kill -9` would, at the first hit of that point; `CP2::3` (and CP6, which differs
//! only in what is being written) before the third sync of the store. `CP4:@FILE` ends it at whichever comes first of the lines of a
//! file, and strikes that line out: the engines that come after die at the others. For the crash suites.
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use syp_engine::{
    fault::{Faults, NoFaults, Point},
    store::{self, Kv, Op, Pair},
};

struct CrashAt {
    point: String,
    what: What,
    left: AtomicU32,
}

/// Of what.
enum What {
    /// One node; `*`: any.
    Node(String),
    /// The lines of a file.
    Each(PathBuf),
}

/// What the environment asks for; without it, no faults.
pub fn from_environment() -> Arc<dyn Faults> {
    match asked() {
        Some(at) => Arc::new(at),
        None => Arc::new(NoFaults),
    }
}

/// The store's disk, with the crash that the environment asks for.
pub fn disk(kv: impl Kv) -> Arc<dyn Kv> {
    match asked().filter(|at| matches!(at.point.as_str(), "CP2" | "CP6")) {
        Some(at) => Arc::new(Unsynced { kv, at }),
        None => Arc::new(kv),
    }
}

fn asked() -> Option<CrashAt> {
    let text = std::env::var("SYP_CRASH_AT").ok()?;
    let mut parts = text.splitn(3, ':');
    let point = parts.next().unwrap_or_default().to_owned();
    let what = parts.next().unwrap_or_default();
    let what = match what.strip_prefix('@') {
        Some(file) => What::Each(file.into()),
        None => What::Node(what.to_owned()),
    };
    let nth = parts.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    Some(CrashAt { point, what, left: AtomicU32::new(nth) })
}

// === impl CrashAt ===

impl CrashAt {
    fn hit(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // no destructor, no flush: what SIGKILL leaves behind
            let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
            std::process::abort();
        }
    }
}

#[async_trait::async_trait]
impl Faults for CrashAt {
    async fn at(&self, point: Point, what: &str) {
        if point.name() != self.point {
            return;
        }
        let named = match &self.what {
            What::Node(node) => what == node || node == "*",
            What::Each(file) => struck_out(file, what),
        };
        if named {
            self.hit();
        }
    }
}

/// Was it among the lines of a file? It is not any more.
fn struck_out(file: &Path, what: &str) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let left: String = text.lines().filter(|l| *l != what).map(|l| format!("{l}\n")).collect();
    left.len() < text.len() && std::fs::write(file, left).is_ok()
}

/// A disk on which a write is begun and never ended.
struct Unsynced<K> {
    kv: K,
    at: CrashAt,
}

impl<K: Kv> Kv for Unsynced<K> {
    fn apply(&self, ops: Vec<Op>) -> Result<(), store::Error> {
        self.kv.apply(ops)
    }

    fn sync(&self) -> Result<(), store::Error> {
        self.at.hit();
        self.kv.sync()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, store::Error> {
        self.kv.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Pair>, store::Error> {
        self.kv.scan(from, to, limit, reverse)
    }
}
