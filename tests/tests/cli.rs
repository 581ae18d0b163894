//! The command line as people and scripts meet it: what is refused, what is said, and how it ends.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use syp_tests::{
    conformance::Docker,
    halted::halt,
    product::{Engine, Said, binary, get, left_of, pause, sh},
};

const HELLO: &str = "syp-test/hello";
/// It never listens: an `up` of it is under way for half a minute.
const SILENT: &str = "syp-test/silent";

fn with_engine(test: impl FnOnce(&mut Engine, PathBuf) -> Result<()>) -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let mut e = Engine::new(&sypctl)?;
    let done = test(&mut e, sypctl);
    if done.is_err() {
        // what a broken test protected must go as well
        e.run(&["down", "--all", "--yes", "--force", "--timeout", "60s"])?;
    }
    done?;
    let store = e.store_id()?;
    drop(e);
    let left = left_of(&store)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

fn says(s: &Said, code: i32, words: &[&str]) -> Result<()> {
    ensure!(s.code == code, "expected exit {code}: {s:?}");
    for w in words {
        ensure!(s.err.contains(w) || s.out.contains(w), "expected '{w}' in: {s:?}");
    }
    Ok(())
}

/// Everything under a folder with its mode.
fn modes(dir: &Path) -> Result<Vec<(PathBuf, u32)>> {
    // files of an engine at work come and go
    let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    let mut out = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Err(e) if gone(&e) => return Ok(out),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let m = match std::fs::symlink_metadata(&path) {
            Err(e) if gone(&e) => continue,
            m => m?,
        };
        out.push((path.clone(), m.permissions().mode() & 0o777));
        if m.is_dir() {
            out.extend(modes(&path)?);
        }
    }
    Ok(out)
}

#[test]
fn what_no_host_and_no_calendar_has_is_refused_before_anything_is_made() -> Result<()> {
    with_engine(|e, _| {
        let refused = |more: &[&str], code, words: &[&str]| {
            says(&e.up_fails("big", HELLO, &[&["--port", "8080"], more].concat())?, code, words)
        };
        refused(&["--memory", "60000Gi"], 1, &["RESOURCES_EXCEED_HOST", "60000Gi", "the Docker host has"])?;
        refused(&["--cpu", "1000"], 1, &["RESOURCES_EXCEED_HOST", "1000 cores", "--cpu"])?;
        refused(&["--memory", "1000000Gi"], 2, &["spec.resources.memory"])?;
        refused(&["--cpu", "99999999999999"], 2, &["spec.resources.cpu"])?;
        refused(&["--cpu", "79228162514264337593543950335"], 2, &["spec.resources.cpu"])?;
        refused(&["--ttl", "1000years"], 2, &["spec.ttl", "10 years"])?;
        refused(&["--ttl", "0s"], 2, &["spec.ttl"])?;
        // a plan looks at the same
        let plan = ["up", "big", "--image", HELLO, "--port", "8080", "--cpu", "1000", "--plan"];
        says(&e.run(&plan)?, 1, &["RESOURCES_EXCEED_HOST"])?;
        ensure!(e.ok(&["ls", "-o", "name"])?.trim().is_empty() && e.left()?.is_empty(), "nothing was made");
        Ok(())
    })
}

#[test]
fn what_the_engine_writes_is_for_its_owner_alone_even_in_an_open_folder() -> Result<()> {
    with_engine(|e, _| {
        let open = |p: &Path| std::fs::set_permissions(p, std::fs::Permissions::from_mode(0o755));
        open(e.dir())?;
        // a folder of the store that somebody made by hand
        let store = e.dir().join("store");
        std::fs::create_dir(&store)?;
        open(&store)?;
        e.up("shop", HELLO, &["--port", "8080", "--env", "PASSWORD=hunter2"])?;
        // and what an earlier version left behind
        e.ok(&["server", "stop"])?;
        let file = modes(&store)?.into_iter().find(|f| f.0.is_file()).context("a file of the store")?.0;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644))?;
        e.ok(&["ls"])?;
        for (path, mode) in modes(e.dir())? {
            ensure!(mode & 0o077 == 0, "{} has mode {mode:03o}", path.display());
        }
        e.down("shop")
    })
}

#[test]
fn a_sweep_at_a_provider_that_is_not_there_is_no_good_news() -> Result<()> {
    with_engine(|e, _| {
        says(&e.run(&["sweep", "--provider", "nope"])?, 2, &["TARGET_UNKNOWN", "nope", "docker"])?;
        ensure!(e.ok(&["sweep", "--provider", "docker"])?.contains("nothing of ours"), "a clean one");
        Ok(())
    })
}

#[test]
fn a_project_is_an_id_and_a_dash_means_all_of_them_only_in_lists() -> Result<()> {
    with_engine(|e, _| {
        let up = ["up", "shop", "--image", HELLO, "--port", "8080", "--yes", "--project"];
        for bad in ["X y", "-", "a/b", "Ü", ""] {
            says(&e.run(&[&up[..], &[bad]].concat())?, 2, &[])?;
        }
        for bad in ["X y", "a/b"] {
            says(&e.run(&["ls", "--project", bad])?, 2, &[])?;
        }
        ensure!(e.left()?.is_empty(), "nothing was made");
        e.ok(&[&up[..], &["team-a"]].concat())?;
        ensure!(e.ok(&["ls", "-o", "name", "--project", "-"])?.trim() == "shop", "all projects");
        ensure!(e.ok(&["ls", "-o", "name"])?.trim().is_empty(), "the default project has none");
        e.ok(&["down", "shop", "--yes", "--project", "team-a"]).map(drop)
    })
}

#[test]
fn show_has_figures_and_says_what_the_price_rests_on() -> Result<()> {
    with_engine(|e, _| {
        e.up("shop", HELLO, &["--port", "8080"])?;
        let (t, url) = (e.token("shop", None)?, e.endpoint("shop")?);
        for _ in 0..5 {
            ensure!(get(&url, Some(&t), &[])?.0 == 200, "it serves");
        }
        // what its containers use is told late where Docker is busy
        let end = Instant::now() + Duration::from_secs(60);
        let mut shown = e.ok(&["show", "shop"])?;
        while !shown.contains("Memory") && Instant::now() < end {
            pause(200);
            shown = e.ok(&["show", "shop"])?;
        }
        for w in ["1 of 1 replicas", "Requests", "2xx 5", "p50 ", "CPU ", "over the last", "Memory"] {
            ensure!(shown.contains(w), "expected '{w}' in {shown}");
        }
        ensure!(e.json(&["show", "shop"])?["replicasReady"] == 1, "the instance says it too");
        // nothing was limited: what it costs rests on an assumption
        for said in [&shown, &e.ok(&["cost", "shop"])?] {
            for w in ["(estimated)", "no limit set: assumed 0.5 cores and 256Mi a replica"] {
                ensure!(said.contains(w), "expected '{w}' in {said}");
            }
        }
        e.down("shop")?;
        e.up("lim", HELLO, &["--port", "8080", "--cpu", ".5", "--memory", "64Mi"])?;
        let said = e.ok(&["cost", "lim"])?;
        ensure!(said.contains("(metered)") && !said.contains("assumed"), "{said}");
        e.down("lim")
    })
}

#[test]
fn a_replaced_gate_counts_from_its_own_beginning() -> Result<()> {
    with_engine(|e, _| {
        e.up("shop", HELLO, &["--port", "8080"])?;
        let (t, url) = (e.token("shop", None)?, e.endpoint("shop")?);
        let seconds = |m: &Value| -> Result<f64> {
            Ok(m["window"].as_str().context("window")?.trim_end_matches('s').parse()?)
        };
        let before = seconds(&e.json(&["metrics", "shop"])?)?;
        pause(2_000);
        let (gate, killed) = (Docker::container(e, "shop", "gate")?, Instant::now());
        sh("docker", &["kill", &gate])?;
        let end = Instant::now() + Duration::from_secs(180);
        while !get(&url, Some(&t), &["-m", "2"]).is_ok_and(|r| r.0 == 200) {
            ensure!(Instant::now() < end, "not repaired: {}", e.ok(&["events", "shop"])?);
            pause(100);
        }
        for _ in 0..20 {
            ensure!(get(&url, Some(&t), &[])?.0 == 200, "it serves");
        }
        let m = e.json(&["metrics", "shop"])?;
        let (after, since) = (seconds(&m)?, killed.elapsed().as_secs_f64());
        // the old one's would be longer than that by more than the pause
        ensure!(
            after <= since + 1.0,
            "the window is the new gate's: {after} s, {since} s since, it was {before} s"
        );
        let classes = m["statusClass"].as_object().context("classes")?.values();
        let count: f64 = classes.filter_map(|c| c.as_str()?.parse::<f64>().ok()).sum();
        let rps = m["rps"].as_f64().context("rps")?;
        ensure!(count >= 20.0 && (rps * after - count).abs() < 1.0, "{m}");
        e.down("shop")
    })
}

/// Every line on stderr as JSON.
fn lines(s: &Said) -> Result<Vec<Value>> {
    s.err.lines().map(|l| serde_json::from_str(l).with_context(|| format!("not JSON: {l}"))).collect()
}

#[test]
fn every_line_on_a_piped_stderr_is_a_json_object() -> Result<()> {
    with_engine(|e, _| {
        let up = ["up", "shop", "--image", HELLO, "--port", "8080", "--yes"];
        let crash = ["up", "crash", "--image", "syp-test/crash", "--port", "8080", "--yes"];
        let told: [(&[&str], i32); 12] = [
            (&["ls"], 0),
            (&up, 0),
            (&crash, 1),
            (&["token", "shop"], 0),
            (&["curl", "shop", "/"], 0),
            (&["open", "shop"], 0),
            (&["show", "nope"], 5),
            (&["up", "Shop"], 2),
            (&["wait", "nope", "--for", "deleted"], 0),
            (&["transition", "shop", "--to", "serving", "--if-state", "draining"], 6),
            (&["down", "shop", "--yes"], 0),
            (&["server", "stop"], 0),
        ];
        for (args, code) in told {
            for more in [&[][..], &["-o", "json"]] {
                let args = [args, more].concat();
                let s = e.run(&args)?;
                // the second `up` and `down` of the same find it done
                let done = more.len() == 2 && args[0] == "down";
                ensure!(s.code == code || done, "{args:?} ended with {}: {}", s.code, s.err);
                let said = lines(&s).with_context(|| format!("{args:?}"))?;
                ensure!(said.iter().all(Value::is_object), "{args:?}: {}", s.err);
                let last = said.last().map(|v| v["error"]["exitCode"].clone());
                ensure!(s.code == 0 || last == Some(s.code.into()), "{args:?}: {}", s.err);
                if s.code != 0 {
                    let next = said.last().and_then(|v| v["error"]["next"].as_str()).unwrap_or_default();
                    ensure!(!next.is_empty(), "no word of what to do: {}", s.err);
                }
            }
        }
        e.ok(&["ls"]).map(drop)
    })
}

#[test]
fn explain_doctor_and_version_come_in_every_format() -> Result<()> {
    with_engine(|e, _| {
        e.ok(&["ls"])?;
        let page = e.json(&["explain", "CRASH_LOOP"])?;
        ensure!(page["reason"] == "CRASH_LOOP" && page["whatToDo"][0].is_string(), "{page}");
        let all = e.json(&["explain"])?;
        ensure!(all["reasons"].as_array().is_some_and(|a| a.len() > 50), "{all}");
        ensure!(e.json(&["version"])?["sypctl"].is_string(), "version");
        ensure!(e.json(&["doctor"])?["checks"][0]["verdict"].is_string(), "doctor");
        let name = |what: &[&str]| e.ok(&[what, &["-o", "name"]].concat());
        ensure!(name(&["explain", "crash-loop"])?.trim() == "CRASH_LOOP", "explain");
        ensure!(name(&["doctor"])?.lines().any(|l| l == "docker"), "doctor");
        ensure!(!name(&["version"])?.contains(' '), "version");
        for what in [&["explain", "CRASH_LOOP"][..], &["doctor"], &["version"]] {
            let yaml = e.ok(&[what, &["-o", "yaml"]].concat())?;
            ensure!(yaml.contains(": ") && !yaml.starts_with('{'), "{what:?}: {yaml}");
        }
        Ok(())
    })
}

#[test]
fn waiting_and_asking_have_the_same_flags_on_everything_that_works() -> Result<()> {
    with_engine(|e, _| {
        e.up("shop", HELLO, &["--port", "8080", "--wait"])?;
        e.ok(&["drain", "shop", "--yes", "--no-wait"])?;
        e.wait_state("shop", "DRAINING", Duration::from_secs(30))?;
        e.ok(&["wait", "shop", "--for", "state=draining"])?;
        e.ok(&["transition", "shop", "--to", "serving", "--yes", "--wait"])?;
        ensure!(e.state("shop")? == "SERVING", "it waited");
        says(
            &e.run(&["op", "cancel", "shop", "--yes", "--no-wait"])?,
            6,
            &["OPERATION_DONE", "over already"],
        )?;
        e.ok(&["down", "shop", "--yes", "--wait"])?;
        ensure!(e.state("shop")? == "DESTROYED", "it waited");
        // under way until it is cancelled
        let up = ["up", "gone", "--image", SILENT, "--port", "8080", "--yes", "--no-wait"];
        e.ok(&up)?;
        let said = e.ok(&["op", "cancel", "gone", "--yes", "--wait"])?;
        ensure!(!said.contains("asked for"), "it waited: {said}");
        e.ok(&["wait", "gone", "--for", "deleted", "--timeout", "120s"]).map(drop)
    })
}

#[test]
fn small_words_are_right() -> Result<()> {
    with_engine(|e, _| {
        let up = |more: &[&str]| e.up_fails("shop", HELLO, &[&["--port", "8080"], more].concat());
        for bad in ["a b=x", "syp.dev/x=y", "k=a b", "k=ü", ".k=x"] {
            says(&up(&["--label", bad])?, 2, &["labels", "next"])?;
        }
        e.up("shop", HELLO, &["--port", "8080", "-l", "team=ml", "-l", "example.com/tier=a_1"])?;
        let s = e.run(&["transition", "shop", "--to", "draining", "--if-state", "draining"])?;
        says(&s, 6, &["STATE_DIFFERS", "it is SERVING"])?;
        let dot = e.ok(&["graph", "shop", "--format", "dot"])?;
        let mut edges: Vec<_> = dot.lines().filter(|l| l.contains(" -> ")).collect();
        let all = edges.len();
        edges.sort_unstable();
        edges.dedup();
        ensure!(edges.len() == all, "an edge is drawn twice: {dot}");
        e.down("shop")
    })
}

#[test]
fn while_an_engine_stops_everybody_is_told_the_truth() -> Result<()> {
    with_engine(|e, _| {
        // its port is waited for: the engine needs a while to reach its next record
        e.up("silent", SILENT, &["--port", "8080", "--no-wait"])?;
        let end = Instant::now() + Duration::from_secs(120);
        while !e.json(&["show", "silent"])?["waitingOn"].to_string().contains("PROBING") {
            ensure!(Instant::now() < end, "it is not probed: {}", e.ok(&["show", "silent"])?);
            pause(100);
        }
        let pid = e.pid()?;
        let mut stop = e.spawn(&["server", "stop"])?;
        let end = Instant::now() + Duration::from_secs(60);
        while e.run(&["server", "status"])?.code == 0 {
            ensure!(Instant::now() < end, "it does not begin to stop");
            pause(20);
        }
        says(&e.run(&["server", "status"])?, 11, &["ENGINE_NOT_ANSWERING", &pid, "stopping"])?;
        let again = e.run(&["server", "stop"])?;
        ensure!(again.code == 0 && again.err.contains("stopped the local engine"), "{again:?}");
        ensure!(stop.wait()?.success(), "the first one");
        // and a command that needs an engine waits for the end of the old one
        e.ok(&["ls"])?;
        pause(500);
        ensure!(e.pid()? != pid, "another engine");
        let mut stop = e.spawn(&["server", "stop"])?;
        pause(200);
        e.ok(&["ls"])?;
        ensure!(stop.wait()?.success(), "it saw the end of the one it stopped");
        e.ok(&["down", "silent", "--yes"]).map(drop)
    })
}

#[test]
fn a_store_held_by_what_cannot_be_seen_is_waited_for() -> Result<()> {
    with_engine(|e, _| {
        e.ok(&["ls"])?;
        e.kill9()?;
        let db = e.dir().join("store/db");
        // the lock outlives the process that took it, as an engine's does in its last moments: no list names who has it
        let held = "exec 9<>\"$0\"; flock -w 20 9 || exit 9; echo held; exec sleep 25 >/dev/null";
        let mut holder = Command::new("sh").args(["-c", held]).arg(&db).stdout(Stdio::piped()).spawn()?;
        let mut word = [0; 5];
        holder.stdout.as_mut().context("stdout")?.read_exact(&mut word)?;
        ensure!(&word == b"held\n", "the store is free: {word:?}");
        let mut other = e.spawn(&["ls"])?;
        let said = e.run(&["ls"])?;
        ensure!(said.code == 0 && said.err.contains("waiting for "), "{said:?}");
        ensure!(other.wait()?.success(), "the other one waits as well");
        // the lock is free a moment before whoever had it is seen to have ended
        let end = Instant::now() + Duration::from_secs(10);
        while holder.try_wait()?.is_none() && Instant::now() < end {
            pause(50);
        }
        ensure!(holder.try_wait()?.is_some_and(|s| s.success()), "the store was held all the while");
        Ok(())
    })
}

#[test]
fn an_engine_that_does_not_answer_is_told_of_and_ended_by_force() -> Result<()> {
    with_engine(|e, _| {
        e.up("shop", HELLO, &["--port", "8080"])?;
        let (t, url) = (e.token("shop", None)?, e.endpoint("shop")?);
        let pid = e.pid()?;
        let _halted = halt(&pid)?;
        says(&e.run(&["ls", "--timeout", "1s"])?, 8, &["DEADLINE_EXCEEDED", "--timeout"])?;
        let begun = Instant::now();
        let s = e.run(&["ls"])?;
        says(&s, 11, &["ENGINE_NOT_ANSWERING", &pid, "engine.log", "server stop --force"])?;
        let took = begun.elapsed().as_secs();
        ensure!((25..45).contains(&took), "it gave up after {took} s");
        says(&e.run(&["server", "stop", "--timeout", "1s"])?, 8, &[&pid, "--force"])?;
        ensure!(Path::new(&format!("/proc/{pid}")).exists(), "without --force it lives");
        says(&e.run(&["server", "stop", "--force", "--timeout", "1s"])?, 0, &[&pid, "by force"])?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        ensure!(stat.is_empty() || stat.contains(") Z "), "it is gone: {stat}");
        ensure!(get(&url, Some(&t), &[])?.0 == 200, "the instance serves on");
        ensure!(e.state("shop")? == "SERVING", "the next engine goes on");
        e.down("shop")
    })
}

/// A command on a terminal of its own, made by `script` of util-linux. `None`: it is not here.
fn on_a_terminal(e: &Engine, sypctl: &Path, words: &str) -> Result<Option<std::process::Child>> {
    if sh("script", &["--version"]).is_err() {
        println!("SKIPPED: no 'script' of util-linux: what a terminal shows is not tried");
        return Ok(None);
    }
    let line = format!("{} {words}", sypctl.display());
    let mut c = Command::new("script");
    c.args(["-qefc", &line, "/dev/null"]).env("SYP_DATA_DIR", e.dir()).env("TERM", "xterm");
    c.env("LC_ALL", "C.UTF-8").env_remove("SYPCTL_NO_PROMPT").env_remove("NO_COLOR");
    Ok(Some(c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?))
}

/// What a terminal has shown when a word comes, or at the end.
fn shown(child: &mut std::process::Child, until: Option<&str>) -> Result<String> {
    let out = child.stdout.as_mut().context("stdout")?;
    let (mut all, mut some) = (Vec::new(), [0; 4096]);
    loop {
        let n = out.read(&mut some)?;
        all.extend_from_slice(&some[..n]);
        let text = String::from_utf8_lossy(&all).into_owned();
        match until {
            Some(w) if text.contains(w) => return Ok(text),
            Some(w) if n == 0 => anyhow::bail!("'{w}' did not come: {text}"),
            None if n == 0 => return Ok(text),
            _ => {}
        }
    }
}

#[test]
fn a_terminal_shows_the_live_tree_asks_and_detaches_on_ctrl_c() -> Result<()> {
    with_engine(|e, sypctl| {
        let terminal = |words: &str| on_a_terminal(e, &sypctl, words);
        // asked, and no is no
        let up = format!("up shop --image {HELLO} --port 8080");
        let Some(mut c) = terminal(&up)? else { return e.ok(&["ls"]).map(drop) };
        let asked = shown(&mut c, Some("[Y/n]"))?;
        ensure!(
            asked.contains("PER HOUR") && asked.contains("if always on"),
            "the plan comes first: {asked}"
        );
        c.stdin.as_mut().context("stdin")?.write_all(b"n\n")?;
        let text = shown(&mut c, None)?;
        ensure!(c.wait()?.code() == Some(1) && text.contains("nothing was done"), "{text}");
        ensure!(e.ok(&["ls", "-o", "name"])?.trim().is_empty(), "nothing was done");
        // the tree, one line a step, no JSON
        let Some(mut c) = terminal(&format!("{up} --yes"))? else { return Ok(()) };
        let text = shown(&mut c, None)?;
        ensure!(c.wait()?.code() == Some(0), "{text}");
        for w in ["✓ network", "✓ app-0", "✓ probe", "SERVING", "401 without a token: verified"] {
            ensure!(text.contains(w), "expected '{w}' in {text}");
        }
        ensure!(!text.contains("{\""), "no JSON for people: {text}");
        // a failure in words
        let Some(mut c) = terminal("show nope")? else { return Ok(()) };
        let text = shown(&mut c, None)?;
        ensure!(c.wait()?.code() == Some(5) && text.contains("error: ") && text.contains("next: "), "{text}");
        e.down("shop")?;
        // Ctrl-C leaves the work alone
        let Some(mut c) = terminal(&format!("up slow --image {SILENT} --port 8080 --yes"))? else {
            return Ok(());
        };
        shown(&mut c, Some("probe"))?;
        c.stdin.as_mut().context("stdin")?.write_all(b"\x03")?;
        let text = shown(&mut c, None)?;
        ensure!(c.wait()?.code() == Some(130) && text.contains("still running"), "{text}");
        ensure!(e.state("slow")? == "PROVISIONING", "the work goes on");
        e.ok(&["down", "slow", "--yes"]).map(drop)
    })
}

#[test]
fn operations_are_watched_and_tried_again() -> Result<()> {
    with_engine(|e, _| {
        e.up("shop", HELLO, &["--port", "8080", "--no-wait"])?;
        let s = e.run(&["op", "watch", "shop"])?;
        says(&s, 0, &["succeeded"])?;
        let last = lines(&s)?.pop().context("no event")?;
        ensure!(last["done"]["done"] == true, "its end is told: {last}");
        ensure!(e.state("shop")? == "SERVING", "it was watched to its end");
        // a repair: nothing is broken, so nothing changes
        let (before, url) = (e.json(&["op", "ls", "shop"])?, e.endpoint("shop")?);
        says(&e.run(&["op", "retry", "shop", "--yes"])?, 0, &["retry", "succeeded"])?;
        let after = e.json(&["op", "ls", "shop"])?;
        let count = |v: &Value| v["operations"].as_array().map_or(0, Vec::len);
        ensure!(count(&after) == count(&before) + 1 && e.endpoint("shop")? == url, "{after}");
        says(&e.run(&["op", "watch", "nope"])?, 5, &["NOT_FOUND"])?;
        e.down("shop")
    })
}

#[test]
fn open_doctor_and_logs_work_where_there_is_no_display() -> Result<()> {
    with_engine(|e, sypctl| {
        e.up("flask", "syp-test/flask", &["--port", "5000"])?;
        let url = e.endpoint("flask")?;
        let o = Command::new(&sypctl)
            .args(["open", "flask"])
            .env("SYP_DATA_DIR", e.dir())
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .output()?;
        let (out, err) = (String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        ensure!(o.status.success() && out.trim() == url, "the address is data: {out}");
        ensure!(err.contains("no display here") && err.contains("sypctl token flask"), "{err}");
        let said = e.ok(&["doctor"])?;
        for w in ["docker", "gate", "data", "disk", "engine", "1 instances"] {
            ensure!(said.contains(w), "expected '{w}' in {said}");
        }
        ensure!(said.lines().all(|l| !l.starts_with("fail")), "{said}");
        // the lines of the past, then those that come
        let mut follow = Command::new(&sypctl)
            .args(["logs", "flask", "-f"])
            .env("SYP_DATA_DIR", e.dir())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        shown(&mut follow, Some("Running on"))?;
        let t = e.token("flask", None)?;
        get(&format!("{url}/no-such-path-4711"), Some(&t), &[])?;
        shown(&mut follow, Some("no-such-path-4711"))?;
        sh("kill", &["-INT", &follow.id().to_string()])?;
        ensure!(follow.wait()?.code() == Some(130), "interrupted");
        e.down("flask")
    })
}

#[test]
fn guards_hold_and_a_wait_that_times_out_is_8() -> Result<()> {
    with_engine(|e, _| {
        e.up("shop", HELLO, &["--port", "8080", "--protect"])?;
        for args in [&["down", "shop", "--yes"][..], &["transition", "shop", "--to", "destroyed", "--yes"]] {
            says(&e.run(args)?, 6, &["protected", "--force"])?;
        }
        ensure!(e.state("shop")? == "SERVING", "it is protected");
        let to = |to, from| e.run(&["transition", "shop", "--to", to, "--if-state", from]);
        says(&to("draining", "draining")?, 6, &["STATE_DIFFERS"])?;
        says(&to("draining", "serving")?, 0, &["DRAINING"])?;
        says(&to("serving", "serving")?, 6, &["STATE_DIFFERS"])?;
        says(&to("serving", "draining")?, 0, &["SERVING"])?;
        let wait = ["wait", "shop", "--for", "state=draining", "--timeout", "10s"];
        says(&e.run(&wait)?, 8, &["DEADLINE_EXCEEDED", "SERVING", "the work goes on"])?;
        // the work of an `up` goes on too
        e.up("slow", SILENT, &["--port", "8080", "--no-wait"])?;
        let up = ["up", "slow", "--image", SILENT, "--port", "8080", "--yes", "--timeout", "10s"];
        says(&e.run(&up)?, 8, &["DEADLINE_EXCEEDED", "sypctl op watch"])?;
        ensure!(e.state("slow")? == "PROVISIONING", "the work goes on");
        e.ok(&["down", "slow", "--yes"])?;
        e.ok(&["down", "shop", "--yes", "--force"]).map(drop)
    })
}

#[test]
fn what_is_left_behind_is_9_until_it_is_gone() -> Result<()> {
    with_engine(|e, _| {
        e.up("shop", HELLO, &["--port", "8080"])?;
        let uid = e.json(&["show", "shop"])?["uid"].as_str().context("uid")?.to_owned();
        e.down("shop")?;
        let store = e.store_id()?;
        let name = format!("syp-{store}-left-behind");
        let (of, one) = (format!("syp.dev/store={store}"), format!("syp.dev/instance={uid}"));
        sh("docker", &["volume", "create", "--label", &of, "--label", &one, &name])?;
        says(&e.run(&["receipt", "shop", "--verify"])?, 9, &["RESIDUAL_RESOURCES", &name])?;
        sh("docker", &["volume", "rm", &name])?;
        e.ok(&["receipt", "shop", "--verify"]).map(drop)
    })
}
