//! A new configuration holds for every request from then on and drops no connection.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde_json::json;
use syp_auth::door::{GateConfig, Upstream};
use tokio::time::Instant;

use crate::common::app::full;
use crate::common::{ALICE, App, Gate, Issuer, MALLORY, allow, config, gather, get, next, soon, until};

/// The limit for a change to be effective everywhere.
const EFFECTIVE: Duration = Duration::from_secs(20);

async fn connections(gate: &Gate) -> Result<u64> {
    gate.metrics().await?.more.get("connections").copied().context("connections")
}

#[tokio::test]
async fn a_kept_connection_goes_on_and_gets_the_new_decision() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let (alice, mallory) = (issuer.token(ALICE)?, issuer.token(MALLORY)?);
    let mut wire = gate.wire().await?;
    ensure!(wire.ask(get("/", &alice)).await?.status == 200);
    ensure!(wire.ask(get("/", &mallory)).await?.status == 403);
    let since = Instant::now();
    gate.push(&next(&first, |c| c.policy = allow(&[MALLORY]))).await?;
    ensure!(wire.ask(get("/", &alice)).await?.status == 403);
    ensure!(wire.ask(get("/", &mallory)).await?.status == 200);
    ensure!(since.elapsed() < EFFECTIVE, "effective after {:?}", since.elapsed());
    ensure!(connections(&gate).await? == 1);
    Ok(())
}

#[tokio::test]
async fn an_http2_connection_goes_on_and_gets_the_new_decision() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let (mut sender, auth) = (gate.http2().await?, format!("Bearer {}", issuer.token(ALICE)?));
    let mut ask = async || -> Result<u16> {
        let request = Request::get("http://shop/").header("authorization", &auth).body(Full::default())?;
        Ok(gather(soon("an answer", sender.send_request(request)).await??).await?.0.status.as_u16())
    };
    ensure!(ask().await? == 200);
    gate.push(&next(&first, |c| c.policy = allow(&[MALLORY]))).await?;
    ensure!(ask().await? == 403);
    ensure!(connections(&gate).await? == 1);
    Ok(())
}

#[tokio::test]
async fn a_new_policy_drops_no_request_under_load() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, mut config) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let ended = Cell::new(false);
    let load = async || -> Result<()> {
        let (mut wire, mut count) = (gate.wire().await?, 0);
        while !ended.get() || count <= 10 {
            ensure!(wire.ask(get("/", &token)).await?.status == 200);
            count += 1;
        }
        Ok(())
    };
    let mut change = async || -> Result<()> {
        for n in 0..20 {
            let other = format!("user{n}@example.com");
            config = next(&config, |c| c.policy = allow(&[&other, ALICE]));
            gate.push(&config).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    let change = async {
        let changed = change().await;
        ended.set(true);
        changed
    };
    let (a, b, changed) = tokio::join!(load(), load(), change);
    changed.and(a).and(b)?;
    ensure!(connections(&gate).await? == 2);
    Ok(())
}

#[tokio::test]
async fn a_rotated_key_ends_the_life_of_the_old_keys_cached_tokens_at_once() -> Result<()> {
    let app = App::echo().await?;
    let (gate, old, first) = Gate::before(&[&app]).await?;
    let new = Issuer::new(&old.name, "key-2")?;
    let (before, after) = (old.token(ALICE)?, new.token(ALICE)?);
    let mut wire = gate.wire().await?;
    for _ in 0..3 {
        ensure!(wire.ask(get("/", &before)).await?.status == 200);
    }
    let (both, only) = ([old.jwk()?, new.jwk()?], [new.jwk()?]);
    let keys = |c: &mut GateConfig, keys: &[serde_json::Value]| {
        c.issuers[0].jwks = Some(serde_json::json!({ "keys": keys }))
    };
    let second = next(&first, |c| keys(c, &both));
    gate.push(&second).await?;
    ensure!(wire.ask(get("/", &before)).await?.status == 200);
    ensure!(wire.ask(get("/", &after)).await?.status == 200);
    gate.push(&next(&second, |c| keys(c, &only))).await?;
    ensure!(wire.ask(get("/", &after)).await?.status == 200);
    let refused = wire.ask(get("/", &before)).await?;
    ensure!(refused.status == 401 && gate.reason(&refused).await? == "TOKEN_KEY_UNKNOWN", "{refused:?}");
    ensure!(connections(&gate).await? == 1);
    Ok(())
}

#[tokio::test]
async fn a_cached_token_is_not_good_for_another_audience_or_after_its_issuer_is_gone() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let mut wire = gate.wire().await?;
    ensure!(wire.ask(get("/", &token)).await?.status == 200);
    let second = next(&first, |c| c.audiences = vec!["https://other.example".to_owned()]);
    gate.push(&second).await?;
    let refused = wire.ask(get("/", &token)).await?;
    ensure!(refused.status == 401 && gate.reason(&refused).await? == "TOKEN_AUDIENCE", "{refused:?}");
    let other = Issuer::new("https://other.example", "key-1")?.config()?;
    gate.push(&next(&second, |c| (c.audiences, c.issuers) = (first.audiences.clone(), vec![other]))).await?;
    let refused = wire.ask(get("/", &token)).await?;
    ensure!(refused.status == 401 && gate.reason(&refused).await? == "TOKEN_ISSUER_UNKNOWN", "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_key_that_the_issuer_dropped_ends_the_life_of_cached_tokens_without_a_new_configuration()
-> Result<()> {
    let (app, old) = (App::echo().await?, Issuer::new("https://issuer.example", "key-1")?);
    let new = Issuer::new(&old.name, "key-2")?;
    let published = Arc::new(Mutex::new(json!({ "keys": [old.jwk()?] }).to_string()));
    let page = published.clone();
    let keys = App::http1(move |_| {
        let text = page.lock().clone();
        async move { Response::new(full(text)) }
    })
    .await?;
    let gate = Gate::bare(&[]).await?;
    let mut config = config(&old, &[&app])?;
    (config.issuers[0].jwks, config.issuers[0].jwks_uri) =
        (None, Some(format!("http://{}/keys", keys.address)));
    gate.serve(&config).await?;
    let (before, after, mut wire) = (old.token(ALICE)?, new.token(ALICE)?, gate.wire().await?);
    for _ in 0..3 {
        ensure!(wire.ask(get("/", &before)).await?.status == 200);
    }
    ensure!(keys.requests() == 1, "the keys were fetched {} times", keys.requests());
    *published.lock() = json!({ "keys": [new.jwk()?] }).to_string();
    // a token of the new key makes the gate look, at most once a second
    until("the new key is known", async || Ok(wire.ask(get("/", &after)).await?.status == 200)).await?;
    let refused = wire.ask(get("/", &before)).await?;
    ensure!(refused.status == 401 && gate.reason(&refused).await? == "TOKEN_KEY_UNKNOWN", "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn new_replicas_get_the_next_request_and_the_old_ones_finish_theirs() -> Result<()> {
    let (slow, new) = (
        App::http1(|request: Request<Incoming>| async move {
            if request.uri().path() == "/slow" {
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            Response::new(full("old"))
        })
        .await?,
        App::named("new").await?,
    );
    let (gate, issuer, first) = Gate::before(&[&slow]).await?;
    let token = issuer.token(ALICE)?;
    let (mut under_way, mut kept) = (gate.wire().await?, gate.wire().await?);
    ensure!(kept.ask(get("/", &token)).await?.text() == "old");
    under_way.send(get("/slow", &token)).await?;
    until("it is under way", async || Ok(slow.requests() == 2)).await?;
    let since = Instant::now();
    let upstream = Upstream {
        id: "new".to_owned(),
        address: new.address,
        holder: None,
        closed: false,
        protocol: None,
        probe: None,
    };
    gate.push(&next(&first, |c| c.upstreams = vec![upstream])).await?;
    until("the new one answers", async || Ok(kept.ask(get("/", &token)).await?.text() == "new")).await?;
    ensure!(since.elapsed() < EFFECTIVE, "effective after {:?}", since.elapsed());
    ensure!(under_way.reply().await?.text() == "old");
    let before = slow.requests();
    ensure!(kept.ask(get("/", &token)).await?.text() == "new" && slow.requests() == before);
    ensure!(connections(&gate).await? == 2);
    Ok(())
}
