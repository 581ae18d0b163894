//! Time series of every instance, bounded in size: 10 s for an hour, 1 min for a day, 1 h for a month.
//!
//! ```text
//! Target::stats ─► Head::take (differences) ─► Live: newest points, in memory ─► rows of the store, once a minute
//!                                                                                  │ 15 min over: minutes, hour over: hours
//! QueryMetrics ◄── query (rows + memory) ◄─────────────────────────────────────────┘
//! ```
//! Guarantees: what the gate counted is in exactly one point, also over a `kill -9` of the engine, because the counters that the
//! next difference begins from are written with the points that were made with them. What a `kill -9` costs is when it was: up to
//! a minute of points become one that reaches back. What nobody could read is a gap, never a zero. Points are added up, never
//! averaged: percentiles come from merged histograms.
mod code;
mod energy;
mod gather;
mod head;
mod live;
mod point;
pub mod prometheus;
mod query;
mod sampler;
mod tier;

pub use code::{from_chunk, head_of, to_chunk, to_head};
pub use head::Head;
pub use live::{Live, Newest, Series};
pub use point::{Counters, Point};
pub use query::Range;
pub use sampler::Sampler;
pub use tier::{Tier, regroup};

use crate::{clock::Millis, id::InstanceId};
use syp_proto::journal::{SeriesChunk, SeriesHead};

/// Time between two looks at an instance.
pub const EVERY_MS: Millis = 10_000;

/// A row of the store.
#[derive(Clone, Debug)]
pub enum Row {
    /// Points of one resolution from `start_ms` on.
    Chunk {
        /// Resolution.
        tier: Tier,
        /// Where it begins, a multiple of [`Tier::chunk_ms`].
        start_ms: Millis,
        /// Whose.
        id: InstanceId,
        /// The points.
        points: SeriesChunk,
    },
    /// Where the next difference of an instance begins; `None` removes it.
    Head(InstanceId, Option<Box<SeriesHead>>),
}
