//! A store over the years: backup and restore, stores of former versions, the former engine and its gates replaced by this one.
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use syp_tests::{
    load::Load,
    product::{Engine, binary, get, left_of, pause, sh},
};

const ALICE: &str = "user:alice@example.com";
const LIMIT: Duration = Duration::from_secs(60);

fn up(e: &Engine, name: &str, more: &[&str]) -> Result<()> {
    let mut args = vec!["--port", "8080", "--allow", ALICE];
    args.extend(more);
    e.up(name, "syp-test/hello", &args)
}

fn sound(e: &Engine) -> Result<()> {
    ensure!(e.json(&["fsck"])?["problems"].as_array().is_none_or(Vec::is_empty));
    e.ok(&["audit", "--verify"]).map(drop)
}

#[test]
fn a_backup_made_under_way_brings_everything_back_after_the_disk_is_lost() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let mut e = Engine::new(&sypctl)?;
    let value = e.dir().join("value");
    fs::write(&value, "a-value")?;
    let secret = format!("PASS=@{}", value.display());
    up(&e, "shop", &["--secret", &secret])?;
    up(&e, "gone", &[])?;
    e.down("gone")?;
    e.ok(&["access", "allow", "shop", "user:bob@example.com"])?;
    let (store, url) = (e.store_id()?, e.endpoint("shop")?);
    // one update is under way while the store is copied
    let mut set = e.spawn(&["set", "shop", "--env", "A=1", "--yes"])?;
    let away = tempfile::tempdir()?;
    let file = away.path().join("b.backup");
    let path = file.to_string_lossy().into_owned();
    let said = e.json(&["server", "backup", &path])?;
    ensure!(said["storeId"] == store.as_str() && said["instances"][0] == "shop", "{said}");
    ensure!(set.wait()?.success());
    use std::os::unix::fs::PermissionsExt;
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600, "it has the keys in it");
    let again = e.run(&["server", "backup", &path])?;
    ensure!(again.code == 7 && again.err.contains("FILE_EXISTS"), "{}", again.err);
    let bytes = fs::read(&file)?;
    ensure!(!bytes.windows(7).any(|w| w == b"a-value"), "values are sealed in it too");

    let running = e.run(&["server", "restore", "--replace", &path])?;
    ensure!(running.code == 11 && running.err.contains("STORE_BUSY"), "{}", running.err);
    e.kill9()?;
    let there = e.run(&["server", "restore", &path])?;
    ensure!(there.code == 7 && there.err.contains("RESTORE_WOULD_REPLACE"), "{}", there.err);
    let half = away.path().join("half.backup");
    fs::write(&half, &bytes[..bytes.len() / 2])?;
    let broken = e.run(&["server", "restore", "--replace", &half.to_string_lossy()])?;
    ensure!(broken.code == 2 && broken.err.contains("BACKUP_BROKEN"), "{}", broken.err);

    // the disk is lost; the instance serves on, and the engine knows it again
    e = lost(e, &sypctl)?;
    let token = token_of(&e, &path)?;
    ensure!(e.store_id()? == store && e.endpoint("shop")? == url);
    settled(&e, "shop")?;
    let load = Load::start(&url, "/", &token, 2)?;
    sound(&e)?;
    e.ok(&["receipt", "gone", "--verify"])?;
    let bob = e.token("shop", Some("user:bob@example.com"))?;
    ensure!(get(&url, Some(&bob), &[])?.0 == 200, "access is as it was");
    // gates have newer configurations than the backup knows of: what is decided now counts all the same
    e.ok(&["access", "deny", "shop", "user:bob@example.com"])?;
    let end = Instant::now() + LIMIT;
    while get(&url, Some(&bob), &[])?.0 != 403 {
        ensure!(Instant::now() < end, "access taken away after a restore");
        pause(50);
    }
    // the sealed value and what the gate trusts came back
    e.ok(&["set", "shop", "--env", "B=1", "--yes", "-q"])?;
    load.end()?.nothing_lost()?;
    e.down("shop")?;
    ensure!(left_of(&store)?.is_empty());

    // an interrupted one: no engine starts on it, and the command itself ends it
    e.ok(&["server", "stop"])?;
    fs::create_dir(e.dir().join("restoring"))?;
    fs::write(e.dir().join("restoring/complete"), r#"{"former":"replaced-1","names":[]}"#)?;
    let refused = e.run(&["ls"])?;
    ensure!(refused.err.contains("RESTORE_UNFINISHED"), "{}", refused.err);
    e.ok(&["server", "restore", &path])?;
    ensure!(e.dir().join("replaced-1/store").exists() && !e.dir().join("restoring").exists());
    Ok(())
}

#[test]
fn what_a_restored_journal_does_not_know_is_found_by_its_teardown() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let away = tempfile::tempdir()?;
    let path = away.path().join("b").to_string_lossy().into_owned();
    up(&e, "shop", &[])?;
    e.ok(&["server", "backup", &path])?;
    // another replica, in another place, of which the backup knows nothing
    e.ok(&["set", "shop", "--env", "A=1", "--yes", "-q"])?;
    let store = e.store_id()?;
    e.ok(&["server", "stop"])?;
    e.ok(&["server", "restore", "--replace", &path])?;
    e.ok(&["down", "shop", "--yes", "--timeout", "2m"])?;
    ensure!(left_of(&store)?.is_empty(), "{:?}", left_of(&store)?);
    e.ok(&["receipt", "shop", "--verify"]).map(drop)
}

/// No operation is open: what the backup knew as under way has come to its end, whatever was done since.
fn settled(e: &Engine, name: &str) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while e.json(&["server", "status"])?["openOperations"].as_i64().unwrap_or(0) != 0 {
        ensure!(Instant::now() < end, "an operation does not end: {}", e.ok(&["show", name])?);
        pause(100);
    }
    e.wait_state(name, "SERVING", LIMIT)?;
    e.ok(&["wait", name, "--for", "condition=Ready", "--timeout", "60s"]).map(drop)
}

/// An engine with an empty data directory; the former one's is gone with all that was in it, and what it made is not.
fn lost(e: Engine, sypctl: &Path) -> Result<Engine> {
    fs::remove_dir_all(e.dir())?;
    let new = Engine::new(sypctl)?;
    std::mem::forget(e);
    Ok(new)
}

/// Restores, and gives a token of the restored issuer.
fn token_of(e: &Engine, backup: &str) -> Result<String> {
    let said = e.json(&["server", "restore", backup])?;
    ensure!(said["aside"].is_null(), "nothing was there: {said}");
    e.token("shop", Some(ALICE))
}

/// Versions whose stores are kept in `tests/golden`; one more with each release.
const GOLDEN: &[&str] = &["0.1.0"];

fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(version).join("data.tar.gz")
}

/// Two replicas, one instance that is gone, and one whose engine was killed while its gate was being made; none of it is on this
/// Docker engine, nor the image that they were pinned to.
#[test]
fn the_store_of_each_former_version_is_opened_goes_on_and_is_torn_down() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    for version in GOLDEN {
        let e = Engine::new(&sypctl)?;
        let dir = e.dir().to_string_lossy().into_owned();
        sh("tar", &["-xzf", &golden(version).to_string_lossy(), "-C", &dir])?;
        e.ok(&["ls"])?;
        let store = e.store_id()?;
        e.wait_state("half", "DESTROYED", LIMIT).context("what was under way comes to its end")?;
        sound(&e)?;
        e.ok(&["receipt", "gone", "--verify"])?;
        let i = e.json(&["show", "shop"])?;
        ensure!(i["spec"]["access"].to_string().contains("group:ml@example.com"), "{i}");
        ensure!(i["activeRevision"] == "shop-1" && i["spec"]["env"].to_string().contains("golden"), "{i}");
        // an image's id is that of the machine that made it: only there it is repaired, anywhere else it says what it lacks
        let pinned = i["imageDigest"].as_str().unwrap_or_default();
        if sh("docker", &["image", "inspect", pinned]).is_ok() {
            settled(&e, "shop")?;
        } else {
            e.ok(&["wait", "shop", "--for", "condition=Ready=false", "--timeout", "60s"])?;
            // the newest may be the next attempt, under way
            let all = e.json(&["op", "ls", "shop"])?;
            let failed = all["operations"].as_array().into_iter().flatten().find(|op| !op["error"].is_null());
            let step = failed.map(|op| &op["error"]["details"][0]["metadata"]["step"]);
            ensure!(step.is_some_and(|s| s == "image"), "{all}");
        }
        e.json(&["cost", "shop"])?;
        e.json(&["metrics", "shop", "--since", "1h"])?;
        e.down("shop")?;
        // the same store, the same engine, and a life from beginning to end
        up(&e, "fresh", &["--replicas", "2", "--env", "GREETING=old"])?;
        let token = e.token("fresh", Some(ALICE))?;
        e.ok(&["set", "fresh", "--env", "GREETING=new", "--yes", "-q"])?;
        e.ok(&["rollback", "fresh", "--yes", "-q"])?;
        ensure!(e.json(&["show", "fresh"])?["spec"]["env"].to_string().contains("old"));
        ensure!(get(&e.endpoint("fresh")?, Some(&token), &[])?.0 == 200);
        e.down("fresh")?;
        sound(&e)?;
        ensure!(left_of(&store)?.is_empty());
    }
    Ok(())
}

/// With the binaries of a former version in `SYP_TEST_FORMER` (`tests/upgrade.sh` builds them).
#[test]
fn the_engine_is_upgraded_while_instances_serve_and_the_former_one_is_refused_after_it() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(former) = std::env::var_os("SYP_TEST_FORMER").map(PathBuf::from) else { return Ok(()) };
    let mut e = Engine::new(&former)?;
    up(&e, "shop", &["--replicas", "2"])?;
    let (store, url, token) = (e.store_id()?, e.endpoint("shop")?, e.token("shop", Some(ALICE))?);
    let load = Load::start(&url, "/", &token, 4)?;
    e.ok(&["server", "stop"])?;
    // the former version does not wait for the files that a process which has just ended still has
    pause(500);
    let mut dies = e.serve(&[("SYP_CRASH_AT", "CP4:gate:1")])?;
    let args =
        ["up", "half", "--image", "syp-test/hello", "--on", "docker", "--port", "8080", "--allow", ALICE];
    e.ok(&[&args[..], &["--yes", "--no-wait"]].concat())?;
    dies.wait()?;
    e.becomes(&sypctl);
    e.wait_state("half", "SERVING", LIMIT)?;
    sound(&e)?;
    e.ok(&["scale", "half", "--replicas", "2", "--yes", "-q"])?;
    let seen = load.end()?;
    println!("{} requests over the upgrade: {} lost", seen.sent, seen.lost.len());
    seen.nothing_lost()?;
    // a gate that does not understand an update is replaced at its port
    e.ok(&["set", "shop", "--env", "A=1", "--yes", "-q"])?;
    ensure!(e.endpoint("shop")? == url && get(&url, Some(&token), &[])?.0 == 200);
    // and now without losing anything
    let load = Load::start(&url, "/", &token, 4)?;
    e.ok(&["set", "shop", "--env", "A=2", "--yes", "-q"])?;
    load.end()?.nothing_lost()?;

    e.ok(&["server", "stop"])?;
    e.becomes(&former);
    let back = e.run(&["ls"])?;
    ensure!(back.code == 11 && back.err.contains("use the newer version"), "{}", back.err);
    e.becomes(&sypctl);
    e.wait_state("shop", "SERVING", LIMIT)?;
    e.down("shop")?;
    e.down("half")?;
    ensure!(left_of(&store)?.is_empty());
    Ok(())
}
