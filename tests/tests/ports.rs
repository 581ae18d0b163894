//! The port of an endpoint: one that nobody asked for is chosen until one is had; one that was told stays.
use anyhow::{Context, Result, ensure};
use std::{net::TcpListener, time::Duration};
use syp_tests::product::{Engine, binary, get, left_of, pause, sh};

const LIMIT: Duration = Duration::from_secs(120);

/// The gate's container and the port of this host that leads to it.
fn gate(store: &str) -> Result<Option<(String, u16)>> {
    let store = format!("label=syp.dev/store={store}");
    let all = sh("docker", &["ps", "-q", "--filter", &store, "--filter", "label=syp.dev/step=gate"])?;
    let Some(id) = all.lines().next() else { return Ok(None) };
    let port = "{{range .HostConfig.PortBindings}}{{(index . 0).HostPort}}{{end}}";
    Ok(Some((id.to_owned(), sh("docker", &["inspect", "-f", port, id])?.trim().parse()?)))
}

/// The gate does not run any more and somebody else has its port.
fn stolen(id: &str, port: u16) -> Result<TcpListener> {
    sh("docker", &["kill", id])?;
    for _ in 0..100 {
        if let Ok(thief) = TcpListener::bind(("127.0.0.1", port)) {
            return Ok(thief);
        }
        pause(50);
    }
    anyhow::bail!("port {port} does not get free")
}

#[test]
fn a_port_lost_before_it_was_told_is_replaced_by_another() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    // each engine dies when it has started the gate, before it has written so
    let mut e = Engine::new(&sypctl)?.with("SYP_CRASH_AT", "CP4:gate");
    let words = ["up", "shop", "--image", "syp-test/hello", "--port", "8080", "--no-wait", "--yes"];
    e.ok(&["ls"])?;
    let store = e.store_id()?;
    e.run(&words)?;
    let end = std::time::Instant::now() + LIMIT;
    let (id, port) = loop {
        if let Some(made) = gate(&store)? {
            break made;
        }
        ensure!(std::time::Instant::now() < end, "no gate was made");
        pause(100);
    };
    e.run(&["server", "stop"])?;
    let thief = stolen(&id, port)?;
    e.clear_env();
    e.wait_state("shop", "SERVING", LIMIT)?;
    let endpoint = e.endpoint("shop")?;
    ensure!(!endpoint.ends_with(&format!(":{port}")), "{endpoint} is somebody else's");
    ensure!(get(&endpoint, None, &[])?.0 == 401);
    drop(thief);
    e.down("shop")?;
    let left = left_of(&store)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn a_port_that_was_told_is_waited_for() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    e.up("shop", "syp-test/hello", &["--port", "8080"])?;
    let endpoint = e.endpoint("shop")?;
    let store = e.store_id()?;
    e.kill9()?;
    let (id, port) = gate(&store)?.context("a gate")?;
    ensure!(endpoint.ends_with(&format!(":{port}")), "{endpoint} and {port}");
    let thief = stolen(&id, port)?;
    let end = std::time::Instant::now() + LIMIT;
    let told = || -> Result<bool> { Ok(e.ok(&["events", "shop"])?.contains("PORT_TAKEN")) };
    while !told()? {
        ensure!(std::time::Instant::now() < end, "{}", e.ok(&["events", "shop"])?);
        pause(200);
    }
    ensure!(e.endpoint("shop")? == endpoint, "bookmarks lead there");
    drop(thief);
    while get(&endpoint, None, &[]).map_or(0, |a| a.0) != 401 {
        ensure!(std::time::Instant::now() < end, "{}", e.ok(&["events", "shop"])?);
        pause(500);
    }
    e.down("shop")?;
    let left = left_of(&store)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
