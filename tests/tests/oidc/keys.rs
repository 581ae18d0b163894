//! Keys that rotate, keys that nobody has, and a provider that is away.
use crate::{API, APP, connected, outcome, says, world};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::{Duration, Instant},
};
use syp_tests::{
    oidc::{ALICE, BOB, Issuer, Server, ready, until},
    product::{get, pause},
};
use tonic::Code;

/// What follows at once where nothing else is at work.
const SOON: Duration = Duration::from_secs(60);

/// A connection to a gate that is kept.
struct Kept {
    stream: BufReader<TcpStream>,
    host: String,
}

// === impl Kept ===

impl Kept {
    fn open(url: &str) -> Result<Self> {
        let host = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let stream = TcpStream::connect(&host)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(Self { stream: BufReader::new(stream), host })
    }

    /// Status of a request; fails when the connection was closed.
    fn get(&mut self, token: &str) -> Result<u16> {
        let head = format!("GET / HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n", self.host);
        self.stream.get_mut().write_all(head.as_bytes())?;
        let (mut line, mut length) = (String::new(), 0);
        ensure!(self.stream.read_line(&mut line)? > 0, "the connection was closed");
        let status = line.split(' ').nth(1).context("status")?.parse()?;
        loop {
            line.clear();
            ensure!(self.stream.read_line(&mut line)? > 0, "the connection was closed");
            let lower = line.trim().to_ascii_lowercase();
            if lower.is_empty() {
                break;
            }
            if let Some(n) = lower.strip_prefix("content-length:") {
                length = n.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        std::io::Read::read_exact(&mut self.stream, &mut body)?;
        Ok(status)
    }
}

#[test]
fn keys_rotate_without_a_restart_and_without_dropping_a_connection() -> Result<()> {
    world(|p, s| {
        s.engine.up("shop", "syp-test/hello", &["--port", "8080", "--allow", "user:alice@example.com"])?;
        let url = s.engine.endpoint("shop")?;
        let (old_api, old_app) = (p.token(&ALICE, API)?, p.token(&ALICE, APP)?);
        let mut kept = Kept::open(&url)?;
        ensure!(kept.get(&old_app)? == 200, "before");
        s.ends_with(0, &old_api, &["ls"])?;
        let pid = s.engine.pid()?;
        p.rotate(true)?;
        // the gate alone sees the new key first
        let new_app = p.token(&ALICE, APP)?;
        let t = Instant::now();
        until("the gate takes the new key", SOON, || Ok(kept.get(&new_app)? == 200))?;
        println!("the gate took a new key after {} ms", t.elapsed().as_millis());
        ensure!(kept.get(&old_app)? == 200, "the old key is still published");
        s.ends_with(0, &p.token(&ALICE, API)?, &["ls"])?;
        s.ends_with(0, &old_api, &["ls"])?;
        // and now the engine alone: its first call is let in
        p.rotate(true)?;
        let newest = p.token(&ALICE, API)?;
        s.ends_with(0, &newest, &["ls"])?;
        let newest = p.token(&ALICE, APP)?;
        until("the engine tells the gate", SOON, || Ok(kept.get(&newest)? == 200))?;
        // dropped keys are dropped, as soon as the new ones are seen
        p.rotate(false)?;
        s.ends_with(0, &p.token(&ALICE, API)?, &["ls"])?;
        says(&s.ends_with(4, &old_api, &["ls"])?, "TOKEN_KEY_UNKNOWN")?;
        until("the gate drops old keys", SOON, || Ok(kept.get(&old_app)? == 401))?;
        ensure!(kept.get(&p.token(&ALICE, APP)?)? == 200, "on the first connection still");
        ensure!(s.engine.pid()? == pid, "it is the same engine");
        s.engine.down("shop")
    })
}

/// Tokens of a flood.
const FLOOD: usize = 120;

/// Does something that names unknown keys; the provider is asked at least once, and not more than once a second.
fn counted(p: &Issuer, whom: &str, flood: impl FnOnce() -> Result<()>) -> Result<()> {
    let (before, _) = p.fetches()?;
    let t = Instant::now();
    flood()?;
    // what is still on its way
    pause(300);
    let (fetched, window) = (p.fetches()?.0 - before, t.elapsed().as_secs() + 2);
    println!("{FLOOD} unknown keys at {whom} in {window} s: {fetched} fetches");
    ensure!(fetched >= 1, "{whom}: nobody asked at all");
    ensure!(fetched <= window, "{whom}: {fetched} fetches in {window} s");
    Ok(())
}

#[test]
fn an_unknown_key_is_asked_for_once_and_a_flood_of_them_once_in_the_window() -> Result<()> {
    world(|p, s| {
        s.engine.up("shop", "syp-test/hello", &["--port", "8080", "--allow", "user:alice@example.com"])?;
        let url = s.engine.endpoint("shop")?;
        let fake =
            |audience: &str, kid: &str| p.mint(&ALICE, audience, &json!({}), &json!({ "kid": kid }), "ES256");
        pause(1_200);
        let (before, _) = p.fetches()?;
        let (one, t) = (fake(API, "nobody-1")?, Instant::now());
        for _ in 0..3 {
            says(&s.ends_with(4, &one, &["whoami"])?, "TOKEN_KEY_UNKNOWN")?;
        }
        // that nobody has it is remembered for ten seconds
        let (fetched, most) = (p.fetches()?.0 - before, 1 + t.elapsed().as_secs() / 10);
        ensure!((1..=most).contains(&fetched), "one key id, at most {most} fetches: {fetched}");
        // each with a key of its own, all at once: at the engine, then at the gate
        let flood = |audience: &str| -> Result<Vec<String>> {
            (0..FLOOD).map(|n| fake(audience, &format!("{audience}-{n}"))).collect()
        };
        let (at_engine, at_gate) = (flood(API)?, flood(APP)?);
        pause(1_200);
        counted(p, "the engine", || {
            connected(s, async |channel| {
                let call = |token| outcome(&channel, "/syp.v1.Access/WhoAmI", Some(token));
                let all: Vec<_> = at_engine.iter().map(|t| call(t.as_str())).collect();
                for code in futures_util::future::join_all(all).await {
                    ensure!(code? == Code::Unauthenticated, "a made-up key got in");
                }
                Ok(())
            })
        })?;
        counted(p, "the gate", || {
            std::thread::scope(|scope| {
                let all = |part: &[String]| {
                    part.iter().try_for_each(|token| {
                        ensure!(get(&url, Some(token), &[])?.0 == 401, "a made-up key got in");
                        Ok(())
                    })
                };
                let workers: Vec<_> = at_gate.chunks(2).map(|part| scope.spawn(move || all(part))).collect();
                workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow::anyhow!("panic"))?)
            })
        })?;
        // nobody else was hurt by it
        ensure!(get(&url, Some(&p.token(&ALICE, APP)?), &[])?.0 == 200, "alice still gets in");
        s.engine.down("shop")
    })
}

#[test]
fn while_the_provider_is_down_the_last_good_keys_serve_and_unknown_ones_are_refused() -> Result<()> {
    world(|p, s| {
        s.engine.up("shop", "syp-test/hello", &["--port", "8080", "--allow", "user:alice@example.com"])?;
        let url = s.engine.endpoint("shop")?;
        let unknown = json!({ "kid": "not-published" });
        for mode in ["down", "reset", "garbage", "empty"] {
            p.fault(mode)?;
            pause(1_100);
            let no_kid = p.mint(&ALICE, API, &json!({}), &unknown, "ES256")?;
            ensure!(s.with_token(&no_kid, &["ls"])?.code != 0, "{mode}: an unknown key got in");
            // after the failed fetch, and with tokens that nobody saw before
            s.ends_with(0, &p.token(&ALICE, API)?, &["ls"]).context(mode)?;
            ensure!(get(&url, Some(&p.token(&ALICE, APP)?), &[])?.0 == 200, "{mode}: alice at the gate");
            let no_kid = p.mint(&ALICE, APP, &json!({}), &unknown, "ES256")?;
            ensure!(get(&url, Some(&no_kid), &[])?.0 == 401, "{mode}: an unknown key at the gate");
        }
        // nor does a gate lose them when its engine starts anew during the outage and brings it other news
        s.restart(&["--issuer", &p.url(), "--audience", APP])?;
        s.engine.ok(&["access", "allow", "shop", "user:bob@example.com"])?;
        let bob = p.token(&BOB, APP)?;
        until("bob gets in", SOON, || Ok(get(&url, Some(&bob), &[])?.0 == 200))?;
        ensure!(get(&url, Some(&p.token(&ALICE, APP)?), &[])?.0 == 200, "alice after the engine's restart");
        says(&s.ends_with(11, &p.token(&ALICE, API)?, &["ls"])?, "JWKS_UNAVAILABLE")?;
        // keys that rotate during the outage are taken right after it
        p.rotate(false)?;
        let new = p.token(&ALICE, API)?;
        ensure!(s.with_token(&new, &["ls"])?.code != 0, "a key that nobody could fetch");
        p.fault("none")?;
        until("the engine sees it", SOON, || Ok(s.with_token(&new, &["ls"])?.code == 0))?;
        s.engine.down("shop")
    })
}

#[test]
fn an_engine_started_while_the_provider_is_down_fails_closed_and_recovers_by_itself() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let first = Issuer::start(&[])?;
    let token = first.token(&ALICE, API)?;
    let url = first.url();
    let port = first.stop()?;
    let s = Server::start(&sypctl, &url, &["--audience", APP, "--admin", "user:alice@example.com"])?;
    let said = s.with_token(&token, &["ls"])?;
    ensure!(said.code == 11, "it ended with {}: {}", said.code, said.err);
    says(&said, "JWKS_UNAVAILABLE")?;
    // the engine's own user is not concerned
    s.engine.up("shop", "syp-test/hello", &["--port", "8080", "--allow", "user:alice@example.com"])?;
    let at = s.engine.endpoint("shop")?;
    ensure!(get(&at, Some(&token), &[])?.0 == 401, "closed at the gate too");
    let second = Issuer::start_at(port, &[])?;
    let app = second.token(&ALICE, APP)?;
    until("the gate recovers without being asked", Duration::from_secs(120), || {
        pause(500);
        Ok(get(&at, Some(&app), &[])?.0 == 200)
    })?;
    s.ends_with(0, &second.token(&ALICE, API)?, &["ls"])?;
    // the first provider's keys are not the second's
    says(&s.ends_with(4, &token, &["ls"])?, "TOKEN_KEY_UNKNOWN")?;
    s.engine.down("shop")
}
