//! Browser apps of other sites (CORS): only listed origins, and never with cookies, so that a token is always needed.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};

use crate::body::Download;
use crate::record::Record;
use crate::state::State;

/// How long a browser may remember the answer to a preflight; a change is effective for it after that at the latest.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
/// The longest list of headers that a preflight may ask for.
const LONGEST: usize = 4096;

/// What this request's answer needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    /// No origins are listed: what the app says stays.
    Off,
    /// None of them, or no browser app: nobody is told anything.
    Unlisted,
    /// This one.
    Listed(HeaderValue),
}

/// Those of an app that the gate speaks for.
const OURS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

// === impl Cors ===

impl Cors {
    /// Of a request.
    #[must_use]
    pub fn of(state: &State, headers: &HeaderMap) -> Self {
        state.with_origins(|listed| {
            if listed.is_empty() {
                return Self::Off;
            }
            let mut all = headers.get_all(header::ORIGIN).iter();
            match (all.next(), all.next()) {
                (Some(origin), None) if listed.iter().any(|l| l.as_bytes() == origin.as_bytes()) => {
                    Self::Listed(origin.clone())
                }
                _ => Self::Unlisted,
            }
        })
    }

    /// Whether the request is a preflight of a listed origin, which browsers send without a token.
    #[must_use]
    pub fn is_preflight<B>(&self, request: &Request<B>) -> bool {
        matches!(self, Self::Listed(_))
            && request.method() == Method::OPTIONS
            && asked(request.headers()).is_some()
    }

    /// Puts what there is to say into an answer: of the app, in place of what it says itself, or of the gate.
    pub fn tell(&self, headers: &mut HeaderMap) {
        if *self == Self::Off {
            return;
        }
        OURS.iter().for_each(|name| drop(headers.remove(name)));
        // a cache must not give one origin's answer to another
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        let Self::Listed(origin) = self else { return };
        let names: Vec<&str> =
            headers.keys().map(HeaderName::as_str).filter(|n| *n != "set-cookie").collect();
        // without '*': that would be a literal name where cookies are sent
        if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, names);
        }
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    }

    /// Answers a preflight with what it asks for: the policy decides about the request itself.
    #[must_use]
    pub fn preflight(&self, mut record: Record, request: &HeaderMap) -> Response<Download> {
        let status = StatusCode::NO_CONTENT;
        (record.status, record.reason) = (status.as_u16(), "CORS_PREFLIGHT");
        let last = record.conn().last_answer();
        let mut response = Response::new(Download::text("", Some(record)));
        (*response.status_mut(), *response.version_mut()) = (status, Version::HTTP_11);
        let headers = response.headers_mut();
        if let (Self::Listed(origin), Some((method, names))) = (self, asked(request)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method);
            if let Some(names) = names {
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
            }
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        headers.insert(
            header::VARY,
            HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers"),
        );
        if last {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Method and headers that a preflight asks for; the headers may be none.
fn asked(headers: &HeaderMap) -> Option<(HeaderValue, Option<HeaderValue>)> {
    let one = |name: HeaderName| {
        let mut all = headers.get_all(name).iter();
        (all.next().cloned(), all.next().is_some())
    };
    let (Some(method), false) = one(header::ACCESS_CONTROL_REQUEST_METHOD) else { return None };
    Method::from_bytes(method.as_bytes()).ok()?;
    let (names, more) = one(header::ACCESS_CONTROL_REQUEST_HEADERS);
    let word = |n: &str| n.trim().parse::<HeaderName>().is_ok();
    let plain = |v: &HeaderValue| v.len() <= LONGEST && v.to_str().is_ok_and(|t| t.split(',').all(word));
    let fits = !more && names.as_ref().is_none_or(|v| v.is_empty() || plain(v));
    fits.then_some((method, names.filter(|v| !v.is_empty())))
}
