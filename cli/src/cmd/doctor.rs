//! `sypctl doctor`: what could be wrong on this machine. Looks only; starts and changes nothing.
use super::{Ctx, server};
use crate::{
    client::{Client, Start, VERSION, versions_differ},
    exit,
    failure::{Done, Failure},
    local,
    output::Format,
    paths, render,
};
use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    next: &'static str,
}

fn check(what: &'static str, verdict: Verdict, found: impl Into<String>, next: &'static str) -> Check {
    Check { what, verdict, found: found.into(), next: if verdict == Verdict::Ok { "" } else { next } }
}

/// Runs it.
///
/// # Errors
/// 1 when something would not work.
pub async fn run(ctx: &Ctx<'_>) -> Done {
    let dir = paths::data_dir(ctx.global.data_dir.as_deref())?;
    let mut all = vec![docker(), gate(), directory(&dir), disk(&dir), socket(&dir), clock(&dir), ports()];
    all.push(engine(ctx, &dir).await);
    let word = |v: Verdict| match v {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    };
    match ctx.out.format {
        Format::Json | Format::Yaml => {
            let rows: Vec<_> = all.iter().map(|c| serde_json::json!({"check": c.what, "verdict": word(c.verdict), "found": c.found, "next": c.next})).collect();
            ctx.out.value(&serde_json::json!({"checks": rows}))?;
        }
        Format::Name => ctx.out.data(all.iter().map(|c| c.what).collect::<Vec<_>>().join("\n")),
        Format::Table => {
            let rows = all.iter().map(|c| {
                let next = if c.next.is_empty() { String::new() } else { format!(" -> {}", c.next) };
                [word(c.verdict).to_owned(), c.what.to_owned(), format!("{}{next}", c.found)]
            });
            ctx.out.data(render::table(&[], rows, ctx.out.colours));
        }
    }
    if all.iter().all(|c| c.verdict != Verdict::Fail) {
        return Ok(exit::OK);
    }
    Err(Failure::new(exit::FAILED, "", "not everything is in order", "do what the lines with 'fail' say"))
}

/// A ping over the Docker engine's socket.
fn docker() -> Check {
    const NEXT: &str = "install or start Docker, or set DOCKER_HOST; your user must be allowed to use its socket (group docker)";
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let path = match host.strip_prefix("unix://") {
        Some(p) => PathBuf::from(p),
        None if host.is_empty() => PathBuf::from("/var/run/docker.sock"),
        None => {
            return check(
                "docker",
                Verdict::Warn,
                format!("DOCKER_HOST={host}: not looked at"),
                "only unix:// is tried here",
            );
        }
    };
    let ping = || -> std::io::Result<String> {
        let mut s = UnixStream::connect(&path)?;
        s.set_read_timeout(Some(Duration::from_secs(5)))?;
        s.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        let mut answer = String::new();
        s.take(4096).read_to_string(&mut answer)?;
        Ok(answer)
    };
    match ping() {
        Ok(a) if a.lines().next().is_some_and(|l| l.contains(" 200")) => {
            let api = a.lines().find_map(|l| l.strip_prefix("Api-Version:")).unwrap_or(" unknown");
            check("docker", Verdict::Ok, format!("answers on {}, API{api}", path.display()), NEXT)
        }
        Ok(a) => check(
            "docker",
            Verdict::Fail,
            format!("{}: {}", path.display(), a.lines().next().unwrap_or("no answer")),
            NEXT,
        ),
        Err(e) => check("docker", Verdict::Fail, format!("{}: {e}", path.display()), NEXT),
    }
}

fn gate() -> Check {
    let beside = std::env::current_exe().ok().and_then(|e| e.parent().map(|p| p.join("syp-gate")));
    let path = std::env::var_os("SYP_GATE").map(PathBuf::from).or(beside).unwrap_or_default();
    let runs = fs::metadata(&path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let verdict = if runs { Verdict::Ok } else { Verdict::Fail };
    let found = if runs { path.display().to_string() } else { format!("{} is not there", path.display()) };
    check("gate", verdict, found, "the binary syp-gate must lie beside sypctl: ./quickstart builds both")
}

fn directory(dir: &Path) -> Check {
    if !dir.exists() {
        return check("data", Verdict::Ok, format!("{} will be made", dir.display()), "");
    }
    let probe = dir.join(format!(".doctor-{}", std::process::id()));
    if let Err(e) = fs::write(&probe, b"") {
        return check(
            "data",
            Verdict::Fail,
            format!("{}: {e}", dir.display()),
            "make it writable for you, or choose another with --data-dir",
        );
    }
    let _ = fs::remove_file(&probe);
    let mode = fs::metadata(dir).map_or(0, |m| m.permissions().mode() & 0o777);
    let open = mode & 0o077 != 0;
    check(
        "data",
        if open { Verdict::Warn } else { Verdict::Ok },
        format!("{}, mode {mode:03o}", dir.display()),
        "others can look into it: chmod 700",
    )
}

fn existing(dir: &Path) -> &Path {
    dir.ancestors().find(|d| d.exists()).unwrap_or(dir)
}

fn disk(dir: &Path) -> Check {
    const NEXT: &str = "free some space: the store needs it, and images more";
    match nix::sys::statvfs::statvfs(existing(dir)) {
        Ok(s) => {
            // the types differ from platform to platform
            #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
            let free = (s.blocks_available() as u64).saturating_mul(s.fragment_size() as u64);
            let verdict = match free >> 20 {
                0..100 => Verdict::Fail,
                100..1024 => Verdict::Warn,
                _ => Verdict::Ok,
            };
            check(
                "disk",
                verdict,
                format!("{} free", render::bytes(i64::try_from(free).unwrap_or(i64::MAX))),
                NEXT,
            )
        }
        Err(e) => check("disk", Verdict::Warn, e.to_string(), NEXT),
    }
}

fn socket(dir: &Path) -> Check {
    let s = paths::socket_path(dir);
    let near = s.starts_with(dir);
    let found = if near {
        s.display().to_string()
    } else {
        format!("{} (the data directory's path is too long for a socket)", s.display())
    };
    check(
        "socket",
        if s.as_os_str().len() <= 107 { Verdict::Ok } else { Verdict::Fail },
        found,
        "choose a shorter --data-dir",
    )
}

/// A clock that is behind the data it wrote, or behind this program, refuses good tokens and takes old ones.
fn clock(dir: &Path) -> Check {
    const NEXT: &str = "set the clock (NTP): tokens are good only for their time";
    let now = render::now_ms() / 1000;
    let newest =
        ["engine.log", "token"].iter().filter_map(|f| fs::metadata(dir.join(f)).ok()?.modified().ok()).max();
    let newest = newest
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0));
    // 2025-01-01
    let found = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    if now < 1_735_689_600 {
        return check("clock", Verdict::Fail, format!("{found}: that is long ago"), NEXT);
    }
    let behind = newest - now;
    if behind > 60 {
        return check(
            "clock",
            Verdict::Fail,
            format!("{found}: {behind} s behind files that were written here"),
            NEXT,
        );
    }
    check("clock", Verdict::Ok, found, NEXT)
}

/// Gates are published on loopback; any free port will do.
fn ports() -> Check {
    match std::net::TcpListener::bind(("127.0.0.1", 0)) {
        Ok(_) => check("ports", Verdict::Ok, "127.0.0.1 has free ports", ""),
        Err(e) => check(
            "ports",
            Verdict::Fail,
            format!("127.0.0.1: {e}"),
            "gates are published there: free some ports",
        ),
    }
}

async fn engine(ctx: &Ctx<'_>, dir: &Path) -> Check {
    const NEXT: &str = "look into engine.log in the data directory";
    let here = ctx.global.server.is_none();
    if here && local::connect(&paths::socket_path(dir)).await.is_err() {
        if let Some(pid) = local::holder(dir) {
            return check(
                "engine",
                Verdict::Warn,
                format!("pid {pid} is starting or stopping: it takes no calls"),
                NEXT,
            );
        }
        return check("engine", Verdict::Ok, "does not run; it is started when it is needed", "");
    }
    let ask = async { server::info(&Client::open(ctx.global, Start::Never).await?).await };
    match tokio::time::timeout(Duration::from_secs(10), ask).await {
        Err(_) => check("engine", Verdict::Fail, "no answer within 10 s", NEXT),
        Ok(Err(f)) => check("engine", Verdict::Fail, f.message().to_owned(), NEXT),
        Ok(Ok(i)) => {
            let found = format!(
                "version {}, pid {}, {} instances, targets {}",
                i.version,
                i.pid,
                i.instances,
                i.targets.join(", ")
            );
            let verdict = if versions_differ(VERSION, &i.version, here).is_some() {
                Verdict::Warn
            } else {
                Verdict::Ok
            };
            check(
                "engine",
                verdict,
                found,
                "sypctl and the engine are of different versions: 'sypctl server stop', then any command",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_data_directory_is_a_warning() {
        let d = tempfile::tempdir().unwrap();
        let p = d.path().join("x");
        assert_eq!(directory(&p).verdict, Verdict::Ok);
        fs::create_dir(&p).unwrap();
        fs::set_permissions(&p, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(directory(&p).verdict, Verdict::Warn);
        fs::set_permissions(&p, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(directory(&p).verdict, Verdict::Ok);
        assert_eq!(clock(&p).verdict, Verdict::Ok);
    }
}
