//! A head in memory of its own.

use bytes::Bytes;
use http::Request;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};

/// How many headers the gate adds.
const ADDED: usize = 12;

/// Copies an HTTP/1 request's head out of the connection's read buffer. As parsed, every name and value is a part of that
/// buffer: nothing more could be read into it while the request is under way, and each connection would need a second one. To be
/// called before hyper reads on, that is before the request's future is first polled.
pub fn detach<B>(request: &mut Request<B>) {
    let target = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    let room = target.len() + request.headers().values().map(HeaderValue::len).sum::<usize>();
    let mut all = Vec::with_capacity(room);
    all.extend_from_slice(target.as_bytes());
    for value in request.headers().values() {
        all.extend_from_slice(value.as_bytes());
    }
    let mut all = Bytes::from(all);
    // other forms than a path are refused, and need no room
    let simple = request.uri().authority().is_none() && request.uri().scheme().is_none();
    let target = all.split_to(target.len());
    if let (true, Ok(target)) = (simple, PathAndQuery::from_maybe_shared(target)) {
        *request.uri_mut() = Uri::from(target);
    }
    let mut own = HeaderMap::with_capacity(request.headers().len() + ADDED);
    for (name, value) in request.headers() {
        let text = all.split_to(value.len());
        // what was valid once is valid again; were it not, nothing may get lost here
        let copy = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone());
        own.append(copy, HeaderValue::from_maybe_shared(text).unwrap_or_else(|_| value.clone()));
    }
    *request.headers_mut() = own;
}
