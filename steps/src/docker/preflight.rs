//! Everything that can be refused before anything is made.
use super::{
    Shared,
    client::{code, failed},
    image::not_found,
    port, tls,
};
use crate::registry;
use bollard::{Docker, auth::DockerCredentials, models::ImageInspect};
use docker_credential::DockerCredential;
use serde_json::{Value, json};
use syp_engine::{
    api::validate,
    failure::{Class, failure},
    scaling,
    step::{Held, Preflight},
};
use syp_proto::{journal::Failure, v1};

/// Looks at the engine, the image and the port.
pub(super) async fn check(
    s: &Shared,
    spec: &v1::InstanceSpec,
    held: Option<&Held<'_>>,
) -> Result<Preflight, Failure> {
    let mut spec = spec.clone();
    if scaling::is_elastic(&spec) {
        let what = format!("Docker has nobody who would choose between {} replicas", scaling::words(&spec));
        let next = "say one number with --replicas; clusters scale by themselves";
        return Err(failure(Class::Terminal, "NOT_SUPPORTED", what, next));
    }
    match held {
        Some(held) => room(&spec, held)?,
        None => tls::files(spec.publish.as_ref()).await.map(drop)?,
    }
    super::files::check(&spec)?;
    let host = s.docker.version().await.map_err(|e| failed(&e))?;
    if spec.resources.is_some() {
        // it takes the daemon a while: asked only when there is something to compare
        let info = s.docker.info().await.map_err(|e| failed(&e))?;
        within(&spec, info.ncpu.unwrap_or(0), info.mem_total.unwrap_or(0))?;
    }
    s.gate_image.ensure(&s.docker).await?;
    let mut facts = image(&s.docker, &spec.image, host.arch.as_deref().unwrap_or_default()).await?;
    if spec.port == 0 {
        spec.port = only_port(&facts)?;
    }
    facts["port"] = match held {
        // the one that was asked for (0: the gate chooses) is kept for the life of the instance
        Some(held) => held.facts["port"].clone(),
        None => json!(port::asked(&spec)?),
    };
    let (hourly, lines, facts) = s.tariffs.read().now().price(&spec, &facts);
    Ok(Preflight { facts, spec, hourly, lines })
}

/// What this engine says about an image, or its registry where it is not here (then it has `pull`).
pub(crate) async fn image(d: &Docker, name: &str, host: &str) -> Result<Value, Failure> {
    match d.inspect_image(name).await {
        Ok(i) => local_image(name, &i, host),
        Err(e) if code(&e) == Some(404) => remote_image(d, name, host).await,
        Err(e) => Err(failed(&e)),
    }
}

/// The network of an instance is made once: more replicas than it has addresses for can't come later.
fn room(spec: &v1::InstanceSpec, held: &Held<'_>) -> Result<(), Failure> {
    let wanted = super::routes::wanted(spec);
    let Some(room) = super::plan::room(&held.have).filter(|room| *room < wanted) else { return Ok(()) };
    Err(failure(
        Class::Terminal,
        "NETWORK_FULL",
        format!("{wanted} replicas are wanted, and the network of this instance has addresses for {room}"),
        format!("scale to at most {room}, or make another instance that begins with {wanted}"),
    ))
}

/// A replica can't have more than its host. A host that does not say what it has is not asked.
pub(crate) fn within(spec: &v1::InstanceSpec, cores: i64, memory: i64) -> Result<(), Failure> {
    let r = spec.resources.clone().unwrap_or_default();
    let (cores, memory) = (u64::try_from(cores).unwrap_or(0), u64::try_from(memory).unwrap_or(0));
    let exceeds = |what: String, flag: &str| {
        let next = format!("ask for less with {flag}, or leave it away: then there is no limit");
        Err(failure(Class::Terminal, "RESOURCES_EXCEED_HOST", what, next))
    };
    let cpu = validate::cpu_millis(&r.cpu).filter(|_| !r.cpu.is_empty() && cores > 0);
    if cpu.is_some_and(|m| m > cores.saturating_mul(1000)) {
        return exceeds(format!("a replica asks for {} cores, the Docker host has {cores}", r.cpu), "--cpu");
    }
    let bytes = validate::memory_bytes(&r.memory).filter(|_| !r.memory.is_empty() && memory > 0);
    if bytes.is_some_and(|b| b > memory) {
        let has = memory >> 20;
        return exceeds(
            format!("a replica asks for {} of memory, the Docker host has {has}Mi", r.memory),
            "--memory",
        );
    }
    Ok(())
}

fn local_image(name: &str, i: &ImageInspect, host: &str) -> Result<Value, Failure> {
    let arch = i.architecture.clone().unwrap_or_default();
    fits(name, &arch, host)?;
    let config = i.config.clone().unwrap_or_default();
    let id = i.id.clone().unwrap_or_default();
    let digest =
        i.repo_digests.as_ref().and_then(|d| d.first()).and_then(|d| d.split('@').nth(1)).map(str::to_owned);
    let mut volumes = config.volumes.unwrap_or_default();
    volumes.sort();
    Ok(json!({
        "image": id,
        "digest": digest.unwrap_or_else(|| id.clone()),
        "arch": arch,
        "exposed": config.exposed_ports.unwrap_or_default(),
        "volumes": volumes,
        "user": config.user.unwrap_or_default(),
    }))
}

async fn remote_image(d: &Docker, name: &str, host: &str) -> Result<Value, Failure> {
    let found = d.inspect_registry_image(name, credentials(name).await).await.map_err(|e| {
        let f = failed(&e);
        // a registry that can't be reached has no such image for us
        if f.reason == "PROVIDER_ERROR" {
            failure(
                Class::Terminal,
                "IMAGE_NOT_FOUND",
                format!("there is no image '{name}' here, and its registry does not answer: {}", f.message),
                "check its name; 'docker images' shows what is here, 'docker pull' tries by hand",
            )
        } else {
            not_found(f, name)
        }
    })?;
    let arches: Vec<String> = found.platforms.iter().filter_map(|p| p.architecture.clone()).collect();
    if !arches.is_empty() && !arches.iter().any(|a| a == host) {
        return Err(wrong_arch(name, &arches.join(", "), host));
    }
    let digest = found.descriptor.digest.unwrap_or_default();
    let pinned = format!("{}@{digest}", registry::repository(name));
    Ok(json!({ "image": pinned, "pull": pinned, "digest": digest, "exposed": [], "volumes": [] }))
}

fn fits(name: &str, arch: &str, host: &str) -> Result<(), Failure> {
    if arch.is_empty() || host.is_empty() || arch == host {
        Ok(())
    } else {
        Err(wrong_arch(name, arch, host))
    }
}

fn wrong_arch(name: &str, arch: &str, host: &str) -> Failure {
    failure(
        Class::Terminal,
        "IMAGE_ARCH_MISMATCH",
        format!("'{name}' is built for {arch}, this host is {host}"),
        format!("build or pull it for linux/{host}: 'docker build --platform linux/{host}'"),
    )
}

/// The port that the image says it listens on, when it names just one.
pub(crate) fn only_port(facts: &Value) -> Result<i32, Failure> {
    let ports: Vec<i32> = facts["exposed"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|p| !p.ends_with("/udp"))
        .filter_map(|p| p.split('/').next()?.parse().ok())
        .collect();
    match ports[..] {
        [one] => Ok(one),
        [] => Err(failure(
            Class::Terminal,
            "PORT_UNKNOWN",
            "the image does not say on which port it listens",
            "add --port N",
        )),
        _ => Err(failure(
            Class::Terminal,
            "PORT_UNKNOWN",
            format!("the image names several ports: {ports:?}"),
            "choose one with --port N",
        )),
    }
}

/// What `docker login` left for the registry of an image, as the daemon takes it.
pub(super) async fn credentials(image: &str) -> Option<DockerCredentials> {
    let serveraddress = Some(registry::server(image).to_owned());
    Some(match registry::credentials(image).await? {
        DockerCredential::UsernamePassword(user, password) => DockerCredentials {
            username: Some(user),
            password: Some(password),
            serveraddress,
            ..Default::default()
        },
        DockerCredential::IdentityToken(token) => {
            DockerCredentials { identitytoken: Some(token), serveraddress, ..Default::default() }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_host_has_is_refused_with_both_figures() {
        let ask = |cpu: &str, memory: &str| {
            let resources = v1::Resources { cpu: cpu.into(), memory: memory.into(), ..Default::default() };
            let spec = v1::InstanceSpec { resources: Some(resources), ..Default::default() };
            within(&spec, 2, 4 << 30)
        };
        assert!(ask("2", "4Gi").is_ok() && ask("", "").is_ok());
        let f = ask("2001m", "").unwrap_err();
        assert_eq!(f.reason, "RESOURCES_EXCEED_HOST");
        assert!(f.message.contains("2001m") && f.message.ends_with("has 2"), "{}", f.message);
        let f = ask("", "1000000Gi").unwrap_err();
        assert!(f.message.contains("1000000Gi") && f.message.ends_with("has 4096Mi"), "{}", f.message);
        let unknown = v1::Resources { cpu: "99".into(), ..Default::default() };
        let spec = v1::InstanceSpec { resources: Some(unknown), ..Default::default() };
        assert!(within(&spec, 0, 0).is_ok(), "a host that does not say");
    }

    #[test]
    fn the_only_port_of_an_image_is_used_and_a_choice_is_asked_for() {
        assert_eq!(only_port(&json!({"exposed": ["8080/tcp"]})).unwrap(), 8080);
        assert_eq!(only_port(&json!({"exposed": ["8080/tcp", "53/udp"]})).unwrap(), 8080);
        assert_eq!(only_port(&json!({"exposed": []})).unwrap_err().reason, "PORT_UNKNOWN");
        assert_eq!(only_port(&json!({"exposed": ["1/tcp", "2/tcp"]})).unwrap_err().reason, "PORT_UNKNOWN");
    }
}
