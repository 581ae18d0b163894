//! Fetching discovery documents and key sets: bounded in time and size, never redirected.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

/// The largest answer read.
pub const MAX_BYTES: usize = 1 << 20;

/// Why something could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an address we call.
    #[error("'{0}' must be an https:// address (http:// only for 127.0.0.1, [::1] and localhost)")]
    Address(String),
    /// The TLS side could not be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The extra certificate authorities are unreadable.
    #[error("the file of extra certificate authorities is not PEM with certificates")]
    Authorities,
    /// The call failed.
    #[error("the issuer does not answer as it should")]
    Http(#[from] reqwest::Error),
    /// Not 200.
    #[error("the issuer answered with status {0}")]
    Status(u16),
    /// More than [`MAX_BYTES`].
    #[error("the issuer's answer is longer than 1 MiB")]
    TooLarge,
    /// Not JSON.
    #[error("the issuer's answer is not JSON")]
    Json(#[from] serde_json::Error),
}

/// A client for issuers. Trusts Mozilla's list of authorities (a static binary in an empty image has no other) and extra ones.
#[derive(Clone)]
pub struct Fetcher {
    client: Client,
}

impl Fetcher {
    /// A client with a time limit for a whole call, and extra authorities (PEM) if given.
    ///
    /// # Errors
    /// TLS cannot be set up with these authorities.
    pub fn new(timeout: Duration, extra_authorities: Option<&[u8]>) -> Result<Self, Error> {
        let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(pem) = extra_authorities {
            let before = roots.len();
            for cert in CertificateDer::pem_slice_iter(pem) {
                roots.add(cert.map_err(|_| Error::Authorities)?).map_err(Error::Tls)?;
            }
            if roots.len() == before {
                return Err(Error::Authorities);
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            // a redirect would let the issuer's web server choose another source of keys
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
            // a pooled connection would belong to the runtime that opened it
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { client })
    }

    /// Gets a JSON document.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn json(&self, address: &str) -> Result<Value, Error> {
        let url = check_address(address)?;
        let mut response = self.client.get(url).header("accept", "application/json").send().await?;
        if response.status() != 200 {
            return Err(Error::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(Error::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(serde_json::from_slice(&body)?)
    }
}

/// Accepts `https://` anywhere and `http://` on loopback.
///
/// # Errors
/// [`Error::Address`].
pub fn check_address(address: &str) -> Result<Url, Error> {
    let bad = || Error::Address(address.to_owned());
    let url = Url::parse(address).map_err(|_| bad())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    let ok = url.host_str().is_some()
        && plain
        && (url.scheme() == "https" || url.scheme() == "http" && is_loopback(&url));
    if ok { Ok(url) } else { Err(bad()) }
}

/// Whether an address is on the host that calls it.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str();
    matches!(host, Some("localhost" | "[::1]"))
        || host.and_then(|h| h.parse::<std::net::Ipv4Addr>().ok()).is_some_and(|ip| ip.is_loopback())
}
