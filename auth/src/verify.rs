//! Tokens: what is accepted, and why not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cache::{Cache, Digest};
use crate::jwk::{self, Key, KeySet};
use crate::jwks::{Issuer, Issuers};
use crate::policy::is_email;

mod claims;

/// Who a token speaks for. Identity is (issuer, subject); the email is only something that rules match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// `iss`.
    pub issuer: String,
    /// `sub`.
    pub subject: String,
    /// `email`, in ASCII lower case; absent when it is not a plain address.
    pub email: Option<String>,
    /// Whether the issuer says that the address was verified (or it is configured to be trusted when it says nothing).
    pub email_verified: bool,
    /// From the issuer's groups claim.
    pub groups: Vec<String>,
    /// All claims of the token.
    pub claims: Map<String, Value>,
    /// `exp`, in seconds since the epoch.
    pub expires_at: u64,
    /// Requests below these paths only, whatever a policy says; empty: all. Only machine tokens have any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<String>,
}

/// Why a token is refused. The caller only learns 'unauthenticated'; this is for logs and operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a JWT in compact form, or its parts are not what they must be.
    #[error("the token is not a well-formed JWT: {0}")]
    Malformed(&'static str),
    /// Longer than [`VerifierOptions::max_token_bytes`].
    #[error("the token is too long")]
    TooLarge,
    /// `crit`, `b64`, `zip`, `enc` or `cty`.
    #[error("the token's header asks for an extension that is not supported")]
    CriticalHeader,
    /// `typ` says that it is another kind of token (a logout token, say).
    #[error("the token's 'typ' is not that of an access or identity token")]
    Type,
    /// `alg` is none, symmetric, unknown, or not the one of the key.
    #[error("the token's algorithm is not accepted for its key")]
    Algorithm,
    /// `iss` is not configured.
    #[error("the token's issuer is not configured")]
    IssuerUnknown,
    /// No key of that name.
    #[error("the issuer has no such key")]
    KeyUnknown,
    /// The issuer's keys could not be fetched, or the last good ones are too old.
    #[error("the issuer's keys are not available")]
    JwksUnavailable,
    /// The signature does not fit.
    #[error("the signature does not fit")]
    Signature,
    /// After `exp`.
    #[error("the token has expired")]
    Expired,
    /// Before `nbf`, or issued in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `aud` has none of ours.
    #[error("the token is meant for another audience")]
    Audience,
    /// A claim is missing or of the wrong type.
    #[error("the token's claim '{0}' is missing or of the wrong type")]
    Claim(&'static str),
    /// A machine token that never was, or was revoked.
    #[error("there is no such machine token (any more)")]
    Unknown,
}

/// Limits of a [`Verifier`].
#[derive(Debug, Clone)]
pub struct VerifierOptions {
    /// Tolerated clock difference; at most 60 s whatever is set.
    pub leeway: Duration,
    /// The longest token looked at.
    pub max_token_bytes: usize,
    /// How many verified tokens are remembered.
    pub cache_entries: usize,
    /// For how long at most; never past `exp`.
    pub cache_life: Duration,
}

impl Default for VerifierOptions {
    fn default() -> Self {
        let (leeway, cache_life) = (Duration::from_secs(30), Duration::from_secs(60));
        Self { leeway, max_token_bytes: 8192, cache_entries: 8192, cache_life }
    }
}

/// Verifies tokens for one configuration. Make a new one when audiences or issuers change: its cache goes with it.
pub struct Verifier {
    issuers: Vec<Arc<Issuer>>,
    audiences: Vec<String>,
    options: VerifierOptions,
    cache: Cache<Cached>,
}

#[derive(Clone)]
struct Cached {
    identity: Arc<Identity>,
    issuer: usize,
    stamp: u64,
    until: Instant,
}

/// What of the JOSE header matters. Other members (`jku`, `jwk`, `x5u` ...) are never looked at.
#[derive(Deserialize)]
struct Header<'a> {
    alg: std::borrow::Cow<'a, str>,
    kid: Option<String>,
    typ: Option<std::borrow::Cow<'a, str>>,
    // present in any form: refused
    cty: Option<Value>,
    crit: Option<Value>,
    b64: Option<Value>,
    zip: Option<Value>,
    enc: Option<Value>,
}

// === impl Error ===

impl Error {
    /// The stable name of this error.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "TOKEN_MALFORMED",
            Self::TooLarge => "TOKEN_TOO_LARGE",
            Self::CriticalHeader => "TOKEN_CRITICAL_HEADER",
            Self::Type => "TOKEN_TYPE",
            Self::Algorithm => "TOKEN_ALGORITHM",
            Self::IssuerUnknown => "TOKEN_ISSUER_UNKNOWN",
            Self::KeyUnknown => "TOKEN_KEY_UNKNOWN",
            Self::JwksUnavailable => "JWKS_UNAVAILABLE",
            Self::Signature => "TOKEN_SIGNATURE",
            Self::Expired => "TOKEN_EXPIRED",
            Self::NotYetValid => "TOKEN_NOT_YET_VALID",
            Self::Audience => "TOKEN_AUDIENCE",
            Self::Claim(_) => "TOKEN_CLAIM",
            Self::Unknown => "TOKEN_UNKNOWN",
        }
    }
}

// === impl Verifier ===

impl Verifier {
    /// A verifier for tokens of these issuers with any of these audiences.
    #[must_use]
    pub fn new(issuers: Vec<Arc<Issuer>>, audiences: Vec<String>, options: VerifierOptions) -> Self {
        let cache = Cache::new(options.cache_entries);
        Self { issuers, audiences, options, cache }
    }

    /// As [`Verifier::new`] with default options and the issuers that `issuers` holds now.
    #[must_use]
    pub fn of(issuers: &Issuers, audiences: Vec<String>) -> Self {
        Self::new(issuers.all(), audiences, VerifierOptions::default())
    }

    /// For other audiences, and only those of the issuers that `trusted` says; the keys are the same ones.
    #[must_use]
    pub fn with(&self, audiences: Vec<String>, trusted: impl Fn(&str) -> bool) -> Self {
        let issuers = self.issuers.iter().filter(|i| trusted(i.name())).cloned().collect();
        Self::new(issuers, audiences, self.options.clone())
    }

    /// Who claims of an issuer speak for, as if a good token carried them: for questions about a policy, never for a caller.
    ///
    /// # Errors
    /// [`Error::IssuerUnknown`], or what is wrong with the claims.
    pub fn suppose(&self, issuer: &str, claims: Map<String, Value>) -> Result<Identity, Error> {
        let issuer = self.issuers.iter().find(|i| i.name() == issuer).ok_or(Error::IssuerUnknown)?;
        identity(issuer, claims)
    }

    /// The claim in which an issuer carries groups; `None` for an issuer that is not trusted.
    #[must_use]
    pub fn groups_claim(&self, issuer: &str) -> Option<&str> {
        self.issuers.iter().find(|i| i.name() == issuer).map(|i| i.config().groups_claim.as_str())
    }

    /// Names of the issuers whose tokens are accepted.
    pub fn issuers(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(|i| i.name())
    }

    /// SHA-256 of a token: its name in logs (a prefix of it) and in the cache.
    #[must_use]
    pub fn digest(token: &str) -> Digest {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        out
    }

    /// Verifies a token now.
    ///
    /// # Errors
    /// [`Error`]: the token is refused.
    pub async fn verify(&self, token: &str) -> Result<Arc<Identity>, Error> {
        self.verify_digest(token, Self::digest(token)).await
    }

    /// As [`Verifier::verify`], for a caller that has the token's digest already.
    ///
    /// # Errors
    /// [`Error`]: the token is refused.
    pub async fn verify_digest(&self, token: &str, digest: Digest) -> Result<Arc<Identity>, Error> {
        if let Some(hit) = self.cache.get(&digest) {
            let fresh = Instant::now() < hit.until && crate::unix_now() < hit.identity.expires_at;
            if fresh && self.issuers[hit.issuer].stamp() == Some(hit.stamp) {
                return Ok(hit.identity);
            }
            self.cache.remove(&digest);
        }
        self.verify_at(token, digest, crate::unix_now()).await
    }

    /// Verifies at a given time, past the cache; a good result is remembered.
    async fn verify_at(&self, token: &str, digest: Digest, now: u64) -> Result<Arc<Identity>, Error> {
        if token.len() > self.options.max_token_bytes {
            return Err(Error::TooLarge);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Error::Malformed("it has no dots"))?;
        let (header, payload) = message.split_once('.').ok_or(Error::Malformed("it has one dot"))?;
        if payload.contains('.') || signature.is_empty() {
            return Err(Error::Malformed("it has not three parts"));
        }
        let header = decode(header)?;
        let header: Header<'_> = serde_json::from_str(&header).map_err(|_| Error::Malformed("its header"))?;
        let algorithm = check_header(&header)?;
        let claims = claims::parse(&decode(payload)?)?;
        let iss = claims.get("iss").and_then(Value::as_str).ok_or(Error::Claim("iss"))?;
        let index = self.issuers.iter().position(|i| i.name() == iss).ok_or(Error::IssuerUnknown)?;
        let issuer = &self.issuers[index];
        let (stamp, key) = find_key(issuer, header.kid.as_deref(), algorithm).await?;
        let verified =
            jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.decoding, key.algorithm);
        if !verified.unwrap_or(false) {
            return Err(Error::Signature);
        }
        let leeway = self.options.leeway.min(Duration::from_secs(60)).as_secs();
        claims::check_audience(&claims, &self.audiences)?;
        // last, so that one that is only over is known by that
        claims::check_times(&claims, now, leeway)?;
        let identity = Arc::new(identity(issuer, claims)?);
        self.remember(digest, index, stamp, &identity);
        Ok(identity)
    }

    fn remember(&self, digest: Digest, issuer: usize, stamp: u64, identity: &Arc<Identity>) {
        let until = Instant::now() + self.options.cache_life.min(Duration::from_secs(60));
        self.cache.insert(digest, Cached { identity: identity.clone(), issuer, stamp, until });
    }
}

fn decode(part: &str) -> Result<String, Error> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Error::Malformed("a part is not base64url"))?;
    String::from_utf8(bytes).map_err(|_| Error::Malformed("a part is not UTF-8"))
}

fn check_header(header: &Header<'_>) -> Result<Algorithm, Error> {
    let extension = [&header.cty, &header.crit, &header.b64, &header.zip, &header.enc];
    if extension.iter().any(|v| v.is_some()) {
        return Err(Error::CriticalHeader);
    }
    if let Some(typ) = &header.typ {
        let typ = typ.to_ascii_lowercase();
        let typ = typ.strip_prefix("application/").unwrap_or(&typ);
        if typ != "jwt" && typ != "at+jwt" {
            return Err(Error::Type);
        }
    }
    jwk::algorithm(&header.alg).ok_or(Error::Algorithm)
}

/// The key for a token: by `kid` when it has one; without, the issuer must have exactly one key of that algorithm.
async fn find_key(issuer: &Arc<Issuer>, kid: Option<&str>, alg: Algorithm) -> Result<(u64, Key), Error> {
    let (stamp, keys) = match issuer.keys() {
        Some(found) => found,
        // nothing good in hand: one attempt under the same limits as for an unknown key
        None => {
            issuer.refetch(kid.unwrap_or_default()).await;
            issuer.keys().ok_or(Error::JwksUnavailable)?
        }
    };
    match choose(&keys, kid, alg) {
        Err(Error::KeyUnknown) => {
            issuer.refetch(kid.unwrap_or_default()).await;
            let (stamp, keys) = issuer.keys().ok_or(Error::JwksUnavailable)?;
            choose(&keys, kid, alg).map(|key| (stamp, key))
        }
        found => found.map(|key| (stamp, key)),
    }
}

fn choose(keys: &KeySet, kid: Option<&str>, alg: Algorithm) -> Result<Key, Error> {
    if let Some(kid) = kid {
        if !keys.has_kid(kid) {
            return Err(Error::KeyUnknown);
        }
        let fits = |k: &&Key| k.kid.as_deref() == Some(kid) && k.algorithm == alg;
        return keys.keys.iter().find(fits).cloned().ok_or(Error::Algorithm);
    }
    let mut fit = keys.keys.iter().filter(|k| k.algorithm == alg);
    match (fit.next(), fit.next()) {
        (Some(key), None) => Ok(key.clone()),
        (None, _) => Err(Error::Algorithm),
        _ => Err(Error::KeyUnknown),
    }
}

fn identity(issuer: &Issuer, claims: Map<String, Value>) -> Result<Identity, Error> {
    let config = issuer.config();
    let subject = claims::text(&claims, "sub").ok_or(Error::Claim("sub"))?.to_owned();
    if subject.is_empty() || subject.len() > 512 || subject.chars().any(char::is_control) {
        return Err(Error::Claim("sub"));
    }
    let email = claims::text(&claims, "email").filter(|e| is_email(e)).map(str::to_ascii_lowercase);
    let email_verified = email.is_some()
        && match claims.get("email_verified") {
            None => config.email_verified_default,
            // "true" in quotes or 1 is a sloppy issuer; guessing here lets strangers in
            Some(value) => *value == Value::Bool(true),
        };
    let groups = match claims.get(config.groups_claim.as_str()) {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let expires_at = claims::time(&claims, "exp")?.ok_or(Error::Claim("exp"))?;
    Ok(Identity {
        issuer: issuer.name().to_owned(),
        subject,
        email,
        email_verified,
        groups,
        claims,
        expires_at,
        scope: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
