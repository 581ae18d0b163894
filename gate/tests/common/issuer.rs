//! An issuer that signs whatever a test wants signed, good or not.

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use syp_auth::jwks::IssuerConfig;

pub const AUDIENCE: &str = "https://shop.example";

/// One key of one issuer.
pub struct Issuer {
    pub name: String,
    pub kid: String,
    pair: EcdsaKeyPair,
}

impl Issuer {
    pub fn new(name: &str, kid: &str) -> Result<Self> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|e| anyhow!("a key: {e}"))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref())
            .map_err(|e| anyhow!("a key: {e}"))?;
        Ok(Self { name: name.to_owned(), kid: kid.to_owned(), pair })
    }

    pub fn jwk(&self) -> Result<Value> {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (point.get(1..33).context("x")?, point.get(33..65).context("y")?);
        Ok(json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) }))
    }

    /// The public key's bytes, for those who take it for a shared secret.
    pub fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// How a gate is told of it.
    pub fn config(&self) -> Result<IssuerConfig> {
        let jwks = Some(json!({ "keys": [self.jwk()?] }));
        let (issuer, groups_claim) = (self.name.clone(), "groups".to_owned());
        Ok(IssuerConfig { issuer, jwks_uri: None, jwks, email_verified_default: false, groups_claim })
    }

    pub fn header(&self) -> Value {
        json!({ "alg": "ES256", "typ": "JWT", "kid": self.kid })
    }

    /// Good claims of a user.
    pub fn claims(&self, email: &str) -> Value {
        let now = syp_auth::unix_now();
        json!({ "iss": self.name, "sub": format!("sub-of-{email}"), "aud": AUDIENCE, "iat": now, "nbf": now,
            "exp": now + 600, "email": email, "email_verified": true })
    }

    /// Signs these very texts.
    pub fn sign_text(&self, header: &str, claims: &str) -> Result<String> {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signed = self.pair.sign(&SystemRandom::new(), message.as_bytes());
        let signed = signed.map_err(|e| anyhow!("signing: {e}"))?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed.as_ref())))
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> Result<String> {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// A good token of a user.
    pub fn token(&self, email: &str) -> Result<String> {
        self.sign(&self.header(), &self.claims(email))
    }

    /// A good token with one claim set, or taken away with null.
    pub fn token_with(&self, email: &str, claim: &str, value: Value) -> Result<String> {
        let mut claims = self.claims(email);
        let map = claims.as_object_mut().context("claims")?;
        if value.is_null() {
            map.remove(claim);
        } else {
            map.insert(claim.to_owned(), value);
        }
        self.sign(&self.header(), &claims)
    }
}

/// A token signed with a shared secret.
pub fn hs256(secret: &[u8], header: &Value, claims: &Value) -> String {
    let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}
