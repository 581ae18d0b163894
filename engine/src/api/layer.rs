//! The interceptor of every call: token, role, audit. Deny unless allowed.
//!
//! A tower layer rather than a `tonic::Interceptor`, because an interceptor can't see the method's path and can't wait for keys.
use super::{
    VERSION,
    authz::Authz,
    ending::Ending,
    identity::Identities,
    roles::{self, Need},
    status::refuse,
};
use crate::{
    clock::{Clock, Millis},
    store::{Commit, RESERVE, Store},
};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use syp_auth::{Identity, machine};
use syp_proto::journal::Audit;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    body::Body,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{Layer, Service};

/// Audit rows of calls that only read, on their way to the disk; more make calls wait.
const AUDIT_QUEUE: usize = 1024;

/// The other end of a connection: did the engine's own user connect over the Unix socket?
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// User id of the other end of a Unix socket.
    pub uid: Option<u32>,
    /// Address of the other end of a TCP connection.
    pub address: Option<SocketAddr>,
}

/// Makes [`Guarded`] services.
#[derive(Clone)]
pub struct Guard {
    identities: Arc<Identities>,
    audit: mpsc::Sender<Audit>,
    store: Arc<dyn Store>,
    clock: Clock,
    own_uid: u32,
    trust_local_issuer: bool,
    stop: CancellationToken,
}

/// A service behind the guard.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

// === impl Guard ===

impl Guard {
    /// Starts the writer of audit rows. `stop` ends every stream.
    pub fn new(
        identities: Arc<Identities>,
        store: Arc<dyn Store>,
        clock: Clock,
        own_uid: u32,
        stop: CancellationToken,
    ) -> Self {
        let (audit, mut rows) = mpsc::channel::<Audit>(AUDIT_QUEUE);
        let of_reads = Arc::clone(&store);
        drop(tokio::spawn(async move {
            let mut batch = Vec::new();
            while rows.recv_many(&mut batch, 256).await > 0 {
                let commit = Commit { audit: std::mem::take(&mut batch), ..Default::default() };
                if let Err(e) = of_reads.commit(commit).await {
                    tracing::error!(error = %e, "audit rows could not be written");
                }
            }
        }));
        Self { identities, audit, store, clock, own_uid, trust_local_issuer: true, stop }
    }

    /// For a listener that others than this host reach: the built-in issuer is nobody there.
    pub fn off_loopback(self) -> Self {
        Self { trust_local_issuer: false, ..self }
    }

    /// `who` is told as soon as it is known: a refusal is recorded with its caller.
    pub(super) async fn admit<B>(
        &self,
        request: &mut Request<B>,
        who: &mut Option<Authz>,
    ) -> Result<(), Status> {
        let need = roles::need(request.uri().path()).ok_or_else(|| unknown(request.uri().path()))?;
        let peer = Peer::of(request);
        let local_peer = peer.uid.is_some_and(|u| u == self.own_uid || u == 0);
        match need {
            Need::Open => return Ok(()),
            Need::LocalPeer => {
                return if local_peer && self.identities.local_issuer().is_some() {
                    Ok(())
                } else {
                    Err(refuse(
                        Code::PermissionDenied,
                        "PERMISSION_DENIED",
                        "only the engine's own user gets local tokens, over its socket",
                        "log in with 'sypctl login --issuer URL'",
                    ))
                };
            }
            _ => {}
        }
        let token = bearer(request).ok_or_else(|| self.identities.token_missing())?;
        let identity = self.identities.verify(&token).await?;
        if !self.trust_local_issuer && self.identities.is_local(&identity) {
            return Err(refuse(
                Code::Unauthenticated,
                "TOKEN_ISSUER_UNKNOWN",
                "the built-in issuer is trusted on loopback only",
                "'sypctl login' at the server's identity provider",
            ));
        }
        let role = self.identities.role(&identity, local_peer);
        self.note_use(&identity);
        let authz = who.insert(Authz::new(identity, role, local_peer)).clone();
        match need {
            Need::Global(min) => authz.require(min)?,
            // whether it holds is known with the instance in hand
            Need::Instance(_) | Need::Authenticated | Need::Open | Need::LocalPeer => {}
        }
        if roles::grows(request.uri().path()) {
            self.has_room()?;
        }
        request.extensions_mut().insert(authz);
        Ok(())
    }

    /// Nothing new begins on a disk without room to bring it to its end.
    fn has_room(&self) -> Result<(), Status> {
        match self.store.room() {
            Some(left) if left < RESERVE => Err(refuse(
                Code::FailedPrecondition,
                "DISK_FULL",
                format!(
                    "{} MiB are left on the disk of the engine's data: nothing new is begun below {} MiB",
                    left >> 20,
                    RESERVE >> 20
                ),
                "make room there; 'down', 'access deny' and all that takes away go on working",
            )),
            _ => Ok(()),
        }
    }

    /// When a machine token was used last, written down now and then.
    fn note_use(&self, who: &Identity) {
        if who.issuer != machine::ISSUER || !self.identities.machines().used(&who.subject, self.clock.now()) {
            return;
        }
        let (identities, store) = (Arc::clone(&self.identities), Arc::clone(&self.store));
        drop(tokio::spawn(async move {
            if let Err(e) = identities.machines().write_uses(&*store).await {
                tracing::warn!(error = %e, "the last use of machine tokens could not be written");
            }
        }));
    }

    /// Resolves when an answer must end.
    fn end(&self, who: Option<&Authz>) -> impl Future<Output = Status> + Send + use<> {
        let stop = self.stop.clone();
        let expires = who.map(|w| until(w.identity.expires_at, self.clock.now()));
        let machine =
            who.filter(|w| w.identity.issuer == machine::ISSUER).map(|w| w.identity.subject.clone());
        let identities = Arc::clone(&self.identities);
        async move {
            let expired = async {
                match expires {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let revoked = async {
                match &machine {
                    Some(subject) => identities.machines().until_revoked(subject).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = revoked => refuse(
                    Code::Unauthenticated,
                    "TOKEN_UNKNOWN",
                    "the token of this stream was revoked",
                    "make another: 'sypctl token create'",
                ),
                () = stop.cancelled() => refuse(
                    Code::Unavailable,
                    "ENGINE_STOPPING",
                    "the engine stops",
                    "instances go on serving; ask again when it runs",
                ),
                () = expired => refuse(
                    Code::Unauthenticated,
                    "TOKEN_EXPIRED",
                    "the token of this stream has expired",
                    "log in again and resume",
                ),
            }
        }
    }

    pub(super) async fn record(
        &self,
        path: &str,
        peer: Peer,
        who: Option<&Authz>,
        code: Code,
        message: &str,
    ) {
        // health checks come every second and say nothing about anybody
        if roles::need(path) == Some(Need::Open) {
            return;
        }
        let row = Audit {
            at_ms: self.clock.now(),
            subject: who.map_or_else(String::new, |w| w.identity.subject.clone()),
            issuer: who.map_or_else(String::new, |w| w.identity.issuer.clone()),
            email: who.and_then(|w| w.identity.email.clone()).unwrap_or_default(),
            method: path.trim_start_matches('/').into(),
            target: who.map_or_else(String::new, Authz::target),
            outcome: format!("{code:?}"),
            reason: message.into(),
            peer: peer.to_string(),
        };
        if roles::changes(path) {
            let commit = Commit { audit: vec![row], ..Default::default() };
            if let Err(e) = self.store.commit(commit).await {
                tracing::error!(error = %e, "an audit row could not be written");
            }
        } else {
            let _ = self.audit.send(row).await;
        }
    }
}

fn unknown(path: &str) -> Status {
    let words = format!("there is no method '{}' here", path.trim_start_matches('/'));
    refuse(
        Code::Unimplemented,
        "NOT_SUPPORTED",
        words,
        "compare the versions of both sides: 'sypctl version'",
    )
}

/// What tonic itself says of bytes that are no message is no error of ours: the caller's, with a reason.
fn in_words(response: Response<Body>) -> Response<Body> {
    let status = Status::from_header_map(response.headers());
    let undecoded =
        |s: &Status| s.code() == Code::Internal && s.message().starts_with("failed to decode Protobuf");
    match status.filter(undecoded) {
        Some(s) => refuse(
            Code::InvalidArgument,
            "INVALID_ARGUMENT",
            format!("the request is not the message of this method: {}", s.message()),
            "make it from the published proto files",
        )
        .into_http(),
        None => response,
    }
}

fn until(expires_s: u64, now: Millis) -> tokio::time::Instant {
    let expires_ms = i64::try_from(expires_s.saturating_mul(1000)).unwrap_or(i64::MAX);
    let left = expires_ms.saturating_sub(now).clamp(0, 86_400_000);
    tokio::time::Instant::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0))
}

/// The one bearer token of a request.
fn bearer<B>(request: &Request<B>) -> Option<String> {
    let mut all = request.headers().get_all(http::header::AUTHORIZATION).iter();
    let (value, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

// === impl Peer ===

impl Peer {
    fn of<B>(request: &Request<B>) -> Self {
        let all = request.extensions();
        if let Some(peer) = all.get::<Self>() {
            return *peer;
        }
        let tls = all.get::<TlsConnectInfo<TcpConnectInfo>>().map(TlsConnectInfo::get_ref);
        let tcp = tls.or_else(|| all.get::<TcpConnectInfo>());
        Self { uid: None, address: tcp.and_then(TcpConnectInfo::remote_addr) }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.uid, self.address) {
            (Some(uid), _) => write!(f, "uid:{uid}"),
            (None, Some(address)) => write!(f, "{address}"),
            (None, None) => Ok(()),
        }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.clone() }
    }
}

// === impl Guarded ===

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // the clone was not polled ready: take the one that was
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let guard = self.guard.clone();
        let path = request.uri().path().to_owned();
        let waits = roles::only_waits(&path);
        let answer = async move {
            let (peer, mut who) = (Peer::of(&request), None);
            let mut response = match guard.admit(&mut request, &mut who).await {
                Ok(()) => {
                    let response = in_words(inner.call(request).await?);
                    let status = Status::from_header_map(response.headers());
                    let (code, why) = status.as_ref().map_or((Code::Ok, ""), |s| (s.code(), s.message()));
                    guard.record(&path, peer, who.as_ref(), code, why).await;
                    if roles::is_stream(&path) {
                        let end = guard.end(who.as_ref());
                        response.map(|body| Ending::of(body, end))
                    } else {
                        response
                    }
                }
                Err(status) => {
                    guard.record(&path, peer, who.as_ref(), status.code(), status.message()).await;
                    status.into_http()
                }
            };
            response.headers_mut().insert("syp-server-version", HeaderValue::from_static(VERSION));
            Ok(response)
        };
        if waits {
            return Box::pin(answer);
        }
        // what has begun is finished, whether or not its caller is still there: half a change would be nobody's
        let task = tokio::spawn(answer);
        Box::pin(async move {
            task.await.unwrap_or_else(|_| Ok(Status::internal("this is a bug: please report it").into_http()))
        })
    }
}
