//! A gate that leaves: everything that still comes is served, and nothing is asked to come again.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use syp_auth::door::Mode;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::common::{ADMIN_TOKEN, ALICE, App, Gate, Wire, gather, get, next, soon, until};

/// A machine that is busy has answered and connected so often within this time.
const PATIENCE: Duration = Duration::from_secs(60);
const HEALTH: &str = "GET /_syp/health HTTP/1.1\r\nHost: shop\r\n\r\n";

async fn leave(gate: &Gate) -> Result<()> {
    let ask = format!(
        "PUT /leave HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: 0\r\n\r\n"
    );
    let reply = Wire::to(gate.admin).await?.ask(ask).await?;
    ensure!(reply.status == 200 && reply.json()?["leaving"] == true, "{reply:?}");
    Ok(())
}

/// What clients met.
#[derive(Default)]
struct Met {
    enough: AtomicBool,
    answers: AtomicUsize,
    connections: AtomicUsize,
}

/// A client with one pooled connection: it goes on with it until it is told not to, and never asks twice.
async fn http1(gate: &Gate, token: &str, pause: Duration, met: &Met) -> Result<()> {
    let mut pooled: Option<Wire> = None;
    while !met.enough.load(SeqCst) {
        // as pools do: a connection that has been idle for too long is looked at
        let mut wire = match pooled.take().filter(|w| !w.is_closed()) {
            Some(wire) => wire,
            None => {
                met.connections.fetch_add(1, SeqCst);
                gate.wire().await?
            }
        };
        let reply = wire.ask(get("/1", token)).await.context("a request is lost")?;
        ensure!(reply.status == 200 && reply.text() == "done", "{reply:?}");
        met.answers.fetch_add(1, SeqCst);
        if reply.header("connection") == Some("close") {
            ensure!(wire.rest().await?.is_empty(), "more came after the last answer");
        } else {
            pooled = Some(wire);
        }
        sleep(pause).await;
    }
    Ok(())
}

/// The same in HTTP/2; a request that hyper gives back was never sent.
async fn http2(gate: &Gate, token: &str, pause: Duration, met: &Met) -> Result<()> {
    let mut pooled = None;
    while !met.enough.load(SeqCst) {
        let mut sender = match pooled.take() {
            Some(sender) => sender,
            None => {
                met.connections.fetch_add(1, SeqCst);
                gate.http2().await?
            }
        };
        if sender.ready().await.is_err() {
            continue;
        }
        let request = Request::get("http://shop/1").header("authorization", format!("Bearer {token}"));
        match sender.try_send_request(request.body(Full::default())?).await {
            Ok(answer) => {
                ensure!(answer.status() == 200, "{answer:?}");
                ensure!(answer.into_body().collect().await?.to_bytes() == "done");
                met.answers.fetch_add(1, SeqCst);
            }
            Err(mut error) => match error.take_message() {
                Some(_) => continue,
                None => bail!("a request is lost: {:?}", error.into_error()),
            },
        }
        pooled = Some(sender);
        sleep(pause).await;
    }
    Ok(())
}

/// What the clients of each protocol met so far: answers and connections.
fn counted(met: &[Met; 2]) -> [(usize, usize); 2] {
    met.each_ref().map(|m| (m.answers.load(SeqCst), m.connections.load(SeqCst)))
}

/// Leaves while there is load, and judges what its clients meet from then on.
async fn leaves_under_load(gate: &Gate, met: &[Met; 2]) -> Result<()> {
    let begun = Instant::now();
    let mut before = counted(met);
    while !before.iter().all(|(answers, connections)| *answers > 20 && *connections == 8) {
        ensure!(begun.elapsed() < PATIENCE, "{before:?}");
        sleep(Duration::from_millis(50)).await;
        before = counted(met);
    }
    let begun = Instant::now();
    leave(gate).await?;
    // longer than what is idle may stay
    sleep(Duration::from_millis(3_500)).await;
    loop {
        let now = counted(met);
        let since = [0_usize, 1].map(|n| (now[n].0 - before[n].0, now[n].1 - before[n].1));
        let [(answers1, connections1), (answers2, connections2)] = since;
        // in HTTP/1 a connection for each request from then on, in HTTP/2 one every two seconds
        let most = 8 * usize::try_from(begun.elapsed().as_millis())? / 2_000 + 8 * 2;
        ensure!(connections2 <= most, "at most {most}: {since:?}");
        if answers1 > 100 && connections1 > answers1 / 4 && answers2 > 100 && connections2 >= 14 {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{since:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

// on one thread: on several, hyper's client may give up a request that it has sent when it reads GOAWAY at that very moment
#[tokio::test]
async fn nothing_is_lost_under_load() -> Result<()> {
    let app = App::slow().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let (token, met) = (issuer.token(ALICE)?, [Met::default(), Met::default()]);
    let mut clients: Vec<std::pin::Pin<Box<dyn Future<Output = Result<()>>>>> = Vec::new();
    for pause in [0, 0, 3, 10, 40, 150, 400, 900].map(Duration::from_millis) {
        clients.push(Box::pin(http1(&gate, &token, pause, &met[0])));
        clients.push(Box::pin(http2(&gate, &token, pause, &met[1])));
    }
    let work = async {
        let worked = leaves_under_load(&gate, &met).await;
        met.iter().for_each(|m| m.enough.store(true, SeqCst));
        worked
    };
    let (clients, worked) = tokio::join!(futures_util::future::join_all(clients), work);
    clients.into_iter().collect::<Result<Vec<()>>>()?;
    // and none came to the app twice, or without an answer
    let answers: usize = met.iter().map(|m| m.answers.load(SeqCst)).sum();
    ensure!(app.requests() == answers, "{} requests, {answers} answers", app.requests());
    worked
}

#[tokio::test]
async fn it_admits_and_serves_what_comes_and_says_that_it_leaves() -> Result<()> {
    let app = App::slow().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    ensure!(gate.ask(HEALTH).await?.status == 200 && !gate.status().await?.leaving);
    leave(&gate).await?;
    for _ in 0..2 {
        for (ask, status) in [
            (HEALTH.to_owned(), 503),
            (get("/0", &token), 200),
            (get("/0", "x"), 401),
            (get("/_syp", "x"), 404),
        ] {
            let mut wire = gate.wire().await?;
            let reply = wire.ask(ask).await?;
            ensure!(reply.status == status && reply.header("connection") == Some("close"), "{reply:?}");
            ensure!(soon("the end", wire.rest()).await??.is_empty());
        }
        let request = Request::get("http://shop/0").header("authorization", format!("Bearer {token}"));
        let answer = gate.http2().await?.send_request(request.body(Full::default())?).await?;
        ensure!(answer.status() == 200 && !answer.headers().contains_key("connection"), "{answer:?}");
        ensure!(gate.socket(&token).await.is_ok(), "a new tunnel");
        // neither another configuration nor another word changes that
        gate.push(&next(&first, |_| {})).await?;
        leave(&gate).await?;
        let status = gate.status().await?;
        ensure!(status.leaving && status.mode == Mode::Serve, "{status:?}");
    }
    // a drain that is called off leaves it where it was
    gate.push(&next(&first, |c| (c.generation, c.mode) = (10, Mode::Drain))).await?;
    ensure!(gate.get("/0", &token).await?.status == 503);
    gate.push(&next(&first, |c| c.generation = 11)).await?;
    ensure!(gate.get("/0", &token).await?.header("connection") == Some("close"));
    ensure!(gate.ask(HEALTH).await?.status == 503);
    Ok(())
}

#[tokio::test]
async fn what_is_under_way_goes_on_for_as_long_as_it_takes() -> Result<()> {
    let app = App::slow().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let (mut tunnel, mut wire, mut half) =
        (gate.socket(&token).await?, gate.wire().await?, gate.wire().await?);
    let (mut sender, auth) = (gate.http2().await?, format!("Bearer {token}"));
    let request = Request::get("http://shop/5000").header("authorization", auth).body(Full::default())?;
    let stream = tokio::spawn(sender.send_request(request));
    wire.send(get("/5000", &token)).await?;
    // one that was used, and is in the middle of its next head
    ensure!(half.ask(get("/0", &token)).await?.status == 200);
    let head = get("/0", &token);
    let (begin, rest) = head.split_at(30);
    half.send(begin).await?;
    sleep(Duration::from_millis(100)).await;
    leave(&gate).await?;
    sleep(Duration::from_millis(4_200)).await;
    let reply = half.ask(rest).await.context("the half head")?;
    ensure!(reply.status == 200 && reply.header("connection") == Some("close"), "{reply:?}");
    let reply = wire.reply().await?;
    ensure!(reply.text() == "done" && reply.header("connection") == Some("close"), "{reply:?}");
    ensure!(soon("the end", wire.rest()).await??.is_empty());
    ensure!(gather(stream.await??).await?.1 == "done");
    tunnel.send("still").await?;
    ensure!(tunnel.take(5).await? == b"still");
    ensure!(gate.status().await?.tunnels == 1);
    Ok(())
}

#[tokio::test]
async fn connections_that_are_idle_end_after_a_while() -> Result<()> {
    let app = App::slow().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let (mut used, mut silent, sender) = (gate.wire().await?, gate.wire().await?, gate.http2().await?);
    ensure!(used.ask(get("/0", &token)).await?.status == 200);
    let mut working = gate.wire().await?;
    working.send(get("/held", &token)).await?;
    until("it is under way", async || Ok(app.requests() == 2)).await?;
    let since = Instant::now();
    leave(&gate).await?;
    for wire in [&mut used, &mut silent] {
        ensure!(soon("the end", wire.rest()).await??.is_empty());
        ensure!(since.elapsed() > Duration::from_millis(1_800), "{:?}", since.elapsed());
    }
    app.let_go();
    ensure!(working.reply().await?.status == 200);
    until("HTTP/2 too", async || Ok(sender.is_closed())).await?;
    // what comes later has its time too
    let (mut late, since) = (gate.wire().await?, Instant::now());
    sleep(Duration::from_millis(300)).await;
    ensure!(late.ask(get("/0", &token)).await?.status == 200, "after {:?}", since.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_gate_that_leaves_ends_as_any_other() -> Result<()> {
    let app = App::slow().await?;
    let (mut gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let mut wire = gate.wire().await?;
    wire.send(get("/held", &token)).await?;
    until("it is under way", async || Ok(app.requests() == 1)).await?;
    leave(&gate).await?;
    gate.terminate().await?;
    until("it drains", async || Ok(gate.status().await?.mode == Mode::Drain)).await?;
    ensure!(gate.get("/0", &token).await?.status == 503);
    app.let_go();
    ensure!(wire.reply().await?.text() == "done");
    ensure!(soon("the process to end", gate.child.wait()).await??.success());
    Ok(())
}

async fn command(more: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_syp-gate")).arg("leave").args(more).output().await?)
}

#[tokio::test]
async fn the_command_tells_the_gate_and_waits() -> Result<()> {
    let gate = Arc::new(Gate::bare(&[]).await?);
    let directory = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = directory.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (good, bad) = (file("good", ADMIN_TOKEN)?, file("bad", "the-token-of-another-gate")?);
    let admin = gate.admin.to_string();
    let failed = |output: Output, words: &str| -> Result<()> {
        let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(output.status.code() == Some(1) && said["event"] == "error", "{output:?}");
        ensure!(said["message"].as_str().is_some_and(|m| m.contains(words)), "{said}");
        Ok(())
    };
    failed(command(&["--admin", &admin, "--admin-token-file", &bad]).await?, "401")?;
    failed(command(&["--admin", &admin, "--admin-token-file", "/none"]).await?, "/none")?;
    ensure!(!gate.status().await?.leaving);
    let since = Instant::now();
    let output = command(&["--admin", &admin, "--admin-token-file", &good, "--wait-ms", "700"]).await?;
    ensure!(output.status.success() && since.elapsed() >= Duration::from_millis(700), "{output:?}");
    ensure!(gate.status().await?.leaving);
    drop(gate);
    // refused, or taken by a listener that was just closing
    failed(command(&["--admin", &admin, "--admin-token-file", &good]).await?, "connect")
}
