//! The real gate as a child process, configured over its admin port as the engine does it, between real clients and real apps.

mod common;

mod access;
mod admin;
mod beside;
mod cors;
mod drain;
mod framing;
mod identity;
mod keep;
mod keys;
mod leave;
mod machine;
mod paths;
mod protocols;
mod reach;
mod reload;
mod remote;
mod replicas;
mod routes;
mod seal;
mod streaming;
mod tls;
mod token;
mod websocket;
