//! Pods that stay while what their gate enforces changes, and pods that go without anybody noticing: one replica fewer, and one that
//! the cluster evicts, each under callers who never stop.
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use syp_tests::{
    conformance::{Bed, Cluster},
    load::Load,
    product::{Engine, binary, get, pause},
};

const ALICE: &str = "user:alice@example.com";
const BOB: &str = "user:bob@example.com";
const LIMIT: Duration = Duration::from_secs(180);

struct World {
    // before the cluster: what ends an engine needs its kubeconfig
    engine: Engine,
    cluster: Cluster,
    namespace: String,
    label: String,
}

// === impl World ===

impl World {
    fn serving(sypctl: &std::path::Path, cluster: Cluster, replicas: &str) -> Result<Self> {
        let engine = cluster.engine(sypctl)?;
        let up = ["up", "shop", "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s", "--yes"];
        let more = ["--isolation", "rules", "--allow", ALICE, "--replicas", replicas];
        engine.ok(&[&up[..], &more].concat())?;
        let uid = engine.json(&["show", "shop"])?["uid"].as_str().context("uid")?.to_owned();
        // the pod that tries the app's port is not one of them
        let label = format!("syp.dev/instance={uid},syp.dev/step!=isolation");
        let form = "jsonpath={.items[0].metadata.namespace}";
        let namespace = cluster.kubectl(&["get", "pods", "-A", "-l", &label, "-o", form])?.trim().to_owned();
        Ok(Self { engine, cluster, namespace, label })
    }

    /// Of each pod its name, its uid, and how often something in it began anew.
    fn pods(&self) -> Result<BTreeSet<String>> {
        let form = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} \
            {.status.containerStatuses[*].restartCount} {.status.initContainerStatuses[*].restartCount}{\"\\n\"}{end}";
        let all =
            self.cluster.kubectl(&["get", "pods", "-n", &self.namespace, "-l", &self.label, "-o", form])?;
        Ok(all.lines().map(str::to_owned).collect())
    }

    fn until(&self, what: &str, fine: impl Fn(&BTreeSet<String>) -> bool) -> Result<BTreeSet<String>> {
        let end = Instant::now() + LIMIT;
        loop {
            let pods = self.pods()?;
            if fine(&pods) {
                return Ok(pods);
            }
            ensure!(Instant::now() < end, "{what}: {pods:?}");
            pause(200);
        }
    }

    fn ends(&self) -> Result<()> {
        self.engine.down("shop")?;
        let left = self.cluster.left(&self.engine.store_id()?)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    }
}

#[test]
fn a_change_of_who_gets_in_reaches_the_gate_that_runs() -> Result<()> {
    let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let w = World::serving(&sypctl, cluster, "1")?;
    let (url, bob) = (w.engine.endpoint("shop")?, w.engine.token("shop", Some(BOB))?);
    let before = w.pods()?;
    ensure!(before.len() == 1, "{before:?}");
    for (verb, code) in [("allow", 200), ("deny", 403)] {
        let begun = Instant::now();
        w.engine.ok(&["access", verb, "shop", BOB])?;
        while get(&url, Some(&bob), &[])?.0 != code {
            ensure!(begun.elapsed() < LIMIT, "'access {verb}' has no effect");
            pause(20);
        }
        // five seconds are promised; what a busy machine takes is no measure of it
        println!("'access {verb}' was in force after {} ms", begun.elapsed().as_millis());
    }
    ensure!(w.pods()? == before, "no pod was made or restarted for it: {before:?}, {:?}", w.pods()?);
    w.ends()
}

#[test]
fn pods_that_go_lose_no_request() -> Result<()> {
    let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let w = World::serving(&sypctl, cluster, "2")?;
    let two = w.pods()?;
    ensure!(two.len() == 2, "{two:?}");
    let alice = w.engine.token("shop", Some(ALICE))?;
    let load = Load::start(&w.engine.endpoint("shop")?, "/", &alice, 2)?;
    // evicted, as by 'kubectl drain': its budget lets one go
    let gone = two.iter().next().and_then(|p| p.split(' ').next()).context("a pod")?.to_owned();
    let file = tempfile::NamedTempFile::new()?;
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": gone, "namespace": w.namespace },
    });
    std::fs::write(file.path(), eviction.to_string())?;
    let at = format!("/api/v1/namespaces/{}/pods/{gone}/eviction", w.namespace);
    w.cluster.kubectl(&["create", "--raw", &at, "-f", &file.path().display().to_string()])?;
    w.until("another takes its place", |now| now.len() == 2 && !now.iter().any(|p| p.starts_with(&gone)))?;
    w.engine.ok(&["wait", "shop", "--for", "state=serving", "--timeout", "120s"])?;
    let end = Instant::now() + LIMIT;
    while w.engine.json(&["metrics", "shop"])?["replicasReady"] != 2 {
        ensure!(Instant::now() < end, "the other is not ready: {:?}", w.pods()?);
        pause(500);
    }
    // and one fewer, until it is really gone: it serves on while it leaves
    w.engine.ok(&["scale", "shop", "--replicas", "1", "--yes"])?;
    w.until("one is left", |now| now.len() == 1)?;
    // whoever was still sent there is answered, or lost, by then
    pause(1_000);
    let seen = load.end()?;
    println!("{} requests", seen.sent);
    seen.nothing_lost()?;
    w.ends()
}
