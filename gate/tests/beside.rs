//! A gate beside its app, in one network namespace: the app is given at the start, and what listens there is seen.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use syp_auth::door::{Mode, Protocol, UpstreamStatus};
use tokio::net::TcpListener;

use crate::common::app::echo;
use crate::common::{ALICE, App, Gate, Issuer, config, next, until};

async fn only(gate: &Gate) -> Result<UpstreamStatus> {
    let mut all = gate.status().await?.upstreams;
    ensure!(all.len() == 1, "{all:?}");
    all.pop().context("one")
}

#[tokio::test]
async fn the_app_beside_takes_the_place_of_whatever_is_configured() -> Result<()> {
    let (app, other) = (App::named("beside").await?, App::named("configured").await?);
    let gate = Gate::bare(&["--app", &app.address.to_string()]).await?;
    let issuer = Issuer::new("https://issuer.example", "key-1")?;
    let first = config(&issuer, &[&other])?;
    gate.serve(&first).await?;
    ensure!(gate.get("/", &issuer.token(ALICE)?).await?.text() == "beside");
    let status = only(&gate).await?;
    ensure!(status.id == "app" && status.sealed.is_none(), "{status:?}");
    // neither does the next configuration bring the other back, nor one that has none
    for upstreams in [first.upstreams.clone(), vec![]] {
        let generation = gate.status().await?.generation;
        gate.push(&next(&first, |c| (c.generation, c.upstreams) = (generation + 1, upstreams))).await?;
        ensure!(gate.get("/", &issuer.token(ALICE)?).await?.text() == "beside");
    }
    ensure!(other.requests() == 0);
    Ok(())
}

#[tokio::test]
async fn its_protocol_and_probe_are_as_given_else_as_configured() -> Result<()> {
    let app = App::h2c(echo).await?;
    let address = app.address.to_string();
    let issuer = Issuer::new("https://issuer.example", "key-1")?;
    let configured = next(&config(&issuer, &[])?, |c| c.protocol = Protocol::Http1);
    let given = Gate::bare(&["--app", &address, "--app-protocol", "h2c", "--app-probe", "/well"]).await?;
    given.serve(&configured).await?;
    ensure!(only(&given).await?.protocol == Some(Protocol::H2c));
    ensure!(app.requests() > 0, "a probe with a path is a request");
    ensure!(given.get("/", &issuer.token(ALICE)?).await?.status == 200);
    let not_given = Gate::bare(&["--app", &address]).await?;
    not_given.push(&configured).await?;
    ensure!(only(&not_given).await?.protocol == Some(Protocol::Http1));
    Ok(())
}

#[tokio::test]
async fn a_probe_that_cannot_be_is_refused_at_the_start() -> Result<()> {
    for wrong in [["--app-probe", "well"], ["--app-probe-period-ms", "1"], ["--app-protocol", "h3"]] {
        let gate = Gate::bare(&[&["--app", "127.0.0.1:9"], &wrong[..]].concat()).await;
        ensure!(gate.is_err(), "{wrong:?}");
    }
    ensure!(Gate::bare(&["--app-protocol", "h2c"]).await.is_err(), "a protocol of no app");
    Ok(())
}

#[tokio::test]
async fn what_listens_in_the_namespace_is_told_without_the_gates_own_ports() -> Result<()> {
    // the app is expected on one port and listens on another
    let expected = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let app = App::echo().await?;
    let gate = Gate::bare(&["--app", &expected.to_string()]).await?;
    let issuer = Issuer::new("https://issuer.example", "key-1")?;
    gate.push(&config(&issuer, &[])?).await?;
    until("it was probed", async || Ok(only(&gate).await?.detail.contains("connecting"))).await?;
    let status = only(&gate).await?;
    ensure!(!status.ready && status.listeners.iter().any(|l| l.port == app.address.port()), "{status:?}");
    let own = [gate.traffic.port(), gate.admin.port(), expected.port()];
    ensure!(!status.listeners.iter().any(|l| own.contains(&l.port)), "{status:?}");
    // and then on the right one, but by another address
    let elsewhere = SocketAddr::new("127.0.0.2".parse()?, expected.port());
    let _late = TcpListener::bind(elsewhere).await?;
    let detail = only(&gate).await?.detail;
    ensure!(detail.contains(&format!("the app listens on {elsewhere} only")), "{detail}");
    Ok(())
}

#[tokio::test]
async fn the_health_answer_is_that_of_gate_and_app_together() -> Result<()> {
    let health = async |gate: &Gate| -> Result<u16> {
        Ok(gate
            .ask("GET /_syp/health HTTP/1.1\r\nHost: 10.1.2.3:8080\r\nUser-Agent: kube-probe/1.30\r\n\r\n")
            .await?
            .status)
    };
    let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let gate = Gate::bare(&["--app", &address.to_string()]).await?;
    ensure!(health(&gate).await? == 503, "no configuration");
    let issuer = Issuer::new("https://issuer.example", "key-1")?;
    gate.push(&config(&issuer, &[])?).await?;
    until("it was probed", async || Ok(only(&gate).await?.detail.contains("connecting"))).await?;
    ensure!(health(&gate).await? == 503, "no app");
    for _ in 0..2 {
        let app = TcpListener::bind(address).await?;
        until("it is ready", async || Ok(health(&gate).await? == 200)).await?;
        drop(app);
        until("it is not", async || Ok(health(&gate).await? == 503)).await?;
    }
    // a pod that drains stays where its callers find it, and says 503 to them itself; one that leaves does not
    let _app = TcpListener::bind(address).await?;
    until("it is ready", async || Ok(health(&gate).await? == 200)).await?;
    gate.push(&next(&config(&issuer, &[])?, |c| c.mode = Mode::Drain)).await?;
    ensure!(health(&gate).await? == 200, "it drains");
    ensure!(gate.ask("GET / HTTP/1.1\r\nHost: shop\r\n\r\n").await?.status == 503, "callers are told");
    Ok(())
}
