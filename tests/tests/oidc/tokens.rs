//! Every rule of a token, and every kind of member, at both planes.
use crate::{API, APP, says, world};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use syp_tests::{
    oidc::{ALICE, BOB, CAROL, Issuer, MALLORY, NOT_ALICE, until},
    product::get,
};

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
        let (bob, carol) = (p.token(&BOB, APP)?, p.token(&CAROL, APP)?);
        // each change reaches the gate for itself
        until("the rules are in force", Duration::from_secs(60), || {
            Ok(inside(&format!("{url}/sub"), &carol)? && !inside(&format!("{url}/domain"), &bob)?)
        })?;
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
        ("TOKEN_NOT_YET_VALID nbf", json!({ "nbf": now + 3_000 }), none.clone()),
        ("TOKEN_NOT_YET_VALID iat", json!({ "iat": now + 3_000 }), none.clone()),
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
