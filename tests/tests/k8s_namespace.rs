//! An engine that is given one namespace and no right anywhere else: a whole life in it, and nothing outside is asked for in vain.
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::time::{Duration, Instant};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{Engine, binary, pause},
};

const NAMESPACE: &str = "syp-test-given";
const ALICE: &str = "user:alice@example.com";

struct World {
    cluster: Cluster,
    engine: Engine,
    _config: tempfile::NamedTempFile,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ =
            self.cluster.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false"]);
    }
}

impl World {
    fn start() -> Result<Option<Self>> {
        let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(None) };
        cluster.kubectl(&["create", "namespace", NAMESPACE])?;
        let config = cluster.confined(NAMESPACE)?;
        let engine = Engine::new(&sypctl)?.with("KUBECONFIG", &config.path().display().to_string());
        Ok(Some(Self { cluster, engine, _config: config }))
    }

    fn left(&self) -> Result<Vec<String>> {
        self.cluster.left(&self.engine.store_id()?)
    }
}

#[test]
fn a_whole_life_in_the_one_namespace_that_was_given() -> Result<()> {
    let Some(w) = World::start()? else { return Ok(()) };
    let e = &w.engine;
    let up = [
        "up",
        "shop",
        "--image",
        "syp-test/hello:latest",
        "--port",
        "8080",
        "--on",
        "k8s",
        "--isolation",
        "rules",
    ];
    let up = [&up[..], &["--allow", ALICE, "--yes"]].concat();
    // a namespace of its own is beyond it, and it is told so
    let said = e.run(&up)?;
    ensure!(said.code == 6 && said.err.contains("RIGHTS_MISSING") && said.err.contains("create"), "{said:?}");
    ensure!(w.left()?.is_empty(), "nothing was made");
    let checked = e.run(&["provider", "check", "k8s", "--namespace", NAMESPACE])?;
    ensure!(checked.code == 0, "{checked:?}");

    e.ok(&[&up[..], &["--namespace", NAMESPACE]].concat())?;
    let all = w.left()?;
    ensure!(all.iter().any(|o| o.starts_with("deployment")), "{all:?}");
    ensure!(!all.iter().any(|o| o.starts_with("namespace/")), "it is not ours: {all:?}");
    ensure!(e.endpoint("shop")?.contains(&format!(".{NAMESPACE}.svc")), "{}", e.endpoint("shop")?);
    e.ok(&["set", "shop", "--env", "A=1", "--yes"])?;
    e.ok(&["scale", "shop", "--replicas", "2", "--yes"])?;
    e.ok(&["rollback", "shop", "--yes"])?;
    e.ok(&["logs", "shop"])?;
    let shown = e.json(&["metrics", "shop"])?;
    ensure!(shown.is_object() || shown.is_array(), "{shown}");
    // what is removed by hand is seen by watches in that namespace alone: a full look would take five minutes
    let uid = e.json(&["show", "shop"])?["uid"].as_str().context("uid")?.to_owned();
    let label = format!("syp.dev/instance={uid}");
    for kind in ["deployments", "services,networkpolicies", "secrets"] {
        let all = |what: &str| w.cluster.kubectl(&["get", what, "-n", NAMESPACE, "-l", &label, "-o", "name"]);
        let before = all(kind)?.lines().count();
        w.cluster.kubectl(&["delete", kind, "-n", NAMESPACE, "-l", &label])?;
        let end = Instant::now() + Duration::from_secs(90);
        while all(kind)?.lines().count() < before {
            ensure!(Instant::now() < end, "{kind} are not made again");
            pause(200);
        }
    }
    e.ok(&["wait", "shop", "--for", "state=serving", "--timeout", "60s"])?;
    e.ok(&["sweep"])?;
    e.down("shop")?;
    e.ok(&["receipt", "shop", "--verify"])?;
    ensure!(w.left()?.is_empty(), "{:?}", w.left()?);
    all_that_it_can_have(&w, &up)?;
    w.cluster.kubectl(&["get", "namespace", NAMESPACE]).context("the namespace is its owner's")?;
    Ok(())
}

/// A value that is secret, a range of replicas, limits, and a name of its own by each of two ways in.
fn all_that_it_can_have(w: &World, up: &[&str]) -> Result<()> {
    let e = &w.engine;
    let listeners = json!([{ "name": "http", "protocol": "HTTP", "port": 80 }]);
    w.cluster.apply(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": "web", "namespace": NAMESPACE },
        "spec": { "gatewayClassName": "traefik", "listeners": listeners },
    }))?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("value");
    std::fs::write(&file, "not to be seen")?;
    let secret = format!("TOKEN=@{}", file.display());
    let gateway = format!("{NAMESPACE}/web");
    let common = ["--namespace", NAMESPACE, "--secret", &secret, "--replicas", "1-2", "--target-cpu", "50"];
    let common = [&common[..], &["--cpu", "100m", "--memory", "64Mi"]].concat();
    for (what, way) in [
        ("an ingress", &["--domain", "given.test"][..]),
        ("a gateway", &["--domain", "given.test", "--gateway", &gateway]),
    ] {
        e.ok(&[up, &common, way].concat()).context(what)?;
        let all = w.left()?.join(" ");
        let kind = if way.len() == 2 { "ingress" } else { "httproute" };
        for kind in [kind, "horizontalpodautoscaler", "poddisruptionbudget", "secret"] {
            ensure!(all.contains(kind), "{what}: no {kind} in {all}");
        }
        ensure!(e.endpoint("shop")? == "http://given.test", "{what}: {}", e.endpoint("shop")?);
        e.ok(&["metrics", "shop"])?;
        let drift = e.ok(&["drift", "shop"])?;
        ensure!(drift.contains("nothing differs"), "{what}: {drift}");
        e.down("shop")?;
        ensure!(w.left()?.is_empty(), "{what}: {:?}", w.left()?);
    }
    Ok(())
}
