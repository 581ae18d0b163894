//! Requests that two servers could read differently are refused, and the connection with them.

use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::{ALICE, App, Gate, gather, get, soon};

/// Sends this and a second, good request behind it: there must be one answer, 400, and then the end.
async fn refused(gate: &Gate, token: &str, what: &str, head: &str, reason: Option<&str>) -> Result<()> {
    let mut wire = gate.wire().await?;
    let text = head.replace("AUTH", &format!("Authorization: Bearer {token}"));
    wire.send(format!("{text}{}", get("/smuggled", token))).await?;
    let reply = wire.reply().await?;
    ensure!(reply.status == 400, "{what}: {reply:?}");
    let rest = soon(what, wire.rest()).await??;
    ensure!(rest.is_empty(), "{what}: more came: {}", String::from_utf8_lossy(&rest));
    if let Some(reason) = reason {
        let found = gate.reason(&reply).await?;
        ensure!(found == reason, "{what}: {found}, not {reason}");
        ensure!(reply.json()?["error"] == "bad_request", "{what}: {reply:?}");
    }
    Ok(())
}

#[tokio::test]
async fn smuggling_shapes_are_refused_and_the_connection_closed() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let post = "POST / HTTP/1.1\r\nHost: shop\r\nAUTH\r\n";
    let both = Some("REQUEST_LENGTH_AND_ENCODING");
    let shapes: &[(&str, String, Option<&str>)] = &[
        (
            "length and encoding",
            format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            both,
        ),
        (
            "encoding and length",
            format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
            both,
        ),
        (
            "length of nothing and encoding",
            format!("{post}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            both,
        ),
        ("two different lengths", format!("{post}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), None),
        ("two equal lengths", format!("{post}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"), None),
        ("a list of lengths", format!("{post}Content-Length: 5, 5\r\n\r\nhello"), None),
        ("a signed length", format!("{post}Content-Length: +5\r\n\r\nhello"), None),
        ("a negative length", format!("{post}Content-Length: -5\r\n\r\nhello"), None),
        ("a length in hex", format!("{post}Content-Length: 0x5\r\n\r\nhello"), None),
        ("a huge length", format!("{post}Content-Length: 99999999999999999999\r\n\r\nhello"), None),
        ("another encoding", format!("{post}Transfer-Encoding: identity\r\n\r\n"), None),
        (
            "an encoding after chunked",
            format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
            None,
        ),
        (
            "an encoding before chunked",
            format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            None,
        ),
        (
            "chunked twice",
            format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            None,
        ),
        ("a hidden encoding", format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), None),
        ("a folded header", format!("{post}X-A: b\r\n c: d\r\n\r\n"), None),
        ("a folded encoding", format!("{post}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"), None),
        ("a space before the colon", format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), None),
        ("a header without a name", format!("{post}: x\r\n\r\n"), None),
        ("a line that is no header", format!("{post}nonsense\r\n\r\n"), None),
        ("NUL in a value", format!("{post}X-A: a\0b\r\n\r\n"), None),
        ("a bare CR in a value", format!("{post}X-A: a\rX-B: c\r\n\r\n"), None),
        ("no host", "GET / HTTP/1.1\r\nAUTH\r\n\r\n".to_owned(), Some("REQUEST_HOST_MISSING")),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nHost: shop\r\nHost: shop\r\nAUTH\r\n\r\n".to_owned(),
            Some("REQUEST_HOST_TWICE"),
        ),
        (
            "a host that is none",
            "GET / HTTP/1.1\r\nHost: shop/admin?\r\nAUTH\r\n\r\n".to_owned(),
            Some("REQUEST_HOST"),
        ),
        (
            "another host in the target",
            "GET http://other/ HTTP/1.1\r\nHost: shop\r\nAUTH\r\n\r\n".to_owned(),
            Some("REQUEST_HOST_MISMATCH"),
        ),
        (
            "a user in the target",
            "GET http://a@shop/ HTTP/1.1\r\nHost: shop\r\nAUTH\r\n\r\n".to_owned(),
            None,
        ),
        (
            "CONNECT",
            "CONNECT shop:80 HTTP/1.1\r\nHost: shop:80\r\nAUTH\r\n\r\n".to_owned(),
            Some("REQUEST_TARGET"),
        ),
        (
            "a target of *",
            "OPTIONS * HTTP/1.1\r\nHost: shop\r\nAUTH\r\n\r\n".to_owned(),
            Some("REQUEST_TARGET"),
        ),
        ("a target without a slash", "GET a HTTP/1.1\r\nHost: shop\r\nAUTH\r\n\r\n".to_owned(), None),
        ("two spaces", "GET  / HTTP/1.1\r\nHost: shop\r\nAUTH\r\n\r\n".to_owned(), None),
        ("a version that is none", "GET / HTTP/1.9\r\nHost: shop\r\nAUTH\r\n\r\n".to_owned(), None),
        (
            "an encoding in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: shop\r\nAUTH\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            None,
        ),
    ];
    let mut wrong = Vec::new();
    for (what, head, reason) in shapes {
        if let Err(e) = refused(&gate, &token, what, head, *reason).await {
            wrong.push(format!("{e:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    ensure!(app.requests() == 0, "the app saw {} of them", app.requests());
    ensure!(gate.get("/", &token).await?.status == 200);
    Ok(())
}

#[tokio::test]
async fn a_body_with_bad_chunks_ends_the_request_and_the_connection() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    for chunk in [
        "zz\r\nhi\r\n",
        "-1\r\n",
        "2 2\r\nhi\r\n",
        "fffffffffffffffff\r\n",
        "2\r\nhiX0\r\n\r\n",
        "0x2\r\nhi\r\n",
    ] {
        let mut wire = gate.wire().await?;
        wire.send(format!("{head}{chunk}{}", get("/smuggled", &token))).await?;
        let all = String::from_utf8_lossy(&soon(chunk, wire.rest()).await??).into_owned();
        ensure!(all.starts_with("HTTP/1.1 400 "), "{chunk:?}: {all:?}");
        ensure!(all.matches("HTTP/1.1").count() == 1 && !all.contains("smuggled"), "{chunk:?}: {all:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_length_beside_an_encoding_is_seen_whatever_came_before_on_the_connection() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let auth = format!("Host: shop\r\nAuthorization: Bearer {}\r\n", issuer.token(ALICE)?);
    let evil =
        format!("POST / HTTP/1.1\r\n{auth}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    for before in [
        format!("GET / HTTP/1.1\r\n{auth}\r\n"),
        format!("POST / HTTP/1.1\r\n{auth}Content-Length: 5\r\n\r\nhello"),
        format!(
            "POST / HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\n"
        ),
        // asks for a WebSocket that the app does not open
        format!("GET / HTTP/1.1\r\n{auth}Upgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{auth}Upgrade: websocket\r\n\r\n"),
        "GET /_syp/health HTTP/1.1\r\nHost: shop\r\n\r\n".to_owned(),
        "GET /_syp/nothing HTTP/1.1\r\nHost: shop\r\n\r\n".to_owned(),
    ] {
        let mut wire = gate.wire().await?;
        let first = wire.ask(&before).await?;
        ensure!(first.status == 200 || first.status == 404, "{before}: {first:?}");
        let second = wire.ask(&evil).await?;
        ensure!(second.status == 400, "after {before}: {second:?}");
        ensure!(wire.rest().await?.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn health_is_no_way_around_the_framing_rules() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let head = "POST /_syp/health HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(&gate, &issuer.token(ALICE)?, "health", head, None).await
}

#[tokio::test]
async fn a_length_in_http2_that_does_not_fit_ends_the_stream() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let auth = format!("Bearer {}", issuer.token(ALICE)?);
    for (name, value) in [
        ("connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("keep-alive", "5"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
    ] {
        let status = raw_http2(&gate, &auth, &[(name, value)]).await?;
        ensure!(status.is_none_or(|s| s == 400), "{name}: {value} was answered with {status:?}");
    }
    let status = raw_http2(&gate, &auth, &[("content-length", "5")]).await?;
    ensure!(status != Some(200), "a length without a body was answered with {status:?}");
    ensure!(app.requests() == 0, "the app saw {} of them", app.requests());
    ensure!(raw_http2(&gate, &auth, &[("te", "trailers")]).await? == Some(200));
    // and one that fits
    let request = http::Request::post("http://shop/")
        .header("authorization", &auth)
        .body(Full::new(Bytes::from("hello")))?;
    let mut sender = gate.http2().await?;
    let (parts, _) = gather(soon("an answer", sender.send_request(request)).await??).await?;
    ensure!(parts.status == 200);
    Ok(())
}

/// A GET as raw frames, as clients that check nothing send it. The status, or none when the stream or connection was reset.
async fn raw_http2(gate: &Gate, auth: &str, more: &[(&str, &str)]) -> Result<Option<u16>> {
    let mut block = vec![0x82, 0x86, 0x84]; // :method GET, :scheme http, :path /
    let mut put = |name: &str, value: &str| {
        block.push(0); // literal, new name, not indexed
        for text in [name, value] {
            let length = text.len();
            if length < 127 {
                block.push(length as u8);
            } else {
                block.extend([127, ((length - 127) & 0x7f) as u8 | 0x80, ((length - 127) >> 7) as u8]);
            }
            block.extend(text.as_bytes());
        }
    };
    put(":authority", "shop");
    put("authorization", auth);
    more.iter().for_each(|(name, value)| put(name, value));
    let mut wire = gate.wire().await?;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend(&(block.len() as u32).to_be_bytes()[1..]);
    bytes.extend([1, 5, 0, 0, 0, 1]); // HEADERS with END_HEADERS and END_STREAM
    bytes.extend(&block);
    wire.stream.write_all(&bytes).await?;
    loop {
        let Ok(head) = wire.take(9).await else { return Ok(None) };
        let payload = wire.take(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize).await?;
        match head[3] {
            // HEADERS: the first field is :status, from the static table or a literal of its name
            1 => {
                let literal = |b: &[u8]| std::str::from_utf8(b).ok().and_then(|s| s.parse().ok());
                return Ok(Some(match payload.first() {
                    Some(0x88) => 200,
                    Some(0x8c) => 400,
                    Some(0x8d) => 404,
                    Some(_) => payload.get(2..5).and_then(literal).unwrap_or(999),
                    None => 0,
                }));
            }
            3 | 7 => return Ok(None),
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_absolute_target_of_the_same_host_is_its_path() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let text = format!("GET http://shop/a?b HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\n\r\n");
    let said = gate.ask(text).await?.json()?;
    ensure!(said["target"] == "/a?b", "{said}");
    Ok(())
}

#[tokio::test]
async fn a_head_that_is_too_large_or_never_ends_is_given_up() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let mut wire = gate.wire().await?;
    let large = "x".repeat(200 * 1024);
    // the gate may close before it has all been sent
    let _ = wire.send(format!("GET / HTTP/1.1\r\nHost: shop\r\nX-Large: {large}\r\n\r\n")).await;
    let all = soon("the end", wire.rest()).await??;
    ensure!(all.is_empty() || all.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&all));
    let fits = "x".repeat(30 * 1024);
    let text = format!(
        "GET / HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {}\r\nX-Large: {fits}\r\n\r\n",
        issuer.token(ALICE)?
    );
    ensure!(gate.ask(text).await?.status == 200);
    Ok(())
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() -> Result<()> {
    let app = App::echo().await?;
    let (gate, _, _) = Gate::before(&[&app]).await?;
    for _ in 0..5 {
        let mut wire = gate.wire().await?;
        let head = "POST / HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer none\r\nContent-Length: 100000000\r\n\r\n";
        wire.send(head).await?;
        // as much as does not fit into the sockets: somebody must read it, or the connection is reset
        let piece = vec![0; 1 << 20];
        for _ in 0..8 {
            soon("sending", wire.send(&piece)).await??;
        }
        let reply = wire.reply().await?;
        ensure!(reply.status == 401, "{reply:?}");
        // a clean end: a reset would take the answer away from clients that have not read it yet
        let end = soon("the end", wire.stream.read(&mut [0])).await?;
        ensure!(matches!(end, Ok(0)), "{end:?}");
    }
    Ok(())
}
