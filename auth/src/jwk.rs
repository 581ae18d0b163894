//! Public keys of one issuer, filtered to those that may verify its tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

/// The most entries a key set may have.
pub const MAX_KEYS: usize = 100;

/// One usable public key and the single algorithm it verifies.
#[derive(Clone)]
pub struct Key {
    /// The issuer's name for it.
    pub kid: Option<String>,
    /// The only algorithm accepted with it: from the entry's `alg`, else by its type and curve.
    pub algorithm: Algorithm,
    pub(crate) decoding: DecodingKey,
}

/// The usable keys of one issuer.
#[derive(Clone, Default)]
pub struct KeySet {
    /// In the issuer's order.
    pub keys: Vec<Key>,
}

/// Why a key set is refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No `keys` list.
    #[error("this is no JSON Web Key Set: it has no list 'keys'")]
    Shape,
    /// Too many entries.
    #[error("the key set has more than {MAX_KEYS} entries")]
    TooMany,
    /// Nothing usable in it; that is a failure, never 'nobody has keys now'.
    #[error("the key set has no usable signing key ({skipped} entries were skipped)")]
    Empty {
        /// How many entries were of no use.
        skipped: usize,
    },
}

// === impl KeySet ===

impl KeySet {
    /// Reads a key set entry by entry: an entry we cannot use is skipped and never costs us the others.
    ///
    /// # Errors
    /// Not a key set, too large, or without a usable key.
    pub fn parse(value: &Value) -> Result<Self, Error> {
        let entries = value.get("keys").and_then(Value::as_array).ok_or(Error::Shape)?;
        if entries.len() > MAX_KEYS {
            return Err(Error::TooMany);
        }
        let keys: Vec<Key> = entries.iter().filter_map(|entry| Key::parse(entry.as_object()?)).collect();
        if keys.is_empty() { Err(Error::Empty { skipped: entries.len() }) } else { Ok(Self { keys }) }
    }

    /// Whether any key has this name.
    #[must_use]
    pub fn has_kid(&self, kid: &str) -> bool {
        self.keys.iter().any(|k| k.kid.as_deref() == Some(kid))
    }
}

// === impl Key ===

impl Key {
    /// `None`: not a signature key, private or symmetric material, weak, or of an algorithm we do not verify.
    fn parse(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if jwk.get("use").is_some_and(|v| v != "sig") {
            return None;
        }
        if let Some(ops) = jwk.get("key_ops")
            && !ops.as_array()?.iter().any(|op| op == "verify")
        {
            return None;
        }
        // a private key on a public page is compromised
        if jwk.contains_key("d") || jwk.contains_key("k") {
            return None;
        }
        let alg = match jwk.get("alg") {
            None | Some(Value::Null) => None,
            Some(alg) => Some(alg.as_str()?),
        };
        let (algorithm, decoding) = match text("kty")? {
            "RSA" => rsa(alg, text("n")?, text("e")?)?,
            "EC" => ec(alg, text("crv")?, text("x")?, text("y")?)?,
            "OKP" => ed25519(alg, text("crv")?, text("x")?)?,
            _ => return None,
        };
        let kid = match jwk.get("kid") {
            None | Some(Value::Null) => None,
            Some(kid) => Some(kid.as_str()?.to_owned()),
        };
        Some(Self { kid, algorithm, decoding })
    }
}

fn rsa(alg: Option<&str>, n: &str, e: &str) -> Option<(Algorithm, DecodingKey)> {
    let algorithm = match alg.unwrap_or("RS256") {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        _ => return None,
    };
    let (n, e) = (URL_SAFE_NO_PAD.decode(n).ok()?, URL_SAFE_NO_PAD.decode(e).ok()?);
    let n: &[u8] = &n[n.iter().position(|b| *b != 0)?..];
    let e: &[u8] = &e[e.iter().position(|b| *b != 0)?..];
    let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    // an exponent of 1 makes every signature fit; aws-lc takes odd exponents from 3 to 33 bits
    let good_exponent = e.len() <= 4 && e.last()? & 1 == 1 && e != [1];
    ((2048..=8192).contains(&bits) && good_exponent)
        .then(|| (algorithm, DecodingKey::from_rsa_raw_components(n, e)))
}

fn ec(alg: Option<&str>, crv: &str, x: &str, y: &str) -> Option<(Algorithm, DecodingKey)> {
    let (algorithm, name, size) = match crv {
        "P-256" => (Algorithm::ES256, "ES256", 32),
        "P-384" => (Algorithm::ES384, "ES384", 48),
        _ => return None,
    };
    let sized = |text| URL_SAFE_NO_PAD.decode(text).is_ok_and(|b| b.len() == size);
    if alg.is_some_and(|alg| alg != name) || !sized(x) || !sized(y) {
        return None;
    }
    Some((algorithm, DecodingKey::from_ec_components(x, y).ok()?))
}

fn ed25519(alg: Option<&str>, crv: &str, x: &str) -> Option<(Algorithm, DecodingKey)> {
    let sized = URL_SAFE_NO_PAD.decode(x).is_ok_and(|b| b.len() == 32);
    if crv != "Ed25519" || alg.is_some_and(|alg| alg != "EdDSA" && alg != "Ed25519") || !sized {
        return None;
    }
    Some((Algorithm::EdDSA, DecodingKey::from_ed_components(x).ok()?))
}

/// The algorithm that a token's header names; `None` for `none`, shared secrets and everything we do not verify.
pub(crate) fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" | "Ed25519" => Algorithm::EdDSA,
        _ => return None,
    })
}
