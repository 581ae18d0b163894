//! `kill -9` of the real engine at the steps that only a cluster has that is somebody else's: the way in by a Gateway, and a range of
//! replicas. All others are in `crash_kind.rs`.
use anyhow::{Context, Result, ensure};
use serde_json::json;
use syp_tests::{
    conformance::{Bed, Cluster},
    crash::{self, Points, rests},
    product::binary,
};

const NAME: &str = "phoenix";
const UP: [&str; 4] = ["route", "scale", "isolation", "autoscaler-1"];
const UPDATE: [&str; 3] = ["scale", "autoscaler-2", "undo autoscaler-1"];
const DOWN: [&str; 2] = ["undo route", "undo autoscaler-2"];

struct Gateways<'a>(&'a Cluster, String);

impl Drop for Gateways<'_> {
    fn drop(&mut self) {
        let _ = self.0.kubectl(&["delete", "namespace", &self.1, "--ignore-not-found", "--wait=false"]);
    }
}

fn life(point: &str) -> Result<()> {
    let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let points = Points::none()?;
    let e = cluster.engine(&sypctl)?.with("SYP_CRASH_AT", &points.at(point));
    let at = Gateways(&cluster, format!("syp-test-{}", point.to_lowercase()));
    cluster.kubectl(&["create", "namespace", &at.1])?;
    let file = tempfile::NamedTempFile::new()?;
    let all = json!({ "namespaces": { "from": "All" } });
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": "web", "namespace": at.1 },
        "spec": { "gatewayClassName": "traefik", "listeners": [
            { "name": "http", "protocol": "HTTP", "port": 80, "allowedRoutes": all },
        ] },
    });
    std::fs::write(file.path(), gateway.to_string())?;
    cluster.kubectl(&["apply", "-f", &file.path().display().to_string()])?;

    let mut missed = Vec::new();
    points.are(&UP)?;
    let (domain, web) = (format!("{}.example.test", point.to_lowercase()), format!("{}/web", at.1));
    let mut up = vec!["up", NAME, "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s"];
    up.extend([
        "--isolation",
        "rules",
        "--allow",
        "user:alice@example.com",
        "--cpu",
        "50m",
        "--replicas",
        "1-2",
    ]);
    up.extend(["--domain", &domain, "--gateway", &web, "--no-wait", "--yes"]);
    crash::ask(&e, NAME, &up, |_| true)?;
    crash::until(&e, NAME, "up", |i| rests(i, "SERVING"))?;
    missed.extend(points.left()?.into_iter().map(|p| format!("up {p}")));

    points.are(&UPDATE)?;
    let set = ["set", NAME, "--env", "A=1", "--no-wait", "--yes"];
    crash::ask(&e, NAME, &set, |i| i["spec"]["env"]["A"] == "1")?;
    crash::until(&e, NAME, "set", |i| rests(i, "SERVING") && i["activeRevision"] == "phoenix-2")?;
    missed.extend(points.left()?.into_iter().map(|p| format!("update {p}")));

    points.are(&DOWN)?;
    crash::ask(&e, NAME, &["down", NAME, "--no-wait", "--yes"], |i| i["state"] != "SERVING")?;
    crash::until(&e, NAME, "down", |i| rests(i, "DESTROYED"))?;
    missed.extend(points.left()?.into_iter().map(|p| format!("down {p}")));
    e.ok(&["receipt", NAME, "--verify"])?;
    let left = cluster.left(&e.store_id()?)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(missed.is_empty(), "engines never died at {missed:?}");
    Ok(())
}

#[test]
fn killed_when_each_steps_intent_is_on_disk() -> Result<()> {
    life("CP3").context("CP3")
}

#[test]
fn killed_when_the_cluster_has_done_each_step() -> Result<()> {
    life("CP4").context("CP4")
}

#[test]
fn killed_when_each_steps_answer_was_seen() -> Result<()> {
    life("CP5").context("CP5")
}
