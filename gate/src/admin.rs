//! The admin port: the engine pushes configuration and reads status and metrics, with a token of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::headers::bearer;
use crate::keep::Keep;
use crate::metrics::prometheus;
use crate::state::{Error, State};

/// How long the engine's question for wanted keys is held; below its time limit for answers.
const WANTED_WAIT: Duration = Duration::from_secs(4);
/// The largest configuration.
pub const MAX_CONFIG: usize = 4 << 20;

/// What is behind the admin port.
pub struct Admin {
    /// Shared by all.
    pub state: Arc<State>,
    /// Who has it is the engine.
    pub token: String,
    /// Where what it pushes is kept.
    pub keep: Option<Keep>,
}

/// Serves until told to end.
pub async fn serve(socket: std::net::TcpListener, admin: Arc<Admin>, mut ended: watch::Receiver<bool>) {
    let Ok(listener) = TcpListener::from_std(socket) else { return };
    let places = Arc::new(Semaphore::new(64));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        // with every place taken it must still hear of the end
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = ended.wait_for(|e| *e) => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| answer(admin.clone(), request));
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            // the caller sees how it ended
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// What the engine gets.
pub type Answer = Response<Full<Bytes>>;

async fn answer(admin: Arc<Admin>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let state = &admin.state;
    if !bearer(request.headers()).is_some_and(|given| syp_auth::same_secret(given, &admin.token)) {
        let mut response = json_answer(StatusCode::UNAUTHORIZED, &json!({ "error": "unauthenticated" }));
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return Ok(response);
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // read for the one that needs it
    let body = match path.as_str() {
        "/config" => match Limited::new(request.into_body(), MAX_CONFIG).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Ok(refused(StatusCode::BAD_REQUEST, error.to_string())),
        },
        _ => Bytes::new(),
    };
    Ok(asked(state, admin.keep.as_ref(), &method, &path, body).await)
}

/// Answers the engine, however it came in. Must run on the control runtime.
pub async fn asked(state: &State, keep: Option<&Keep>, method: &Method, path: &str, body: Bytes) -> Answer {
    // who tells it to leave is who ends the process, not the engine
    if path != "/leave" {
        state.heard_engine();
    }
    match (method, path) {
        (&Method::PUT, "/config") => put_config(state, keep, body).await,
        (&Method::PUT, "/leave") => {
            state.leave();
            json_answer(StatusCode::OK, &state.status())
        }
        (&Method::GET, "/status") => json_answer(StatusCode::OK, &state.measured().await),
        // answered when a token names a key we lack, or after a while: the engine asks again
        (&Method::GET, "/wanted") => {
            let wanted = tokio::time::timeout(WANTED_WAIT, state.wanted()).await;
            json_answer(StatusCode::OK, &wanted.ok().flatten())
        }
        (&Method::GET, "/metrics.json") => json_answer(StatusCode::OK, &state.metrics.snapshot()),
        (&Method::GET, "/metrics") => {
            let uid = state.active().map(|a| a.config.instance_uid.clone()).unwrap_or_default();
            let text = prometheus(&state.metrics.snapshot(), &uid);
            let mut response = Response::new(Full::from(text));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        _ => json_answer(StatusCode::NOT_FOUND, &json!({ "error": "not_found" })),
    }
}

async fn put_config(state: &State, keep: Option<&Keep>, body: Bytes) -> Answer {
    let config = match serde_json::from_slice(&body) {
        Ok(config) => config,
        Err(error) => return refused(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let applied = match keep {
        Some(keep) => {
            let _one_at_a_time = keep.one_at_a_time.lock().await;
            let applied = state.apply(config);
            if applied.is_ok() {
                keep.write(body).await;
            }
            applied
        }
        None => state.apply(config),
    };
    match applied {
        Ok(()) => json_answer(StatusCode::OK, &state.status()),
        Err(error @ (Error::Stale { .. } | Error::Changed(_))) => {
            refused(StatusCode::CONFLICT, error.to_string())
        }
        Err(error) => refused(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

fn refused(status: StatusCode, why: String) -> Answer {
    json_answer(status, &json!({ "error": "config_refused", "message": why }))
}

fn json_answer(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut response = Response::new(Full::from(serde_json::to_vec(value).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
