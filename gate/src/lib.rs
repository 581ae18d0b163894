//! The door in front of every served instance, and the holder that closes every other way to it.
//!
//! What the gate guarantees:
//! - G1. No request reaches the app without a token that [`syp_auth`] accepts and a rule that lets its bearer in. Before a
//!   configuration is there, everything is refused.
//! - G2. The app sees identity headers of the gate only; a client's own, in any spelling, are taken away.
//! - G3. A request that two servers could read differently is refused.
//! - G4. Bodies stream; nothing is gathered. A request is sent to another replica only when nothing of it was sent to the first.
//! - G5. A new configuration holds for every request from then on and drops no connection.
//! - G6. A drain lets what is under way finish, up to a deadline; tunnels are counted and cut then.
//! - G7. What is under way (an answer, an upload, a tunnel) ends when its caller would not be let in any more: at once for a new
//!   configuration, a second or two after the end of a token, a minute after an issuer dropped a key.
//! - G8. Keys that only the engine hands out are used for at most [`syp_auth::jwks::Options::max_age`] after it was last heard
//!   of, as those that the gate fetches itself.
//! - G9. A gate that leaves loses nothing of what still comes to it: it only takes away reasons to come again.
//!
//! What the holder guarantees: it says `sealed` only when the rules are in place, and then has no right to change them.

pub mod access_log;
pub mod admin;
pub mod agent;
pub mod beside;
pub mod body;
pub mod caller;
pub mod client_io;
pub mod conn;
pub mod cors;
pub mod framing;
pub mod handle;
pub mod headers;
pub mod health;
pub mod hold;
pub mod keep;
pub mod leave;
pub mod metrics;
pub mod open;
pub mod phase;
pub mod reach;
pub mod record;
pub mod remote;
pub mod replica;
pub mod reply;
pub mod route;
pub mod serve;
pub mod state;
pub mod tls;
pub mod tunnel;
