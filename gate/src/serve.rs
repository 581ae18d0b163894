//! The gate's threads: one runtime with its own listening socket for each core, and one for control.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use syp_auth::door::GateConfig;
use syp_auth::fetch::{self, Fetcher};
use syp_auth::jwks::{self, Issuers};
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::agent::Agent;
use crate::beside::{App, Beside};
use crate::conn::accept;
use crate::keep::{self, Keep};
use crate::phase::Phase;
use crate::remote::Remote;
use crate::state::State;
use crate::{admin, tls};

/// How a gate is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where clients come in.
    pub listen: SocketAddr,
    /// Where the engine comes in.
    pub admin: SocketAddr,
    /// The admin port's token.
    pub admin_token: Given,
    /// A configuration to begin with; a file that is not there is none.
    pub config: Given,
    /// Whether the engine comes in by the way of the callers too.
    pub remote: bool,
    /// Where a configuration that was pushed is kept for the next start.
    pub keep: Option<PathBuf>,
    /// The app beside this gate, which then is the only replica of every configuration.
    pub app: Option<App>,
    /// Where the agent of the task's host answers, which knows what the app uses.
    pub agent: Option<String>,
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
    /// For how long issuers' keys are good; whom to ask for more is set by the gate.
    pub keys: jwks::Options,
    /// For how long a request under way may go on after its token's end.
    pub outlives: Duration,
}

/// Where something that a gate is started with is.
#[derive(Clone)]
pub enum Given {
    /// In this file.
    File(PathBuf),
    /// Here, from a variable of this name: on targets that mount no files.
    Value(&'static str, String),
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
    #[error("{at} must hold a token of at least 16 characters")]
    WeakToken {
        /// Where it is.
        at: String,
    },
    /// The certificate files.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The extra authorities.
    #[error("--ca-file: {0}")]
    Authorities(#[from] fetch::Error),
    /// How the app beside is to be probed.
    #[error("--app-probe: {0}")]
    App(#[from] syp_auth::door::Error),
    /// The configuration to begin with.
    #[error("{at}: {why}")]
    Config {
        /// Where it is.
        at: String,
        /// Why it is refused.
        why: String,
    },
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

// === impl Gate ===

impl Gate {
    /// Starts all threads. Until a configuration is pushed everything is refused.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start(options: Options) -> Result<Self, Error> {
        let io = |what: String| move |source| Error::Io { what, source };
        // here and not at each configuration: it would refuse them all
        if let Some(app) = &options.app {
            app.probe(&syp_auth::door::Probe::default()).validate()?;
        }
        let token = options.admin_token.token()?;
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

        let keys = jwks::Options { relay: Some(Arc::default()), ..options.keys };
        let max_age = keys.max_age;
        let beside = options.app.map(|app| Beside {
            app,
            agent: options.agent.as_deref().and_then(Agent::at),
            own: [address.port(), admin_address.port()],
        });
        let issuers = Issuers::new(keys, fetcher);
        let control = runtime().map_err(io("starting a runtime".to_owned()))?;
        let remote =
            options.remote.then(|| Remote { token: token.clone(), control: control.handle().clone() });
        let state = State::new(workers, log, issuers, beside, max_age, options.outlives, remote);
        let state = Arc::new(state);
        let (end, ended) = watch::channel(false);

        let mut threads = Vec::with_capacity(workers + 1);
        let keep = options.keep.map(Keep::new);
        let inside = control.enter();
        begin(&state, &options.config, keep.as_ref())?;
        drop(inside);
        let (admin, until) = (admin::Admin { state: state.clone(), token, keep }, ended.clone());
        threads.push(spawn("control".to_owned(), move || {
            control.block_on(admin::serve(admin_socket, Arc::new(admin), until));
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
            Phase::Serve | Phase::Leave => tokio::time::Instant::now(),
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

/// Puts in force what was kept or what is given, whichever is newer.
fn begin(state: &State, given: &Given, keep: Option<&Keep>) -> Result<(), Error> {
    let config = given.config()?;
    if let Some(keep) = keep {
        let kept = keep::newer(keep.read(), config.as_ref());
        let used = kept.and_then(|kept| {
            let generation = kept.generation;
            state.apply(kept).map(|()| generation).map_err(|e| e.to_string())
        });
        let line = match &used {
            Ok(generation) => json!({ "event": "kept", "used": true, "generation": generation }),
            Err(why) => json!({ "event": "kept", "used": false, "why": why }),
        };
        println!("{line}");
        if used.is_ok() {
            // it came from the engine: keys that only the engine hands out grow old from now on
            state.heard_engine();
            return Ok(());
        }
    }
    let Some(config) = config else { return Ok(()) };
    state.apply(config).map_err(|e| Error::Config { at: given.at(), why: e.to_string() })
}

// === impl Given ===

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.at())
    }
}

impl Given {
    /// The admin port's token.
    ///
    /// # Errors
    /// There is none, or one that anybody could guess.
    pub fn token(&self) -> Result<String, Error> {
        let text = match self {
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|source| Error::Io { what: format!("reading {}", path.display()), source })?,
            Self::Value(_, text) => text.clone(),
        };
        let token = text.trim().to_owned();
        if token.len() < 16 { Err(Error::WeakToken { at: self.at() }) } else { Ok(token) }
    }

    fn config(&self) -> Result<Option<GateConfig>, Error> {
        let wrong = |why: String| Error::Config { at: self.at(), why };
        let text = match self {
            Self::File(path) if !path.exists() => return Ok(None),
            Self::File(path) => std::fs::read(path).map_err(|e| wrong(e.to_string()))?,
            Self::Value(_, text) => text.clone().into_bytes(),
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| wrong(e.to_string()))
    }

    fn at(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Value(name, _) => (*name).to_owned(),
        }
    }
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
