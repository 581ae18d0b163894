//! `kill -9` of the real engine on real Docker: at every named point of the write protocol, and at random instants. Each case
//! ends with an independent listing that finds nothing.
use anyhow::{Context, Result, ensure};
use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::Child,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use syp_tests::{
    dice::Dice,
    product::{Engine, binary, get, left_of, pause, sh},
};

const ALICE: &str = "user:alice@example.com";
/// Nodes of the Docker plan that `up` walks; the suite fails when the plan has another one.
const UP: [&str; 8] = ["image", "network", "gate", "holder-0", "isolation-0", "app-0", "config", "probe"];
/// What an update of it walks besides, and whose hit that is: the first is of `up`.
const UPDATE: [&str; 11] = [
    "image:2",
    "holder-1",
    "isolation-1",
    "app-1",
    "standby",
    "probe:2",
    "switch",
    "settle",
    "final",
    "undo app-0",
    "undo holder-0",
];
/// What `down` walks.
const DOWN: [&str; 5] = ["drain", "undo gate", "undo app-0", "undo holder-0", "undo network"];
/// Instants of the random suite.
const RANDOM: usize = 50;
/// Cases at a time: an engine and Docker share few cores.
const WIDTH: usize = 2;

fn up(e: &Engine) -> Result<()> {
    e.up("phoenix", "syp-test/hello", &["--port", "8080", "--allow", ALICE])
}

/// Serves as it should, whatever happened on the way.
fn serves(e: &Engine) -> Result<()> {
    let url = e.endpoint("phoenix")?;
    let token = e.token("phoenix", Some(ALICE))?;
    ensure!(get(&url, None, &[])?.0 == 401, "no token is 401");
    ensure!(get(&url, Some(&token), &[])?.0 == 200, "alice is 200");
    Ok(())
}

/// Nothing is left, by a listing that is not ours, and the store is whole.
fn clean(e: &Engine) -> Result<()> {
    e.ok(&["receipt", "phoenix", "--verify"])?;
    let left = left_of(&e.store_id()?)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    let fsck = e.ok(&["fsck"])?;
    ensure!(fsck.contains("0 problems"), "fsck: {fsck}");
    Ok(())
}

/// One case for each index below `n`, a few at a time; all are run, and all that failed are told.
fn each(n: usize, case: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut failed = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= n {
                return failed;
            }
            if let Err(e) = case(i) {
                failed.push(format!("{e:#}"));
            }
        }
    };
    let failed: Vec<String> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..WIDTH).map(|_| s.spawn(run)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap_or_else(|_| vec!["a case panicked".into()]))
            .collect()
    });
    ensure!(failed.is_empty(), "{} of {n} cases failed:\n{}", failed.len(), failed.join("\n"));
    Ok(())
}

/// Takes it down and looks: its first engine died at its point, and nothing is left.
fn ends(e: &Engine, mut first: Child) -> Result<()> {
    e.ok(&["down", "phoenix", "--yes"])?;
    let status = first.try_wait()?;
    if status.is_none() {
        first.kill()?;
        first.wait()?;
    }
    ensure!(status.is_some_and(|s| s.signal() == Some(9)), "the point was never reached: {status:?}");
    clean(e)
}

/// A life in which the engine dies at one point; the command line starts the next one by itself.
fn dies_at(sypctl: &Path, point: &str) -> Result<()> {
    let e = Engine::new(sypctl)?;
    let first = e.serve(&[("SYP_CRASH_AT", point)])?;
    up(&e)?;
    serves(&e)?;
    ends(&e, first)
}

#[test]
fn killed_at_every_named_point_it_goes_on_and_leaves_nothing() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let mut points = vec!["CP10:list".to_owned()];
    for what in UP.iter().chain(&DOWN) {
        points.extend(["CP3", "CP4", "CP5"].map(|p| format!("{p}:{what}")));
    }
    // those that have no node: their first hits, and some of later records
    for nth in [1, 2, 4, 8, 12] {
        points.extend(["CP1", "CP7"].map(|p| format!("{p}::{nth}")));
    }
    // its first syncs are those of opening the store, before anybody can call
    points.extend([4, 5, 6, 8, 12, 16].map(|nth| format!("CP2::{nth}")));
    each(points.len(), |i| dies_at(&sypctl, &points[i]).with_context(|| points[i].clone()))
}

/// A longer life, with everything that the short one has not: two replicas, a volume, a repair, a drain that is taken back.
fn dies_later_at(sypctl: &Path, point: &str) -> Result<()> {
    let e = Engine::new(sypctl)?;
    let first = e.serve(&[("SYP_CRASH_AT", point)])?;
    let store = format!("label=syp.dev/store={}", e.store_id()?);
    let app = || sh("docker", &["ps", "-q", "--filter", &store, "--filter", "name=app-1"]);
    e.up("phoenix", "syp-test/volume", &["--port", "8080", "--allow", ALICE, "--replicas", "2"])?;
    serves(&e)?;
    sh("docker", &["rm", "-f", app()?.trim()])?;
    let end = Instant::now() + Duration::from_secs(300);
    loop {
        let i = e.json(&["show", "phoenix"])?;
        if i["state"] == "SERVING" && i["reconciling"] != true && !app()?.trim().is_empty() {
            break;
        }
        ensure!(Instant::now() < end, "not repaired: {i}");
        pause(100);
    }
    serves(&e)?;
    e.ok(&["drain", "phoenix"])?;
    e.ok(&["transition", "phoenix", "--to", "serving"])?;
    serves(&e)?;
    ends(&e, first)
}

#[test]
fn killed_in_a_repair_a_drain_or_its_taking_back_it_goes_on_and_leaves_nothing() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    // the second hit of a node of up is its repair's, the third that of taking a drain back
    let mut points = Vec::new();
    for what in ["volume-0-0", "app-1", "holder-1", "undo volume-1-0"] {
        points.push(format!("CP4:{what}"));
    }
    for what in ["app-1:2", "probe:2", "config:3", "drain:1", "drain:2"] {
        points.extend(["CP3", "CP4", "CP5"].map(|p| format!("{p}:{what}")));
    }
    points.extend(["CP2::20", "CP7::20", "CP1::24"].map(str::to_owned));
    each(points.len(), |i| dies_later_at(&sypctl, &points[i]).with_context(|| points[i].clone()))
}

#[test]
fn killed_at_every_point_of_an_update_it_serves_and_leaves_nothing() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let points: Vec<_> =
        UPDATE.iter().flat_map(|what| ["CP3", "CP4", "CP5"].map(|p| format!("{p}:{what}"))).collect();
    each(points.len(), |i| {
        let case = || {
            let e = Engine::new(&sypctl)?;
            let first = e.serve(&[("SYP_CRASH_AT", &points[i])])?;
            up(&e)?;
            e.ok(&["set", "phoenix", "--env", "A=1", "--yes"])?;
            serves(&e)?;
            let i = e.json(&["show", "phoenix"])?;
            ensure!(i["activeRevision"] == "phoenix-2", "the update came to its end: {i}");
            ends(&e, first)
        };
        case().with_context(|| points[i].clone())
    })
}

#[test]
fn the_points_name_every_node_of_the_plan() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    up(&e)?;
    e.ok(&["set", "phoenix", "--env", "A=1", "--yes"])?;
    e.ok(&["down", "phoenix", "--yes"])?;
    let plain = |p: &&'static str| p.split(':').next().unwrap_or(p);
    let mut known: Vec<&str> = UP
        .iter()
        .chain(&UPDATE)
        .chain(&DOWN)
        .map(plain)
        .chain(["list", "undo app-1", "undo holder-1"])
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    for op in e.json(&["op", "ls", "phoenix"])?["operations"].as_array().context("operations")? {
        for step in op["metadata"]["steps"].as_array().context("steps")? {
            let id = step["id"].as_str().unwrap_or_default();
            // a row is removed as a step of an update, or by the teardown
            let id = id.replace("retire-", "undo ");
            seen.insert(id.clone());
            ensure!(known.contains(&id.as_str()), "the step '{id}' has no crash case: add it here");
        }
    }
    known.retain(|k| !seen.contains(*k));
    ensure!(known.is_empty(), "no such steps any more: {known:?}");
    Ok(())
}

#[test]
fn killed_in_its_recovery_it_recovers_the_next_time() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let mut first = e.serve(&[("SYP_CRASH_AT", "CP4:gate")])?;
    e.run(&[
        "up",
        "phoenix",
        "--image",
        "syp-test/hello",
        "--port",
        "8080",
        "--allow",
        ALICE,
        "--no-wait",
        "--yes",
    ])?;
    first.wait()?;
    // where its answer had waited for the engine that died, the command has started another
    e.run(&["server", "stop"])?;
    let mut second = e.start(&[("SYP_CRASH_AT", "CP9:")])?;
    ensure!(second.wait()?.signal() == Some(9), "it did not die in its recovery");
    up(&e)?;
    serves(&e)?;
    e.ok(&["down", "phoenix", "--yes"])?;
    clean(&e)
}

/// Runs a command, kills the engine after a while, and lets the command end by itself.
fn killed_during(e: &Engine, args: &[&str], ms: u64) -> Result<()> {
    // an earlier kill may have left none
    e.ok(&["ls"])?;
    let pid = e.pid()?;
    let mut command = e.spawn(args)?;
    pause(ms);
    e.kill9_of(&pid)?;
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        if let Some(status) = command.try_wait()? {
            let talk = || std::fs::read_to_string(e.talk()).unwrap_or_default();
            ensure!(
                status.success(),
                "sypctl {} ended with {status} (killed after {ms} ms): {}",
                args.join(" "),
                talk()
            );
            return Ok(());
        }
        if Instant::now() > end {
            command.kill()?;
            command.wait()?;
            anyhow::bail!("sypctl {} hangs", args.join(" "));
        }
        pause(20);
    }
}

fn dies_sometime(sypctl: &Path, seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    let e = Engine::new(sypctl)?;
    e.ok(&["ls"])?;
    let spec = ["up", "phoenix", "--image", "syp-test/hello", "--port", "8080", "--allow", ALICE, "--yes"];
    if dice.below(2) == 0 {
        killed_during(&e, &spec, dice.below(700))?;
        serves(&e)?;
    } else {
        // killed, and its end is asked for while it recovers
        let pid = e.pid()?;
        e.ok(&[&spec[..], &["--no-wait"]].concat())?;
        pause(dice.below(500));
        e.kill9_of(&pid)?;
    }
    if dice.below(3) == 0 {
        e.ok(&["down", "phoenix", "--yes"])?;
    } else {
        killed_during(&e, &["down", "phoenix", "--yes"], dice.below(900))?;
    }
    clean(&e)
}

#[test]
fn killed_at_fifty_random_instants_it_goes_on_and_leaves_nothing() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let seed = Dice::seed()?;
    each(RANDOM, |i| {
        let own = seed.wrapping_mul(1_000).wrapping_add(i as u64);
        dies_sometime(&sypctl, own).with_context(|| format!("case {i} of SYP_SEED={seed}"))
    })
}
