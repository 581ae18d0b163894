//! The gate's threads: one runtime with its own listening socket for each core, and one for control.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use syp_auth::fetch::{self, Fetcher};
use syp_auth::jwks::{self, Issuers};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::access_log::AccessLog;
use crate::client_io::{ClientIo, detect};
use crate::framing::Framing;
use crate::handle::{Caller, handle};
use crate::state::{Phase, State};
use crate::{admin, tls};
use crate::{headers, metrics};

/// A client has this long to send a request's head, or to begin the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest head.
const MAX_HEAD: usize = 64 * 1024;

/// How a gate is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where clients come in.
    pub listen: SocketAddr,
    /// Where the engine comes in.
    pub admin: SocketAddr,
    /// The file with the admin port's token.
    pub admin_token_file: PathBuf,
    /// A configuration to begin with.
    pub config: Option<PathBuf>,
    /// Certificate chain and key (PEM); without them clients come in without TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Extra certificate authorities for issuers (PEM).
    pub ca_file: Option<PathBuf>,
    /// Threads for traffic; 0 means one for each core.
    pub workers: usize,
    /// Connections at the same time.
    pub max_connections: usize,
    /// How long a drain may last when the process is told to end.
    pub stop_deadline: Duration,
    /// Whether requests are logged on stdout.
    pub access_log: bool,
}

/// Why a gate cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A socket or a thread.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A token that anybody could guess.
    #[error("{path} must hold a token of at least 16 characters")]
    WeakToken {
        /// The file.
        path: PathBuf,
    },
    /// The certificate files.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The extra authorities.
    #[error("--ca-file: {0}")]
    Authorities(#[from] fetch::Error),
    /// The configuration to begin with.
    #[error("{path}: {why}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why it is refused.
        why: String,
    },
}

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

/// A gate that runs.
pub struct Gate {
    /// Where clients come in (the port is known now).
    pub traffic: SocketAddr,
    /// Where the engine comes in.
    pub admin: SocketAddr,
    /// Shared by all its threads.
    pub state: Arc<State>,
    threads: Vec<std::thread::JoinHandle<()>>,
    end: watch::Sender<bool>,
    stop_deadline: Duration,
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

    /// The connection is a tunnel from now on.
    pub fn is_tunnel_now(&self) {
        if let Some(framing) = &self.framing {
            framing.lock().tunnel();
        }
    }
}

// === impl Gate ===

impl Gate {
    /// Starts all threads. Until a configuration is pushed everything is refused.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start(options: Options) -> Result<Self, Error> {
        let io = |what: String| move |source| Error::Io { what, source };
        let token = read_token(&options.admin_token_file)?;
        let acceptor = options.tls.as_ref().map(|(cert, key)| tls::acceptor(cert, key)).transpose()?;
        let extra = match &options.ca_file {
            Some(path) => Some(std::fs::read(path).map_err(io(format!("reading {}", path.display())))?),
            None => None,
        };
        let fetcher = Fetcher::new(Duration::from_secs(2), extra.as_deref())?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if options.workers == 0 { cores.min(16) } else { options.workers };
        let stdout: Option<Box<dyn std::io::Write + Send>> =
            if options.access_log { Some(Box::new(std::io::stdout())) } else { None };
        let log = AccessLog::start(workers, stdout).map_err(io("starting the access log".to_owned()))?;
        let keys = jwks::Options { relay: Some(Arc::default()), ..Default::default() };
        let state = Arc::new(State::new(workers, log, Issuers::new(keys, fetcher)));
        let (end, ended) = watch::channel(false);

        let mut sockets = Vec::with_capacity(workers);
        let mut address = options.listen;
        for _ in 0..workers {
            let socket = listen(address).map_err(io(format!("listening on {address}")))?;
            // with port 0 the others join the port that the first one got
            address = socket.local_addr().map_err(io("asking for the port".to_owned()))?;
            sockets.push(socket);
        }
        let admin_socket = listen(options.admin).map_err(io(format!("listening on {}", options.admin)))?;
        let admin_address = admin_socket.local_addr().map_err(io("asking for the port".to_owned()))?;

        let mut threads = Vec::with_capacity(workers + 1);
        let control = runtime().map_err(io("starting a runtime".to_owned()))?;
        if let Some(path) = options.config.as_ref().filter(|p| p.exists()) {
            let _inside = control.enter();
            apply_file(&state, path)?;
        }
        let (admin_state, until) = (state.clone(), ended.clone());
        threads.push(spawn("control".to_owned(), move || {
            control.block_on(admin::serve(admin_socket, admin_state, token, until));
        })?);
        let per_worker = (options.max_connections / workers).max(1);
        for (worker, socket) in sockets.into_iter().enumerate() {
            let runtime = runtime().map_err(io("starting a runtime".to_owned()))?;
            let (state, acceptor, until) = (state.clone(), acceptor.clone(), ended.clone());
            threads.push(spawn(format!("traffic-{worker}"), move || {
                runtime.block_on(accept(socket, state, worker, acceptor, per_worker, until));
            })?);
        }
        let stop_deadline = options.stop_deadline;
        Ok(Self { traffic: address, admin: admin_address, state, threads, end, stop_deadline })
    }

    /// Drains: refuses new requests, lets those under way finish until the deadline, then ends all threads.
    pub async fn stop(self) {
        self.state.stop(self.stop_deadline);
        let deadline = match *self.state.phase.borrow() {
            Phase::Drain(until) => until,
            Phase::Serve => tokio::time::Instant::now(),
        };
        let busy = || self.state.metrics.in_flight() > 0 || self.state.metrics.tunnels.load(Relaxed) > 0;
        while busy() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // connections say goodbye (GOAWAY, close) before the threads end
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.end.send_replace(true);
        for thread in self.threads {
            // a thread that panicked has said so on stderr
            let _ = thread.join();
        }
        // requests that were cut a moment ago are in the log's queue
        let log = self.state.log.ended();
        drop(self.state);
        log.wait();
    }
}

fn apply_file(state: &State, path: &std::path::Path) -> Result<(), Error> {
    let wrong = |why: String| Error::Config { path: path.to_owned(), why };
    let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let config = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    state.apply(config).map_err(|e| wrong(e.to_string()))
}

fn read_token(path: &std::path::Path) -> Result<String, Error> {
    let what = format!("reading {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { what, source })?;
    let token = text.trim().to_owned();
    if token.len() < 16 { Err(Error::WeakToken { path: path.to_owned() }) } else { Ok(token) }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>, Error> {
    let what = format!("starting thread {name}");
    std::thread::Builder::new().name(name).spawn(work).map_err(|source| Error::Io { what, source })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build()
}

/// A listening socket that shares its port with those of the other workers.
fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // seeded by the system's random numbers
    std::hash::RandomState::new().build_hasher().finish()
}

async fn accept(
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
    let read = tokio::select! {
        read = tokio::time::timeout(HEAD_TIMEOUT, detect(&mut stream)) => read,
        // a client that has said nothing has nothing in flight
        () = draining(&mut phase) => tokio::time::timeout(Duration::from_secs(1), detect(&mut stream)).await,
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

async fn draining(phase: &mut watch::Receiver<Phase>) {
    if phase.wait_for(|p| matches!(p, Phase::Drain(_))).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Until a drain begins and the client has asked something (or had its second for that): hyper closes a connection that is
/// shut down before its first request, and that client would have no answer at all.
async fn draining_after(asked: &Notify, phase: &mut watch::Receiver<Phase>) {
    draining(phase).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), asked.notified()).await;
}

/// Until the deadline of a drain; a drain that is called off has none.
async fn overdue(phase: &mut watch::Receiver<Phase>) {
    loop {
        let until = match *phase.borrow_and_update() {
            Phase::Drain(until) => Some(until),
            Phase::Serve => None,
        };
        let passed = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = passed => return,
            changed = phase.changed() => if changed.is_err() { return },
        }
    }
}

async fn serve_http1<S>(io: ClientIo<S>, conn: Conn, mut phase: watch::Receiver<Phase>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (conn, asked) = (Arc::new(conn), Arc::new(Notify::new()));
    let seen = asked.clone();
    let service = service_fn(move |request| {
        seen.notify_one();
        handle(conn.clone(), request)
    });
    let mut builder = http1::Builder::new();
    // no pipeline_flush: it holds an answer back while bytes of a next request wait, and loses it when the connection ends
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD * 2)
        .max_header_size(MAX_HEAD);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    tokio::select! {
        _ = serving.as_mut() => return,
        () = draining_after(&asked, &mut phase) => serving.as_mut().graceful_shutdown(),
    }
    // how a connection ended is in the records of its requests
    tokio::select! { _ = serving => {}, () = overdue(&mut phase) => {} }
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
    tokio::select! {
        _ = serving.as_mut() => return,
        () = draining_after(&asked, &mut phase) => serving.as_mut().graceful_shutdown(),
    }
    tokio::select! { _ = serving => {}, () = overdue(&mut phase) => {} }
}
