//! Named points at which a test ends the process: each stands for a window in which `kill -9` may fall.
//!
//! CP2 and CP6 (written, not synced) are the store's: a test's disk ends the process there. CP8 (on disk, not published) leaves
//! the same behind as CP7, since what is published is in memory only. CP11 belongs to leases, which this engine has none of.
use async_trait::async_trait;

/// A window of the write protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// CP1: decided, nothing written.
    BeforeCommit,
    /// CP3: the intent is on disk, nothing was called.
    IntentSynced,
    /// CP4: the provider did it, the answer has not been seen.
    Called,
    /// CP5: the answer was seen, nothing written.
    Answered,
    /// CP7: the outcome is on disk, nothing of it published, no successor started.
    OutcomeSynced,
    /// CP9: the store is open, recovery has begun.
    Recovering,
    /// CP10: the listing was made, its result not written.
    Swept,
}

/// All points, for matrices.
pub const POINTS: &[Point] = &[
    Point::BeforeCommit,
    Point::IntentSynced,
    Point::Called,
    Point::Answered,
    Point::OutcomeSynced,
    Point::Recovering,
    Point::Swept,
];

/// Asked at every point. It returns, or the process is over.
#[async_trait]
pub trait Faults: Send + Sync {
    /// `what`: node, `undo NODE`, `list`, or empty.
    async fn at(&self, point: Point, what: &str);
}

/// No faults: what the product runs with.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFaults;

#[async_trait]
impl Faults for NoFaults {
    async fn at(&self, _: Point, _: &str) {}
}

// === impl Point ===

impl Point {
    /// `CP1` and so on, as in the fault matrix.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeCommit => "CP1",
            Self::IntentSynced => "CP3",
            Self::Called => "CP4",
            Self::Answered => "CP5",
            Self::OutcomeSynced => "CP7",
            Self::Recovering => "CP9",
            Self::Swept => "CP10",
        }
    }
}
