//! Secrets on Docker: the app has them, and nothing that is written down does.
use anyhow::{Context, Result, ensure};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use syp_tests::product::{Engine, binary, pause, sh};

const ALICE: &str = "user:alice@example.com";

/// Values that are nowhere else on this machine.
fn value(what: &str) -> String {
    format!("{what}-{}", uuid::Uuid::new_v4().simple())
}

/// The container of a step, whichever slot its replica has.
fn container(e: &Engine, name: &str, part: &str) -> Result<String> {
    let filter = |k: &str, v: &str| format!("label=syp.dev/{k}={v}");
    let (store, name) = (filter("store", &e.store_id()?), filter("name", name));
    let format = "{{.ID}} {{.Label \"syp.dev/step\"}}";
    let out = sh("docker", &["ps", "-a", "--filter", &store, "--filter", &name, "--format", format])?;
    let line = out.lines().find(|l| l.split(' ').nth(1).is_some_and(|s| s.starts_with(part)));
    Ok(line.and_then(|l| l.split(' ').next()).with_context(|| format!("no {part}: {out}"))?.to_owned())
}

fn in_app(e: &Engine, name: &str, words: &[&str]) -> Result<String> {
    let app = container(e, name, "app-")?;
    let all: Vec<&str> = ["exec", &app, "/bin/busybox"].into_iter().chain(words.iter().copied()).collect();
    sh("docker", &all)
}

/// Files below a folder that hold one of these, as they are or in hexadecimal.
fn holding(dir: &Path, values: &[&str]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(holding(&path, values)?);
        } else if path.is_file() {
            let bytes = match std::fs::read(&path) {
                // the engine at work has removed it
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                bytes => bytes?,
            };
            for v in values {
                let hex: String = v.bytes().map(|b| format!("{b:02x}")).collect();
                let has = |n: &[u8]| bytes.windows(n.len()).any(|w| w == n);
                if has(v.as_bytes()) || has(hex.as_bytes()) {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    Ok(found)
}

fn memory_of(store: &str) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for e in std::fs::read_dir("/dev/shm")? {
        let name = e?.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("syp-{store}-")) {
            out.push(name);
        }
    }
    Ok(out)
}

#[test]
fn an_app_has_its_secrets_and_no_byte_of_them_is_written_down() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let outside = tempfile::tempdir()?;
    let (db, key, next) = (value("pw"), value("key"), value("next"));
    let file = |name: &str, text: &str| -> Result<String> {
        let path = outside.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (pw, pem) = (file("pw", &format!("{db}\n"))?, file("key", &key)?);
    let secrets = [format!("DB=@{pw}"), format!("/run/tls.key=@{pem}")];
    let up = ["--port", "8080", "--allow", ALICE, "--secret", &secrets[0], "--secret-file", &secrets[1]];
    let mut talk = String::new();
    let mut said = |s: syp_tests::product::Said| {
        talk.push_str(&s.out);
        talk.push_str(&s.err);
        s
    };
    let args =
        |name: &'static str| [&["up", name, "--image", "syp-test/hello", "--yes"][..], &up[..]].concat();
    for name in ["shop", "other"] {
        let s = said(e.run(&args(name))?);
        ensure!(s.code == 0, "{}", s.err);
    }
    ensure!(
        in_app(&e, "shop", &["env"])?.contains(&format!("DB={db}\n")),
        "the variable, without its line end"
    );
    ensure!(in_app(&e, "shop", &["cat", "/run/tls.key"])? == key, "the file, as it is");
    ensure!(in_app(&e, "shop", &["df", "/run/tls.key"])?.contains("tmpfs"), "in memory");
    // the same again is the same
    let s = said(e.run(&["set", "shop", "--secret", &secrets[0], "--yes"])?);
    ensure!(s.code == 0 && s.out.contains("shop-1"), "a value that it has makes no revision: {}", s.out);
    let s = said(e.run(&args("shop"))?);
    ensure!(s.code == 0, "and up attaches: {}", s.err);
    let wrong = format!("DB=@{}", file("wrong", "another")?);
    let up = ["up", "shop", "--image", "syp-test/hello", "--port", "8080", "--allow", ALICE, "--yes"];
    let s = said(e.run(&[&up[..], &["--secret", &wrong, "--secret-file", &secrets[1]]].concat())?);
    ensure!(s.code == 7 && s.err.contains("secrets"), "another value is another spec: {} {}", s.code, s.err);
    // another value restarts only what uses it
    let before = container(&e, "other", "app-")?;
    let rotated = format!("DB=@{}", file("next", &next)?);
    let s = said(e.run(&["set", "shop", "--secret", &rotated, "--plan"])?);
    ensure!(s.code == 0 && s.out.contains("secrets: another value"), "{}{}", s.out, s.err);
    said(e.run(&["set", "shop", "--secret", &rotated, "--yes"])?);
    ensure!(in_app(&e, "shop", &["env"])?.contains(&format!("DB={next}\n")));
    ensure!(in_app(&e, "shop", &["cat", "/run/tls.key"])? == key, "what is not named stays");
    ensure!(container(&e, "other", "app-")? == before, "the other was not touched");
    // an app that prints what it was given and ends: its last lines are the reason, without the value
    let leak =
        ["set", "shop", "--entrypoint", "/bin/busybox", "--yes", "--", "sh", "-c", "echo login $DB; exit 3"];
    let s = said(e.run(&leak)?);
    ensure!(s.code == 1 && s.err.contains("login [secret]"), "redacted: {}", s.err);
    said(e.run(&["rollback", "shop", "--yes"])?);
    ensure!(
        in_app(&e, "shop", &["env"])?.contains(&format!("DB={db}\n")),
        "a roll-back brings the value back"
    );
    for args in [
        &["show", "shop", "-o", "json"][..],
        &["events", "shop"],
        &["op", "ls", "shop", "-o", "json"],
        &["revisions", "shop", "-o", "json"],
        &["graph", "shop"],
        &["apply", "-f", "/dev/null"],
    ] {
        said(e.run(args)?);
    }
    e.ok(&["set", "shop", "--unset-secret", "DB", "--yes"])?;
    ensure!(!in_app(&e, "shop", &["env"])?.contains("DB="), "taken away");
    let values = [db.as_str(), key.as_str(), next.as_str()];
    ensure!(values.iter().all(|v| !talk.contains(v)), "a command said it: {talk}");
    let found = holding(e.dir(), &values)?;
    ensure!(found.is_empty(), "the engine wrote it down: {found:?}");
    // the search itself must be able to find
    ensure!(!holding(outside.path(), &values)?.is_empty());
    let store = e.store_id()?;
    ensure!(!memory_of(&store)?.is_empty(), "the files are there while it lives");
    e.down("shop")?;
    e.down("other")?;
    ensure!(memory_of(&store)?.is_empty(), "left in memory: {:?}", memory_of(&store)?);
    ensure!(e.left()?.is_empty());
    Ok(())
}

#[test]
fn files_in_memory_come_back_after_a_reboot_and_survive_kills() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let outside = tempfile::tempdir()?;
    let (path, key) = (outside.path().join("key"), value("key"));
    std::fs::write(&path, &key)?;
    let secret = format!("/etc/app/key=@{}", path.display());
    e.up("shop", "syp-test/hello", &["--port", "8080", "--allow", ALICE, "--secret-file", &secret])?;
    let store = e.store_id()?;
    let folder = Path::new("/dev/shm").join(memory_of(&store)?.first().context("no folder")?);
    // what a reboot does to memory and to containers
    std::fs::remove_dir_all(&folder)?;
    sh("docker", &["kill", &container(&e, "shop", "app-")?])?;
    let end = Instant::now() + Duration::from_secs(60);
    while !in_app(&e, "shop", &["cat", "/etc/app/key"]).is_ok_and(|seen| seen == key) {
        ensure!(Instant::now() < end, "the file does not come back: {}", e.ok(&["events", "shop"])?);
        pause(100);
    }
    for at in [50, 250, 500, 900] {
        let pid = e.pid()?;
        let mut set = e.spawn(&["set", "shop", "--env", &format!("AT={at}"), "--yes"])?;
        pause(at);
        e.kill9_of(&pid)?;
        let end = Instant::now() + Duration::from_secs(60);
        while set.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "killed after {at} ms: the command does not end");
            pause(20);
        }
    }
    e.wait_state("shop", "SERVING", Duration::from_secs(30))?;
    let end = Instant::now() + Duration::from_secs(60);
    while memory_of(&store)?.len() != 1 {
        ensure!(Instant::now() < end, "one folder a replica: {:?}", memory_of(&store)?);
        pause(100);
    }
    e.down("shop")?;
    ensure!(memory_of(&store)?.is_empty() && e.left()?.is_empty());
    Ok(())
}

#[test]
fn what_can_t_be_a_secret_is_refused_before_anything_is_made() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let outside = tempfile::tempdir()?;
    let at = |name: &str, bytes: &[u8]| -> Result<String> {
        let path = outside.path().join(name);
        std::fs::write(&path, bytes)?;
        Ok(format!("@{}", path.display()))
    };
    let (good, empty, binary) = (at("good", b"x")?, at("empty", b"")?, at("binary", &[0, 255])?);
    let large = at("large", &vec![b'x'; 70_000])?;
    for (flag, word, code, says) in [
        ("--secret", "DB=plain".to_owned(), 2, "@FILE"),
        ("--secret", format!("1DB={good}"), 2, "variable"),
        ("--secret", format!("DB={empty}"), 2, "empty"),
        ("--secret", "DB=@/nowhere/at/all".to_owned(), 2, "/nowhere"),
        ("--secret", format!("DB={binary}"), 2, "as a file"),
        ("--secret", format!("DB={large}"), 2, "larger"),
        ("--secret-file", format!("relative={good}"), 2, "begins with /"),
        ("--secret-file", format!("/a/../b={good}"), 2, "'..'"),
    ] {
        let s = e.up_fails("shop", "syp-test/hello", &["--port", "8080", flag, &word])?;
        ensure!(s.code == code && s.err.contains(says), "{flag} {word}: {} {}", s.code, s.err);
    }
    let twice = format!("DB={good}");
    let s = e.up_fails("shop", "syp-test/hello", &["--port", "8080", "--secret", &twice, "--env", "DB=1"])?;
    ensure!(s.err.contains("plain variable"), "{}", s.err);
    ensure!(e.json(&["ls"])?["instances"].is_null() && e.left()?.is_empty(), "nothing was made");
    Ok(())
}

#[test]
fn a_rotated_secret_restarts_its_users_alone_and_no_request_is_lost() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let outside = tempfile::tempdir()?;
    let file = |name: &str, text: &str| -> Result<String> {
        let path = outside.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let values = ["first", "second", "third"].map(value);
    let at = |n: usize| -> Result<String> {
        Ok(format!("pw=@{}", file(&n.to_string(), &format!("{}\n", values[n]))?))
    };
    let mut talk = String::new();
    let mut run = |args: &[&str], code: i32| -> Result<String> {
        let s = e.run(args)?;
        ensure!(s.code == code, "{args:?}: {} {}{}", s.code, s.out, s.err);
        talk.push_str(&s.out);
        talk.push_str(&s.err);
        Ok(format!("{}{}", s.out, s.err))
    };
    run(&["secret", "create", &at(0)?], 0)?;
    ensure!(run(&["secret", "create", &at(0)?], 7)?.contains("secret add"), "it is there");
    let serve = |name: &str, flags: &[&str]| {
        e.up(name, "syp-test/hello", &[&["--port", "8080", "--allow", ALICE][..], flags].concat())
    };
    serve("shop", &["--replicas", "2", "--secret", "DB=secret:pw", "--secret-file", "/run/pw=secret:pw"])?;
    serve("pinned", &["--secret", "DB=secret:pw@1"])?;
    serve("without", &[])?;
    let yaml = file(
        "from.yaml",
        &format!(
            "apiVersion: syp.v1\nkind: Instance\nname: from-file\nallow: ['{ALICE}']\nsecrets: [{{env: DB, secret: pw}}]\nspec: {{image: syp-test/hello, port: 8080}}\n"
        ),
    )?;
    run(&["apply", "-f", &yaml, "--yes"], 0)?;
    let has = |name: &str, n: usize| -> Result<bool> {
        Ok(in_app(&e, name, &["env"])?.contains(&format!("DB={}\n", values[n])))
    };
    ensure!(has("shop", 0)? && has("pinned", 0)? && has("from-file", 0)?);
    ensure!(in_app(&e, "shop", &["cat", "/run/pw"])? == format!("{}\n", values[0]), "a file has all of it");

    let before = [container(&e, "pinned", "app-")?, container(&e, "without", "app-")?];
    let (url, token) = (e.endpoint("shop")?, e.token("shop", Some(ALICE))?);
    let load = syp_tests::load::Load::start(&url, "/", &token, 4)?;
    let said = run(&["secret", "add", &at(1)?, "--yes"], 0)?;
    ensure!(said.contains("shop gets it: sypctl op watch") && said.contains("from-file gets it"), "{said}");
    ensure!(!said.contains("instances/pinned") && !said.contains("instances/without"), "{said}");
    let seen = load.end()?;
    println!("{} requests in a rotation, {} lost", seen.sent, seen.lost.len());
    seen.nothing_lost()?;
    ensure!(has("shop", 1)? && has("from-file", 1)? && has("pinned", 0)?);
    ensure!(in_app(&e, "shop", &["cat", "/run/pw"])? == format!("{}\n", values[1]));
    ensure!(before == [container(&e, "pinned", "app-")?, container(&e, "without", "app-")?], "not touched");
    let plan = run(&["apply", "-f", &yaml, "--plan"], 0)?;
    ensure!(!plan.contains("secrets:"), "the same file is the same: {plan}");
    let end = Instant::now() + Duration::from_secs(30);
    while e.json(&["secret", "show", "pw"])?["rollingOut"] == true {
        ensure!(Instant::now() < end, "it does not end");
        pause(50);
    }
    // the engine dies with the third on its disk and no operation made
    e.kill9()?;
    let mut first = e.serve(&[("SYP_CRASH_AT", "CP7:secret pw:1")])?;
    let s = e.run(&["secret", "add", &at(2)?, "--yes"])?;
    talk.push_str(&format!("{}{}", s.out, s.err));
    ensure!(first.wait()?.code().is_none(), "it was killed");
    let end = Instant::now() + Duration::from_secs(60);
    let busy = |name: &str| -> Result<bool> { Ok(e.json(&["show", name])?["reconciling"] == true) };
    while busy("shop")? || busy("from-file")? || !(has("shop", 2)? && has("from-file", 2)?) {
        ensure!(Instant::now() < end, "it does not come: {}", e.ok(&["secret", "show", "pw"])?);
        pause(200);
    }
    ensure!(has("pinned", 0)?);
    let show = e.ok(&["secret", "show", "pw"])?;
    ensure!(show.contains("version 3") && show.contains("1, pinned") && show.contains("shop-3"), "{show}");
    // what an app prints of it is not written down
    let leak =
        ["set", "shop", "--entrypoint", "/bin/busybox", "--yes", "--", "sh", "-c", "echo got $DB; exit 3"];
    let s = e.run(&leak)?;
    ensure!(s.code == 1 && s.err.contains("got [secret]"), "{}", s.err);
    let s = e.run(&["secret", "rm", "pw", "--yes"])?;
    ensure!(s.code == 6 && s.err.contains("shop") && s.err.contains("unset-secret"), "{} {}", s.code, s.err);
    for args in [
        &["secret", "show", "pw", "-o", "json"][..],
        &["secret", "ls", "-o", "json"],
        &["show", "shop", "-o", "json"],
        &["events", "shop"],
        &["op", "ls", "shop", "-o", "json"],
        &["revisions", "shop", "-o", "json"],
        &["audit", "-o", "json"],
    ] {
        talk.push_str(&e.ok(args)?);
    }
    talk.push_str(&show);
    let values = values.each_ref().map(String::as_str);
    ensure!(values.iter().all(|v| !talk.contains(v)), "a command said it: {talk}");
    let found = holding(e.dir(), &values)?;
    ensure!(found.is_empty(), "the engine wrote it down: {found:?}");
    ensure!(!holding(outside.path(), &values)?.is_empty());
    e.ok(&["down", "--all", "--yes"])?;
    e.ok(&["secret", "rm", "pw", "--yes"])?;
    ensure!(memory_of(&e.store_id()?)?.is_empty() && e.left()?.is_empty());
    Ok(())
}
