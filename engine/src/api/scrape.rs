//! `GET /metrics` over plain HTTP, for Prometheus: on a listener of its own, behind the same guard as every call.
//!
//! A scrape that is answered leaves no row in the audit trail: it comes every few seconds and says nothing about anybody. One
//! that is refused does. `GET /healthz` is beside it, for everybody.
use super::{
    Api,
    layer::{Guard, Peer},
    tls::PATIENCE,
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Status};

/// Scrapers at once; more wait.
const MOST: usize = 32;
/// What is scraped.
const PATH: &str = "/metrics";
/// Says to everybody that the engine answers, and nothing else: the probes of an orchestrator have no token.
const HEALTH: &str = "/healthz";

/// Takes connections until it is dropped.
pub(super) async fn serve(api: Api, guard: Guard, listener: TcpListener, tls: Option<TlsAcceptor>) {
    let places = Arc::new(Semaphore::new(MOST));
    let mut open = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(new) => new,
            Err(error) => {
                tracing::warn!(%error, "a scraper could not be let in");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (api, guard, tls) = (api.clone(), guard.clone(), tls.clone());
        open.spawn(async move {
            let _place = place;
            match tls {
                None => talk(api, guard, stream, from).await,
                // who does not speak TLS is not answered
                Some(tls) => {
                    if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
                        talk(api, guard, stream, from).await;
                    }
                }
            }
        });
        while open.try_join_next().is_some() {}
    }
}

async fn talk(api: Api, guard: Guard, stream: impl AsyncRead + AsyncWrite + Unpin, from: SocketAddr) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, guard) = (api.clone(), guard.clone());
        async move { Ok::<_, Infallible>(answer(&api, &guard, request, from).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    // who goes away in the middle is no news
    let _ = served.await;
}

async fn answer<B>(
    api: &Api,
    guard: &Guard,
    mut request: Request<B>,
    from: SocketAddr,
) -> Response<Full<Bytes>> {
    let health = request.uri().path() == HEALTH;
    if !health && request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "only /metrics and /healthz are here\n");
    }
    if request.method() != Method::GET {
        let mut no = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        no.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return no;
    }
    if health {
        return plain(StatusCode::OK, "ok\n");
    }
    let peer = Peer { uid: None, address: Some(from) };
    request.extensions_mut().insert(peer);
    let mut who = None;
    if let Err(status) = guard.admit(&mut request, &mut who).await {
        guard.record(PATH, peer, who.as_ref(), status.code(), status.message()).await;
        return refusal(&status);
    }
    let accept = request.headers().get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    let (kind, body) = api.scraped(accept);
    let mut ok = Response::new(Full::new(Bytes::from(body)));
    ok.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    ok
}

fn refusal(status: &Status) -> Response<Full<Bytes>> {
    let code = match status.code() {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut no = plain(code, &format!("{}\n", status.message()));
    if code == StatusCode::UNAUTHORIZED {
        no.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    no
}

fn plain(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut r = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *r.status_mut() = code;
    r.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    r
}
