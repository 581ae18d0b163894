//! Who gets in, with a certified OpenID Connect provider, the real engine over TLS and its socket, and the real gate.
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::{Duration, Instant},
};
use syp_tests::{
    oidc::{ALICE, BOB, CAROL, Issuer, MALLORY, NOT_ALICE, Person, Server, ready, until},
    product::{Said, get, pause, sh},
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
        // each with a key of its own, at the gate, from many connections
        let flood: Vec<String> = (0..200).map(|n| fake(APP, &format!("flood-{n}"))).collect::<Result<_>>()?;
        let (before, _) = p.fetches()?;
        let t = Instant::now();
        std::thread::scope(|scope| {
            let workers: Vec<_> = flood
                .chunks(25)
                .map(|part| {
                    scope.spawn(|| {
                        part.iter().try_for_each(|token| {
                            ensure!(get(&url, Some(token), &[])?.0 == 401, "a made-up key got in");
                            Ok(())
                        })
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow::anyhow!("panic"))?)
        })?;
        pause(1_500);
        let (fetched, window) = (p.fetches()?.0 - before, t.elapsed().as_secs() + 1);
        println!("200 unknown keys in {} ms: {fetched} fetches", t.elapsed().as_millis());
        ensure!(fetched >= 1, "nobody asked at all");
        ensure!(fetched <= window, "{fetched} fetches in {window} s");
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
        // the way back: bob, and the engine's own user over its socket
        s.ends_with(0, &p.token(&BOB, API)?, &["access", "show", "-", "--plane", "control"])?;
        s.engine.ok(&["access", "show", "-", "--plane", "control"])?;
        Ok(())
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

#[test]
fn off_loopback_the_built_in_issuer_is_nobody() -> Result<()> {
    let Some(sypctl) = ready() else { return Ok(()) };
    let p = Issuer::start(&[])?;
    // this host's end of Docker's bridge: not loopback, and nobody else's network either
    let subnet = sh("docker", &["network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Subnet}}"])?;
    let address = format!("{}.1", subnet.rsplit_once('.').context("subnet")?.0);
    let s = Server::listen(
        &sypctl,
        &address,
        true,
        &["--issuer", &p.url(), "--admin", "user:alice@example.com"],
    )?;
    s.ends_with(0, &p.token(&ALICE, API)?, &["ls"])?;
    let local = s.engine.ok(&["token", "syp-api"])?;
    says(&s.ends_with(4, local.trim(), &["ls"])?, "TOKEN_ISSUER")?;
    // over the socket it is as good as ever
    s.engine.ok(&["ls"]).map(drop)
}
