//! Who calls and how, as the app is told.

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use syp_auth::Identity;

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
