//! Keys that only the engine hands out are good for a while after the engine was heard of. The gate runs in this process, with a
//! bound of three seconds in place of a day.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use syp_auth::door::GateConfig;
use syp_auth::{Verifier, jwks};
use syp_gate::caller::identify;
use syp_gate::serve::{Gate as Door, Given, Options};

use crate::common::app::{channel, full};
use crate::common::{ADMIN_TOKEN, ALICE, App, Issuer, Wire, config, get, put, read, soon, until};

const MAX_AGE: Duration = Duration::from_secs(3);
/// In place of an hour.
const OUTLIVES: Duration = Duration::from_secs(2);

struct Here {
    door: Door,
    _directory: tempfile::TempDir,
}

impl Here {
    /// A gate that begins with this configuration, if any.
    fn start(file: Option<&GateConfig>) -> Result<Self> {
        syp_auth::install_crypto();
        let directory = tempfile::tempdir()?;
        let (token, path) = (directory.path().join("token"), directory.path().join("config"));
        std::fs::write(&token, ADMIN_TOKEN)?;
        if let Some(config) = file {
            std::fs::write(&path, serde_json::to_vec(config)?)?;
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let keys = jwks::Options { max_age: MAX_AGE, ttl: MAX_AGE / 5, ..jwks::Options::default() };
        let door = Door::start(Options {
            listen: any,
            admin: any,
            admin_token: Given::File(token),
            config: Given::File(path),
            remote: false,
            keep: None,
            app: None,
            agent: None,
            tls: None,
            ca_file: None,
            workers: 1,
            max_connections: 100,
            stop_deadline: Duration::from_secs(1),
            access_log: false,
            keys,
            outlives: OUTLIVES,
        })?;
        Ok(Self { door, _directory: directory })
    }

    async fn status(&self, token: &str) -> Result<u16> {
        Ok(Wire::to(self.door.traffic).await?.ask(get("/", token)).await?.status)
    }

    /// Puts a configuration, if any, and waits until the app is there.
    async fn ready(&self, body: Option<&[u8]>, token: &str) -> Result<()> {
        until("the app is ready", async || {
            let status = self.status(token).await?;
            if let (Some(body), 401 | 503) = (body, status) {
                // none yet, or this process stood still and its engine was silent for too long
                ensure!(put(self.door.admin, body).await?.status == 200);
            }
            Ok(status == 200)
        })
        .await
    }

    async fn end(self) -> Result<()> {
        soon("the end", self.door.stop()).await
    }
}

#[tokio::test]
async fn they_are_refused_when_the_engine_was_silent_for_too_long_and_good_again_when_it_is_back()
-> Result<()> {
    let (app, issuer) = (App::echo().await?, Issuer::new("https://issuer.example", "key-1")?);
    let (here, token) = (Here::start(None)?, issuer.token(ALICE)?);
    let body = serde_json::to_vec(&config(&issuer, &[&app])?)?;
    here.ready(Some(&body), &token).await?;
    // an engine that only looks vouches for them, too: it takes away those that became too old
    let begun = Instant::now();
    loop {
        let vouched = Instant::now();
        read(here.door.admin, "/metrics.json").await?;
        let status = here.status(&token).await?;
        // a process that stood still meanwhile was as silent as its engine
        let judged = vouched.elapsed() < MAX_AGE;
        ensure!(status == 200 || !judged, "{status}");
        ensure!(begun.elapsed() < 20 * MAX_AGE, "this machine stands still too often");
        if judged && begun.elapsed() > 2 * MAX_AGE {
            break;
        }
        tokio::time::sleep(MAX_AGE / 5).await;
    }
    tokio::time::sleep(MAX_AGE).await;
    ensure!(here.status(&token).await? == 401);
    let state = &here.door.state;
    let active = state.active().context("a configuration")?;
    let denied = identify(state, &active, &token, Verifier::digest(&token)).await.err().context("let in")?;
    ensure!(denied.reason == "JWKS_UNAVAILABLE", "{denied:?}");
    until("good again", async || {
        read(here.door.admin, "/status").await?;
        Ok(here.status(&token).await? == 200)
    })
    .await?;
    here.end().await
}

#[tokio::test]
async fn somebody_without_the_admin_token_is_not_the_engine() -> Result<()> {
    let (app, issuer) = (App::echo().await?, Issuer::new("https://issuer.example", "key-1")?);
    let (here, token) = (Here::start(None)?, issuer.token(ALICE)?);
    let body = serde_json::to_vec(&config(&issuer, &[&app])?)?;
    here.ready(Some(&body), &token).await?;
    tokio::time::sleep(MAX_AGE + MAX_AGE / 5).await;
    let stranger = Wire::to(here.door.admin).await?.ask(get("/status", "a-token-of-somebody-else")).await?;
    ensure!(stranger.status == 401 && here.status(&token).await? == 401);
    here.end().await
}

#[tokio::test]
async fn keys_that_the_gate_fetches_and_those_of_an_operators_file_need_no_engine() -> Result<()> {
    let (app, issuer) = (App::echo().await?, Issuer::new("https://issuer.example", "key-1")?);
    let page = json!({ "keys": [issuer.jwk()?] }).to_string();
    let keys = App::http1(move |_| {
        let page = page.clone();
        async move { Response::new(full(page)) }
    })
    .await?;
    let (by_file, token) = (config(&issuer, &[&app])?, issuer.token(ALICE)?);
    let mut fetched = by_file.clone();
    fetched.issuers[0].jwks_uri = Some(format!("http://{}/keys", keys.address));
    let (one, other) = (Here::start(Some(&by_file))?, Here::start(None)?);
    ensure!(put(other.door.admin, &serde_json::to_vec(&fetched)?).await?.status == 200);
    for here in [&one, &other] {
        here.ready(None, &token).await?;
    }
    tokio::time::sleep(MAX_AGE * 2).await;
    ensure!(one.status(&token).await? == 200, "by file");
    ensure!(other.status(&token).await? == 200, "fetched");
    // and when their source is gone they become too old by themselves
    drop(keys);
    tokio::time::sleep(MAX_AGE * 2).await;
    ensure!(other.status(&token).await? == 401, "fetched long ago");
    one.end().await?;
    other.end().await
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_over_for_too_long() -> Result<()> {
    let app = App::http1(|request: Request<Incoming>| async move {
        if request.uri().path() != "/events" {
            return Response::new(full("once"));
        }
        let (send, body) = channel();
        tokio::spawn(async move {
            while send.send(Frame::data(Bytes::from_static(b"data: tick\n\n"))).is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Response::new(body)
    })
    .await?;
    let issuer = Issuer::new("https://issuer.example", "key-1")?;
    let here = Here::start(Some(&config(&issuer, &[&app])?))?;
    here.ready(None, &issuer.token(ALICE)?).await?;
    let now = syp_auth::unix_now();
    let token = issuer.token_with(ALICE, "exp", json!(now + 2))?;
    let mut wire = Wire::to(here.door.traffic).await?;
    wire.send(get("/events", &token)).await?;
    ensure!(wire.head().await?.status == 200);
    soon("the end", wire.rest()).await??;
    let after = syp_auth::unix_now() - now;
    ensure!(after >= 4, "it ended after {after} s, its token after 2 s and it may outlive that by 2 s");
    Ok(())
}
