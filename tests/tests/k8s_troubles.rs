//! A pod that does not begin says why, while it is waited for: from the events of a cluster whose network can't be made.
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{binary, pause, sh},
};

/// What makes the network of every pod of a kind node.
const PLUGIN: &str = "/opt/cni/bin/bridge";

struct Broken(String);

impl Broken {
    fn new(node: &str) -> Result<Self> {
        sh("docker", &["exec", node, "mv", PLUGIN, &format!("{PLUGIN}.away")])?;
        Ok(Self(node.to_owned()))
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let _ = sh("docker", &["exec", &self.0, "mv", &format!("{PLUGIN}.away"), PLUGIN]);
    }
}

#[test]
fn a_pod_that_has_no_network_says_so_and_serves_when_it_has_one() -> Result<()> {
    let (Some(sypctl), Some(c)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let node = c.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let e = c.engine(&sypctl)?;
    let broken = Broken::new(node.trim())?;
    let up = ["up", "shop", "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s"];
    e.ok(&[&up[..], &["--isolation", "rules", "--yes", "--no-wait"]].concat())?;
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let said = e.ok(&["show", "shop"])?;
        if said.contains("FailedCreatePodSandBox") && said.contains("bridge") {
            break;
        }
        ensure!(Instant::now() < end, "no word of it: {said}");
        pause(500);
    }
    drop(broken);
    e.ok(&["wait", "shop", "--for", "state=serving", "--timeout", "120s"])?;
    e.down("shop")?;
    ensure!(c.left(&e.store_id()?)?.is_empty(), "{:?}", c.left(&e.store_id()?)?);
    Ok(())
}
