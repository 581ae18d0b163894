//! `syp-gate`: the data-plane door (`serve`), the owner of a replica's network namespace (`hold`), and what pods need besides.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use syp_auth::door::Protocol;
use syp_gate::beside::App;
use syp_gate::hold::{self, Egress};
use syp_gate::serve::{Gate, Given, Options};
use syp_gate::{leave, reach};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(name = "syp-gate", version, about = "The door in front of a served instance")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Admit requests with a valid token of a listed user and pass them on to the app
    Serve(Box<Serve>),
    /// Own the network namespace of one replica: close it to everybody but the gate
    Hold(Hold),
    /// Close this network namespace to everybody but callers of the gate that will be in it, and end
    Seal(Seal),
    /// Tell the gate beside to leave: it goes on admitting requests and asks its clients to go elsewhere
    Leave(Leave),
    /// Look whether a TCP connection can be opened from here, and print what was found
    Reach(Reach),
    /// Print the version
    Version,
}

#[derive(Args)]
struct Serve {
    /// Where clients come in
    #[arg(long, env = "SYP_GATE_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Where the engine pushes configuration and reads status and metrics
    #[arg(long, env = "SYP_GATE_ADMIN", default_value = "0.0.0.0:9901")]
    admin: SocketAddr,
    /// File with the admin port's token; the variable SYP_GATE_ADMIN_TOKEN holds it where no files are mounted
    #[arg(long, env = "SYP_GATE_ADMIN_TOKEN_FILE", default_value = "/etc/syp/admin.token")]
    admin_token_file: PathBuf,
    /// Configuration to begin with, if the file is there; the variable SYP_GATE_CONFIG_JSON holds it where no files are mounted
    #[arg(long, env = "SYP_GATE_CONFIG", default_value = "/etc/syp/gate.json")]
    config: PathBuf,
    /// File in which a configuration that was pushed is kept for the next start; the higher generation of both counts then
    #[arg(long, env = "SYP_GATE_KEEP", value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Let the engine come in by the traffic port too, under /_syp/admin, with requests that it signs
    #[arg(long, env = "SYP_GATE_REMOTE")]
    remote: bool,
    #[command(flatten)]
    app: AppFlags,
    /// Certificate chain (PEM) for TLS
    #[arg(long, env = "SYP_GATE_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM) for TLS
    #[arg(long, env = "SYP_GATE_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Extra certificate authorities (PEM) for fetching issuers' keys
    #[arg(long, env = "SYP_GATE_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Threads for traffic; 0: one for each core
    #[arg(long, env = "SYP_GATE_WORKERS", default_value_t = 0)]
    workers: usize,
    /// Connections at the same time
    #[arg(long, env = "SYP_GATE_MAX_CONNECTIONS", default_value_t = 20_000)]
    max_connections: usize,
    /// Seconds that requests under way have when the process is told to end
    #[arg(long, env = "SYP_GATE_STOP_SECONDS", default_value_t = 30)]
    stop_seconds: u64,
    /// Do not log requests
    #[arg(long, env = "SYP_GATE_NO_ACCESS_LOG")]
    no_access_log: bool,
}

/// The app beside this gate in the same network namespace (a Kubernetes pod).
#[derive(Args)]
struct AppFlags {
    /// Where the app beside this gate listens; it replaces the upstreams of every configuration
    #[arg(long, env = "SYP_GATE_APP", value_name = "ADDR:PORT")]
    app: Option<SocketAddr>,
    /// What it speaks; else as configured
    #[arg(long, env = "SYP_GATE_APP_PROTOCOL", requires = "app", value_parser = protocol())]
    app_protocol: Option<Protocol>,
    /// GET this path and expect a status below 400 before it gets requests; else as configured
    #[arg(long, env = "SYP_GATE_APP_PROBE", requires = "app", value_name = "/PATH")]
    app_probe: Option<String>,
    /// Time between two probes when it is ready; else as configured
    #[arg(long, env = "SYP_GATE_APP_PROBE_PERIOD_MS", requires = "app", value_name = "N")]
    app_probe_period_ms: Option<u64>,
    /// How long one probe may take; else as configured
    #[arg(long, env = "SYP_GATE_APP_PROBE_TIMEOUT_MS", requires = "app", value_name = "N")]
    app_probe_timeout_ms: Option<u64>,
    /// Where the agent of the task's host answers, which knows what the app uses (Amazon ECS tells its containers)
    #[arg(long, env = "ECS_CONTAINER_METADATA_URI_V4", value_name = "URI")]
    agent: Option<String>,
}

fn protocol() -> impl TypedValueParser<Value = Protocol> {
    PossibleValuesParser::new(["auto", "http1", "h2c"]).map(|name| match name.as_str() {
        "http1" => Protocol::Http1,
        "h2c" => Protocol::H2c,
        _ => Protocol::Auto,
    })
}

impl AppFlags {
    fn app(self) -> Option<App> {
        Some(App {
            address: self.app?,
            protocol: self.app_protocol,
            probe_path: self.app_probe,
            probe_period_ms: self.app_probe_period_ms,
            probe_timeout_ms: self.app_probe_timeout_ms,
        })
    }
}

/// For an init container with NET_ADMIN, in a pod in which the gate stands beside the app.
#[derive(Args)]
struct Seal {
    /// A port of the gate's, which stays open; may be given several times
    #[arg(long, env = "SYP_SEAL_PORT", required = true, value_delimiter = ',', value_name = "GATEPORT")]
    port: Vec<u16>,
    /// The app's port, which needs a rule of its own from 49152 on, among those of outgoing connections
    #[arg(long, env = "SYP_SEAL_APP_PORT", value_name = "PORT")]
    app_port: Option<u16>,
    /// Whether the app may open connections to elsewhere; 'none' goes for the gate too (no name server, no issuer)
    #[arg(long, env = "SYP_SEAL_EGRESS", value_enum, default_value_t = Egress::On)]
    egress: Egress,
}

/// For a hook that runs before a container is stopped, in an image that holds nothing else.
#[derive(Args)]
struct Leave {
    /// The gate's admin port
    #[arg(long, env = "SYP_GATE_ADMIN", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// File with the admin port's token
    #[arg(long, env = "SYP_GATE_ADMIN_TOKEN_FILE", default_value = "/etc/syp/admin.token")]
    admin_token_file: PathBuf,
    /// Time to wait when the gate has been told, for load balancers to hear of it
    #[arg(long, value_name = "N", default_value_t = 0)]
    wait_ms: u64,
}

#[derive(Args)]
struct Reach {
    /// Where to
    #[arg(value_name = "ADDR:PORT")]
    to: SocketAddr,
    /// How often is tried until there is a connection
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tries: u32,
    /// How long one try may take
    #[arg(long, value_name = "N", default_value_t = 1000)]
    timeout_ms: u64,
    /// File that gets the answer too (/dev/termination-log)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Args)]
struct Hold {
    /// The gate's address: the only one that may come in
    #[arg(long, env = "SYP_HOLD_GATE")]
    gate: IpAddr,
    /// The app's port
    #[arg(long, env = "SYP_HOLD_PORT")]
    port: u16,
    /// Whether the app may open connections to elsewhere
    #[arg(long, env = "SYP_HOLD_EGRESS", value_enum, default_value_t = Egress::On)]
    egress: Egress,
    /// Hold the namespace without sealing it: neighbours reach the app past the gate
    #[arg(long, env = "SYP_HOLD_OPEN")]
    open: bool,
    /// Port on which the gate asks for the holder's status
    #[arg(long, env = "SYP_HOLD_STATUS", default_value_t = 49_150)]
    status: u16,
}

fn main() -> ExitCode {
    syp_auth::install_crypto();
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve(*args),
        Command::Hold(args) => hold::run(hold::Options {
            gate: args.gate,
            port: args.port,
            egress: args.egress,
            open: args.open,
            status: args.status,
        })
        .map_err(|e| e.to_string()),
        Command::Seal(args) => run(hold::beside::seal(&args.port, args.app_port, args.egress)),
        Command::Leave(args) => {
            let wait = Duration::from_millis(args.wait_ms);
            run(leave::run(args.admin, &args.admin_token_file, wait))
        }
        Command::Reach(args) => {
            let timeout = Duration::from_millis(args.timeout_ms);
            run(reach::run(args.to, args.tries, timeout, args.out.as_deref()))
        }
        Command::Version => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("{}", serde_json::json!({ "event": "error", "message": message }));
            ExitCode::FAILURE
        }
    }
}

/// Runs one command to its end.
fn run<E: std::fmt::Display>(work: impl Future<Output = Result<(), E>>) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(work).map_err(|e| e.to_string())
}

/// A variable, which goes before the file. No flag: secrets are not for the list of processes.
fn given(name: &'static str, file: PathBuf) -> Given {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Given::Value(name, value),
        _ => Given::File(file),
    }
}

fn serve(args: Serve) -> Result<(), String> {
    let options = Options {
        listen: args.listen,
        admin: args.admin,
        admin_token: given("SYP_GATE_ADMIN_TOKEN", args.admin_token_file),
        config: given("SYP_GATE_CONFIG_JSON", args.config),
        remote: args.remote,
        keep: args.keep,
        agent: args.app.agent.clone(),
        app: args.app.app(),
        tls: args.tls_cert.zip(args.tls_key),
        ca_file: args.ca_file,
        workers: args.workers,
        max_connections: args.max_connections,
        stop_deadline: Duration::from_secs(args.stop_seconds),
        access_log: !args.no_access_log,
        keys: syp_auth::jwks::Options::default(),
        outlives: syp_gate::open::OUTLIVES,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let words = |e: std::io::Error| e.to_string();
        // handlers first: as process 1 in a container a signal without one is ignored
        let (mut term, mut int) = (
            signal(SignalKind::terminate()).map_err(words)?,
            signal(SignalKind::interrupt()).map_err(words)?,
        );
        let gate = Gate::start(options).map_err(|e| e.to_string())?;
        println!(
            "{}",
            serde_json::json!({ "event": "listening", "traffic": gate.traffic, "admin": gate.admin })
        );
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        gate.stop().await;
        Ok(())
    })
}
