//! The engine, wired: store, identities, targets, API. The only place that knows all of them.
mod certificate;
mod crash;
mod flags;
pub mod log;

pub use flags::Flags;

use crate::{
    clusters::Clusters,
    paths::{only_ours, private_dir, socket_path, write_private},
    targets::Named,
};
use anyhow::{Context, bail};
use secrecy::SecretSlice;
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use syp_auth::{fetch::Fetcher, jwks, jwks::IssuerConfig, local::LocalIssuer, verify::Verifier};
use syp_engine::{
    api::{
        About, Api, Listen,
        identity::{self, API_AUDIENCE, CONTROL_POLICY, Identities},
    },
    clock::Clock,
    door::Door,
    engine::{Engine, Options},
    price_list,
    store::{self, SledKv},
    targets::Resolve,
    tariffs,
    vault::Vault,
};
use syp_proto::v1;
use syp_steps::{
    docker, kind,
    power::Host,
    prices::local::{Tariff, Tariffs},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What `sypctl server run` was asked for.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where everything lies.
    pub data_dir: PathBuf,
    /// What it was told.
    pub flags: Flags,
    /// End when nothing is left to do.
    pub idle_exit: bool,
}

/// What is under way when the engine is told to stop gets this long to reach its next record.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// An issuer that does not answer is asked again by itself.
const ISSUER_TIMEOUT: Duration = Duration::from_secs(2);
/// An engine that has just ended, or was killed, lets go of its files within this.
const ENDING: Duration = Duration::from_secs(2);
const ENDING_LOOK: Duration = Duration::from_millis(20);
/// How often an engine that may end looks whether there is still something to do.
const IDLE_LOOK: Duration = Duration::from_secs(60);

/// Runs the engine until it is told to stop.
///
/// # Errors
/// When it can't start: the store is busy or damaged, an address or file can't be used.
pub async fn run(o: ServerOptions) -> anyhow::Result<()> {
    // whatever is written from here on is ours alone, the store's files too
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    log::to_stderr();
    syp_auth::install_crypto();
    private_dir(&o.data_dir).with_context(|| format!("{} can't be made", o.data_dir.display()))?;
    if crate::backup::unfinished(&o.data_dir) {
        bail!(
            "a restore of {} was interrupted: run 'sypctl server restore' once more (reason: RESTORE_UNFINISHED)",
            o.data_dir.display()
        );
    }
    let place = o.data_dir.join("store");
    let store = open_store(&place).await?;
    // a folder of an earlier version, or one that somebody made by hand
    only_ours(&place).with_context(|| format!("{} can't be closed to others", place.display()))?;
    let uid = nix::unistd::getuid().as_raw();
    let local = LocalIssuer::open(o.data_dir.join("local-issuer.key"), store.store_id().as_str())?;
    let authorities = o.flags.issuer_ca.as_ref().map(fs::read).transpose().context("--issuer-ca")?;
    let issuers = jwks::Issuers::new(jwks::Options::default(), fetcher(authorities.as_deref())?);
    let external = o.flags.issuer.iter().map(|i| external_issuer(i));
    let configs: Vec<IssuerConfig> = std::iter::once(local.config()).chain(external).collect();
    issuers.apply(&configs).context("an issuer can't be used")?;
    let policy = stored_policy(&*store).await?;
    if o.flags.issuer.len() > 1 && o.flags.admin.iter().any(|m| m.starts_with("sub:")) {
        bail!("--admin sub: with several issuers could mean anybody: use user:, group: or claim:");
    }
    if policy.is_some() && !o.flags.admin.is_empty() {
        tracing::warn!(
            "--admin is only for the first start: the stored control policy counts ('sypctl access show - --plane control')"
        );
    }
    let local_config = local.config();
    let identities = Arc::new(Identities::new(identity::Options {
        verifier: Verifier::of(&issuers, vec![API_AUDIENCE.into()]),
        issuers: configs.iter().map(|c| c.issuer.clone()).collect(),
        app_audience: o.flags.audience.clone(),
        local: Some(local),
        policy,
        own_uid: uid,
        admins: o.flags.admin.clone(),
    }));
    // what was set counts; the file is for the first start
    let set = tariffs::all(&*store).await.context("tariffs")?;
    let first = tariff(&o.data_dir)?;
    let tariffs = Tariffs::new(&set, first.clone());
    let currency: Arc<str> = tariffs.now().currency.as_str().into();
    let door = Arc::new(Door::new(o.flags.audience.clone()));
    // they go to the gates without keys before these are fetched: a gate keeps those it has
    let others = issuers.all().into_iter().filter(|i| !i.is_fixed()).filter_map(|i| i.for_gate()).collect();
    door.set_issuers(local_config, others);
    let own_key = key(&o.data_dir.join("engine.key"))?;
    let vault = Vault::new(&own_key);
    let clusters = Clusters::new(own_key.clone(), set, first);
    let docker_host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let own = kind::Options {
        docker_host: docker_host.clone(),
        gate_binary: gate_binary()?,
        dir: o.data_dir.join("kind"),
        store: store.store_id().clone(),
        node_image: std::env::var("SYP_KIND_NODE_IMAGE").ok().filter(|i| !i.is_empty()),
        ingress_image: std::env::var("SYP_KIND_INGRESS_IMAGE").ok().filter(|i| !i.is_empty()),
        authority: o.data_dir.join("ca"),
    };
    let docker = docker::Options {
        host: docker_host,
        gate_binary: gate_binary()?,
        key: own_key,
        pool: std::env::var("SYP_DOCKER_POOL").unwrap_or_else(|_| docker::DEFAULT_POOL.into()),
        tariffs,
        power: Host::default(),
        clock: Clock::System,
    };
    let named = Named::new(docker, own, clusters);
    for list in price_list::all(&*store).await.context("prices")? {
        named.set_prices(&list);
    }
    let targets = named.at_start().map_err(|f| anyhow::anyhow!("{} ({})", f.message, f.reason))?;
    let engine = Engine::start(Options {
        store,
        targets,
        resolve: Some(Arc::new(named)),
        clock: Clock::System,
        faults: crash::from_environment(),
        door: Arc::clone(&door),
        vault,
    })
    .await?;
    engine.watch_targets();
    engine.price_anew();
    engine.follow_issuers(&issuers);
    engine.follow_figures();
    crate::traces::follow(&engine)?;
    let shutdown = CancellationToken::new();
    let socket = socket_path(&o.data_dir);
    socket.parent().map_or(Ok(()), private_dir)?;
    let api = Api {
        engine: engine.clone(),
        identities,
        currency,
        shutdown: shutdown.clone(),
        about: Arc::new(About {
            store_path: o.data_dir.display().to_string(),
            listen: o.flags.listen.map_or_else(|| socket.display().to_string(), |l| l.to_string()),
            started_ms: Clock::System.now(),
        }),
    };
    let listen = Listen {
        socket: Some(socket.clone()),
        tcp: o.flags.listen,
        metrics: o.flags.metrics_listen,
        tls: certificate::of(&o.flags)?,
        own_uid: uid,
    };
    tracing::info!(version = syp_engine::api::VERSION, data = %o.data_dir.display(), "engine started");
    tokio::spawn(stop_signals(shutdown.clone()));
    if o.idle_exit {
        tokio::spawn(stop_when_idle(engine.clone(), shutdown.clone()));
    }
    let stopped = engine.clone();
    let on_failure = shutdown.clone();
    tokio::spawn(async move {
        stopped.stopped().await;
        on_failure.cancel();
    });
    tokio::spawn(tell_supervisor(socket.clone()));
    tokio::spawn(log::keep_small(o.data_dir.join("engine.log")));
    let served = syp_engine::api::serve(api, listen).await;
    engine.shutdown(STOP_GRACE).await;
    let _ = fs::remove_file(&socket);
    tracing::info!("engine stopped");
    served.map_err(Into::into)
}

async fn stop_signals(shutdown: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    shutdown.cancel();
}

/// systemd waits until the engine answers.
async fn tell_supervisor(socket: PathBuf) {
    while crate::local::connect(&socket).await.is_err() {
        tokio::time::sleep(ENDING_LOOK).await;
    }
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd could not be told that the engine is ready");
    }
}

async fn stop_when_idle(engine: Engine, shutdown: CancellationToken) {
    loop {
        tokio::time::sleep(IDLE_LOOK).await;
        if engine.cells().is_empty() {
            return shutdown.cancel();
        }
    }
}

async fn open_store(dir: &Path) -> anyhow::Result<Arc<dyn store::Store>> {
    let end = Instant::now() + ENDING;
    let opened = loop {
        match SledKv::open(dir) {
            Err(store::Error::Busy(_)) if Instant::now() < end => tokio::time::sleep(ENDING_LOOK).await,
            other => break other,
        }
    };
    let kv = opened.map_err(|e| match e {
        store::Error::Busy(_) => {
            anyhow::anyhow!("another engine is using {} (reason: STORE_BUSY)", dir.display())
        }
        store::Error::Corrupt(w) => {
            anyhow::anyhow!("the store can't be opened, nothing was changed: {w} (reason: STORE_CORRUPT)")
        }
        other => other.into(),
    })?;
    store::open(crash::disk(kv)).map_err(|e| match e {
        store::Error::Newer { .. } => anyhow::anyhow!(
            "{e}; nothing was changed: use the version of sypctl that wrote it, or a newer one (reason: UNSUPPORTED_VERSION)"
        ),
        other => other.into(),
    })
}

async fn stored_policy(store: &dyn store::Store) -> anyhow::Result<Option<v1::AccessPolicy>> {
    let bytes = store.setting(CONTROL_POLICY).await?;
    bytes
        .map(|b| prost::Message::decode(b.as_slice()).context("the stored control policy can't be read"))
        .transpose()
}

fn external_issuer(issuer: &str) -> IssuerConfig {
    IssuerConfig {
        issuer: issuer.to_owned(),
        jwks_uri: None,
        jwks: None,
        email_verified_default: false,
        groups_claim: "groups".into(),
    }
}

/// What asks issuers; with the authorities of a file, PEM.
fn fetcher(authorities: Option<&[u8]>) -> Result<Fetcher, syp_auth::fetch::Error> {
    Fetcher::new(ISSUER_TIMEOUT, authorities)
}

/// The engine's own key: from it each gate's admin token is derived.
fn key(path: &Path) -> anyhow::Result<SecretSlice<u8>> {
    match fs::read(path) {
        Ok(bytes) if bytes.len() == 32 => return Ok(bytes.into()),
        Ok(_) => bail!(
            "{} is damaged: restore it from a backup (gates of running instances know the old one)",
            path.display()
        ),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| path.display().to_string()),
    }
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).context("no randomness")?;
    write_private(path, &bytes)?;
    Ok(bytes.to_vec().into())
}

fn tariff(data_dir: &Path) -> anyhow::Result<Tariff> {
    let path = data_dir.join("tariff.json");
    match fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("{} is not a tariff", path.display()))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Tariff::default()),
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

/// Where the gate is: beside this binary, unless told otherwise.
///
/// # Errors
/// When nobody can say where this binary is.
pub fn gate_binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("SYP_GATE") {
        return Ok(path.into());
    }
    let me = std::env::current_exe().context("where am I?")?;
    Ok(me.with_file_name("syp-gate"))
}
