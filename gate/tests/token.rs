//! Whose tokens are good, and what a caller is told when theirs is not.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use syp_auth::local::{LocalIssuer, MintRequest};

use crate::common::issuer::hs256;
use crate::common::{ALICE, App, Gate, Issuer, MALLORY, config, get, next};

#[tokio::test]
async fn a_good_token_of_a_listed_user_gets_in_and_of_nobody_else() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let inside = gate.get("/hello?a=b", &issuer.token(ALICE)?).await?;
    ensure!(inside.status == 200 && inside.json()?["target"] == "/hello?a=b", "{inside:?}");
    let stranger = gate.get("/hello", &issuer.token(MALLORY)?).await?;
    ensure!(stranger.status == 403, "{stranger:?}");
    ensure!(gate.reason(&stranger).await? == "POLICY_NO_MATCH");
    let unverified = issuer.token_with(ALICE, "email_verified", json!(false))?;
    let unverified = gate.get("/hello", &unverified).await?;
    ensure!(unverified.status == 403 && gate.reason(&unverified).await? == "EMAIL_UNVERIFIED");
    ensure!(app.requests() == 1, "the app saw {} requests", app.requests());
    Ok(())
}

#[tokio::test]
async fn a_token_of_the_local_issuer_gets_in() -> Result<()> {
    let (app, directory) = (App::echo().await?, tempfile::tempdir()?);
    let local = LocalIssuer::open(directory.path().join("key"), "store-1")?;
    let (gate, _, first) = Gate::before(&[&app]).await?;
    let config = next(&first, |c| c.issuers = vec![local.config()]);
    gate.serve(&config).await?;
    let (subject, audience) = ("alice".to_owned(), config.audiences[0].clone());
    let token = local.mint(&MintRequest {
        subject,
        email: Some(ALICE.to_owned()),
        audience,
        ..Default::default()
    })?;
    let reply = gate.get("/", token.expose_secret()).await?;
    ensure!(reply.status == 200, "{reply:?}");
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_the_same_text_for_every_bad_token_but_for_its_id() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let none = gate.ask("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await?;
    let late = gate.get("/", &issuer.token_with(ALICE, "exp", json!(1))?).await?;
    let noise = gate.get("/", "noise").await?;
    for reply in [&none, &late, &noise] {
        ensure!(reply.status == 401, "{reply:?}");
        ensure!(reply.header("www-authenticate") == Some("Bearer"), "{reply:?}");
        ensure!(reply.header("cache-control") == Some("no-store"), "{reply:?}");
        let said = reply.json()?;
        ensure!(said["error"] == "unauthenticated", "{said}");
        ensure!(said["reason_id"].as_str() == reply.header("x-request-id"), "{said}");
        ensure!(said.as_object().context("an object")?.len() == 2, "it says more: {said}");
    }
    ensure!(gate.reason(&none).await? == "TOKEN_MISSING");
    ensure!(gate.reason(&late).await? == "TOKEN_EXPIRED");
    ensure!(gate.reason(&noise).await? == "TOKEN_MALFORMED");
    let stranger = gate.get("/", &issuer.token(MALLORY)?).await?;
    ensure!(
        stranger.json()?["error"] == "forbidden" && stranger.json()?.as_object().map(|o| o.len()) == Some(2)
    );
    Ok(())
}

struct Case {
    name: &'static str,
    token: String,
    reason: &'static str,
}

fn claim_cases(issuer: &Issuer) -> Result<Vec<Case>> {
    let now = syp_auth::unix_now();
    let mut cases = Vec::new();
    let wrong = [
        ("no exp", "exp", Value::Null, "TOKEN_CLAIM"),
        ("no aud", "aud", Value::Null, "TOKEN_CLAIM"),
        ("no sub", "sub", Value::Null, "TOKEN_CLAIM"),
        ("no iss", "iss", Value::Null, "TOKEN_CLAIM"),
        ("expired", "exp", json!(now - 31), "TOKEN_EXPIRED"),
        ("exp as text", "exp", json!((now + 600).to_string()), "TOKEN_CLAIM"),
        ("exp with a fraction", "exp", json!(now as f64 + 600.5), "TOKEN_CLAIM"),
        ("negative exp", "exp", json!(-1), "TOKEN_CLAIM"),
        ("exp after all time", "exp", json!(u64::MAX), "TOKEN_CLAIM"),
        ("not valid yet", "nbf", json!(now + 120), "TOKEN_NOT_YET_VALID"),
        ("issued in the future", "iat", json!(now + 120), "TOKEN_NOT_YET_VALID"),
        ("another audience", "aud", json!("https://other.example"), "TOKEN_AUDIENCE"),
        ("a prefix of the audience", "aud", json!("https://shop.example/"), "TOKEN_AUDIENCE"),
        ("other audiences", "aud", json!(["a", "b"]), "TOKEN_AUDIENCE"),
        ("audience of mixed types", "aud", json!(["https://shop.example", 1]), "TOKEN_CLAIM"),
        ("another issuer", "iss", json!("https://other.example"), "TOKEN_ISSUER_UNKNOWN"),
        ("a list of issuers", "iss", json!([issuer.name]), "TOKEN_CLAIM"),
        ("an empty subject", "sub", json!(""), "TOKEN_CLAIM"),
        ("a subject with a line break", "sub", json!("a\r\nx-syp-user: root"), "TOKEN_CLAIM"),
    ];
    for (name, claim, value, reason) in wrong {
        cases.push(Case { name, token: issuer.token_with(ALICE, claim, value)?, reason });
    }
    Ok(cases)
}

fn header_cases(issuer: &Issuer) -> Result<Vec<Case>> {
    let (good, claims) = (issuer.token(ALICE)?, issuer.claims(ALICE));
    let header = |name: &str, value: Value| {
        let mut header = issuer.header();
        header[name] = value;
        header
    };
    let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
    let (message, signature) = good.rsplit_once('.').context("a token")?;
    let twin = Issuer::new(&issuer.name, &issuer.kid)?;
    let jwk = json!({ "alg": "ES256", "typ": "JWT", "kid": "mine", "jwk": twin.jwk()? });
    let none = json!({ "alg": "none", "typ": "JWT" });
    let shared = json!({ "alg": "HS256", "typ": "JWT", "kid": issuer.kid });
    let mut other = claims.clone();
    other["email"] = json!(MALLORY);
    let text = claims.to_string();
    let twice = format!("{},\"sub\":\"somebody else\"}}", text.strip_suffix('}').context("an object")?);
    let case = |name, token, reason| Case { name, token, reason };
    Ok(vec![
        case("alg none", format!("{}.{}.", part(&none), part(&claims)), "TOKEN_MALFORMED"),
        case(
            "alg none with a signature",
            format!("{}.{}.{signature}", part(&none), part(&claims)),
            "TOKEN_ALGORITHM",
        ),
        case("alg nOnE", issuer.sign(&header("alg", json!("nOnE")), &claims)?, "TOKEN_ALGORITHM"),
        case("HS256 with the public key", hs256(issuer.public(), &shared, &claims), "TOKEN_ALGORITHM"),
        case(
            "another algorithm than the key's",
            issuer.sign(&header("alg", json!("RS256")), &claims)?,
            "TOKEN_ALGORITHM",
        ),
        case("an unknown key", issuer.sign(&header("kid", json!("key-2")), &claims)?, "TOKEN_KEY_UNKNOWN"),
        case("a twin's key of the same name", twin.token(ALICE)?, "TOKEN_SIGNATURE"),
        case("a key in the header", twin.sign(&jwk, &claims)?, "TOKEN_KEY_UNKNOWN"),
        case("crit", issuer.sign(&header("crit", json!(["exp"])), &claims)?, "TOKEN_CRITICAL_HEADER"),
        case("b64", issuer.sign(&header("b64", json!(false)), &claims)?, "TOKEN_CRITICAL_HEADER"),
        case("a logout token", issuer.sign(&header("typ", json!("logout+jwt")), &claims)?, "TOKEN_TYPE"),
        case("no signature", format!("{message}."), "TOKEN_MALFORMED"),
        case("half a signature", format!("{message}.{}", &signature[..43]), "TOKEN_SIGNATURE"),
        case(
            "others' claims",
            format!("{}.{}.{signature}", part(&issuer.header()), part(&other)),
            "TOKEN_SIGNATURE",
        ),
        case("four parts", format!("{good}.x"), "TOKEN_MALFORMED"),
        case("padding", format!("{good}="), "TOKEN_SIGNATURE"),
        case("a claim twice", issuer.sign_text(&issuer.header().to_string(), &twice)?, "TOKEN_MALFORMED"),
        case(
            "bytes after the claims",
            issuer.sign_text(&issuer.header().to_string(), &format!("{text}{{}}"))?,
            "TOKEN_MALFORMED",
        ),
        case("too long", issuer.token_with(ALICE, "more", json!("x".repeat(9000)))?, "TOKEN_TOO_LARGE"),
    ])
}

#[tokio::test]
async fn every_bad_token_is_refused_and_the_log_says_why() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let mut cases = claim_cases(&issuer)?;
    cases.extend(header_cases(&issuer)?);
    let mut wrong = Vec::new();
    for case in &cases {
        let reply = gate.get("/", &case.token).await?;
        let reason = if reply.status == 200 { String::new() } else { gate.reason(&reply).await? };
        if reply.status != 401 || reason != case.reason {
            wrong.push(format!("{}: {} {reason}, not 401 {}", case.name, reply.status, case.reason));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    ensure!(app.requests() == 0, "the app saw a bad token's request");
    ensure!(gate.get("/", &issuer.token(ALICE)?).await?.status == 200);
    Ok(())
}

#[tokio::test]
async fn a_token_counts_only_as_one_bearer_word_in_the_header() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    for lines in [
        format!("Authorization: Basic {token}\r\n"),
        format!("Authorization: Bearer {token}, Bearer {token}\r\n"),
        format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"),
        format!("Authorization: {token}\r\n"),
        format!("Proxy-Authorization: Bearer {token}\r\n"),
        format!("X-Authorization: Bearer {token}\r\n"),
        format!("Cookie: access_token={token}\r\n"),
    ] {
        let reply =
            gate.ask(format!("GET /?access_token={token} HTTP/1.1\r\nHost: shop\r\n{lines}\r\n")).await?;
        ensure!(reply.status == 401, "{lines}: {reply:?}");
    }
    let lower =
        gate.ask(format!("GET / HTTP/1.1\r\nhost: shop\r\nauthorization: bEARER {token}\r\n\r\n")).await?;
    ensure!(lower.status == 200, "{lower:?}");
    Ok(())
}

#[tokio::test]
async fn a_cached_token_stops_to_work_when_it_expires() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    // past exp, still within the leeway that a first look grants: good, but never remembered as good
    let token = issuer.token_with(ALICE, "exp", json!(syp_auth::unix_now() - 20))?;
    let mut wire = gate.wire().await?;
    ensure!(wire.ask(get("/", &token)).await?.status == 200);
    crate::common::until("the token is refused", async || Ok(wire.ask(get("/", &token)).await?.status == 401))
        .await
}

#[tokio::test]
async fn before_it_is_configured_a_gate_lets_nobody_in() -> Result<()> {
    let (gate, issuer) = (Gate::bare(&[]).await?, Issuer::new("https://issuer.example", "key-1")?);
    let reply = gate.get("/", &issuer.token(ALICE)?).await?;
    ensure!(reply.status == 503 && gate.reason(&reply).await? == "NOT_CONFIGURED", "{reply:?}");
    ensure!(gate.ask("GET /_syp/health HTTP/1.1\r\nHost: shop\r\n\r\n").await?.status == 503);
    let app = App::echo().await?;
    let bad = next(&config(&issuer, &[&app])?, |c| c.policy.rules[0].members.clear());
    let refused = gate.put(&serde_json::to_vec(&bad)?).await?;
    ensure!(refused.status == 400, "a rule for everybody was accepted: {refused:?}");
    ensure!(gate.get("/", &issuer.token(ALICE)?).await?.status == 503);
    Ok(())
}
