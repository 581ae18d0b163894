//! What goes on for longer: figures over time, who did what, another engine in the place of one, money that is spent.
use crate::{
    crash,
    load::Load,
    product::{Engine, get, pause},
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

/// What was asked is in the series, in the scrape's figures and nowhere twice, and what the app uses beside it.
pub(super) fn over_time(e: &Engine, name: &str) -> Result<()> {
    let of = |e: &Engine| -> Result<u64> {
        let m = e.json(&["metrics", name])?;
        let classes = m["statusClass"].as_object().context("status classes")?;
        Ok(classes.values().filter_map(|n| n.as_str()?.parse::<u64>().ok()).sum())
    };
    let token = e.token(name, Some("user:alice@example.com"))?;
    let (url, before) = (e.endpoint(name)?, of(e)?);
    for _ in 0..20 {
        ensure!(get(&url, Some(&token), &[])?.0 == 200);
    }
    let after = of(e)?;
    ensure!(after == before + 20, "20 requests are 20 requests: {before} and then {after}");
    // points are of 10 s, and a busy machine tells late what its containers use
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        let m = e.json(&["metrics", name, "--since", "1h"])?;
        let points = || m["points"].as_array().into_iter().flatten();
        let number = |n: &Value| n.as_str()?.parse::<u64>().ok();
        let sum: u64 = points()
            .filter_map(|p| p["statusClass"].as_object())
            .flat_map(|c| c.values().filter_map(number))
            .sum();
        let memory = points().filter_map(|p| number(&p["memoryBytes"])).max().unwrap_or(0);
        let cores = points().filter_map(|p| p["cpuCores"].as_f64()).fold(0.0, f64::max);
        if sum >= after && memory > 0 && cores > 0.0 {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "the series has {sum} of {after} requests, {memory} bytes, {cores} cores: {m}"
        );
        pause(500);
    }
}

/// Every change has a row, and the chain holds.
pub(super) fn audited(e: &Engine, name: &str) -> Result<()> {
    let rows = e.ok(&["audit", name, "-o", "json"])?;
    for method in ["CreateInstance", "UpdateInstance", "SetAccessPolicy", "RollbackInstance"] {
        ensure!(rows.contains(method), "no row of {method}");
    }
    e.ok(&["audit", "--verify"]).map(drop)
}

/// The engine is killed in the middle of an update, and another process goes on, as an upgrade does.
pub(super) fn another_engine(e: &Engine, name: &str) -> Result<()> {
    let token = e.token(name, Some("user:alice@example.com"))?;
    let load = Load::start(&e.endpoint(name)?, "/", &token, 2)?;
    let before = e.pid()?;
    e.ok(&["set", name, "--env", "ENGINE=next", "--yes", "--no-wait"])?;
    pause(150);
    e.kill9()?;
    let end = Instant::now() + Duration::from_secs(300);
    loop {
        let i = e.json(&["show", name])?;
        if i["spec"]["env"].to_string().contains("next") && crash::rests(&i, "SERVING") {
            break;
        }
        ensure!(Instant::now() < end, "the update does not come to its end: {i}");
        pause(200);
    }
    ensure!(e.pid()? != before, "it is another process");
    load.end()?.nothing_lost()
}

/// A budget that is crossed drains.
pub(super) fn spent(e: &Engine, name: &str, currency: &str) -> Result<()> {
    e.ok(&["set", name, "--budget", &format!("0.000001{currency}/day:drain"), "--yes"])?;
    e.wait_state(name, "DRAINING", Duration::from_secs(60))?;
    ensure!(e.ok(&["show", name])?.contains("BUDGET_EXCEEDED"), "it says why");
    Ok(())
}
