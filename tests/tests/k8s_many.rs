//! A hundred instances at once on a real cluster, or as many as `SYP_TEST_MANY` says: all of them serve, each its own callers, the API
//! server is not overrun, and nothing is left.
use anyhow::{Result, ensure};
use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{Engine, binary, get, pause},
};

/// Two cores start a hundred pods, each with a gate, and another hundred that try them.
const PATIENCE: Duration = Duration::from_secs(1_800);

fn many() -> Result<usize> {
    std::env::var("SYP_TEST_MANY").map_or(Ok(100), |n| Ok(n.parse()?))
}

fn begin(e: &Engine, name: &str) -> Result<Child> {
    let user = format!("user:{name}@example.com");
    let mut c = Command::new(e.sypctl());
    c.args(["up", name, "--image", "syp-test/hello:latest", "--on", "k8s", "--port", "8080"]);
    c.args(["--isolation", "rules", "--allow", &user, "--yes", "--no-wait", "-q"]);
    c.env("SYP_DATA_DIR", e.dir()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Ok(c.spawn()?)
}

/// Name, state and endpoint of each.
fn states(e: &Engine) -> Result<Vec<[String; 3]>> {
    let all = e.json(&["ls"])?;
    let all = all["instances"].as_array().cloned().unwrap_or_default();
    let text = |i: &serde_json::Value, k: &str| i[k].as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|i| ["displayName", "state", "endpoint"].map(|k| text(i, k))).collect())
}

#[test]
fn many_at_once_serve_their_own_callers_and_leave_nothing() -> Result<()> {
    let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let e = cluster.engine(&sypctl)?;
    let many = many()?;
    e.ok(&["ls"])?;
    let begun = Instant::now();
    let all: Vec<_> = (0..many).map(|n| begin(&e, &format!("many-{n}"))).collect::<Result<_>>()?;
    for child in all {
        let out = child.wait_with_output()?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    println!("{many} are accepted after {:.1} s", begun.elapsed().as_secs_f64());
    let all = loop {
        let all = states(&e)?;
        if all.len() == many && all.iter().all(|[_, state, _]| state == "SERVING") {
            break all;
        }
        let lost = all.iter().find(|[_, state, _]| ["DRAINING", "DESTROYED"].contains(&state.as_str()));
        ensure!(lost.is_none(), "{lost:?}: {:?}", lost.map(|[name, ..]| e.run(&["events", name])));
        let waits: Vec<_> = all.iter().filter(|[_, state, _]| state != "SERVING").collect();
        ensure!(begun.elapsed() < PATIENCE, "after {:?}: {waits:?}", begun.elapsed());
        pause(1_000);
    };
    println!("{many} serve after {:.1} s", begun.elapsed().as_secs_f64());
    let endpoints: BTreeSet<_> = all.iter().map(|[_, _, url]| url).collect();
    ensure!(endpoints.len() == many, "each has its own: {endpoints:?}");
    for (n, [name, _, url]) in all.iter().enumerate().step_by(7) {
        let own = e.token(name, Some(&format!("user:{name}@example.com")))?;
        let [_, _, other] = &all[(n + 1) % many];
        ensure!(get(url, Some(&own), &[])?.0 == 200, "{name} lets its own in");
        let code = get(other, Some(&own), &[])?.0;
        ensure!([401, 403].contains(&code), "{name}'s caller at another: {code}");
    }
    let begun = Instant::now();
    e.ok(&["down", "--all", "--yes", "-q", "--timeout", "10m"])?;
    println!("all are gone after {:.1} s", begun.elapsed().as_secs_f64());
    let left = cluster.left(&e.store_id()?)?;
    ensure!(left.is_empty(), "{} are left: {left:?}", left.len());
    Ok(())
}
