//! The gate's own answers. A caller learns a class of failure and an id; the access log has the reason under that id.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode, Version};

use crate::body::Download;
use crate::caller::Denied;
use crate::conn::Conn;
use crate::record::Record;

/// What went wrong, as far as the caller may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The request could be misread.
    BadRequest,
    /// No token, or not a good one.
    Unauthenticated,
    /// A good token of somebody who may not call.
    Forbidden,
    /// Nothing there.
    NotFound,
    /// The app answered with something that is no response.
    BadGateway,
    /// Not now: not configured yet, draining, or no replica ready.
    Unavailable,
}

impl Failure {
    fn parts(self) -> (StatusCode, &'static str, u8) {
        // the last is the gRPC status
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad_request", 3),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", 16),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", 7),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", 5),
            Self::BadGateway => (StatusCode::BAD_GATEWAY, "bad_gateway", 14),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", 14),
        }
    }
}

/// How a gRPC call ends when its caller may not go on.
#[must_use]
pub fn grpc_trailers(failure: Failure) -> HeaderMap {
    let (_, word, code) = failure.parts();
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(code)));
    trailers.insert(HeaderName::from_static("grpc-message"), HeaderValue::from_static(word));
    trailers
}

/// Whether the caller speaks gRPC, which has no use for a JSON text.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.len() >= 16
        && kind[..16].eq_ignore_ascii_case(b"application/grpc")
        && matches!(kind.get(16), None | Some(b'+' | b';' | b' '))
}

/// Answers with a failure and closes the record with its reason.
#[must_use]
pub fn refuse(
    mut record: Record,
    failure: Failure,
    reason: &'static str,
    grpc: bool,
    close: bool,
) -> Response<Download> {
    let (status, word, _) = failure.parts();
    (record.status, record.reason) = (status.as_u16(), reason);
    let id = record.id.clone();
    let close = (close && !record.conn().http2) || record.conn().last_answer();
    let mut response = if grpc {
        let mut response = Response::new(Download::text("", Some(record)));
        *response.headers_mut() = grpc_trailers(failure);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    } else {
        let text =
            format!("{{\"error\":\"{word}\",\"reason_id\":\"{}\"}}\n", id.to_str().unwrap_or_default());
        let mut response = Response::new(Download::text(text, Some(record)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    };
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-request-id"), id);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match failure {
        Failure::Unauthenticated => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Failure::Unavailable => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    if close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    *response.version_mut() = Version::HTTP_11;
    response
}

/// Answers a request that was let in and may not go on before there was an answer of the app.
#[must_use]
pub fn refuse_denied(record: Record, denied: Denied, grpc: bool) -> Response<Download> {
    // what is still to come of its body is of no use to anybody
    refuse(record, denied.failure, denied.reason, grpc, true)
}

/// `/_syp/health`: 200 or 503, no detail, no record (it is asked all the time).
#[must_use]
pub fn health(conn: &Conn) -> Response<Download> {
    let ok = conn.state.healthy();
    let mut response = Response::new(Download::text(if ok { "ok\n" } else { "unavailable\n" }, None));
    *response.status_mut() = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if conn.last_answer() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
