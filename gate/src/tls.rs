//! TLS towards clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is unreadable or holds something else.
    #[error("{path}: {why}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The two do not fit together.
    #[error("certificate and key do not fit: {0}")]
    Pair(#[from] rustls::Error),
}

/// Offers HTTP/2 and HTTP/1.1 with this certificate chain and key (PEM).
///
/// # Errors
/// [`Error`].
pub fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
    let file = |path: &Path, why: &dyn std::fmt::Display| Error::File {
        path: path.to_owned(),
        why: why.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(cert).map_err(|e| file(cert, &e))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|e| file(cert, &e))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| file(key, &e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
