//! The docker target: one gate and, per replica, a sealed namespace with the user's image in it.
mod about;
mod admin;
mod app;
pub mod client;
mod config;
mod container;
mod drain;
mod examine;
mod files;
mod gate;
mod gate_image;
mod holder;
mod image;
mod isolation;
mod listing;
mod logs;
pub mod names;
mod network;
mod observe;
mod plan;
mod podman;
mod port;
pub(crate) mod preflight;
mod probe;
mod rollout;
mod routes;
mod settle;
mod tls;
mod volume;

pub use about::{About, about};
pub use gate_image::{GateImage, remove_gate_images};
pub(crate) use gate_image::{LABEL as GATE_LABEL, archive as gate_archive};
pub use names::pool_conflict;

use crate::{
    power::Host,
    prices::local::{Tariff, Tariffs},
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::future::BoxFuture;
use names::Subnet;
use parking_lot::RwLock;
use rust_decimal::Decimal;
use secrecy::{SecretSlice, SecretString};
use serde_json::Value;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};
use syp_auth::jwks::Wanted;
use syp_engine::{
    clock::{Clock, millis},
    examined::Examined,
    failure::{Class, failure},
    graph::RunKind,
    id::StoreId,
    plan::Plan,
    step::{DynStep, Have, Held, LogLines, LogQuery, News, Of, Owner, Preflight, Stats, StepCx, Target},
    tariffs::is_energy,
};
use syp_proto::{
    journal::{Failure, Found},
    v1,
};

/// Seconds that one call to the daemon may take.
const CALL_TIMEOUT_S: u64 = 120;
/// Where networks come from unless the engine is told otherwise.
pub const DEFAULT_POOL: &str = "10.213.0.0/16";

/// What the docker target is made of.
#[derive(Clone)]
pub struct Options {
    /// `unix:///var/run/docker.sock` or what `DOCKER_HOST` says; empty: the default socket.
    pub host: String,
    /// The static `syp-gate`.
    pub gate_binary: PathBuf,
    /// The engine's own key, from which each gate's admin token is derived.
    pub key: SecretSlice<u8>,
    /// Pool of the instances' networks.
    pub pool: String,
    /// Prices.
    pub tariffs: Tariffs,
    /// The host that it runs on.
    pub power: Host,
    /// Time.
    pub clock: Clock,
}

pub(crate) struct Shared {
    pub docker: Docker,
    pub gate_image: GateImage,
    pub pool: Subnet,
    pub tariffs: RwLock<Tariffs>,
    pub power: Host,
    pub clock: Clock,
    key: SecretSlice<u8>,
}

/// The docker target.
pub struct DockerTarget {
    shared: Arc<Shared>,
    steps: BTreeMap<&'static str, Arc<dyn DynStep>>,
}

// === impl Shared ===

impl Shared {
    /// [`crate::admin::token`].
    pub fn admin_token(&self, owner: &Owner) -> SecretString {
        crate::admin::token(&self.key, owner)
    }
}

fn wrong(what: &str, e: &str) -> Failure {
    failure(Class::Terminal, "INVALID_ARGUMENT", format!("{what}: {e}"), "")
}

/// The engine at a host as `DOCKER_HOST` says it; empty: the usual socket.
pub(crate) fn connect(host: &str) -> Result<Docker, Failure> {
    let host = if host.is_empty() { "unix:///var/run/docker.sock" } else { host };
    let docker = match host.strip_prefix("unix://") {
        Some(path) => Docker::connect_with_unix(path, CALL_TIMEOUT_S, API_DEFAULT_VERSION),
        None => Docker::connect_with_host(host),
    };
    docker.map_err(|e| match e {
        bollard::errors::Error::SocketNotFoundError(path) => failure(
            Class::Transient,
            "PROVIDER_UNREACHABLE",
            format!("there is no Docker engine where the engine runs: {path} is not there"),
            "start it ('systemctl start docker'), say with DOCKER_HOST where it is, or serve on a cluster: --on k8s",
        ),
        e => wrong("DOCKER_HOST", &e.to_string()),
    })
}

// === impl DockerTarget ===

impl DockerTarget {
    /// Connects lazily: a daemon that is down is met at preflight, with words.
    ///
    /// # Errors
    /// A host or pool that can't be understood; `PROVIDER_UNREACHABLE`: its socket is not there.
    pub fn new(o: Options) -> Result<Self, Failure> {
        let docker = connect(&o.host)?;
        let pool = Subnet::parse(&o.pool)
            .ok_or_else(|| wrong("SYP_DOCKER_POOL", &format!("'{}' is no network", o.pool)))?;
        let gate_image = GateImage::new(o.gate_binary);
        let shared = Arc::new(Shared {
            docker,
            gate_image,
            pool,
            tariffs: RwLock::new(o.tariffs.of_host(o.power.cores())),
            power: o.power,
            clock: o.clock,
            key: o.key,
        });
        let s = || Arc::clone(&shared);
        let all: Vec<Arc<dyn DynStep>> = vec![
            Arc::new(app::App(s())),
            Arc::new(config::Config(s())),
            Arc::new(drain::Drain(s())),
            Arc::new(files::Files),
            Arc::new(gate::Gate(s())),
            Arc::new(holder::Holder(s())),
            Arc::new(image::Image(s())),
            Arc::new(isolation::Isolation),
            Arc::new(network::Network(s())),
            Arc::new(probe::Probe(s())),
            Arc::new(settle::Settle(s())),
            Arc::new(volume::Volume(s())),
        ];
        let steps = all.into_iter().map(|s| (s.kind(), s)).collect();
        Ok(Self { shared, steps })
    }
}

impl Target for DockerTarget {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn step(&self, kind: &str) -> Option<Arc<dyn DynStep>> {
        self.steps.get(kind).cloned()
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.steps.keys().copied().collect()
    }

    fn plan(
        &self,
        kind: RunKind,
        owner: &Owner,
        spec: &v1::InstanceSpec,
        facts: &Value,
        have: &Have<'_>,
    ) -> Plan {
        plan::plan(kind, owner, spec, facts, have)
    }

    fn preflight<'a>(
        &'a self,
        _: &'a Owner,
        spec: &'a v1::InstanceSpec,
        held: Option<&'a Held<'a>>,
    ) -> BoxFuture<'a, Result<Preflight, Failure>> {
        Box::pin(preflight::check(&self.shared, spec, held))
    }

    fn tariff(&self) -> Option<v1::Tariff> {
        Some(self.shared.tariffs.read().now().to_api())
    }

    fn set_tariff(&self, new: &v1::Tariff) -> Result<(), Failure> {
        if !is_energy(new) {
            return Ok(());
        }
        let tariff = Tariff::from_api(new).ok_or_else(|| {
            failure(Class::Terminal, "INVALID_ARGUMENT", "a tariff is made of decimal numbers", "")
        })?;
        let from = new.from_time.as_ref().map_or(0, millis);
        self.shared.tariffs.write().set(from, tariff);
        Ok(())
    }

    fn reprice(
        &self,
        tariff: Option<&v1::Tariff>,
        spec: &v1::InstanceSpec,
        facts: &Value,
    ) -> Option<(Decimal, Value)> {
        let held = self.shared.tariffs.read();
        let tariff = match tariff.filter(|t| is_energy(t)) {
            Some(t) => Tariff { host_cores: held.now().host_cores, ..Tariff::from_api(t)? },
            None => held.now().clone(),
        };
        let (hourly, _, facts) = tariff.price(spec, facts);
        Some((hourly, facts))
    }

    fn list<'a>(
        &'a self,
        store: &'a StoreId,
        of: Option<Of<'a>>,
    ) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        Box::pin(listing::list(&self.shared, store, of.map(|o| o.uid)))
    }

    fn remove<'a>(&'a self, _: &'a StoreId, found: &'a Found) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(listing::remove(&self.shared, found))
    }

    fn push_gate<'a>(&'a self, cx: &'a StepCx) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(config::push(&self.shared, cx))
    }

    fn wanted_key<'a>(&'a self, cx: &'a StepCx) -> BoxFuture<'a, Result<Option<Wanted>, Failure>> {
        Box::pin(async move {
            admin::read(config::admin_address(cx)?, &self.shared.admin_token(&cx.owner), "/wanted").await
        })
    }

    fn stats<'a>(&'a self, cx: &'a StepCx) -> BoxFuture<'a, Result<Stats, Failure>> {
        Box::pin(observe::stats(&self.shared, cx))
    }

    fn logs<'a>(&'a self, cx: &'a StepCx, q: LogQuery) -> BoxFuture<'a, Result<LogLines, Failure>> {
        Box::pin(logs::logs(&self.shared, cx, q))
    }

    fn check(&self) -> BoxFuture<'_, Result<String, Failure>> {
        Box::pin(async move {
            let v = self.shared.docker.version().await.map_err(|e| client::failed(&e))?;
            Ok(format!(
                "Docker {} (API {})",
                v.version.unwrap_or_default(),
                v.api_version.unwrap_or_default()
            ))
        })
    }

    fn examine<'a>(&'a self, spec: &'a v1::InstanceSpec) -> BoxFuture<'a, Examined> {
        Box::pin(examine::examine(&self.shared, spec))
    }

    fn changes<'a>(&'a self, store: &'a StoreId) -> BoxFuture<'a, Result<News, Failure>> {
        Box::pin(observe::changes(&self.shared, store))
    }
}
