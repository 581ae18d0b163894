//! What an instance costs on a real cluster (`tests/testbed/kubernetes.sh`) that is not this machine: nobody knows until somebody
//! says it, and 0 is never shown.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{Engine, binary, pause},
};

/// The cluster of the testbed under other names: to the engine it is anybody's.
fn kubeconfig(of: &str, names: &[&str]) -> Result<String> {
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(of)?)?;
    let context = config["contexts"][0]["context"].clone();
    config["contexts"] = names.iter().map(|n| serde_json::json!({ "name": n, "context": context })).collect();
    config["current-context"] = names[0].into();
    Ok(config.to_string())
}

fn serve(e: &Engine) -> Result<std::process::Child> {
    // off this machine the built-in issuer is no good; nobody calls, so it need not answer
    let child = e.start_with(&["--issuer", "http://127.0.0.1:9"])?;
    let end = Instant::now() + Duration::from_secs(120);
    while e.run(&["server", "status"])?.code != 0 {
        ensure!(Instant::now() < end, "the engine does not answer");
        pause(50);
    }
    Ok(child)
}

/// `google.type.Money` in millionths.
fn micros(m: &Value) -> i64 {
    let units: i64 = m["units"].as_str().and_then(|u| u.parse().ok()).unwrap_or(0);
    units * 1_000_000 + m["nanos"].as_i64().unwrap_or(0) / 1_000
}

#[test]
fn a_foreign_cluster_is_unpriced_in_words_until_somebody_says_its_price() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(cluster) = Cluster::from_env()? else { return Ok(()) };
    let least = cluster.env().into_iter().find(|(n, _)| *n == "KUBECONFIG").context("kubeconfig")?.1;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), kubeconfig(&least, &["prod"])?)?;
    let e = Engine::new(&sypctl)?.with("KUBECONFIG", &file.path().display().to_string());
    let mut engine = serve(&e)?;

    let check = e.ok(&["provider", "check", "k8s:prod"])?;
    ensure!(check.contains("warn  a replica costs") && check.contains("tariff set k8s:prod"), "{check}");
    let image = ["up", "shop", "--image", "syp-test/hello:latest", "--on", "k8s:prod", "--port", "8080"];
    let up =
        [&image[..], &["--isolation", "rules", "--allow", "user:a@example.com", "--cpu", "500m"]].concat();
    let plan = e.ok(&[&up[..], &["--plan"]].concat())?;
    ensure!(
        plan.contains("unpriced: nobody has said what k8s:prod costs") && !plan.contains("EUR"),
        "{plan}"
    );
    let no = e.run(&[&up[..], &["--budget", "5EUR/day:drain", "--yes"]].concat())?;
    ensure!(no.code == 6 && no.err.contains("UNPRICED"), "a budget that can't be kept: {no:?}");
    e.ok(&[&up[..], &["--yes"]].concat())?;
    for screen in [&["show", "shop"][..], &["cost", "shop"], &["cost"], &["cost", "--by", "day"], &["ls"]] {
        let said = e.ok(screen)?;
        ensure!(said.contains("unpriced") && !said.contains("0.00 EUR"), "{screen:?}: {said}");
    }
    let c = e.json(&["cost", "shop"])?;
    ensure!(c["accuracy"] == "UNKNOWN_PRICE" && c["ratePerHour"].is_null() && c["accrued"].is_null(), "{c}");

    // half a core at 36 an hour with a hundredth for the gate, and memory that is free
    let set = ["tariff", "set", "k8s:prod", "--per-vcpu-hour", "36", "--per-gib-hour", "0"];
    let plan = e.ok(&[&set[..], &["--plan"]].concat())?;
    ensure!(plan.contains("shop: unpriced -> 18.36"), "{plan}");
    ensure!(e.json(&["cost", "shop"])?["ratePerHour"].is_null(), "a plan changes nothing");
    e.ok(&set)?;
    let rate = |e: &Engine| Ok::<_, anyhow::Error>(micros(&e.json(&["cost", "shop"])?["ratePerHour"]));
    let end = Instant::now() + Duration::from_secs(120);
    while rate(&e)? == 0 {
        ensure!(Instant::now() < end, "not priced");
        pause(100);
    }
    ensure!(rate(&e)? == 18_360_000, "{}", rate(&e)?);
    // of other nodes: not of this one
    e.ok(&[
        "tariff",
        "set",
        "k8s:prod",
        "--per-vcpu-hour",
        "99",
        "--per-gib-hour",
        "1",
        "--instance-type",
        "x",
    ])?;
    pause(1_500);
    let c = e.json(&["cost", "shop"])?;
    ensure!(micros(&c["ratePerHour"]) == 18_360_000, "{c}");
    let source = c["priceSource"].as_str().unwrap_or_default();
    ensure!(source.contains("tariff of k8s:prod") && source.contains("not counted, until"), "{c}");
    ensure!(e.ok(&["tariff", "show"])?.contains("k8s:prod"), "shown");

    // for a cluster that nobody has named, that is not even in the kubeconfig yet
    e.ok(&["tariff", "set", "k8s:later", "--per-vcpu-hour", "10", "--per-gib-hour", "0"])?;
    std::fs::write(file.path(), kubeconfig(&least, &["prod", "later", "last"])?)?;
    let priced = |e: &Engine, name: &str| e.ok(&["provider", "check", name]);
    ensure!(priced(&e, "k8s:later")?.contains("a replica costs  5.1 EUR an hour"), "set before it was named");
    // and after it was
    ensure!(priced(&e, "k8s:last")?.contains("warn  a replica costs"), "none yet");
    e.ok(&["tariff", "set", "k8s:last", "--per-vcpu-hour", "20", "--per-gib-hour", "0"])?;
    ensure!(priced(&e, "k8s:last")?.contains("a replica costs  10.2 EUR an hour"), "set after it was named");

    // over a kill -9
    engine.kill()?;
    engine.wait()?;
    let mut engine = serve(&e)?;
    ensure!(rate(&e)? == 18_360_000, "after a restart: {}", rate(&e)?);
    ensure!(priced(&e, "k8s:later")?.contains("a replica costs  5.1 EUR an hour"), "after a restart");
    e.ok(&["set", "shop", "--budget", "5000EUR/day:drain"])?;
    let accrued = micros(&e.json(&["cost", "shop"])?["accrued"]);
    // 18.36 an hour are 5100 millionths a second
    ensure!((5_000..5_000 * 300).contains(&accrued), "accrued {accrued}");
    let down = e.run(&["down", "shop", "--yes"])?;
    ensure!(down.code == 0 && (down.out + &down.err).contains("not counted, until"), "the receipt says it");
    ensure!(micros(&e.json(&["receipt", "shop"])?["totalCost"]) >= accrued, "the total");
    engine.kill()?;
    engine.wait()?;
    Ok(())
}
