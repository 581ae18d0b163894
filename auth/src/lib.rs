//! Who is calling, and may they: tokens, keys and access policy, used by the engine's interceptors and by the gate alike.
//!
//! What this crate guarantees:
//! - I1. A token is accepted only when its signature fits a key that its issuer publishes *now* (or published at most
//!   [`jwks::Options::max_age`] ago, while the issuer cannot be reached), with the algorithm that belongs to that key.
//!   Nothing in the token's header chooses an algorithm, a key location or a shared secret.
//! - I2. `iss`, `sub`, `aud` and `exp` are required; number types are strict; a claim named twice refuses the token.
//! - I3. The verified-token cache never outlives the token, a key that was removed, or the verifier (one per configuration).
//! - I4. No rule that matches means no access. A path that two servers could read differently is allowed by no rule with
//!   path prefixes and is caught by every deny rule.
//! - I5. No error tells a caller which check failed; it carries a stable reason for the log and the operator.

pub mod cache;
pub mod cors;
pub mod door;
pub mod fetch;
pub mod histogram;
pub mod jwk;
pub mod jwks;
pub mod local;
pub mod machine;
pub mod path;
pub mod policy;
pub mod remote;
pub mod verify;

pub use door::{
    GateConfig, GateMetrics, GateStatus, HolderStatus, Listener, Mode, Probe, Protocol, Upstream,
    UpstreamStatus,
};
pub use histogram::Histogram;
pub use jwk::KeySet;
pub use jwks::{Issuer, IssuerConfig, Issuers};
pub use local::{LocalIssuer, MintRequest};
pub use machine::{MachineToken, MachineTokens};
pub use policy::{Decision, Effect, Member, Policy, Request, Role, Rule};
pub use verify::{Identity, Verifier, VerifierOptions};

/// Chooses the one cryptography backend (aws-lc) for tokens and TLS. Call it first thing in every binary: when feature
/// unification ever brings a second backend in, both libraries panic on first use without this.
pub fn install_crypto() {
    // an error only says that a provider is installed already
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Seconds since the Unix epoch; a clock before the epoch reads as 0, which refuses every token that has an `iat`.
#[must_use]
pub fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Compares two secrets in a time that does not tell how much of them is equal.
#[must_use]
pub fn same_secret(a: &str, b: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(&Verifier::digest(a), &Verifier::digest(b)).is_ok()
}
