//! The Docker engine: is it there, is it one that we can work with, has it room.
use super::{Check, Verdict, check, ok};
use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};
use syp_steps::docker::{DEFAULT_POOL, pool_conflict};

const LIMIT: Duration = Duration::from_secs(5);
/// Docker 20.10, and Podman's Docker API.
const OLDEST_API: (u32, u32) = (1, 41);

pub(super) async fn checks() -> Vec<Check> {
    let mut all = vec![pool()];
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let path = match host.strip_prefix("unix://") {
        Some(p) => PathBuf::from(p),
        None if host.is_empty() => PathBuf::from("/var/run/docker.sock"),
        None => {
            all.push(check(
                "docker",
                Verdict::Fail,
                format!("DOCKER_HOST={host} is another machine, or not a socket of this one"),
                "the gate is reached over this host's own network: use a Docker engine of this host (unset DOCKER_HOST, or unix://PATH)",
            ));
            return all;
        }
    };
    all.extend(engine(&path));
    all
}

/// Answer of a GET: status line and body.
fn get(path: &Path, what: &str) -> std::io::Result<(String, String)> {
    let mut s = UnixStream::connect(path)?;
    s.set_read_timeout(Some(LIMIT))?;
    s.set_write_timeout(Some(LIMIT))?;
    write!(s, "GET {what} HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = Vec::new();
    s.take(1 << 20).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    Ok((head.to_owned(), body.to_owned()))
}

fn engine(path: &Path) -> Vec<Check> {
    const NEXT: &str = "install or start Docker, or set DOCKER_HOST; your user must be allowed to use its socket (group docker)";
    let fail = |found: String| vec![check("docker", Verdict::Fail, found, NEXT)];
    let head = match get(path, "/_ping") {
        Err(e) => return fail(format!("{}: {e}", path.display())),
        Ok((head, _)) if head.lines().next().is_some_and(|l| l.contains(" 200")) => head,
        Ok((head, _)) => {
            return fail(format!("{}: {}", path.display(), head.lines().next().unwrap_or("no answer")));
        }
    };
    let api =
        head.lines().find_map(|l| l.to_lowercase().strip_prefix("api-version:").map(|v| v.trim().to_owned()));
    let api = api.unwrap_or_default();
    let mut all = vec![ok("docker", format!("answers on {}, API {api}", path.display()))];
    let number = |v: &str| {
        let mut n = v.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
        (n.next().unwrap_or(0), n.next().unwrap_or(0))
    };
    if number(&api) < OLDEST_API {
        all.push(check(
            "docker version",
            Verdict::Fail,
            format!("its API is {api}: too old"),
            "upgrade the Docker engine to 20.10 or newer",
        ));
    }
    let info =
        get(path, "/info").ok().and_then(|(_, body)| serde_json::from_str::<serde_json::Value>(&body).ok());
    let Some(info) = info else {
        all.push(check(
            "docker info",
            Verdict::Warn,
            "it does not tell about itself",
            "look into the Docker engine's log",
        ));
        return all;
    };
    all.extend(about(&info));
    all
}

/// What it tells about itself.
fn about(info: &serde_json::Value) -> Vec<Check> {
    let text = |k: &str| info[k].as_str().unwrap_or_default();
    let mut all = Vec::new();
    let os = text("OSType");
    all.push(if os.is_empty() || os == "linux" {
        ok("docker containers", format!("{os} {}", text("Architecture")))
    } else {
        let next = "switch the Docker engine to Linux containers";
        check("docker containers", Verdict::Fail, format!("it runs {os} containers"), next)
    });
    let rootless = info["SecurityOptions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|o| o.as_str().is_some_and(|o| o.contains("rootless")));
    if rootless {
        all.push(check(
            "docker networks",
            Verdict::Fail,
            "it is a rootless engine: this host has no route to its containers",
            "use the engine of the system, or run sypctl inside its network namespace",
        ));
    }
    let root = text("DockerRootDir");
    if !root.is_empty() {
        all.push(super::machine::room(
            "docker disk",
            Path::new(root),
            "free some space: 'docker system df' shows what takes it",
        ));
    }
    all
}

/// Where the networks of instances come from.
fn pool() -> Check {
    let pool = std::env::var("SYP_DOCKER_POOL").unwrap_or_else(|_| DEFAULT_POOL.into());
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    match pool_conflict(&pool, &routes) {
        Err(()) => check(
            "address pool",
            Verdict::Fail,
            format!("SYP_DOCKER_POOL={pool} is no network"),
            "set it to a private network such as 10.213.0.0/16, or unset it",
        ),
        Ok(Some(taken)) => check(
            "address pool",
            Verdict::Warn,
            format!("all of {pool} is routed elsewhere by this host ({taken})"),
            "set SYP_DOCKER_POOL to a private network that is free here, then 'sypctl server stop'",
        ),
        Ok(None) => ok("address pool", pool),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_that_we_cannot_work_with_are_named() {
        let verdicts =
            |v: serde_json::Value| about(&v).iter().map(|c| (c.what, c.verdict)).collect::<Vec<_>>();
        let good = serde_json::json!({ "OSType": "linux", "SecurityOptions": ["name=seccomp"] });
        assert_eq!(verdicts(good), [("docker containers", Verdict::Ok)]);
        let windows = serde_json::json!({ "OSType": "windows" });
        assert_eq!(verdicts(windows), [("docker containers", Verdict::Fail)]);
        let rootless = serde_json::json!({ "OSType": "linux", "SecurityOptions": ["name=rootless"] });
        assert_eq!(verdicts(rootless)[1], ("docker networks", Verdict::Fail));
        // no file system has less room than the kernel's own
        let full = serde_json::json!({ "OSType": "linux", "DockerRootDir": "/proc" });
        assert_eq!(verdicts(full)[1], ("docker disk", Verdict::Fail));
    }
}
