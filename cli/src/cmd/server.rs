//! `sypctl server`: the engine itself.
use super::Ctx;
use crate::{
    client::{Client, Start},
    exit,
    failure::{Done, Failure},
    local, parse, paths, render,
    server::{self, ServerOptions},
};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use syp_proto::v1::{GetServerInfoRequest, ServerInfo, ShutdownServerRequest, server_client::ServerClient};

/// Arguments of `server run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// TCP address beside the Unix socket; off loopback with TLS files
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Certificate chain, PEM
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// An identity provider whose tokens are taken
    #[arg(long, value_name = "URL")]
    issuer: Vec<String>,
    /// Audience that its tokens carry for the instances
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// Who may do everything: user: group: domain: sub: claim:
    #[arg(long, value_parser = parse::member, value_name = "MEMBER")]
    admin: Vec<String>,
    /// End when there is nothing to do
    #[arg(long, hide = true)]
    idle_exit: bool,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run it in the foreground
    #[command(after_help = "\
Examples:
  sypctl server run
  sypctl server run --listen 127.0.0.1:7443 --issuer https://login.example.com --admin group:sre
  sypctl server run --listen 0.0.0.0:7443 --tls-cert cert.pem --tls-key key.pem --issuer https://login.example.com")]
    Run(Run),
    /// Is it there, what does it serve (never starts it)
    #[command(after_help = "Examples:\n  sypctl server status\n  sypctl server status -o json")]
    Status,
    /// Stop the local engine; instances go on serving
    #[command(after_help = "Example:\n  sypctl server stop")]
    Stop,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, c: Command) -> Done {
    match c {
        Command::Run(r) => serve(ctx, r).await,
        Command::Status => status(ctx).await,
        Command::Stop => stop(ctx).await,
    }
}

async fn serve(ctx: &Ctx<'_>, r: Run) -> Done {
    if r.listen.is_some_and(|a| !a.ip().is_loopback()) && r.tls_cert.is_none() {
        return Err(Failure::usage("off loopback TLS is required: --tls-cert and --tls-key"));
    }
    let absolute = |p: Option<PathBuf>| p.map(std::path::absolute).transpose();
    let options = ServerOptions {
        data_dir: paths::data_dir(ctx.global.data_dir.as_deref())?,
        listen: r.listen,
        tls_cert: absolute(r.tls_cert)?,
        tls_key: absolute(r.tls_key)?,
        issuers: r.issuer,
        audience: r.audience,
        admins: r.admin,
        idle_exit: r.idle_exit,
    };
    server::run(options).await?;
    Ok(exit::OK)
}

/// What the engine tells about itself.
///
/// # Errors
/// What the engine said.
pub async fn info(c: &Client) -> Result<ServerInfo, Failure> {
    c.call(GetServerInfoRequest {}, |ch, r| async move { ServerClient::new(ch).get_server_info(r).await })
        .await
}

async fn status(ctx: &Ctx<'_>) -> Done {
    let client = Client::open(ctx.global, Start::Never).await?;
    let i = info(&client).await?;
    ctx.out.document(&i, || text(&i), || i.store_id.clone())?;
    Ok(exit::OK)
}

async fn stop(ctx: &Ctx<'_>) -> Done {
    let client = match Client::open(ctx.global, Start::Never).await {
        Ok(c) => c,
        Err(f) if f.reason() == "ENGINE_NOT_RUNNING" => {
            ctx.out.note(f.message());
            return Ok(exit::OK);
        }
        Err(f) => return Err(f),
    };
    if !client.is_local() {
        return Err(Failure::usage(
            "'server stop' is for the local engine: leave --server and SYP_SERVER away",
        ));
    }
    let pid = info(&client).await.map(|i| i.pid).unwrap_or_default();
    client
        .call(ShutdownServerRequest {}, |ch, r| async move { ServerClient::new(ch).shutdown_server(r).await })
        .await?;
    let socket = paths::socket_path(&paths::data_dir(ctx.global.data_dir.as_deref())?);
    let limit = ctx.global.timeout.unwrap_or(Duration::from_secs(60));
    if !local::gone(&socket, pid, limit).await {
        let what =
            format!("the local engine (pid {pid}) still runs after {}", humantime::format_duration(limit));
        return Err(Failure::timed_out(&what, "sypctl server status".into()));
    }
    ctx.out.note("stopped the local engine; instances go on serving");
    Ok(exit::OK)
}

fn text(i: &ServerInfo) -> String {
    render::fields([
        ("Version", i.version.clone()),
        ("Pid", i.pid.to_string()),
        ("Running since", render::time(i.start_time.as_ref())),
        ("Store", format!("{} in {}", i.store_id, i.store_path)),
        ("Listens on", i.listen.clone()),
        ("Targets", i.targets.join(", ")),
        ("Issuers", i.issuers.join("\n")),
        ("Local issuer", i.local_issuer.clone()),
        ("Instances", i.instances.to_string()),
        ("Operations", format!("{} open", i.open_operations)),
    ])
}
