//! Wall time comes in by value: the engine asks a [`Clock`], tests give one that follows tokio's virtual time.
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch, UTC.
pub type Millis = i64;

/// Where "now" comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The host's clock. It may jump (`jump.rs`): what goes by it happens early or late, effects never twice.
    System,
    /// The host's clock as if somebody had set it by so many milliseconds (tests).
    Set(Arc<AtomicI64>),
    /// A fixed start plus tokio's (pausable) monotonic time.
    Virtual {
        /// Wall time at `origin`.
        start: Millis,
        /// When it was made.
        origin: tokio::time::Instant,
    },
}

// === impl Clock ===

impl Clock {
    /// A clock for tests, starting at a fixed date.
    pub fn virtual_now() -> Self {
        Self::Virtual { start: 1_800_000_000_000, origin: tokio::time::Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Millis {
        match self {
            Self::System => host(),
            Self::Set(by) => host() + by.load(Relaxed),
            Self::Virtual { start, origin } => {
                start + i64::try_from(origin.elapsed().as_millis()).unwrap_or(i64::MAX)
            }
        }
    }
}

fn host() -> Millis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// As `google.protobuf.Timestamp`; zero (never) is `None`.
pub fn timestamp(ms: Millis) -> Option<prost_types::Timestamp> {
    (ms != 0).then(|| prost_types::Timestamp {
        seconds: ms.div_euclid(1000),
        nanos: i32::try_from(ms.rem_euclid(1000)).unwrap_or(0) * 1_000_000,
    })
}

/// From `google.protobuf.Timestamp`.
pub fn millis(t: &prost_types::Timestamp) -> Millis {
    t.seconds.saturating_mul(1000).saturating_add(i64::from(t.nanos) / 1_000_000)
}

/// From `google.protobuf.Duration`.
pub fn duration_millis(d: &prost_types::Duration) -> Millis {
    d.seconds.saturating_mul(1000).saturating_add(i64::from(d.nanos) / 1_000_000)
}

/// As `google.protobuf.Duration`.
pub fn duration(ms: Millis) -> prost_types::Duration {
    prost_types::Duration { seconds: ms / 1000, nanos: i32::try_from(ms % 1000).unwrap_or(0) * 1_000_000 }
}
