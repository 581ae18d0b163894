//! The holder: owns a replica's network namespace, seals it, tells what listens inside.

pub mod beside;
pub mod listeners;
pub mod relay;
pub mod rights;
pub mod seal;
pub mod status;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use syp_auth::door::{HolderStatus, Listener};
use tokio::signal::unix::{SignalKind, signal};

use self::relay::Relay;
use self::seal::Door;

/// Whether the app may open connections to elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Egress {
    /// It may.
    On,
    /// Nothing leaves but answers to the gate.
    None,
}

/// How a holder is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The only address that may come in.
    pub gate: IpAddr,
    /// The app's port.
    pub port: u16,
    /// Whether the app may go out.
    pub egress: Egress,
    /// Not sealed, because the user accepts that neighbours reach the app.
    pub open: bool,
    /// Where status is served.
    pub status: u16,
}

/// Why the namespace is not held.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules could not be set.
    #[error(transparent)]
    Seal(#[from] seal::Error),
    /// Rights could not be given up.
    #[error("giving up rights: {0}")]
    Rights(#[from] caps::errors::CapsError),
    /// A socket, a file or a signal.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A port that the rules do not close, or that is ours.
    #[error("port {0} cannot be sealed; take another one of 1 to 65534")]
    Port(u16),
    /// Who comes to the gate would come to the app.
    #[error("port {0} is the gate's and the app's; the gate needs another one")]
    Shared(u16),
}

/// Seals the namespace, then watches it until told to end.
///
/// # Errors
/// [`Error`]: the namespace is not sealed, and the process must end.
pub fn run(options: Options) -> Result<(), Error> {
    // a rule can't name port 65535
    if [0, options.status, u16::MAX].contains(&options.port) {
        return Err(Error::Port(options.port));
    }
    let io = |what| move |source| Error::Io { what, source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("starting"))?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(io("listening for signals"))?;
        let mut int = signal(SignalKind::interrupt()).map_err(io("listening for signals"))?;
        tokio::select! {
            ended = hold(&options) => ended,
            _ = term.recv() => Ok(()),
            _ = int.recv() => Ok(()),
        }
    })
}

async fn hold(options: &Options) -> Result<(), Error> {
    let io = |what| move |source| Error::Io { what, source };
    let outside = if options.open {
        seal::outside_of(options.gate).await?
    } else {
        seal::seal(Door::From(options.gate), Some(options.port), options.egress).await?
    };
    // before anything else runs: from here on not even this process can open the namespace again
    rights::drop_all()?;
    let event = if options.open { "held" } else { "sealed" };
    println!(
        "{}",
        serde_json::json!({ "event": event, "interface": outside.name, "address": outside.address })
    );
    let sealed = !options.open;
    let status = Arc::new(Mutex::new(HolderStatus { sealed, listeners: Vec::new(), relay: false }));
    let listener = tokio::net::TcpListener::bind(SocketAddr::new(outside.address, options.status)).await;
    tokio::spawn(status::serve(listener.map_err(io("listening for the gate"))?, status.clone()));
    watch(options, outside.address, &status).await;
    Ok(())
}

/// Looks for listeners, and relays to an app that listens on loopback only.
async fn watch(options: &Options, outside: IpAddr, status: &Mutex<HolderStatus>) {
    let mut relay: Option<Relay> = None;
    loop {
        let own = relay.as_ref().map(|_| Listener { address: outside, port: options.port });
        let own_status = Listener { address: outside, port: options.status };
        let mut found = listeners::all();
        found.retain(|l| Some(*l) != own && *l != own_status);
        let app: Vec<&Listener> = found.iter().filter(|l| l.port == options.port).collect();
        let reachable = app.iter().any(|l| l.address.is_unspecified() || l.address == outside);
        let loopback =
            app.iter().find(|l| l.address.is_loopback()).map(|l| SocketAddr::new(l.address, l.port));
        match (&relay, loopback) {
            (None, Some(to)) if !reachable => {
                relay = Relay::start(SocketAddr::new(outside, options.port), to).await.ok()
            }
            // the app is reachable by itself now, or gone: its port must be free for it
            (Some(_), to) if reachable || to.is_none() => relay = None,
            _ => {}
        }
        let there = reachable || loopback.is_some();
        *status.lock() = HolderStatus { sealed: !options.open, listeners: found, relay: relay.is_some() };
        tokio::time::sleep(Duration::from_millis(if there { 1000 } else { 50 })).await;
    }
}
