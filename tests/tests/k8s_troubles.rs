//! A pod that does not begin says why, while it is waited for, with what to do: long before a cluster's own patience ends.
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{Engine, binary, pause, sh},
};

/// Far less than the ten minutes in which a cluster gives up a roll-out by itself.
const SOON: Duration = Duration::from_secs(150);
const PLACE: &str = "syp-test-full";

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

/// What it is, who is asked, for which image, with what else, and which words are wanted.
type Row<'a> = (&'a str, &'a Engine, &'a str, &'a [&'a str], &'a [&'a str]);

struct Place<'a>(&'a Cluster);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let _ = self.0.kubectl(&["delete", "namespace", PLACE, "--ignore-not-found", "--wait=false"]);
    }
}

#[test]
fn what_can_not_begin_ends_an_up_with_its_reason_and_leaves_nothing() -> Result<()> {
    let (Some(sypctl), Some(c)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    // with rights in one namespace alone nobody can look at its level: the roll-out meets it
    let place = Place(&c);
    c.kubectl(&["create", "namespace", PLACE])?;
    c.kubectl(&["label", "namespace", PLACE, "pod-security.kubernetes.io/enforce=baseline"])?;
    let config = c.confined(PLACE)?;
    let given = Engine::new(&sypctl)?.with("KUBECONFIG", &config.path().display().to_string());
    let (good, nobody) = (c.engine(&sypctl)?, "127.0.0.1:9/nobody:1");
    let no_gate = c.engine(&sypctl)?.with("SYP_GATE_IMAGE", nobody);
    let table: [Row<'_>; 4] = [
        (
            "an app that ends",
            &good,
            "syp-test/crash:latest",
            &[],
            &["CRASH_LOOP", "fatal: no database configured"],
        ),
        ("an image of nobody", &good, nobody, &[], &["IMAGE_NOT_FOUND", "check its name and tag"]),
        ("a gate of nobody", &no_gate, "syp-test/hello:latest", &[], &["GATE_IMAGE", "SYP_GATE_IMAGE"]),
        (
            "what a level forbids",
            &given,
            "syp-test/hello:latest",
            &["--namespace", PLACE],
            &["POD_SECURITY", "NET_ADMIN"],
        ),
    ];
    for (what, e, image, more, words) in table {
        let up = [
            "up",
            "shop",
            "--image",
            image,
            "--port",
            "8080",
            "--on",
            "k8s",
            "--isolation",
            "rules",
            "--yes",
        ];
        let begun = Instant::now();
        let said = e.run(&[&up[..], more].concat())?;
        let took = begun.elapsed();
        ensure!(
            said.code != 0 && words.iter().all(|w| said.err.contains(w)),
            "{what}: {words:?} in {said:?}"
        );
        ensure!(took < SOON, "{what}: known after {took:?}");
        println!("{what}: told after {} s", took.as_secs());
        ensure!(c.left(&e.store_id()?)?.is_empty(), "{what}: {:?}", c.left(&e.store_id()?)?);
    }
    drop(place);
    Ok(())
}
