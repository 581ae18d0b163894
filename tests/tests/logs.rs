//! Lines of the runs before this one.
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use syp_tests::{
    conformance::Docker,
    product::{Engine, binary, left_of, pause, sh},
};

/// Counts its runs in a file of its container, and speaks before Docker has noted that it runs.
const APP: &str = "n=$(cat /n 2>/dev/null || echo 0); n=$((n+1)); echo $n >/n; echo run $n; echo to stderr $n >&2; \
                   trap 'echo ends $n; exit 0' TERM; httpd -f -p 8080 -h /www & wait";

fn previous(e: &Engine, more: &[&str]) -> Result<Vec<String>> {
    let mut lines: Vec<_> =
        e.ok(&[&["logs", "shop", "--previous"], more].concat())?.lines().map(str::to_owned).collect();
    // two streams: their order is not told
    lines.sort();
    Ok(lines)
}

fn kill_and_wait(e: &Engine, run: u32) -> Result<()> {
    sh("docker", &["kill", &Docker::container(e, "shop", "app-0")?])?;
    let end = Instant::now() + Duration::from_secs(180);
    while !e.ok(&["logs", "shop"])?.contains(&format!("run {run}\n")) {
        ensure!(Instant::now() < end, "run {run} does not begin: {}", e.ok(&["events", "shop"])?);
        pause(100);
    }
    e.ok(&["wait", "shop", "--for", "condition=Ready", "--timeout", "180s"]).map(drop)
}

#[test]
fn lines_of_the_run_that_ended_are_told_apart_from_those_of_the_run_that_is() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    e.up("shop", "syp-test/hello", &["--port", "8080", "--entrypoint", "/bin/sh", "--", "-c", APP])?;
    let none = e.run(&["logs", "shop", "--previous"])?;
    ensure!(none.code == 5 && none.err.contains("NO_PREVIOUS_RUN") && none.out.is_empty(), "{none:?}");

    kill_and_wait(&e, 2)?;
    ensure!(previous(&e, &[])? == ["run 1", "to stderr 1"], "{:?}", previous(&e, &[])?);
    ensure!(previous(&e, &["--replica", "0"])?.len() == 2, "of one replica");
    let json = e.ok(&["logs", "shop", "-p", "--tail", "1", "-o", "json"])?;
    ensure!(json.lines().count() == 1 && json.contains("1\""), "the last line of that run: {json}");

    kill_and_wait(&e, 3)?;
    ensure!(
        previous(&e, &[])? == ["run 1", "run 2", "to stderr 1", "to stderr 2"],
        "{:?}",
        previous(&e, &[])?
    );
    let last = previous(&e, &["--tail", "2"])?;
    ensure!(last == ["run 2", "to stderr 2"], "{last:?}");
    let follow = e.run(&["logs", "shop", "-p", "-f"])?;
    ensure!(follow.code == 2 && follow.err.contains("--previous"), "{follow:?}");

    // another replica has run no other run
    e.ok(&["set", "shop", "--env", "A=1", "--yes"])?;
    let none = e.run(&["logs", "shop", "--previous"])?;
    ensure!(none.code == 5 && none.err.contains("replaced"), "{none:?}");
    e.down("shop")?;
    let store = e.store_id()?;
    drop(e);
    ensure!(left_of(&store)?.is_empty(), "left behind");
    Ok(())
}
