//! Drains: what is under way finishes, up to a deadline; new requests are told to go elsewhere.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::Request;
use http_body_util::Full;
use hyper::body::Incoming;
use syp_auth::door::{GateConfig, Mode};
use tokio::time::Instant;

use crate::common::app::socket;
use crate::common::{ALICE, App, Gate, Issuer, LIMIT, config, gather, get, next, soon, until};

const HEALTH: &str = "GET /_syp/health HTTP/1.1\r\nHost: shop\r\n\r\n";

fn drain(config: &GateConfig, ms: u64) -> GateConfig {
    next(config, |c| (c.mode, c.drain_deadline_ms) = (Mode::Drain, ms))
}

#[tokio::test]
async fn a_new_connection_during_a_drain_gets_a_real_503() -> Result<()> {
    let app = App::slow().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    gate.push(&drain(&first, 60_000)).await?;
    // several, as each may meet the gate in another moment
    for _ in 0..20 {
        let reply = gate.get("/0", &issuer.token(ALICE)?).await?;
        ensure!(reply.status == 503 && gate.reason(&reply).await? == "DRAINING", "{reply:?}");
        ensure!(
            reply.header("retry-after").is_some() && reply.header("connection") == Some("close"),
            "{reply:?}"
        );
        ensure!(reply.json()?["error"] == "unavailable", "{reply:?}");
    }
    // and one that says nothing for a moment
    let mut wire = gate.wire().await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(wire.ask(get("/0", &issuer.token(ALICE)?)).await?.status == 503);
    ensure!(gate.ask(HEALTH).await?.status == 503);
    let request =
        Request::get("http://shop/0").header("authorization", format!("Bearer {}", issuer.token(ALICE)?));
    let answer =
        soon("an answer", gate.http2().await?.send_request(request.body(Full::default())?)).await??;
    ensure!(gather(answer).await?.0.status == 503);
    ensure!(app.requests() == 0);
    Ok(())
}

#[tokio::test]
async fn a_connection_that_was_open_before_the_drain_gets_a_503_too() -> Result<()> {
    let app = App::slow().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let mut silent = gate.wire().await?;
    let mut kept = gate.wire().await?;
    ensure!(kept.ask(get("/0", &issuer.token(ALICE)?)).await?.status == 200);
    until("both are accepted", async || Ok(gate.metrics().await?.more.get("connections") == Some(&2)))
        .await?;
    gate.push(&drain(&first, 60_000)).await?;
    ensure!(silent.ask(get("/0", &issuer.token(ALICE)?)).await?.status == 503);
    // one with nothing under way is closed; a client sees that before it asks again
    ensure!(soon("the end", kept.rest()).await??.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_is_under_way_finishes_and_its_connection_ends() -> Result<()> {
    let app = App::slow().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let mut wire = gate.wire().await?;
    wire.send(get("/held", &token)).await?;
    let (mut sender, auth) = (gate.http2().await?, format!("Bearer {token}"));
    let request = Request::get("http://shop/held").header("authorization", &auth).body(Full::default())?;
    let http2 = sender.send_request(request);
    let work = async {
        until("both are under way", async || Ok(app.requests() == 2)).await?;
        gate.push(&drain(&first, 60_000)).await?;
        let status = gate.status().await?;
        ensure!(status.mode == Mode::Drain && status.in_flight == 2, "{status:?}");
        Ok(())
    };
    // also when that went wrong: nobody is left waiting
    let work = async {
        let worked: Result<()> = work.await;
        app.let_go();
        worked
    };
    let (answer, worked) = tokio::join!(http2, work);
    worked?;
    let (parts, body) = gather(answer?).await?;
    ensure!(parts.status == 200 && body == "done");
    let reply = wire.reply().await?;
    ensure!(
        reply.status == 200 && reply.text() == "done" && reply.header("connection") == Some("close"),
        "{reply:?}"
    );
    ensure!(wire.rest().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_is_still_under_way_at_the_deadline_is_cut() -> Result<()> {
    let app = App::http1(|request: Request<Incoming>| async move {
        if request.headers().contains_key("upgrade") {
            return socket(request).await;
        }
        std::future::pending().await
    })
    .await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let (mut tunnel, mut wire, mut sender) =
        (gate.socket(&token).await?, gate.wire().await?, gate.http2().await?);
    wire.send(get("/", &token)).await?;
    let request = Request::get("http://shop/")
        .header("authorization", format!("Bearer {token}"))
        .body(Full::default())?;
    let http2 = tokio::spawn(sender.send_request(request));
    until("all are under way", async || Ok(app.requests() == 3)).await?;
    let since = Instant::now();
    gate.push(&drain(&first, 8_000)).await?;
    tunnel.send("still").await?;
    ensure!(tunnel.take(5).await? == b"still");
    ensure!(soon("the tunnel's end", tunnel.rest()).await??.is_empty());
    ensure!(since.elapsed() >= Duration::from_millis(7_950), "cut after {:?}", since.elapsed());
    ensure!(soon("the request's end", wire.rest()).await??.is_empty());
    ensure!(soon("the stream's end", http2).await??.is_err());
    ensure!(since.elapsed() < LIMIT, "cut after {:?}", since.elapsed());
    until("nothing is left", async || {
        let status = gate.status().await?;
        Ok(status.in_flight == 0 && status.tunnels == 0)
    })
    .await?;
    until("the log says why", async || Ok(gate.printed().matches("\"DRAINED\"").count() == 3)).await
}

#[tokio::test]
async fn a_drain_that_is_called_off_lets_requests_in_again() -> Result<()> {
    let app = App::slow().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let mut wire = gate.wire().await?;
    wire.send(get("/held", &token)).await?;
    until("it is under way", async || Ok(app.requests() == 1)).await?;
    let second = drain(&first, 8_000);
    gate.push(&second).await?;
    let since = Instant::now();
    ensure!(gate.get("/0", &token).await?.status == 503);
    gate.push(&next(&second, |c| c.mode = Mode::Serve)).await?;
    ensure!(gate.get("/0", &token).await?.status == 200 && gate.ask(HEALTH).await?.status == 200);
    // beyond the deadline of the drain that is no more
    tokio::time::sleep_until(since + Duration::from_millis(8_300)).await;
    app.let_go();
    let reply = wire.reply().await?;
    ensure!(reply.status == 200, "{reply:?}");
    Ok(())
}

async fn ended(gate: &mut Gate) -> Result<()> {
    let status = soon("the process to end", gate.child.wait()).await??;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_gate_that_is_told_to_end_finishes_what_is_under_way_and_goes() -> Result<()> {
    let app = App::slow().await?;
    let (mut gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let mut wire = gate.wire().await?;
    wire.send(get("/held", &token)).await?;
    until("it is under way", async || Ok(app.requests() == 1)).await?;
    gate.terminate().await?;
    until("it drains", async || Ok(gate.status().await?.mode == Mode::Drain)).await?;
    ensure!(gate.get("/0", &token).await?.status == 503);
    app.let_go();
    let reply = wire.reply().await?;
    ensure!(reply.status == 200 && reply.text() == "done", "{reply:?}");
    ended(&mut gate).await
}

#[tokio::test]
async fn a_gate_that_is_told_to_end_goes_at_the_deadline_whatever_hangs() -> Result<()> {
    let app = App::http1(|_| std::future::pending()).await?;
    let mut gate = Gate::bare(&["--stop-seconds", "1", "--max-connections", "2"]).await?;
    let issuer = Issuer::new("https://issuer.example", "key-1")?;
    gate.serve(&config(&issuer, &[&app])?).await?;
    let token = issuer.token(ALICE)?;
    // as many as there are places, on whatever worker they land
    let mut hanging = Vec::new();
    for _ in 0..16 {
        let mut wire = gate.wire().await?;
        wire.send(get("/", &token)).await?;
        hanging.push(wire);
    }
    until("both workers are full", async || Ok(app.requests() == 2)).await?;
    let since = Instant::now();
    gate.terminate().await?;
    ended(&mut gate).await.context("a gate with all places taken")?;
    ensure!(since.elapsed() > Duration::from_millis(800), "{:?}", since.elapsed());
    // the last lines are not lost with the process
    until("the log has what was cut", async || Ok(gate.printed().matches("\"DRAINED\"").count() == 2))
        .await?;
    Ok(())
}
