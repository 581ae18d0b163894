//! `--plan` on what changes something beside a revision: nothing is done, and what is done later is what the plan said.
use anyhow::{Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use syp_tests::product::{Engine, binary, pause};

const ALICE: &str = "user:alice@example.com";

/// All that a plan could have changed by mistake.
fn state(e: &Engine) -> Result<Vec<Value>> {
    let asks: [&[&str]; 7] = [
        &["show", "shop"],
        &["events", "shop"],
        &["access", "show", "shop"],
        &["access", "show", "-", "--plane", "control"],
        &["token", "ls"],
        &["tariff", "show"],
        &["secret", "ls"],
    ];
    let tidy = |mut v: Value| {
        // what moves by itself
        for moving in ["cost", "lastHealthyTime", "conditions", "updateTime", "metrics"] {
            if let Some(o) = v.as_object_mut() {
                o.remove(moving);
            }
        }
        v
    };
    asks.iter()
        .map(|a| {
            let args: Vec<_> = a.iter().copied().chain(["-o", "json"]).collect();
            let out = e.ok(&args)?;
            // events are a JSON object a line
            Ok(serde_json::from_str(&out).map_or_else(|_| Value::String(out.clone()), tidy))
        })
        .collect()
}

fn nanos(v: &Value) -> i64 {
    v["nanos"].as_i64().unwrap_or(0)
}

#[test]
fn what_would_change_is_shown_with_its_cost_and_who_gains_and_nothing_is_done() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let pw = e.dir().join("pw");
    std::fs::write(&pw, "first")?;
    let at = |name: &str| format!("{name}=@{}", pw.display());
    e.ok(&["secret", "create", &at("db")])?;
    e.up("shop", "syp-test/hello", &["--port", "8080", "--allow", ALICE, "--secret", "DB=secret:db"])?;
    e.ok(&["token", "create", "shop", "--name", "old", "--ttl", "1h"])?;
    let tokens = e.json(&["token", "ls", "shop"])?;
    let old = tokens["tokens"][0]["name"].as_str().unwrap_or_default().to_owned();
    // the gate knows the token as well: that is an event of its own
    let end = Instant::now() + Duration::from_secs(60);
    let told = || -> Result<bool> {
        let events = e.json(&["events", "shop"])?;
        let last = events["events"].as_array().and_then(|all| all.last());
        Ok(last.is_some_and(|l| l.to_string().contains("gate has generation")))
    };
    while !told()? {
        ensure!(Instant::now() < end, "the gate is not told of the token");
        pause(100);
    }
    let before = state(&e)?;

    let p = e.json(&["access", "allow", "shop", "user:bob@example.com", "--plan"])?;
    ensure!(p["accessChanges"][0] == "+ use: allow user:bob@example.com", "{p}");
    ensure!(nanos(&p["hourlyBefore"]) > 0 && p["hourlyBefore"] == p["hourlyAfter"], "the cost stays: {p}");
    let p = e.json(&["access", "deny", "shop", ALICE, "--plan"])?;
    ensure!(p["accessChanges"][0] == format!("+ use: deny {ALICE}").as_str(), "{p}");
    let p = e.json(&["access", "deny", "shop", ALICE, "--remove", "--plan"])?;
    ensure!(p["accessChanges"][0] == format!("- use: allow {ALICE}").as_str(), "{p}");
    let p = e.json(&["access", "allow", "shop", ALICE, "--plan"])?;
    ensure!(p["noChange"] == true, "{p}");
    let p =
        e.ok(&["access", "deny", "-", "--plane", "control", "claim:any=thing", "--role", "admin", "--plan"])?;
    ensure!(p.contains("+ operate: deny claim:any=thing as admin") && p.contains("Cost    none"), "{p}");
    let p = e.ok(&["access", "deny", "-", "--plane", "control", &me(&e)?, "--plan"])?;
    ensure!(p.contains("could not change it back"), "{p}");

    let p = e.json(&["token", "create", "shop", "--name", "ci", "--ttl", "1h", "--path", "/x", "--plan"])?;
    let line = p["accessChanges"][0].as_str().unwrap_or_default().to_owned();
    ensure!(line.starts_with("+ use: token ci under /x, until 20"), "{p}");
    let p = e.json(&["token", "create", "--control", "viewer", "--name", "ci", "--ttl", "1h", "--plan"])?;
    ensure!(p["accessChanges"].to_string().contains("+ operate: token ci as viewer"), "{p}");
    let p = e.json(&["token", "revoke", &old, "--plan"])?;
    ensure!(p["accessChanges"][0] == "- use: token old", "{p}");
    let p = e.run(&["token", "revoke", "000000000000", "--plan"])?;
    ensure!(p.code == 5, "a plan refuses what the call would: {}", p.err);

    std::fs::write(&pw, "second")?;
    let p = e.json(&["secret", "add", &at("db"), "--plan"])?;
    let words = p["changes"].to_string();
    ensure!(words.contains("a version after 1") && words.contains("shop: a revision with it"), "{p}");
    let p = e.json(&["secret", "create", &at("key"), "--operator", ALICE, "--plan"])?;
    ensure!(p["accessChanges"][0] == format!("+ operate: allow {ALICE} as operator").as_str(), "{p}");
    let p = e.run(&["secret", "rm", "db", "--plan"])?;
    ensure!(p.code != 0 && p.err.contains("SECRET_IN_USE"), "{}", p.err);
    std::fs::write(&pw, "first")?;
    ensure!(e.json(&["secret", "add", &at("db"), "--plan"])?["noChange"] == true, "the value it has");

    let p = e.ok(&["drain", "shop", "--plan"])?;
    ensure!(p.contains("keep") && p.contains("an hour, as now"), "{p}");
    let tariff = ["tariff", "set", "--per-kwh", "3"];
    let dear = e.json(&[&tariff[..], &["--plan"]].concat())?;
    ensure!(dear["changes"].to_string().contains("per kWh: 0.30 -> 3"), "{dear}");
    ensure!(nanos(&dear["hourlyAfter"]) == 10 * nanos(&dear["hourlyBefore"]), "ten times the price: {dear}");

    ensure!(state(&e)? == before, "a plan changed something:\n{:?}\n{before:?}", state(&e)?);
    ensure!(!e.ok(&["audit"])?.contains("first"), "no value in the trail");

    // what was planned is what comes
    e.ok(&tariff)?;
    for _ in 0..50 {
        if e.json(&["cost", "shop"])?["ratePerHour"] == dear["hourlyAfter"] {
            break;
        }
        syp_tests::product::pause(100);
    }
    ensure!(e.json(&["cost", "shop"])?["ratePerHour"] == dear["hourlyAfter"], "the rate is the planned one");
    e.ok(&["access", "deny", "shop", ALICE, "--remove"])?;
    let newest = e.json(&["access", "history", "shop"])?;
    ensure!(newest["changes"][0]["changes"][0] == format!("- use: allow {ALICE}").as_str(), "{newest}");
    e.down("shop")?;
    let p = e.json(&["secret", "rm", "db", "--plan"])?;
    ensure!(p["changes"][0] == "secret db: deleted, 1 versions", "{p}");
    Ok(())
}

/// The caller as a member.
fn me(e: &Engine) -> Result<String> {
    let w = e.json(&["whoami"])?;
    Ok(format!("sub:{}", w["subject"].as_str().unwrap_or_default()))
}
