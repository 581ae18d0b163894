//! Who calls, and may they: asked when a request begins, and again for as long as it is under way.

use std::sync::Arc;

use syp_auth::verify::{Error, Identity};
use syp_auth::{Request as PolicyRequest, Verifier, machine};

use crate::conn::Conn;
use crate::headers::Told;
use crate::reply::Failure;
use crate::state::{Active, State};

/// A caller, what was decided about them and what the app is told of them.
pub struct Caller {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// The token that says so: what outlives its admission is asked for it again.
    pub token: Box<str>,
    /// Of the configuration under which this was decided.
    pub serial: u64,
    /// Whether they are let in.
    pub allowed: bool,
    /// Why, or why not.
    pub reason: &'static str,
    /// The rule that decided.
    pub rule: Option<Arc<str>>,
    /// What the app is told.
    pub told: Told,
}

/// Why a caller is not let in, or not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// As far as the caller may know.
    pub failure: Failure,
    /// For the log.
    pub reason: &'static str,
}

impl Denied {
    /// The token is not good.
    #[must_use]
    pub fn token(reason: &'static str) -> Self {
        Self { failure: Failure::Unauthenticated, reason }
    }

    /// The rules do not let them in.
    #[must_use]
    pub fn rules(reason: &'static str) -> Self {
        Self { failure: Failure::Forbidden, reason }
    }
}

/// Whose token this is, by keys that may still be used.
///
/// # Errors
/// It is refused.
pub async fn identify(
    state: &State,
    active: &Active,
    token: &str,
    digest: syp_auth::cache::Digest,
) -> Result<Arc<Identity>, Denied> {
    if machine::is_machine(token) {
        let who = active.tokens.verify(&digest, syp_auth::unix_now());
        return who.map_err(|error| Denied::token(error.reason()));
    }
    let who = active.verifier.verify_digest(token, digest).await;
    let who = who.map_err(|error| Denied::token(error.reason()))?;
    // the same words as for keys that this process fetched itself and that became too old
    if state.keys_too_old(active, &who.issuer) {
        return Err(Denied::token(Error::JwksUnavailable.reason()));
    }
    Ok(who)
}

/// Decides about a caller, or finds that it was decided already: for this very identity, under this very configuration, by
/// rules that do not look at the request. Most connections are of one caller.
#[must_use]
pub fn decide(
    conn: &Conn,
    active: &Active,
    identity: Arc<Identity>,
    token: &str,
    asked: &PolicyRequest<'_>,
) -> Arc<Caller> {
    let last = conn.last.lock().clone();
    let same = |l: &Arc<Caller>| l.serial == active.serial && Arc::ptr_eq(&l.identity, &identity);
    if let Some(last) = last.filter(|l| !active.by_request && same(l)) {
        return last;
    }
    let decision = active.config.policy.decide(&identity, Some(asked));
    let (allowed, reason, rule) = (decision.allowed, decision.reason, decision.rule_id.map(Arc::from));
    let (told, token, serial) = (Told::of(&identity), token.into(), active.serial);
    let caller = Arc::new(Caller { identity, token, serial, allowed, reason, rule, told });
    *conn.last.lock() = Some(caller.clone());
    caller
}

/// Whether a caller who was let in would be let in now.
///
/// # Errors
/// Not any more.
pub async fn may_go_on(
    state: &State,
    active: &Active,
    caller: &Caller,
    asked: &PolicyRequest<'_>,
) -> Result<(), Denied> {
    // keys, issuers and audiences may have changed, not only rules
    let who = identify(state, active, &caller.token, Verifier::digest(&caller.token)).await?;
    still_may(state, active, &who, asked)
}

/// As [`may_go_on`], for one whose token was good when the request began.
///
/// # Errors
/// Not any more.
pub fn still_may(
    state: &State,
    active: &Active,
    who: &Identity,
    asked: &PolicyRequest<'_>,
) -> Result<(), Denied> {
    if state.keys_too_old(active, &who.issuer) {
        return Err(Denied::token(Error::JwksUnavailable.reason()));
    }
    let allowed = active.config.policy.decide(who, Some(asked)).allowed;
    if allowed { Ok(()) } else { Err(Denied::rules("POLICY_CHANGED")) }
}
