//! TLS of a published port: the user's files before anything is made, and the door as a client sees it.
use crate::admin::unreachable;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use std::{net::SocketAddr, sync::Arc};
use syp_engine::failure::{Class, failure};
use syp_proto::{journal::Failure, v1::Publish};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The two files, as they are.
pub(super) struct Files {
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
}

/// Reads certificate and key of a published port; `None` where it speaks plain HTTP.
///
/// # Errors
/// `TLS_FILE`: unreadable, not PEM, or not a pair.
pub(super) async fn files(publish: Option<&Publish>) -> Result<Option<Files>, Failure> {
    let Some(p) = publish.filter(|p| !p.tls_cert_file.is_empty()) else { return Ok(None) };
    let files = Files { cert: read(&p.tls_cert_file).await?, key: read(&p.tls_key_file).await? };
    check(p, &files)?;
    Ok(Some(files))
}

async fn read(path: &str) -> Result<Vec<u8>, Failure> {
    tokio::fs::read(path).await.map_err(|e| refused(path, e))
}

fn refused(path: &str, why: impl std::fmt::Display) -> Failure {
    failure(
        Class::Terminal,
        "TLS_FILE",
        format!("{path}: {why}"),
        "give a certificate chain and its private key as PEM files that the engine's user can read",
    )
}

fn check(p: &Publish, files: &Files) -> Result<(), Failure> {
    let chain = CertificateDer::pem_slice_iter(&files.cert).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| refused(&p.tls_cert_file, e))?;
    if chain.is_empty() {
        return Err(refused(&p.tls_cert_file, "it has no certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|e| refused(&p.tls_key_file, e))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map(drop)
        .map_err(|e| refused(&p.tls_key_file, format!("it does not fit the certificate: {e}")))
}

/// Goes in as a client without any token would.
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub(super) async fn connect(to: SocketAddr, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| unreachable("TLS", e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let name = ServerName::from(to.ip());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| unreachable("TLS", e))
}

/// The name in the certificate is the public one, not the container's address, and nothing secret is sent.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
