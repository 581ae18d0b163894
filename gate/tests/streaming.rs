//! Bodies stream: the first bytes arrive before the last are there, and none are gathered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::app::{bounded, channel, frames, full};
use crate::common::{ALICE, App, Gate, get, soon, until};

const LARGE: usize = 64 << 20;
/// What a gate may hold more than before while a large body passes, in KiB.
const MORE: u64 = 16 * 1024;

fn post(token: &str, length: usize) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn the_first_bytes_of_an_answer_arrive_before_the_app_has_the_rest() -> Result<()> {
    let app = App::http1(|_| async {
        let event = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
        let hour = Duration::from_secs(3600);
        let mut answer =
            Response::new(frames(vec![(Duration::ZERO, event("data: 1\n\n")), (hour, event("data: 2\n\n"))]));
        answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/event-stream"));
        answer
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let mut wire = gate.wire().await?;
    wire.send(get("/", &issuer.token(ALICE)?)).await?;
    ensure!(wire.head().await?.status == 200);
    ensure!(wire.until(b"data: 1\n\n").await?.ends_with(b"data: 1\n\n"));
    ensure!(gate.status().await?.in_flight == 1);
    // a client that goes away ends the app's work, and the log says so
    drop(wire);
    until("it is over", async || Ok(gate.status().await?.in_flight == 0)).await?;
    until("the log says why", async || Ok(gate.printed().contains("CLIENT_GONE"))).await
}

#[tokio::test]
async fn the_first_bytes_of_a_request_reach_the_app_before_the_client_has_sent_the_rest() -> Result<()> {
    let app = App::http1(|request: Request<Incoming>| async move {
        let mut body = request.into_body();
        let first = body.frame().await;
        let text = first.and_then(|f| f.ok()).and_then(|f| f.into_data().ok()).unwrap_or_default();
        // answers while the rest is still to come
        let (send, answer) = channel();
        let _ = send.send(Frame::data(text));
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                let _ = send.send(frame);
            }
        });
        Response::new(answer)
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let mut wire = gate.wire().await?;
    wire.send(format!("{}first", post(&issuer.token(ALICE)?, 10))).await?;
    ensure!(wire.head().await?.status == 200);
    wire.until(b"first").await?;
    wire.send("after").await?;
    wire.until(b"after").await?;
    wire.until(b"0\r\n\r\n").await?;
    Ok(())
}

#[tokio::test]
async fn a_large_answer_passes_in_little_memory_even_to_a_slow_client() -> Result<()> {
    let app = App::http1(|_| async {
        let piece = Bytes::from(vec![7; 1 << 20]);
        Response::new(frames(
            (0..LARGE >> 20).map(|_| (Duration::ZERO, Frame::data(piece.clone()))).collect(),
        ))
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let before = gate.memory()?.0;
    let mut wire = gate.wire().await?;
    wire.send(get("/", &issuer.token(ALICE)?)).await?;
    ensure!(wire.head().await?.status == 200);
    // time enough for a gate that gathers to gather it all
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (mut total, mut buffer) = (0, vec![0; 1 << 16]);
    while total < LARGE {
        total += soon("more", wire.stream.read(&mut buffer)).await??;
    }
    let most = gate.memory()?.1;
    ensure!(most < before + MORE, "{most} KiB for a large answer, {before} KiB before");
    Ok(())
}

/// An app that starts to read late and says how much came.
async fn late_reader() -> Result<App> {
    App::http1(|request: Request<Incoming>| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (mut body, mut total) = (request.into_body(), 0);
        while let Some(Ok(frame)) = body.frame().await {
            total += frame.data_ref().map_or(0, Bytes::len);
        }
        Response::new(full(total.to_string()))
    })
    .await
}

#[tokio::test]
async fn a_large_request_passes_in_little_memory_even_to_a_slow_app() -> Result<()> {
    let app = late_reader().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let before = gate.memory()?.0;
    let mut wire = gate.wire().await?;
    wire.send(post(&issuer.token(ALICE)?, LARGE)).await?;
    let piece = vec![7; 1 << 20];
    for _ in 0..LARGE >> 20 {
        soon("sending", wire.send(&piece)).await??;
    }
    let reply = wire.reply().await?;
    ensure!(reply.text() == LARGE.to_string(), "{reply:?}");
    let most = gate.memory()?.1;
    ensure!(most < before + MORE, "{most} KiB for a large request, {before} KiB before");
    ensure!(gate.metrics().await?.bytes_in == LARGE as u64);
    Ok(())
}

#[tokio::test]
async fn large_bodies_pass_http2_in_little_memory() -> Result<()> {
    let app = App::h2c(|request: Request<Incoming>| async move {
        let (mut body, (send, answer)) = (request.into_body(), bounded());
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                let _ = send.send(frame).await;
            }
        });
        Response::new(answer)
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let before = gate.memory()?.0;
    let stream = TcpStream::connect(gate.traffic).await?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await?;
    tokio::spawn(connection);
    let piece = Bytes::from(vec![7; 1 << 20]);
    let body = frames((0..LARGE >> 20).map(|_| (Duration::ZERO, Frame::data(piece.clone()))).collect());
    let request = Request::post("http://shop/")
        .header("authorization", format!("Bearer {}", issuer.token(ALICE)?))
        .body(body)?;
    let mut back = soon("an answer", sender.send_request(request)).await??.into_body();
    let mut total = 0;
    while let Some(frame) = soon("more", back.frame()).await? {
        total += frame?.data_ref().map_or(0, Bytes::len);
    }
    ensure!(total == LARGE, "{total} bytes came back");
    let most = gate.memory()?.1;
    ensure!(most < before + MORE, "{most} KiB for large bodies, {before} KiB before");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() -> Result<()> {
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let app = App::raw(move |mut stream: TcpStream, _| async move {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhe").as_bytes()).await;
        })
        .await?;
        let (gate, issuer, _) = Gate::before(&[&app]).await?;
        let mut wire = gate.wire().await?;
        wire.send(get("/", &issuer.token(ALICE)?)).await?;
        ensure!(wire.head().await?.status == 200);
        let rest = soon("the end", wire.rest()).await??;
        ensure!(
            !rest.ends_with(b"0\r\n\r\n") && rest.len() < 10,
            "{head}: {:?}",
            String::from_utf8_lossy(&rest)
        );
        until("the log says so", async || Ok(gate.printed().contains("UPSTREAM_BROKE_OFF"))).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_early_answer_to_a_large_request_passes() -> Result<()> {
    let app = App::http1(|_| async {
        let mut answer = Response::new(full("too large"));
        *answer.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
        answer
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let mut wire = gate.wire().await?;
    wire.send(format!("{}begin", post(&issuer.token(ALICE)?, LARGE))).await?;
    let reply = wire.reply().await?;
    ensure!(reply.status == 413 && reply.text() == "too large", "{reply:?}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it_only_when_it_is_let_in() -> Result<()> {
    let app = late_reader().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let expect = |token: &str| post(token, 5).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let mut wire = gate.wire().await?;
    wire.send(expect(&issuer.token(ALICE)?)).await?;
    ensure!(wire.head().await?.status == 100);
    ensure!(wire.ask("hello").await?.text() == "5");
    let refused = gate.ask(expect("none")).await?;
    ensure!(refused.status == 401, "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_breaks_off_is_seen_by_the_app() -> Result<()> {
    let broken: Arc<AtomicUsize> = Arc::default();
    let count = broken.clone();
    let app = App::http1(move |request: Request<Incoming>| {
        let count = count.clone();
        async move {
            let whole = request.into_body().collect().await.is_ok();
            count.fetch_add(if whole { 1000 } else { 1 }, SeqCst);
            Response::new(full(""))
        }
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let mut wire = gate.wire().await?;
    wire.send(format!("{}begin", post(&token, 100))).await?;
    until("it began", async || Ok(app.requests() == 1)).await?;
    drop(wire);
    let mut wire = gate.wire().await?;
    let chunked = post(&token, 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    wire.send(format!("{chunked}5\r\nbegin\r\n")).await?;
    until("it began", async || Ok(app.requests() == 2)).await?;
    drop(wire);
    until("both were seen as broken", async || Ok(broken.load(SeqCst) == 2))
        .await
        .context(broken.load(SeqCst))
}
