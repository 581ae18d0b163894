//! What all workers share: the configuration in force, counters, the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use syp_auth::door::{self, GateConfig, GateStatus, Mode};
use syp_auth::jwks::{self, Issuers};
use syp_auth::{Verifier, VerifierOptions};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::access_log::AccessLog;
use crate::metrics::Metrics;
use crate::replica::Replica;

/// A configuration in force.
pub struct Active {
    /// As it was pushed.
    pub config: GateConfig,
    /// For its issuers and audiences.
    pub verifier: Verifier,
    /// Its replicas.
    pub replicas: Vec<Arc<Replica>>,
    /// Whether a rule looks at the method: then headers that change it are stripped.
    pub by_method: bool,
    /// Whether a rule looks at the request: else a decision holds for all requests of a caller.
    pub by_request: bool,
    /// No two configurations of this process have the same.
    pub serial: u64,
    /// Whose turn it is among equals.
    pub turn: AtomicUsize,
}

/// Whether the gate admits requests; connections and tunnels watch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It does.
    Serve,
    /// It does not; what is under way has until then.
    Drain(Instant),
}

/// Shared by everything in the process.
pub struct State {
    active: ArcSwapOption<Active>,
    /// Counters.
    pub metrics: Metrics,
    /// The access log.
    pub log: AccessLog,
    /// Serve or drain; it also ticks at each new configuration.
    pub phase: watch::Sender<Phase>,
    issuers: Issuers,
    applying: Mutex<()>,
    stopping: std::sync::atomic::AtomicBool,
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
    pub fn new(workers: usize, log: AccessLog, issuers: Issuers) -> Self {
        let (active, metrics) = (ArcSwapOption::empty(), Metrics::new(workers));
        let (applying, stopping) = Default::default();
        Self { active, metrics, log, phase: watch::channel(Phase::Serve).0, issuers, applying, stopping }
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

    /// Puts a configuration in force for every request from now on. Replicas, their connections and issuers' keys that the new
    /// one has too are kept. Must run on the control runtime, which probes replicas and refreshes keys.
    ///
    /// # Errors
    /// [`Error`]; then the one in force stays.
    pub fn apply(&self, config: GateConfig) -> Result<(), Error> {
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
        let verifier = Verifier::new(issuers, config.audiences.clone(), VerifierOptions::default());
        let old = held.as_ref().map(|h| h.replicas.as_slice()).unwrap_or_default();
        let mut replicas = Vec::with_capacity(config.upstreams.len());
        for upstream in &config.upstreams {
            let kept = old.iter().find(|r| r.is(upstream, &config.probe, config.protocol)).cloned();
            replicas.push(kept.unwrap_or_else(|| {
                let workers = self.metrics.workers.len();
                let replica = Arc::new(Replica::new(upstream, &config.probe, config.protocol, workers));
                tokio::spawn(crate::health::watch(Arc::downgrade(&replica)));
                replica
            }));
        }
        let (mode, deadline) = (config.mode, Duration::from_millis(config.drain_deadline_ms));
        let (by_request, serial) =
            (config.policy.depends_on_request(), held.as_ref().map_or(0, |h| h.serial + 1));
        let by_method = config.policy.rules.iter().any(|r| !r.methods.is_empty());
        self.active.store(Some(Arc::new(Active {
            config,
            verifier,
            replicas,
            by_method,
            by_request,
            serial,
            turn: AtomicUsize::new(0),
        })));
        if !self.stopping.load(Relaxed) {
            self.phase.send_modify(|phase| {
                *phase = match (mode, *phase) {
                    (Mode::Serve, _) => Phase::Serve,
                    // the clock of a drain that has begun is not set back
                    (Mode::Drain, Phase::Drain(until)) => Phase::Drain(until),
                    (Mode::Drain, Phase::Serve) => Phase::Drain(Instant::now() + deadline),
                };
            });
        }
        Ok(())
    }

    /// The process is told to end: drains for good.
    pub fn stop(&self, deadline: Duration) {
        self.stopping.store(true, Relaxed);
        let held = self.active().map(|a| Duration::from_millis(a.config.drain_deadline_ms));
        let until = Instant::now() + held.unwrap_or(deadline).min(deadline);
        self.phase.send_modify(|phase| {
            *phase = match *phase {
                Phase::Drain(earlier) => Phase::Drain(earlier.min(until)),
                Phase::Serve => Phase::Drain(until),
            };
        });
    }

    /// Whether new requests are refused.
    #[must_use]
    pub fn draining(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Drain(_))
    }

    /// Whether a drain's deadline is over.
    #[must_use]
    pub fn overdue(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Drain(until) if Instant::now() >= until)
    }

    /// Whether `/_syp/health` says 200: configured, not draining, a replica ready.
    #[must_use]
    pub fn healthy(&self) -> bool {
        let ready = |a: &Arc<Active>| a.replicas.iter().any(|r| r.ready.load(Relaxed));
        !self.draining() && self.active.load().as_ref().is_some_and(ready)
    }

    /// For `/status`.
    #[must_use]
    pub fn status(&self) -> GateStatus {
        let active = self.active();
        let config = active.as_ref().map(|a| &a.config);
        GateStatus {
            generation: config.map_or(0, |c| c.generation),
            mode: if self.draining() { Mode::Drain } else { Mode::Serve },
            in_flight: self.metrics.in_flight(),
            tunnels: self.metrics.tunnels.load(Relaxed),
            upstreams: active
                .as_ref()
                .map(|a| a.replicas.iter().map(|r| r.status()).collect())
                .unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: config.map(|c| c.revision.clone()).unwrap_or_default(),
        }
    }
}
