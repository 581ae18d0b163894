//! TLS towards clients.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::common::{ALICE, App, Gate, Issuer, config, gather, get, heard, soon};

async fn connect(
    gate: &Gate,
    root: &CertificateDer<'static>,
    protocol: &str,
) -> Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut client = builder.with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(gate.traffic).await?;
    let name = ServerName::try_from("shop.example")?;
    Ok(soon("the handshake", TlsConnector::from(Arc::new(client)).connect(name, stream)).await??)
}

#[tokio::test]
async fn both_protocols_come_in_by_tls_and_the_app_is_told_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (cert, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .await
        .context("openssl")?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let root = CertificateDer::from_pem_file(&cert)?;
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let gate = Gate::bare(&["--tls-cert", &cert, "--tls-key", &key]).await?;
    let (app, issuer) = (App::echo().await?, Issuer::new("https://issuer.example", "key-1")?);
    gate.serve(&config(&issuer, &[&app])?).await?;
    let token = issuer.token(ALICE)?;

    let mut stream = connect(&gate, &root, "http/1.1").await?;
    stream
        .write_all(get("/", &token).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut all = Vec::new();
    soon("the answer", stream.read_to_end(&mut all)).await??;
    let text = String::from_utf8(all)?;
    ensure!(text.starts_with("HTTP/1.1 200 "), "{text}");
    let said: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).context("a body")?)?;
    ensure!(
        heard(&said, "x-forwarded-proto") == ["https"] && heard(&said, "x-syp-user") == [ALICE],
        "{said}"
    );

    let io = TokioIo::new(connect(&gate, &root, "h2").await?);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    let request = Request::get("https://shop.example/").header("authorization", format!("Bearer {token}"));
    let answer = soon("an answer", sender.send_request(request.body(Full::<Bytes>::default())?)).await??;
    let said: Value = serde_json::from_slice(&gather(answer).await?.1)?;
    ensure!(heard(&said, "x-forwarded-proto") == ["https"], "{said}");
    ensure!(heard(&said, "x-forwarded-host") == ["shop.example"], "{said}");

    // without TLS there is no answer at all
    let plain = gate.get("/", &token).await;
    ensure!(plain.is_err() && app.requests() == 2, "{plain:?}");
    Ok(())
}
