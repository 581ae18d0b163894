//! What the targets do: one file a step, plus planning, listing, figures and prices of each target.
//!
//! A step knows its effect by a key that exists before the call; it converges, and it destroys what never ran, half ran or is gone.
mod admin;
pub mod aws;
pub mod docker;
#[cfg(feature = "test-util")]
pub mod fake;
pub mod k8s;
pub mod kind;
mod labels;
pub mod power;
pub mod prices;
pub mod registry;
mod verdict;
