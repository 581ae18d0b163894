//! What is under way ends when its caller loses access, and nobody else's does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use syp_auth::door::GateConfig;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::common::app::{Answer, Body, channel, frames, full};
use crate::common::{ALICE, App, Gate, Issuer, MALLORY, Wire, allow, get, next, soon, until};

/// The limit for a change to be effective everywhere.
const EFFECTIVE: Duration = Duration::from_secs(20);

/// A gate that lets alice and mallory in, and the configuration with which it lets only alice in.
async fn both(app: &App) -> Result<(Gate, Issuer, GateConfig)> {
    let (gate, issuer, first) = Gate::before(&[app]).await?;
    let both = next(&first, |c| c.policy = allow(&[ALICE, MALLORY]));
    gate.serve(&both).await?;
    Ok((gate, issuer, next(&both, |c| c.policy = allow(&[ALICE]))))
}

/// Sends an event every 20 ms for as long as somebody listens.
pub async fn ticker() -> Result<App> {
    App::http1(|_| async {
        let (send, body) = channel();
        tokio::spawn(async move {
            while send.send(Frame::data(Bytes::from_static(b"data: tick\n\n"))).is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut answer = Response::new(body);
        answer.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
        answer
    })
    .await
}

pub async fn events(gate: &Gate, token: &str) -> Result<Wire> {
    let mut wire = gate.wire().await?;
    wire.send(get("/events", token)).await?;
    ensure!(wire.head().await?.status == 200);
    wire.until(b"data: tick\n\n").await?;
    Ok(wire)
}

/// Until the gate's end of an answer, which must not look whole.
pub async fn cut(mut wire: Wire) -> Result<()> {
    let rest = soon("the cut", wire.rest()).await??;
    ensure!(!rest.ends_with(b"0\r\n\r\n"), "it ended as if it were whole");
    Ok(())
}

/// As [`cut`], for HTTP/2.
async fn reset(mut body: Incoming) -> Result<()> {
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return Ok(());
        }
    }
    bail!("it ended as if it were whole")
}

#[tokio::test]
async fn an_event_stream_of_who_lost_access_is_cut_and_another_ones_goes_on() -> Result<()> {
    let app = ticker().await?;
    let (gate, issuer, only_alice) = both(&app).await?;
    let mut alice = events(&gate, &issuer.token(ALICE)?).await?;
    let mallory = events(&gate, &issuer.token(MALLORY)?).await?;
    let since = Instant::now();
    gate.push(&only_alice).await?;
    cut(mallory).await?;
    ensure!(since.elapsed() < EFFECTIVE, "cut after {:?}", since.elapsed());
    // for longer than a change may take
    while since.elapsed() < Duration::from_millis(2_500) {
        alice.until(b"data: tick\n\n").await?;
    }
    ensure!(gate.status().await?.in_flight == 1);
    until("the log has the cut", async || Ok(gate.printed().contains("POLICY_CHANGED"))).await
}

#[tokio::test]
async fn a_silent_stream_is_cut_too_and_the_app_hears_of_it() -> Result<()> {
    let open: Arc<AtomicUsize> = Arc::default();
    let count = open.clone();
    let app = App::http1(move |_| {
        let count = count.clone();
        async move {
            let (send, body) = channel();
            let _ = send.send(Frame::data(Bytes::from_static(b"data: tick\n\n")));
            tokio::spawn(async move {
                count.fetch_add(1, SeqCst);
                send.closed().await;
                count.fetch_sub(1, SeqCst);
            });
            Response::new(body)
        }
    })
    .await?;
    let (gate, issuer, only_alice) = both(&app).await?;
    let (_alice, mallory) =
        (events(&gate, &issuer.token(ALICE)?).await?, events(&gate, &issuer.token(MALLORY)?).await?);
    let by_http2 = stream(&mut http2_to(&gate).await?, &issuer.token(MALLORY)?).await?;
    let since = Instant::now();
    gate.push(&only_alice).await?;
    cut(mallory).await?;
    soon("the reset", reset(by_http2)).await??;
    until("the app heard", async || Ok(open.load(SeqCst) == 1)).await?;
    ensure!(since.elapsed() < EFFECTIVE, "cut after {:?}", since.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_stream_is_cut_when_its_token_would_no_longer_be_accepted() -> Result<()> {
    let app = ticker().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let wire = events(&gate, &token).await?;
    let rotated = Issuer::new(&issuer.name, "key-2")?;
    let keys = rotated.config()?;
    gate.push(&next(&first, |c| c.issuers = vec![keys])).await?;
    cut(wire).await?;
    until("the log says why", async || Ok(gate.printed().contains("TOKEN_KEY_UNKNOWN"))).await?;
    Ok(())
}

#[tokio::test]
async fn a_stream_outlives_its_token_for_a_while_and_nothing_else_that_takes_access_away() -> Result<()> {
    let app = ticker().await?;
    let (gate, issuer, only_alice) = both(&app).await?;
    let short = |who| issuer.token_with(who, "exp", json!(syp_auth::unix_now() + 2));
    let (mut alice, mut mallory) =
        (events(&gate, &short(ALICE)?).await?, events(&gate, &short(MALLORY)?).await?);
    // tokens of five minutes are common, and a download may take six
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(4_500) {
        alice.until(b"data: tick\n\n").await?;
        mallory.until(b"data: tick\n\n").await?;
    }
    gate.push(&only_alice).await?;
    cut(mallory).await?;
    until("the log says why", async || Ok(gate.printed().contains("POLICY_CHANGED"))).await?;
    alice.until(b"data: tick\n\n").await?;
    let other = Issuer::new(&issuer.name, "key-2")?.config()?;
    gate.push(&next(&only_alice, |c| c.issuers = vec![other])).await?;
    cut(alice).await?;
    until("the log says why", async || Ok(gate.printed().contains("TOKEN_KEY_UNKNOWN"))).await
}

#[tokio::test]
async fn a_download_whose_client_takes_nothing_is_cut_and_its_app_is_freed() -> Result<()> {
    let app = App::http1(|request: Request<Incoming>| async move {
        let piece = Bytes::from(vec![7; 1 << 20]);
        let count = if request.uri().path() == "/large" { 512 } else { 1 };
        Response::new(frames((0..count).map(|_| (Duration::ZERO, Frame::data(piece.clone()))).collect()))
    })
    .await?;
    let (gate, issuer, only_alice) = both(&app).await?;
    let mut wire = gate.wire().await?;
    wire.send(get("/large", &issuer.token(MALLORY)?)).await?;
    ensure!(wire.head().await?.status == 200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let since = Instant::now();
    gate.push(&only_alice).await?;
    // the client reads nothing in all this time
    until("it is over", async || Ok(gate.status().await?.in_flight == 0)).await?;
    ensure!(since.elapsed() < EFFECTIVE, "over after {:?}", since.elapsed());
    let (mut total, mut buffer) = (0, vec![0; 1 << 16]);
    while let Ok(n @ 1..) = soon("more", wire.stream.read(&mut buffer)).await? {
        total += n;
    }
    ensure!(total < 64 << 20, "{total} bytes came after the cut");
    Ok(())
}

#[tokio::test]
async fn a_request_that_still_waits_for_its_answer_is_refused() -> Result<()> {
    let app = App::http1(|request: Request<Incoming>| async move {
        // reads all that comes and never answers
        let _ = request.into_body().collect().await;
        std::future::pending::<Answer>().await
    })
    .await?;
    let (gate, issuer, only_alice) = both(&app).await?;
    let token = issuer.token(MALLORY)?;
    let (mut waits, mut uploads) = (gate.wire().await?, gate.wire().await?);
    waits.send(get("/", &token)).await?;
    uploads
        .send(
            get("/", &token)
                .replace("GET", "POST")
                .replace("\r\n\r\n", "\r\nContent-Length: 9999\r\n\r\nbegin"),
        )
        .await?;
    until("both are under way", async || Ok(app.requests() == 2)).await?;
    let since = Instant::now();
    gate.push(&only_alice).await?;
    for wire in [&mut waits, &mut uploads] {
        let reply = wire.reply().await?;
        ensure!(reply.status == 403 && gate.reason(&reply).await? == "POLICY_CHANGED", "{reply:?}");
        ensure!(reply.header("connection") == Some("close"), "{reply:?}");
    }
    ensure!(since.elapsed() < EFFECTIVE, "refused after {:?}", since.elapsed());
    ensure!(gate.get("/", &token).await?.status == 403);
    Ok(())
}

/// Sends each message back and counts them.
async fn chat(heard: Arc<AtomicUsize>, request: Request<Incoming>) -> Answer {
    let mut incoming = request.into_body();
    let (send, body) = channel();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = incoming.frame().await {
            if let Ok(data) = frame.into_data() {
                heard.fetch_add(1, SeqCst);
                let _ = send.send(Frame::data(data));
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = send.send(Frame::trailers(trailers));
    });
    let mut answer = Response::new(body);
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    answer
}

/// A connection of its own that speaks HTTP/2, for bodies that go on.
async fn http2_to(gate: &Gate) -> Result<http2::SendRequest<Body>> {
    let stream = TcpStream::connect(gate.traffic).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// An answer that goes on.
async fn stream(sender: &mut http2::SendRequest<Body>, token: &str) -> Result<Incoming> {
    let request = Request::get("http://shop/events").header("authorization", format!("Bearer {token}"));
    let request = request.body(full(""))?;
    Ok(soon("an answer", sender.send_request(request)).await??.into_body())
}

#[tokio::test]
async fn a_grpc_call_of_who_lost_access_ends_with_a_status_and_another_ones_goes_on() -> Result<()> {
    let heard: Arc<AtomicUsize> = Arc::default();
    let count = heard.clone();
    let app = App::h2c(move |request| chat(count.clone(), request)).await?;
    let (gate, issuer, only_alice) = both(&app).await?;
    // on one connection, as a proxy of several users has it
    let mut sender = http2_to(&gate).await?;
    let mut call = async |user: &str| {
        let (send, body) = channel();
        let request = Request::post("http://shop/pkg.Service/Chat")
            .header("authorization", format!("Bearer {}", issuer.token(user)?))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)?;
        let answer = soon("an answer", sender.send_request(request)).await??;
        ensure!(answer.status() == 200, "{answer:?}");
        anyhow::Ok((send, answer.into_body()))
    };
    let (alice, mut to_alice) = call(ALICE).await?;
    let (mallory, mut to_mallory) = call(MALLORY).await?;
    for (send, back) in [(&alice, &mut to_alice), (&mallory, &mut to_mallory)] {
        send.send(Frame::data(Bytes::from_static(b"hello")))?;
        let frame = soon("the message", back.frame()).await?.context("a frame")??;
        ensure!(frame.data_ref().is_some_and(|d| d == "hello"), "{frame:?}");
    }
    let since = Instant::now();
    gate.push(&only_alice).await?;
    let last = soon("the trailers", to_mallory.frame()).await?.context("a frame")??;
    let trailers = last.trailers_ref().context("trailers")?;
    ensure!(trailers["grpc-status"] == "7" && trailers["grpc-message"] == "forbidden", "{trailers:?}");
    ensure!(since.elapsed() < EFFECTIVE, "ended after {:?}", since.elapsed());
    // what the client still sends does not reach the app
    let before = heard.load(SeqCst);
    for _ in 0..10 {
        let _ = mallory.send(Frame::data(Bytes::from_static(b"more")));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ensure!(heard.load(SeqCst) == before, "the app heard what came after the end");
    for _ in 0..10 {
        alice.send(Frame::data(Bytes::from_static(b"still")))?;
        let frame = soon("the message", to_alice.frame()).await?.context("a frame")??;
        ensure!(frame.data_ref().is_some_and(|d| d == "still"), "{frame:?}");
    }
    drop(alice);
    let last = soon("the end", to_alice.frame()).await?.context("a frame")??;
    ensure!(last.trailers_ref().is_some_and(|t| t["grpc-status"] == "0"), "{last:?}");
    until("the log has the cut", async || Ok(gate.printed().contains("POLICY_CHANGED"))).await
}

#[tokio::test]
async fn an_http2_stream_that_is_no_grpc_is_reset_and_its_connection_goes_on() -> Result<()> {
    let app = ticker().await?;
    let (gate, issuer, only_alice) = both(&app).await?;
    let mut sender = http2_to(&gate).await?;
    let mut alice = stream(&mut sender, &issuer.token(ALICE)?).await?;
    let mallory = stream(&mut sender, &issuer.token(MALLORY)?).await?;
    let since = Instant::now();
    gate.push(&only_alice).await?;
    soon("the reset", reset(mallory)).await??;
    ensure!(since.elapsed() < EFFECTIVE, "reset after {:?}", since.elapsed());
    for _ in 0..20 {
        ensure!(soon("an event", alice.frame()).await?.is_some_and(|f| f.is_ok()));
    }
    Ok(())
}
