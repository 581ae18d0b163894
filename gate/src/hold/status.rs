//! The holder's word to the gate. Reachable from the gate only: the rules close every other way in.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use syp_auth::door::HolderStatus;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Answers `GET /` for ever.
pub async fn serve(listener: TcpListener, status: Arc<Mutex<HolderStatus>>) {
    let places = Arc::new(Semaphore::new(32));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let status = status.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request: Request<Incoming>| {
                let text = serde_json::to_vec(&*status.lock()).unwrap_or_default();
                let mut response = Response::new(Full::<Bytes>::from(text));
                if request.uri().path() != "/" {
                    *response.status_mut() = StatusCode::NOT_FOUND;
                    *response.body_mut() = Full::default();
                }
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5)).keep_alive(false);
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
