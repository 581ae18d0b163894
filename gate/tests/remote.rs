//! The engine comes in by the way of the callers, with requests that it signs; nobody else does.

use anyhow::{Result, ensure};
use syp_auth::door::{GateConfig, GateStatus};
use syp_auth::remote::{WINDOW_S, sign};

use crate::common::{ADMIN_TOKEN, ALICE, App, Gate, Issuer, MALLORY, Reply, allow, config, next, until};

/// A gate that began with a configuration from its environment, as a task without files does.
async fn start(config: &GateConfig) -> Result<Gate> {
    let config = serde_json::to_string(config)?;
    let told = [("SYP_GATE_ADMIN_TOKEN", ADMIN_TOKEN), ("SYP_GATE_CONFIG_JSON", config.as_str())];
    Gate::told(&["--remote"], &told).await
}

fn request(method: &str, path: &str, authorization: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} /_syp/admin{path} HTTP/1.1\r\nHost: shop\r\nAuthorization: {authorization}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

async fn ask(gate: &Gate, method: &str, path: &str, body: &str) -> Result<Reply> {
    let signature = sign(ADMIN_TOKEN, method, path, syp_auth::unix_now(), body.as_bytes());
    gate.ask(request(method, path, &signature, body)).await
}

#[tokio::test]
async fn signed_requests_configure_and_read_a_gate_by_its_traffic_port() -> Result<()> {
    let (app, issuer) = (App::echo().await?, Issuer::new("https://issuer.example", "key-1")?);
    let first = config(&issuer, &[&app])?;
    let gate = start(&first).await?;
    let status = async || -> Result<GateStatus> {
        let reply = ask(&gate, "GET", "/status", "").await?;
        ensure!(reply.status == 200 && reply.header("cache-control") == Some("no-store"), "{reply:?}");
        let status: GateStatus = serde_json::from_slice(&reply.body)?;
        ensure!(reply.header("syp-gate-host") == Some(status.host.as_str()), "who it was: {reply:?}");
        Ok(status)
    };
    until("it is ready", async || Ok(status().await?.upstreams.iter().all(|u| u.ready))).await?;
    let held = status().await?;
    ensure!(held.generation == 1 && !held.host.is_empty(), "{held:?}");
    ensure!(gate.get("/", &issuer.token(ALICE)?).await?.status == 200);
    let second = serde_json::to_string(&next(&first, |c| c.policy = allow(&[MALLORY])))?;
    let reply = ask(&gate, "PUT", "/config", &second).await?;
    ensure!(reply.status == 200 && reply.json()?["generation"] == 2, "{reply:?}");
    ensure!(gate.get("/", &issuer.token(ALICE)?).await?.status == 403, "alice is out at once");
    ensure!(gate.get("/", &issuer.token(MALLORY)?).await?.status == 200);
    // a generation that is over comes too late, whoever sends it again
    ensure!(ask(&gate, "PUT", "/config", &serde_json::to_string(&first)?).await?.status == 409);
    let counted = ask(&gate, "GET", "/metrics.json", "").await?.json()?;
    ensure!(counted["requests_by_class"][2] == 2, "the engine's own requests are no traffic: {counted}");
    ensure!(!gate.printed().contains(ADMIN_TOKEN));
    Ok(())
}

#[tokio::test]
async fn nobody_else_comes_in_that_way() -> Result<()> {
    let (app, issuer) = (App::echo().await?, Issuer::new("https://issuer.example", "key-1")?);
    let first = config(&issuer, &[&app])?;
    let gate = start(&first).await?;
    let body = serde_json::to_string(&next(&first, |c| c.policy = allow(&[MALLORY])))?;
    let now = syp_auth::unix_now();
    let signed = |token: &str, method: &str, path: &str, at| sign(token, method, path, at, body.as_bytes());
    for authorization in [
        String::new(),
        format!("Bearer {ADMIN_TOKEN}"),
        format!("Bearer {}", issuer.token(ALICE)?),
        signed("another-token-of-the-tests", "PUT", "/config", now),
        signed(ADMIN_TOKEN, "GET", "/config", now),
        signed(ADMIN_TOKEN, "PUT", "/leave", now),
        signed(ADMIN_TOKEN, "PUT", "/_syp/admin/config", now),
        signed(ADMIN_TOKEN, "PUT", "/config", now - WINDOW_S - 60),
        signed(ADMIN_TOKEN, "PUT", "/config", now + WINDOW_S + 60),
        format!("{}\r\nAuthorization: Bearer x", signed(ADMIN_TOKEN, "PUT", "/config", now)),
    ] {
        let reply = gate.ask(request("PUT", "/config", &authorization, &body)).await?;
        ensure!([400, 404].contains(&reply.status), "{authorization}: {reply:?}");
    }
    let signature = signed(ADMIN_TOKEN, "PUT", "/config", now);
    let reply = gate.ask(request("PUT", "/config", &signature, &body.replace(MALLORY, ALICE))).await?;
    ensure!(reply.status == 400 && reply.text().contains("signed"), "another body: {reply:?}");
    // other spellings of the path are reserved like all of /_syp
    for path in ["/./config", "//config", "/config?x", "/CONFIG"] {
        let signature = signed(ADMIN_TOKEN, "PUT", "/config", now);
        let reply = gate.ask(request("PUT", path, &signature, &body)).await?;
        ensure!([400, 404].contains(&reply.status), "{path}: {reply:?}");
    }
    ensure!(
        ask(&gate, "PUT", "/leave", "").await?.status == 404,
        "not even the engine makes it leave that way"
    );
    let status = gate.status().await?;
    ensure!(status.generation == 1 && !status.leaving, "nothing was changed");
    Ok(())
}

#[tokio::test]
async fn a_gate_that_was_not_told_to_has_no_such_way() -> Result<()> {
    let app = App::echo().await?;
    let (gate, _, _) = Gate::before(&[&app]).await?;
    let reply = ask(&gate, "GET", "/status", "").await?;
    ensure!(reply.status == 404, "{reply:?}");
    Ok(())
}

#[tokio::test]
async fn a_body_is_not_read_before_its_sender_is_known() -> Result<()> {
    let (app, issuer) = (App::echo().await?, Issuer::new("https://issuer.example", "key-1")?);
    let gate = start(&config(&issuer, &[&app])?).await?;
    // announced, and never sent: a gate that waited for it would not answer
    let head = "PUT /_syp/admin/config HTTP/1.1\r\nHost: shop\r\nContent-Length: 4000000\r\n\r\n";
    let reply = gate.ask(head).await?;
    ensure!(reply.status == 404, "{reply:?}");
    Ok(())
}
