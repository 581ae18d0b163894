//! What stays between two neighbours, and what only the gate may say.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::tokens;

/// Names that only the gate may set; `-` stands for itself and for `_`, which many servers take for the same.
const OURS: [&str; 20] = [
    "forwarded",
    "remote-user",
    "remote-email",
    "remote-groups",
    "remote-name",
    "x-real-ip",
    "x-request-id",
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
    "x-original-method",
    "x-original-host",
    "x-host",
    "x-user",
    "x-email",
    "x-groups",
    "x-authenticated-user",
    "x-webauth-user",
    "x-client-ip",
    "proxy",
];
/// Whole families of such names.
const FAMILIES: [&str; 14] = [
    "x-syp-",
    "x-forwarded-",
    "x-auth-",
    "x-remote-",
    "x-goog-iap-",
    "x-goog-authenticated-",
    "x-amzn-oidc-",
    "x-ms-client-principal",
    "cf-access-",
    "x-pomerium-",
    "x-authentik-",
    "tailscale-user",
    "x-webauth-",
    "x-ssl-client",
];
/// What frames a message or speaks of the connection: never under a name that only folds to it.
const FRAMING: [&str; 5] =
    ["content-length", "transfer-encoding", "proxy-connection", "proxy-authorization", "keep-alive"];
/// Headers that let a client say another method than the one policy looked at.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "expect"
            | "http2-settings"
    )
}

pub(super) fn is_ours(name: &str, overrides: bool) -> bool {
    // most names are short words that are in no list: look at the first letter before anything else
    if !matches!(name.as_bytes().first(), Some(b'x' | b'f' | b'r' | b'p' | b'c' | b't' | b'k')) {
        return false;
    }
    let mut folded = [0_u8; 40];
    let length = name.len().min(folded.len());
    for (to, from) in folded.iter_mut().zip(name.bytes()) {
        *to = if from == b'_' || from == b'.' { b'-' } else { from };
    }
    let folded = std::str::from_utf8(&folded[..length]).unwrap_or_default();
    (name.len() <= 40 && OURS.contains(&folded))
        || (folded != name && FRAMING.contains(&folded))
        || FAMILIES.iter().any(|f| folded.starts_with(f))
        || overrides && METHOD_OVERRIDES.contains(&folded)
}

/// Takes away what the client must not tell the app. `overrides`: also the headers that change the method.
pub fn strip(headers: &mut HeaderMap, forward_token: bool, overrides: bool) {
    let keeps_trailers = tokens(headers, &header::TE).any(|t| t.eq_ignore_ascii_case("trailers"));
    let named = tokens(headers, &header::CONNECTION).filter(|t| !t.is_empty());
    let mut gone: Vec<HeaderName> = named.filter_map(|t| t.parse().ok()).collect();
    // a client must not take away what frames the message
    gone.retain(|n| *n != header::HOST && *n != header::CONTENT_LENGTH && *n != header::CONTENT_TYPE);
    gone.extend(headers.keys().filter(|n| is_hop_by_hop(n) || is_ours(n.as_str(), overrides)).cloned());
    if !forward_token {
        gone.push(header::AUTHORIZATION);
        // servers that fold '_' would read this as the token
        gone.extend(
            headers
                .keys()
                .filter(|n| n.as_str().starts_with("http_") || n.as_str() == "x_authorization")
                .cloned(),
        );
    }
    for name in gone {
        headers.remove(name);
    }
    if keeps_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    strip_cookies(headers);
}

/// Takes out of a request's trailers what would count for something in its head: some servers put the two together.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let bad = |name: &HeaderName| {
        let known =
            [header::AUTHORIZATION, header::COOKIE, header::HOST, header::CONTENT_LENGTH, header::TRAILER];
        let other = name.as_str().starts_with("http_") || name == "x_authorization";
        other || known.contains(name) || is_hop_by_hop(name) || is_ours(name.as_str(), true)
    };
    let gone: Vec<HeaderName> = trailers.keys().filter(|n| bad(n)).cloned().collect();
    for name in gone {
        trailers.remove(name);
    }
}

/// The gate's own cookies are not the app's business. Several lines become one: HTTP/2 clients cut their cookies into pieces,
/// and HTTP/1.1 servers may read one line only.
fn strip_cookies(headers: &mut HeaderMap) {
    const OWN: &str = "__Host-syp";
    let held = |v: &HeaderValue| v.as_bytes().windows(OWN.len()).any(|w| w == OWN.as_bytes());
    let mut lines = headers.get_all(header::COOKIE).iter();
    let Some(first) = lines.next() else { return };
    if lines.next().is_none() && !held(first) {
        return;
    }
    let others: Vec<String> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .map(str::trim)
        .filter(|pair| {
            !pair.is_empty() && !pair.split('=').next().unwrap_or_default().trim().starts_with(OWN)
        })
        .map(str::to_owned)
        .collect();
    headers.remove(header::COOKIE);
    if let Ok(value) = HeaderValue::from_str(&others.join("; "))
        && !others.is_empty()
    {
        headers.insert(header::COOKIE, value);
    }
}

/// Takes hop-by-hop headers off a response.
pub fn strip_response(headers: &mut HeaderMap) {
    let named = tokens(headers, &header::CONNECTION).filter(|t| !t.is_empty());
    let mut gone: Vec<HeaderName> = named.filter_map(|t| t.parse().ok()).collect();
    gone.retain(|n| *n != header::CONTENT_LENGTH);
    gone.extend(headers.keys().filter(|n| is_hop_by_hop(n)).cloned());
    for name in gone {
        headers.remove(name);
    }
}
