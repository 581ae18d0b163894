//! WebSockets: after the app said 101, bytes go both ways until a side ends, the drain's deadline, or the caller's loss of access.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::body::{Download, Upload};
use crate::handle::pass_on;
use crate::headers;
use crate::phase::overdue;
use crate::record::Record;
use crate::replica::as_http1;
use crate::reply::{Failure, refuse, refuse_denied};
use crate::route;

/// Sends the upgrade to a replica, on a connection of its own.
pub async fn open(
    mut record: Record,
    host: &HeaderValue,
    mut request: Request<Upload>,
    client: OnUpgrade,
) -> Response<Download> {
    as_http1(&mut request, host);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let mut tried: Vec<Arc<crate::replica::Replica>> = Vec::new();
    let mut sender = loop {
        let Some(replica) = route::next(&record.conn().state, &tried).await else {
            return refuse(record, Failure::Unavailable, "NO_REPLICA_READY", false, false);
        };
        record.goes_to(&replica);
        match replica.open_http1().await {
            Ok(sender) => break sender,
            Err(error) => {
                replica.is_down(&error.to_string());
                tried.push(replica);
            }
        }
    };
    let mut response = match record.unless_denied(pin!(sender.send_request(request))).await {
        Err(denied) => return refuse_denied(record, denied, false),
        Ok(Ok(response)) => response,
        Ok(Err(_)) => return refuse(record, Failure::BadGateway, "UPSTREAM_BROKE_OFF", false, true),
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return pass_on(record, response, None);
    }
    let websocket = response
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !websocket {
        return refuse(record, Failure::BadGateway, "UPSTREAM_WRONG_UPGRADE", false, true);
    }
    let app = hyper::upgrade::on(&mut response);
    (record.status, record.reason) = (101, "OK");
    record.conn().is_tunnel_now();
    headers::strip_response(response.headers_mut());
    tokio::spawn(run(record, client, app));
    let mut answer = Response::new(Download::text("", None));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = std::mem::take(response.headers_mut());
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer
}

/// Counts a tunnel for as long as it lives.
struct Counted(Record);

impl Counted {
    fn new(mut record: Record) -> Self {
        let state = &record.conn().state;
        state.metrics.tunnels.fetch_add(1, Relaxed);
        // a tunnel's life is no latency, and it is counted apart from requests
        record.conn().metrics().in_flight.fetch_sub(1, Relaxed);
        record.admitted = false;
        Self(record)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.conn().metrics().in_flight.fetch_add(1, Relaxed);
        self.0.conn().state.metrics.tunnels.fetch_sub(1, Relaxed);
    }
}

async fn run(record: Record, client: OnUpgrade, app: OnUpgrade) {
    let mut counted = Counted::new(record);
    let both = async { tokio::try_join!(client, app) };
    let Ok(Ok((client, app))) = tokio::time::timeout(Duration::from_secs(10), both).await else {
        counted.0.reason = "TUNNEL_NOT_OPENED";
        return;
    };
    let moved = counted.0.bytes_in.insert(Arc::default()).clone();
    let back = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut phase = counted.0.conn().state.phase.subscribe();
    let work = async {
        tokio::select! {
            () = copy_both(client, app, &moved, &back) => "OK",
            () = overdue(&mut phase) => "DRAINED",
        }
    };
    let ended = counted.0.unless_denied(pin!(work)).await;
    counted.0.reason = ended.unwrap_or_else(|denied| denied.reason);
    counted.0.sent(usize::try_from(back.load(Relaxed)).unwrap_or(usize::MAX));
}

async fn copy_both(
    client: Upgraded,
    app: Upgraded,
    up: &std::sync::atomic::AtomicU64,
    down: &std::sync::atomic::AtomicU64,
) {
    let (mut client_in, mut client_out) = tokio::io::split(TokioIo::new(client));
    let (mut app_in, mut app_out) = tokio::io::split(TokioIo::new(app));
    let up = copy(&mut client_in, &mut app_out, up);
    let down = copy(&mut app_in, &mut client_out, down);
    // either side that fails ends both; a side that only stops sending does not
    let _ = tokio::try_join!(up, down);
}

async fn copy<R, W>(from: &mut R, to: &mut W, count: &std::sync::atomic::AtomicU64) -> std::io::Result<()>
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
        count.fetch_add(n as u64, Relaxed);
    }
}
