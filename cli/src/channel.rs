//! How a server is reached: over the local engine's socket, or by TCP with TLS.
use crate::{failure::Failure, local};
use hyper_util::rt::TokioIo;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};

/// To the socket of the local engine.
pub fn unix(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { local::connect(&socket).await.map(TokioIo::new) }
    });
    alive(Endpoint::from_static("http://engine.local")).connect_with_connector_lazy(connector)
}

/// To a server by its URL; tokens never cross a network in clear.
///
/// # Errors
/// For a URL that can't be used.
pub fn remote(url: &str, ca: Option<&Path>) -> Result<Channel, Failure> {
    let wrong = |why: &str| Failure::usage(format!("--server {url}: {why}"));
    let uri: Uri = url.parse().map_err(|_| wrong("not a URL; expected https://host:port"))?;
    let host = uri.host().unwrap_or_default();
    let loopback = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback());
    let endpoint = alive(Endpoint::from(uri.clone())).connect_timeout(Duration::from_secs(10));
    let endpoint = match uri.scheme_str() {
        Some("http") if loopback => endpoint,
        Some("http") => {
            return Err(wrong("without TLS the token would cross the network in clear: use https"));
        }
        Some("https") => {
            let tls = match ca {
                Some(file) => {
                    let pem = std::fs::read(file)
                        .map_err(|e| Failure::usage(format!("--ca-file {}: {e}", file.display())))?;
                    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
                }
                None => ClientTlsConfig::new().with_native_roots(),
            };
            endpoint.tls_config(tls).map_err(|e| wrong(&e.to_string()))?
        }
        _ => return Err(wrong("expected https://host:port or http://127.0.0.1:port")),
    };
    Ok(endpoint.connect_lazy())
}

fn alive(e: Endpoint) -> Endpoint {
    e.http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tokens_never_go_over_plain_http_to_another_host() {
        assert_eq!(remote("http://example.com:80", None).unwrap_err().exit(), 2);
        assert!(remote("http://127.0.0.1:7443", None).is_ok());
        assert!(remote("http://[::1]:7443", None).is_ok());
        assert_eq!(remote("ftp://x", None).unwrap_err().exit(), 2);
    }
}
