//! The API `syp.v1`, the record formats `syp.journal.v1` and the Google types they use, generated at build time.
//!
//! Also here: the descriptor set (for reflection and for the test that every RPC has a role) and the canonical proto3 JSON of any message.

#[allow(missing_docs, clippy::all, rustdoc::all, rust_2018_idioms)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/all.rs"));
}
mod json;

pub use generated::google;
pub use generated::syp::{journal::v1 as journal, v1};
pub use json::{DESCRIPTORS, from_json, pool, to_json};
