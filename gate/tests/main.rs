//! The real gate as a child process, configured over its admin port as the engine does it, between real clients and real apps.

mod common;

mod admin;
mod framing;
mod identity;
mod paths;
mod token;
