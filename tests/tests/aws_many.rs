//! Twenty instances of two engines in one account at once: each serves its own callers and no other's, no engine touches what is the
//! other's, and nothing is left. A process that is killed in the middle of all of it goes on.
use anyhow::{Result, ensure};
use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use syp_tests::{
    conformance::{Aws, Bed},
    product::{Engine, binary, get, pause},
};

/// Of each engine.
const MANY: usize = 10;
/// Two cores start eighty containers.
const PATIENCE: Duration = Duration::from_secs(540);

fn begin(aws: &Aws, e: &Engine, name: &str) -> Result<Child> {
    let (user, domain) = (format!("user:{name}@example.com"), Aws::domain(e, name));
    let mut c = Command::new(e.sypctl());
    c.args(["up", name, "--image", aws.image(), "--on", aws.on(), "--domain", &domain, "--port", "8080"]);
    c.args(["--allow", &user, "--yes", "--no-wait", "-q"]).env("SYP_DATA_DIR", e.dir());
    Ok(c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
}

/// Name, state and endpoint of each.
fn states(e: &Engine) -> Result<Vec<[String; 3]>> {
    let all = e.json(&["ls"])?;
    let all = all["instances"].as_array().cloned().unwrap_or_default();
    let text = |i: &serde_json::Value, k: &str| i[k].as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|i| ["displayName", "state", "endpoint"].map(|k| text(i, k))).collect())
}

fn serving(e: &Engine, begun: Instant) -> Result<Vec<[String; 3]>> {
    loop {
        let all = states(e)?;
        if all.len() == MANY && all.iter().all(|[_, state, _]| state == "SERVING") {
            return Ok(all);
        }
        let lost = all.iter().find(|[_, state, _]| ["DRAINING", "DESTROYED"].contains(&state.as_str()));
        ensure!(lost.is_none(), "{lost:?}: {:?}", lost.map(|[name, ..]| e.run(&["events", name])));
        ensure!(begun.elapsed() < PATIENCE, "after {:?}: {all:?}", begun.elapsed());
        pause(1_000);
    }
}

#[test]
fn twenty_of_two_engines_in_one_account() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(aws) = Aws::start(&sypctl)? else { return Ok(()) };
    let engines = [aws.engine(&sypctl)?, aws.engine(&sypctl)?];
    for e in &engines {
        e.ok(&["ls"])?;
    }
    let (begun, calls) = (Instant::now(), aws.bed.calls().len());
    let mut all = vec![];
    for n in 0..MANY {
        for e in &engines {
            all.push(begin(&aws, e, &format!("many-{n}"))?);
        }
    }
    for child in all {
        let out = child.wait_with_output()?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    println!("{} are accepted after {:.1} s", 2 * MANY, begun.elapsed().as_secs_f64());
    // in the middle of all its stacks
    engines[0].kill9()?;
    let all = [serving(&engines[0], begun)?, serving(&engines[1], begun)?];
    println!("{} serve after {:.1} s", 2 * MANY, begun.elapsed().as_secs_f64());
    println!("calls: {}", aws.bed.calls().len() - calls);
    let endpoints: BTreeSet<_> = all.iter().flatten().map(|[_, _, url]| url).collect();
    ensure!(endpoints.len() == 2 * MANY, "each has its own: {endpoints:?}");
    for (e, all) in engines.iter().zip(&all) {
        for [name, ..] in all {
            aws.found(e, name)?;
        }
    }
    for (which, (e, all_of)) in engines.iter().zip(&all).enumerate() {
        for (n, [name, _, url]) in all_of.iter().enumerate().step_by(3) {
            let own = e.token(name, Some(&format!("user:{name}@example.com")))?;
            ensure!(get(url, Some(&own), &[])?.0 == 200, "{name} lets its own in");
            // the next one's of the same engine, and the namesake of the other
            for [_, _, other] in [&all_of[(n + 1) % MANY], &all[1 - which][n]] {
                let code = get(other, Some(&own), &[])?.0;
                ensure!([401, 403].contains(&code), "{name}'s caller at {other}: {code}");
            }
        }
    }
    let begun = Instant::now();
    engines[0].ok(&["down", "--all", "--yes", "-q", "--timeout", "9m"])?;
    ensure!(aws.left(&engines[0].store_id()?)?.is_empty(), "{:?}", aws.left(&engines[0].store_id()?)?);
    ensure!(states(&engines[1])?.iter().all(|[_, state, _]| state == "SERVING"), "the other's serve on");
    let swept = engines[0].json(&["sweep", "--provider", aws.on()])?;
    ensure!(
        swept["orphans"].as_array().is_none_or(Vec::is_empty),
        "the other's are nobody's orphans: {swept}"
    );
    engines[1].ok(&["down", "--all", "--yes", "-q", "--timeout", "9m"])?;
    println!("all are gone after {:.1} s", begun.elapsed().as_secs_f64());
    ensure!(aws.left(&engines[1].store_id()?)?.is_empty(), "{:?}", aws.left(&engines[1].store_id()?)?);
    for e in &engines {
        ensure!(e.ok(&["fsck"])?.contains("0 problems"), "fsck");
        e.ok(&["receipt", "many-3", "--verify"])?;
    }
    Ok(())
}
