//! One request: is it sound, who calls, may they, and then on to a replica.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use syp_auth::{Request as PolicyRequest, Verifier, machine};

use crate::body::{Download, Upload};
use crate::caller::{Caller, decide, identify};
use crate::conn::Conn;
use crate::cors::Cors;
use crate::headers::{self, Bad};
use crate::open::Open;
use crate::record::Record;
use crate::replica::{Channel, Replica, as_http1, as_http2};
use crate::reply::{Failure, health, is_grpc, refuse, refuse_denied};
use crate::route;
use crate::state::Active;
use crate::tunnel;

/// A client that sends nothing of a body it announced is given up after this; not in gRPC, where silence is normal.
const BODY_IDLE: Duration = Duration::from_secs(60);
/// Replicas tried for one request.
const ATTEMPTS: usize = 3;

/// Answers one request.
///
/// # Errors
/// Never.
pub async fn handle(conn: Arc<Conn>, request: Request<Incoming>) -> Result<Response<Download>, Infallible> {
    // exact, on the raw target: no spelling of another path gets here
    let target = request.uri().path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    // asked here, once for every request: the next one asks for its own
    let framing = conn.take_framing();
    if target == "/_syp/health" && framing.is_none() {
        return Ok(health(&conn));
    }
    if framing.is_none()
        && let Some(remote) = &conn.state.remote
        && let Some((path, signed)) = remote.signed(target, &request)
    {
        let path = path.to_owned();
        return Ok(Box::pin(remote.answer(&conn.state, &path, &signed, request)).await);
    }
    let grpc = is_grpc(request.headers());
    let cors = Cors::of(&conn.state, request.headers());
    let record = Record::new(conn, request.method().clone(), request.uri().path());
    let mut response = match admit(record, &request, framing, &cors).await {
        Ok(Admitted::Caller(record, active, host, caller)) => {
            forward(record, &active, host, &caller, request, grpc).await
        }
        Ok(Admitted::Preflight(record)) => return Ok(cors.preflight(record, request.headers())),
        Err(refused) => {
            let (record, failure, reason, close) = *refused;
            refuse(record, failure, reason, grpc, close)
        }
    };
    cors.tell(response.headers_mut());
    Ok(response)
}

/// What may be answered.
enum Admitted {
    /// A request of somebody who was let in.
    Caller(Record, Arc<Active>, HeaderValue, Arc<Caller>),
    /// A browser's question, which has no token and does not reach the app.
    Preflight(Record),
}

type Refused = Box<(Record, Failure, &'static str, bool)>;

async fn admit(
    mut record: Record,
    request: &Request<Incoming>,
    framing: Option<&'static str>,
    cors: &Cors,
) -> Result<Admitted, Refused> {
    let host = match framing.map_or_else(|| headers::check(request), |reason| Err(Bad(reason))) {
        Ok(host) => host,
        Err(Bad(reason)) => {
            // whatever follows on this connection may be part of the trick
            return Err(Box::new((record, Failure::BadRequest, reason, true)));
        }
    };
    let path = request.uri().path();
    if path == "/_syp" || path.starts_with("/_syp/") {
        return Err(Box::new((record, Failure::NotFound, "RESERVED_PATH", false)));
    }
    let state = record.conn().state.clone();
    let Some(active) = state.active() else {
        return Err(Box::new((record, Failure::Unavailable, "NOT_CONFIGURED", false)));
    };
    if state.draining() {
        return Err(Box::new((record, Failure::Unavailable, "DRAINING", true)));
    }
    if cors.is_preflight(request) {
        return Ok(Admitted::Preflight(record));
    }
    let Some(token) = headers::bearer(request.headers()) else {
        return Err(Box::new((record, Failure::Unauthenticated, "TOKEN_MISSING", false)));
    };
    let digest = Verifier::digest(token);
    record.token = digest.first_chunk().copied();
    let identity = match identify(&state, &active, token, digest).await {
        Ok(identity) => identity,
        Err(denied) => return Err(Box::new((record, denied.failure, denied.reason, false))),
    };
    record.identity = Some(identity.clone());
    if identity.issuer == machine::ISSUER {
        state.token_used(&identity.subject);
    }
    let asked = PolicyRequest { path, method: request.method().as_str() };
    let caller = decide(record.conn(), &active, identity, token, &asked);
    record.rule = caller.rule.clone();
    if !caller.allowed {
        return Err(Box::new((record, Failure::Forbidden, caller.reason, false)));
    }
    record.admitted = true;
    let tunnel = headers::wants_websocket(request);
    record.open = Some(Open::new(record.conn(), caller.clone(), &record.method, &record.path, tunnel));
    Ok(Admitted::Caller(record, active, host, caller))
}

async fn forward(
    mut record: Record,
    active: &Arc<Active>,
    host: HeaderValue,
    caller: &Caller,
    mut request: Request<Incoming>,
    grpc: bool,
) -> Response<Download> {
    let websocket = headers::wants_websocket(&request);
    let upgraded = websocket.then(|| hyper::upgrade::on(&mut request));
    headers::strip(request.headers_mut(), active.config.forward_token, active.by_method);
    let conn = record.conn().clone();
    headers::tell(request.headers_mut(), &caller.told, &conn.peer_text, conn.tls, &host, &record.id);
    let (parts, incoming) = request.into_parts();
    let upload = if incoming.is_end_stream() {
        Upload::empty()
    } else {
        Upload::new(incoming, &mut record, (!grpc).then_some(BODY_IDLE))
    };
    let mut request = Request::from_parts(parts, upload);
    if let Some(upgraded) = upgraded {
        // boxed: few requests are tunnels, and all would be as large
        return Box::pin(tunnel::open(record, &host, request, upgraded)).await;
    }
    let mut tried: Vec<Arc<Replica>> = Vec::new();
    while tried.len() < ATTEMPTS {
        let Some(replica) = route::next(&conn.state, &tried).await else { break };
        record.goes_to(&replica);
        let sent = match record.unless_denied(pin!(send(&replica, conn.worker, request, &host))).await {
            Ok(sent) => sent,
            Err(denied) => return refuse_denied(record, denied, grpc),
        };
        match sent {
            Ok((response, lease)) => return pass_on(record, response, lease),
            Err(Failed::Before(back, why)) => {
                // nothing of it was sent, so any request may go to another replica
                conn.state.metrics.connect_failures.fetch_add(1, Relaxed);
                replica.is_down(&why);
                tried.push(replica);
                request = *back;
            }
            Err(Failed::After(error)) => {
                let reason = if is_client_fault(&error) { "BODY_NOT_RECEIVED" } else { "UPSTREAM_BROKE_OFF" };
                let failure = if is_client_fault(&error) { Failure::BadRequest } else { Failure::BadGateway };
                return refuse(record, failure, reason, grpc, true);
            }
        }
    }
    let reason = if tried.is_empty() { "NO_REPLICA_READY" } else { "UPSTREAM_UNREACHABLE" };
    refuse(record, Failure::Unavailable, reason, grpc, false)
}

fn is_client_fault(error: &hyper::Error) -> bool {
    error.is_user()
}

/// Why a request did not get an answer.
enum Failed {
    /// Nothing of it was sent.
    Before(Box<Request<Upload>>, String),
    /// Some of it may have been.
    After(hyper::Error),
}

type Answer = (Response<Incoming>, Option<crate::replica::Lease>);

async fn send(
    replica: &Arc<Replica>,
    worker: usize,
    mut request: Request<Upload>,
    host: &HeaderValue,
) -> Result<Answer, Failed> {
    // a connection from the pool may have been closed a moment ago: then the request comes back unsent
    for _ in 0..8 {
        let channel = match replica.channel(worker).await {
            Ok(channel) => channel,
            Err(error) => return Err(Failed::Before(Box::new(request), error.to_string())),
        };
        let (result, reused) = match channel {
            Channel::Http1(mut sender, reused) => {
                as_http1(&mut request, host);
                match sender.try_send_request(request).await {
                    Ok(response) => return Ok((response, Some(replica.lease(worker, sender)))),
                    Err(error) => (error, reused),
                }
            }
            Channel::Http2(mut sender) => {
                as_http2(&mut request, host);
                match sender.try_send_request(request).await {
                    Ok(response) => return Ok((response, None)),
                    Err(error) => (error, true),
                }
            }
        };
        let mut result = result;
        match result.take_message() {
            Some(back) if reused => request = back,
            Some(back) => return Err(Failed::Before(Box::new(back), result.into_error().to_string())),
            None => return Err(Failed::After(result.into_error())),
        }
    }
    Err(Failed::Before(Box::new(request), "every pooled connection was closed".to_owned()))
}

/// Hands the app's answer to the client.
pub fn pass_on(
    mut record: Record,
    response: Response<Incoming>,
    lease: Option<crate::replica::Lease>,
) -> Response<Download> {
    let (mut parts, incoming) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS || parts.status.is_informational() {
        // nobody asked for it: what follows would be read as the next answer
        return refuse(record, Failure::BadGateway, "UPSTREAM_UNASKED_UPGRADE", false, true);
    }
    record.status = parts.status.as_u16();
    headers::strip_response(&mut parts.headers);
    parts.version = Version::HTTP_11;
    if record.conn().last_answer() {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let grpc = record.conn().http2 && is_grpc(&parts.headers);
    Response::from_parts(parts, Download::app(incoming, lease, record, grpc))
}
