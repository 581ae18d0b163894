//! The API as its clients have it: the real server on loopback, over the fake cloud in real time.
use crate::{disk::Disk, oidc::free_port};
use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};
use syp_auth::{
    fetch::Fetcher,
    jwks,
    local::{LocalIssuer, MintRequest},
    verify::Verifier,
};
use syp_engine::{
    api::{
        About, Api, Listen,
        identity::{self, API_AUDIENCE, Identities},
    },
    clock::Clock,
    door::Door,
    engine::{Engine, Options},
    fault::{Faults, Point},
    series::Sampler,
    store::{Store, open},
    vault::Vault,
};
use syp_proto::{
    journal::Instance,
    v1::{self, instances_client::InstancesClient},
};
use syp_steps::fake::{Behaviour, FakeCloud};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

/// A server with its cloud.
pub struct World {
    /// What it makes things in.
    pub cloud: FakeCloud,
    /// Its store outlives a server.
    pub disk: Disk,
    dir: tempfile::TempDir,
    address: SocketAddr,
    /// Where it is scraped.
    pub metrics: SocketAddr,
    faults: Arc<StandStill>,
    running: Option<Running>,
    /// By how much the engine's clock was set.
    pub clock: Arc<AtomicI64>,
}

/// A point at which whoever comes there goes no further: for a server that is killed then.
#[derive(Debug, Default)]
struct StandStill(Mutex<Option<(Point, String, usize)>>, tokio::sync::Notify);

#[async_trait::async_trait]
impl Faults for StandStill {
    async fn at(&self, point: Point, what: &str) {
        let hit = self.0.lock().as_mut().is_some_and(|(p, w, left)| {
            let here = (*p, w.as_str()) == (point, what);
            *left = left.saturating_sub(usize::from(here));
            here && *left == 0
        });
        if hit {
            self.1.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

struct Running {
    engine: Engine,
    api: Api,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    sampler: Sampler,
}

/// Puts a token into each call; without one there is none.
#[derive(Clone)]
pub struct Bearer(Option<AsciiMetadataValue>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// What a client is made of.
pub type Conn = InterceptedService<Channel, Bearer>;

// === impl World ===

impl World {
    /// A server with an instance of this name that serves.
    ///
    /// # Errors
    /// It does not come to serve.
    pub async fn serving(name: &str) -> Result<Self> {
        let w = Self::new().await?;
        let mut i = InstancesClient::new(w.connect(Some("admin@example.com")).await?);
        i.create_instance(create(name)).await?;
        w.settled(name, v1::instance::State::Serving).await?;
        Ok(w)
    }

    /// Starts a server over an empty store.
    ///
    /// # Errors
    /// It does not start.
    pub async fn new() -> Result<Self> {
        Self::of(Duration::from_millis(5)).await
    }

    /// As [`World::new`], over a cloud that takes so long for each answer.
    ///
    /// # Errors
    /// It does not start.
    pub async fn of(latency: Duration) -> Result<Self> {
        syp_auth::install_crypto();
        let behaviour = Behaviour { latency, landing: Duration::ZERO, lag: Duration::ZERO };
        let free = || free_port().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let (address, metrics) = (free()?, free()?);
        let (cloud, disk, dir) = (FakeCloud::new(behaviour), Disk::default(), tempfile::tempdir()?);
        let mut w = Self {
            cloud,
            disk,
            dir,
            address,
            metrics,
            faults: Arc::default(),
            clock: Arc::default(),
            running: None,
        };
        w.start().await?;
        Ok(w)
    }

    /// Starts a server over what an earlier one left.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(&mut self) -> Result<()> {
        let store: Arc<dyn Store> = open(Arc::new(self.disk.taken_over()?))?;
        let local = self.issuer(&*store)?;
        let issuers =
            jwks::Issuers::new(jwks::Options::default(), Fetcher::new(Duration::from_secs(1), None)?);
        issuers.apply(&[local.config()])?;
        let door = Arc::new(Door::new(None));
        door.set_issuers(local.config(), vec![]);
        let identities = Arc::new(Identities::new(identity::Options {
            verifier: Verifier::of(&issuers, vec![API_AUDIENCE.into()]),
            issuers: vec![local.issuer().to_owned()],
            app_audience: None,
            local: Some(local),
            policy: None,
            own_uid: 0,
            admins: vec!["user:admin@example.com".into()],
        }));
        let engine = Engine::start(Options {
            store,
            targets: vec![Arc::new(self.cloud.clone())],
            resolve: None,
            clock: Clock::Set(Arc::clone(&self.clock)),
            faults: Arc::<StandStill>::clone(&self.faults),
            door,
            vault: Vault::new(&vec![7; 32].into()),
        })
        .await?;
        // not by the clock: tests say when
        let sampler = Sampler::new(&engine);
        let shutdown = CancellationToken::new();
        let api = Api {
            engine: engine.clone(),
            identities,
            currency: "EUR".into(),
            shutdown: shutdown.clone(),
            about: Arc::new(About::default()),
        };
        let listen = Listen { tcp: Some(self.address), metrics: Some(self.metrics), ..Default::default() };
        let own = api.clone();
        let task = tokio::spawn(async move {
            if let Err(e) = syp_engine::api::serve(own, listen).await {
                println!("the server ended: {e}");
            }
        });
        self.running = Some(Running { engine, api, shutdown, task, sampler });
        Ok(())
    }

    /// The process is gone at once, as by `kill -9`.
    pub async fn kill(&mut self) {
        if let Some(r) = self.running.take() {
            r.engine.kill();
            r.task.abort();
            r.shutdown.cancel();
            // the port is free when the task is really over
            let _ = r.task.await;
            self.disk.crash();
        }
    }

    /// From now on nobody comes past this point for the `nth` time.
    pub fn stand_still_at(&self, point: Point, what: &str, nth: usize) {
        *self.faults.0.lock() = Some((point, what.to_owned(), nth));
    }

    /// Somebody stands at that point; the next server knows nothing of it.
    pub async fn stands_still(&self) {
        self.faults.1.notified().await;
        *self.faults.0.lock() = None;
    }

    /// Stops it as its operator does.
    ///
    /// # Errors
    /// It does not end within `limit`.
    pub async fn stop(&mut self, limit: Duration) -> Result<()> {
        let r = self.running.take().context("the server does not run")?;
        r.shutdown.cancel();
        let ended = tokio::time::timeout(limit, r.task).await;
        r.engine.kill();
        ended.context("the server does not end")??;
        Ok(())
    }

    /// Looks at all instances once; with `flush` what was seen is on disk then.
    ///
    /// # Errors
    /// Nothing runs.
    pub async fn look(&mut self, flush: bool) -> Result<()> {
        let r = self.running.as_mut().context("the server does not run")?;
        r.sampler.look().await;
        if flush {
            r.sampler.flush(|_| true).await;
        }
        Ok(())
    }

    fn issuer(&self, store: &dyn Store) -> Result<LocalIssuer> {
        Ok(LocalIssuer::open(self.dir.path().join("key"), store.store_id().as_str())?)
    }

    /// As [`settled`], in this server.
    ///
    /// # Errors
    /// It does not come to it, or nothing runs.
    pub async fn settled(&self, name: &str, state: v1::instance::State) -> Result<()> {
        settled(&self.api()?.engine, name, state).await
    }

    /// What the server serves.
    ///
    /// # Errors
    /// Nothing runs.
    pub fn api(&self) -> Result<Api> {
        Ok(self.running.as_ref().context("the server does not run")?.api.clone())
    }

    /// A connection as somebody, by address; `None`: without a token.
    ///
    /// # Errors
    /// No token, or nobody listens.
    pub async fn connect(&self, email: Option<&str>) -> Result<Conn> {
        self.connect_for(email, Duration::ZERO).await
    }

    /// As [`World::connect`], with a token that lives so long; zero: as long as usual.
    ///
    /// # Errors
    /// No token, or nobody listens.
    pub async fn connect_for(&self, email: Option<&str>, ttl: Duration) -> Result<Conn> {
        let token = email.map(|email| self.token(email, API_AUDIENCE, ttl)).transpose()?;
        self.connect_with(token.as_deref()).await
    }

    /// A token as somebody, by address, for an audience.
    ///
    /// # Errors
    /// The issuer gives none.
    pub fn token(&self, email: &str, audience: &str, ttl: Duration) -> Result<String> {
        let r = self.running.as_ref().context("the server does not run")?;
        let token = self.issuer(&**r.engine.store())?.mint(&MintRequest {
            subject: email.into(),
            email: Some(email.into()),
            groups: vec![],
            audience: audience.into(),
            ttl,
            claims: serde_json::Map::new(),
        })?;
        Ok(secrecy::ExposeSecret::expose_secret(&token).to_owned())
    }

    /// A connection with this token.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect_with(&self, token: Option<&str>) -> Result<Conn> {
        let token = token.map(|t| format!("Bearer {t}").parse()).transpose()?;
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?;
        let end = Instant::now() + Duration::from_secs(60);
        let channel = loop {
            match endpoint.connect().await {
                Ok(c) => break c,
                Err(e) => ensure!(Instant::now() < end, "nobody listens: {e}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Ok(InterceptedService::new(channel, Bearer(token)))
    }
}

/// Waits until an instance of the project `default` is in a state, nothing is under way, and its gate has what was asked for: that
/// is written after the state.
///
/// # Errors
/// It does not come to it within a minute.
pub async fn settled(engine: &Engine, name: &str, state: v1::instance::State) -> Result<()> {
    let rests = |i: &Instance| {
        let pushed = i.gate_pushed >= i.gate_generation || state != v1::instance::State::Serving;
        i.state() == state && i.run.is_none() && pushed
    };
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match engine.by_name("default", name).map(|cell| cell.get()) {
            Some(i) if rests(&i) => return Ok(()),
            // its name is free again
            None if state == v1::instance::State::Destroyed => return Ok(()),
            last => {
                ensure!(Instant::now() < end, "{name} does not settle as {}: {last:?}", state.as_str_name())
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A request for an instance of the fake cloud.
pub fn create(name: &str) -> v1::CreateInstanceRequest {
    v1::CreateInstanceRequest {
        parent: "projects/default".into(),
        instance_id: name.into(),
        instance: Some(v1::Instance {
            spec: Some(v1::InstanceSpec {
                target: "fake".into(),
                image: "x".into(),
                port: 80,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Code and reason of a refusal.
pub fn refusal<T>(r: Result<T, Status>) -> (Code, String) {
    match r {
        Ok(_) => (Code::Ok, String::new()),
        Err(s) => {
            (s.code(), s.get_error_details().error_info().map(|i| i.reason.clone()).unwrap_or_default())
        }
    }
}
