//! What every target must do, as a function of the target: a later target gets in by one line.
mod aws;
mod case;
mod cluster;
mod day_two;
mod docker;
mod kind;
mod pods;

pub use aws::Aws;
pub use cluster::Cluster;
pub use docker::Docker;
pub use kind::Kind;

use crate::{
    load::Load,
    product::{Engine, get, pause},
    trust,
};
use anyhow::{Result, ensure};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// What differs between targets.
pub trait Bed {
    /// Value of `--on`.
    fn on(&self) -> &'static str;
    /// An image that answers on 8080.
    fn image(&self) -> &'static str;
    /// An image that ends at once.
    fn broken(&self) -> &'static str;
    /// Of the engine.
    fn env(&self) -> Vec<(&'static str, String)> {
        vec![]
    }
    /// An engine of its own.
    ///
    /// # Errors
    /// It can't be made.
    fn engine(&self, sypctl: &Path) -> Result<Engine> {
        Ok(self.env().iter().fold(Engine::new(sypctl)?, |e, (name, value)| e.with(name, value)))
    }
    /// Arguments of `up` besides the image.
    fn args(&self) -> Vec<&'static str> {
        vec!["--port", "8080"]
    }
    /// Arguments of `up` that differ from instance to instance.
    fn of(&self, _: &Engine, _: &str) -> Vec<String> {
        vec![]
    }
    /// An instance is up: whatever its callers need to find it.
    ///
    /// # Errors
    /// It can't be found.
    fn found(&self, _: &Engine, _: &str) -> Result<()> {
        Ok(())
    }
    /// May secrets be files?
    fn secret_files(&self) -> bool {
        true
    }
    /// What its instances are paid in.
    fn currency(&self) -> &'static str {
        "EUR"
    }
    /// Everything at the provider that carries a store's label.
    ///
    /// # Errors
    /// The provider does not answer.
    fn left(&self, store: &str) -> Result<Vec<String>>;
    /// Ways past the gate that must be closed: each is tried, and its name returned when it was open.
    ///
    /// # Errors
    /// It can't be tried.
    fn ways_past_the_gate(&self, engine: &Engine, name: &str) -> Result<Vec<String>>;
    /// The app's way out must be open: true when it is.
    ///
    /// # Errors
    /// It can't be tried.
    fn way_out(&self, engine: &Engine, name: &str) -> Result<bool>;
}

/// Runs the suite.
///
/// # Errors
/// What the target does not do.
pub fn run(bed: &dyn Bed, sypctl: &Path) -> Result<()> {
    let (a, b) = (bed.engine(sypctl)?, bed.engine(sypctl)?);
    let up_says = |e: &Engine, name: &str| {
        let mut args = vec!["up", name, "--image", bed.image(), "--on", bed.on(), "--yes"];
        args.extend(bed.args());
        let of = bed.of(e, name);
        args.extend(of.iter().map(String::as_str));
        args.extend(["--allow", "user:alice@example.com", "--allow", "group:ml@example.com"]);
        e.run(&args)
    };
    let up = |e: &Engine, name: &str| {
        let said = up_says(e, name)?;
        ensure!(said.code == 0, "up {name} ended with {}: {}", said.code, said.err);
        let ca = e.json(&["show", name])?["endpointCa"].as_str().map(str::to_owned);
        ca.map_or(Ok(()), |pem| trust::add(&pem))?;
        bed.found(e, name)
    };
    let case = |name: &str, run: &dyn Fn() -> Result<()>| case::case(bed.on(), name, run);
    case("up, and the same again", &|| {
        up(&a, "shop")?;
        ensure!(a.state("shop")? == "SERVING", "shop serves after up");
        up(&a, "shop")
    })?;
    case("401, 403, 200", &|| admission(&a, "shop"))?;
    case("access changes", &|| {
        policy_takes_effect(&a, "shop")?;
        let other = up_says(&a, "shop")?;
        ensure!(
            other.code == 7 && other.err.contains("access"),
            "who may use it has changed since: {}",
            other.err
        );
        Ok(())
    })?;
    case("no way past the gate", &|| {
        let open = bed.ways_past_the_gate(&a, "shop")?;
        ensure!(open.is_empty(), "reached past the gate: {open:?}");
        ensure!(bed.way_out(&a, "shop")?, "the app's own way out is closed");
        let tried = a.json(&["show", "shop"])?["conditions"].to_string();
        ensure!(
            tried.contains("Isolated") && tried.contains("AuthEnforced"),
            "what was tried is shown: {tried}"
        );
        Ok(())
    })?;
    case("cost, metrics, events, logs", &|| figures(&a, "shop"))?;
    case("set, failed set, rollback, secrets, scale", &|| changes(&a, "shop", bed))?;
    case("a read-only root", &|| read_only_root(&a, "shop"))?;
    case("metrics over time", &|| day_two::over_time(&a, "shop"))?;
    case("audit", &|| day_two::audited(&a, "shop"))?;
    case("another engine in an update", &|| day_two::another_engine(&a, "shop"))?;
    case("another spec is a conflict", &|| {
        let other =
            a.run(&["up", "shop", "--image", bed.image(), "--on", bed.on(), "--port", "8081", "--yes"])?;
        ensure!(
            other.code == 7,
            "another spec on a name that exists is exit 7, not {}: {}",
            other.code,
            other.err
        );
        Ok(())
    })?;
    case("two instances, two engines", &|| {
        up(&a, "second")?;
        up(&b, "shop")?;
        ensure!(a.endpoint("shop")? != b.endpoint("shop")?, "two engines, two endpoints");
        Ok(())
    })?;
    case("drain, and back", &|| drain_and_resume(&a, "shop"))?;
    case("down beside others", &|| {
        a.down("shop")?;
        for (e, name) in [(&a, "second"), (&b, "shop")] {
            let token = e.token(name, Some("user:alice@example.com"))?;
            let (code, _) = get(&e.endpoint(name)?, Some(&token), &[])?;
            ensure!(code == 200, "{name} of the other still serves, not {code}");
        }
        // the name is free at once
        up(&a, "shop")
    })?;
    case("a budget that is spent", &|| day_two::spent(&a, "shop", bed.currency()))?;
    case("down leaves nothing", &|| {
        a.down("shop")?;
        a.down("second")?;
        b.down("shop")?;
        clean(bed, &a)?;
        clean(bed, &b)
    })
}

fn clean(bed: &dyn Bed, e: &Engine) -> Result<()> {
    let left = bed.left(&e.store_id()?)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(e.ok(&["fsck"])?.contains("0 problems"), "fsck");
    Ok(())
}

fn admission(e: &Engine, name: &str) -> Result<()> {
    let url = e.endpoint(name)?;
    let code = |token: Option<&str>| get(&url, token, &[]).map(|r| r.0);
    ensure!(code(None)? == 401, "no token is 401");
    ensure!(code(Some("garbage"))? == 401, "garbage is 401");
    let alice = e.token(name, Some("user:alice@example.com"))?;
    ensure!(code(Some(&alice))? == 200, "alice is 200");
    let bob = e.token(name, Some("user:bob@example.com"))?;
    ensure!(code(Some(&bob))? == 403, "bob is 403");
    let api = e.ok(&["token", "syp-api"])?;
    ensure!(code(Some(api.trim()))? == 401, "a token for the API does not open the data plane");
    let member = e.ok(&["token", name, "--as", "user:carol@example.com", "--group", "ml@example.com"])?;
    ensure!(code(Some(member.trim()))? == 200, "a member of the group is 200");
    let (code, _) = get(&format!("{url}/_syp/health"), None, &[])?;
    ensure!(code == 200, "health needs no token");
    Ok(())
}

fn policy_takes_effect(e: &Engine, name: &str) -> Result<()> {
    let url = e.endpoint(name)?;
    let bob = e.token(name, Some("user:bob@example.com"))?;
    for (args, want) in [
        (["access", "allow", name, "user:bob@example.com"], 200),
        (["access", "deny", name, "user:bob@example.com"], 403),
    ] {
        e.ok(&args)?;
        let end = Instant::now() + Duration::from_secs(30);
        while get(&url, Some(&bob), &[])?.0 != want {
            ensure!(Instant::now() < end, "'{}' had no effect within 30 s", args.join(" "));
            pause(20);
        }
    }
    Ok(())
}

fn figures(e: &Engine, name: &str) -> Result<()> {
    let cost = e.json(&["cost", name])?;
    let nanos = |m: &str| cost[m]["nanos"].as_i64().unwrap_or(0) + cost[m]["units"].as_str().map_or(0, |_| 1);
    ensure!(nanos("ratePerHour") > 0 && nanos("accrued") > 0, "it costs: {cost}");
    let m = e.json(&["metrics", name])?;
    let count =
        |class: &str| m["statusClass"][class].as_str().and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
    ensure!(count("2xx") > 0 && count("4xx") > 0, "requests are counted: {m}");
    ensure!(m["replicasReady"].as_i64() == Some(1), "one replica is ready: {m}");
    ensure!(e.ok(&["events", name])?.contains("SERVING"), "events tell the life");
    ensure!(e.run(&["logs", name])?.code == 0, "logs can be read");
    ensure!(e.ok(&["graph", name, "--format", "dot"])?.contains("digraph"), "the graph can be drawn");
    Ok(())
}

/// Another revision, one that does not work, back again, more and fewer; callers notice nothing of it.
fn changes(e: &Engine, name: &str, bed: &dyn Bed) -> Result<()> {
    let revision = |e: &Engine| -> Result<String> {
        Ok(e.json(&["show", name])?["activeRevision"].as_str().unwrap_or_default().to_owned())
    };
    let alice = e.token(name, Some("user:alice@example.com"))?;
    let load = Load::start(&e.endpoint(name)?, "/", &alice, 2)?;
    e.ok(&["set", name, "--env", "LEVEL=debug", "--yes"])?;
    ensure!(revision(e)? == format!("{name}-2"), "set makes a revision");
    let failed = e.run(&["set", name, "--image", bed.broken(), "--yes"])?;
    ensure!(failed.code == 1 && failed.err.contains("CRASH_LOOP"), "what does not work: {}", failed.err);
    ensure!(revision(e)? == format!("{name}-2"), "the old one serves on");
    let env = |e: &Engine| Ok::<_, anyhow::Error>(e.json(&["show", name])?["spec"]["env"].to_string());
    ensure!(env(e)?.contains("LEVEL"), "with its own environment");
    e.ok(&["rollback", name, "--yes"])?;
    ensure!(!env(e)?.contains("LEVEL"), "a roll-back brings the environment back");
    let (dir, value) = (tempfile::tempdir()?, format!("value-{}", uuid::Uuid::new_v4().simple()));
    let file = dir.path().join("value");
    std::fs::write(&file, &value)?;
    let at = format!("@{}", file.display());
    let (env, path) = (format!("TOKEN={at}"), format!("/run/token={at}"));
    let mut set = vec!["set", name, "--secret", &env, "--yes"];
    if bed.secret_files() {
        set.extend(["--secret-file", path.as_str()]);
    }
    e.ok(&set)?;
    let shown = e.ok(&["show", name, "-o", "json"])?;
    let named = if bed.secret_files() { "/run/token" } else { "TOKEN" };
    ensure!(shown.contains(named) && !shown.contains(&value), "secrets are named, not shown");
    e.ok(&["scale", name, "--replicas", "2", "--yes"])?;
    let ready = e.json(&["metrics", name])?["replicasReady"].as_i64();
    ensure!(ready == Some(2), "two are ready: {ready:?}");
    e.ok(&["scale", name, "--replicas", "1", "--yes"])?;
    load.end()?.nothing_lost()?;
    let all = e.ok(&["revisions", name])?;
    ensure!(
        all.contains("failed: ") && all.contains("serves") && all.contains("back to"),
        "revisions: {all}"
    );
    Ok(())
}

/// Nothing but `/tmp` may be written, what the app says is in its log, and a roll-back brings the image's own command back.
fn read_only_root(e: &Engine, name: &str) -> Result<()> {
    let app = "touch /www/x && exit 3; touch /tmp/x || exit 4; echo \"it begins, $$\"; exec httpd -f -p 8080 -h /www";
    e.ok(&["set", name, "--root", "read-only", "--entrypoint", "/bin/sh", "--yes", "--", "-c", app])?;
    ensure!(e.json(&["show", name])?["spec"]["readOnlyRoot"] == true, "it is shown");
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        // the shell's own number, and not what a target may make of a dollar
        let lines = e.ok(&["logs", name])?;
        if lines
            .lines()
            .any(|l| l.split("it begins, ").nth(1).is_some_and(|n| n.trim().parse::<u32>().is_ok()))
        {
            break;
        }
        ensure!(Instant::now() < end, "what it said is not in its log: {lines}");
        pause(500);
    }
    e.ok(&["rollback", name, "--yes"]).map(drop)
}

fn drain_and_resume(e: &Engine, name: &str) -> Result<()> {
    let url = e.endpoint(name)?;
    let alice = e.token(name, Some("user:alice@example.com"))?;
    e.ok(&["drain", name])?;
    ensure!(e.state(name)? == "DRAINING", "it rests in draining");
    ensure!(get(&url, Some(&alice), &[])?.0 == 503, "a drained gate answers 503");
    e.ok(&["transition", name, "--to", "serving"])?;
    e.wait_state(name, "SERVING", Duration::from_secs(30))?;
    let end = Instant::now() + Duration::from_secs(30);
    while get(&url, Some(&alice), &[])?.0 != 200 {
        ensure!(Instant::now() < end, "it does not serve again after it was resumed");
        pause(20);
    }
    Ok(())
}
