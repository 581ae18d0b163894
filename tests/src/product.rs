//! The product as its users have it: the `sypctl` binary, an engine of its own per test, the `docker` and `curl` commands.
use crate::trust;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Where the real suites are told what to use; `None`: there is no engine, the caller prints why and returns.
pub fn binary() -> Option<PathBuf> {
    if std::env::var("SYP_TEST_DOCKER").as_deref() != Ok("1") {
        println!("SKIPPED: no Docker engine (SYP_TEST_DOCKER is not 1)");
        return None;
    }
    let path = std::env::var_os("SYP_TEST_SYPCTL").map(PathBuf::from);
    if path.is_none() {
        println!("SKIPPED: SYP_TEST_SYPCTL does not say where sypctl is");
    }
    path
}

/// An engine with a data directory of its own. Dropping it takes everything down.
pub struct Engine {
    sypctl: PathBuf,
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Exit code; -1 for a signal.
    pub code: i32,
    /// Data.
    pub out: String,
    /// Talk.
    pub err: String,
}

// === impl Engine ===

impl Engine {
    /// Not started yet: the first command starts it.
    ///
    /// # Errors
    /// No temporary directory.
    pub fn new(sypctl: &Path) -> Result<Self> {
        Ok(Self { sypctl: sypctl.into(), dir: tempfile::tempdir()?, env: vec![] })
    }

    /// With an environment variable for the engine.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Without the variables of [`Engine::with`].
    pub fn clear_env(&mut self) {
        self.env.clear();
    }

    /// From now on with another binary, as after an upgrade.
    pub fn becomes(&mut self, sypctl: &Path) {
        self.sypctl = sypctl.into();
    }

    /// The binary.
    pub fn sypctl(&self) -> &Path {
        &self.sypctl
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(&self.sypctl);
        c.args(args).env("SYP_DATA_DIR", self.dir.path()).stdin(Stdio::null());
        c.envs(self.env.iter().map(|(k, v)| (k, v)));
        c
    }

    /// Runs a command.
    ///
    /// # Errors
    /// It can't be started.
    pub fn run(&self, args: &[&str]) -> Result<Said> {
        let o = self.command(args).output().context("sypctl")?;
        Ok(said(&o))
    }

    /// Runs a command that must succeed; its data.
    ///
    /// # Errors
    /// It failed.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let s = self.run(args)?;
        ensure!(s.code == 0, "sypctl {} ended with {}: {}", args.join(" "), s.code, s.err);
        Ok(s.out)
    }

    /// Runs a command that must succeed; its data as JSON.
    ///
    /// # Errors
    /// It failed, or is not JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let text = self.ok(&all)?;
        serde_json::from_str(&text).with_context(|| format!("sypctl {}: {text}", all.join(" ")))
    }

    /// Starts the engine in this process's charge, with an environment of its own.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(&self, env: &[(&str, &str)]) -> Result<std::process::Child> {
        let mut c = self.command(&["server", "run"]);
        c.envs(env.iter().copied());
        let log = std::fs::File::create(self.dir.path().with_extension("log"))?;
        Ok(c.stdout(Stdio::null()).stderr(log).spawn()?)
    }

    /// As [`Engine::start`], with flags.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start_with(&self, flags: &[&str]) -> Result<std::process::Child> {
        let mut c = self.command(&[&["server", "run"], flags].concat());
        Ok(c.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }

    /// [`Engine::start`], and waits until it answers.
    ///
    /// # Errors
    /// It does not answer in time.
    pub fn serve(&self, env: &[(&str, &str)]) -> Result<std::process::Child> {
        let mut child = self.start(env)?;
        let end = Instant::now() + Duration::from_secs(120);
        while self.run(&["server", "status"])?.code != 0 {
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                bail!("the engine does not answer");
            }
            pause(20);
        }
        Ok(child)
    }

    /// Runs a command in the background.
    ///
    /// # Errors
    /// It can't be started.
    pub fn spawn(&self, args: &[&str]) -> Result<std::process::Child> {
        let talk = std::fs::File::create(self.talk())?;
        Ok(self.command(args).stdout(Stdio::null()).stderr(talk).spawn()?)
    }

    /// What the last command in the background said.
    pub fn talk(&self) -> PathBuf {
        self.dir.path().join("talk-of-the-last-command")
    }

    /// `up` on Docker.
    ///
    /// # Errors
    /// It failed.
    pub fn up(&self, name: &str, image: &str, more: &[&str]) -> Result<()> {
        let mut args = vec!["up", name, "--image", image, "--on", "docker", "--yes"];
        args.extend(more);
        self.ok(&args).map(drop)
    }

    /// `up` that must fail; what it said as JSON (code, reason, message, hint).
    ///
    /// # Errors
    /// It succeeded.
    pub fn up_fails(&self, name: &str, image: &str, more: &[&str]) -> Result<Said> {
        let mut args = vec!["up", name, "--image", image, "--on", "docker", "--yes"];
        args.extend(more);
        let s = self.run(&args)?;
        ensure!(s.code != 0, "sypctl up {name} of {image} was expected to fail");
        Ok(s)
    }

    /// Where an instance is.
    ///
    /// # Errors
    /// It is nowhere.
    pub fn endpoint(&self, name: &str) -> Result<String> {
        let i = self.json(&["show", name])?;
        Ok(i["endpoint"].as_str().context("no endpoint")?.to_owned())
    }

    /// State of an instance.
    ///
    /// # Errors
    /// There is no such instance.
    pub fn state(&self, name: &str) -> Result<String> {
        Ok(self.json(&["show", name])?["state"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits for a state.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn wait_state(&self, name: &str, state: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let now = self.state(name).unwrap_or_default();
            if now == state {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{name} is {now}, not {state}");
            pause(100);
        }
    }

    /// Waits until no operation of an instance is open: a repair goes on after the endpoint answers again.
    ///
    /// # Errors
    /// One does not end in time.
    pub fn wait_idle(&self, name: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            let all = self.json(&["op", "ls", name])?;
            let all = all["operations"].as_array().context("operations")?;
            let Some(open) = all.iter().find(|op| op["done"] != true) else { return Ok(()) };
            ensure!(Instant::now() < end, "{name} is still at work: {open}");
            pause(100);
        }
    }

    /// A token for an instance as somebody.
    ///
    /// # Errors
    /// The engine gives none.
    pub fn token(&self, name: &str, who: Option<&str>) -> Result<String> {
        let mut args = vec!["token", name];
        args.extend(who.iter().flat_map(|w| ["--as", w]));
        Ok(self.ok(&args)?.trim().to_owned())
    }

    /// `down`, then a receipt that is clean.
    ///
    /// # Errors
    /// Something is left.
    pub fn down(&self, name: &str) -> Result<()> {
        self.ok(&["down", name, "--yes"])?;
        self.ok(&["receipt", name, "--verify"])?;
        Ok(())
    }

    /// Id of the engine's store, as labels carry it.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn store_id(&self) -> Result<String> {
        let s = self.json(&["server", "status"])?;
        Ok(s["storeId"].as_str().context("no store id")?.to_owned())
    }

    /// Process id of the engine.
    ///
    /// # Errors
    /// The engine does not answer.
    pub fn pid(&self) -> Result<String> {
        let s = self.json(&["server", "status"])?;
        let pid = s["pid"].as_str().map(str::to_owned).or_else(|| s["pid"].as_i64().map(|p| p.to_string()));
        pid.context("no pid")
    }

    /// `kill -9` of the engine.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill9(&self) -> Result<()> {
        self.kill9_of(&self.pid()?)
    }

    /// `kill -9` of the engine whose process id is known.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill9_of(&self, pid: &str) -> Result<()> {
        sh("kill", &["-9", pid])?;
        let gone = Instant::now() + Duration::from_secs(120);
        while Path::new(&format!("/proc/{pid}")).exists() && !is_zombie(pid) {
            ensure!(Instant::now() < gone, "the engine survived kill -9");
            pause(5);
        }
        Ok(())
    }

    /// Everything on the engine that carries this store's label, whatever our records say.
    ///
    /// # Errors
    /// Docker does not answer.
    pub fn left(&self) -> Result<Vec<String>> {
        left_of(&self.store_id()?)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.env.clear();
        let _ = self.run(&["down", "--all", "--yes", "--timeout", "120s"]);
        let _ = self.run(&["server", "stop"]);
    }
}

fn is_zombie(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z "))
}

/// What a finished command said.
pub fn said(o: &Output) -> Said {
    Said {
        code: o.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&o.stdout).into_owned(),
        err: String::from_utf8_lossy(&o.stderr).into_owned(),
    }
}

/// Containers, networks and volumes with a store's label.
///
/// # Errors
/// Docker does not answer.
pub fn left_of(store: &str) -> Result<Vec<String>> {
    let filter = format!("label=syp.dev/store={store}");
    let mut out = Vec::new();
    for what in ["ps -a", "network ls", "volume ls"] {
        let mut args: Vec<&str> = what.split(' ').collect();
        args.extend(["-q", "--filter", &filter]);
        out.extend(sh("docker", &args)?.split_whitespace().map(|l| format!("{what}: {l}")));
    }
    Ok(out)
}

/// Runs a command that must succeed.
///
/// # Errors
/// It failed.
pub fn sh(program: &str, args: &[&str]) -> Result<String> {
    let o =
        Command::new(program).args(args).stdin(Stdio::null()).output().with_context(|| program.to_owned())?;
    let s = said(&o);
    ensure!(s.code == 0, "{program} {} ended with {}: {}", args.join(" "), s.code, s.err);
    Ok(s.out)
}

/// Status and body of a request.
///
/// # Errors
/// No answer.
pub fn get(url: &str, token: Option<&str>, more: &[&str]) -> Result<(u16, String)> {
    let header = token.map(|t| format!("Authorization: Bearer {t}"));
    let mut args = vec!["-sS", "-m", "30", "-w", "\n%{http_code}"];
    args.extend(header.iter().flat_map(|h| ["-H", h.as_str()]));
    let ca = trust::file().filter(|_| url.starts_with("https://"));
    args.extend(ca.iter().flat_map(|f| ["--cacert", f.as_str()]));
    let host = url.strip_prefix("https://").and_then(|u| u.split(['/', ':']).next());
    let at = host.and_then(|h| Some(format!("{h}:443:{}", trust::address(h)?)));
    args.extend(at.iter().flat_map(|a| ["--resolve", a.as_str()]));
    args.extend(more);
    args.push(url);
    let o = Command::new("curl").args(&args).output().context("curl")?;
    let text = String::from_utf8_lossy(&o.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').context("curl said nothing")?;
    match code.parse() {
        Ok(0) | Err(_) => bail!("no answer from {url}: {}", String::from_utf8_lossy(&o.stderr).trim()),
        Ok(code) => Ok((code, body.to_owned())),
    }
}

/// Waits a moment; only where something outside this process is waited for, in bounded loops.
#[allow(clippy::disallowed_methods)]
pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Can a container reach an address? (busybox in the hello image)
///
/// # Errors
/// Docker does not answer.
pub fn reaches(network: &str, address: &str, port: &str) -> Result<bool> {
    let script =
        format!("/bin/busybox timeout 3 /bin/busybox nc -w 2 {address} {port} </dev/null && echo reached");
    let o = Command::new("docker")
        .args([
            "run",
            "--rm",
            "--network",
            network,
            "--entrypoint",
            "/bin/busybox",
            "syp-test/hello",
            "sh",
            "-c",
            &script,
        ])
        .output()?;
    // its exit code is not always that of the program: Podman's API (4.3) has none for 'docker run'
    Ok(String::from_utf8_lossy(&o.stdout).contains("reached"))
}
