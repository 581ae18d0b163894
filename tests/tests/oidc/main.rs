//! Who gets in, with a certified OpenID Connect provider, the real engine over TLS and its socket, and the real gate.
mod keys;
mod listen;
mod login;
mod roles;
mod tokens;

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use syp_tests::{
    oidc::{Issuer, Server, ready},
    product::Said,
};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

/// Audience of the control plane.
const API: &str = "syp-api";
/// Audience of the instances, as the engine was told with `--audience`.
const APP: &str = "apps.example.com";

/// A provider and an engine that trusts it; mallory is nobody there.
fn world(test: impl FnOnce(&Issuer, &mut Server) -> Result<()>) -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let issuer = Issuer::start(&[])?;
    let mut server =
        Server::start(&sypctl, &issuer.url(), &["--audience", APP, "--admin", "user:alice@example.com"])?;
    test(&issuer, &mut server).with_context(|| format!("the engine said: {}", server.log()))
}

fn says(s: &Said, reason: &str) -> Result<()> {
    ensure!(s.err.contains(reason), "expected {reason}: {}{}", s.out, s.err);
    Ok(())
}

/// Does something with a connection to the engine, as any gRPC client has it.
fn connected<T>(s: &Server, go: impl AsyncFnOnce(Channel) -> Result<T>) -> Result<T> {
    let ca = std::fs::read(s.ca().context("no TLS")?)?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    let endpoint = Endpoint::from_shared(s.url().to_owned())?.tls_config(tls)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let limit = Duration::from_secs(300);
        tokio::time::timeout(limit, async { go(endpoint.connect().await?).await }).await?
    })
}

/// How an empty message to a method ends.
async fn outcome(channel: &Channel, path: &str, token: Option<&str>) -> Result<Code> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await?;
    let mut request = tonic::Request::new(());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    }
    // unary or not is the same on the wire
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    match grpc.server_streaming(request, path.parse()?, codec).await {
        Ok(mut answer) => {
            match tokio::time::timeout(Duration::from_secs(2), answer.get_mut().message()).await {
                Ok(Err(status)) => Ok(status.code()),
                _ => Ok(Code::Ok),
            }
        }
        Err(status) => Ok(status.code()),
    }
}
