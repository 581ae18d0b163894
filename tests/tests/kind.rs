//! The life of the cluster that an engine makes for itself with `kind`: made once for all, whoever is killed on the way, made again
//! when somebody removes or stops it, gone with the last instance; nobody else's is touched.
use anyhow::{Context, Result, ensure};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use syp_tests::{
    conformance::Kind,
    product::{Engine, binary, get, pause, sh},
    trust,
};

const ALICE: &str = "user:alice@example.com";
const IMAGE: &str = "syp-test/hello:latest";
/// A cluster is made within this, on a machine that is busy.
const MADE: Duration = Duration::from_secs(240);

fn up<'a>(name: &'a str, on: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["up", name, "--image", IMAGE, "--port", "8080", "--on", on, "--isolation", "rules"];
    all.extend(["--allow", ALICE, "--yes"]);
    all.extend(more);
    all
}

fn until(what: &str, limit: Duration, mut seen: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    while !seen()? {
        ensure!(Instant::now() < end, "{what}: not within {} s", limit.as_secs());
        pause(200);
    }
    Ok(())
}

fn serves(e: &Engine, name: &str) -> Result<()> {
    let (url, token) = (e.endpoint(name)?, e.token(name, Some(ALICE))?);
    ensure!(get(&url, None, &[])?.0 == 401, "{name} without a token");
    ensure!(get(&url, Some(&token), &[])?.0 == 200, "{name} with one");
    Ok(())
}

/// What can't be is said before anything is made.
fn refused(sypctl: &Path) -> Result<()> {
    let e = Engine::new(sypctl)?;
    for (more, reason) in [
        (&["--namespace", "x"][..], "NOT_SUPPORTED"),
        (&["--domain", "shop.localhost"][..], "NOT_SUPPORTED"),
        (&["--image", "syp-test/no-such-image:1"][..], "IMAGE_NOT_FOUND"),
        (&["--cpu", "4096"][..], "RESOURCES_EXCEED_HOST"),
    ] {
        let mut args = up("shop", "kind", &[]);
        if more[0] == "--image" {
            args.drain(2..4);
        }
        args.extend(more);
        let said = e.run(&args)?;
        ensure!(said.code != 0 && said.err.contains(reason), "{more:?}: {}", said.err);
    }
    let said = e.run(&up("shop", "kind-ingress", &["--domain", "shop.example.com"]))?;
    ensure!(said.err.contains("INVALID_ARGUMENT") && said.err.contains(".localhost"), "{}", said.err);
    ensure!(Kind::nodes(&e.store_id()?)?.is_empty(), "nothing was made");
    e.ok(&["server", "stop"])?;
    // an engine that does not find the program
    let without = tempfile::tempdir()?;
    let e = Engine::new(sypctl)?.with("PATH", &without.path().display().to_string());
    let said = e.run(&up("shop", "kind", &[]))?;
    ensure!(said.code != 0 && said.err.contains("KIND_MISSING"), "{}", said.err);
    Ok(())
}

#[test]
fn a_cluster_lives_as_long_as_its_instances() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    if Kind::from_env(false).is_none() {
        return Ok(());
    }
    refused(&sypctl)?;
    // of somebody else, as far as anybody can see
    let label = "io.x-k8s.kind.cluster=syp-somebody-else";
    let foreign = sh("docker", &["create", "--label", label, IMAGE])?;
    let outcome = life(&sypctl);
    sh("docker", &["rm", foreign.trim()]).context("the foreign container was touched")?;
    outcome
}

fn life(sypctl: &Path) -> Result<()> {
    let mine = tempfile::NamedTempFile::new()?;
    let e = Engine::new(sypctl)?.with("KUBECONFIG", &mine.path().display().to_string());
    killed_on_the_way(&e)?;
    let store = e.store_id()?;
    // the second shares it, and is there within seconds
    e.ok(&up("second", "kind-ingress", &[]))?;
    trust::add(e.json(&["show", "second"])?["endpointCa"].as_str().context("its authority")?)?;
    serves(&e, "second")?;
    ensure!(e.endpoint("second")?.starts_with("https://second.localhost"), "by name");
    ensure!(
        e.ok(&["curl", "second", "/", "--as", ALICE])?.contains("hello"),
        "sypctl believes the authority"
    );
    ensure!(Kind::nodes(&store)?.len() == 1, "one cluster for both");
    removed_by_hand(&e, &store)?;
    stopped_by_hand(&e, &store)?;
    e.down("shop")?;
    serves(&e, "second")?;
    e.down("second")?;
    ensure!(Kind::nodes(&store)?.is_empty(), "the cluster goes with its last instance");
    ensure!(!e.dir().join("kind/kubeconfig").exists(), "and its kubeconfig");
    ensure!(std::fs::read(mine.path())?.is_empty(), "the user's kubeconfig is the user's");
    e.ok(&["receipt", "second", "--verify"])?;
    ensure!(e.ok(&["fsck"])?.contains("0 problems"), "fsck");
    Ok(())
}

/// The engine dies when the node has just been made, and again when kind is at work on it.
fn killed_on_the_way(e: &Engine) -> Result<()> {
    let mut args = up("shop", "kind", &["--no-wait"]);
    e.ok(&args)?;
    args.pop();
    let store = e.store_id()?;
    until("a node", MADE, || Ok(!Kind::nodes(&store)?.is_empty()))?;
    e.kill9()?;
    e.ok(&["ls"])?;
    pause(4_000);
    e.kill9()?;
    // attaches to what goes on by itself
    e.ok(&args)?;
    serves(e, "shop")?;
    ensure!(Kind::nodes(&store)?.len() == 1, "one node, whoever made it");
    Ok(())
}

fn removed_by_hand(e: &Engine, store: &str) -> Result<()> {
    let before = (e.endpoint("shop")?, e.endpoint("second")?);
    let nodes = Kind::nodes(store)?;
    sh("docker", &["rm", "-f", "-v", &nodes[0]])?;
    until("the cluster is made again", MADE, || {
        Ok(Kind::nodes(store)?.len() == 1 && serves(e, "shop").is_ok() && serves(e, "second").is_ok())
    })
    .with_context(|| told(e, &nodes[0]))?;
    ensure!(before == (e.endpoint("shop")?, e.endpoint("second")?), "callers find them where they were");
    Ok(())
}

/// In the middle of an update of one, while the other just serves.
fn stopped_by_hand(e: &Engine, store: &str) -> Result<()> {
    let nodes = Kind::nodes(store)?;
    e.ok(&["set", "shop", "--env", "A=1", "--yes", "--no-wait"])?;
    until("the update's pod", MADE, || Ok(e.ok(&["show", "shop"])?.contains("app-2")))?;
    sh("docker", &["stop", "-t", "5", &nodes[0]])?;
    until("the node is started again", MADE, || Ok(serves(e, "shop").is_ok() && serves(e, "second").is_ok()))
        .with_context(|| told(e, &nodes[0]))?;
    until("the update has an end", MADE, || Ok(e.json(&["show", "shop"])?["activeRevision"] == "shop-2"))
        .with_context(|| told(e, &nodes[0]))
}

/// What a user would look at.
fn told(e: &Engine, node: &str) -> String {
    let mut all = String::new();
    for name in ["shop", "second"] {
        all += &format!("{:?}\n", serves(e, name));
        for what in [&["show", name][..], &["events", name, "-o", "table"]] {
            all += &e.run(what).map_or_else(|e| e.to_string(), |said| said.out + &said.err);
        }
    }
    all + &sh("docker", &["ps", "-a", "--filter", &format!("id={node}")]).unwrap_or_default()
}
