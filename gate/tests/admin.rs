//! The admin port, the counters, the access log.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::common::{ALICE, App, Gate, MALLORY, Wire, get, next, until};

#[tokio::test]
async fn the_admin_port_answers_nobody_without_its_token() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, config) = Gate::before(&[&app]).await?;
    let body = serde_json::to_string(&next(&config, |c| c.policy.rules.clear()))?;
    let users = issuer.token(ALICE)?;
    for auth in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Basic dGhlLWFkbWluLXRva2Vu\r\n",
        &format!("Authorization: Bearer {users}\r\n"),
    ] {
        for path in ["/status", "/metrics", "/metrics.json", "/config", "/"] {
            let reply = Wire::to(gate.admin)
                .await?
                .ask(format!("GET {path} HTTP/1.1\r\nHost: g\r\n{auth}\r\n"))
                .await?;
            ensure!(
                reply.status == 401 && reply.text() == "{\"error\":\"unauthenticated\"}",
                "{path} {auth}: {reply:?}"
            );
        }
        let put =
            format!("PUT /config HTTP/1.1\r\nHost: g\r\n{auth}Content-Length: {}\r\n\r\n{body}", body.len());
        ensure!(Wire::to(gate.admin).await?.ask(put).await?.status == 401);
    }
    ensure!(gate.status().await?.generation == 1);
    // the admin token is for the admin port, and nothing of the admin port is on the other
    ensure!(gate.get("/status", "the-admin-token-of-the-tests").await?.status == 401);
    Ok(())
}

#[tokio::test]
async fn an_older_or_changed_generation_is_refused_and_the_one_in_force_stays() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let third = next(&next(&first, |_| {}), |c| c.revision = "r3".to_owned());
    gate.push(&third).await?;
    let put =
        async |value: &Value| Ok::<_, anyhow::Error>(gate.put(value.to_string().as_bytes()).await?.status);
    let mut other = serde_json::to_value(&third)?;
    ensure!(put(&other).await? == 200, "the same again is fine");
    other["policy"] = json!({ "rules": [] });
    ensure!(put(&other).await? == 409, "the same generation with another content");
    ensure!(put(&serde_json::to_value(&first)?).await? == 409, "an older one");
    other["generation"] = json!(9);
    other["surprise"] = json!(1);
    ensure!(put(&other).await? == 400, "an unknown field");
    ensure!(gate.put(b"{").await?.status == 400);
    let status = gate.status().await?;
    ensure!(status.generation == 3 && status.revision == "r3", "{status:?}");
    ensure!(gate.get("/", &issuer.token(ALICE)?).await?.status == 200);
    Ok(())
}

#[tokio::test]
async fn requests_are_counted_by_what_became_of_them() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let (alice, mallory) = (issuer.token(ALICE)?, issuer.token(MALLORY)?);
    for _ in 0..3 {
        gate.get("/", &alice).await?;
    }
    gate.get("/", &mallory).await?;
    gate.get("/", "none").await?;
    gate.ask(format!(
        "POST / HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {alice}\r\nContent-Length: 1000\r\n\r\n{}",
        "x".repeat(1000)
    ))
    .await?;
    until("all are counted", async || Ok(gate.metrics().await?.requests_by_class.iter().sum::<u64>() == 6))
        .await?;
    let m = gate.metrics().await?;
    ensure!(m.requests_by_class == [0, 0, 4, 0, 2, 0] && m.denied_401 == 1 && m.denied_403 == 1, "{m:?}");
    // only who was let in counts for latency: floods of refusals must not make it look good
    ensure!(m.latency.count == 4 && m.in_flight == 0, "{m:?}");
    ensure!(m.bytes_in == 1000 && m.bytes_out > 1000, "{m:?}");
    let text = gate.read("/metrics").await?.text();
    for line in [
        "# TYPE syp_gate_requests_total counter",
        "syp_gate_requests_total{instance_uid=\"uid-1\",class=\"2xx\"} 4",
        "syp_gate_denied_total{instance_uid=\"uid-1\",status=\"401\"} 1",
        "# TYPE syp_gate_latency_us histogram",
        "syp_gate_latency_us_count{instance_uid=\"uid-1\"} 4",
        "syp_gate_latency_us_bucket{instance_uid=\"uid-1\",le=\"+Inf\"} 4",
    ] {
        ensure!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
    Ok(())
}

#[tokio::test]
async fn the_log_has_a_line_for_each_request_and_no_token_in_it() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let good = gate.get("/a/b?secret=query", &token).await?;
    let id =
        good.json()?["headers"].as_array().and_then(|h| h.iter().find(|h| h[0] == "x-request-id").cloned());
    let id = id.context("no id told to the app")?[1].as_str().unwrap_or_default().to_owned();
    let line = gate.logged(&id).await?;
    for (name, value) in [
        ("event", json!("access")),
        ("status", json!(200)),
        ("method", json!("GET")),
        ("path", json!("/a/b")),
        ("user", json!(ALICE)),
        ("sub", json!(format!("sub-of-{ALICE}"))),
        ("reason", json!("OK")),
        ("rule", json!("users")),
        ("upstream", json!("0")),
        ("peer", json!("127.0.0.1")),
        ("bytes_in", json!(0)),
        ("bytes_out", json!(good.body.len())),
    ] {
        ensure!(line[name] == value, "{name} is not {value}: {line}");
    }
    ensure!(line["duration_us"].as_u64().is_some_and(|us| us > 0 && us < 10_000_000), "{line}");
    let time = line["time"].as_str().unwrap_or_default();
    ensure!(time.len() > 20 && time.starts_with("20") && time.ends_with('Z'), "{line}");
    ensure!(line["token"].as_str().is_some_and(|t| t.len() == 12), "{line}");
    let stranger = issuer.token(MALLORY)?;
    let refused = gate.get("/c", &stranger).await?;
    let line = gate.logged(refused.header("x-request-id").context("an id")?).await?;
    ensure!(line["status"] == 403 && line["user"] == MALLORY && line["upstream"].is_null(), "{line}");
    let noise = gate.get("/d", "noise.noise.noise").await?;
    let line = gate.logged(noise.header("x-request-id").context("an id")?).await?;
    ensure!(line["status"] == 401 && line["user"].is_null() && line["reason"] == "TOKEN_MALFORMED", "{line}");
    let (printed, signature) = (gate.printed(), |t: &str| t.rsplit('.').next().map(str::to_owned));
    for secret in [
        Some(token.clone()),
        signature(&token),
        signature(&stranger),
        Some("secret=query".to_owned()),
        Some("noise.noise".to_owned()),
    ] {
        let secret = secret.context("a signature")?;
        ensure!(!printed.contains(&secret), "{secret} is in the log:\n{printed}");
    }
    Ok(())
}

#[tokio::test]
async fn health_checks_are_neither_logged_nor_counted() -> Result<()> {
    let app = App::echo().await?;
    let (gate, issuer, _) = Gate::before(&[&app]).await?;
    gate.ask("GET /_syp/health HTTP/1.1\r\nHost: shop\r\n\r\n").await?;
    gate.wire().await?.ask(get("/", &issuer.token(ALICE)?)).await?;
    until("the other is counted", async || Ok(gate.metrics().await?.requests_by_class[2] > 0)).await?;
    ensure!(gate.metrics().await?.requests_by_class[2] == 1);
    ensure!(!gate.printed().contains("health"));
    Ok(())
}
