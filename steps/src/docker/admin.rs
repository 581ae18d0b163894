//! The way to a gate's admin port: its address in the instance's subnet, only where this host has a route of its own.
use super::{names::local_routes, tls};
use crate::admin::{self, ANSWER, unreachable};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use syp_auth::door::GateConfig;
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;
use tokio::net::TcpStream;

const CONNECT: Duration = Duration::from_millis(1_000);

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

async fn connect(to: SocketAddr) -> Result<TcpStream, Failure> {
    local(to.ip()).await?;
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(to))
        .await
        .map_err(|e| unreachable("connect", e))?
        .map_err(|e| unreachable("connect", e))?;
    stream.set_nodelay(true).map_err(|e| unreachable("socket", e))?;
    Ok(stream)
}

/// [`admin::configure`].
///
/// # Errors
/// `GATE_UNREACHABLE`, or what the gate does not like about it.
pub(super) async fn configure(
    to: SocketAddr,
    token: &SecretString,
    config: &GateConfig,
) -> Result<(), Failure> {
    admin::configure(connect(to).await?, token, config).await
}

/// [`admin::read`].
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub(super) async fn read<T: DeserializeOwned>(
    to: SocketAddr,
    token: &SecretString,
    path: &str,
) -> Result<T, Failure> {
    admin::read(connect(to).await?, token, path).await
}

/// [`admin::anonymous`].
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub(super) async fn anonymous(address: SocketAddr, tls: bool) -> Result<u16, Failure> {
    let stream = connect(address).await?;
    if !tls {
        return admin::anonymous(stream).await;
    }
    let stream = tokio::time::timeout(ANSWER, tls::connect(address, stream));
    admin::anonymous(stream.await.map_err(|e| unreachable("TLS", e))??).await
}
