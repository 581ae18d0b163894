//! `kill -9` of the real engine at the steps that only a cluster has that is somebody else's: the way in by a Gateway, and a range of
//! replicas (all others are in `crash_kind.rs`), and between the steps.
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::os::unix::process::ExitStatusExt;
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

/// Between the steps: a decision, a record on its way to the disk, an answer on its way to who asked, the listing at the end.
const BETWEEN: [&str; 7] = ["CP1::3", "CP1::9", "CP2::8", "CP2::14", "CP7::2", "CP7::9", "CP10:list"];

/// A life whose first engine dies at one point; the next command starts another.
fn dies_at(cluster: &Cluster, point: &str) -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = cluster.engine(&sypctl)?;
    let mut first = e.serve(&[("SYP_CRASH_AT", point)])?;
    let up = ["up", NAME, "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s"];
    let up = [&up[..], &["--isolation", "rules", "--allow", "user:alice@example.com", "--no-wait", "--yes"]];
    crash::ask(&e, NAME, &up.concat(), |_| true)?;
    crash::until(&e, NAME, "up", |i| rests(i, "SERVING"))?;
    crash::ask(&e, NAME, &["down", NAME, "--no-wait", "--yes"], |i| i["state"] != "SERVING")?;
    crash::until(&e, NAME, "down", |i| rests(i, "DESTROYED"))?;
    let ended = first.try_wait()?;
    if ended.is_none() {
        e.ok(&["server", "stop"])?;
        first.wait()?;
    }
    ensure!(ended.is_some_and(|s| s.signal() == Some(9)), "it was never reached: {ended:?}");
    e.ok(&["receipt", NAME, "--verify"])?;
    let left = cluster.left(&e.store_id()?)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(e.ok(&["fsck"])?.contains("0 problems"), "fsck");
    Ok(())
}

#[test]
fn killed_between_the_steps() -> Result<()> {
    let Some(cluster) = Cluster::from_env()? else { return Ok(()) };
    let one = |point: &str| dies_at(&cluster, point).with_context(|| point.to_owned());
    std::thread::scope(|s| {
        // two at once: the node is shared with other suites
        let halves: Vec<_> = BETWEEN
            .chunks(BETWEEN.len().div_ceil(2))
            .map(|half| s.spawn(move || half.iter().try_for_each(|point| one(point))))
            .collect();
        halves.into_iter().try_for_each(|h| h.join().map_err(|_| anyhow::anyhow!("a thread ended"))?)
    })
}

#[test]
fn killed_in_its_recovery() -> Result<()> {
    let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let e = cluster.engine(&sypctl)?;
    let mut first = e.serve(&[("SYP_CRASH_AT", "CP4:app-1")])?;
    let up = ["up", NAME, "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s"];
    e.run(&[&up[..], &["--isolation", "rules", "--no-wait", "--yes"]].concat())?;
    first.wait()?;
    // where its answer had waited for the engine that died, the command has started another
    e.run(&["server", "stop"])?;
    let mut second = e.start(&[("SYP_CRASH_AT", "CP9:")])?;
    ensure!(second.wait()?.signal() == Some(9), "it did not die in its recovery");
    crash::until(&e, NAME, "up", |i| rests(i, "SERVING"))?;
    e.down(NAME)?;
    let left = cluster.left(&e.store_id()?)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
