//! Requests of the engine to a gate that it can only reach by the way that callers come: each is signed with the gate's admin token,
//! which itself never travels. Whoever reads one learns nothing that signs another; whoever sends one again within its time gets the
//! same effect again, since a configuration has a generation.

use aws_lc_rs::{digest, hmac};

/// The scheme of the `Authorization` header.
pub const SCHEME: &str = "SYP-HMAC-SHA256";
/// Where a gate listens to its engine, before the paths of its admin port.
pub const PREFIX: &str = "/_syp/admin";
/// Header of an answer with the name of the host that its gate is on.
pub const HOST: &str = "syp-gate-host";
/// How far the clocks of engine and gate may be apart, and for how long a request is good, in seconds.
pub const WINDOW_S: u64 = 300;

/// What a signature that is good says of the body, which is yet to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    body: String,
}

/// The value of the `Authorization` header.
#[must_use]
pub fn sign(token: &str, method: &str, path: &str, at_s: u64, body: &[u8]) -> String {
    let body = sha256(body);
    let mac = hex::encode(hmac::sign(&key(token), text(method, path, at_s, &body).as_bytes()));
    format!("{SCHEME} t={at_s},body={body},mac={mac}")
}

/// Whether the engine has signed this head. `None`: it has not, or too long ago.
#[must_use]
pub fn verify(token: &str, method: &str, path: &str, header: &str, now_s: u64) -> Option<Signed> {
    let mut parts = header.strip_prefix(SCHEME)?.strip_prefix(' ')?.split(',');
    let mut part = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
    let (at, body, mac) = (part("t")?, part("body")?, part("mac")?);
    // no more parts, and one spelling of a time
    let at_s: u64 = at.parse().ok().filter(|n: &u64| parts.next().is_none() && n.to_string() == at)?;
    let mac = hex::decode(mac).ok()?;
    hmac::verify(&key(token), text(method, path, at_s, body).as_bytes(), &mac).ok()?;
    (at_s.abs_diff(now_s) <= WINDOW_S).then(|| Signed { body: body.to_owned() })
}

impl Signed {
    /// Whether this is the body that was signed.
    #[must_use]
    pub fn holds(&self, body: &[u8]) -> bool {
        self.body == sha256(body)
    }
}

fn key(token: &str) -> hmac::Key {
    // a key of its own: the token is also a bearer's, where there is an admin port
    let own = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()), b"gate-remote");
    hmac::Key::new(hmac::HMAC_SHA256, own.as_ref())
}

/// No part has a line break in it: method and path are of a request's head.
fn text(method: &str, path: &str, at_s: u64, body: &str) -> String {
    format!("{SCHEME}\n{method}\n{path}\n{at_s}\n{body}")
}

fn sha256(body: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "the-admin-token-of-the-tests";
    const NOW: u64 = 1_700_000_000;

    fn signed(header: &str) -> Option<Signed> {
        verify(TOKEN, "PUT", "/config", header, NOW)
    }

    #[test]
    fn what_was_signed_is_accepted_with_its_body_and_no_other() {
        let good = signed(&sign(TOKEN, "PUT", "/config", NOW, b"{}")).expect("good");
        assert!(good.holds(b"{}") && !good.holds(b"{ }") && !good.holds(b""));
    }

    #[test]
    fn another_token_method_path_or_time_is_refused() {
        for header in [
            sign("another-token-of-the-tests", "PUT", "/config", NOW, b"{}"),
            sign(TOKEN, "GET", "/config", NOW, b"{}"),
            sign(TOKEN, "PUT", "/leave", NOW, b"{}"),
            sign(TOKEN, "PUT", "/config", NOW - WINDOW_S - 1, b"{}"),
            sign(TOKEN, "PUT", "/config", NOW + WINDOW_S + 1, b"{}"),
        ] {
            assert_eq!(signed(&header), None, "{header}");
        }
        assert!(signed(&sign(TOKEN, "PUT", "/config", NOW - WINDOW_S, b"{}")).is_some());
    }

    #[test]
    fn a_header_that_was_changed_is_refused() {
        let good = sign(TOKEN, "PUT", "/config", NOW, b"{}");
        let body = sha256(b"other");
        let swapped = good
            .split(',')
            .map(|p| if p.starts_with("body=") { format!("body={body}") } else { p.to_owned() });
        for header in [
            String::new(),
            format!("Bearer {TOKEN}"),
            SCHEME.to_owned(),
            good.replace("t=1", "t=01"),
            good.replace(&format!("t={NOW}"), &format!("t={}", NOW + 1)),
            format!("{good},more=1"),
            good.replace(",mac=", ",mac=00"),
            good[..good.len() - 2].to_owned(),
            swapped.collect::<Vec<_>>().join(","),
        ] {
            assert_eq!(signed(&header), None, "{header}");
        }
    }
}
