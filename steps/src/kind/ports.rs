//! Which ports of this machine lead into the cluster. They are said when it is made and never change after that, so there are some to
//! spare. Pure, but for the try whether a port is free.
use super::ingress::Doors;
use bollard::models::ContainerInspectResponse;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener},
};

/// Node ports that lead to this machine: the first of Kubernetes' range.
const FIRST: u16 = 30_000;
/// Instances that have their endpoint on localhost at the same time; each costs a small process of Docker. Those beyond are reached
/// at the node's own address.
const ENDPOINTS: u16 = 24;
/// Below the ports that the kernel gives to whoever asks for any, and those of instances on Docker.
const HOST: std::ops::Range<u16> = 20_000..26_000;

/// Node ports of the ingress controller.
pub const HTTP: u16 = 30_080;
pub const HTTPS: u16 = 30_443;
/// What a browser asks for by itself, and what people try next.
const USUAL: [(u16, [u16; 2]); 2] = [(HTTP, [80, 8080]), (HTTPS, [443, 8443])];

/// Ports of the node and of this machine, in pairs.
pub type Pairs = BTreeMap<u16, u16>;

/// Node ports, all that we ask for.
fn wanted() -> impl Iterator<Item = u16> {
    FIRST..FIRST + ENDPOINTS
}

fn free(port: u16) -> bool {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => true,
        // Docker may have a port that we may not: free when nobody answers there
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err()
        }
        Err(_) => false,
    }
}

/// A free port of this machine for each; from where the name says, so that two engines don't try the same ones. `usual`: who makes
/// the cluster wants an ingress, so the ports of the web lead to it where they are free.
pub fn choose(name: &str, usual: bool) -> Pairs {
    let seed = name.bytes().fold(0_u16, |s, b| s.wrapping_mul(31).wrapping_add(u16::from(b)));
    let len = HOST.end - HOST.start;
    let mut next = (0..len).map(|n| HOST.start + (seed % len + n) % len).filter(|p| free(*p));
    let mut out: Pairs = wanted().filter_map(|node| Some((node, next.next()?))).collect();
    for (node, best) in USUAL {
        let best = best.into_iter().filter(|_| usual).find(|p| free(*p));
        out.extend(best.or_else(|| next.next()).map(|host| (node, host)));
    }
    out
}

/// The ports that a cluster had which is gone: those that have an address of it find the next one there. `None`: another has one of
/// them by now, or there was none.
pub fn again(config: &[u8]) -> Option<Pairs> {
    let said: Value = serde_json::from_slice(config).ok()?;
    let all = said["nodes"][0]["extraPortMappings"].as_array()?;
    let port = |v: &Value| v.as_u64().and_then(|p| u16::try_from(p).ok());
    let pairs: Option<Pairs> =
        all.iter().map(|m| Some((port(&m["containerPort"])?, port(&m["hostPort"])?))).collect();
    pairs.filter(|p| !p.is_empty() && p.values().all(|p| free(*p)))
}

/// What kind is told. JSON, which is YAML too.
pub fn config(name: &str, image: Option<&str>, pairs: &Pairs) -> Value {
    let mapped: Vec<Value> = pairs
        .iter()
        .map(|(node, host)| json!({ "containerPort": node, "hostPort": host, "listenAddress": "127.0.0.1" }))
        .collect();
    let mut node = json!({ "role": "control-plane", "extraPortMappings": mapped });
    if let Some(image) = image {
        node["image"] = image.into();
    }
    json!({
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": name,
        "networking": { "apiServerAddress": "127.0.0.1" },
        "nodes": [node],
    })
}

/// The ports for endpoints, and those that lead to an ingress controller, of what a node was made with. Pure.
pub fn split(all: Pairs) -> (Pairs, Option<Doors>) {
    let doors = all.get(&HTTP).zip(all.get(&HTTPS)).map(|(http, https)| Doors { http: *http, https: *https });
    (all.into_iter().filter(|(node, _)| wanted().any(|w| w == *node)).collect(), doors)
}

/// What a node was made with.
pub fn of(c: &ContainerInspectResponse) -> Pairs {
    let bound = c.host_config.as_ref().and_then(|h| h.port_bindings.clone()).unwrap_or_default();
    let one = |(node, host): (String, Option<Vec<bollard::models::PortBinding>>)| {
        let node = node.strip_suffix("/tcp")?.parse().ok()?;
        let host = host?.into_iter().find_map(|b| b.host_port?.parse().ok())?;
        Some((node, host))
    };
    bound.into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_has_a_port_of_its_own_and_the_config_names_them() {
        let pairs = choose("a-cluster-of-its-own", false);
        assert_eq!(pairs.len(), usize::from(ENDPOINTS) + 2);
        let hosts: std::collections::BTreeSet<_> = pairs.values().collect();
        assert_eq!(hosts.len(), pairs.len(), "{pairs:?}");
        let c = config("a-cluster-of-its-own", Some("node:1"), &pairs);
        assert_eq!(c["nodes"][0]["extraPortMappings"][0]["containerPort"], 30_000);
        assert_eq!(c["nodes"][0]["extraPortMappings"][0]["listenAddress"], "127.0.0.1");
        assert_eq!(c["nodes"][0]["image"], "node:1");
        assert_eq!(again(c.to_string().as_bytes()), Some(pairs.clone()), "the next one has the same");
        assert_eq!(again(b"{}"), None);
        assert!(config("a-cluster-of-its-own", None, &pairs)["nodes"][0].get("image").is_none());
    }

    #[test]
    fn a_taken_port_is_left_out() {
        let taken = *choose("syp-y", false).values().next().unwrap();
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        assert!(!choose("syp-y", false).values().any(|p| *p == taken));
        let (ports, doors) = split(choose("syp-y", true));
        assert_eq!(ports.len(), usize::from(ENDPOINTS));
        assert_ne!(doors.unwrap().http, doors.unwrap().https);
    }
}
