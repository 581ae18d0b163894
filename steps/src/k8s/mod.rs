//! The k8s target: any cluster of the user's kubeconfig. The gate is a sidecar of every pod; the engine talks to it through the API
//! server (port-forward), so that it needs no network path of its own.
mod account;
mod app;
mod autoscaler;
mod census;
pub(crate) mod changes;
mod check;
pub mod client;
mod config;
mod disruption;
mod drain;
mod examine;
mod fields;
mod ingress;
mod isolation;
pub(crate) mod listing;
mod logs;
pub(crate) mod names;
pub(crate) mod namespace;
pub(crate) mod object;
pub(crate) mod observe;
mod one;
mod other;
mod own;
mod patience;
mod plan;
mod pods;
mod policy;
pub(crate) mod preflight;
mod price;
mod probe;
pub(crate) mod pull;
mod rehearse;
pub mod rights;
mod route;
mod scale;
mod secret;
mod service;
mod settle;
mod switch;
pub(crate) mod total;
mod troubles;

use crate::{
    kind::{self, Cluster},
    prices::{
        local::{Tariff, Tariffs},
        nodes::Prices,
    },
};
use client::Coming;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use one::One;
use parking_lot::{Mutex, RwLock};
use rust_decimal::Decimal;
use secrecy::{SecretSlice, SecretString};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};
use syp_engine::{
    clock::{Clock, millis},
    examined::Examined,
    failure::{Class, failure},
    graph::RunKind,
    id::{InstanceId, StoreId},
    plan::Plan,
    step::{DynStep, Have, Held, LogLines, LogQuery, News, Of, Owner, Preflight, Stats, StepCx, Target},
    tariffs::is_energy,
};
use syp_proto::{
    journal::{Failure, Found},
    v1,
};

/// What a k8s target is made of.
pub struct Options {
    /// The files of the kubeconfig, read as one.
    pub kubeconfig: Vec<PathBuf>,
    /// The context in it.
    pub context: String,
    /// Where the nodes get the gate's image from.
    pub gate_image: Option<String>,
    /// The engine's own key, from which each gate's admin token is derived.
    pub key: SecretSlice<u8>,
    /// Prices of energy.
    pub tariffs: Tariffs,
    /// Prices of its nodes.
    pub prices: Prices,
    /// Time.
    pub clock: Clock,
    /// A cluster of this engine's own, which the steps make and remove.
    pub kind: Option<Arc<Cluster>>,
    /// Instances of it come in by name, through an ingress of its own.
    pub ingress: bool,
}

pub(crate) struct Shared {
    /// `k8s:CONTEXT`, `kind`.
    pub name: String,
    /// Of this engine's own.
    pub kind: Option<Arc<Cluster>>,
    /// With an ingress of its own.
    pub ingress: bool,
    pub gate_image: Option<String>,
    pub tariffs: RwLock<Tariffs>,
    pub prices: RwLock<Prices>,
    pub clock: Clock,
    /// Since when this engine looks.
    pub started_ms: u64,
    /// Counters of each instance's gates, as of one.
    pub totals: Mutex<HashMap<InstanceId, total::Totals>>,
    kubeconfig: Vec<PathBuf>,
    context: String,
    key: SecretSlice<u8>,
    connected: tokio::sync::Mutex<Way>,
}

/// The way to the cluster: one that is there, and one that is being made.
#[derive(Default)]
struct Way {
    held: Option<Connected>,
    /// Whoever comes while a credential program runs waits for that one instead of starting another.
    coming: Option<(Option<SystemTime>, Coming)>,
}

/// The client of a context.
#[derive(Clone)]
struct Connected {
    client: Client,
    /// That the context names.
    namespace: String,
    /// When the kubeconfig was written.
    written: Option<SystemTime>,
}

/// A cluster.
pub struct K8sTarget {
    shared: Arc<Shared>,
    steps: BTreeMap<&'static str, Arc<dyn DynStep>>,
}

// === impl Shared ===

impl Shared {
    /// [`crate::admin::token`].
    pub fn admin_token(&self, owner: &Owner) -> SecretString {
        crate::admin::token(&self.key, owner)
    }

    /// Connected once; again when somebody has written other credentials.
    async fn connected(&self) -> Result<Connected, Failure> {
        let mut way = self.connected.lock().await;
        let written = client::written(&self.kubeconfig);
        if let Some(c) = way.held.as_ref().filter(|c| c.written == written) {
            return Ok(c.clone());
        }
        // another word than "no such file" for a cluster of our own that is not there
        if let (Some(kind), None) = (&self.kind, written) {
            kind.there().await?;
        }
        let held = way.coming.take().filter(|(of, coming)| *of == written && !coming.hung());
        let begin = || (written, Coming::new(&self.kubeconfig, &self.context));
        let came = way.coming.insert(held.unwrap_or_else(begin)).1.come().await?;
        way.coming = None;
        let (client, namespace) = came?;
        let c = Connected { client, namespace, written };
        way.held = Some(c.clone());
        Ok(c)
    }

    /// The cluster.
    pub async fn client(&self) -> Result<Client, Failure> {
        Ok(self.connected().await?.client)
    }

    /// The namespace that the context names.
    pub async fn namespace(&self) -> Result<String, Failure> {
        Ok(self.connected().await?.namespace)
    }

    /// May pods be seen in all namespaces?
    pub async fn everywhere(&self, c: &Client) -> Result<bool, Failure> {
        match Api::<Pod>::all(c.clone()).list(&ListParams::default().limit(1)).await {
            Ok(_) => Ok(true),
            Err(e) if client::code(&e) == Some(403) => Ok(false),
            Err(e) => Err(client::failed(&e)),
        }
    }

    /// Did kind write the context? Its nodes are containers of this host.
    pub fn is_kind(&self) -> bool {
        self.context.starts_with("kind-")
    }

    /// The gate's image of an instance: what it was made with.
    pub fn gate_image(&self, facts: &Value) -> String {
        facts["gate_image"]
            .as_str()
            .map(str::to_owned)
            .or_else(|| self.gate_image.clone())
            .unwrap_or_default()
    }
}

// === impl K8sTarget ===

impl K8sTarget {
    /// Connects lazily: a cluster that is down is met at preflight, with words.
    pub fn new(o: Options) -> Self {
        let shared = Arc::new(Shared {
            name: match (&o.kind, o.ingress) {
                (None, _) => format!("k8s:{}", o.context),
                (Some(_), false) => "kind".into(),
                (Some(_), true) => "kind-ingress".into(),
            },
            kind: o.kind,
            ingress: o.ingress,
            gate_image: o.gate_image,
            tariffs: RwLock::new(o.tariffs),
            prices: RwLock::new(o.prices),
            started_ms: u64::try_from(o.clock.now()).unwrap_or(0),
            clock: o.clock,
            totals: Mutex::default(),
            kubeconfig: o.kubeconfig,
            context: o.context,
            key: o.key,
            connected: tokio::sync::Mutex::default(),
        });
        let s = || Arc::clone(&shared);
        let mut all: Vec<Arc<dyn DynStep>> = vec![
            Arc::new(One::<account::Account>::new(s())),
            Arc::new(app::App(s())),
            Arc::new(One::<autoscaler::Autoscaler>::new(s())),
            Arc::new(check::Check(s())),
            Arc::new(config::Config(s())),
            Arc::new(One::<disruption::Disruption>::new(s())),
            Arc::new(drain::Drain(s())),
            Arc::new(ingress::Ingress(s())),
            Arc::new(isolation::Isolation(s())),
            Arc::new(namespace::Namespace(s())),
            Arc::new(other::Other(s())),
            Arc::new(One::<policy::Policy>::new(s())),
            Arc::new(probe::Probe(s())),
            Arc::new(pull::Pull(s())),
            Arc::new(route::Route(s())),
            Arc::new(scale::Scale(s())),
            Arc::new(secret::Secret(s())),
            Arc::new(service::Service(s())),
            Arc::new(settle::Settle(s())),
            Arc::new(switch::Switch(s())),
        ];
        if let Some(cluster) = &shared.kind {
            let in_it =
                |step| Arc::new(kind::Observed { cluster: Arc::clone(cluster), step }) as Arc<dyn DynStep>;
            all = all.into_iter().map(in_it).collect();
            all.push(Arc::new(kind::ClusterStep(Arc::clone(cluster), s())));
            all.push(Arc::new(kind::Image(Arc::clone(cluster))));
            let tls = kind::ingress::Tls(s(), cluster.authority());
            all.push(Arc::new(kind::Observed { cluster: Arc::clone(cluster), step: Arc::new(tls) }));
            all.push(Arc::new(kind::ingress::Entrance(s(), cluster.authority())));
        }
        let steps = all.into_iter().map(|s| (s.kind(), s)).collect();
        Self { shared, steps }
    }
}

impl Target for K8sTarget {
    fn name(&self) -> &str {
        &self.shared.name
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
        plan::plan(&self.shared.name, kind, owner, spec, facts, have)
    }

    fn preflight<'a>(
        &'a self,
        owner: &'a Owner,
        spec: &'a v1::InstanceSpec,
        held: Option<&'a Held<'a>>,
    ) -> BoxFuture<'a, Result<Preflight, Failure>> {
        Box::pin(async move {
            match &self.shared.kind {
                Some(cluster) => kind::preflight::check(&self.shared, cluster, owner, spec).await,
                None => preflight::check(&self.shared, owner, spec, held).await,
            }
        })
    }

    fn tariff(&self) -> Option<v1::Tariff> {
        self.shared.kind.is_some().then(|| self.shared.tariffs.read().now().to_api())
    }

    fn set_tariff(&self, new: &v1::Tariff) -> Result<(), Failure> {
        let wrong =
            || failure(Class::Terminal, "INVALID_ARGUMENT", "a tariff is made of decimal numbers", "");
        if !is_energy(new) {
            let fine = new.target != self.shared.name || self.shared.prices.write().set(new);
            return if fine { Ok(()) } else { Err(wrong()) };
        }
        let tariff = Tariff::from_api(new).ok_or_else(wrong)?;
        self.shared.tariffs.write().set(new.from_time.as_ref().map_or(0, millis), tariff);
        Ok(())
    }

    fn reprice(
        &self,
        tariff: Option<&v1::Tariff>,
        spec: &v1::InstanceSpec,
        facts: &Value,
    ) -> Option<(Decimal, Value)> {
        let (hourly, _, facts) = price::price(&self.shared, tariff, spec, facts);
        Some((hourly, facts))
    }

    fn list<'a>(
        &'a self,
        store: &'a StoreId,
        of: Option<Of<'a>>,
    ) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        Box::pin(async move {
            match &self.shared.kind {
                Some(cluster) => kind::listing::list(&self.shared, cluster, store, of).await,
                None => listing::list(&self.shared, store, of).await,
            }
        })
    }

    fn remove<'a>(&'a self, store: &'a StoreId, found: &'a Found) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            match &self.shared.kind {
                Some(cluster) => kind::listing::remove(&self.shared, cluster, store, found).await,
                None => listing::remove(&self.shared, found).await,
            }
        })
    }

    fn push_gate<'a>(&'a self, cx: &'a StepCx) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(config::push(&self.shared, cx))
    }

    fn stats<'a>(&'a self, cx: &'a StepCx) -> BoxFuture<'a, Result<Stats, Failure>> {
        Box::pin(observe::stats(&self.shared, cx))
    }

    fn logs<'a>(&'a self, cx: &'a StepCx, q: LogQuery) -> BoxFuture<'a, Result<LogLines, Failure>> {
        Box::pin(logs::logs(&self.shared, cx, q))
    }

    fn check(&self) -> BoxFuture<'_, Result<String, Failure>> {
        Box::pin(async move {
            if let Some(cluster) = &self.shared.kind {
                return cluster.about().await;
            }
            let v = self.shared.client().await?.apiserver_version().await.map_err(|e| client::failed(&e))?;
            Ok(format!("Kubernetes {} ({})", v.git_version, self.shared.context))
        })
    }

    fn examine<'a>(&'a self, spec: &'a v1::InstanceSpec) -> BoxFuture<'a, Examined> {
        Box::pin(async move {
            match &self.shared.kind {
                Some(cluster) => kind::examine::examine(&self.shared, cluster, spec).await,
                None => examine::examine(&self.shared, spec).await,
            }
        })
    }

    fn changes<'a>(&'a self, store: &'a StoreId) -> BoxFuture<'a, Result<News, Failure>> {
        Box::pin(async move {
            match &self.shared.kind {
                Some(cluster) => kind::listing::changes(&self.shared, cluster, store).await,
                None => changes::changes(&self.shared, store).await,
            }
        })
    }
}
