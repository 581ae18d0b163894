//! What the app is told of its caller, and what a caller cannot tell it.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::common::app::echo;
use crate::common::{ALICE, App, Gate, Issuer, config, gather, heard, next, soon};

async fn said(gate: &Gate, token: &str, lines: &str) -> Result<Value> {
    let text = format!("GET / HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\n{lines}\r\n");
    let reply = gate.ask(text).await?;
    ensure!(reply.status == 200, "{lines}: {reply:?}");
    reply.json()
}

#[tokio::test]
async fn the_app_is_told_who_calls() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let said = said(&gate, &issuer.token_with(ALICE, "groups", json!(["ml", "a,b", "é"]))?, "").await?;
    let subject = format!("sub-of-{ALICE}");
    for (name, value) in [
        ("x-syp-user", ALICE),
        ("x-forwarded-user", ALICE),
        ("x-syp-email", ALICE),
        ("x-forwarded-email", ALICE),
        ("x-syp-subject", subject.as_str()),
        ("x-syp-issuer", "https://issuer.example"),
        // a comma inside a name must not make two groups of one
        ("x-syp-groups", "ml,a%2Cb,%C3%A9"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop"),
        ("host", "shop"),
    ] {
        ensure!(heard(&said, name) == [value], "{name}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn no_spelling_of_an_identity_header_gets_through() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let names = [
        "X-Syp-User",
        "x_syp_user",
        "X-Syp_User",
        "X.Syp.User",
        "X-Syp-Email",
        "X-Syp-Subject",
        "X-Syp-Groups",
        "X-Syp-Issuer",
        "X-Syp-Anything",
        "X-Forwarded-User",
        "X_Forwarded_User",
        "x-forwarded_user",
        "X-Forwarded-Email",
        "X-Forwarded-Groups",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Preferred-Username",
        "Forwarded",
        "X-Real-IP",
        "X_Real_Ip",
        "Remote-User",
        "Remote_User",
        "REMOTE-USER",
        "X-Remote-User",
        "X-Auth-Request-User",
        "X-Auth-Request-Email",
        "X-Authenticated-User",
        "X-WebAuth-User",
        "X-Goog-Authenticated-User-Email",
        "X-Goog-IAP-JWT-Assertion",
        "X-Amzn-Oidc-Identity",
        "X-Amzn-Oidc-Data",
        "X-MS-Client-Principal",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Request-Id",
        "Proxy",
        "Cf-Access-Jwt-Assertion",
        "Tailscale-User-Login",
    ];
    let lines: String = names.iter().map(|n| format!("{n}: evil\r\n{n}: evil\r\n")).collect();
    let said = said(&gate, &issuer.token(ALICE)?, &format!("{lines}X-Custom: mine\r\n")).await?;
    ensure!(!said.to_string().contains("evil"), "{said}");
    ensure!(heard(&said, "x-syp-user") == [ALICE] && heard(&said, "x-custom") == ["mine"], "{said}");
    Ok(())
}

#[tokio::test]
async fn a_client_cannot_have_the_gates_headers_taken_away_by_naming_them_in_connection() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let lines = "Connection: close, x-syp-user, X-Forwarded-For, host, x-private\r\nX-Private: 1\r\nX-Syp-User: evil\r\nKeep-Alive: 5\r\n";
    let said = said(&gate, &issuer.token(ALICE)?, lines).await?;
    ensure!(
        heard(&said, "x-syp-user") == [ALICE] && heard(&said, "x-forwarded-for") == ["127.0.0.1"],
        "{said}"
    );
    ensure!(heard(&said, "host") == ["shop"], "{said}");
    for gone in ["connection", "keep-alive", "x-private"] {
        ensure!(heard(&said, gone).is_empty(), "{gone}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn the_app_gets_neither_the_token_nor_the_gates_cookies() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let lines = format!(
        "Cookie: a=1; __Host-syp=secret; b=2\r\nCookie: __Host-syp-1=secret; c=3\r\nProxy-Authorization: Bearer {token}\r\n\
         HTTP_Authorization: Bearer {token}\r\nX_Authorization: Bearer {token}\r\n"
    );
    let said = said(&gate, &token, &lines).await?;
    ensure!(!said.to_string().contains(&token) && !said.to_string().contains("secret"), "{said}");
    ensure!(heard(&said, "cookie") == ["a=1; b=2; c=3"], "{said}");
    ensure!(heard(&said, "authorization").is_empty(), "{said}");
    Ok(())
}

#[tokio::test]
async fn the_app_gets_the_token_when_it_is_configured_so() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    gate.serve(&next(&first, |c| c.forward_token = true)).await?;
    let token = issuer.token(ALICE)?;
    let said = said(&gate, &token, "X-Syp-User: evil\r\nCookie: __Host-syp=secret\r\n").await?;
    ensure!(heard(&said, "authorization") == [format!("Bearer {token}")], "{said}");
    ensure!(heard(&said, "x-syp-user") == [ALICE] && heard(&said, "cookie").is_empty(), "{said}");
    Ok(())
}

#[tokio::test]
async fn headers_that_change_the_method_are_taken_away_when_a_rule_looks_at_it() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let lines =
        "X-HTTP-Method-Override: DELETE\r\nX_Http_Method_Override: DELETE\r\nX-Method-Override: DELETE\r\n";
    ensure!(heard(&said(&gate, &token, lines).await?, "x-http-method-override") == ["DELETE"]);
    gate.serve(&next(&first, |c| c.policy.rules[0].methods = vec!["GET".to_owned()])).await?;
    let heard = said(&gate, &token, lines).await?;
    ensure!(!heard.to_string().contains("DELETE"), "{heard}");
    let text = format!("DELETE / HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\n\r\n");
    ensure!(gate.ask(text).await?.status == 403);
    Ok(())
}

#[tokio::test]
async fn framing_headers_in_other_spellings_do_not_reach_the_app() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let lines = "Content_Length: 5\r\nTransfer_Encoding: chunked\r\nProxy_Connection: x\r\n";
    let said = said(&gate, &issuer.token(ALICE)?, lines).await?;
    for name in ["content_length", "transfer_encoding", "proxy_connection"] {
        ensure!(heard(&said, name).is_empty(), "{name}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn trailers_carry_no_identity() -> Result<()> {
    let app = App::h2c(echo).await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let text = format!(
        "POST / HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\nTrailer: x-checksum, x-syp-user\r\n\r\n\
         2\r\nhi\r\n0\r\nX-Checksum: 7\r\nX-Syp-User: evil\r\nX_Forwarded_User: evil\r\nAuthorization: Bearer evil\r\n\r\n"
    );
    let said = gate.ask(text).await?.json()?;
    ensure!(said["body"] == "hi" && said["trailers"] == json!([["x-checksum", "7"]]), "{said}");
    Ok(())
}

#[tokio::test]
async fn an_http2_caller_is_told_of_in_the_same_way() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let mut sender = gate.http2().await?;
    let request = http::Request::get("http://shop/a?b=c")
        .header("authorization", format!("Bearer {}", issuer.token(ALICE)?))
        .header("x-syp-user", "evil")
        .header("x_forwarded_user", "evil")
        // HTTP/2 clients may cut their cookies into pieces; HTTP/1.1 knows one line only
        .header("cookie", "a=1")
        .header("cookie", "__Host-syp=secret")
        .header("cookie", "b=2")
        .body(Full::default())?;
    let (_, body) = gather(soon("an answer", sender.send_request(request)).await??).await?;
    let said: Value = serde_json::from_slice(&body)?;
    ensure!(heard(&said, "x-syp-user") == [ALICE] && heard(&said, "x-forwarded-host") == ["shop"], "{said}");
    ensure!(heard(&said, "host") == ["shop"] && said["target"] == "/a?b=c", "{said}");
    ensure!(heard(&said, "cookie") == ["a=1; b=2"], "{said}");
    ensure!(!said.to_string().contains("evil") && !said.to_string().contains("secret"), "{said}");
    Ok(())
}

#[tokio::test]
async fn cut_cookies_are_one_line_again_when_none_is_the_gates() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let mut sender = gate.http2().await?;
    let request = http::Request::get("http://shop/")
        .header("authorization", format!("Bearer {}", issuer.token(ALICE)?))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::default())?;
    let (_, body) = gather(soon("an answer", sender.send_request(request)).await??).await?;
    let said: Value = serde_json::from_slice(&body)?;
    ensure!(heard(&said, "cookie") == ["a=1; b=2"], "{said}");
    Ok(())
}

#[tokio::test]
async fn an_http2_callers_trailers_carry_no_identity() -> Result<()> {
    let (app, issuer) = (App::h2c(echo).await?, Issuer::new("https://issuer.example", "key-1")?);
    let gate = Gate::bare(&[]).await?;
    gate.serve(&config(&issuer, &[&app])?).await?;
    let stream = tokio::net::TcpStream::connect(gate.traffic).await?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await?;
    tokio::spawn(connection);
    let trailers: http::HeaderMap = [("x-checksum", "7"), ("x-syp-user", "evil"), ("x_syp_user", "evil")]
        .into_iter()
        .map(|(n, v)| Ok((n.parse::<http::HeaderName>()?, v.parse::<http::HeaderValue>()?)))
        .collect::<Result<_>>()?;
    let list = [Frame::data(Bytes::from_static(b"hi")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(list.map(Ok::<_, std::convert::Infallible>)));
    let request = http::Request::post("http://shop/")
        .header("authorization", format!("Bearer {}", issuer.token(ALICE)?))
        .body(body.boxed_unsync())?;
    let (_, body) = gather(soon("an answer", sender.send_request(request)).await??).await?;
    let said: Value = serde_json::from_slice(&body).context("JSON")?;
    ensure!(said["body"] == "hi" && said["trailers"] == json!([["x-checksum", "7"]]), "{said}");
    Ok(())
}
