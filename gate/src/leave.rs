//! `syp-gate leave`: tells the gate beside to leave, and waits while load balancers hear of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::replica::as_http1;
use crate::serve::{self, Given};

/// A gate answers this at once.
const LIMIT: Duration = Duration::from_secs(5);

/// Why the gate does not know that it is to leave.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token.
    #[error(transparent)]
    Token(#[from] serve::Error),
    /// A token that no header can carry.
    #[error("the admin token has characters that a header can't have")]
    NoHeader(#[from] http::header::InvalidHeaderValue),
    /// Nobody at that port.
    #[error("connecting to the gate's admin port at {address}: {source}; is --admin the one of 'serve'?")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No answer.
    #[error("asking the gate to leave: {0}")]
    Http(#[from] hyper::Error),
    /// Another answer.
    #[error("the gate refuses to leave: {0}; is --admin-token-file the one of 'serve'?")]
    Refused(StatusCode),
    /// A gate that hangs.
    #[error("the gate did not answer within {} s", LIMIT.as_secs())]
    TooLate,
}

/// Tells the gate, then waits.
///
/// # Errors
/// [`Error`]: it does not know, and there is nothing to wait for.
pub async fn run(admin: SocketAddr, token_file: &Path, wait: Duration) -> Result<(), Error> {
    let token = Given::File(token_file.to_owned()).token()?;
    let told = tell(reachable(admin), &token);
    tokio::time::timeout(LIMIT, told).await.unwrap_or(Err(Error::TooLate))?;
    println!("{}", serde_json::json!({ "event": "leaving" }));
    tokio::time::sleep(wait).await;
    Ok(())
}

async fn tell(address: SocketAddr, token: &str) -> Result<(), Error> {
    let stream = TcpStream::connect(address).await.map_err(|source| Error::Connect { address, source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    (*request.method_mut(), *request.uri_mut()) = (Method::PUT, http::Uri::from_static("/leave"));
    as_http1(&mut request, &HeaderValue::from_static("gate"));
    request.headers_mut().insert(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?);
    match sender.send_request(request).await?.status() {
        StatusCode::OK => Ok(()),
        other => Err(Error::Refused(other)),
    }
}

/// In its container the command has the environment of `serve`, whose address may mean all addresses.
fn reachable(admin: SocketAddr) -> SocketAddr {
    let ip = match admin.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, admin.port())
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn all_addresses_are_reached_by_loopback() {
        let to = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(to("0.0.0.0:9901"), "127.0.0.1:9901");
        assert_eq!(to("[::]:9901"), "[::1]:9901");
        assert_eq!(to("10.0.0.1:9901"), "10.0.0.1:9901");
    }
}
