//! Probing replicas: fast until one is ready, then at its period.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use syp_auth::door::{HolderStatus, Protocol};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::replica::{Replica, as_http1, as_http2};

/// Probes one replica for as long as anybody uses it.
pub async fn watch(replica: Weak<Replica>) {
    let mut pause = Duration::from_millis(10);
    while let Some(replica) = replica.upgrade() {
        let period = Duration::from_millis(replica.probe.period_ms);
        let limit = Duration::from_millis(replica.probe.timeout_ms);
        let found = tokio::time::timeout(limit, probe(&replica)).await;
        let found = found.unwrap_or_else(|_| Err(format!("no answer within {} ms", limit.as_millis())));
        pause = match &found {
            Ok(()) => period,
            // a replica that was ready a moment ago is looked at again at once
            Err(_) if replica.ready.load(Relaxed) => Duration::from_millis(10),
            Err(_) => (pause * 3 / 2).min(period).min(Duration::from_millis(250)),
        };
        let was = replica.ready.swap(found.is_ok(), Relaxed);
        if found.is_ok() && !was {
            replica.came.notify_waiters();
        }
        *replica.detail.lock() = found.err().unwrap_or_default();
        replica.tidy();
        ask_holder(&replica).await;
        let wait = replica.kick.notified();
        let _ = tokio::time::timeout(pause, wait).await;
    }
}

async fn probe(replica: &Arc<Replica>) -> Result<(), String> {
    let connect =
        || async { replica.connect().await.map_err(|e| format!("connecting to {}: {e}", replica.address)) };
    let stream = connect().await?;
    let protocol = match replica.protocol() {
        Some(known) => known,
        None => {
            let found = if speaks_h2c(stream).await { Protocol::H2c } else { Protocol::Http1 };
            let Some(path) = &replica.probe.path else {
                replica.speaks(found);
                return Ok(());
            };
            get(connect().await?, found, path, replica).await?;
            // remembered only with an answer: an app that is still starting may refuse everything
            replica.speaks(found);
            return Ok(());
        }
    };
    match &replica.probe.path {
        Some(path) => get(stream, protocol, path, replica).await,
        None => Ok(()),
    }
}

/// Says hello in HTTP/2 and looks whether a SETTINGS frame comes back. HTTP/1 servers answer 400, close, or wait.
async fn speaks_h2c(mut stream: TcpStream) -> bool {
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let talk = async {
        stream.write_all(HELLO).await?;
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        // a SETTINGS frame of stream 0, of whole settings, no acknowledgement
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        Ok::<_, std::io::Error>(
            length.is_multiple_of(6) && head[3] == 4 && head[4] == 0 && head[5..] == [0; 4],
        )
    };
    matches!(tokio::time::timeout(Duration::from_millis(500), talk).await, Ok(Ok(true)))
}

async fn get(stream: TcpStream, protocol: Protocol, path: &str, replica: &Replica) -> Result<(), String> {
    let host = HeaderValue::from_str(&replica.address.to_string()).map_err(|e| e.to_string())?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.parse().map_err(|_| format!("probe path {path} is no path"))?;
    request.headers_mut().insert(http::header::USER_AGENT, HeaderValue::from_static("syp-gate-probe"));
    let io = TokioIo::new(stream);
    let response = if protocol == Protocol::H2c {
        as_http2(&mut request, &host);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(words)?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        as_http1(&mut request, &host);
        request.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(words)?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let status = response.map_err(words)?.status().as_u16();
    if status < 400 { Ok(()) } else { Err(format!("GET {path} answered {status}")) }
}

fn words(error: hyper::Error) -> String {
    format!("the app broke off: {error}")
}

async fn ask_holder(replica: &Replica) {
    let Some(address) = replica.holder else { return };
    let ask = async {
        let io = TokioIo::new(TcpStream::connect(address).await.ok()?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        tokio::spawn(connection);
        let mut request = Request::new(Empty::<Bytes>::new());
        as_http1(&mut request, &HeaderValue::from_static("holder"));
        let body = Limited::new(sender.send_request(request).await.ok()?.into_body(), 64 * 1024);
        serde_json::from_slice::<HolderStatus>(&body.collect().await.ok()?.to_bytes()).ok()
    };
    // a holder that does not answer has said nothing: an old 'sealed' must not outlive it
    *replica.held.lock() = tokio::time::timeout(Duration::from_secs(1), ask).await.unwrap_or_default();
}
