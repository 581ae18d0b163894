//! `sypctl doctor` finds what goes wrong on a machine, says what it is and what to do: each fault is really made.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use syp_tests::halted::halt;
use syp_tests::product::{Engine, binary, pause, sh};

/// A machine on which all is well, and what is made wrong in it.
struct Patient {
    e: Engine,
    extra: tempfile::TempDir,
    found: Vec<String>,
}

impl Patient {
    /// Asks; the verdict of a check, what was found and what to do.
    fn ask(&self, env: &[(&str, &str)], wrap: Option<&str>) -> Result<Vec<[String; 4]>> {
        let sypctl = self.e.sypctl().to_string_lossy().into_owned();
        let mut c = match wrap {
            None => Command::new(&sypctl),
            Some(script) => {
                let mut c = Command::new("sh");
                c.args(["-c", &format!("{script}; exec \"$0\" \"$@\""), &sypctl]);
                c
            }
        };
        c.args(["doctor", "-o", "json"]).env("SYP_DATA_DIR", self.e.dir()).stdin(Stdio::null());
        for name in [
            "DOCKER_HOST",
            "SYPCTL_TOKEN",
            "SYPCTL_SERVER",
            "HTTPS_PROXY",
            "HTTP_PROXY",
            "https_proxy",
            "http_proxy",
        ] {
            c.env_remove(name);
        }
        let o = c.envs(env.iter().copied()).output()?;
        let v: Value = serde_json::from_slice(&o.stdout).with_context(|| {
            format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
        })?;
        let rows = v["checks"].as_array().context("checks")?;
        let failed = rows.iter().any(|r| r["verdict"] == "fail");
        ensure!(o.status.success() != failed, "the exit code says the same: {v}");
        let text = |r: &Value, k: &str| r[k].as_str().unwrap_or_default().to_owned();
        Ok(rows.iter().map(|r| ["check", "verdict", "found", "next"].map(|k| text(r, k))).collect())
    }

    /// Makes sure that exactly this check says so, in words.
    fn finds(
        &mut self,
        env: &[(&str, &str)],
        wrap: Option<&str>,
        what: &str,
        verdict: &str,
        word: &str,
    ) -> Result<()> {
        let rows = self.ask(env, wrap)?;
        let row = rows.iter().find(|r| r[0] == what && r[1] != "ok");
        let row = row.with_context(|| format!("{what} with '{word}' is not found: {rows:?}"))?;
        ensure!(row[1] == verdict && row[2].contains(word), "{row:?} is not '{verdict}' with '{word}'");
        ensure!(row[3].len() > 10, "what to do: {row:?}");
        self.found.push(format!("{what}: {word}"));
        Ok(())
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.e.dir().join(name)
    }

    /// A fault of files: made, found, and taken back.
    fn with_file(&mut self, name: &str, content: &[u8], mode: u32, check: [&str; 3]) -> Result<()> {
        let path = self.file(name);
        let before = fs::read(&path).ok();
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let [what, verdict, word] = check;
        self.finds(&[], None, what, verdict, word)?;
        match before {
            Some(b) => {
                fs::write(&path, b)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            }
            None => fs::remove_file(&path)?,
        }
        Ok(())
    }

    /// A Docker engine that answers like this.
    fn with_docker(&mut self, status: &str, api: &str, info: &str, check: [&str; 3]) -> Result<()> {
        let path = self.extra.path().join(format!("d{}", self.found.len()));
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let s = Arc::clone(&stop);
        let answer = |body: &str| {
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let (version, info) =
            (answer(&format!(r#"{{"ApiVersion":"{api}","message":"broken inside"}}"#)), answer(info));
        let thread = std::thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                let Ok((mut c, _)) = listener.accept() else {
                    pause(5);
                    continue;
                };
                let mut request = [0; 1024];
                let n = c.read(&mut request).unwrap_or(0);
                let asked = String::from_utf8_lossy(&request[..n]).into_owned();
                let answer = if asked.contains("/info") { &info } else { &version };
                let _ = c.write_all(answer.as_bytes());
            }
        });
        let host = format!("unix://{}", path.display());
        let [what, verdict, word] = check;
        let done = self.finds(&[("DOCKER_HOST", &host)], None, what, verdict, word);
        stop.store(true, Ordering::Relaxed);
        let _ = thread.join();
        done
    }
}

/// A JWT that ended in 2001; nobody looks at its signature.
const ENDED: &str = "eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjEwMDAwMDAwMDB9.AA";

const GOOD: &str = "eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjk5OTk5OTk5OTl9.AA";

fn program(at: &Path, script: &str) -> Result<String> {
    fs::write(at, script)?;
    fs::set_permissions(at, fs::Permissions::from_mode(0o755))?;
    Ok(at.to_string_lossy().into_owned())
}

#[test]
fn twenty_things_that_go_wrong_are_found_and_explained() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let mut p = Patient { e: Engine::new(&sypctl)?, extra: tempfile::tempdir()?, found: vec![] };
    p.e.ok(&["ls"])?;
    fs::set_permissions(p.e.dir(), fs::Permissions::from_mode(0o700))?;
    let well: Vec<_> = p.ask(&[], None)?.into_iter().filter(|r| r[1] == "fail").collect();
    ensure!(well.is_empty(), "a machine on which all is well: {well:?}");

    // the Docker engine
    p.finds(&[("DOCKER_HOST", "unix:///nowhere/sock")], None, "docker", "fail", "/nowhere/sock")?;
    p.finds(&[("DOCKER_HOST", "tcp://10.0.0.1:2375")], None, "docker", "fail", "another machine")?;
    let linux = r#"{"OSType":"linux"}"#;
    p.with_docker("500 Internal Server Error", "1.45", "{}", ["docker", "fail", "broken inside"])?;
    p.with_docker("200 OK", "1.30", linux, ["docker version", "fail", "too old"])?;
    p.with_docker("200 OK", "1.45", r#"{"OSType":"windows"}"#, ["docker containers", "fail", "windows"])?;
    let rootless = r#"{"OSType":"linux","SecurityOptions":["name=rootless"]}"#;
    p.with_docker("200 OK", "1.45", rootless, ["docker networks", "fail", "rootless"])?;
    let full = r#"{"OSType":"linux","DockerRootDir":"/proc"}"#;
    p.with_docker("200 OK", "1.45", full, ["docker disk", "fail", "free at /proc"])?;
    p.finds(&[("SYP_DOCKER_POOL", "ten")], None, "address pool", "fail", "no network")?;

    // programs
    p.finds(&[("SYP_GATE", "/nowhere/gate")], None, "gate", "fail", "is not there")?;
    let old = program(&p.extra.path().join("old"), "#!/bin/sh\necho syp-gate 0.0.1\n")?;
    p.finds(&[("SYP_GATE", &old)], None, "gate", "fail", "0.0.1")?;
    let broken = p.extra.path().join("broken");
    fs::write(&broken, "x")?;
    p.finds(&[("SYP_GATE", &broken.to_string_lossy())], None, "gate", "fail", "does not run")?;
    fs::create_dir(p.extra.path().join("bin"))?;
    program(&p.extra.path().join("bin/sypctl"), "#!/bin/sh\n")?;
    let path = format!("{}:{}", p.extra.path().join("bin").display(), std::env::var("PATH")?);
    p.finds(&[("PATH", &path)], None, "command", "warn", "alone runs")?;

    // the data directory
    fs::set_permissions(p.e.dir(), fs::Permissions::from_mode(0o755))?;
    p.finds(&[], None, "data", "warn", "mode 755")?;
    fs::set_permissions(p.e.dir(), fs::Permissions::from_mode(0o700))?;
    let file = p.extra.path().join("file");
    fs::write(&file, "")?;
    p.finds(&[("SYP_DATA_DIR", &file.to_string_lossy())], None, "data", "fail", "file")?;
    let memory = tempfile::tempdir_in("/dev/shm")?;
    p.finds(&[("SYP_DATA_DIR", &memory.path().to_string_lossy())], None, "data's disk", "warn", "a reboot")?;
    p.with_file("engine.key", b"short", 0o600, ["keys", "fail", "not 32"])?;
    let key = fs::read(p.file("engine.key"))?;
    p.with_file("engine.key", &key, 0o644, ["keys", "fail", "can be read by others"])?;
    fs::rename(p.file("engine.key"), p.extra.path().join("key"))?;
    p.finds(&[], None, "keys", "fail", "there is a store and no")?;
    fs::rename(p.extra.path().join("key"), p.file("engine.key"))?;
    p.with_file("restoring/complete", b"{}", 0o600, ["restore", "fail", "interrupted"])?;
    fs::remove_dir(p.file("restoring"))?;
    let said = br#"{"error":{"message":"the disk refused: no space","reason":"STORE_IO"}}"#;
    p.with_file("engine.log", said, 0o600, ["log", "warn", "the disk refused"])?;

    // the machine
    p.finds(&[], Some("ulimit -n 256"), "open files", "warn", "256")?;
    sh("touch", &["-d", "+2 hours", &p.file("engine.log").to_string_lossy()])?;
    p.finds(&[], None, "clock", "fail", "behind files")?;
    sh("touch", &[&p.file("engine.log").to_string_lossy()])?;

    // who we are
    p.finds(&[("SYPCTL_TOKEN", "nonsense")], None, "token", "fail", "neither")?;
    p.finds(&[("SYPCTL_TOKEN", ENDED)], None, "token", "fail", "ended")?;
    p.finds(&[("SYPCTL_SERVER", "http://10.9.8.7:1")], None, "server", "fail", "no https://")?;
    p.finds(
        &[("SYPCTL_SERVER", "https://127.0.0.1:1"), ("SYPCTL_TOKEN", GOOD)],
        None,
        "engine",
        "fail",
        "127.0.0.1:1",
    )?;
    let proxy = [("HTTPS_PROXY", "http://proxy.example:3128"), ("NO_PROXY", "")];
    p.finds(&proxy, None, "proxy", "warn", "this one included")?;

    // the engine, and what it says
    p.e.ok(&["server", "stop"])?;
    let mut child = p.e.start_with(&["--issuer", "http://127.0.0.1:9/issuer"])?;
    let end = std::time::Instant::now() + Duration::from_secs(120);
    while p.e.run(&["server", "status"])?.code != 0 {
        ensure!(std::time::Instant::now() < end, "the engine does not answer");
        pause(20);
    }
    p.finds(&[], None, "issuer", "fail", "127.0.0.1:9")?;
    let halted = halt(&child.id().to_string())?;
    p.finds(&[], None, "engine", "fail", "answer")?;
    drop(halted);
    child.kill()?;
    child.wait()?;

    println!("{} faults, each found:\n{}", p.found.len(), p.found.join("\n"));
    ensure!(p.found.len() >= 20);
    Ok(())
}
