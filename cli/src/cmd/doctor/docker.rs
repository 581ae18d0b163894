//! The Docker engine: is it there, is it one that we can work with, has it room.
use super::{Check, Verdict, check, machine, ok};
use syp_steps::docker::{About, DEFAULT_POOL, about, pool_conflict};

/// Docker 20.10, and Podman's Docker API.
const OLDEST_API: (u32, u32) = (1, 41);

pub(super) async fn checks() -> Vec<Check> {
    let mut all = vec![pool()];
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    if !host.is_empty() && !host.starts_with("unix://") {
        all.push(check(
            "docker",
            Verdict::Fail,
            format!("DOCKER_HOST={host} is another machine, or not a socket of this one"),
            "the gate is reached over this host's own network: use a Docker engine of this host (unset DOCKER_HOST, or unix://PATH)",
        ));
        return all;
    }
    match about(&host).await {
        Ok(a) => all.extend(engine(&a)),
        Err(f) => all.push(check(
            "docker",
            Verdict::Fail,
            if host.is_empty() { f.message } else { format!("{host}: {}", f.message) },
            "install or start Docker, or set DOCKER_HOST; your user must be allowed to use its socket (group docker)",
        )),
    }
    all
}

/// What it tells about itself.
fn engine(a: &About) -> Vec<Check> {
    let mut all = vec![ok("docker", format!("answers, API {}", a.api))];
    let mut number = a.api.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
    if (number.next().unwrap_or(0), number.next().unwrap_or(0)) < OLDEST_API {
        all.push(check(
            "docker version",
            Verdict::Fail,
            format!("its API is {}: too old", a.api),
            "upgrade the Docker engine to 20.10 or newer",
        ));
    }
    all.push(if a.containers.is_empty() || a.containers.starts_with("linux") {
        ok("docker containers", a.containers.as_str())
    } else {
        let next = "switch the Docker engine to Linux containers";
        check("docker containers", Verdict::Fail, format!("it runs {} containers", a.containers), next)
    });
    if a.rootless {
        all.push(check(
            "docker networks",
            Verdict::Fail,
            "it is a rootless engine: this host has no route to its containers",
            "use the engine of the system, or run sypctl inside its network namespace",
        ));
    }
    if let Some(root) = &a.root {
        all.push(machine::room(
            "docker disk",
            root,
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
        let wrong = |a: About| {
            let all = engine(&a).into_iter().filter(|c| c.verdict != Verdict::Ok);
            all.map(|c| (c.what, c.verdict)).collect::<Vec<_>>()
        };
        let good = About { api: "1.45".into(), containers: "linux x86_64".into(), ..Default::default() };
        assert_eq!(wrong(good.clone()), []);
        assert_eq!(wrong(About { api: "1.40".into(), ..good.clone() }), [("docker version", Verdict::Fail)]);
        let windows = About { containers: "windows".into(), ..good.clone() };
        assert_eq!(wrong(windows), [("docker containers", Verdict::Fail)]);
        assert_eq!(wrong(About { rootless: true, ..good.clone() }), [("docker networks", Verdict::Fail)]);
        // no file system has less room than the kernel's own
        assert_eq!(wrong(About { root: Some("/proc".into()), ..good }), [("docker disk", Verdict::Fail)]);
    }
}
