//! WebSockets: after the app said 101, bytes go both ways until a side ends, the drain's deadline, the token's end, or a new
//! configuration that no longer admits the caller.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use syp_auth::Request as PolicyRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::body::{Download, Upload};
use crate::handle::pass_on;
use crate::headers;
use crate::record::Record;
use crate::replica::{as_http1, pick};
use crate::reply::{Failure, refuse};
use crate::state::{Active, Phase};

/// A tunnel's token is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Sends the upgrade to a replica, on a connection of its own.
pub async fn open(
    mut record: Record,
    active: &Arc<Active>,
    host: &HeaderValue,
    mut request: Request<Upload>,
    (token, client): (String, OnUpgrade),
) -> Response<Download> {
    as_http1(&mut request, host);
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let mut tried: Vec<Arc<crate::replica::Replica>> = Vec::new();
    let mut sender = loop {
        let Some(replica) = pick(&active.replicas, active.turn.fetch_add(1, Relaxed), &tried).cloned() else {
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
    let mut response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(_) => return refuse(record, Failure::BadGateway, "UPSTREAM_BROKE_OFF", false, true),
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
    tokio::spawn(run(record, token, client, app));
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

async fn run(record: Record, token: String, client: OnUpgrade, app: OnUpgrade) {
    let mut counted = Counted::new(record);
    let both = async { tokio::try_join!(client, app) };
    let Ok(Ok((client, app))) = tokio::time::timeout(Duration::from_secs(10), both).await else {
        counted.0.reason = "TUNNEL_NOT_OPENED";
        return;
    };
    let moved = counted.0.bytes_in.insert(Arc::default()).clone();
    let back = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let ended = tokio::select! {
        () = copy_both(client, app, &moved, &back) => "OK",
        reason = must_end(&counted.0, &token) => reason,
    };
    counted.0.reason = ended;
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

/// Returns with the reason when a tunnel may not go on.
async fn must_end(record: &Record, token: &str) -> &'static str {
    let state = &record.conn().state;
    let mut phase = state.phase.subscribe();
    let Some(who) = &record.identity else { return "TOKEN_MISSING" };
    let left = Duration::from_secs(who.expires_at.saturating_sub(syp_auth::unix_now()));
    let expires = Instant::now() + left.min(Duration::from_secs(30 * 24 * 3600));
    loop {
        let until = match *phase.borrow_and_update() {
            Phase::Drain(deadline) if deadline < expires => (deadline, "DRAINED"),
            _ => (expires, "TOKEN_EXPIRED"),
        };
        let Some(active) = state.active() else { return "NOT_CONFIGURED" };
        // keys, issuers and audiences may have changed, not only rules
        let who = match active.verifier.verify(token).await {
            Ok(who) => who,
            Err(error) => return error.reason(),
        };
        let asked = PolicyRequest { path: record.target.path(), method: record.method.as_str() };
        if !active.config.policy.decide(&who, Some(&asked)).allowed {
            return "POLICY_CHANGED";
        }
        drop(active);
        tokio::select! {
            () = tokio::time::sleep_until(until.0) => return until.1,
            changed = phase.changed() => if changed.is_err() { return "DRAINED" },
            // keys that an issuer dropped come with no new configuration
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}
