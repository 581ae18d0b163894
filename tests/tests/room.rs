//! An engine whose disk has no room, and one whose log grows: nothing is lost, and everybody is told.
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    io::Write,
    time::{Duration, Instant},
};
use syp_tests::product::{Engine, binary, get, left_of, pause, sh};

const ALICE: &str = "user:alice@example.com";

/// A disk of its own below an engine's data directory.
struct Disk(String);

impl Disk {
    fn under(e: &Engine, mb: u32) -> Result<Self> {
        let at = e.dir().to_string_lossy().into_owned();
        sh("mount", &["-t", "tmpfs", "-o", &format!("size={mb}m,mode=700"), "tmpfs", &at])?;
        Ok(Self(at))
    }

    /// Leaves so many bytes free.
    fn fill(&self, leave: u64) -> Result<()> {
        let mut f = fs::File::create(format!("{}/filler", self.0))?;
        let free = || -> Result<u64> {
            Ok(sh("stat", &["-f", "-c", "%a %S", &self.0])?
                .split_whitespace()
                .filter_map(|n| n.parse::<u64>().ok())
                .product())
        };
        while free()? > leave + 65_536 && f.write_all(&[1; 65_536]).is_ok() {}
        while free()? > leave && f.write_all(&[1; 4096]).is_ok() {}
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(format!("{}/filler", self.0))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = sh("umount", &["-l", &self.0]);
    }
}

fn up<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let all = [
        "up",
        name,
        "--image",
        "syp-test/hello",
        "--on",
        "docker",
        "--port",
        "8080",
        "--allow",
        ALICE,
        "--yes",
    ];
    [&all[..], more].concat()
}

#[test]
fn without_room_nothing_new_begins_all_that_takes_away_works_and_a_full_disk_loses_nothing() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    if sh("id", &["-u"])?.trim() != "0" {
        println!("SKIPPED: only root can mount a small disk");
        ensure!(std::env::var("CI").is_err(), "under CI this must run");
        return Ok(());
    }
    let e = Engine::new(&sypctl)?;
    let disk = Disk::under(&e, 96)?;
    e.ok(&up("shop", &[]))?;
    e.ok(&up("other", &[]))?;
    let (store, url, token) = (e.store_id()?, e.endpoint("shop")?, e.token("shop", Some(ALICE))?);
    disk.fill(20 << 20)?;
    for args in [up("third", &[]), vec!["set", "shop", "--env", "A=1", "--yes"]] {
        let said = e.run(&args)?;
        ensure!(
            said.code == 1 && said.err.contains("DISK_FULL") && said.err.contains("MiB"),
            "{args:?}: {}",
            said.err
        );
    }
    ensure!(e.run(&["show", "third"])?.code == 5, "nothing of it is there");
    e.ok(&["access", "deny", "shop", "user:bob@example.com"])?;
    e.down("other")?;
    ensure!(get(&url, Some(&token), &[])?.0 == 200, "what serves goes on");

    // not one byte is left: the engine can't write down what it is about to do, so it does not do it
    disk.fill(0)?;
    let end = Instant::now() + Duration::from_secs(30);
    let said = loop {
        let said = e.run(&["access", "allow", "shop", "user:carol@example.com"])?;
        if said.code != 0 || Instant::now() > end {
            break said;
        }
    };
    ensure!(said.code != 0, "a full disk takes everything");
    ensure!(
        ["STORE_IO", "STORE_STOPPED", "ENGINE_", "space"].iter().any(|w| said.err.contains(w)),
        "{}",
        said.err
    );
    ensure!(get(&url, Some(&token), &[])?.0 == 200, "what serves goes on");
    disk.empty()?;
    let end = Instant::now() + Duration::from_secs(30);
    while e.run(&["ls"])?.code != 0 {
        ensure!(Instant::now() < end, "it does not come back: {}", e.run(&["ls"])?.err);
        pause(200);
    }
    ensure!(e.json(&["fsck"])?["problems"].as_array().is_none_or(Vec::is_empty));
    ensure!(e.state("shop")? == "SERVING");
    e.ok(&["receipt", "other", "--verify"])?;
    let rules = e.ok(&["access", "show", "shop"])?;
    ensure!(rules.contains("bob"), "what was acknowledged is there: {rules}");
    e.ok(&["set", "shop", "--env", "A=1", "--yes", "-q"])?;
    e.down("shop")?;
    ensure!(left_of(&store)?.is_empty());
    e.ok(&["server", "stop"])?;
    Ok(())
}

#[test]
fn the_log_of_a_running_engine_begins_anew_when_it_is_large() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    e.ok(&["ls"])?;
    let log = e.dir().join("engine.log");
    let mut f = fs::OpenOptions::new().append(true).open(&log)?;
    f.write_all(&vec![b'\n'; 17 << 20])?;
    drop(f);
    let end = Instant::now() + Duration::from_secs(30);
    while !e.dir().join("engine.log.1").exists() {
        ensure!(Instant::now() < end, "it grows on");
        pause(100);
    }
    e.ok(&["server", "stop"])?;
    let text = fs::read_to_string(&log).context("the new one")?;
    ensure!(
        text.contains("engine stopped") && text.len() < 1 << 20,
        "it goes on in the new one: {} bytes",
        text.len()
    );
    use std::os::unix::fs::PermissionsExt;
    ensure!(fs::metadata(&log)?.permissions().mode() & 0o077 == 0);
    Ok(())
}
