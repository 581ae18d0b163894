//! The interceptor of every call: token, role, audit. Deny unless allowed.
//!
//! A tower layer rather than a `tonic::Interceptor`, because an interceptor can't see the method's path and can't wait for keys.
use super::{
    VERSION,
    authz::Authz,
    identity::Identities,
    roles::{self, Need},
    status::refuse,
};
use crate::{
    clock::Clock,
    store::{Commit, Store},
};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response};
use std::{
    sync::Arc,
    task::{Context, Poll},
};
use syp_proto::journal::Audit;
use tokio::sync::mpsc;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

/// Audit rows that may wait for the disk; more make calls wait.
const AUDIT_QUEUE: usize = 1024;

/// Comes with each connection: did the engine's own user connect over the Unix socket?
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// User id of the other end of a Unix socket.
    pub uid: Option<u32>,
}

/// Makes [`Guarded`] services.
#[derive(Clone)]
pub struct Guard {
    identities: Arc<Identities>,
    audit: mpsc::Sender<Audit>,
    clock: Clock,
    own_uid: u32,
}

/// A service behind the guard.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

// === impl Guard ===

impl Guard {
    /// Starts the writer of audit rows.
    pub fn new(identities: Arc<Identities>, store: Arc<dyn Store>, clock: Clock, own_uid: u32) -> Self {
        let (audit, mut rows) = mpsc::channel::<Audit>(AUDIT_QUEUE);
        drop(tokio::spawn(async move {
            let mut batch = Vec::new();
            while rows.recv_many(&mut batch, 256).await > 0 {
                let commit = Commit { audit: std::mem::take(&mut batch), ..Default::default() };
                if let Err(e) = store.commit(commit).await {
                    tracing::error!(error = %e, "audit rows could not be written");
                }
            }
        }));
        Self { identities, audit, clock, own_uid }
    }

    async fn admit<B>(&self, request: &mut Request<B>) -> Result<Option<Authz>, Status> {
        let need =
            roles::need(request.uri().path()).ok_or_else(|| Status::unimplemented("unknown method"))?;
        let peer = request.extensions().get::<Peer>().copied().unwrap_or_default();
        let local_peer = peer.uid.is_some_and(|u| u == self.own_uid || u == 0);
        match need {
            Need::Open => return Ok(None),
            Need::LocalPeer => {
                return if local_peer && self.identities.local_issuer().is_some() {
                    Ok(None)
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
        let token = bearer(request)?;
        let identity = self.identities.verify(&token).await?;
        let role = self.identities.role(&identity);
        let authz = Authz { identity, role, local_peer };
        match need {
            Need::Global(min) => authz.require(min)?,
            // whether it holds is known with the instance in hand
            Need::Instance(_) | Need::Authenticated | Need::Open | Need::LocalPeer => {}
        }
        request.extensions_mut().insert(authz.clone());
        Ok(Some(authz))
    }

    async fn record(&self, path: &str, peer: Peer, who: Option<&Authz>, code: Code, message: &str) {
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
            target: String::new(),
            outcome: format!("{code:?}"),
            reason: message.into(),
            peer: peer.uid.map_or_else(String::new, |u| format!("uid:{u}")),
        };
        let _ = self.audit.send(row).await;
    }
}

fn bearer<B>(request: &Request<B>) -> Result<String, Status> {
    let missing = || {
        refuse(
            Code::Unauthenticated,
            "TOKEN_MISSING",
            "this call needs a token",
            "'sypctl login', or call over the engine's socket",
        )
    };
    let mut all = request.headers().get_all(http::header::AUTHORIZATION).iter();
    let value = all.next().ok_or_else(missing)?;
    if all.next().is_some() {
        return Err(missing());
    }
    let text = value.to_str().map_err(|_| missing())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim().to_owned()) } else { Err(missing()) }
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
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let peer = request.extensions().get::<Peer>().copied().unwrap_or_default();
            let mut response = match guard.admit(&mut request).await {
                Ok(who) => {
                    let response = inner.call(request).await?;
                    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |s| s.code());
                    guard.record(&path, peer, who.as_ref(), code, "").await;
                    response
                }
                Err(status) => {
                    guard.record(&path, peer, None, status.code(), status.message()).await;
                    status.into_http()
                }
            };
            response.headers_mut().insert("syp-server-version", HeaderValue::from_static(VERSION));
            Ok(response)
        })
    }
}
