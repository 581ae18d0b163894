//! `sypctl server`: the engine itself.
mod backup;
mod install;
mod uninstall;

use super::Ctx;
use crate::{
    client::{Client, Start},
    exit,
    failure::{Done, Failure},
    local, paths, render,
    server::{self, Flags, ServerOptions},
};
use nix::{sys::signal::Signal, unistd::Pid};
use std::time::Duration;
use syp_proto::v1::{GetServerInfoRequest, ServerInfo, ShutdownServerRequest, server_client::ServerClient};

/// How long an engine may take to say that it will stop.
const ASK: Duration = Duration::from_secs(5);
/// How long it may take to end.
const STOP: Duration = Duration::from_secs(60);
/// The same when it is ended by force after that.
const FORCED: Duration = Duration::from_secs(5);

/// Arguments of `server run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    flags: Flags,
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
  sypctl server run --metrics-listen 127.0.0.1:9464
  sypctl server run --listen 127.0.0.1:7443 --issuer https://login.example.com --admin group:sre
  sypctl server run --listen 0.0.0.0:7443 --tls-cert cert.pem --tls-key key.pem --issuer https://login.example.com")]
    Run(Run),
    /// Is it there, what does it serve (never starts it)
    #[command(after_help = "Examples:\n  sypctl server status\n  sypctl server status -o json")]
    Status,
    /// Stop the local engine; instances go on serving
    #[command(
        after_help = "Examples:\n  sypctl server stop\n  sypctl server stop --force    (one that does not answer)"
    )]
    Stop {
        /// Kill it when it does not stop by itself; that is safe, its work goes on at the next start
        #[arg(long)]
        force: bool,
    },
    /// Make it a service of systemd, hardened, under a user of its own; again: bring it to this version and these flags
    #[command(after_help = "\
Examples:
  sudo sypctl server install
  sudo sypctl server install --listen 127.0.0.1:7443 --issuer https://login.example.com --admin group:sre
  sypctl server install --print")]
    Install(Box<install::Install>),
    /// Remove the service and all that it left on this machine
    #[command(after_help = "\
Examples:
  sudo sypctl server uninstall
  sudo sypctl server uninstall --keep-data")]
    Uninstall(uninstall::Uninstall),
    /// Copy the store and its keys to a file while the engine works on
    #[command(after_help = "\
Examples:
  sypctl server backup syp-2026-11-26.backup
  sypctl server backup - | age -r RECIPIENT > syp.backup.age")]
    Backup(backup::Backup),
    /// Bring a backup back; no engine may run meanwhile
    #[command(after_help = "\
Examples:
  sypctl server restore syp-2026-11-26.backup
  sypctl server stop && sypctl server restore --replace syp-2026-11-26.backup
  age -d -i KEY syp.backup.age | sypctl server restore -")]
    Restore(backup::Restore),
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, c: Command) -> Done {
    match c {
        Command::Run(r) => serve(ctx, r).await,
        Command::Status => status(ctx).await,
        Command::Stop { force } => stop(ctx, force).await,
        Command::Install(a) => install::install(ctx, *a).await,
        Command::Uninstall(a) => uninstall::uninstall(ctx, a).await,
        Command::Backup(a) => backup::backup(ctx, a).await,
        Command::Restore(a) => backup::restore(ctx, a).await,
    }
}

async fn serve(ctx: &Ctx<'_>, r: Run) -> Done {
    let flags = r.flags.checked()?;
    flags.check_files()?;
    let options = ServerOptions {
        data_dir: paths::data_dir(ctx.global.data_dir.as_deref())?,
        flags,
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

async fn stop(ctx: &Ctx<'_>, force: bool) -> Done {
    if ctx.global.server.as_deref().is_some_and(|s| !s.is_empty()) {
        return Err(Failure::usage(
            "'server stop' is for the local engine: leave --server and SYPCTL_SERVER away",
        ));
    }
    let dir = paths::data_dir(ctx.global.data_dir.as_deref())?;
    let socket = paths::socket_path(&dir);
    let answers = local::connect(&socket).await.is_ok();
    let Some(pid) = local::holder(&dir) else {
        if answers {
            // an engine without a lock that we can see (no /proc): it is asked, and believed
            told(ctx, ASK).await?;
            return ended(
                ctx,
                local::gone(&socket, None, ctx.global.timeout.unwrap_or(STOP)).await,
                0,
                force,
            );
        }
        ctx.out.note(local::not_running(&dir).message());
        return Ok(exit::OK);
    };
    let limit = ctx.global.timeout.unwrap_or(if force { FORCED } else { STOP });
    let asked = told(ctx, ASK.min(limit)).await;
    if let Err(f) = &asked
        && f.is_decision()
    {
        return asked.map(|()| exit::OK);
    }
    if asked.is_err() {
        // deaf, or stopping already: the signal asks for the same
        signal(pid, Signal::SIGTERM)?;
    }
    let mut gone = local::gone(&socket, Some(pid), limit).await;
    // the very process that has the store, not one that came by the same number
    if !gone && force && local::holder(&dir) == Some(pid) {
        signal(pid, Signal::SIGKILL)?;
        gone = local::gone(&socket, Some(pid), FORCED).await;
        if gone {
            ctx.out.note(format!(
                "ended the local engine (pid {pid}) by force; instances go on serving, its work goes on at the next start"
            ));
            return Ok(exit::OK);
        }
    }
    ended(ctx, gone, pid, force)
}

async fn told(ctx: &Ctx<'_>, limit: Duration) -> Result<(), Failure> {
    let client = Client::open(ctx.global, Start::Never).await?;
    let call = client.call_for(limit, ShutdownServerRequest {}, |ch, r| async move {
        ServerClient::new(ch).shutdown_server(r).await
    });
    let answer = tokio::time::timeout(limit, call).await;
    answer
        .unwrap_or_else(|_| Err(Failure::new(exit::UNAVAILABLE, "ENGINE_NOT_ANSWERING", "no answer", "")))?;
    Ok(())
}

fn ended(ctx: &Ctx<'_>, gone: bool, pid: i32, force: bool) -> Done {
    if gone {
        ctx.out.note("stopped the local engine; instances go on serving");
        return Ok(exit::OK);
    }
    let next = if force {
        format!("look what holds it: 'ps -o pid,stat,wchan,cmd -p {pid}'")
    } else {
        "look into engine.log in the data directory; 'sypctl server stop --force' ends it: instances go on serving, its work goes on at the next start".into()
    };
    let what = format!("the local engine (pid {pid}) was told to stop and still runs");
    Err(Failure::new(exit::TIMED_OUT, "ENGINE_NOT_ANSWERING", what, next))
}

fn signal(pid: i32, s: Signal) -> Result<(), Failure> {
    match nix::sys::signal::kill(Pid::from_raw(pid), s) {
        // it has just ended
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(e) => Err(Failure::new(
            exit::NOT_ALLOWED,
            "PERMISSION_DENIED",
            format!("the local engine (pid {pid}) can't be signalled: {e}"),
            "it belongs to another user: ask them, or root",
        )),
    }
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
