//! The lifecycle engine: a declarative, persisted state machine that survives `kill -9` at any instant.
//!
//! What holds at every instant (the numbers are used in tests and in ARCHITECTURE.md):
//! - I1 no provider call without a synced intent for that run, node and attempt;
//! - I2 whatever exists at the provider has a ledger row that is not over, or the sweep before `Destroyed` finds it;
//! - I3 what was acknowledged is on disk;
//! - I4 record numbers have no gap, and the projection is the fold of the journal;
//! - I5 states move along edges of the graph only, one run at a time, `Destroyed` is final;
//! - I6 a step starts when everything before it is done; I7 at most one outcome per attempt, none without intent;
//! - I8 a teardown that began ends in `Destroyed`, however long that takes;
//! - I9 only what carries our labels is ever touched; I10 outcomes of old attempts change nothing;
//! - I12 cost covers every interval in which a billed thing may have existed; I13 back-off and deadlines survive a restart;
//! - I16 no secret in journal, events, logs or errors; I17 an unreadable instance blocks itself only.
pub mod budget;
mod calls;
pub mod cell;
pub mod changes;
pub mod clock;
pub mod cost;
pub mod door;
mod ended;
pub mod engine;
pub mod error;
pub mod failure;
pub mod fault;
pub mod fold;
pub mod graph;
pub mod id;
mod inner;
pub mod journal;
mod keys;
pub mod meter;
pub mod ops;
pub mod plan;
pub mod reconcile;
pub mod revision;
pub mod scheduler;
pub mod series;
pub mod step;
pub mod store;
pub mod tariffs;
pub mod timer;
mod tokens;
pub mod vault;
pub mod view;
mod worker;
mod write;
pub use calls::name_conflict;
pub mod api;
