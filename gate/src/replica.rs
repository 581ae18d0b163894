//! One replica of the app: its connections, whether it is ready, what it speaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Request;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use syp_auth::door::{HolderStatus, Probe, Protocol, Upstream, UpstreamStatus};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::body::Upload;

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// An unused connection is kept for this long: less than common servers keep theirs.
const IDLE: Duration = Duration::from_secs(4);
/// Unused connections kept by one worker for one replica.
const IDLE_MAX: usize = 128;

/// One replica, shared by all workers.
pub struct Replica {
    /// Its name.
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its holder reports.
    pub holder: Option<SocketAddr>,
    /// How it is probed.
    pub probe: Probe,
    /// Requests it has now.
    pub in_flight: AtomicUsize,
    /// Whether it gets requests.
    pub ready: AtomicBool,
    /// Wakes its prober.
    pub kick: Notify,
    /// Told when it becomes ready.
    pub came: Arc<Notify>,
    /// Why it is not ready.
    pub detail: Mutex<String>,
    /// What its holder said last.
    pub held: Mutex<Option<HolderStatus>>,
    wanted: Protocol,
    spoken: AtomicU8,
    pools: Vec<Pool>,
}

/// One worker's connections to one replica.
#[derive(Default)]
struct Pool {
    http1: Mutex<Vec<(http1::SendRequest<Upload>, Instant)>>,
    http2: tokio::sync::Mutex<Option<http2::SendRequest<Upload>>>,
}

/// A connection in use, to be given back when its response has ended.
pub struct Lease {
    replica: Arc<Replica>,
    worker: usize,
    sender: http1::SendRequest<Upload>,
}

/// A connection that a request can go out on.
pub enum Channel {
    /// HTTP/1.1, ours alone until it is given back; true when it was used before.
    Http1(http1::SendRequest<Upload>, bool),
    /// HTTP/2, shared.
    Http2(http2::SendRequest<Upload>),
}

// === impl Replica ===

impl Replica {
    /// A replica of which nothing is known yet.
    #[must_use]
    pub fn new(
        upstream: &Upstream,
        probe: &Probe,
        wanted: Protocol,
        workers: usize,
        came: Arc<Notify>,
    ) -> Self {
        let spoken = AtomicU8::new(match wanted {
            Protocol::Auto => 0,
            Protocol::Http1 => 1,
            Protocol::H2c => 2,
        });
        let (in_flight, ready, kick, held) = Default::default();
        let detail = Mutex::new("not probed yet".to_owned());
        let (id, address, holder) = (upstream.id.clone(), upstream.address, upstream.holder);
        let pools = (0..workers).map(|_| Pool::default()).collect();
        Self {
            id,
            address,
            holder,
            probe: probe.clone(),
            in_flight,
            ready,
            kick,
            came,
            detail,
            held,
            wanted,
            spoken,
            pools,
        }
    }

    /// Whether this is the same replica, probed and spoken to in the same way.
    #[must_use]
    pub fn is(&self, upstream: &Upstream, probe: &Probe, wanted: Protocol) -> bool {
        let same_place =
            self.id == upstream.id && self.address == upstream.address && self.holder == upstream.holder;
        same_place && self.probe == *probe && self.wanted == wanted
    }

    /// What it speaks, once known.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        match self.spoken.load(Relaxed) {
            1 => Some(Protocol::Http1),
            2 => Some(Protocol::H2c),
            _ => None,
        }
    }

    /// Remembers what it speaks.
    pub fn speaks(&self, protocol: Protocol) {
        self.spoken.store(if protocol == Protocol::H2c { 2 } else { 1 }, Relaxed);
    }

    /// It could not be reached: no more requests until the prober has seen it again.
    pub fn is_down(&self, why: &str) {
        self.ready.store(false, Relaxed);
        why.clone_into(&mut self.detail.lock());
        self.kick.notify_one();
    }

    /// For `/status`.
    #[must_use]
    pub fn status(&self) -> UpstreamStatus {
        let held = self.held.lock();
        let (id, ready, protocol) = (self.id.clone(), self.ready.load(Relaxed), self.protocol());
        let detail = self.detail.lock().clone();
        let listeners = held.as_ref().map(|h| h.listeners.clone()).unwrap_or_default();
        let in_flight = self.in_flight.load(Relaxed) as u64;
        let sealed = held.as_ref().map(|h| h.sealed);
        UpstreamStatus { id, ready, protocol, detail, sealed, listeners, in_flight, usage: None }
    }

    /// Opens a TCP connection.
    ///
    /// # Errors
    /// It cannot be opened in time.
    pub async fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(self.address)).await;
        let stream = stream.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A connection for a request; nothing of it has been sent when this fails.
    ///
    /// # Errors
    /// None can be opened.
    pub async fn channel(&self, worker: usize) -> std::io::Result<Channel> {
        if self.protocol() == Some(Protocol::H2c) {
            Box::pin(self.shared(worker)).await
        } else {
            self.own(worker).await
        }
    }

    async fn own(&self, worker: usize) -> std::io::Result<Channel> {
        let pooled = || {
            let mut idle = self.pools[worker].http1.lock();
            while let Some((sender, since)) = idle.pop() {
                if since.elapsed() < IDLE && sender.is_ready() {
                    return Some(sender);
                }
            }
            None
        };
        match pooled() {
            Some(sender) => Ok(Channel::Http1(sender, true)),
            // boxed: most requests find a connection, and all would be as large as those that open one
            None => Ok(Channel::Http1(Box::pin(self.open_http1()).await?, false)),
        }
    }

    /// A new HTTP/1.1 connection that can be upgraded.
    ///
    /// # Errors
    /// It cannot be opened.
    pub async fn open_http1(&self) -> std::io::Result<http1::SendRequest<Upload>> {
        let io = TokioIo::new(self.connect().await?);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(128 * 1024)
            .handshake(io)
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            // the request that uses it sees the error
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    async fn shared(&self, worker: usize) -> std::io::Result<Channel> {
        let mut slot = self.pools[worker].http2.lock().await;
        if let Some(sender) = slot.as_ref().filter(|s| !s.is_closed()) {
            return Ok(Channel::Http2(sender.clone()));
        }
        let io = TokioIo::new(self.connect().await?);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        builder.keep_alive_interval(Duration::from_secs(20)).keep_alive_timeout(Duration::from_secs(20));
        builder.max_header_list_size(128 * 1024);
        let (sender, connection) = builder.handshake(io).await.map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        *slot = Some(sender.clone());
        Ok(Channel::Http2(sender))
    }

    /// Forgets unused connections that are too old; called by the prober.
    pub fn tidy(&self) {
        for pool in &self.pools {
            pool.http1.lock().retain(|(sender, since)| since.elapsed() < IDLE && !sender.is_closed());
        }
    }

    /// The connection as something to give back.
    #[must_use]
    pub fn lease(self: &Arc<Self>, worker: usize, sender: http1::SendRequest<Upload>) -> Lease {
        Lease { replica: self.clone(), worker, sender }
    }

    fn keep(&self, worker: usize, sender: http1::SendRequest<Upload>) {
        let mut idle = self.pools[worker].http1.lock();
        if idle.len() < IDLE_MAX {
            idle.push((sender, Instant::now()));
        }
    }
}

// === impl Lease ===

impl Lease {
    /// Puts the connection back for the next request, at once or when the request's body has gone out.
    pub fn give_back(self) {
        let Self { replica, worker, mut sender } = self;
        if sender.is_ready() {
            replica.keep(worker, sender);
        } else if !sender.is_closed() {
            tokio::spawn(async move {
                let ready = tokio::time::timeout(Duration::from_secs(5), sender.ready()).await;
                if matches!(ready, Ok(Ok(()))) {
                    replica.keep(worker, sender);
                }
            });
        }
    }
}

/// The ready replica with the fewest requests, none of those in `not`. Equal ones take turns.
#[must_use]
pub fn pick<'a>(replicas: &'a [Arc<Replica>], turn: usize, not: &[Arc<Replica>]) -> Option<&'a Arc<Replica>> {
    let count = replicas.len();
    (0..count)
        .map(|n| &replicas[(turn + n) % count])
        .filter(|r| r.ready.load(Relaxed) && !not.iter().any(|n| Arc::ptr_eq(n, r)))
        .min_by_key(|r| r.in_flight.load(Relaxed))
}

/// A request as HTTP/1.1 sends it: path only, the host in its header.
pub fn as_http1<B>(request: &mut Request<B>, host: &http::HeaderValue) {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| http::Uri::from_static("/"), http::Uri::from);
    *request.version_mut() = http::Version::HTTP_11;
    request.headers_mut().insert(http::header::HOST, host.clone());
}

/// A request as HTTP/2 sends it: the host in `:authority`.
pub fn as_http2<B>(request: &mut Request<B>, host: &http::HeaderValue) {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = http::uri::Authority::try_from(host.as_bytes()).ok();
    *request.uri_mut() = http::Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = http::Version::HTTP_2;
    request.headers_mut().remove(http::header::HOST);
}
