//! Talking to a gate's admin port over whatever way a target has to it.
use bytes::Bytes;
use hmac::{Hmac, Mac};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::de::DeserializeOwned;
use sha2::Sha256;
use std::time::Duration;
use syp_auth::door::{GateConfig, GateMetrics, GateStatus};
use syp_engine::{
    failure::{Class, failure},
    step::{Done, Owner},
};
use syp_proto::journal::Failure;
use tokio::io::{AsyncRead, AsyncWrite};

/// An answer of the gate is never larger.
const MAX_ANSWER: usize = 4 << 20;
/// An answer takes no longer.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// The admin token of an instance's gates: derived, so that it is in no journal and needs no store of its own.
pub(crate) fn token(key: &SecretSlice<u8>, owner: &Owner) -> SecretString {
    // HMAC takes keys of any length, so this can't fail; an empty token is refused by every gate
    let mac = Hmac::<Sha256>::new_from_slice(key.expose_secret());
    mac.map_or_else(
        |_| SecretString::default(),
        |mut mac| {
            mac.update(b"gate-admin|");
            mac.update(owner.uid.as_bytes());
            hex::encode(mac.finalize().into_bytes()).into()
        },
    )
}

/// What the status of a request without a token shows.
///
/// # Errors
/// `AUTH_NOT_ENFORCED`.
pub(crate) fn enforced(status: u16) -> Result<Done, Failure> {
    if status == 401 {
        let words = "a request without a token is answered 401";
        return Ok(Done::condition("AuthEnforced", true, "TRIED", words));
    }
    Err(failure(
        Class::Terminal,
        "AUTH_NOT_ENFORCED",
        format!("a request without a token was answered {status}, not 401"),
        "nothing is served; please report this bug",
    ))
}

/// A gate that can't be talked to.
pub(crate) fn unreachable(what: &str, e: impl std::fmt::Display) -> Failure {
    failure(
        Class::Transient,
        "GATE_UNREACHABLE",
        format!("the gate does not answer ({what}: {e})"),
        "the engine tries again by itself",
    )
}

/// One request on a connection of its own.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(u16, Bytes), Failure> {
    let [answer] = exchange_all(stream, [request]).await?;
    Ok(answer)
}

/// The same; who has answered says this header, which every answer must have.
#[cfg(feature = "aws")]
pub(crate) async fn exchange_named(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    name: &'static str,
) -> Result<(String, u16, Bytes), Failure> {
    let (mut send, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable("http", e))?;
    let answer = async {
        let response = send.send_request(request).await.map_err(|e| unreachable("http", e))?;
        let status = response.status().as_u16();
        let host = response.headers().get(name).and_then(|h| h.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| unreachable("body", e))?.to_bytes();
        Ok((host.ok_or_else(|| unreachable("not a gate", status))?, status, body))
    };
    let both = async {
        tokio::pin!(answer);
        tokio::select! {
            a = &mut answer => a,
            _ = connection => answer.await,
        }
    };
    tokio::time::timeout(ANSWER, both).await.map_err(|e| unreachable("answer", e))?
}

/// Some requests, one after another on one connection: a way to a gate may cost more than what is said on it.
async fn exchange_all<const N: usize>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    requests: [Request<Full<Bytes>>; N],
) -> Result<[(u16, Bytes); N], Failure> {
    let (mut send, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable("http", e))?;
    let answers = async {
        let mut out = [const { (0, Bytes::new()) }; N];
        for (request, out) in requests.into_iter().zip(&mut out) {
            send.ready().await.map_err(|e| unreachable("http", e))?;
            let response = send.send_request(request).await.map_err(|e| unreachable("http", e))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            *out = (status, body.map_err(|e| unreachable("body", e))?.to_bytes());
        }
        Ok(out)
    };
    // whoever ends first: the answers, or a connection that is closed without them
    let both = async {
        tokio::pin!(answers);
        tokio::select! {
            a = &mut answers => a,
            _ = connection => answers.await,
        }
    };
    tokio::time::timeout(ANSWER, both).await.map_err(|e| unreachable("answer", e))?
}

/// A request to the gate.
pub(crate) fn request(
    method: Method,
    path: &str,
    token: Option<&SecretString>,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Failure> {
    let mut r = Request::builder().method(method).uri(path).header(header::HOST, "gate");
    if let Some(token) = token {
        r = r.header(header::AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
    }
    r.header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|e| unreachable("request", e))
}

/// Puts a configuration. Being told that the gate has a newer one is fine.
///
/// # Errors
/// `GATE_UNREACHABLE`, or what the gate does not like about it.
pub(crate) async fn configure(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    token: &SecretString,
    config: &GateConfig,
) -> Result<(), Failure> {
    let body = serde_json::to_vec(config).map_err(|e| {
        failure(Class::Terminal, "INTERNAL", e.to_string(), "this is a bug: please report it")
    })?;
    let (status, answer) =
        exchange(stream, request(Method::PUT, "/config", Some(token), body.into())?).await?;
    match status {
        200..=299 | 409 => Ok(()),
        _ => Err(failure(
            Class::Terminal,
            "GATE_REFUSED",
            format!("the gate refused its configuration ({status}): {}", String::from_utf8_lossy(&answer)),
            "check the access policy with 'sypctl access show'",
        )),
    }
}

/// Reads one of the gate's documents.
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub(crate) async fn read<T: DeserializeOwned>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    token: &SecretString,
    path: &str,
) -> Result<T, Failure> {
    parse(path, exchange(stream, request(Method::GET, path, Some(token), Bytes::new())?).await?)
}

/// Counters and status of a gate, on one connection.
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub(crate) async fn look(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    token: &SecretString,
) -> Result<(GateMetrics, GateStatus), Failure> {
    let get = |path| request(Method::GET, path, Some(token), Bytes::new());
    let [metrics, status] = exchange_all(stream, [get(METRICS)?, get(STATUS)?]).await?;
    Ok((parse(METRICS, metrics)?, parse(STATUS, status)?))
}

const METRICS: &str = "/metrics.json";
const STATUS: &str = "/status";

fn parse<T: DeserializeOwned>(path: &str, (status, answer): (u16, Bytes)) -> Result<T, Failure> {
    if status != 200 {
        return Err(unreachable(path, status));
    }
    serde_json::from_slice(&answer).map_err(|e| unreachable(path, e))
}

/// Status of a request without a token.
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub(crate) async fn anonymous(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<u16, Failure> {
    anonymous_at(stream, "gate").await
}

/// The same under a name that something before the gate goes by.
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub(crate) async fn anonymous_at(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
) -> Result<u16, Failure> {
    let mut r = request(Method::GET, "/", None, Bytes::new())?;
    r.headers_mut().insert(header::HOST, host.parse().map_err(|e| unreachable("host", e))?);
    Ok(exchange(stream, r).await?.0)
}

/// Tells the gate that its end is near: it serves what comes, and sends its callers elsewhere.
///
/// # Errors
/// `GATE_UNREACHABLE`.
pub(crate) async fn leave(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    token: &SecretString,
) -> Result<(), Failure> {
    let (status, _) = exchange(stream, request(Method::PUT, "/leave", Some(token), Bytes::new())?).await?;
    if (200..300).contains(&status) { Ok(()) } else { Err(unreachable("/leave", status)) }
}
