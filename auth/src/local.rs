//! The built-in issuer: a laptop without an identity provider signs its own tokens, so that authentication is never off.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::RwLock;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::jwks::IssuerConfig;

/// The longest life of a token; a replaced key stays published for this long.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// Why the local issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key file cannot be read or written.
    #[error("the key file {path} cannot be used")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others can read the key.
    #[error(
        "the key file {path} can be read by others (mode {mode:o}); run chmod 600 {path} and rotate the key"
    )]
    Permissions {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not our format.
    #[error("the key file {path} is damaged; move it away to get a new key")]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// The cryptography library failed.
    #[error("the cryptography library could not make or use a key")]
    Crypto,
    /// A claim that we set ourselves.
    #[error("claim '{0}' is set by the issuer and cannot be given")]
    Reserved(String),
}

/// A token to be made.
#[derive(Debug, Clone, Default)]
pub struct MintRequest {
    /// `sub`.
    pub subject: String,
    /// `email`, said to be verified.
    pub email: Option<String>,
    /// `groups`.
    pub groups: Vec<String>,
    /// `aud`.
    pub audience: String,
    /// Its life, at most [`MAX_TTL`]; zero means one hour.
    pub ttl: Duration,
    /// More claims; none of those above.
    pub claims: Map<String, Value>,
}

/// The built-in issuer of one store.
pub struct LocalIssuer {
    path: PathBuf,
    issuer: String,
    keys: RwLock<Keys>,
}

struct Keys {
    pair: EcdsaKeyPair,
    kid: String,
    stored: Stored,
}

/// The key file: the private key, and the public ones it replaced with the time until which their tokens may live.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    version: u32,
    pkcs8: Zeroizing<String>,
    #[serde(default)]
    previous: Vec<Previous>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Previous {
    jwk: Value,
    until: u64,
}

// === impl LocalIssuer ===

impl LocalIssuer {
    /// Opens the key file, or makes it (mode 0600, complete or not at all). Two processes that make it at once get the same key.
    ///
    /// # Errors
    /// The file cannot be used, is readable by others, or is damaged.
    pub fn open(path: impl Into<PathBuf>, store_id: &str) -> Result<Self, Error> {
        let path = path.into();
        let keys = match load(&path) {
            Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                save(&path, &Keys::generate(Vec::new())?.stored, false)?;
                load(&path)?
            }
            loaded => loaded?,
        };
        Ok(Self { path, issuer: Self::name_for(store_id), keys: RwLock::new(keys) })
    }

    /// The issuer's name for a store.
    #[must_use]
    pub fn name_for(store_id: &str) -> String {
        format!("https://local.syp.dev/{store_id}")
    }

    /// The issuer's name.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// How a verifier is told of this issuer: with its keys inline, to be given anew after [`LocalIssuer::rotate`].
    #[must_use]
    pub fn config(&self) -> IssuerConfig {
        let (issuer, jwks, groups_claim) = (self.issuer.clone(), Some(self.jwks()), "groups".to_owned());
        IssuerConfig { issuer, jwks_uri: None, jwks, email_verified_default: false, groups_claim }
    }

    /// The public keys: the current one and those it replaced whose tokens may still live.
    #[must_use]
    pub fn jwks(&self) -> Value {
        let keys = self.keys.read();
        let now = crate::unix_now();
        let old = keys.stored.previous.iter().filter(|p| p.until > now).map(|p| p.jwk.clone());
        json!({ "keys": std::iter::once(keys.jwk()).chain(old).collect::<Vec<_>>() })
    }

    /// Makes a token.
    ///
    /// # Errors
    /// An extra claim collides with ours, or the library fails.
    pub fn mint(&self, request: &MintRequest) -> Result<SecretString, Error> {
        let now = crate::unix_now();
        let ttl = if request.ttl.is_zero() { Duration::from_secs(3600) } else { request.ttl.min(MAX_TTL) };
        let mut claims = json!({
            "iss": self.issuer, "sub": request.subject, "aud": request.audience,
            "iat": now, "nbf": now, "exp": now + ttl.as_secs().max(1), "jti": random_id()?,
        });
        if let Some(email) = &request.email {
            claims["email"] = json!(email);
            claims["email_verified"] = json!(true);
        }
        if !request.groups.is_empty() {
            claims["groups"] = json!(request.groups);
        }
        for (name, value) in &request.claims {
            if claims.get(name).is_some() || matches!(name.as_str(), "email" | "email_verified" | "groups") {
                return Err(Error::Reserved(name.clone()));
            }
            claims[name] = value.clone();
        }
        let keys = self.keys.read();
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": keys.kid });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature =
            keys.pair.sign(&SystemRandom::new(), message.as_bytes()).map_err(|_| Error::Crypto)?;
        Ok(SecretString::from(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))))
    }

    /// Replaces the key. The old public key stays in [`LocalIssuer::jwks`] until the last token it signed has expired.
    ///
    /// # Errors
    /// The file cannot be written; then the old key stays in use.
    pub fn rotate(&self) -> Result<(), Error> {
        let mut keys = self.keys.write();
        let now = crate::unix_now();
        let mut previous: Vec<_> = keys.stored.previous.iter().filter(|p| p.until > now).cloned().collect();
        // the clocks of verifiers may be a minute behind
        previous.push(Previous { jwk: keys.jwk(), until: now + MAX_TTL.as_secs() + 60 });
        let new = Keys::generate(previous)?;
        save(&self.path, &new.stored, true)?;
        *keys = new;
        Ok(())
    }
}

// === impl Keys ===

impl Keys {
    fn generate(previous: Vec<Previous>) -> Result<Self, Error> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let document = document.map_err(|_| Error::Crypto)?;
        let pkcs8 = Zeroizing::new(URL_SAFE_NO_PAD.encode(document.as_ref()));
        Self::of(Stored { version: 1, pkcs8, previous }).ok_or(Error::Crypto)
    }

    fn of(stored: Stored) -> Option<Self> {
        let der = Zeroizing::new(URL_SAFE_NO_PAD.decode(stored.pkcs8.as_bytes()).ok()?);
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).ok()?;
        let (x, y) = coordinates(&pair)?;
        // RFC 7638: members in this order, no spaces
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
        Some(Self { pair, kid, stored })
    }

    fn jwk(&self) -> Value {
        let (x, y) = coordinates(&self.pair).unwrap_or_default();
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": x, "y": y })
    }
}

fn coordinates(pair: &EcdsaKeyPair) -> Option<(String, String)> {
    let point = pair.public_key().as_ref();
    let (x, y) = (point.get(1..33)?, point.get(33..65)?);
    Some((URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y)))
}

fn random_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Crypto)?;
    Ok(hex::encode(bytes))
}

fn load(path: &Path) -> Result<Keys, Error> {
    let file_error = |source| Error::File { path: path.to_owned(), source };
    let damaged = || Error::Damaged { path: path.to_owned() };
    let mut file = std::fs::File::open(path).map_err(file_error)?;
    let mode = file.metadata().map_err(file_error)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Permissions { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(file_error)?;
    let stored: Stored = serde_json::from_str(&text).map_err(|_| damaged())?;
    if stored.version != 1 {
        return Err(damaged());
    }
    Keys::of(stored).ok_or_else(damaged)
}

/// Writes the key file: temporary file, fsync, then rename (replace) or link (never over an existing one), fsync of the directory.
fn save(path: &Path, stored: &Stored, replace: bool) -> Result<(), Error> {
    let file_error = |source| Error::File { path: path.to_owned(), source };
    let text = Zeroizing::new(serde_json::to_string(stored).map_err(|_| Error::Crypto)?);
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let temporary = directory.join(format!(".key-{}", random_id()?));
    let write = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let placed = if replace {
            std::fs::rename(&temporary, path)
        } else {
            match std::fs::hard_link(&temporary, path) {
                // another process was first: its key counts
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                linked => linked,
            }
        };
        placed?;
        std::fs::File::open(directory)?.sync_all()
    };
    let written = write();
    // after a rename it is gone already
    let _ = std::fs::remove_file(&temporary);
    written.map_err(file_error)
}

#[cfg(test)]
mod tests;
