//! `kill -9` of the real engine at every point of every step on a real Kubernetes, in both directions: one life for each point of the
//! write protocol, in which every step's turn ends an engine, and the next one goes on. On kind-ingress, whose plan has every step.
use anyhow::{Context, Result, ensure};
use syp_tests::{
    conformance::Kind,
    crash::{self, Points, rests},
    product::{Engine, binary, get},
    trust,
};

const NAME: &str = "phoenix";
const ALICE: &str = "user:alice@example.com";
/// What `up` walks.
const UP: [&str; 19] = [
    "scale",
    "cluster",
    "namespace",
    "account",
    "config",
    "policy",
    "service",
    "tls",
    "ingress",
    "image-1",
    "secret-1",
    "app-1",
    "probe",
    "isolation",
    "switch",
    "check",
    "entrance",
    "disruption",
    "pull",
];
/// What an update walks (and whatever of `up` comes again).
const UPDATE: [&str; 18] = [
    "cluster",
    "namespace",
    "account",
    "config",
    "policy",
    "disruption",
    "image-2",
    "secret-2",
    "app-2",
    "probe",
    "isolation",
    "switch",
    "settle",
    "undo app-1",
    "undo secret-1",
    "undo image-1",
    "scale",
    "pull",
];
/// What `down` walks.
const DOWN: [&str; 15] = [
    "drain",
    "undo ingress",
    "undo tls",
    "undo service",
    "undo app-2",
    "undo secret-2",
    "undo image-2",
    "undo policy",
    "undo config",
    "undo account",
    "undo disruption",
    "undo pull",
    "undo namespace",
    "undo cluster",
    "list",
];
fn life(point: &str) -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let points = Points::none()?;
    let secret = tempfile::NamedTempFile::new()?;
    std::fs::write(secret.path(), "a value")?;
    let at = points.at(point);
    // a login that nothing needs, so that its Secret has its turn too
    let docker = tempfile::tempdir()?;
    let login = serde_json::json!({ "auths": { "https://index.docker.io/v1/": { "auth": "YWxpY2U6cHc=" } } });
    std::fs::write(docker.path().join("config.json"), login.to_string())?;
    let e = Engine::new(&sypctl)?
        .with("SYP_CRASH_AT", &at)
        .with("DOCKER_CONFIG", &docker.path().display().to_string());
    let mut missed = Vec::new();

    points.are(&UP)?;
    let value = format!("VALUE=@{}", secret.path().display());
    let mut up =
        vec!["up", "phoenix", "--image", "syp-test/hello:latest", "--port", "8080", "--on", "kind-ingress"];
    up.extend(["--isolation", "rules", "--allow", ALICE, "--secret", &value, "--pull-login"]);
    up.extend(["--no-wait", "--yes"]);
    crash::ask(&e, NAME, &up, |_| true)?;
    crash::until(&e, NAME, "up", |i| rests(i, "SERVING"))?;
    missed.extend(points.left()?.into_iter().map(|p| format!("up {p}")));
    trust::add(e.json(&["show", "phoenix"])?["endpointCa"].as_str().context("its authority")?)?;
    serves(&e)?;

    points.are(&UPDATE)?;
    crash::ask(&e, NAME, &["set", "phoenix", "--env", "A=1", "--no-wait", "--yes"], |i| {
        i["spec"]["env"]["A"] == "1"
    })?;
    crash::until(&e, NAME, "set", |i| rests(i, "SERVING") && i["activeRevision"] == "phoenix-2")?;
    crash::ask(&e, NAME, &["scale", "phoenix", "--replicas", "2", "--no-wait", "--yes"], |i| {
        i["spec"]["scaling"]["min"] == 2
    })?;
    crash::until(&e, NAME, "scale", |i| rests(i, "SERVING") && i["replicasReady"] == 2)?;
    missed.extend(points.left()?.into_iter().map(|p| format!("update {p}")));
    serves(&e)?;

    // a listing is no effect: it is only begun
    points.are(&DOWN.iter().copied().filter(|p| *p != "list" || point == "CP3").collect::<Vec<_>>())?;
    crash::ask(&e, NAME, &["down", "phoenix", "--no-wait", "--yes"], |i| i["state"] != "SERVING")?;
    crash::until(&e, NAME, "down", |i| rests(i, "DESTROYED"))?;
    missed.extend(points.left()?.into_iter().map(|p| format!("down {p}")));
    e.ok(&["receipt", "phoenix", "--verify"])?;
    let nodes = Kind::nodes(&e.store_id()?)?;
    ensure!(nodes.is_empty(), "left behind: {nodes:?}");
    ensure!(e.ok(&["fsck"])?.contains("0 problems"), "fsck");
    walks(&e)?;
    ensure!(missed.is_empty(), "engines never died at {missed:?}");
    Ok(())
}

fn serves(e: &Engine) -> Result<()> {
    let (url, token) = (e.endpoint("phoenix")?, e.token("phoenix", Some(ALICE))?);
    ensure!(get(&url, None, &[])?.0 == 401, "no token is 401");
    ensure!(get(&url, Some(&token), &[])?.0 == 200, "alice is 200");
    Ok(())
}

/// The lists name every step there is.
fn walks(e: &Engine) -> Result<()> {
    let known: Vec<&str> = UP.iter().chain(&UPDATE).chain(&DOWN).copied().collect();
    for op in e.json(&["op", "ls", "phoenix"])?["operations"].as_array().context("operations")? {
        for step in op["metadata"]["steps"].as_array().context("steps")? {
            let id = step["id"].as_str().unwrap_or_default().replace("retire-", "undo ");
            ensure!(known.contains(&id.as_str()), "the step '{id}' has no crash case: add it here");
        }
    }
    Ok(())
}

fn lives(point: &str) -> Result<()> {
    if Kind::from_env(true).is_none() {
        return Ok(());
    }
    life(point).with_context(|| point.to_owned())
}

#[test]
fn killed_when_each_steps_intent_is_on_disk() -> Result<()> {
    lives("CP3")
}

#[test]
fn killed_when_the_cluster_has_done_each_step() -> Result<()> {
    lives("CP4")
}

#[test]
fn killed_when_each_steps_answer_was_seen() -> Result<()> {
    lives("CP5")
}
