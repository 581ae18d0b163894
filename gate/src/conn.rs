//! A client's connection: accepted, told apart, served until its end or the end of a drain.

use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::caller::Caller;
use crate::client_io::{ClientIo, detect};
use crate::framing::Framing;
use crate::handle::handle;
use crate::phase::{Phase, QUIET, goodbye, idle, overdue};
use crate::state::State;
use crate::{headers, metrics, open};

/// A client has this long to send a request's head, or to begin the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A load balancer keeps connections for its next requests, and would find one closed in the very moment in which it uses it: it must be
/// the one to close them. Longer than the idle timeout that load balancers are given (`idle_timeout.timeout_seconds` of the template).
const BALANCED_TIMEOUT: Duration = Duration::from_secs(150);
/// The largest head.
const MAX_HEAD: usize = 64 * 1024;

/// A client's connection, as its requests see it.
pub struct Conn {
    /// Shared by all.
    pub state: Arc<State>,
    /// Which worker it is on.
    pub worker: usize,
    /// The client's address.
    pub peer: SocketAddr,
    /// Its IP as the app is told it.
    pub peer_text: http::HeaderValue,
    /// Who called last and what was decided, for the next request of the same caller.
    pub last: Mutex<Option<Arc<Caller>>>,
    /// Whether it came by TLS.
    pub tls: bool,
    /// Whether it is HTTP/2.
    pub http2: bool,
    /// What is under way on its worker.
    pub open: Arc<open::List>,
    /// It ends at once: a request that lost its access waits for a client that takes nothing.
    pub cut: Notify,
    framing: Option<Arc<Mutex<Framing>>>,
    ids: Arc<Ids>,
    // a tunnel holds its connection's place after hyper is done with it
    _place: Option<OwnedSemaphorePermit>,
}

/// Request ids of one worker: a random part that nobody guesses and a counter.
struct Ids {
    prefix: u64,
    next: AtomicU64,
}

// === impl Conn ===

impl Conn {
    /// The counters of its worker.
    #[must_use]
    pub fn metrics(&self) -> &metrics::Worker {
        &self.state.metrics.workers[self.worker]
    }

    /// A new request's id.
    #[must_use]
    pub fn next_id(&self) -> http::HeaderValue {
        let n = self.ids.next.fetch_add(1, Relaxed);
        let mut text = [0_u8; 24];
        // it fits: 16 and 8 digits
        let _ = write!(text.as_mut_slice(), "{:016x}{:08x}", self.ids.prefix, n & 0xffff_ffff);
        http::HeaderValue::from_bytes(&text).unwrap_or(http::HeaderValue::from_static("0"))
    }

    /// Why this request's framing is refused, if it is. To be asked once for each request.
    #[must_use]
    pub fn take_framing(&self) -> Option<&'static str> {
        self.framing.as_ref().and_then(|f| f.lock().next_refusal())
    }

    /// Whether the connection ends with the answer that is given now. HTTP/2 has GOAWAY for that.
    #[must_use]
    pub fn last_answer(&self) -> bool {
        !self.http2 && self.state.last_answers()
    }

    /// Whether nothing is under way on an HTTP/1 connection: no request, and no part of a head either.
    fn is_idle(self: &Arc<Self>) -> bool {
        // held by who serves it and by the service; a request under way holds it too
        Arc::strong_count(self) <= 2 && !self.framing.as_ref().is_some_and(|f| f.lock().is_in_head())
    }

    /// The connection is a tunnel from now on.
    pub fn is_tunnel_now(&self) {
        if let Some(framing) = &self.framing {
            framing.lock().tunnel();
        }
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // seeded by the system's random numbers
    std::hash::RandomState::new().build_hasher().finish()
}

/// Takes clients in until told to end.
pub async fn accept(
    socket: std::net::TcpListener,
    state: Arc<State>,
    worker: usize,
    tls: Option<TlsAcceptor>,
    limit: usize,
    mut ended: watch::Receiver<bool>,
) {
    let Ok(listener) = TcpListener::from_std(socket) else { return };
    let places = Arc::new(Semaphore::new(limit));
    let ids = Arc::new(Ids { prefix: random(), next: AtomicU64::new(0) });
    let open = Arc::<open::List>::default();
    tokio::spawn(open::watch(state.clone(), open.clone()));
    loop {
        // no place: the next client waits in the socket's queue
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        // with every place taken it must still hear of the end
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = ended.wait_for(|e| *e) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                state.metrics.connections.fetch_add(1, Relaxed);
                let (state, tls, ids) = (state.clone(), tls.clone(), ids.clone());
                let conn = Conn {
                    state,
                    worker,
                    peer,
                    peer_text: headers::address(peer.ip()),
                    last: Mutex::default(),
                    tls: tls.is_some(),
                    http2: false,
                    open: open.clone(),
                    cut: Notify::new(),
                    framing: None,
                    ids,
                    _place: place.ok(),
                };
                tokio::spawn(welcome(stream, conn, tls));
            }
            // out of file descriptors, most likely: let some close
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn welcome(stream: TcpStream, conn: Conn, tls: Option<TlsAcceptor>) {
    // only costs latency when it fails
    let _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15));
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    // boxed, here and below: a connection keeps only what its own protocol needs, 3 KiB and not 14
    let Some(tls) = tls else { return Box::pin(begin(stream, conn, None)).await };
    let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, Box::pin(tls.accept(stream))).await else {
        return;
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Box::pin(begin(stream, conn, Some(http2))).await;
}

async fn begin<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut stream: S,
    mut conn: Conn,
    http2: Option<bool>,
) {
    let mut phase = conn.state.phase.subscribe();
    let silent = Notify::new();
    let read = tokio::select! {
        biased;
        read = tokio::time::timeout(HEAD_TIMEOUT, detect(&mut stream)) => read,
        // a client that has said nothing has nothing in flight
        () = goodbye(&silent, &mut phase, || tokio::time::sleep(QUIET)) => return,
    };
    let Ok(Ok((is_http2, read))) = read else { return };
    conn.http2 = is_http2;
    if http2.is_some_and(|agreed| agreed != is_http2) {
        return;
    }
    if is_http2 {
        Box::pin(serve_http2(ClientIo::new(stream, read, None), conn, phase)).await;
    } else {
        let framing = Arc::new(Mutex::new(Framing::default()));
        conn.framing = Some(framing.clone());
        Box::pin(serve_http1(ClientIo::new(stream, read, Some(framing)), conn, phase)).await;
    }
}

async fn serve_http1<S>(io: ClientIo<S>, conn: Conn, mut phase: watch::Receiver<Phase>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (conn, asked) = (Arc::new(conn), Arc::new(Notify::new()));
    let (seen, of) = (asked.clone(), conn.clone());
    // the engine comes in by it where a load balancer is before it, and nobody else is
    let head_timeout = if conn.state.remote.is_some() { BALANCED_TIMEOUT } else { HEAD_TIMEOUT };
    let service = service_fn(move |mut request| {
        seen.notify_one();
        headers::detach(&mut request);
        handle(of.clone(), request)
    });
    let mut builder = http1::Builder::new();
    // no pipeline_flush: it holds an answer back while bytes of a next request wait, and loses it when the connection ends
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(MAX_HEAD * 2)
        .max_header_size(MAX_HEAD);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    tokio::select! {
        // serving first: a request that has arrived counts before the end of a connection that was idle
        biased;
        _ = serving.as_mut() => return,
        () = conn.cut.notified() => return,
        () = goodbye(&asked, &mut phase, || idle(|| conn.is_idle())) => serving.as_mut().graceful_shutdown(),
    }
    // how a connection ended is in the records of its requests
    tokio::select! { _ = serving => {}, () = conn.cut.notified() => {}, () = overdue(&mut phase) => {} }
}

async fn serve_http2<S>(io: ClientIo<S>, conn: Conn, mut phase: watch::Receiver<Phase>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (conn, asked) = (Arc::new(conn), Arc::new(Notify::new()));
    let seen = asked.clone();
    let service = service_fn(move |request| {
        seen.notify_one();
        handle(conn.clone(), request)
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder.max_concurrent_streams(256).max_header_list_size(MAX_HEAD as u32).max_send_buf_size(256 * 1024);
    builder.initial_stream_window_size(256 * 1024).initial_connection_window_size(1 << 20);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service));
    // GOAWAY loses nothing: streams that are opened before the client has read it are served. A connection that comes when the
    // gate leaves is good for a while all the same, or each request would need one of its own
    let late = *phase.borrow() == Phase::Leave;
    let left = || async move {
        if late {
            tokio::time::sleep(QUIET).await;
        }
    };
    tokio::select! {
        biased;
        _ = serving.as_mut() => return,
        () = goodbye(&asked, &mut phase, left) => serving.as_mut().graceful_shutdown(),
    }
    tokio::select! { _ = serving => {}, () = overdue(&mut phase) => {} }
}
