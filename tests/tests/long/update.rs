//! Updates on Docker: no request is lost, what does not work never serves, and what is killed in the middle comes to its end.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use syp_tests::{
    dice::Dice,
    load::Load,
    product::{Engine, binary, get, pause, sh},
};

const ALICE: &str = "user:alice@example.com";

fn serving(e: &Engine, name: &str, more: &[&str], image: &str, port: &str) -> Result<(String, String)> {
    let mut args = vec!["--port", port, "--allow", ALICE];
    args.extend(more);
    e.up(name, image, &args)?;
    Ok((e.endpoint(name)?, e.token(name, Some(ALICE))?))
}

fn revision(e: &Engine, name: &str) -> Result<String> {
    Ok(e.json(&["show", name])?["activeRevision"].as_str().unwrap_or_default().to_owned())
}

fn failed_set(e: &Engine, name: &str, args: &[&str], reason: &str) -> Result<String> {
    let mut all = vec!["set", name, "--yes"];
    all.extend(args);
    let s = e.run(&all)?;
    ensure!(s.code == 1, "a revision that does not work ends with 1, not {}: {}", s.code, s.err);
    ensure!(s.err.contains(reason), "the reason is {reason}: {}", s.err);
    Ok(s.err)
}

/// Containers of an instance by the step in their name, sorted.
fn containers(e: &Engine) -> Result<Vec<String>> {
    let filter = format!("label=syp.dev/store={}", e.store_id()?);
    let out = sh("docker", &["ps", "-a", "--filter", &filter, "--format", "{{.Label \"syp.dev/step\"}}"])?;
    let mut all: Vec<_> = out.split_whitespace().map(str::to_owned).collect();
    all.sort();
    Ok(all)
}

#[test]
fn twenty_updates_five_failed_ones_and_five_rollbacks_lose_no_request() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let (url, token) = serving(&e, "shop", &["--replicas", "2"], "syp-test/hello", "8080")?;
    let load = Load::start(&url, "/", &token, 6)?;
    for n in 1..=20 {
        e.ok(&["set", "shop", "--env", &format!("ROUND={n}"), "--yes", "-q"])?;
    }
    ensure!(revision(&e, "shop")? == "shop-21");
    let updates = load.sent();
    for n in 0..5 {
        let err = failed_set(
            &e,
            "shop",
            &["--image", "syp-test/crash", "--env", &format!("TRY={n}")],
            "CRASH_LOOP",
        )?;
        ensure!(err.contains("no database configured"), "its last lines are the reason: {err}");
        ensure!(revision(&e, "shop")? == "shop-21", "the old one serves");
    }
    let failed = load.sent() - updates;
    for _ in 0..5 {
        e.ok(&["rollback", "shop", "--yes", "-q"])?;
    }
    let seen = load.end()?;
    println!(
        "{} requests in 20 updates, {failed} in 5 failed ones, {} in 5 roll-backs: {} lost",
        updates,
        seen.sent - updates - failed,
        seen.lost.len()
    );
    seen.nothing_lost()?;
    ensure!(containers(&e)?.len() == 5, "a gate and two replicas: {:?}", containers(&e)?);
    let all = e.json(&["revisions", "shop"])?["instanceRevisions"].clone();
    let failures = all.as_array().into_iter().flatten().filter(|r| !r["failure"].is_null()).count();
    ensure!(failures == 5, "those that failed are in the list: {failures}");
    e.down("shop")
}

#[test]
fn the_only_replica_of_an_image_with_a_volume_is_replaced_and_callers_wait() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    // one that takes a moment to listen: that the gate reached the one before it in its place proves nothing
    let (url, token) = serving(&e, "keeper", &["--env", "WAIT=1"], "syp-test/volume", "8080")?;
    let app = |e: &Engine| syp_tests::conformance::Docker::container(e, "keeper", "app-0");
    sh("docker", &["exec", &app(&e)?, "/bin/busybox", "sh", "-c", "echo kept > /data/mark"])?;
    let load = Load::start(&url, "/", &token, 4)?;
    let mut longest = Duration::ZERO;
    for n in 1..=3 {
        let begun = Instant::now();
        e.ok(&["set", "keeper", "--env", &format!("ROUND={n}"), "--yes", "-q"])?;
        longest = longest.max(begun.elapsed());
        let mark = sh("docker", &["exec", &app(&e)?, "/bin/busybox", "cat", "/data/mark"])?;
        ensure!(mark.trim() == "kept", "the data goes on with the next revision");
    }
    let seen = load.end()?;
    // no gate lets its callers wait for longer
    if longest < Duration::from_secs(30) {
        seen.nothing_lost()?;
    } else {
        println!("a replica took {longest:?} to be replaced: {} of {} lost", seen.lost.len(), seen.sent);
    }
    e.down("keeper")
}

#[test]
fn requests_under_way_are_finished_by_the_replica_that_has_them() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let (url, token) = serving(&e, "slow", &[], "syp-test/flask", "5000")?;
    let slow = Load::start(&url, "/slow?ms=1500", &token, 3)?;
    let end = Instant::now() + Duration::from_secs(10);
    while slow.sent() < 3 && Instant::now() < end {
        pause(10);
    }
    e.ok(&["set", "slow", "--env", "A=1", "--yes", "-q"])?;
    let seen = slow.end()?;
    ensure!(seen.lost.is_empty(), "lost: {:?}", seen.lost);
    // one that takes longer than the grace is cut, and nobody waits for it for ever
    e.ok(&["set", "slow", "--env", "A=2", "--yes", "-q"])?;
    e.down("slow")
}

#[test]
fn scaling_touches_no_other_replica_and_fields_beside_a_revision_make_none() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let (url, token) = serving(&e, "shop", &["--replicas", "2"], "syp-test/hello", "8080")?;
    let ids = |e: &Engine| -> Result<Vec<String>> {
        let filter = format!("label=syp.dev/store={}", e.store_id()?);
        let out = sh("docker", &["ps", "-q", "--no-trunc", "--filter", &filter])?;
        Ok(out.split_whitespace().map(str::to_owned).collect())
    };
    let before = ids(&e)?;
    let load = Load::start(&url, "/", &token, 4)?;
    let plan = e.json(&["scale", "shop", "--replicas", "4", "--plan"])?;
    ensure!(plan["changes"].to_string().contains("replicas: 2 -> 4"), "{plan}");
    let nanos = |v: &Value| v["nanos"].as_i64().unwrap_or(0);
    ensure!(
        nanos(&plan["hourlyAfter"]) == 2 * nanos(&plan["hourlyBefore"]),
        "twice as many cost twice: {plan}"
    );
    e.ok(&["scale", "shop", "--replicas", "4", "--yes"])?;
    ensure!(before.iter().all(|id| ids(&e).is_ok_and(|now| now.contains(id))), "those that were there stay");
    let rate = e.json(&["cost", "shop"])?;
    ensure!(nanos(&rate["ratePerHour"]) == nanos(&plan["hourlyAfter"]), "the rate is what the plan said");
    e.ok(&["scale", "shop", "--replicas", "1", "--yes"])?;
    load.end()?.nothing_lost()?;
    ensure!(containers(&e)?.len() == 3, "{:?}", containers(&e)?);
    let is = revision(&e, "shop")?;
    e.ok(&["set", "shop", "-l", "team=a", "--ttl", "1h", "--protect", "--yes"])?;
    let i = e.json(&["show", "shop"])?;
    ensure!(i["activeRevision"] == is.as_str() && i["labels"]["team"] == "a" && !i["expireTime"].is_null());
    e.ok(&["set", "shop", "-l", "team-", "--no-ttl", "--no-protect", "--yes"])?;
    ensure!(e.json(&["show", "shop"])?["labels"].is_null(), "taken away");
    // the same again makes nothing
    e.ok(&["scale", "shop", "--replicas", "1", "--yes"])?;
    ensure!(revision(&e, "shop")? == is, "no revision where nothing changes");
    let more = e.run(&["scale", "shop", "--replicas", "64", "--yes"])?;
    ensure!(more.err.contains("NETWORK_FULL"), "said before anything is made: {}", more.err);
    let gone = e.run(&["rollback", "shop", "shop-77", "--yes"])?;
    ensure!(gone.code == 5 && gone.err.contains("REVISION_NOT_FOUND"), "{}", gone.err);
    e.down("shop")
}

#[test]
fn a_roll_back_lets_nobody_in_again() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let (url, _) = serving(&e, "shop", &[], "syp-test/hello", "8080")?;
    e.ok(&["access", "allow", "shop", "user:bob@example.com"])?;
    e.ok(&["set", "shop", "--env", "A=1", "--yes"])?;
    e.ok(&["access", "deny", "shop", "user:bob@example.com"])?;
    let bob = e.token("shop", Some("user:bob@example.com"))?;
    e.ok(&["rollback", "shop", "--yes"])?;
    ensure!(get(&url, Some(&bob), &[])?.0 == 403, "access is not part of a revision");
    ensure!(!e.json(&["show", "shop"])?["spec"]["env"].to_string().contains('A'), "the environment is");
    e.down("shop")
}

#[test]
fn files_are_applied_once_and_nothing_is_changed_where_one_is_wrong() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let dir = tempfile::tempdir()?;
    let file = |name: &str, env: &str| {
        format!(
            "apiVersion: syp.v1\nkind: Instance\nname: {name}\nlabels: {{team: a}}\nallow: [{ALICE}]\nspec:\n  image: syp-test/hello\n  port: 8080\n  env: {{V: '{env}'}}\n"
        )
    };
    let write = |at: &str, text: String| std::fs::write(dir.path().join(at), text);
    write("a.yaml", file("one", "1"))?;
    write("b.yaml", file("two", "1"))?;
    let folder = dir.path().to_str().context("path")?;
    let plan = e.ok(&["apply", "-f", folder, "--plan"])?;
    ensure!(plan.contains("one:") && plan.contains("two:"), "{plan}");
    ensure!(e.json(&["ls"])?["instances"].is_null(), "a plan makes nothing");
    e.ok(&["apply", "-f", folder, "--yes"])?;
    let again = e.ok(&["apply", "-f", folder, "--yes"])?;
    ensure!(again.matches("is so already").count() == 2, "applied twice it does nothing: {again}");
    write("a.yaml", file("one", "2"))?;
    write("b.yaml", file("two", "2").replace("port: 8080", "prot: 8080"))?;
    let wrong = e.run(&["apply", "-f", folder, "--yes"])?;
    ensure!(wrong.code == 2 && wrong.err.contains("b.yaml") && wrong.err.contains("prot"), "{}", wrong.err);
    ensure!(revision(&e, "one")? == "one-1", "nothing was changed");
    write("b.yaml", file("two", "1"))?;
    e.ok(&["apply", "-f", folder, "--yes"])?;
    ensure!(revision(&e, "one")? == "one-2" && revision(&e, "two")? == "two-1");
    e.ok(&["down", "--all", "--yes"])?;
    let left = e.left()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn killed_at_any_instant_of_set_and_rollback_it_comes_to_its_end_and_serves_all_the_time() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let (url, token) = serving(&e, "shop", &["--replicas", "2"], "syp-test/hello", "8080")?;
    let load = Load::start(&url, "/", &token, 3)?;
    let mut dice = Dice::new(Dice::seed()?);
    for n in 0..50 {
        let at = dice.below(1_200);
        let args: &[&str] = match n % 5 {
            3 => &["rollback", "shop", "--yes", "-q"],
            4 => &["set", "shop", "--image", "syp-test/crash", "--yes", "-q"],
            _ => &["set", "shop", "--env", &format!("ROUND={n}"), "--yes", "-q"],
        };
        let pid = e.pid()?;
        let mut cli = e.spawn(args)?;
        pause(at);
        e.kill9_of(&pid)?;
        // the command starts the next engine and takes its work up, or has ended
        let end = Instant::now() + Duration::from_secs(240);
        while cli.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "round {n}, killed after {at} ms: the command does not end");
            pause(20);
        }
        let settled = Instant::now() + Duration::from_secs(240);
        loop {
            let i = e.json(&["show", "shop"])?;
            if i["reconciling"].is_null() && containers(&e)?.len() == 5 {
                break;
            }
            ensure!(Instant::now() < settled, "round {n}, killed after {at} ms: {i}, {:?}", containers(&e)?);
            pause(50);
        }
    }
    let seen = load.end()?;
    println!("{} requests over 50 kills: {} lost", seen.sent, seen.lost.len());
    seen.nothing_lost()?;
    ensure!(e.ok(&["fsck"])?.contains("0 problems"));
    e.down("shop")?;
    let left = e.left()?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
