//! Fifty instances at once: all of them serve, each its own callers and no other's, and nothing of them is left.
use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use syp_tests::product::{Engine, binary, get, left_of, pause};

const MANY: usize = 50;

/// The same command for each of them, all at once; those that failed.
fn each(e: &Engine, args: impl Fn(&str) -> Vec<String>) -> Result<Vec<String>> {
    let one = |n: usize| {
        let name = format!("many-{n}");
        let mut c = Command::new(e.sypctl());
        c.args(args(&name)).env("SYP_DATA_DIR", e.dir()).stdin(Stdio::null());
        Ok::<_, anyhow::Error>((name, c.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?))
    };
    let all = (0..MANY).map(one).collect::<Result<Vec<_>>>()?;
    let mut failed = Vec::new();
    for (name, child) in all {
        let out = child.wait_with_output()?;
        if !out.status.success() {
            failed.push(format!("{name}: {}", String::from_utf8_lossy(&out.stderr)));
        }
    }
    Ok(failed)
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|w| (*w).to_owned()).collect()
}

/// Of each that does not serve: what it last said.
fn why(e: &Engine, all: &[(String, String, String)]) -> Result<String> {
    let serves = |name: &str| all.iter().any(|(n, state, _)| n == name && state == "SERVING");
    let mut out = String::new();
    for name in (0..MANY).map(|n| format!("many-{n}")).filter(|n| !serves(n)) {
        let events = e.run(&["events", &name])?;
        let last: Vec<_> = events.out.lines().rev().take(5).collect();
        out += &format!("\n{name}: {last:#?} {}", events.err);
    }
    Ok(out)
}

#[test]
fn fifty_at_once_serve_their_own_callers_and_leave_nothing() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    e.ok(&["ls"])?;
    let begun = Instant::now();
    let up = |name: &str| {
        let user = format!("user:{name}@example.com");
        words(&[
            "up",
            name,
            "--image",
            "syp-test/hello",
            "--on",
            "docker",
            "--port",
            "8080",
            "--allow",
            &user,
            "--yes",
            "--no-wait",
            "-q",
        ])
    };
    let failed = each(&e, up)?;
    ensure!(failed.is_empty(), "{} were refused: {failed:?}", failed.len());
    let end = begun + Duration::from_secs(900);
    let states = |e: &Engine| -> Result<Vec<(String, String, String)>> {
        let all = e.json(&["ls"])?;
        let all = all["instances"].as_array().cloned().unwrap_or_default();
        let text = |i: &serde_json::Value, k: &str| i[k].as_str().unwrap_or_default().to_owned();
        Ok(all.iter().map(|i| (text(i, "displayName"), text(i, "state"), text(i, "endpoint"))).collect())
    };
    let all = loop {
        let all = states(&e)?;
        if all.len() == MANY && all.iter().all(|(_, state, _)| state == "SERVING") {
            break all;
        }
        ensure!(Instant::now() < end, "after {:?}: {}", begun.elapsed(), why(&e, &all)?);
        pause(250);
    };
    println!("{MANY} serve after {:.1} s", begun.elapsed().as_secs_f64());
    let endpoints: BTreeSet<_> = all.iter().map(|(_, _, url)| url).collect();
    ensure!(endpoints.len() == MANY, "each has its own: {endpoints:?}");
    for (n, (name, _, url)) in all.iter().enumerate() {
        let own = e.token(name, Some(&format!("user:{name}@example.com")))?;
        let (_, _, other) = &all[(n + 1) % MANY];
        ensure!(get(url, Some(&own), &[])?.0 == 200, "{name} lets its own in");
        let code = get(other, Some(&own), &[])?.0;
        ensure!([401, 403].contains(&code), "{name}'s caller at another: {code}");
    }
    ensure!(e.json(&["fsck"])?["problems"].as_array().is_none_or(Vec::is_empty));
    let store = e.store_id()?;
    let begun = Instant::now();
    e.ok(&["down", "--all", "--yes", "-q", "--timeout", "15m"])?;
    println!("all are gone after {:.1} s", begun.elapsed().as_secs_f64());
    let left = left_of(&store)?;
    ensure!(left.is_empty(), "{} are left: {left:?}", left.len());
    let receipt = e.json(&["receipt", "many-7", "--verify"]).context("a receipt")?;
    ensure!(!receipt.is_null());
    Ok(())
}
