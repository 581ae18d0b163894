//! HTTP/1.1, HTTP/2 and gRPC, on both sides.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use syp_auth::door::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::app::{Answer, channel, echo, frames, full};
use crate::common::{ALICE, App, Gate, Issuer, MALLORY, config, gather, get, heard, next, soon, until};

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_each_at_once() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let mut wire = gate.wire().await?;
    let third = get("/3", &token);
    let (begun, rest) = third.split_at(20);
    wire.send(format!("{}{}{begun}", get("/1", &token), get("/2", &token))).await?;
    // a third that has only begun must not hold the answers back
    for target in ["/1", "/2"] {
        ensure!(wire.reply().await?.json()?["target"] == target);
    }
    wire.send(rest).await?;
    ensure!(wire.reply().await?.json()?["target"] == "/3");
    ensure!(gate.metrics().await?.more.get("connections") == Some(&1));
    Ok(())
}

#[tokio::test]
async fn answers_without_a_body_keep_the_connection() -> Result<()> {
    let app = App::http1(|request: Request<Incoming>| async move {
        let mut answer = Response::new(full(""));
        let status = request.uri().path()[1..].parse().unwrap_or(200);
        *answer.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        if request.method() == http::Method::HEAD {
            answer.headers_mut().insert("content-length", HeaderValue::from_static("1234"));
        }
        answer
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let mut wire = gate.wire().await?;
    wire.send(get("/200", &token).replace("GET", "HEAD")).await?;
    let head = wire.head().await?;
    ensure!(head.status == 200 && head.header("content-length") == Some("1234"), "{head:?}");
    for status in [204, 304, 404, 200, 500] {
        wire.send(get(&format!("/{status}"), &token)).await?;
        let reply = if matches!(status, 204 | 304) { wire.head().await? } else { wire.reply().await? };
        ensure!(reply.status == status, "{reply:?}");
    }
    // one connection of the client, and one to the app beside the probes
    until("all are logged", async || Ok(gate.metrics().await?.requests_by_class.iter().sum::<u64>() == 6))
        .await?;
    ensure!(gate.metrics().await?.more.get("connections") == Some(&1));
    Ok(())
}

#[tokio::test]
async fn http_1_0_is_served_and_closed() -> Result<()> {
    let app = App::http1(|_| async {
        Response::new(frames(vec![(Duration::ZERO, Frame::data(Bytes::from_static(b"hi")))]))
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let mut wire = gate.wire().await?;
    wire.send(get("/", &issuer.token(ALICE)?).replace("HTTP/1.1", "HTTP/1.0")).await?;
    let reply = wire.head().await?;
    ensure!(reply.status == 200 && reply.header("transfer-encoding").is_none(), "{reply:?}");
    ensure!(wire.rest().await? == b"hi");
    Ok(())
}

#[tokio::test]
async fn an_app_that_speaks_http2_is_found_out_once_and_spoken_to_in_http2() -> Result<()> {
    let app = App::h2c(echo).await?;
    let issuer = Issuer::new("https://issuer.example", "key-1")?;
    let mut config = config(&issuer, &[&app])?;
    config.upstreams[0].protocol = None;
    let mut tries = 0;
    let gate = loop {
        let gate = Gate::bare(&[]).await?;
        gate.serve(&config).await?;
        if gate.status().await?.upstreams[0].protocol == Some(Protocol::H2c) {
            break gate;
        }
        // an app that stood still for half a second is taken for one that does not speak it
        tries += 1;
        ensure!(tries < 5, "not found out");
    };
    let token = issuer.token(ALICE)?;
    for n in 0..20 {
        let said = gate.get(&format!("/{n}"), &token).await?.json()?;
        ensure!(said["version"] == "HTTP/2.0" && said["target"] == format!("http://shop/{n}"), "{said}");
        ensure!(heard(&said, "x-syp-user") == [ALICE] && heard(&said, "authorization").is_empty(), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn the_question_for_http2_is_asked_once_for_each_replica() -> Result<()> {
    let asked: Arc<AtomicUsize> = Arc::default();
    let count = asked.clone();
    let app = App::raw(move |mut stream: TcpStream, _| {
        let count = count.clone();
        async move {
            let mut head = [0; 4096];
            let n = stream.read(&mut head).await.unwrap_or(0);
            let text = if head[..n].starts_with(b"PRI * HTTP/2.0") {
                count.fetch_add(1, SeqCst);
                "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
            };
            let _ = stream.write_all(text.as_bytes()).await;
        }
    })
    .await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    ensure!(gate.status().await?.upstreams[0].protocol == Some(Protocol::Http1));
    for _ in 0..5 {
        ensure!(gate.get("/", &issuer.token(ALICE)?).await?.text() == "hi");
    }
    gate.serve(&next(&first, |c| c.revision = "r2".to_owned())).await?;
    let before = app.connections();
    until("it was probed again", async || Ok(app.connections() > before + 1)).await?;
    ensure!(asked.load(SeqCst) == 1, "asked {} times", asked.load(SeqCst));
    Ok(())
}

#[tokio::test]
async fn a_configured_protocol_is_not_asked_for() -> Result<()> {
    let (old, new) = (App::echo().await?, App::h2c(echo).await?);
    for (app, protocol, version) in [(&old, Protocol::Http1, "HTTP/1.1"), (&new, Protocol::H2c, "HTTP/2.0")] {
        let (gate, issuer, first) = Gate::before(&[app]).await?;
        gate.serve(&next(&first, |c| c.protocol = protocol)).await?;
        let said = gate.get("/", &issuer.token(ALICE)?).await?.json()?;
        ensure!(said["version"] == version, "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn many_http2_requests_share_a_connection() -> Result<()> {
    let app = App::http1(|request: Request<Incoming>| async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        echo(request).await
    })
    .await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let (sender, auth) = (gate.http2().await?, format!("Bearer {}", issuer.token(ALICE)?));
    let one = async |n: usize| -> Result<Value> {
        let mut sender = sender.clone();
        let request =
            Request::get(format!("http://shop/{n}")).header("authorization", &auth).body(Full::default())?;
        Ok(serde_json::from_slice(&gather(soon("an answer", sender.send_request(request)).await??).await?.1)?)
    };
    let all = futures_util::future::join_all((0..50).map(one)).await;
    for (n, said) in all.into_iter().enumerate() {
        ensure!(said?["target"] == format!("/{n}"));
    }
    Ok(())
}

fn grpc_request<B>(path: &str, token: &str, body: B) -> Result<Request<B>> {
    Ok(Request::post(format!("http://shop{path}"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(body)?)
}

/// Sends each message back when it comes, and a good status when the client is done.
async fn grpc_app(request: Request<Incoming>) -> Answer {
    let te = request.headers().get("te").cloned();
    let mut incoming = request.into_body();
    let (send, body) = channel();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = incoming.frame().await {
            if let Ok(data) = frame.into_data() {
                let _ = send.send(Frame::data(data));
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.extend(te.map(|te| (http::HeaderName::from_static("x-te"), te)));
        let _ = send.send(Frame::trailers(trailers));
    });
    let mut answer = Response::new(body);
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    answer
}

#[tokio::test]
async fn grpc_messages_go_both_ways_while_both_sides_are_open_and_trailers_come_last() -> Result<()> {
    let app = App::h2c(grpc_app).await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let stream = TcpStream::connect(gate.traffic).await?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await?;
    tokio::spawn(connection);
    let (send, body) = channel();
    let request = grpc_request("/pkg.Service/Chat", &issuer.token(ALICE)?, body)?;
    let answer = soon("the head before any message", sender.send_request(request)).await??;
    ensure!(answer.status() == 200 && answer.headers().get("grpc-status").is_none(), "{answer:?}");
    let mut back = answer.into_body();
    for message in [&b"one"[..], b"two", b"three"] {
        send.send(Frame::data(Bytes::copy_from_slice(message)))?;
        let frame = soon("the message", back.frame()).await?.context("a frame")??;
        ensure!(frame.data_ref().is_some_and(|d| d == message), "{frame:?}");
    }
    drop(send);
    let last = soon("the trailers", back.frame()).await?.context("a frame")??;
    let trailers = last.trailers_ref().context("trailers")?;
    ensure!(trailers.get("grpc-status").is_some_and(|s| s == "0"), "{trailers:?}");
    ensure!(
        trailers.get("x-te").is_some_and(|te| te == "trailers"),
        "the app was not told that trailers are fine"
    );
    Ok(())
}

#[tokio::test]
async fn grpc_callers_are_refused_with_a_grpc_status() -> Result<()> {
    let app = App::h2c(grpc_app).await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let mut sender = gate.http2().await?;
    let mut ask = async |path: &str, token: String| {
        let request = grpc_request(path, &token, Full::default())?;
        gather(soon("an answer", sender.send_request(request)).await??).await
    };
    let alice = issuer.token(ALICE)?;
    let mut found = vec![
        ("16", "unauthenticated", ask("/a.B/C", "none".to_owned()).await?),
        ("7", "forbidden", ask("/a.B/C", issuer.token(MALLORY)?).await?),
        ("5", "not_found", ask("/_syp/x", alice.clone()).await?),
    ];
    gate.push(&next(&first, |c| c.upstreams.clear())).await?;
    found.push(("14", "unavailable", ask("/a.B/C", alice).await?));
    for (code, word, (parts, body)) in found {
        ensure!(parts.status == 200 && body.is_empty(), "{word}: {parts:?}");
        ensure!(
            parts.headers["grpc-status"] == code && parts.headers["grpc-message"] == word,
            "{word}: {parts:?}"
        );
        ensure!(parts.headers["content-type"] == "application/grpc", "{word}: {parts:?}");
    }
    ensure!(app.requests() == 0);
    // the log has the status that others would have been told
    until("all are logged", async || Ok(gate.printed().lines().count() == 4)).await?;
    let m = gate.metrics().await?;
    ensure!(m.denied_401 == 1 && m.denied_403 == 1, "{m:?}");
    Ok(())
}
