//! Tokens for machines: a random value that is shown once, and of which only the SHA-256 is kept.
//!
//! The value has 256 random bits, so its plain hash is as good as a slow one, and looking it up in a map tells nobody anything:
//! the time depends on a hash that the asker can't steer towards one that is stored.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::Verifier;
use crate::cache::Digest;
use crate::path::Normal;
use crate::verify::{Error, Identity};

/// The issuer of machine tokens. It is no address, and no configured issuer may have this name.
pub const ISSUER: &str = "syp:machine-tokens";
/// What each value begins with, so that people and scanners know what they have found.
pub const PREFIX: &str = "syp_";

/// A machine token as gates know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineToken {
    /// Its id: the member `token:ID` of policies.
    pub id: String,
    /// SHA-256 of its value, in hex.
    pub sha256: String,
    /// In seconds since the epoch.
    pub expires_at: u64,
    /// Only for paths below one of these; none: for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

/// Those that are good, by the hash of their value.
#[derive(Clone, Debug, Default)]
pub struct MachineTokens(HashMap<Digest, Arc<Identity>>);

/// A new value and its hash.
///
/// # Errors
/// The system has no randomness.
pub fn generate() -> Result<(SecretString, Digest), &'static str> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    rand::fill(&mut *bytes).map_err(|_| "the system gives no random numbers")?;
    let value =
        Zeroizing::new(format!("{PREFIX}{}", Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes)).as_str()));
    let digest = Verifier::digest(&value);
    Ok((SecretString::from(value.as_str()), digest))
}

/// Whether this has the form of a machine token; no JWT has.
#[must_use]
pub fn is_machine(token: &str) -> bool {
    token.starts_with(PREFIX)
}

// === impl MachineToken ===

impl MachineToken {
    /// The hash in bytes.
    ///
    /// # Errors
    /// It is none.
    pub fn digest(&self) -> Result<Digest, String> {
        let hex = self.sha256.as_bytes();
        let bad = || format!("machine token '{}': sha256 is not 64 hex digits", self.id);
        if hex.len() != 64 {
            return Err(bad());
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
            let digit = |b: u8| char::from(b).to_digit(16);
            let value = digit(pair[0]).zip(digit(pair[1])).map(|(high, low)| high * 16 + low);
            *byte = value.and_then(|v| u8::try_from(v).ok()).ok_or_else(bad)?;
        }
        Ok(out)
    }

    /// Checks what can be checked.
    ///
    /// # Errors
    /// In words.
    pub fn validate(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.id.is_empty() || self.id.len() > 40 || !self.id.chars().all(plain) {
            return Err(format!(
                "machine token '{}': an id has 1 to 40 letters, digits and hyphens",
                self.id
            ));
        }
        match self.paths.iter().find(|p| Normal::read(p).is_none()) {
            Some(path) => Err(format!("machine token '{}': path '{path}' is ambiguous", self.id)),
            None => self.digest().map(drop),
        }
    }

    /// Who it speaks for.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            issuer: ISSUER.to_owned(),
            subject: format!("token:{}", self.id),
            email: None,
            email_verified: false,
            groups: Vec::new(),
            claims: serde_json::Map::new(),
            expires_at: self.expires_at,
            scope: self.paths.clone(),
        }
    }
}

// === impl MachineTokens ===

impl MachineTokens {
    /// Of these; one with a hash that is none is nobody's.
    #[must_use]
    pub fn of(tokens: &[MachineToken]) -> Self {
        Self(tokens.iter().filter_map(|t| Some((t.digest().ok()?, Arc::new(t.identity())))).collect())
    }

    /// Whose token has this hash.
    ///
    /// # Errors
    /// [`Error::Unknown`] for one that never was, or was revoked; [`Error::Expired`].
    pub fn verify(&self, digest: &Digest, now: u64) -> Result<Arc<Identity>, Error> {
        let who = self.0.get(digest).ok_or(Error::Unknown)?;
        // the clock that counts is ours: no tolerance
        if now >= who.expires_at { Err(Error::Expired) } else { Ok(who.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn token(id: &str, digest: &Digest) -> MachineToken {
        let sha256 = digest.iter().map(|b| format!("{b:02x}")).collect();
        MachineToken { id: id.into(), sha256, expires_at: 100, paths: vec![] }
    }

    #[test]
    fn a_value_is_random_and_known_by_its_hash_until_it_ends() {
        let ((value, digest), (other, another)) = (generate().unwrap(), generate().unwrap());
        assert!(is_machine(value.expose_secret()) && value.expose_secret().len() == 4 + 43);
        assert_ne!(value.expose_secret(), other.expose_secret());
        let all = MachineTokens::of(&[token("a", &digest)]);
        let given = Verifier::digest(value.expose_secret());
        assert_eq!(all.verify(&given, 99).unwrap().subject, "token:a");
        assert_eq!(all.verify(&given, 100), Err(Error::Expired));
        assert_eq!(all.verify(&another, 0), Err(Error::Unknown));
    }

    #[test]
    fn what_no_token_can_be_is_refused() {
        let good = token("a", &[7; 32]);
        assert!(good.validate().is_ok());
        for bad in [
            MachineToken { id: "a:b".into(), ..good.clone() },
            MachineToken { id: String::new(), ..good.clone() },
            MachineToken { sha256: "00".into(), ..good.clone() },
            MachineToken { sha256: "zz".repeat(32), ..good.clone() },
            MachineToken { paths: vec!["/a/../b".into()], ..good },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
