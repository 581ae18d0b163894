//! What a client may send, what the app is told, and what stays between two neighbours.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Version};
use syp_auth::Identity;

/// Why a request is refused before anything else is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad(pub &'static str);

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

fn is_ours(name: &str, overrides: bool) -> bool {
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

/// A caller as the app is told of them.
pub struct Told {
    user: HeaderValue,
    subject: HeaderValue,
    issuer: HeaderValue,
    email: Option<HeaderValue>,
    groups: Option<HeaderValue>,
}

impl Told {
    /// Of this identity.
    #[must_use]
    pub fn of(who: &Identity) -> Self {
        let (email, subject) = (who.email.as_deref().map(text), text(&who.subject));
        let user = email.clone().unwrap_or_else(|| subject.clone());
        let groups = (!who.groups.is_empty()).then(|| groups(&who.groups));
        Self { user, subject, issuer: text(&who.issuer), email, groups }
    }
}

/// An address as a header's value.
#[must_use]
pub fn address(peer: IpAddr) -> HeaderValue {
    HeaderValue::from_str(&peer.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Tells the app who calls and how.
pub fn tell(
    headers: &mut HeaderMap,
    who: &Told,
    peer: &HeaderValue,
    tls: bool,
    host: &HeaderValue,
    id: &HeaderValue,
) {
    let name = |n: &'static str| HeaderName::from_static(n);
    // once, instead of growing with each
    headers.reserve(12);
    headers.insert(name("x-forwarded-user"), who.user.clone());
    headers.insert(name("x-syp-user"), who.user.clone());
    headers.insert(name("x-syp-subject"), who.subject.clone());
    headers.insert(name("x-syp-issuer"), who.issuer.clone());
    if let Some(email) = &who.email {
        headers.insert(name("x-forwarded-email"), email.clone());
        headers.insert(name("x-syp-email"), email.clone());
    }
    if let Some(groups) = &who.groups {
        headers.insert(name("x-syp-groups"), groups.clone());
    }
    headers.insert(name("x-forwarded-for"), peer.clone());
    headers.insert(name("x-forwarded-proto"), HeaderValue::from_static(if tls { "https" } else { "http" }));
    headers.insert(name("x-forwarded-host"), host.clone());
    headers.insert(name("x-request-id"), id.clone());
}

/// A claim as a header value: what is not printable ASCII, and `%`, is percent-encoded, so that nothing can be smuggled.
fn text(value: &str) -> HeaderValue {
    encode(value, |b| (b' '..0x7f).contains(&b) && b != b'%')
}

/// A list: the comma that parts it is encoded inside a name.
fn groups(list: &[String]) -> HeaderValue {
    let mut all = Vec::new();
    for group in list {
        let value = encode(group, |b| (b'!'..0x7f).contains(&b) && b != b'%' && b != b',');
        // a header that the app refuses for its size would lock the caller out
        if all.len() + value.len() > 8192 {
            break;
        }
        if !all.is_empty() {
            all.push(b',');
        }
        all.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_bytes(&all).unwrap_or(HeaderValue::from_static(""))
}

fn encode(value: &str, plain: impl Fn(u8) -> bool) -> HeaderValue {
    if value.bytes().all(&plain) {
        return HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""));
    }
    let mut out = String::with_capacity(value.len() + 16);
    for byte in value.bytes() {
        if plain(byte) { out.push(byte as char) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    HeaderValue::from_str(&out).unwrap_or(HeaderValue::from_static(""))
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

#[cfg(test)]
mod tests {
    use super::{bearer, is_ours, strip};
    use http::{HeaderMap, HeaderName, HeaderValue};

    #[test]
    fn identity_headers_are_ours_in_every_spelling() {
        for name in [
            "x-syp-user",
            "x_syp_user",
            "x-forwarded-user",
            "x_forwarded_user",
            "x-forwarded_for",
            "x-auth-request-email",
            "remote-user",
            "remote_user",
            "x-real-ip",
            "forwarded",
            "x-request-id",
            "x.forwarded.user",
            "x-original-url",
            "cf-access-jwt-assertion",
            "x-syp-a-very-long-name-that-does-not-fit-into-forty-bytes",
            "proxy",
        ] {
            assert!(is_ours(name, false), "{name}");
        }
        for name in [
            "accept",
            "content-type",
            "x-custom",
            "cookie",
            "range",
            "x-api-key",
            "traceparent",
            "x-http-method-override",
        ] {
            assert!(!is_ours(name, false), "{name}");
        }
        assert!(is_ours("x-http-method-override", true) && is_ours("x_http_method_override", true));
    }

    #[test]
    fn only_one_bearer_token_counts() {
        let map = |values: &[&'static str]| {
            let mut map = HeaderMap::new();
            for v in values {
                map.append("authorization", HeaderValue::from_static(v));
            }
            map
        };
        assert_eq!(bearer(&map(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&map(&["bearer  abc "])), Some("abc"));
        for wrong in [
            &["Basic abc"][..],
            &["Bearer"],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a,b"],
            &["Bearer a", "Bearer a"],
            &[],
        ] {
            assert_eq!(bearer(&map(wrong)), None, "{wrong:?}");
        }
    }

    #[test]
    fn connection_cannot_remove_framing_but_removes_what_it_names() {
        let mut map = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-private, host, content-length"),
            ("host", "a"),
            ("content-length", "3"),
            ("x-private", "1"),
            ("te", "gzip, trailers"),
            ("authorization", "Bearer x"),
            ("cookie", "a=1; __Host-syp=secret; b=2"),
            ("keep-alive", "5"),
        ] {
            map.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
        }
        strip(&mut map, false, false);
        let mut left: Vec<_> = map.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["content-length=3", "cookie=a=1; b=2", "host=a", "te=trailers"]);
    }
}
