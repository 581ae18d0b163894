//! Machine tokens: good for their paths until they end or are revoked.

use anyhow::{Result, ensure};
use secrecy::{ExposeSecret as _, SecretString};
use syp_auth::policy::{Effect, Rule};
use syp_auth::{GateConfig, MachineToken, machine};

use crate::access::{cut, events, ticker};
use crate::common::{ALICE, App, Gate, get, heard, next};

/// A token of this id, and the rule with which the engine sends it.
fn made(id: &str, paths: &[&str]) -> Result<(SecretString, MachineToken, Rule)> {
    let (value, digest) = machine::generate().map_err(anyhow::Error::msg)?;
    let sha256 = digest.iter().map(|b| format!("{b:02x}")).collect();
    let paths: Vec<_> = paths.iter().map(|p| (*p).to_owned()).collect();
    let token = MachineToken { id: id.into(), sha256, expires_at: syp_auth::unix_now() + 600, paths };
    Ok((value, token, Rule::allow(format!("token-{id}"), vec![format!("token:{id}")])))
}

fn with(config: &GateConfig, all: &[(MachineToken, Rule)]) -> GateConfig {
    next(config, |c| {
        for (token, rule) in all {
            c.tokens.push(token.clone());
            c.policy.rules.push(rule.clone());
        }
    })
}

#[tokio::test]
async fn a_machine_token_gets_in_by_its_own_name_for_its_paths_and_the_app_never_sees_it() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let (all, a, rule) = made("all", &[])?;
    // its rule says more than it was made for
    let (narrow, n, wide) = made("narrow", &["/x"])?;
    let (late, mut l, after) = made("late", &[])?;
    l.expires_at = syp_auth::unix_now() - 1;
    let both = with(&first, &[(a, rule), (n, wide), (l, after)]);
    gate.serve(&both).await?;
    let reply = gate.get("/hello", all.expose_secret()).await?;
    ensure!(reply.status == 200, "{reply:?}");
    let said = reply.json()?;
    ensure!(heard(&said, "x-syp-user") == ["token:all"], "{said}");
    ensure!(!said.to_string().contains(all.expose_secret()), "the app has the token: {said}");
    let inside = gate.get("/x/1", narrow.expose_secret()).await?;
    ensure!(inside.status == 200, "{inside:?}");
    // on one connection: what was decided for one path is not taken for another
    let mut wire = gate.wire().await?;
    for (path, status) in [("/x", 200), ("/y", 403), ("/x/../y", 403), ("/x", 200)] {
        let reply = wire.ask(get(path, narrow.expose_secret())).await?;
        ensure!(reply.status == status, "{path}: {reply:?}");
    }
    let outside = gate.get("/y", narrow.expose_secret()).await?;
    ensure!(outside.status == 403 && gate.reason(&outside).await? == "TOKEN_SCOPE", "{outside:?}");
    let ended = gate.get("/", late.expose_secret()).await?;
    ensure!(ended.status == 401 && gate.reason(&ended).await? == "TOKEN_EXPIRED", "{ended:?}");
    let (unknown, _, _) = made("all", &[])?;
    let stranger = gate.get("/", unknown.expose_secret()).await?;
    ensure!(stranger.status == 401 && gate.reason(&stranger).await? == "TOKEN_UNKNOWN", "{stranger:?}");
    // a rule in front keeps it out
    let denied = next(&both, |c| {
        let members = vec!["token:all".to_owned()];
        c.policy.rules.insert(0, Rule { effect: Effect::Deny, ..Rule::allow("no", members) });
    });
    gate.push(&denied).await?;
    let reply = gate.get("/", all.expose_secret()).await?;
    ensure!(reply.status == 403 && gate.reason(&reply).await? == "POLICY_DENIED", "{reply:?}");
    ensure!(gate.get("/", &issuer.token(ALICE)?).await?.status == 200, "people are not concerned");
    let uses = gate.status().await?.token_uses;
    ensure!(uses.keys().eq(["all", "narrow"]) && uses["all"] % 60 == 0, "{uses:?}");
    for secret in [&all, &narrow, &unknown] {
        ensure!(!gate.printed().contains(secret.expose_secret()), "a token in the log");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_revoked_token_has_under_way_is_cut_and_another_ones_goes_on() -> Result<()> {
    let app = ticker().await?;
    let (gate, _, first) = Gate::before(&[&app]).await?;
    let (one, a, rule_a) = made("one", &[])?;
    let (two, b, rule_b) = made("two", &[])?;
    let both = with(&first, &[(a.clone(), rule_a.clone()), (b, rule_b)]);
    gate.serve(&both).await?;
    let mut stays = events(&gate, one.expose_secret()).await?;
    let goes = events(&gate, two.expose_secret()).await?;
    // the rule may be left: the token is what counts
    gate.push(&next(&both, |c| c.tokens = vec![a])).await?;
    cut(goes).await?;
    for _ in 0..50 {
        stays.until(b"data: tick\n\n").await?;
    }
    let again = gate.get("/events", two.expose_secret()).await?;
    ensure!(again.status == 401 && gate.reason(&again).await? == "TOKEN_UNKNOWN", "{again:?}");
    Ok(())
}

#[tokio::test]
async fn a_token_that_can_t_be_one_makes_a_configuration_that_is_refused() -> Result<()> {
    let app = App::echo().await?;
    let (gate, _, first) = Gate::before(&[&app]).await?;
    let (_, token, rule) = made("one", &[])?;
    for bad in [
        MachineToken { sha256: "00".into(), ..token.clone() },
        MachineToken { id: "a b".into(), ..token.clone() },
        MachineToken { paths: vec!["x".into()], ..token.clone() },
    ] {
        let config = with(&first, &[(bad, rule.clone())]);
        let reply = gate.put(&serde_json::to_vec(&config)?).await?;
        ensure!(reply.status >= 400, "{reply:?}");
    }
    // a configuration without any looks as it did before there were any
    ensure!(!serde_json::to_string(&first)?.contains("tokens"));
    Ok(())
}
