//! Several replicas: who gets a request, and when it may go to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Result, ensure};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use syp_auth::door::Probe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::app::full;
use crate::common::{ALICE, App, Gate, get, next, until};

fn post(token: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\nContent-Length: 5\r\n\r\nhello"
    )
}

#[tokio::test]
async fn replicas_take_turns() -> Result<()> {
    let apps = [App::named("a").await?, App::named("b").await?, App::named("c").await?];
    let (gate, issuer, _) = Gate::before(&[&apps[0], &apps[1], &apps[2]]).await?;
    let (token, mut wire) = (issuer.token(ALICE)?, gate.wire().await?);
    for _ in 0..30 {
        ensure!(wire.ask(get("/", &token)).await?.status == 200);
    }
    let shares = apps.each_ref().map(App::requests);
    ensure!(shares.iter().all(|n| (8..=12).contains(n)), "{shares:?}");
    Ok(())
}

#[tokio::test]
async fn a_busy_replica_gets_less() -> Result<()> {
    let slow = App::http1(|_| std::future::pending()).await?;
    let fast = App::named("fast").await?;
    let (gate, issuer, _) = Gate::before(&[&slow, &fast]).await?;
    let token = issuer.token(ALICE)?;
    // all of them stay: one that goes would take its request along
    let mut waiting = Vec::new();
    while slow.requests() == 0 {
        let mut wire = gate.wire().await?;
        wire.send(get("/", &token)).await?;
        waiting.push(wire);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // what the fast one had of them is over
    until("only the slow one is busy", async || Ok(gate.status().await?.in_flight == slow.requests() as u64))
        .await?;
    for _ in 0..10 {
        ensure!(gate.get("/", &token).await?.text() == "fast");
    }
    drop(waiting);
    Ok(())
}

#[tokio::test]
async fn a_replica_that_fails_its_probe_gets_nothing_until_it_is_well_again() -> Result<()> {
    let (well, said) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (is_well, count) = (well.clone(), said.clone());
    let sick = App::http1(move |request: Request<Incoming>| {
        let (well, probe) = (is_well.load(SeqCst), request.uri().path() == "/ready");
        if !probe {
            count.fetch_add(1, SeqCst);
        }
        async move {
            let mut answer = Response::new(full("sick"));
            if probe && !well {
                *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            answer
        }
    })
    .await?;
    let good = App::named("good").await?;
    let (gate, issuer, first) = Gate::before(&[&sick, &good]).await?;
    let probe = Probe { path: Some("/ready".to_owned()), period_ms: 50, timeout_ms: 10_000 };
    gate.serve(&next(&first, |c| c.probe = probe)).await?;
    let ready = async || Ok::<_, anyhow::Error>(gate.status().await?.upstreams[0].ready);
    well.store(false, SeqCst);
    until("it is seen as sick", async || Ok(!ready().await?)).await?;
    until("it says why", async || Ok(gate.status().await?.upstreams[0].detail == "GET /ready answered 500"))
        .await?;
    let (token, before) = (issuer.token(ALICE)?, said.load(SeqCst));
    for _ in 0..10 {
        ensure!(gate.get("/", &token).await?.text() == "good");
    }
    ensure!(said.load(SeqCst) == before);
    well.store(true, SeqCst);
    until("it is seen as well", async || ready().await).await?;
    until("it gets requests", async || {
        gate.get("/", &token).await?;
        Ok(said.load(SeqCst) > before)
    })
    .await
}

/// Two replicas of which the first is gone although it passed its last probe.
async fn with_one_gone() -> Result<(Gate, String, App)> {
    let (gone, left) = (App::named("gone").await?, App::named("left").await?);
    let (gate, issuer, first) = Gate::before(&[&gone, &left]).await?;
    gate.serve(&next(&first, |c| c.probe.period_ms = 600_000)).await?;
    let address = gone.address;
    drop(gone);
    until("its port is closed", async || Ok(TcpStream::connect(address).await.is_err())).await?;
    ensure!(gate.status().await?.upstreams.iter().all(|u| u.ready), "the test came too late");
    Ok((gate, issuer.token(ALICE)?, left))
}

#[tokio::test]
async fn a_get_whose_connection_is_refused_goes_to_another_replica() -> Result<()> {
    let (gate, token, left) = with_one_gone().await?;
    for _ in 0..4 {
        let reply = gate.get("/", &token).await?;
        ensure!(reply.status == 200 && reply.text() == "left", "{reply:?}");
    }
    ensure!(left.requests() == 4);
    ensure!(gate.metrics().await?.more.get("connect_failures") == Some(&1));
    let status = gate.status().await?;
    ensure!(!status.upstreams[0].ready && status.upstreams[1].ready, "{status:?}");
    Ok(())
}

#[tokio::test]
async fn a_post_of_which_nothing_was_sent_reaches_one_replica_once() -> Result<()> {
    let (gate, token, left) = with_one_gone().await?;
    for _ in 0..4 {
        let reply = gate.ask(post(&token)).await?;
        ensure!(reply.status == 200 && reply.text() == "left", "{reply:?}");
    }
    ensure!(left.requests() == 4, "the app saw {} of 4", left.requests());
    Ok(())
}

/// An app that reads a request and dies; counts those it read. Probes only connect.
async fn dying(read: &Arc<AtomicUsize>) -> Result<App> {
    let read = read.clone();
    App::raw(move |mut stream: TcpStream, _| {
        let read = read.clone();
        async move {
            let mut head = [0; 4096];
            let n = stream.read(&mut head).await.unwrap_or(0);
            if head[..n].starts_with(b"PRI ") {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            } else if n > 0 {
                read.fetch_add(1, SeqCst);
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_request_that_an_app_has_read_is_never_sent_to_another() -> Result<()> {
    let read: Arc<AtomicUsize> = Arc::default();
    let (a, b) = (dying(&read).await?, dying(&read).await?);
    let (gate, issuer, _) = Gate::before(&[&a, &b]).await?;
    let token = issuer.token(ALICE)?;
    for (n, request) in
        [get("/", &token), post(&token), get("/", &token), post(&token)].into_iter().enumerate()
    {
        let reply = gate.ask(request).await?;
        ensure!(reply.status == 502 && gate.reason(&reply).await? == "UPSTREAM_BROKE_OFF", "{reply:?}");
        ensure!(read.load(SeqCst) == n + 1, "{} were read of {} sent", read.load(SeqCst), n + 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_kept_connection_that_the_app_closed_costs_no_request() -> Result<()> {
    // says nothing of closing, and closes
    let app = App::raw(|mut stream: TcpStream, _| async move {
        let mut head = [0; 4096];
        let n = stream.read(&mut head).await.unwrap_or(0);
        if !head[..n].starts_with(b"PRI ") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
        }
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let (token, mut wire) = (issuer.token(ALICE)?, gate.wire().await?);
    for n in 0..20 {
        let reply = wire.ask(if n % 2 == 0 { get("/", &token) } else { post(&token) }).await?;
        ensure!(reply.status == 200 && reply.text() == "hi", "{n}: {reply:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[tokio::test]
async fn connections_to_the_app_are_kept() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    gate.serve(&next(&first, |c| c.probe.period_ms = 600_000)).await?;
    let (token, mut wire) = (issuer.token(ALICE)?, gate.wire().await?);
    let before = app.connections();
    for n in 0..50 {
        let request = if n % 2 == 0 { get("/", &token) } else { post(&token) };
        ensure!(wire.ask(request).await?.status == 200);
    }
    let more = app.connections() - before;
    ensure!(more <= 2, "{more} connections for 50 requests");
    Ok(())
}

#[tokio::test]
async fn without_a_ready_replica_callers_are_told_to_come_back() -> Result<()> {
    let app = App::named("a").await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    drop(app);
    until("it is seen as gone", async || Ok(!gate.status().await?.upstreams[0].ready)).await?;
    let reply = gate.get("/", &token).await?;
    ensure!(reply.status == 503 && reply.header("retry-after") == Some("1"), "{reply:?}");
    ensure!(gate.reason(&reply).await? == "NO_REPLICA_READY");
    gate.push(&next(&first, |c| c.upstreams.clear())).await?;
    ensure!(gate.get("/", &token).await?.status == 503);
    Ok(())
}
