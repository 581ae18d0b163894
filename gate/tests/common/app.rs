//! Apps behind the gate.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Sender, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;
pub type Answer = Response<Body>;

/// An app that runs until it is dropped.
pub struct App {
    pub address: SocketAddr,
    /// Connections accepted.
    pub connections: Arc<AtomicUsize>,
    /// Requests whose head arrived.
    pub requests: Arc<AtomicUsize>,
    /// Speaks HTTP/2 without TLS.
    pub h2c: bool,
    /// Closed: what is held is let go.
    held: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

/// A body of these frames, each after its pause.
pub fn frames(list: Vec<(Duration, Frame<Bytes>)>) -> Body {
    let stream = futures_util::stream::unfold(list.into_iter(), |mut left| async move {
        let (pause, frame) = left.next()?;
        tokio::time::sleep(pause).await;
        Some((Ok(frame), left))
    });
    StreamBody::new(stream).boxed_unsync()
}

/// A body that somebody else fills.
pub fn channel() -> (UnboundedSender<Frame<Bytes>>, Body) {
    let (send, receive) = unbounded_channel();
    let stream = futures_util::stream::unfold(receive, |mut receive| async move {
        let frame = receive.recv().await?;
        Some((Ok(frame), receive))
    });
    (send, StreamBody::new(stream).boxed_unsync())
}

/// As [`channel`], and whoever fills it waits for the reader.
pub fn bounded() -> (Sender<Frame<Bytes>>, Body) {
    let (send, receive) = tokio::sync::mpsc::channel(4);
    let stream = futures_util::stream::unfold(receive, |mut receive| async move {
        let frame = receive.recv().await?;
        Some((Ok(frame), receive))
    });
    (send, StreamBody::new(stream).boxed_unsync())
}

async fn listen() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

impl App {
    /// An app that does this with every connection.
    pub async fn raw<F, R>(serve: F) -> Result<Self>
    where
        F: Fn(TcpStream, usize) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let (listener, address) = listen().await?;
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let task = tokio::spawn(async move {
            // dropped with this task: an app that is gone answers nothing more
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, count.fetch_add(1, SeqCst)));
            }
        });
        let held = Arc::new(Semaphore::new(0));
        Ok(Self { address, connections, requests: Arc::default(), h2c: false, held, task })
    }

    async fn of<F, R>(h2c: bool, answer: F) -> Result<Self>
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let (answer, requests) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        let count = requests.clone();
        let mut app = Self::raw(move |stream, _| {
            let (answer, count) = (answer.clone(), count.clone());
            async move {
                let service = service_fn(move |request| {
                    count.fetch_add(1, SeqCst);
                    let answering = answer(request);
                    async move { Ok::<_, Infallible>(answering.await) }
                });
                // the gate sees how it ended
                let io = TokioIo::new(stream);
                if h2c {
                    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                } else {
                    let _ = http1::Builder::new().serve_connection(io, service).with_upgrades().await;
                }
            }
        })
        .await?;
        app.requests = requests;
        app.h2c = h2c;
        Ok(app)
    }

    /// Speaks HTTP/1.1.
    pub async fn http1<F, R>(answer: F) -> Result<Self>
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        Self::of(false, answer).await
    }

    /// Speaks HTTP/2 without TLS.
    pub async fn h2c<F, R>(answer: F) -> Result<Self>
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        Self::of(true, answer).await
    }

    /// Says what it was asked.
    pub async fn echo() -> Result<Self> {
        Self::http1(echo).await
    }

    /// Says who it is.
    pub async fn named(name: &'static str) -> Result<Self> {
        Self::http1(move |_| async move { Response::new(full(name)) }).await
    }

    /// Answers `/N` after N milliseconds and `/held` when it is told to, and opens WebSockets.
    pub async fn slow() -> Result<Self> {
        let held = Arc::new(Semaphore::new(0));
        let until = held.clone();
        let mut app = Self::http1(move |request| {
            let until = until.clone();
            async move {
                if request.headers().contains_key("sec-websocket-key") {
                    return socket(request).await;
                }
                let path = request.uri().path()[1..].to_owned();
                if path == "held" {
                    let _ = until.acquire().await;
                } else {
                    tokio::time::sleep(Duration::from_millis(path.parse().unwrap_or(0))).await;
                }
                Response::new(full("done"))
            }
        })
        .await?;
        app.held = held;
        Ok(app)
    }

    /// Answers what it holds.
    pub fn let_go(&self) {
        self.held.close();
    }

    pub fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

/// Opens a WebSocket and sends back, as bytes, whatever comes; says who it thinks is there in a header.
pub async fn socket(mut request: Request<Incoming>) -> Answer {
    if !request.headers().contains_key("sec-websocket-key") {
        return echo(request).await;
    }
    let who = request.headers().get("x-syp-user").cloned();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        // ends with either side
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
    });
    let mut answer = Response::new(full(""));
    *answer.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ] {
        answer.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    if let Some(who) = who {
        answer.headers_mut().insert("x-who", who);
    }
    answer
}

/// The request as the app sees it, as JSON: method, target, version, headers in order, body, trailers.
pub async fn echo(request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let list = |map: &http::HeaderMap| -> Vec<[String; 2]> {
        map.iter().map(|(n, v)| [n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()]).collect()
    };
    let (trailers, text) = match body.collect().await {
        Ok(all) => (all.trailers().map(list), all.to_bytes()),
        Err(_) => (None, Bytes::from_static(b"broken off")),
    };
    let said = json!({
        "method": parts.method.as_str(), "target": parts.uri.to_string(), "version": format!("{:?}", parts.version),
        "headers": list(&parts.headers), "body": String::from_utf8_lossy(&text), "trailers": trailers,
    });
    Response::new(full(said.to_string()))
}
