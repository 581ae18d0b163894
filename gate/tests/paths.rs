//! The reserved path, health, and rules about paths.

use anyhow::{Result, ensure};
use syp_auth::policy::{Effect, Rule};

use crate::common::{ALICE, App, Gate, Wire, allow, get, next};

fn deny(id: &str, prefix: &str) -> Rule {
    let mut rule = Rule::allow(id, vec!["domain:example.com".to_owned()]);
    (rule.effect, rule.path_prefixes) = (Effect::Deny, vec![prefix.to_owned()]);
    rule
}

#[tokio::test]
async fn health_is_open_and_says_nothing_but_yes_or_no() -> Result<()> {
    let app = App::echo().await?;
    let (gate, _, first) = Gate::before(&[&app]).await?;
    let ask = "GET /_syp/health HTTP/1.1\r\nHost: anything at all\r\n\r\n";
    let up = gate.ask(ask).await?;
    ensure!(up.status == 200 && up.text() == "ok\n", "{up:?}");
    let empty = next(&first, |c| c.upstreams.clear());
    gate.push(&empty).await?;
    let down = gate.ask(ask).await?;
    ensure!(down.status == 503 && down.text() == "unavailable\n", "{down:?}");
    gate.serve(&next(&empty, |c| c.upstreams = first.upstreams.clone())).await?;
    ensure!(gate.ask(ask).await?.status == 200);
    ensure!(app.requests() == 0);
    Ok(())
}

#[tokio::test]
async fn no_other_spelling_of_the_reserved_path_is_open_or_reserved_for_the_app() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    for path in [
        "/_syp",
        "/_syp/",
        "/_syp/x",
        "/_syp/health?a",
        "/_syp/health/",
        "/_syp/health;a",
        "/_syp/Health",
        "/_syp/../a",
        "/_syp//health",
    ] {
        let anonymous = gate.ask(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n")).await?;
        let user = gate.get(path, &token).await?;
        ensure!(anonymous.status == 404 && user.status == 404, "{path}: {anonymous:?} {user:?}");
    }
    ensure!(app.requests() == 0, "the app was asked for a reserved path");
    for path in [
        "/_SYP/health",
        "/%5fsyp/health",
        "/_syp%2fhealth",
        "/_sy%70/health",
        "//_syp/health",
        "/a/../_syp/health",
        "/./_syp/health",
        "/_syphealth",
        "/\\_syp/health",
    ] {
        let anonymous = gate.ask(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n")).await?;
        ensure!(matches!(anonymous.status, 400 | 401), "{path}: {anonymous:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_path_that_can_be_read_in_two_ways_is_allowed_by_no_prefix() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    gate.serve(&next(&first, |c| c.policy.rules[0].path_prefixes = vec!["/open".to_owned()])).await?;
    // one connection: what was decided for one path must not hold for the next
    let (token, mut wire) = (issuer.token(ALICE)?, gate.wire().await?);
    for path in ["/open", "/open/", "/open/a", "/open?x=/../b", "/open/caf%C3%A9"] {
        let reply = wire.ask(get(path, &token)).await?;
        ensure!(reply.status == 200 && reply.json()?["target"] == path, "{path}: {reply:?}");
    }
    let before = app.requests();
    for path in [
        "/",
        "/opened",
        "/OPEN",
        "/open/../secret",
        "/open/%2e%2e/secret",
        "/open/..%2fsecret",
        "/open/.%2e/secret",
        "/open//secret",
        "/open/./secret",
        "/open;/../secret",
        "/open/..;/secret",
        "/open%2f..%2fsecret",
        "/open/%5c..%5csecret",
        "/%6fpen",
        "/open%00",
        "/open/%252e%252e/secret",
        "/open/a%0d%0ab",
    ] {
        let reply = wire.ask(get(path, &token)).await?;
        ensure!(reply.status == 403, "{path}: {reply:?}");
    }
    ensure!(app.requests() == before);
    Ok(())
}

#[tokio::test]
async fn a_path_that_can_be_read_in_two_ways_is_caught_by_every_denied_prefix() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let policy = || {
        let mut policy = allow(&[ALICE]);
        policy.rules.insert(0, deny("closed", "/admin"));
        policy
    };
    gate.serve(&next(&first, |c| c.policy = policy())).await?;
    let token = issuer.token(ALICE)?;
    for path in ["/", "/a", "/administrator", "/a/admin", "/a?b=/admin"] {
        ensure!(gate.get(path, &token).await?.status == 200, "{path}");
    }
    let before = app.requests();
    for path in [
        "/admin",
        "/admin/",
        "/admin/x",
        "/ADMIN",
        "/Admin/x",
        "/%61dmin",
        "//admin",
        "/a/../admin",
        "/./admin",
        "/admin;x",
        "/a/..%2fadmin",
        "/admin%2fx",
        "/admin%20/..",
        "/a%5c..%5cadmin",
    ] {
        let reply = gate.get(path, &token).await?;
        ensure!(reply.status == 403, "{path}: {reply:?}");
        ensure!(gate.reason(&reply).await? == "POLICY_DENIED", "{path}");
    }
    ensure!(app.requests() == before);
    Ok(())
}

#[tokio::test]
async fn a_fragment_or_a_control_byte_in_the_target_is_no_way_around_a_rule() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    gate.serve(&next(&first, |c| c.policy.rules.insert(0, deny("closed", "/admin")))).await?;
    let token = issuer.token(ALICE)?;
    for path in ["/admin#x", "/a#/../admin", "/\tadmin", "/admin\u{7f}"] {
        let mut wire = Wire::to(gate.traffic).await?;
        let reply = wire.ask(get(path, &token)).await?;
        let target = if reply.status == 200 { reply.json()?["target"].to_string() } else { String::new() };
        ensure!(matches!(reply.status, 400 | 403) || target == "\"/a\"", "{path:?}: {reply:?}");
    }
    Ok(())
}
