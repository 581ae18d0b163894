//! What all workers share: the configuration in force, counters, the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use syp_auth::door::{self, GateConfig, GateStatus, Mode};
use syp_auth::jwks::{self, Issuers};
use syp_auth::{MachineTokens, Verifier, VerifierOptions};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::access_log::AccessLog;
use crate::beside::Beside;
use crate::metrics::Metrics;
use crate::phase::Phase;
use crate::remote::Remote;
use crate::replica::Replica;

/// Where Linux says what a host is called.
const HOST: &str = "/proc/sys/kernel/hostname";

/// A configuration in force.
pub struct Active {
    /// As it was pushed.
    pub config: GateConfig,
    /// For its issuers and audiences.
    pub verifier: Verifier,
    /// Its machine tokens.
    pub tokens: MachineTokens,
    /// Issuers whose keys come with the configuration only.
    pub told_keys: Vec<String>,
    /// Its replicas.
    pub replicas: Vec<Arc<Replica>>,
    /// Those of them that get new requests.
    pub open: Vec<Arc<Replica>>,
    /// Whether a rule looks at the method: then headers that change it are stripped.
    pub by_method: bool,
    /// Whether a rule looks at the request: else a decision holds for all requests of a caller.
    pub by_request: bool,
    /// No two configurations of this process have the same.
    pub serial: u64,
    /// Whose turn it is among equals.
    pub turn: AtomicUsize,
}

/// Shared by everything in the process.
pub struct State {
    active: ArcSwapOption<Active>,
    /// Counters.
    pub metrics: Metrics,
    /// The access log.
    pub log: AccessLog,
    /// What it does with requests; it also ticks at each new configuration.
    pub phase: watch::Sender<Phase>,
    /// A replica became ready, or there is another configuration.
    pub came: Arc<Notify>,
    /// Requests that wait for that.
    pub waiting: AtomicUsize,
    issuers: Issuers,
    beside: Option<Beside>,
    /// How long keys of [`Active::told_keys`] are good without a word from the engine.
    max_age: Duration,
    /// For how long a request under way may go on after its token's end.
    pub outlives: Duration,
    /// How the engine comes in by the way of the callers; `None`: it does not.
    pub remote: Option<Remote>,
    host: String,
    started: Instant,
    /// When machine tokens were used last, by id, to the minute.
    token_uses: Mutex<BTreeMap<String, u64>>,
    /// When the engine was heard of last, in milliseconds since the start; 0: never, the configuration is a file's.
    heard: AtomicU64,
    applying: Mutex<()>,
    leaving: AtomicBool,
    stopping: AtomicBool,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is older than the one in force.
    #[error("generation {given} is lower than {held}, the one in force")]
    Stale {
        /// What was given.
        given: u64,
        /// What is in force.
        held: u64,
    },
    /// It is the same generation with another content.
    #[error("generation {0} is in force with another content; raise it")]
    Changed(u64),
    /// It contradicts itself.
    #[error(transparent)]
    Invalid(#[from] door::Error),
    /// Its issuers are not acceptable.
    #[error("issuers: {0}")]
    Issuers(#[from] jwks::Error),
}

impl State {
    /// Nothing is configured: everything is denied.
    #[must_use]
    pub fn new(
        workers: usize,
        log: AccessLog,
        issuers: Issuers,
        beside: Option<Beside>,
        max_age: Duration,
        outlives: Duration,
        remote: Option<Remote>,
    ) -> Self {
        let (active, metrics) = (ArcSwapOption::empty(), Metrics::new(workers));
        let (heard, applying, leaving, stopping, came, waiting, token_uses) = Default::default();
        let (phase, started) = (watch::channel(Phase::Serve).0, Instant::now());
        let host = std::fs::read_to_string(HOST).map(|name| name.trim().to_owned()).unwrap_or_default();
        Self {
            active,
            metrics,
            log,
            phase,
            came,
            waiting,
            issuers,
            beside,
            max_age,
            outlives,
            remote,
            host,
            started,
            token_uses,
            heard,
            applying,
            leaving,
            stopping,
        }
    }

    /// The engine was in touch. Whoever calls here is the engine: it knows which keys are good and takes away those that became
    /// too old, so that keys only it hands out are good for as long as it can.
    pub fn heard_engine(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now.max(1), Relaxed);
    }

    /// Whether this issuer's keys came from the engine, and it was not heard of for longer than unconfirmed keys may be used.
    #[must_use]
    pub fn keys_too_old(&self, active: &Active, issuer: &str) -> bool {
        let heard = self.heard.load(Relaxed);
        heard > 0
            && self.started.elapsed() > Duration::from_millis(heard) + self.max_age
            && active.told_keys.iter().any(|i| i == issuer)
    }

    /// A machine token was used; its subject says which.
    pub fn token_used(&self, subject: &str) {
        let Some(id) = subject.strip_prefix("token:") else { return };
        let minute = syp_auth::unix_now() / 60 * 60;
        let mut uses = self.token_uses.lock();
        match uses.get_mut(id) {
            Some(last) => *last = minute,
            None => drop(uses.insert(id.to_owned(), minute)),
        }
    }

    /// Waits for a token that names a key we lack.
    pub async fn wanted(&self) -> Option<jwks::Wanted> {
        let relay = self.issuers.relay()?;
        Some(relay.next().await)
    }

    /// The configuration in force.
    #[must_use]
    pub fn active(&self) -> Option<Arc<Active>> {
        self.active.load_full()
    }

    /// What `f` makes of the origins that are listed.
    pub fn with_origins<T>(&self, f: impl FnOnce(&[String]) -> T) -> T {
        let active = self.active.load();
        f(active.as_ref().map_or(&[], |a| &a.config.cors_origins))
    }

    /// Which one it is.
    #[must_use]
    pub fn serial(&self) -> Option<u64> {
        self.active.load().as_ref().map(|a| a.serial)
    }

    /// Puts a configuration in force for every request from now on. Replicas, their connections and issuers' keys that the new
    /// one has too are kept. Must run on the control runtime, which probes replicas and refreshes keys.
    ///
    /// # Errors
    /// [`Error`]; then the one in force stays.
    pub fn apply(&self, config: GateConfig) -> Result<(), Error> {
        let config = match &self.beside {
            Some(beside) => beside.app.in_place(config),
            None => config,
        };
        let _one_at_a_time = self.applying.lock();
        let held = self.active();
        if let Some(held) = &held {
            let (given, held_at) = (config.generation, held.config.generation);
            if given < held_at {
                return Err(Error::Stale { given, held: held_at });
            }
            // keys rotate by themselves, no generation comes with them
            let but_issuers = |c: &GateConfig| GateConfig { issuers: Vec::new(), ..c.clone() };
            if given == held_at && but_issuers(&held.config) != but_issuers(&config) {
                return Err(Error::Changed(given));
            }
        }
        config.validate()?;
        let issuers = self.issuers.apply(&config.issuers)?;
        let told_keys = issuers.iter().filter(|i| i.is_fixed()).map(|i| i.name().to_owned()).collect();
        let verifier = Verifier::new(issuers, config.audiences.clone(), VerifierOptions::default());
        let old = held.as_ref().map(|h| h.replicas.as_slice()).unwrap_or_default();
        let mut replicas = Vec::with_capacity(config.upstreams.len());
        let mut open = Vec::with_capacity(config.upstreams.len());
        for upstream in &config.upstreams {
            let probe = upstream.probe.as_ref().unwrap_or(&config.probe);
            let protocol = upstream.protocol.unwrap_or(config.protocol);
            let kept = old.iter().find(|r| r.is(upstream, probe, protocol)).cloned();
            let replica = kept.unwrap_or_else(|| {
                let (workers, came) = (self.metrics.workers.len(), self.came.clone());
                let replica = Arc::new(Replica::new(upstream, probe, protocol, workers, came));
                tokio::spawn(crate::health::watch(Arc::downgrade(&replica)));
                replica
            });
            if !upstream.closed {
                open.push(replica.clone());
            }
            replicas.push(replica);
        }
        let (mode, deadline) = (config.mode, Duration::from_millis(config.drain_deadline_ms));
        let serial = held.as_ref().map_or(0, |h| h.serial + 1);
        let scoped = config.tokens.iter().any(|t| !t.paths.is_empty());
        let by_request = scoped || config.policy.depends_on_request();
        let tokens = MachineTokens::of(&config.tokens);
        let by_method = config.policy.rules.iter().any(|r| !r.methods.is_empty());
        self.active.store(Some(Arc::new(Active {
            config,
            verifier,
            tokens,
            told_keys,
            replicas,
            open,
            by_method,
            by_request,
            serial,
            turn: AtomicUsize::new(0),
        })));
        self.came.notify_waiters();
        if !self.stopping.load(Relaxed) {
            self.phase.send_modify(|phase| {
                *phase = match (mode, *phase) {
                    (Mode::Serve, _) if self.leaving.load(Relaxed) => Phase::Leave,
                    (Mode::Serve, _) => Phase::Serve,
                    // the clock of a drain that has begun is not set back
                    (Mode::Drain, Phase::Drain(until)) => Phase::Drain(until),
                    (Mode::Drain, _) => Phase::Drain(Instant::now() + deadline),
                };
            });
        }
        Ok(())
    }

    /// Others take over: goes on admitting what comes, and asks clients to go elsewhere. There is no way back.
    pub fn leave(&self) {
        self.leaving.store(true, Relaxed);
        self.phase.send_modify(|phase| {
            if *phase == Phase::Serve {
                *phase = Phase::Leave;
            }
        });
    }

    /// The process is told to end: drains for good.
    pub fn stop(&self, deadline: Duration) {
        self.stopping.store(true, Relaxed);
        let held = self.active().map(|a| Duration::from_millis(a.config.drain_deadline_ms));
        let until = Instant::now() + held.unwrap_or(deadline).min(deadline);
        self.phase.send_modify(|phase| {
            *phase = match *phase {
                Phase::Drain(earlier) => Phase::Drain(earlier.min(until)),
                Phase::Serve | Phase::Leave => Phase::Drain(until),
            };
        });
    }

    /// Whether new requests are refused.
    #[must_use]
    pub fn draining(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Drain(_))
    }

    /// Whether an HTTP/1 connection is to end with the answer that is given now: the gate drains or leaves.
    #[must_use]
    pub fn last_answers(&self) -> bool {
        *self.phase.borrow() != Phase::Serve
    }

    /// Whether a drain's deadline is over.
    #[must_use]
    pub fn overdue(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Drain(until) if Instant::now() >= until)
    }

    /// Whether `/_syp/health` says 200: configured, here to stay, a replica ready.
    #[must_use]
    pub fn healthy(&self) -> bool {
        let ready = |a: &Arc<Active>| a.open.iter().any(|r| r.ready.load(Relaxed));
        // a pod that drains stays in its Service, so that callers get a 503 with words and not a closed door; one that goes does not
        let stays = match &self.beside {
            Some(_) => !self.leaving.load(Relaxed) && !self.stopping.load(Relaxed),
            None => !self.last_answers(),
        };
        stays && self.active.load().as_ref().is_some_and(ready)
    }

    /// The name of the host that it is on.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// For `/status`.
    #[must_use]
    pub fn status(&self) -> GateStatus {
        let active = self.active();
        let config = active.as_ref().map(|a| &a.config);
        let replicas = active.as_ref().map(|a| a.replicas.as_slice()).unwrap_or_default();
        let mut upstreams: Vec<_> = replicas.iter().map(|r| r.status()).collect();
        if let Some(beside) = &self.beside {
            upstreams.iter_mut().for_each(|u| beside.tell(u));
        }
        GateStatus {
            generation: config.map_or(0, |c| c.generation),
            leaving: self.leaving.load(Relaxed),
            mode: if self.draining() { Mode::Drain } else { Mode::Serve },
            in_flight: self.metrics.in_flight(),
            tunnels: self.metrics.tunnels.load(Relaxed),
            upstreams,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: config.map(|c| c.revision.clone()).unwrap_or_default(),
            host: self.host.clone(),
            token_uses: self.token_uses.lock().clone(),
        }
    }

    /// The same with what the app uses, which somebody else has to be asked for.
    pub async fn measured(&self) -> GateStatus {
        let mut status = self.status();
        if let Some(agent) = self.beside.as_ref().and_then(|b| b.agent.as_ref())
            && let [app] = status.upstreams.as_mut_slice()
        {
            app.usage = agent.usage().await;
        }
        status
    }
}
