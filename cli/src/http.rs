//! HTTP calls of our own: `sypctl curl` and the token endpoint of an identity provider. Redirects are not followed.
use crate::failure::Failure;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::path::Path;

/// A client for http and https.
pub type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that trusts the system's authorities, or only those of a file.
///
/// # Errors
/// When the file or the system's store can't be read.
pub fn client(ca: Option<&Path>) -> Result<Http, Failure> {
    let builder = HttpsConnectorBuilder::new();
    let builder = match ca {
        None => builder
            .with_native_roots()
            .map_err(|e| anyhow::anyhow!("the system's certificate authorities: {e}"))?,
        Some(file) => {
            let wrong =
                |e: &dyn std::fmt::Display| Failure::usage(format!("--ca-file {}: {e}", file.display()));
            let pem = std::fs::read(file).map_err(|e| wrong(&e))?;
            let mut roots = rustls::RootCertStore::empty();
            for cert in CertificateDer::pem_slice_iter(&pem) {
                roots.add(cert.map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))?;
            }
            builder.with_tls_config(
                rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth(),
            )
        }
    };
    Ok(Client::builder(TokioExecutor::new()).build(builder.https_or_http().enable_all_versions().build()))
}
