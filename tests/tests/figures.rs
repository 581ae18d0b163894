//! What is told in figures is true: requests, latency, cost, over a restart of the engine and to the end.
use anyhow::{Result, ensure};
use serde_json::Value;
use syp_tests::product::{Engine, binary, get, pause};

const ALICE: &str = "user:alice@example.com";

/// `google.type.Money` in nanos of its unit.
fn nanos(m: &Value) -> i128 {
    let units = m["units"]
        .as_str()
        .and_then(|u| u.parse::<i128>().ok())
        .or_else(|| m["units"].as_i64().map(i128::from));
    units.unwrap_or(0) * 1_000_000_000 + i128::from(m["nanos"].as_i64().unwrap_or(0))
}

#[test]
fn requests_latency_and_cost_are_told_and_survive_the_engine() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    // half a core for an hour costs enough to be seen within a second
    e.up("shop", "syp-test/hello", &["--allow", ALICE, "--port", "8080", "--cpu", "1", "--replicas", "2"])?;
    let (t, url) = (e.token("shop", Some(ALICE))?, e.endpoint("shop")?);
    for _ in 0..40 {
        ensure!(get(&url, Some(&t), &[])?.0 == 200, "served");
    }
    for _ in 0..3 {
        ensure!(get(&url, None, &[])?.0 == 401, "no token");
    }
    let m = e.json(&["metrics", "shop"])?;
    let text = m.to_string();
    let point = &m["points"].as_array().and_then(|p| p.last()).cloned().unwrap_or_else(|| m["point"].clone());
    let point = if point.is_null() { &m } else { point };
    let classes = &point["statusClass"];
    let count = |class: &str| classes[class].as_str().and_then(|n| n.parse::<i64>().ok()).unwrap_or(0);
    ensure!(count("2xx") == 40, "40 answers of 200: {text}");
    ensure!(count("4xx") >= 3, "refusals count: {text}");
    ensure!(!point["latency"]["p50"].is_null() && !point["latency"]["p99"].is_null(), "latency: {text}");
    let cost = |e: &Engine| -> Result<(i128, String)> {
        let c = e.json(&["cost", "shop"])?;
        Ok((nanos(&c["accrued"]), c.to_string()))
    };
    pause(2_000);
    let (before, said) = cost(&e)?;
    ensure!(before > 0, "nothing accrued: {said}");
    e.kill9()?;
    pause(1_500);
    let (after, said) = cost(&e)?;
    ensure!(after > before, "the engine's absence was free of charge: {before} then {said}");
    let rate = nanos(&e.json(&["cost", "shop"])?["ratePerHour"]);
    ensure!(rate > 0, "no rate");
    let down = e.run(&["down", "shop", "--yes"])?;
    ensure!(
        down.code == 0 && (down.err.contains("total cost") || down.out.contains("total cost")),
        "{down:?}"
    );
    let total = nanos(&e.json(&["receipt", "shop"])?["totalCost"]);
    let total = if total == 0 { nanos(&e.json(&["show", "shop"])?["cost"]["accrued"]) } else { total };
    ensure!(total >= after, "the receipt's total {total} is below what had accrued: {after}");
    // to the second: the life was longer than a moment and far shorter than an hour
    ensure!(total < rate, "more than an hour was charged: {total} at {rate} an hour");
    Ok(())
}
