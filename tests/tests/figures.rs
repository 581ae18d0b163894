//! What is told in figures is true: requests, latency, cost, over a restart of the engine and to the end.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use syp_tests::product::{Engine, binary, get, pause, sh};

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

#[test]
fn a_budget_acts_when_its_line_is_crossed_and_costs_are_told_by_day_and_revision() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    // 0.00164 EUR an hour: a millionth is spent after 2.2 s, which an 'up' with the budget might not come to its end in
    let up = |name: &str, budget: &str| -> Result<()> {
        e.up(name, "syp-test/hello", &["--port", "8080", "--allow", ALICE])?;
        e.ok(&["set", name, "--budget", budget, "--yes"]).map(drop)
    };
    up("drains", "0.000001EUR/lifetime:50%notify,100%drain")?;
    up("ends", "0.000001EUR/day:destroy")?;
    let condition = |name: &str| -> Result<String> {
        let i = e.json(&["show", name])?;
        let all = i["conditions"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|c| c["type"] == "BudgetOk");
        Ok(found.map_or_else(String::new, |c| format!("{} {}", c["status"], c["reason"])))
    };
    e.wait_state("drains", "DRAINING", Duration::from_secs(60))?;
    ensure!(condition("drains")?.contains("BUDGET_EXCEEDED"), "{}", condition("drains")?);
    let events = e.ok(&["events", "drains"])?;
    ensure!(
        events.contains("50 % of the budget: notify") && events.contains("100 % of the budget: drain"),
        "{events}"
    );
    // what is destroyed for it has a receipt like any other
    let end = Instant::now() + Duration::from_secs(60);
    while e.run(&["receipt", "ends", "--verify"])?.code != 0 {
        ensure!(Instant::now() < end, "it is not destroyed: {}", e.ok(&["events", "ends"])?);
        pause(100);
    }
    // a larger budget ends the alarm; the instance is brought back by whoever wants it
    e.ok(&["set", "drains", "--budget", "5EUR/month:drain", "--yes"])?;
    e.ok(&["transition", "drains", "--to", "serving"])?;
    ensure!(condition("drains")?.contains("WITHIN_BUDGET"), "{}", condition("drains")?);
    e.ok(&["scale", "drains", "--replicas", "2", "--yes"])?;
    let by = |args: &[&str]| e.json(&[&["cost"], args].concat());
    let rows = by(&["drains", "--by", "revision"])?;
    let all = rows["rows"].as_array().cloned().unwrap_or_default();
    let of = |n: &str| all.iter().find(|r| r["group"]["revision"] == n).map_or(0, |r| nanos(&r["accrued"]));
    // the replica that scaling kept is of the revision it was made for
    ensure!(of("drains-1") > of("drains-2") && of("drains-2") > 0, "{rows}");
    ensure!((of("drains-1") + of("drains-2") - nanos(&rows["total"])).abs() <= 1, "rows add up: {rows}");
    let days = by(&["--by", "day,instance"])?;
    let names: Vec<_> =
        days["rows"].as_array().into_iter().flatten().map(|r| r["group"]["instance"].to_string()).collect();
    ensure!(
        names.iter().any(|n| n.contains("ends@")) && names.iter().any(|n| n.contains("drains@")),
        "{days}"
    );
    let refused = e.up_fails("x", "syp-test/hello", &["--port", "8080", "--budget", "5USD/day:drain"])?;
    ensure!(refused.err.contains("EUR"), "another currency is refused: {}", refused.err);
    e.down("drains")
}

/// Calls an address many times over few connections; how many answers of 200 the caller itself counted.
fn load(url: &str, token: &str, times: u32) -> Result<i64> {
    let (header, many) = (format!("Authorization: Bearer {token}"), format!("{url}/?[1-{times}]"));
    let args = ["-s", "-o", "/dev/null", "-w", "%{http_code}\\n", "-m", "60", "-H", &header, &many];
    let codes = sh("curl", &args)?;
    Ok(i64::try_from(codes.lines().filter(|l| *l == "200").count())?)
}

/// Almost as far back as points of this step are kept.
const ALL: [&str; 4] = ["--since", "50m", "--step", "10s"];

/// All points.
fn points(e: &Engine) -> Result<Vec<Value>> {
    let q = e.json(&[&["metrics", "shop"], &ALL[..]].concat())?;
    Ok(q["points"].as_array().cloned().unwrap_or_default())
}

fn number(v: &Value) -> i64 {
    v.as_str().and_then(|n| n.parse().ok()).or_else(|| v.as_i64()).unwrap_or(0)
}

/// Waits for the looks of the engine (every 10 s) until the points are as they should be.
fn until(e: &Engine, what: &str, fine: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    let end = Instant::now() + Duration::from_secs(180);
    loop {
        let all = points(e)?;
        if fine(&all) {
            return Ok(all);
        }
        ensure!(Instant::now() < end, "{what}: {}", Value::from(all));
        pause(500);
    }
}

#[test]
fn what_a_load_generator_counts_is_what_the_query_tells() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    e.up("shop", "syp-test/hello", &["--allow", ALICE, "--port", "8080", "--replicas", "2"])?;
    let (t, url) = (e.token("shop", Some(ALICE))?, e.endpoint("shop")?);
    let ok = |all: &[Value]| all.iter().map(|p| number(&p["statusClass"]["2xx"])).sum::<i64>();
    let mut mine = load(&url, &t, 2_000)?;
    ensure!(mine > 1_990, "only {mine} of 2000 were answered");
    // what is asked while there is no engine counts too
    let pid = e.pid()?;
    e.kill9_of(&pid)?;
    mine += load(&url, &t, 1_000)?;
    let all = until(&e, "requests before and after the engine's end", |all| ok(all) >= mine)?;
    // within 1 percent is what is promised; nothing is lost here
    ensure!(ok(&all) == mine, "{mine} were answered, {} are told", ok(&all));
    let last = all.last().cloned().unwrap_or_default();
    ensure!(all.iter().any(|p| !p["latency"]["p99"].is_null()), "no latency: {last}");
    // Docker's first figures of a container may come a look later
    until(&e, "memory", |all| all.iter().any(|p| number(&p["memoryBytes"]) > 0))?;
    mine += load(&url, &t, 1_000)?;
    until(&e, "a third load", |all| ok(all) == mine)?;
    let cpu = |all: &[Value]| all.iter().any(|p| p["cpuCores"].as_f64().is_some_and(|c| c > 0.0));
    until(&e, "processor time", cpu)?;
    let text = e.ok(&["metrics", "--prometheus"])?;
    let uid = e.json(&["show", "shop"])?["uid"].as_str().context("uid")?.to_owned();
    let labels = format!("project=\"default\",name=\"shop\",uid=\"{uid}\",class=\"2xx\"");
    let line = format!("syp_requests_total{{{labels}}} {mine}");
    ensure!(text.lines().any(|l| l == line), "{line} is not in {text}");
    let end = Instant::now() + Duration::from_secs(180);
    loop {
        // null while a busy Docker does not answer
        let top = e.json(&["top"])?;
        if top[0]["name"] == "projects/default/instances/shop" && !top[0]["metrics"].is_null() {
            break;
        }
        ensure!(Instant::now() < end, "{top}");
        pause(500);
    }
    let drawn = e.ok(&["metrics", "shop"])?;
    ensure!(drawn.contains(&format!("2xx {mine}")) && drawn.contains("in steps of 1m"), "{drawn}");
    // a replica that begins anew
    let store = format!("label=syp.dev/store={}", e.store_id()?);
    let app = sh("docker", &["ps", "-q", "--filter", &store, "--filter", "label=syp.dev/step=app-0"])?;
    sh("docker", &["kill", app.trim()])?;
    until(&e, "a restart", |all| all.iter().any(|p| number(&p["restarts"]) > 0))?;
    // what was is told when it is no more
    let uid = e.json(&["show", "shop"])?["uid"].as_str().unwrap_or_default().to_owned();
    e.down("shop")?;
    let gone = format!("shop@{uid}");
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let q = e.json(&[&["metrics", gone.as_str()], &ALL[..]].concat())?;
        let all = q["points"].as_array().cloned().unwrap_or_default();
        if ok(&all) == mine {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{mine} requests, of which {} are told after its end", ok(&all));
        pause(500);
    }
}

#[test]
fn another_tariff_is_for_later_and_a_start_goes_on_with_it() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let limits = ["--port", "8080", "--allow", ALICE, "--cpu", "1", "--memory", "1Gi", "--replicas", "2"];
    e.up("shop", "syp-test/hello", &limits)?;
    let rate = |e: &Engine| -> Result<i128> { Ok(nanos(&e.json(&["cost", "shop"])?["ratePerHour"])) };
    // 2 x (1 core x 10 W + 1 GiB x 0.4 W + 1 core of n of n x 0.74 W idle) x 0.30 EUR/kWh = 22.28 W x 0.0003 EUR/Wh
    ensure!(rate(&e)? == 6_684_000, "{}", rate(&e)?);
    let begun = Instant::now();
    let before = nanos(&e.json(&["cost", "shop"])?["accrued"]);
    ensure!(e.run(&["tariff", "set", "--per-kwh", "much"])?.code == 2, "no number");
    // a thousand times as much: what was spent before would show
    e.ok(&["tariff", "set", "--per-kwh", "300"])?;
    e.kill9()?;
    let end = Instant::now() + Duration::from_secs(120);
    while rate(&e)? != 6_684_000_000 {
        ensure!(Instant::now() < end, "not priced anew: {}", rate(&e)?);
        pause(50);
    }
    let events = e.ok(&["events", "shop"])?;
    ensure!(events.matches("repriced").count() == 1, "once: {events}");
    // at most all the time since at the new rate: nothing was priced backwards
    let spent = nanos(&e.json(&["cost", "shop"])?["accrued"]) - before;
    let most = i128::try_from(begun.elapsed().as_millis())? * 6_684_000_000 / 3_600_000 + before;
    ensure!(spent > 0 && spent < most, "{spent} in the meantime, at most {most}");
    e.ok(&["scale", "shop", "--replicas", "1", "--yes"])?;
    ensure!(rate(&e)? == 3_342_000_000, "what comes later has the new price: {}", rate(&e)?);
    let all = e.json(&["tariff", "show"])?;
    ensure!(all["tariffs"].as_array().is_some_and(|t| t.len() == 2), "the history: {all}");
    e.down("shop")
}

#[test]
fn what_an_instance_draws_is_told_beside_its_rate_counted_once_and_kept_to_the_end() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    // a kWh of 360,000 EUR is a tenth of one a joule
    e.ok(&["tariff", "set", "--idle-watts", "40", "--per-kwh", "360000"])?;
    e.up("shop", "syp-test/hello", &["--port", "8080", "--allow", ALICE, "--cpu", "1"])?;
    let energy = |e: &Engine| -> Result<Value> { Ok(e.json(&["cost", "shop"])?["energy"].clone()) };
    let number = |x: &Value, key: &str| x[key].as_str().and_then(|j| j.parse::<f64>().ok()).unwrap_or(-1.0);
    let joules = |x: &Value| number(x, "joules");
    // until a look after `since`
    let looked = |e: &Engine, since: &Value| -> Result<Value> {
        let end = Instant::now() + Duration::from_secs(180);
        loop {
            let x = energy(e)?;
            if x["asOf"].as_str() > since["asOf"].as_str() {
                return Ok(x);
            }
            ensure!(Instant::now() < end, "nobody looks: {x}");
            pause(200);
        }
    };
    let at = |x: &Value, key: &str| -> Result<f64> {
        let t: prost_types::Timestamp = x[key].as_str().unwrap_or_default().parse()?;
        Ok(t.seconds as f64 + f64::from(t.nanos) / 1e9)
    };
    // one core's share of 40 W for all the time that was looked at, once; busy time comes on top
    let is_right = |x: &Value| -> Result<()> {
        let idle = 40.0 * number(x, "idleShare") * (at(x, "asOf")? - at(x, "fromTime")?);
        if x["source"] == "MODELLED" {
            ensure!((number(x, "idleJoules") - idle).abs() < 0.1 && joules(x) + 0.1 > idle, "{idle} J: {x}");
            ensure!(x["whyModelled"].as_str().is_some_and(|w| !w.is_empty()), "{x}");
        } else {
            ensure!(number(x, "idleJoules") <= idle + 0.1 && joules(x) > 0.0, "{idle} J: {x}");
        }
        Ok(())
    };
    let first = looked(&e, &Value::Null)?;
    let now = looked(&e, &first)?;
    is_right(&now)?;
    ensure!(joules(&now) > joules(&first), "{first} {now}");
    let spent = nanos(&now["cost"]);
    ensure!((spent as f64 / 1e8 - joules(&now)).abs() < 0.01, "{now}");
    // a cheaper kWh is for later, and a kill takes nothing away and adds nothing twice
    e.ok(&["tariff", "set", "--per-kwh", "0.3"])?;
    e.kill9()?;
    let after = looked(&e, &now)?;
    is_right(&after)?;
    let later = nanos(&after["cost"]) - spent;
    // of what it drew in the meantime only what came before the new price has the old one
    let tariffs = e.json(&["tariff", "show"])?;
    let new = tariffs["tariffs"].as_array().and_then(|all| all.first()).context("no tariff")?;
    ensure!(new["perKwh"] == "0.3", "the newest is the first: {tariffs}");
    let old_part = (at(new, "fromTime")? - at(&now, "asOf")?) / (at(&after, "asOf")? - at(&now, "asOf")?);
    let all_old = (joules(&after) - joules(&now)) * 1e8;
    let due = all_old * old_part.clamp(0.0, 1.0);
    // which part its busy time was in is not known to us
    ensure!((later as f64 - due).abs() < 0.2 * all_old, "{later}, not {due}: {now} {after} {new}");
    let text = e.ok(&["cost", "shop"])?;
    ensure!(
        text.contains("none: nobody bills this machine") && text.contains("(for what it reserves)"),
        "{text}"
    );
    e.down("shop")?;
    let end = Instant::now() + Duration::from_secs(180);
    while energy(&e)?["asOf"].is_null() {
        ensure!(Instant::now() < end, "it went with the instance");
        pause(100);
    }
    ensure!(joules(&energy(&e)?) >= joules(&after), "{after} {}", energy(&e)?);
    Ok(())
}
