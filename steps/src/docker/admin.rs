//! Talking to a gate's admin port and trying addresses, only where this host has a route of its own.
use super::{names::local_routes, tls};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use syp_auth::door::GateConfig;
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// An answer of the gate is never larger.
const MAX_ANSWER: usize = 4 << 20;
const CONNECT: Duration = Duration::from_millis(1_000);
const ANSWER: Duration = Duration::from_secs(5);

/// Refuses addresses that this host would send to its default route: the packet would leave the machine.
///
/// # Errors
/// `NO_LOCAL_ROUTE`.
pub(super) async fn local(address: IpAddr) -> Result<(), Failure> {
    let IpAddr::V4(v4) = address else { return Ok(()) };
    if v4.is_loopback() {
        return Ok(());
    }
    let routes = tokio::fs::read_to_string("/proc/net/route").await.unwrap_or_default();
    if local_routes(&routes).iter().any(|r| r.contains(v4)) {
        return Ok(());
    }
    Err(failure(
        Class::Transient,
        "NO_LOCAL_ROUTE",
        format!("this host has no route of its own to {address}: the Docker engine is not on this host"),
        "run the engine on the Docker host (Docker Desktop and remote engines are not supported by this version)",
    ))
}

pub(super) fn unreachable(what: &str, e: impl std::fmt::Display) -> Failure {
    failure(
        Class::Transient,
        "GATE_UNREACHABLE",
        format!("the gate does not answer ({what}: {e})"),
        "the engine tries again by itself",
    )
}

/// One request on a connection of its own.
async fn call(to: SocketAddr, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), Failure> {
    exchange(connect(to).await?, request).await
}

async fn connect(to: SocketAddr) -> Result<TcpStream, Failure> {
    local(to.ip()).await?;
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(to))
        .await
        .map_err(|e| unreachable("connect", e))?
        .map_err(|e| unreachable("connect", e))?;
    stream.set_nodelay(true).map_err(|e| unreachable("socket", e))?;
    Ok(stream)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(u16, Bytes), Failure> {
    let (mut send, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable("http", e))?;
    let answer = async {
        let response = send.send_request(request).await.map_err(|e| unreachable("http", e))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok((status, body.map_err(|e| unreachable("body", e))?.to_bytes()))
    };
    // whoever ends first: the answer, or a connection that is closed without one
    let both = async {
        tokio::pin!(answer);
        tokio::select! {
            a = &mut answer => a,
            _ = connection => answer.await,
        }
    };
    tokio::time::timeout(ANSWER, both).await.map_err(|e| unreachable("answer", e))?
}

fn request(
    method: Method,
    path: &str,
    token: Option<&SecretString>,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Failure> {
    let mut r = Request::builder().method(method).uri(path).header(header::HOST, "gate");
    if let Some(token) = token {
        r = r.header(header::AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
    }
    r.header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|e| unreachable("request", e))
}

/// Puts a configuration. Being told that the gate has a newer one is fine.
///
/// # Errors
/// `GATE_UNREACHABLE`, or what the gate does not like about it.
pub(super) async fn configure(
    admin: SocketAddr,
    token: &SecretString,
    config: &GateConfig,
) -> Result<(), Failure> {
    let body = serde_json::to_vec(config).map_err(|e| {
        failure(Class::Terminal, "INTERNAL", e.to_string(), "this is a bug: please report it")
    })?;
    let (status, answer) = call(admin, request(Method::PUT, "/config", Some(token), body.into())?).await?;
    match status {
        200..=299 | 409 => Ok(()),
        _ => Err(failure(
            Class::Terminal,
            "GATE_REFUSED",
            format!("the gate refused its configuration ({status}): {}", String::from_utf8_lossy(&answer)),
            "check the access policy with 'sypctl access show'",
        )),
    }
}

/// Reads one of the gate's documents.
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub(super) async fn read<T: DeserializeOwned>(
    admin: SocketAddr,
    token: &SecretString,
    path: &str,
) -> Result<T, Failure> {
    let (status, answer) = call(admin, request(Method::GET, path, Some(token), Bytes::new())?).await?;
    if status != 200 {
        return Err(unreachable(path, status));
    }
    serde_json::from_slice(&answer).map_err(|e| unreachable(path, e))
}

/// Status of a request without a token.
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub(super) async fn anonymous(address: SocketAddr, tls: bool) -> Result<u16, Failure> {
    let request = request(Method::GET, "/", None, Bytes::new())?;
    let stream = connect(address).await?;
    if !tls {
        return Ok(exchange(stream, request).await?.0);
    }
    let stream = tokio::time::timeout(ANSWER, tls::connect(address, stream));
    let stream = stream.await.map_err(|e| unreachable("TLS", e))??;
    Ok(exchange(stream, request).await?.0)
}
