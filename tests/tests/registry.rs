//! Images that are pulled and the gate's that is pushed, with and without a login: a real registry on this host.
use anyhow::{Result, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use syp_tests::{
    product::{Engine, binary, get, sh},
    registry::Registry,
};

const ALICE: &str = "user:alice@example.com";

#[test]
fn an_image_is_pulled_with_the_users_login_and_refused_before_anything_is_made_without() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(r) = Registry::start()? else { return Ok(()) };
    let (good, bad) = (r.login("a-secret-of-alice")?, r.login("guessed")?);
    let image = format!("{}/shop:1", r.host);
    sh("docker", &["tag", "syp-test/hello", &image])?;
    sh("docker", &["--config", &good, "push", "-q", &image])?;
    sh("docker", &["rmi", &image])?;

    let stranger = Engine::new(&sypctl)?.with("DOCKER_CONFIG", &bad);
    let refused = stranger.up_fails("shop", &image, &["--port", "8080"])?;
    ensure!(refused.err.contains("IMAGE_AUTH_FAILED") && refused.err.contains("docker login"), "{refused:?}");
    ensure!(!refused.err.contains("guessed"), "the password is told: {refused:?}");
    ensure!(stranger.left()?.is_empty(), "nothing was made");

    let e = Engine::new(&sypctl)?.with("DOCKER_CONFIG", &good);
    let missing = e.up_fails("gone", &format!("{}/gone:1", r.host), &["--port", "8080"])?;
    ensure!(missing.err.contains("IMAGE_NOT_FOUND"), "{missing:?}");
    e.up("shop", &image, &["--port", "8080", "--allow", ALICE])?;
    let token = e.token("shop", Some(ALICE))?;
    ensure!(get(&e.endpoint("shop")?, Some(&token), &[])?.0 == 200, "it serves");
    let shown = e.json(&["show", "shop"])?;
    ensure!(shown["imageDigest"].as_str().is_some_and(|d| d.starts_with("sha256:")), "pinned: {shown}");
    e.down("shop")
}

/// Answers everything with 404, as what is no registry does.
fn web_server() -> Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for line in listener.incoming() {
            let Ok(mut line) = line else { return };
            let mut head = [0; 4096];
            let _ = line.read(&mut head);
            let _ = line.write_all(
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\nconnection: close\r\n\r\nnot here\n",
            );
        }
    });
    Ok(address)
}

#[test]
fn the_gates_image_is_pushed_once_with_a_login_and_docker_runs_it_by_its_digest() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(r) = Registry::start()? else { return Ok(()) };
    let (good, bad, none) = (r.login("a-secret-of-alice")?, r.login("guessed")?, r.dir().join("none"));
    let place = format!("{}/team/syp-gate:1", r.host);

    for (config, words) in [(bad.as_str(), "with this login"), (&none.to_string_lossy(), "without a login")] {
        let said = Engine::new(&sypctl)?.with("DOCKER_CONFIG", config).run(&["gate", "push", &place])?;
        ensure!(said.code == 1 && said.err.contains("IMAGE_AUTH_FAILED"), "{said:?}");
        ensure!(said.err.contains(words) && said.err.contains("docker login"), "{said:?}");
        ensure!(!said.err.contains("guessed") && said.out.is_empty(), "{said:?}");
    }
    ensure!(r.kept()?.keys().all(|p| !p.to_string_lossy().contains("syp-gate")), "nothing was taken");

    let e = Engine::new(&sypctl)?.with("DOCKER_CONFIG", &good);
    let planned: Value = e.json(&["gate", "push", &place, "--plan"])?;
    ensure!(planned["bytesToSend"].as_u64().is_some_and(|n| n > 1_000_000), "{planned}");
    ensure!(r.kept()?.keys().all(|p| !p.to_string_lossy().contains("syp-gate")), "a plan sends nothing");
    let said = e.run(&["gate", "push", &place])?;
    ensure!(said.code == 0, "{said:?}");
    let name = said.out.trim().to_owned();
    ensure!(name.starts_with(&format!("{}/team/syp-gate@sha256:", r.host)), "{said:?}");
    ensure!(planned["image"] == *name, "as it was planned: {planned}");
    ensure!(said.err.contains("sends sha256:"), "it tells what it sends: {said:?}");
    ensure!(said.err.contains(&format!("export SYP_GATE_IMAGE={name}")), "and what is next: {said:?}");
    ensure!(!said.err.contains("a-secret-of-alice"), "{said:?}");

    let before = r.kept()?;
    let again: Value = e.json(&["gate", "push", &place])?;
    ensure!(again["image"] == *name && again["sentBytes"] == 0, "{again}");
    ensure!(
        again["tag"] == *place && again["platform"].as_str().is_some_and(|p| p.starts_with("linux/")),
        "{again}"
    );
    ensure!(r.kept()? == before, "the second push wrote something");
    // under another tag it has all parts already
    let tagged = e.run(&["gate", "push", &format!("{}/team/syp-gate", r.host)])?;
    ensure!(tagged.code == 0 && tagged.out.trim() == name, "{tagged:?}");
    ensure!(!tagged.err.contains("sends sha256:"), "{tagged:?}");

    sh("docker", &["--config", &good, "pull", "-q", &name])?;
    let ran = sh(
        "docker",
        &["run", "--rm", "--network", "none", "--user", "65532", "--read-only", &name, "--version"],
    );
    let held = sh("docker", &["image", "inspect", "-f", "{{.Os}} {{json .Config.Entrypoint}}", &name]);
    sh("docker", &["rmi", "-f", &name])?;
    ensure!(ran?.starts_with("syp-gate "), "the gate runs from it");
    ensure!(held?.trim() == "linux [\"/syp-gate\"]", "what the pods are told");
    Ok(())
}

#[test]
fn a_push_needs_no_login_where_none_is_asked_for_and_says_what_is_in_its_way() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(r) = Registry::open()? else { return Ok(()) };
    let nobody = r.dir().join("none");
    let e = Engine::new(&sypctl)?.with("DOCKER_CONFIG", &nobody.to_string_lossy());
    let place = format!("{}/syp-gate", r.host);
    let name = e.ok(&["gate", "push", &place])?.trim().to_owned();
    ensure!(name.starts_with(&format!("{place}@sha256:")), "{name}");
    // a registry that never saw it gets the same digest
    let Some(other) = Registry::open()? else { return Ok(()) };
    let there = e.ok(&["gate", "push", &format!("{}/x/gate:2", other.host), "--plain-http"])?;
    ensure!(there.trim().split('@').nth(1) == name.split('@').nth(1), "{there} and {name}");

    let kept = r.kept()?;
    let fails = |e: &Engine, place: &str, code: i32, words: &[&str]| -> Result<()> {
        let said = e.run(&["gate", "push", place])?;
        ensure!(said.code == code && said.out.is_empty(), "{place}: {said:?}");
        ensure!(words.iter().all(|w| said.err.contains(w)), "{place}: {words:?} in {said:?}");
        Ok(())
    };
    let gone = {
        let free = std::net::TcpListener::bind("127.0.0.1:0")?;
        format!("{}/gate", free.local_addr()?)
    };
    fails(&e, &gone, 11, &["REGISTRY_UNREACHABLE", "refused"])?;
    fails(&e, &format!("{}/gate", web_server()?), 1, &["REGISTRY_REFUSED", "404", "repository"])?;
    fails(&e, "registry.invalid/gate", 11, &["REGISTRY_UNREACHABLE", "--plain-http"])?;
    fails(&e, "no-registry/gate", 2, &["the registry is missing"])?;
    let dynamic = Engine::new(&sypctl)?.with("SYP_GATE", "/bin/sh");
    fails(&dynamic, &place, 1, &["GATE_BINARY", "not static"])?;
    let absent = Engine::new(&sypctl)?.with("SYP_GATE", "/nowhere/syp-gate");
    fails(&absent, &place, 1, &["GATE_BINARY", "/nowhere/syp-gate"])?;
    ensure!(r.kept()? == kept, "a push that failed wrote something");
    Ok(())
}
