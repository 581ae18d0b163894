//! The wire contract between the engine and the gates it sets up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::jwks::IssuerConfig;
use crate::machine::MachineToken;
use crate::policy::{self, Policy};

/// Everything a gate needs to know, pushed whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateConfig {
    /// Rises with every change; a gate refuses a lower one.
    pub generation: u64,
    /// Unique id of the instance.
    pub instance_uid: String,
    /// Its name.
    #[serde(default)]
    pub instance_name: String,
    /// Serve or drain.
    #[serde(default)]
    pub mode: Mode,
    /// For how long requests and tunnels may go on after the drain began.
    #[serde(default = "thirty_seconds")]
    pub drain_deadline_ms: u64,
    /// One of these must be in a token's `aud`.
    pub audiences: Vec<String>,
    /// Whose tokens are accepted.
    pub issuers: Vec<IssuerConfig>,
    /// Who may call.
    pub policy: Policy,
    /// Machine tokens that are good here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<MachineToken>,
    /// Origins whose browser apps may call, as [`crate::cors::origin`] writes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cors_origins: Vec<String>,
    /// The app's replicas.
    pub upstreams: Vec<Upstream>,
    /// What the app speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// How a replica's readiness is found out.
    #[serde(default)]
    pub probe: Probe,
    /// Whether the app gets the caller's `Authorization` header.
    #[serde(default)]
    pub forward_token: bool,
    /// How long a request waits for a replica when none is ready; 0: not at all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hold_ms: u64,
    /// The revision that is served; it is only reported.
    #[serde(default)]
    pub revision: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn thirty_seconds() -> u64 {
    30_000
}

/// What a gate does with new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Admits them.
    #[default]
    Serve,
    /// Refuses them and lets those in flight finish.
    Drain,
}

/// One replica of the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Its name.
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its holder reports, on targets that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<SocketAddr>,
    /// It gets no new requests: not yet proven, or about to go. It is probed all the same, and finishes what it has.
    #[serde(default, skip_serializing_if = "is_false")]
    pub closed: bool,
    /// What this one speaks, when it is not what the configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// How this one is probed, when it is not what the configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
}

// serde hands it over by reference
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(b: &bool) -> bool {
    !*b
}

/// The protocol between gate and app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Tried once for each replica.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS.
    H2c,
}

/// How a replica is probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// `GET` this path and expect a status below 400; without it, connecting is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Time between two probes of a replica that is ready.
    #[serde(default = "two_seconds")]
    pub period_ms: u64,
    /// How long one may take.
    #[serde(default = "two_seconds")]
    pub timeout_ms: u64,
}

fn two_seconds() -> u64 {
    2_000
}

impl Default for Probe {
    fn default() -> Self {
        Self { path: None, period_ms: two_seconds(), timeout_ms: two_seconds() }
    }
}

/// What a gate says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateStatus {
    /// Generation of the configuration in force; 0 before the first.
    pub generation: u64,
    /// Serve or drain.
    pub mode: Mode,
    /// Whether it asks its clients to go elsewhere, and admits them all the same until it is told to end.
    #[serde(default)]
    pub leaving: bool,
    /// Requests under way, tunnels not counted.
    pub in_flight: u64,
    /// Upgraded connections.
    pub tunnels: u64,
    /// The replicas.
    pub upstreams: Vec<UpstreamStatus>,
    /// The gate's version.
    pub version: String,
    /// The revision in force.
    #[serde(default)]
    pub revision: String,
    /// Name of the host that it is on, by which gates are told apart that answer behind one address.
    #[serde(default)]
    pub host: String,
    /// When machine tokens were used last, by id, in seconds since the epoch and to the minute.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub token_uses: BTreeMap<String, u64>,
}

/// What a gate knows of a replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub id: String,
    /// Whether it gets requests.
    pub ready: bool,
    /// What it speaks, once known.
    pub protocol: Option<Protocol>,
    /// Why it is not ready, in words.
    pub detail: String,
    /// Whether its holder reports its namespace as sealed; `None` without a holder or an answer from it.
    pub sealed: Option<bool>,
    /// What listens in its namespace, as its holder sees it, or the gate that is in it too.
    pub listeners: Vec<Listener>,
    /// Requests and tunnels it has now.
    #[serde(default)]
    pub in_flight: u64,
    /// What it has used, where the gate is beside it and the host's agent tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// What an app has used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// What it is part of, by its provider's id (a task).
    pub place: String,
    /// Since when, in milliseconds of Unix time; another time means that the counters began anew.
    pub started_ms: u64,
    /// Processor time, in microseconds.
    pub cpu_us: u64,
    /// Resident bytes.
    pub memory_bytes: u64,
}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// The address it is bound to.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// What a holder reports of the namespace it owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderStatus {
    /// Whether the rules are in place.
    pub sealed: bool,
    /// TCP listeners, the holder's own not among them.
    pub listeners: Vec<Listener>,
    /// Whether it relays to an app that listens on loopback only.
    pub relay: bool,
}

/// Counters of a gate since it started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GateMetrics {
    /// When the counters began, in milliseconds since the epoch. A new value means that they began anew.
    pub started_at_ms: u64,
    /// Requests by status class; the index is the first digit (0: no status was sent).
    pub requests_by_class: [u64; 6],
    /// Requests without a valid token.
    pub denied_401: u64,
    /// Requests of strangers.
    pub denied_403: u64,
    /// Requests under way now.
    pub in_flight: u64,
    /// Bytes of request bodies and from clients through tunnels.
    pub bytes_in: u64,
    /// Bytes of response bodies and to clients through tunnels.
    pub bytes_out: u64,
    /// Time from a request's head to the end of its response, for admitted requests.
    pub latency: Histogram,
    /// Lines the access log had to drop.
    #[serde(default)]
    pub log_dropped: u64,
    /// More counters, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub more: BTreeMap<String, u64>,
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The policy.
    #[error("policy: {0}")]
    Policy(#[from] policy::Error),
    /// An audience is needed.
    #[error("audiences is empty; without one no token can be meant for this instance")]
    NoAudience,
    /// A machine token that can't be one.
    #[error("{0}")]
    Token(String),
    /// An origin that is none, or not in its normal form.
    #[error("cors_origins: {0}")]
    Origin(String),
    /// Two replicas of one name.
    #[error("upstream id '{0}' is used twice")]
    UpstreamTwice(String),
    /// Times that cannot be.
    #[error("probe period and timeout must be between 10 and 600000 milliseconds")]
    ProbeTimes,
    /// A path that cannot be.
    #[error("probe path '{0}' must begin with '/' and have no spaces or control characters")]
    ProbePath(String),
}

impl GateConfig {
    /// Checks what can be checked without applying it.
    ///
    /// # Errors
    /// The first [`Error`] found.
    pub fn validate(&self) -> Result<(), Error> {
        let issuers: Vec<&str> = self.issuers.iter().map(|i| i.issuer.as_str()).collect();
        self.policy.validate_for(&issuers)?;
        if self.audiences.is_empty() || self.audiences.iter().any(String::is_empty) {
            return Err(Error::NoAudience);
        }
        self.tokens.iter().try_for_each(|t| t.validate().map_err(Error::Token))?;
        for origin in &self.cors_origins {
            if crate::cors::origin(origin).map_err(Error::Origin)? != *origin {
                return Err(Error::Origin(format!("'{origin}' is not in its normal form")));
            }
        }
        let mut ids = BTreeSet::new();
        if let Some(twice) = self.upstreams.iter().find(|u| !ids.insert(&u.id)) {
            return Err(Error::UpstreamTwice(twice.id.clone()));
        }
        self.upstreams
            .iter()
            .filter_map(|u| u.probe.as_ref())
            .chain([&self.probe])
            .try_for_each(Probe::validate)
    }
}

// === impl Probe ===

impl Probe {
    /// Checks times and path.
    ///
    /// # Errors
    /// [`Error::ProbeTimes`], [`Error::ProbePath`].
    pub fn validate(&self) -> Result<(), Error> {
        if [self.period_ms, self.timeout_ms].iter().any(|ms| !(10..=600_000).contains(ms)) {
            return Err(Error::ProbeTimes);
        }
        let plain = |p: &str| p.starts_with('/') && p.bytes().all(|b| b > 0x20 && b < 0x7f);
        match &self.path {
            Some(path) if !plain(path) => Err(Error::ProbePath(path.clone())),
            _ => Ok(()),
        }
    }
}

impl GateMetrics {
    /// Adds another gate's counters.
    pub fn merge(&mut self, other: &Self) {
        self.started_at_ms = self.started_at_ms.min(other.started_at_ms);
        for (mine, theirs) in self.requests_by_class.iter_mut().zip(other.requests_by_class) {
            *mine += theirs;
        }
        self.denied_401 += other.denied_401;
        self.denied_403 += other.denied_403;
        self.in_flight += other.in_flight;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.log_dropped += other.log_dropped;
        self.latency.merge(&other.latency);
        for (name, count) in &other.more {
            *self.more.entry(name.clone()).or_default() += count;
        }
    }
}
