//! What a client may send, what the app is told, and what stays between two neighbours.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Version};

mod own;
mod strip;
mod told;

pub use own::detach;
pub use strip::{strip, strip_response, strip_trailers};
pub use told::{Told, address, tell};

/// Why a request is refused before anything else is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad(pub &'static str);

/// Checks what hyper leaves to us and returns the host the client meant.
///
/// # Errors
/// The request could be read differently by the app than by us.
pub fn check<B>(request: &Request<B>) -> Result<HeaderValue, Bad> {
    if request.method() == Method::CONNECT || !request.uri().path().starts_with('/') {
        return Err(Bad("REQUEST_TARGET"));
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (first, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Bad("REQUEST_HOST_TWICE"));
    }
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let host = match (first, authority) {
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
            return Err(Bad("REQUEST_HOST_MISMATCH"));
        }
        (Some(host), _) => host.clone(),
        // HTTP/2 has :authority in its place
        (None, Some(authority)) if request.version() == Version::HTTP_2 => {
            HeaderValue::from_str(authority).map_err(|_| Bad("REQUEST_HOST"))?
        }
        _ => return Err(Bad("REQUEST_HOST_MISSING")),
    };
    let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if host.is_empty() || host.len() > 255 || !host.as_bytes().iter().all(good) {
        return Err(Bad("REQUEST_HOST"));
    }
    if request.headers().get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Bad("REQUEST_LENGTH_TWICE"));
    }
    let mut encodings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        if request.headers().contains_key(header::CONTENT_LENGTH) {
            return Err(Bad("REQUEST_LENGTH_AND_ENCODING"));
        }
        // hyper undoes only chunked: the app would be told nothing of another encoding below it
        if encodings.next().is_some() || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Bad("REQUEST_ENCODING"));
        }
    }
    Ok(host)
}

/// The bearer token: exactly one `Authorization` header, scheme Bearer, one word.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (one, more) = (all.next()?, all.next());
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    let token = token.trim_matches(' ');
    let word = !token.is_empty() && !token.contains([' ', ',', '\t']);
    (more.is_none() && word && scheme.eq_ignore_ascii_case("bearer")).then_some(token)
}

/// Whether the client asks for a WebSocket.
#[must_use]
pub fn wants_websocket<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let only = matches!((upgrades.next(), upgrades.next()), (Some(u), None) if u.as_bytes().eq_ignore_ascii_case(b"websocket"));
    only && request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && tokens(headers, &header::CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests;
