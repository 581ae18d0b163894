//! Browser apps of other origins: those that are listed may ask without a token, and must have one to call.

use anyhow::{Result, ensure};
use http::{HeaderValue, Response};

use crate::common::app::full;
use crate::common::{ALICE, App, Gate, Reply, next};

const APP: &str = "https://app.example.com";

/// An app that speaks of CORS itself.
async fn talkative() -> Result<App> {
    App::http1(|_| async {
        let mut answer = Response::new(full("hello"));
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "*"),
            ("vary", "accept"),
            ("x-total", "7"),
        ] {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    })
    .await
}

async fn ask(gate: &Gate, method: &str, more: &[(&str, &str)]) -> Result<Reply> {
    let more: String = more.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    gate.ask(format!("{method} /x HTTP/1.1\r\nHost: shop\r\n{more}\r\n")).await
}

fn cors(reply: &Reply) -> Vec<&str> {
    ["allow-origin", "allow-credentials", "allow-methods", "allow-headers", "expose-headers"]
        .into_iter()
        .filter(|n| reply.header(&format!("access-control-{n}")).is_some())
        .collect()
}

#[tokio::test]
async fn a_preflight_of_a_listed_origin_needs_no_token_and_does_not_reach_the_app() -> Result<()> {
    let app = talkative().await?;
    let (gate, _, first) = Gate::before(&[&app]).await?;
    gate.serve(&next(&first, |c| c.cors_origins = vec!["https://other.example".into(), APP.into()])).await?;
    let names = "authorization,x-own";
    let asks = [
        ("Origin", APP),
        ("Access-Control-Request-Method", "PUT"),
        ("Access-Control-Request-Headers", names),
    ];
    let yes = ask(&gate, "OPTIONS", &asks).await?;
    ensure!(yes.status == 204, "{yes:?}");
    ensure!(yes.header("access-control-allow-origin") == Some(APP), "{yes:?}");
    ensure!(yes.header("access-control-allow-methods") == Some("PUT"), "{yes:?}");
    ensure!(yes.header("access-control-allow-headers") == Some(names), "{yes:?}");
    ensure!(yes.header("access-control-max-age") == Some("600"), "{yes:?}");
    ensure!(yes.header("access-control-allow-credentials").is_none(), "{yes:?}");
    ensure!(yes.header("vary").is_some_and(|v| v.contains("origin")), "{yes:?}");
    // none of these is a preflight of somebody who is listed
    let no: [&[(&str, &str)]; 7] = [
        &[("Origin", "https://evil.example"), asks[1]],
        &[("Origin", "null"), asks[1]],
        &[("Origin", "https://app.example.com.evil.example"), asks[1]],
        &[("Origin", APP), ("Origin", "https://evil.example"), asks[1]],
        &[asks[1]],
        &[asks[0]],
        &[asks[0], asks[1], ("Access-Control-Request-Headers", "a b")],
    ];
    for headers in no {
        let reply = ask(&gate, "OPTIONS", headers).await?;
        ensure!(reply.status == 401, "{headers:?}: {reply:?}");
        let listed =
            headers.iter().filter(|(n, _)| *n == "Origin").count() == 1 && headers.contains(&asks[0]);
        ensure!(listed || cors(&reply).is_empty(), "{headers:?}: {reply:?}");
    }
    ensure!(ask(&gate, "GET", &asks).await?.status == 401, "only OPTIONS asks");
    ensure!(app.requests() == 0, "the app saw {}", app.requests());
    // the next configuration has none
    let generation = gate.status().await?.generation;
    let mut none = first.clone();
    none.generation = generation + 1;
    gate.push(&none).await?;
    let reply = ask(&gate, "OPTIONS", &asks).await?;
    ensure!(reply.status == 401 && cors(&reply).is_empty(), "{reply:?}");
    Ok(())
}

#[tokio::test]
async fn answers_to_listed_origins_say_so_in_place_of_the_app_and_to_others_nothing() -> Result<()> {
    let app = talkative().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let bearer = format!("Bearer {}", issuer.token(ALICE)?);
    let token = ("Authorization", bearer.as_str());
    gate.serve(&first).await?;
    let untouched = ask(&gate, "GET", &[("Origin", APP), token]).await?;
    ensure!(untouched.header("access-control-allow-origin") == Some("*"), "not asked for: {untouched:?}");
    gate.push(&next(&first, |c| c.cors_origins = vec![APP.into()])).await?;
    let ours = ask(&gate, "GET", &[("Origin", APP), token]).await?;
    ensure!(ours.status == 200, "{ours:?}");
    ensure!(ours.header("access-control-allow-origin") == Some(APP), "{ours:?}");
    ensure!(ours.header("access-control-allow-credentials").is_none(), "{ours:?}");
    let shown = ours.header("access-control-expose-headers").unwrap_or_default();
    ensure!(shown.contains("x-total") && !shown.contains('*'), "{ours:?}");
    let refused = ask(&gate, "GET", &[("Origin", APP)]).await?;
    ensure!(refused.status == 401, "{refused:?}");
    ensure!(refused.header("access-control-allow-origin") == Some(APP), "it may read why: {refused:?}");
    for origin in ["https://evil.example", "https://app.example.com:444", "HTTPS://APP.EXAMPLE.COM"] {
        let reply = ask(&gate, "GET", &[("Origin", origin), token]).await?;
        ensure!(reply.status == 200 && cors(&reply).is_empty(), "{origin}: {reply:?}");
    }
    let plain = ask(&gate, "GET", &[token]).await?;
    ensure!(cors(&plain).is_empty() && plain.header("vary").is_some(), "{plain:?}");
    Ok(())
}

#[tokio::test]
async fn an_origin_that_is_none_makes_a_configuration_that_is_refused() -> Result<()> {
    let app = App::echo().await?;
    let (gate, _, first) = Gate::before(&[&app]).await?;
    for bad in ["*", "null", "https://app.example.com/", "https://APP.example.com", "https://*.example.com"] {
        let config = next(&first, |c| c.cors_origins = vec![bad.into()]);
        ensure!(gate.put(&serde_json::to_vec(&config)?).await?.status >= 400, "{bad}");
    }
    ensure!(!serde_json::to_string(&first)?.contains("cors"), "as before there were any");
    Ok(())
}
