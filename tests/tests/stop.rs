//! Ends that are asked for: a drain takes as long as its caller said, and an engine stops whoever still listens to it.
use anyhow::{Context, Result, ensure};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};
use syp_tests::product::{Engine, binary, get, pause};

const ALICE: &str = "user:alice@example.com";

/// A WebSocket that stays open as long as this lives.
fn tunnel(e: &Engine, name: &str) -> Result<TcpStream> {
    let at = e.endpoint(name)?;
    let at = at.trim_start_matches("http://");
    let mut s = TcpStream::connect(at)?;
    s.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        s,
        "GET / HTTP/1.1\r\nHost: {at}\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        e.token(name, Some(ALICE))?
    )?;
    let mut head = [0; 12];
    s.read_exact(&mut head)?;
    ensure!(head.ends_with(b"101"), "no tunnel: {}", String::from_utf8_lossy(&head));
    Ok(s)
}

#[test]
fn a_drain_takes_as_long_as_its_caller_said_and_not_as_the_default_says() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let up = |name: &str, grace: &str| {
        e.up(name, "syp-test/ws", &["--allow", ALICE, "--port", "8765", "--grace", grace])
    };
    // the default of both is far from what is asked for: no clock of a slow machine confuses them
    up("quick", "10m")?;
    let _open = tunnel(&e, "quick")?;
    let t = Instant::now();
    e.ok(&["drain", "quick", "--grace", "1s"])?;
    ensure!(t.elapsed() < Duration::from_secs(300), "drain took {:?} instead of 1 s", t.elapsed());
    e.down("quick")?;
    up("sudden", "10m")?;
    let _open = tunnel(&e, "sudden")?;
    let t = Instant::now();
    e.ok(&["down", "sudden", "--grace", "1s", "--yes"])?;
    ensure!(t.elapsed() < Duration::from_secs(300), "down took {:?} instead of 1 s", t.elapsed());
    up("slow", "0s")?;
    let _open = tunnel(&e, "slow")?;
    let t = Instant::now();
    e.ok(&["drain", "slow", "--grace", "5s"])?;
    ensure!(t.elapsed() >= Duration::from_secs(5), "cut after {:?}, 5 s were promised", t.elapsed());
    let said = e.run(&["down", "slow", "--grace", "2h", "--yes"])?;
    ensure!(said.code == 2 && said.err.contains("grace"), "{said:?}");
    e.down("slow")
}

#[test]
fn an_engine_stops_whoever_still_listens_and_nobody_starts_it_again() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    e.up("stay", "syp-test/hello", &["--allow", ALICE, "--port", "8080"])?;
    let (t, url, pid) = (e.token("stay", Some(ALICE))?, e.endpoint("stay")?, e.pid()?);
    let commands: [&[&str]; 3] =
        [&["logs", "stay", "-f"], &["events", "stay", "-w"], &["wait", "stay", "--for", "state=destroyed"]];
    let mut listening = Vec::new();
    for c in commands {
        listening.push((c[0], e.spawn(c)?));
    }
    // nothing says when all of them listen
    pause(15_000);
    let begun = Instant::now();
    e.ok(&["server", "stop"])?;
    ensure!(begun.elapsed() < Duration::from_secs(120), "it took {:?} to stop", begun.elapsed());
    // it has let go of its store; the rest of its end is the system's
    let runs = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z"));
    while runs() {
        ensure!(begun.elapsed() < Duration::from_secs(120), "it goes on");
        pause(20);
    }
    for (what, mut child) in listening {
        let end = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(s) = child.try_wait()? {
                break s;
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                anyhow::bail!("{what} goes on without an engine");
            }
            pause(50);
        };
        ensure!(status.code().context("a signal")? == 11, "{what} ended with {status}");
    }
    ensure!(get(&url, Some(&t), &[])?.0 == 200, "it serves without the engine");
    e.down("stay")
}
