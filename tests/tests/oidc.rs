//! Who gets in, with a certified OpenID Connect provider, the real engine over TLS and its socket, and the real gate.
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};
use syp_auth::policy::Role;
use syp_engine::api::roles::{Need, need};
use syp_proto::v1::{AuditEvent, ListAuditEventsRequest, audit_client::AuditClient};
use syp_tests::{
    oidc::{ALICE, BOB, Browser, CAROL, Certificate, Issuer, MALLORY, NOT_ALICE, Person, Server, end, ready, until},
    product::{Said, get, pause, sh},
};
use tonic::{
    Code,
    transport::{Certificate as TlsCertificate, Channel, ClientTlsConfig, Endpoint},
};

/// Audience of the control plane.
const API: &str = "syp-api";
/// Audience of the instances, as the engine was told with `--audience`.
const APP: &str = "apps.example.com";

/// A provider and an engine that trusts it; mallory is nobody there.
fn world(test: impl FnOnce(&Issuer, &mut Server) -> Result<()>) -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let issuer = Issuer::start(&[])?;
    let mut server =
        Server::start(&sypctl, &issuer.url(), &["--audience", APP, "--admin", "user:alice@example.com"])?;
    test(&issuer, &mut server).with_context(|| format!("the engine said: {}", server.log()))
}

fn says(s: &Said, reason: &str) -> Result<()> {
    ensure!(s.err.contains(reason), "expected {reason}: {}{}", s.out, s.err);
    Ok(())
}

/// The gate let it pass, whatever the app thinks of the path.
fn inside(url: &str, token: &str) -> Result<bool> {
    match get(url, Some(token), &[])?.0 {
        403 => Ok(false),
        200 | 404 => Ok(true),
        other => anyhow::bail!("{url} answers {other}"),
    }
}

#[test]
fn tokens_of_the_provider_open_an_instance_by_user_group_domain_and_claim() -> Result<()> {
    world(|p, s| {
        let e = &s.engine;
        e.up("shop", "syp-test/hello", &["--port", "8080", "--allow", "user:alice@example.com"])?;
        let url = e.endpoint("shop")?;
        for (client, alg, code) in [
            ("ci-allowed", "RS256", 200),
            ("ci-allowed", "ES256", 200),
            ("ci-allowed", "EdDSA", 200),
            ("ci-denied", "ES256", 403),
        ] {
            let t = p.machine_token(client, APP, alg)?;
            let (got, body) = get(&url, Some(&t), &[])?;
            ensure!(got == code, "{client} with {alg} got {got}: {body}");
        }
        ensure!(get(&url, None, &[])?.0 == 401, "no token");
        // one rule a path: who gets in where
        let alone = e.run(&["access", "allow", "shop", "sub:u-nogroups"])?;
        ensure!(alone.code == 2 && alone.err.contains("issuer"), "a subject of no issuer: {}", alone.err);
        let unknown = e.run(&["access", "allow", "shop", "sub:x", "--issuer", "https://nobody.example"])?;
        ensure!(unknown.code == 2 && unknown.err.contains(&p.url()), "an unknown issuer: {}", unknown.err);
        for (member, path) in [
            ("group:serving-users", "/group"),
            ("domain:example.com", "/domain"),
            ("claim:dept=rd", "/claim"),
            ("sub:u-nogroups", "/sub"),
        ] {
            let issuer = p.url();
            let mut args = vec!["access", "allow", "shop", member, "--path", path];
            if member.starts_with("sub:") {
                args.extend(["--issuer", &issuer]);
            }
            e.ok(&args)?;
        }
        e.ok(&["access", "deny", "shop", "user:bob@example.com", "--path", "/domain"])?;
        let carol = p.token(&CAROL, APP)?;
        until("the rules are in force", Duration::from_secs(5), || inside(&format!("{url}/sub"), &carol))?;
        let doors: [(&str, [bool; 5]); 5] = [
            ("/", [true, false, false, false, false]),
            ("/group", [true, true, false, false, false]),
            ("/domain", [true, false, true, false, false]),
            ("/claim", [true, false, false, false, false]),
            ("/sub", [true, false, true, false, false]),
        ];
        let people = [ALICE, BOB, CAROL, MALLORY, NOT_ALICE];
        for (path, expected) in doors {
            for (who, expected) in people.iter().zip(expected) {
                let t = p.token(who, APP)?;
                let got = inside(&format!("{url}{path}"), &t)?;
                ensure!(got == expected, "{} at {path}: {got}", who.sub);
            }
        }
        // the claim itself, not who has it
        let rd = p.mint(&MALLORY, APP, &json!({ "dept": ["ops", "rd"] }), &json!({}), "EdDSA")?;
        ensure!(inside(&format!("{url}/claim"), &rd)?, "a list with the value");
        ensure!(!inside(&format!("{url}/claimed"), &rd)?, "a prefix is a whole part of a path");
        e.down("shop")
    })
}

/// Tokens of alice that nobody may take: what is wrong, claims, header.
fn bad_tokens(p: &Issuer, audience: &str) -> Result<Vec<(&'static str, String)>> {
    let now = i64::try_from(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("clock")?.as_secs(),
    )?;
    let kids = p.admin("state", &Value::Null)?;
    let other = kids["active"][0].as_str().context("kid")?.to_owned();
    let none = json!({});
    let cases: Vec<(&str, Value, Value)> = vec![
        ("TOKEN_CLAIM no exp", json!({ "exp": null }), none.clone()),
        ("TOKEN_CLAIM exp as text", json!({ "exp": (now + 300).to_string() }), none.clone()),
        ("TOKEN_CLAIM exp as a fraction", json!({ "exp": now as f64 + 300.5 }), none.clone()),
        ("TOKEN_CLAIM exp beyond all time", json!({ "exp": 1_u64 << 62 }), none.clone()),
        ("TOKEN_EXPIRED", json!({ "exp": now - 120, "iat": now - 300 }), none.clone()),
        ("TOKEN_NOT_YET_VALID nbf", json!({ "nbf": now + 300 }), none.clone()),
        ("TOKEN_NOT_YET_VALID iat", json!({ "iat": now + 300 }), none.clone()),
        ("TOKEN_CLAIM no sub", json!({ "sub": null }), none.clone()),
        ("TOKEN_CLAIM empty sub", json!({ "sub": "" }), none.clone()),
        ("TOKEN_CLAIM no aud", json!({ "aud": null }), none.clone()),
        ("TOKEN_AUDIENCE", json!({ "aud": "somebody-else" }), none.clone()),
        (
            "TOKEN_AUDIENCE a part of it",
            json!({ "aud": audience.get(1..).context("audience")? }),
            none.clone(),
        ),
        ("TOKEN_CLAIM iss as a list", json!({ "iss": [p.url()] }), none.clone()),
        ("TOKEN_ISSUER_UNKNOWN", json!({ "iss": format!("{}/", p.url()) }), none.clone()),
        ("TOKEN_CRITICAL_HEADER", none.clone(), json!({ "cty": "JWT" })),
        ("TOKEN_TYPE", none.clone(), json!({ "typ": "logout+jwt" })),
        ("TOKEN_ALGORITHM key of another kind", none.clone(), json!({ "kid": other })),
        ("TOKEN_KEY_UNKNOWN", none, json!({ "kid": "made-up" })),
    ];
    let mut out = Vec::new();
    for (what, claims, header) in cases {
        out.push((what, p.mint(&ALICE, audience, &claims, &header, "ES256")?));
    }
    let good = p.token(&ALICE, audience)?;
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { anyhow::bail!("not a JWT") };
    // {"alg":"none"} and {"alg":"HS256"}
    out.push(("TOKEN_ALGORITHM none", format!("eyJhbGciOiJub25lIn0.{payload}.{signature}")));
    out.push(("TOKEN_ALGORITHM symmetric", format!("eyJhbGciOiJIUzI1NiJ9.{payload}.{signature}")));
    let bob = p.token(&BOB, audience)?;
    let theirs = bob.split('.').nth(1).context("payload")?;
    out.push(("TOKEN_SIGNATURE", format!("{header}.{theirs}.{signature}")));
    out.push(("TOKEN_MALFORMED", format!("{header}.{payload}")));
    out.push(("TOKEN_MALFORMED padding", format!("{header}=.{payload}.{signature}")));
    out.push(("TOKEN_TOO_LARGE", format!("{header}.{}.{signature}", "A".repeat(9000))));
    Ok(out)
}

#[test]
fn a_token_that_breaks_one_rule_is_refused_at_both_planes_and_one_plane_s_token_at_the_other() -> Result<()> {
    world(|p, s| {
        s.engine.up("shop", "syp-test/hello", &["--port", "8080", "--allow", "user:alice@example.com"])?;
        let url = s.engine.endpoint("shop")?;
        let (api, app) = (p.token(&ALICE, API)?, p.token(&ALICE, APP)?);
        // both are good where they belong
        s.ends_with(0, &api, &["ls"])?;
        ensure!(get(&url, Some(&app), &[])?.0 == 200, "alice gets in");
        for (what, token) in bad_tokens(p, APP)? {
            let (code, body) = get(&url, Some(&token), &[])?;
            ensure!(code == 401, "{what} got {code} at the gate");
            let reason = what.split(' ').next().unwrap_or_default();
            ensure!(!body.contains(reason), "a stranger is told which check failed: {body}");
        }
        for (what, token) in bad_tokens(p, API)? {
            let said = s.ends_with(4, &token, &["ls"]).with_context(|| what)?;
            says(&said, what.split(' ').next().unwrap_or_default())?;
            ensure!(!said.err.contains(&token), "the token is repeated");
        }
        says(&s.ends_with(4, &app, &["ls"])?, "TOKEN_AUDIENCE")?;
        ensure!(get(&url, Some(&api), &[])?.0 == 401, "a token of the API at an instance");
        // the same with the built-in issuer
        let local = s.engine.token("shop", Some("user:alice@example.com"))?;
        ensure!(get(&url, Some(&local), &[])?.0 == 200, "the local token of alice");
        let local_api = s.engine.ok(&["token", "syp-api"])?;
        ensure!(get(&url, Some(local_api.trim()), &[])?.0 == 401, "a local token of the API at an instance");
        says(&s.ends_with(4, &local, &["ls"])?, "TOKEN_AUDIENCE")?;
        // one instance's token at another
        s.engine.up("other", "syp-test/hello", &["--port", "8080", "--allow", "user:alice@example.com"])?;
        ensure!(
            get(&s.engine.endpoint("other")?, Some(&local), &[])?.0 == 401,
            "a token of 'shop' at 'other'"
        );
        s.engine.down("other")?;
        s.engine.down("shop")
    })
}

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
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
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
        until("the gate takes the new key", Duration::from_secs(5), || Ok(kept.get(&new_app)? == 200))?;
        println!("the gate took a new key after {} ms", t.elapsed().as_millis());
        ensure!(kept.get(&old_app)? == 200, "the old key is still published");
        s.ends_with(0, &p.token(&ALICE, API)?, &["ls"])?;
        s.ends_with(0, &old_api, &["ls"])?;
        // and now the engine alone: its first call is let in
        p.rotate(true)?;
        let newest = p.token(&ALICE, API)?;
        s.ends_with(0, &newest, &["ls"])?;
        let newest = p.token(&ALICE, APP)?;
        until("the engine tells the gate", Duration::from_secs(5), || Ok(kept.get(&newest)? == 200))?;
        // dropped keys are dropped, as soon as the new ones are seen
        p.rotate(false)?;
        s.ends_with(0, &p.token(&ALICE, API)?, &["ls"])?;
        says(&s.ends_with(4, &old_api, &["ls"])?, "TOKEN_KEY_UNKNOWN")?;
        until("the gate drops old keys", Duration::from_secs(5), || Ok(kept.get(&old_app)? == 401))?;
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
    let took = t.elapsed();
    // what is still on its way
    pause(300);
    let (fetched, window) = (p.fetches()?.0 - before, took.as_secs() + 2);
    println!("{FLOOD} unknown keys at {whom} in {} ms: {fetched} fetches", took.as_millis());
    ensure!(fetched >= 1, "{whom}: nobody asked at all");
    ensure!(fetched <= window, "{whom}: {fetched} fetches in {window} s");
    ensure!(window < FLOOD as u64 / 4, "{whom}: the flood was none, it took {window} s");
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
        let one = fake(API, "nobody-1")?;
        for _ in 0..3 {
            says(&s.ends_with(4, &one, &["whoami"])?, "TOKEN_KEY_UNKNOWN")?;
        }
        ensure!(p.fetches()?.0 == before + 1, "one key id, one fetch: {} after {before}", p.fetches()?.0);
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
                let workers: Vec<_> = at_gate.chunks(10).map(|part| scope.spawn(move || all(part))).collect();
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
        until("bob gets in", Duration::from_secs(5), || Ok(get(&url, Some(&bob), &[])?.0 == 200))?;
        ensure!(get(&url, Some(&p.token(&ALICE, APP)?), &[])?.0 == 200, "alice after the engine's restart");
        says(&s.ends_with(11, &p.token(&ALICE, API)?, &["ls"])?, "JWKS_UNAVAILABLE")?;
        // keys that rotate during the outage are taken right after it
        p.rotate(false)?;
        let new = p.token(&ALICE, API)?;
        ensure!(s.with_token(&new, &["ls"])?.code != 0, "a key that nobody could fetch");
        p.fault("none")?;
        until("the engine sees it", Duration::from_secs(5), || Ok(s.with_token(&new, &["ls"])?.code == 0))?;
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
    until("the gate recovers without being asked", Duration::from_secs(40), || {
        pause(500);
        Ok(get(&at, Some(&app), &[])?.0 == 200)
    })?;
    s.ends_with(0, &second.token(&ALICE, API)?, &["ls"])?;
    // the first provider's keys are not the second's
    says(&s.ends_with(4, &token, &["ls"])?, "TOKEN_KEY_UNKNOWN")?;
    s.engine.down("shop")
}

#[test]
fn roles_are_given_by_the_control_policy_and_operators_by_the_instance() -> Result<()> {
    world(|p, s| {
        let token = |who: &Person| p.token(who, API);
        let (alice, bob, carol, mallory) = (token(&ALICE)?, token(&BOB)?, token(&CAROL)?, token(&MALLORY)?);
        let up = |name: &'static str| {
            [
                "up",
                name,
                "--image",
                "syp-test/hello",
                "--port",
                "8080",
                "--yes",
                "--allow",
                "group:serving-users",
            ]
        };
        let control = ["--plane", "control", "--role"];
        s.ends_with(
            0,
            &alice,
            &[&["access", "allow", "-", "domain:example.com"], &control[..], &["viewer"]].concat(),
        )?;
        // first match decides: bob is a viewer until a rule before that one says more
        says(&s.ends_with(6, &bob, &up("bobs"))?, "PERMISSION_DENIED")?;
        s.ends_with(0, &bob, &["ls"])?;
        says(&s.ends_with(6, &mallory, &up("theirs"))?, "PERMISSION_DENIED")?;
        for (who, role) in [(&alice, "admin"), (&bob, "viewer"), (&carol, "viewer"), (&mallory, "none")] {
            let me = s.ends_with(0, who, &["whoami"])?;
            ensure!(me.out.contains(role), "not {role}: {}", me.out);
        }
        s.ends_with(0, &alice, &up("shop"))?;
        for args in [&["down", "shop", "--yes"][..], &["access", "allow", "shop", "user:carol@example.com"]] {
            says(&s.ends_with(6, &carol, args)?, "PERMISSION_DENIED")?;
        }
        // who may not look does not learn that it is there
        let hidden = s.ends_with(5, &mallory, &["show", "shop"])?;
        let absent = s.ends_with(5, &mallory, &["show", "nope"])?;
        ensure!(hidden.err.replace("shop", "nope") == absent.err, "{} {}", hidden.err, absent.err);
        ensure!(!s.ends_with(0, &mallory, &["ls"])?.out.contains("shop"), "a stranger sees it in the list");
        // an operator of that instance only
        s.ends_with(
            0,
            &alice,
            &["access", "allow", "shop", "user:mallory@example.net", "--plane", "control"],
        )?;
        ensure!(s.ends_with(0, &mallory, &["ls"])?.out.contains("shop"), "its operator does not see it");
        s.ends_with(0, &mallory, &["access", "allow", "shop", "user:mallory@example.net"])?;
        says(&s.ends_with(6, &mallory, &up("theirs"))?, "PERMISSION_DENIED")?;
        s.ends_with(0, &alice, &up("second"))?;
        s.ends_with(5, &mallory, &["down", "second", "--yes"])?;
        for args in [&["server", "stop"][..], &["fsck"], &["sweep"]] {
            ensure!(s.with_token(&bob, args)?.code != 0, "a viewer did {args:?}");
        }
        s.ends_with(0, &mallory, &["down", "shop", "--yes"])?;
        s.ends_with(0, &alice, &["down", "second", "--yes"])?;
        // an operator everywhere may make instances, and not policy
        let rest = ["--role", "operator", "--plane", "control"];
        s.ends_with(
            0,
            &alice,
            &[&["access", "deny", "-", "domain:example.com", "--remove"], &rest[2..]].concat(),
        )?;
        s.ends_with(0, &alice, &[&["access", "allow", "-", "user:carol@example.com"], &rest[..]].concat())?;
        s.ends_with(0, &carol, &up("carols"))?;
        says(
            &s.ends_with(
                6,
                &carol,
                &[&["access", "allow", "-", "user:bob@example.com"], &rest[..]].concat(),
            )?,
            "PERMISSION_DENIED",
        )?;
        s.ends_with(0, &carol, &["down", "carols", "--yes"])?;
        s.engine.ok(&["receipt", "carols", "--verify"]).map(drop)
    })
}

#[test]
fn a_change_that_locks_its_maker_out_is_refused_unless_forced() -> Result<()> {
    world(|p, s| {
        let alice = p.token(&ALICE, API)?;
        let deny = ["access", "deny", "-", "user:alice@example.com", "--plane", "control"];
        let remove = ["access", "deny", "-", "user:alice@example.com", "--remove", "--plane", "control"];
        for change in [&deny[..], &remove[..]] {
            says(&s.ends_with(6, &alice, change)?, "SELF_LOCKOUT")?;
        }
        let demoted = ["access", "deny", "-", "group:admins", "--plane", "control"];
        says(&s.ends_with(6, &alice, &demoted)?, "SELF_LOCKOUT")?;
        s.ends_with(0, &alice, &["ls"])?;
        // a change that keeps its maker is none of that
        let more = ["access", "allow", "-", "user:bob@example.com", "--plane", "control", "--role", "admin"];
        s.ends_with(0, &alice, &more)?;
        s.ends_with(0, &alice, &[&deny[..], &["--force"]].concat())?;
        says(&s.ends_with(6, &alice, &more)?, "PERMISSION_DENIED")?;
        // bob can still do it, and so the engine's own user can be locked out of the policy too
        let bob = p.token(&BOB, API)?;
        let own: Value = s.engine.json(&["whoami"])?;
        let own = format!("sub:{}", own["subject"].as_str().context("subject")?);
        let local = s.engine.json(&["server", "status"])?["localIssuer"].as_str().context("issuer")?.to_owned();
        let mut more = vec!["access", "deny", "-", &own, "--plane", "control", "--issuer", &local];
        s.ends_with(0, &bob, &more)?;
        let token = s.engine.ok(&["token", "syp-api"])?;
        says(&s.ends_with(6, token.trim(), &["sweep"])?, "PERMISSION_DENIED")?;
        // over its own socket it is an administrator all the same: the way back
        more.truncate(4);
        let back = ["access", "allow", "-", "user:carol@example.com", "--plane", "control", "--role", "admin"];
        s.engine.ok(&[&back[..], &["--force"]].concat())?;
        s.ends_with(0, &p.token(&CAROL, API)?, &["sweep"]).map(drop)
    })
}

#[test]
fn off_loopback_without_tls_is_refused_before_anything_is_made() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    for address in ["0.0.0.0:0", "192.0.2.1:7443", "[::]:0"] {
        let o = std::process::Command::new(&sypctl)
            .args(["server", "run", "--listen", address])
            .env("SYP_DATA_DIR", &data)
            .output()?;
        let err = String::from_utf8_lossy(&o.stderr);
        ensure!(o.status.code() == Some(2) && err.contains("TLS"), "{address}: {err}");
        ensure!(!data.exists(), "{address}: something was made");
    }
    let o = std::process::Command::new(&sypctl)
        .args(["server", "run", "--audience", API])
        .env("SYP_DATA_DIR", &data)
        .output()?;
    ensure!(!o.status.success() && !data.exists(), "one audience for both planes");
    // nor does a client send a token there
    let o = std::process::Command::new(&sypctl)
        .args(["--server", "http://192.0.2.1:7443", "ls"])
        .env("SYP_DATA_DIR", &data)
        .env("SYP_TOKEN", "x")
        .output()?;
    ensure!(o.status.code() == Some(2), "a token in clear: {}", String::from_utf8_lossy(&o.stderr));
    Ok(())
}

#[test]
fn loopback_without_tls_serves_tokens_of_both_issuers() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let p = Issuer::start(&[])?;
    let s = Server::listen(
        &sypctl,
        "127.0.0.1",
        false,
        &["--issuer", &p.url(), "--admin", "user:alice@example.com"],
    )?;
    s.ends_with(0, &p.token(&ALICE, API)?, &["ls"])?;
    let local = s.engine.ok(&["token", "syp-api"])?;
    s.ends_with(0, local.trim(), &["ls"])?;
    // the first token is for the socket's own user only
    let said = s.ends_with(4, "", &["whoami"])?;
    says(&said, "TOKEN_MISSING")
}

/// A network of Docker's, for its address on this host.
struct Bridge(String);

// === impl Bridge ===

impl Bridge {
    fn new() -> Result<Self> {
        let name = format!("syp-test-oidc-{}", std::process::id());
        sh("docker", &["network", "create", &name])?;
        Ok(Self(name))
    }

    fn address(&self) -> Result<String> {
        let out = sh("docker", &["network", "inspect", &self.0, "-f", "{{(index .IPAM.Config 0).Gateway}}"])?;
        Ok(out.trim().to_owned())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = sh("docker", &["network", "rm", &self.0]);
    }
}

#[test]
fn off_loopback_the_built_in_issuer_is_nobody() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let p = Issuer::start(&[])?;
    // this host's end of a bridge of Docker's: not loopback, and nobody else's network either
    let bridge = Bridge::new()?;
    let address = bridge.address()?;
    let s = Server::listen(
        &sypctl,
        &address,
        true,
        &["--issuer", &p.url(), "--admin", "user:alice@example.com", "--audience", APP],
    )?;
    s.ends_with(0, &p.token(&ALICE, API)?, &["ls"])?;
    let local = s.engine.ok(&["token", "syp-api"])?;
    says(&s.ends_with(4, local.trim(), &["ls"])?, "TOKEN_ISSUER")?;
    // over the socket it is as good as ever
    s.engine.ok(&["ls"])?;
    // the same at an instance: off loopback only the provider counts, and TLS is asked for
    let at = format!("{address}:0");
    let up = |more: &[&str]| -> Result<Said> {
        let all = ["up", "out", "--image", "syp-test/hello", "--port", "8080", "--yes", "--publish", &at];
        s.engine.run(&[&all[..], &["--allow", "user:alice@example.com"], more].concat())
    };
    let clear = up(&[])?;
    ensure!(clear.code == 2 && clear.err.contains("certificate"), "published in clear: {}", clear.err);
    let tls = Certificate::of(&address)?;
    let up = up(&["--tls-cert", &tls.file("cert.pem"), "--tls-key", &tls.file("key.pem")])?;
    ensure!(up.code == 0, "up: {}", up.err);
    let url = s.engine.endpoint("out")?;
    let ca = tls.file("ca.pem");
    let status = |t: &str| Ok::<_, anyhow::Error>(get(&url, Some(t), &["--cacert", &ca])?.0);
    ensure!(status(&p.token(&ALICE, APP)?)? == 200, "the provider's token");
    ensure!(status(&s.engine.token("out", Some("user:alice@example.com"))?)? == 401, "a local token off loopback");
    s.engine.down("out")
}

/// A login that runs: what it says on stderr, a line at a time.
struct Login {
    child: std::process::Child,
    lines: BufReader<std::process::ChildStderr>,
}

// === impl Login ===

impl Login {
    fn start(s: &Server, home: &Path, args: &[&str]) -> Result<Self> {
        let mut child = s.remote(home, None, args).stderr(std::process::Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stderr.take().context("stderr")?);
        Ok(Self { child, lines })
    }

    /// The rest of the first line that begins so.
    fn line(&mut self, begin: &str) -> Result<String> {
        let mut all = String::new();
        loop {
            let from = all.len();
            ensure!(self.lines.read_line(&mut all)? > 0, "no line '{begin}': {all}");
            if let Some(rest) = all[from..].trim_end().strip_prefix(begin) {
                return Ok(rest.to_owned());
            }
        }
    }

    fn ends_well(mut self) -> Result<()> {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.lines, &mut rest)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the login ended with {status}: {rest}");
        Ok(())
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let _ = end(&mut self.child);
    }
}

/// What somebody who logged in says with a command.
fn logged_in(s: &Server, home: &Path, code: i32, args: &[&str]) -> Result<Said> {
    let o = s.remote(home, None, args).output()?;
    let said = Said {
        code: o.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&o.stdout).into_owned(),
        err: String::from_utf8_lossy(&o.stderr).into_owned(),
    };
    ensure!(said.code == code, "'sypctl {}' ended with {}: {}", args.join(" "), said.code, said.err);
    Ok(said)
}

/// A provider whose audiences are URIs, as `resource` wants them, and whose tokens end soon.
fn short_lived(sypctl: &Path, ttl: &str) -> Result<(Issuer, Server)> {
    // more than the client's margin for renewals, unless a test wants that it renews at once
    let p = Issuer::start(&[("ACCESS_TTL", ttl), ("DEFAULT_RESOURCE", "urn:aud:syp-api")])?;
    let s = Server::start(sypctl, &p.url(), &["--audience", APP, "--admin", "user:alice@example.com"])?;
    Ok((p, s))
}

#[test]
fn a_device_login_gets_in_renews_itself_and_is_forgotten() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    // below the margin for renewals: every command renews
    let (p, s) = short_lived(&sypctl, "5")?;
    let home = tempfile::tempdir()?;
    let home = home.path();
    says(&logged_in(&s, home, 4, &["ls"])?, "TOKEN_MISSING")?;
    let app = format!("urn:aud:{APP}");
    let mut login =
        Login::start(&s, home, &["login", "--audience", "urn:aud:syp-api", "--app-audience", &app])?;
    let direct = login.line("or open  ")?;
    Browser::new()?.approve(&direct, "u-alice")?;
    login.ends_well()?;
    let kept = home.join("login.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept)?.permissions());
    ensure!(mode & 0o077 == 0, "login.json is {mode:o}");
    let first = std::fs::read_to_string(&kept)?;
    let me = logged_in(&s, home, 0, &["whoami", "-o", "json"])?;
    let me: Value = serde_json::from_str(&me.out)?;
    ensure!(me["email"] == "alice@example.com" && me["issuer"] == p.url().as_str(), "whoami: {me}");
    ensure!(me["role"] == "ADMIN" || me["role"] == "ROLE_ADMIN", "whoami: {me}");
    logged_in(&s, home, 0, &["ls"])?;
    ensure!(std::fs::read_to_string(&kept)? != first, "the token was not renewed");
    // its token for instances is another one, and both are refused at the other plane
    logged_in(
        &s,
        home,
        0,
        &["up", "shop", "--image", "syp-test/hello", "--port", "8080", "--yes", "--allow", "user:alice@example.com"],
    )?;
    let token = logged_in(&s, home, 0, &["token", "shop"])?.out;
    let url = s.engine.endpoint("shop")?;
    ensure!(get(&url, Some(token.trim()), &[])?.0 == 200, "the login's token at the instance");
    says(&s.ends_with(4, token.trim(), &["ls"])?, "TOKEN_AUDIENCE")?;
    let curl = logged_in(&s, home, 0, &["curl", "shop", "/"])?;
    ensure!(curl.out.to_lowercase().contains("hello"), "curl: {}", curl.out);
    logged_in(&s, home, 0, &["down", "shop", "--yes"])?;
    // while the provider is away the login can't be renewed, and is kept
    let port = p.stop()?;
    says(&logged_in(&s, home, 11, &["ls"])?, "ISSUER_UNREACHABLE")?;
    // one that knows nothing of it ends it, with words
    let _other = Issuer::start_at(port, &[])?;
    let ended = logged_in(&s, home, 4, &["ls"])?;
    says(&ended, "TOKEN_EXPIRED")?;
    ensure!(ended.err.contains("sypctl login"), "no word of what to do: {}", ended.err);
    logged_in(&s, home, 0, &["logout"])?;
    ensure!(!kept.exists(), "login.json is still there");
    says(&logged_in(&s, home, 4, &["ls"])?, "TOKEN_MISSING").map(drop)
}

#[test]
fn a_browser_login_gets_in_and_answers_of_others_are_no_answer() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let (p, s) = short_lived(&sypctl, "300")?;
    let home = tempfile::tempdir()?;
    let home = home.path();
    let mut login = Login::start(&s, home, &["login", "--browser", "--audience", "urn:aud:syp-api"])?;
    let page = login.line("Open ")?;
    ensure!(page.starts_with(&p.url()), "the page is not the provider's: {page}");
    let back = page.split("redirect_uri=http%3A%2F%2F127.0.0.1%3A").nth(1).context("redirect")?;
    let port = back.split('%').next().context("port")?;
    // somebody else's code does not end it
    let forged = get(&format!("http://127.0.0.1:{port}/callback?code=x&state=forged"), None, &[])?;
    ensure!(forged.0 == 404, "a forged answer got {}", forged.0);
    let (_, text) = Browser::new()?.open(&format!("{page}&login_hint=bob@example.com"), &[])?;
    ensure!(text.contains("logged in"), "the page says: {text}");
    login.ends_well()?;
    let me = logged_in(&s, home, 0, &["whoami"])?;
    ensure!(me.out.contains("bob@example.com"), "whoami: {}", me.out);
    says(
        &logged_in(&s, home, 6, &["access", "show", "-", "--plane", "control"])?,
        "PERMISSION_DENIED",
    )?;
    // somebody says no
    let mut login = Login::start(&s, home, &["login", "--browser", "--audience", "urn:aud:syp-api"])?;
    let page = login.line("Open ")?;
    let browser = Browser::new()?;
    let (form, _) = browser.open(&page, &[])?;
    browser.open(&form, &[("deny", "1")])?;
    ensure!(login.ends_well().is_err(), "a denied login succeeded");
    // and the login of before is still there
    logged_in(&s, home, 0, &["whoami"]).map(drop)
}

/// Does something with a connection to the engine, as any gRPC client has it.
fn connected<T>(s: &Server, go: impl AsyncFnOnce(Channel) -> Result<T>) -> Result<T> {
    let ca = std::fs::read(s.ca().context("no TLS")?)?;
    let tls = ClientTlsConfig::new().ca_certificate(TlsCertificate::from_pem(ca));
    let endpoint = Endpoint::from_shared(s.url().to_owned())?.tls_config(tls)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, async { go(endpoint.connect().await?).await }).await?
    })
}

/// How an empty message to a method ends.
async fn outcome(channel: &Channel, path: &str, token: Option<&str>) -> Result<Code> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await?;
    let mut request = tonic::Request::new(());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    }
    // unary or not is the same on the wire
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    match grpc.server_streaming(request, path.parse()?, codec).await {
        Ok(mut answer) => match tokio::time::timeout(Duration::from_millis(300), answer.get_mut().message()).await {
            Ok(Err(status)) => Ok(status.code()),
            _ => Ok(Code::Ok),
        },
        Err(status) => Ok(status.code()),
    }
}

#[test]
fn every_method_asks_for_a_token_and_for_its_role_on_the_wire() -> Result<()> {
    world(|p, s| {
        let (alice, bob, mallory) = (p.token(&ALICE, API)?, p.token(&BOB, API)?, p.token(&MALLORY, API)?);
        let viewer = ["access", "allow", "-", "user:bob@example.com", "--plane", "control", "--role", "viewer"];
        s.ends_with(0, &alice, &viewer)?;
        let pool = syp_proto::pool().context("descriptors")?;
        let ours = |name: &str| name.starts_with("syp.") || name.contains("longrunning");
        let paths: Vec<String> = pool
            .services()
            .filter(|x| ours(x.full_name()))
            .flat_map(|x| x.methods().map(|m| format!("/{}/{}", x.full_name(), m.name())).collect::<Vec<_>>())
            .chain(["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned()])
            .collect();
        ensure!(paths.len() > 40, "the descriptor set was not walked");
        connected(s, async |channel| {
            for path in &paths {
                let anonymous = outcome(&channel, path, None).await?;
                let local_only = path.ends_with("/IssueLocalToken");
                let expected = if local_only { Code::PermissionDenied } else { Code::Unauthenticated };
                ensure!(anonymous == expected, "{path} without a token: {anonymous:?}");
                let garbage = outcome(&channel, path, Some("e30.e30.e30")).await?;
                ensure!(garbage == expected, "{path} with a made-up token: {garbage:?}");
                let stranger = outcome(&channel, path, Some(&mallory)).await?;
                let open = ["WhoAmI", "GetServerInfo", "ListInstances", "WatchInstances", "ListOperations"];
                let open = open.iter().any(|m| path.ends_with(m));
                ensure!(open || stranger != Code::Ok, "{path} lets a stranger in");
                if let Some(Need::Global(role)) = need(path) {
                    ensure!(stranger == Code::PermissionDenied, "{path} as a stranger: {stranger:?}");
                    let seen = outcome(&channel, path, Some(&bob)).await?;
                    let refused = seen == Code::PermissionDenied;
                    ensure!(refused == (role > Role::Viewer), "{path} needs {role:?}, as a viewer: {seen:?}");
                }
            }
            let made_up = outcome(&channel, "/syp.v1.Instances/Nope", Some(&alice)).await?;
            ensure!(made_up == Code::Unimplemented, "a method that nobody knows: {made_up:?}");
            Ok(())
        })
    })
}

/// All audit rows, as an administrator reads them.
fn audit(s: &Server, token: &str) -> Result<Vec<AuditEvent>> {
    connected(s, async |channel| {
        let mut client = AuditClient::new(channel);
        let mut request = tonic::Request::new(ListAuditEventsRequest { page_size: 1000, ..Default::default() });
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
        Ok(client.list_audit_events(request).await?.into_inner().audit_events)
    })
}

#[test]
fn every_call_is_in_the_audit_trail_with_who_what_and_outcome_and_without_its_token() -> Result<()> {
    world(|p, s| {
        let (alice, mallory) = (p.token(&ALICE, API)?, p.token(&MALLORY, API)?);
        let stale = p.mint(&ALICE, API, &json!({ "exp": 1_700_000_000 }), &json!({}), "ES256")?;
        s.ends_with(
            0,
            &alice,
            &["up", "shop", "--image", "syp-test/hello", "--port", "8080", "--yes", "--allow", "user:alice@example.com"],
        )?;
        s.ends_with(5, &mallory, &["down", "shop", "--yes"])?;
        s.ends_with(6, &mallory, &["sweep"])?;
        s.ends_with(4, &stale, &["show", "shop"])?;
        s.ends_with(0, &alice, &["access", "allow", "shop", "user:bob@example.com"])?;
        s.ends_with(0, &alice, &["down", "shop", "--yes"])?;
        let wanted: [(&str, &str, &str, &str); 6] = [
            ("u-alice", "syp.v1.Instances/CreateInstance", "instances/shop", "Ok"),
            ("u-mallory", "syp.v1.Instances/", "instances/shop", "NotFound"),
            ("u-mallory", "syp.v1.Providers/SweepOrphans", "", "PermissionDenied"),
            ("127.0.0.1:", "syp.v1.Instances/GetInstance", "", "Unauthenticated"),
            ("u-alice", "syp.v1.Access/SetAccessPolicy", "instances/shop", "Ok"),
            ("u-alice", "syp.v1.Instances/", "instances/shop", "Ok"),
        ];
        for (who, what, target, outcome) in wanted {
            let mut all = Vec::new();
            until("the audit row is there", Duration::from_secs(5), || {
                all = audit(s, &alice)?;
                Ok(all.iter().any(|e| {
                    e.actor.as_ref().is_some_and(|a| a.subject.starts_with(who))
                        && e.method.starts_with(what)
                        && (target.is_empty() || e.targets.iter().any(|t| t.contains(target)))
                        && e.outcome == outcome
                }))
            })
            .with_context(|| format!("{who} {what} {target} {outcome}: {all:#?}"))?;
        }
        // also of those who have no token yet, and of the engine's own user
        s.engine.ok(&["ls"])?;
        let all = audit(s, &alice)?;
        ensure!(
            all.iter().any(|e| e.method.ends_with("IssueLocalToken")
                && e.actor.as_ref().is_some_and(|a| a.subject.starts_with("uid:"))),
            "the first token is not in the trail"
        );
        ensure!(all.iter().all(|e| e.time.is_some()), "a row without a time");
        // no token, neither there nor anywhere in the data directory but where its owner keeps it
        let text = format!("{all:?}");
        for token in [&alice, &mallory, &stale] {
            let signature = token.rsplit('.').next().context("signature")?;
            ensure!(!text.contains(signature), "a token in the audit trail");
            let found = std::process::Command::new("grep")
                .args(["-rlaF", signature])
                .arg(s.engine.dir())
                .output()?;
            ensure!(found.stdout.is_empty(), "a token in {}", String::from_utf8_lossy(&found.stdout));
        }
        ensure!(audit(s, &mallory).is_err(), "a stranger reads the trail");
        Ok(())
    })
}
