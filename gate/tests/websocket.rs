//! Upgraded connections.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::{Response, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::common::app::{full, socket};
use crate::common::{ALICE, App, Gate, Issuer, MALLORY, allow, get, heard, next, soon, until, upgrade};

#[tokio::test]
async fn a_websocket_opens_and_bytes_go_both_ways() -> Result<()> {
    let app = App::http1(socket).await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let mut wire = gate.wire().await?;
    // the first frame may come right behind the head
    wire.send(format!("{}first", upgrade(&issuer.token(ALICE)?))).await?;
    let reply = wire.head().await?;
    ensure!(reply.status == 101 && reply.header("upgrade") == Some("websocket"), "{reply:?}");
    ensure!(
        reply.header("sec-websocket-accept").is_some() && reply.header("x-who") == Some(ALICE),
        "{reply:?}"
    );
    ensure!(wire.take(5).await? == b"first");
    let large = vec![7; 1 << 20];
    let (mut read, mut write) = wire.stream.split();
    let mut back = vec![0; large.len()];
    let (sent, got) = soon("a megabyte and back", async {
        tokio::join!(write.write_all(&large), read.read_exact(&mut back))
    })
    .await?;
    sent?;
    got?;
    ensure!(back == large, "other bytes came back");
    let status = gate.status().await?;
    ensure!(status.tunnels == 1 && status.in_flight == 0, "{status:?}");
    // a side that only stops sending still gets what is under way
    write.write_all(b"last").await?;
    write.shutdown().await?;
    let mut rest = Vec::new();
    soon("the end", read.read_to_end(&mut rest)).await??;
    ensure!(rest == b"last", "{rest:?}");
    until("it is counted as ended", async || Ok(gate.status().await?.tunnels == 0)).await?;
    ensure!(gate.status().await?.in_flight == 0);
    Ok(())
}

#[tokio::test]
async fn an_app_that_stops_sending_first_still_hears_the_client() -> Result<()> {
    let app = App::raw(|mut stream, _| async move {
        let mut head = [0; 4096];
        let n = stream.read(&mut head).await.unwrap_or(0);
        if !head[..n].starts_with(b"GET /ws") {
            return;
        }
        let text = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbye";
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        SAID.lock().extend(said);
    })
    .await?;
    static SAID: parking_lot::Mutex<Vec<u8>> = parking_lot::Mutex::new(Vec::new());
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let mut wire = gate.wire().await?;
    wire.send(upgrade(&issuer.token(ALICE)?)).await?;
    ensure!(wire.head().await?.status == 101);
    ensure!(wire.rest().await? == b"bye");
    for _ in 0..10 {
        wire.send("0123456789").await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(wire);
    until("the app heard it all", async || Ok(SAID.lock().len() == 100)).await
}

#[tokio::test]
async fn only_who_may_call_gets_a_websocket() -> Result<()> {
    let app = App::http1(socket).await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    ensure!(gate.ask(upgrade("none")).await?.status == 401);
    ensure!(gate.ask(upgrade(&issuer.token(MALLORY)?)).await?.status == 403);
    ensure!(app.requests() == 0);
    Ok(())
}

#[tokio::test]
async fn an_app_may_say_no_and_the_connection_goes_on() -> Result<()> {
    let app = App::http1(|_| async {
        let mut answer = Response::new(full("no sockets here"));
        *answer.status_mut() = StatusCode::FORBIDDEN;
        answer
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let mut wire = gate.wire().await?;
    for request in [upgrade(&token), get("/", &token), upgrade(&token)] {
        let reply = wire.ask(request).await?;
        ensure!(reply.status == 403 && reply.text() == "no sockets here", "{reply:?}");
    }
    Ok(())
}

#[tokio::test]
async fn other_upgrades_are_not_passed_on() -> Result<()> {
    let app = App::http1(socket).await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    for lines in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Upgrade: websocket\r\n",
    ] {
        let reply = gate
            .ask(format!("GET / HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\n{lines}\r\n"))
            .await?;
        let said = reply.json()?;
        ensure!(
            reply.status == 200
                && heard(&said, "upgrade").is_empty()
                && heard(&said, "connection").is_empty(),
            "{lines}: {said}"
        );
        ensure!(heard(&said, "http2-settings").is_empty(), "{lines}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_no_answer() -> Result<()> {
    let app = App::raw(|mut stream, _| async move {
        let _ = stream.read(&mut [0; 4096]).await;
        let text = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let _ = stream.write_all(text.as_bytes()).await;
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let reply = gate.get("/", &issuer.token(ALICE)?).await?;
    ensure!(reply.status == 502, "{reply:?}");
    Ok(())
}

#[tokio::test]
async fn a_websocket_of_who_lost_access_is_cut_and_another_ones_goes_on() -> Result<()> {
    let app = App::http1(socket).await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let both = next(&first, |c| c.policy = allow(&[ALICE, MALLORY]));
    gate.serve(&both).await?;
    let (mut alice, mut mallory) =
        (gate.socket(&issuer.token(ALICE)?).await?, gate.socket(&issuer.token(MALLORY)?).await?);
    let since = Instant::now();
    gate.push(&next(&both, |c| c.policy = allow(&[ALICE]))).await?;
    ensure!(soon("the cut", mallory.rest()).await??.is_empty());
    ensure!(since.elapsed() < Duration::from_secs(20), "cut after {:?}", since.elapsed());
    alice.send("still").await?;
    ensure!(alice.take(5).await? == b"still");
    until("the log has the cut", async || Ok(gate.printed().contains("POLICY_CHANGED"))).await
}

#[tokio::test]
async fn a_websocket_is_cut_when_its_token_would_no_longer_be_accepted() -> Result<()> {
    let app = App::http1(socket).await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    // another audience
    let mut wire = gate.socket(&issuer.token(ALICE)?).await?;
    let second = next(&first, |c| c.audiences = vec!["https://other.example".to_owned()]);
    gate.push(&second).await?;
    ensure!(soon("the cut for the audience", wire.rest()).await??.is_empty());
    // another key of the same issuer
    let third = next(&second, |c| c.audiences = first.audiences.clone());
    gate.serve(&third).await?;
    let mut wire = gate.socket(&issuer.token(ALICE)?).await?;
    let rotated = Issuer::new(&issuer.name, "key-2")?;
    let keys = rotated.config()?;
    gate.push(&next(&third, |c| c.issuers = vec![keys])).await?;
    ensure!(soon("the cut for the key", wire.rest()).await??.is_empty());
    ensure!(gate.socket(&rotated.token(ALICE)?).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_websocket_is_cut_when_its_token_expires() -> Result<()> {
    let app = App::http1(socket).await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    // open before the token expires: one that comes later is let in by the leeway
    let mut open = None;
    for _ in 0..20 {
        let exp = syp_auth::unix_now() + 2;
        open = Some(gate.socket(&issuer.token_with(ALICE, "exp", json!(exp))?).await?);
        if syp_auth::unix_now() < exp {
            break;
        }
    }
    let mut wire = open.context("a socket")?;
    ensure!(soon("the cut", wire.rest()).await??.is_empty());
    until("the log says why", async || Ok(gate.printed().contains("TOKEN_EXPIRED"))).await?;
    let line = gate.printed().lines().find(|l| l.contains("TOKEN_EXPIRED")).map(str::to_owned);
    let line: serde_json::Value = serde_json::from_str(&line.context("a line")?)?;
    ensure!(line["status"] == 101 && line["bytes_in"] == 5 && line["bytes_out"] == 5, "{line}");
    Ok(())
}
