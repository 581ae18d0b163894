//! A Docker engine that goes away and comes back, and a host that is started again: on a dockerd of the test's own, in a network
//! namespace of its own, so that the two Docker engines of this machine do not meet in one packet filter.
use anyhow::{Context, Result, bail, ensure};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use syp_tests::product::{Engine, binary, pause, sh};

const ALICE: &str = "user:alice@example.com";

/// A dockerd with folders, a socket and a network namespace of its own.
struct Daemon {
    dir: tempfile::TempDir,
    netns: String,
    child: Option<Child>,
}

impl Daemon {
    /// With a disk of its own of so many MB, if it is to be a small one.
    fn start(disk: Option<u32>) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let netns = format!("syp-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        sh("ip", &["netns", "add", &netns])?;
        let dir = tempfile::Builder::new().prefix("syp-dockerd-").tempdir()?;
        let mut d = Self { dir, netns, child: None };
        if let Some(mb) = disk {
            std::fs::create_dir(d.data())?;
            let size = format!("size={mb}m");
            sh("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &d.data().display().to_string()])?;
        }
        sh("ip", &["-n", &d.netns, "link", "set", "lo", "up"])?;
        d.up()?;
        Ok(d)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A command that runs in the namespace.
    fn inside(&self, program: &str) -> Command {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.netns)).arg(program);
        c
    }

    /// `sypctl` in the namespace, as a program.
    fn sypctl(&self, sypctl: &Path) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.path().join("sypctl");
        let enter = format!("exec nsenter --net=/run/netns/{} {} \"$@\"", self.netns, sypctl.display());
        std::fs::write(&path, format!("#!/bin/sh\n{enter}\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    fn code(&self, url: &str, token: Option<&str>) -> Result<String> {
        let mut c = self.inside("curl");
        c.args(["-s", "-o", "/dev/null", "-m", "10", "-w", "%{http_code}"]);
        c.args(token.iter().flat_map(|t| ["-H".to_owned(), format!("Authorization: Bearer {t}")]));
        Ok(String::from_utf8_lossy(&c.arg(url).output()?.stdout).into_owned())
    }

    fn host(&self) -> String {
        format!("unix://{}/sock", self.dir.path().display())
    }

    fn docker(&self, args: &[&str]) -> Result<String> {
        let o = Command::new("docker").arg("-H").arg(self.host()).args(args).stdin(Stdio::null()).output()?;
        ensure!(o.status.success(), "docker {}: {}", args.join(" "), String::from_utf8_lossy(&o.stderr));
        Ok(String::from_utf8_lossy(&o.stdout).into_owned())
    }

    fn up(&mut self) -> Result<()> {
        let path = |name: &str| self.dir.path().join(name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path("log"))?;
        let child = self
            .inside("dockerd")
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("run"))
            .arg("--pidfile")
            .arg(path("pid"))
            .args(["--host", &self.host(), "--bridge", "none"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("dockerd")?;
        self.child = Some(child);
        let end = Instant::now() + Duration::from_secs(180);
        while self.docker(&["version"]).is_err() {
            let log = || std::fs::read_to_string(path("log")).unwrap_or_default();
            ensure!(Instant::now() < end, "dockerd does not answer: {}", log());
            pause(100);
        }
        Ok(())
    }

    /// As `systemctl stop docker` does: containers end with it.
    fn down(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        sh("kill", &[&child.id().to_string()])?;
        let end = Instant::now() + Duration::from_secs(180);
        while child.try_wait()?.is_none() {
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                bail!("dockerd did not stop");
            }
            pause(50);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(all) = self.docker(&["ps", "-aq"]) {
            for id in all.split_whitespace() {
                let _ = self.docker(&["rm", "-f", id]);
            }
        }
        let _ = self.down();
        // there is nothing to unmount where the disk was the machine's own
        let _ = sh("umount", &[&self.data().display().to_string()]);
        let _ = sh("ip", &["netns", "del", &self.netns]);
    }
}

/// `None`: this machine has none to start, and the test is left out (not under CI).
fn bed(disk: Option<u32>) -> Result<Option<(Daemon, Engine)>> {
    let Some(sypctl) = binary() else { return Ok(None) };
    let is_root = sh("id", &["-u"])?.trim() == "0";
    let found = std::env::var_os("PATH").is_some_and(|p| {
        std::env::split_paths(&p).chain([PathBuf::from("/usr/sbin")]).any(|d| d.join("dockerd").exists())
    });
    if !is_root || !found {
        ensure!(std::env::var("CI").as_deref() != Ok("true"), "no dockerd to start, or not root");
        println!("SKIPPED: a Docker engine of the test's own needs root and dockerd");
        return Ok(None);
    }
    let d = Daemon::start(disk)?;
    let tar = d.dir.path().join("hello.tar");
    let tar = tar.to_str().context("path")?;
    sh("docker", &["save", "-o", tar, "syp-test/hello"])?;
    d.docker(&["load", "-i", tar])?;
    let e = Engine::new(&d.sypctl(&sypctl)?)?.with("DOCKER_HOST", &d.host());
    Ok(Some((d, e)))
}

fn served_again(d: &Daemon, url: &str, token: &str, e: &Engine) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(180);
    while d.code(url, Some(token))? != "200" {
        ensure!(Instant::now() < end, "it does not come back: {}", e.ok(&["events", "phoenix"])?);
        pause(100);
    }
    let open = d.code(url, None)?;
    ensure!(open == "401", "without a token: {open}");
    Ok(())
}

#[test]
fn a_restarted_docker_and_a_rebooted_host_bring_it_back_and_an_absent_docker_is_never_proof() -> Result<()> {
    let Some((mut d, e)) = bed(None)? else { return Ok(()) };
    e.up("phoenix", "syp-test/hello", &["--port", "8080", "--allow", ALICE])?;
    let (url, token) = (e.endpoint("phoenix")?, e.token("phoenix", Some(ALICE))?);
    served_again(&d, &url, &token, &e)?;

    // the daemon is restarted under a living engine
    d.down()?;
    let refused = e.up_fails("other", "syp-test/hello", &["--port", "8080"])?;
    ensure!(refused.code == 11 && refused.err.contains("PROVIDER_UNREACHABLE"), "daemon gone: {refused:?}");
    d.up()?;
    served_again(&d, &url, &token, &e)?;

    // the host is started again: the engine is gone too, and so are the networks' bridges
    e.kill9()?;
    d.down()?;
    d.up()?;
    e.ok(&["ls"])?;
    served_again(&d, &url, &token, &e)?;

    // a teardown without a daemon rests with its reason until a listing was really made
    d.down()?;
    e.ok(&["down", "phoenix", "--yes", "--no-wait"])?;
    let end = Instant::now() + Duration::from_secs(180);
    loop {
        let shown = e.json(&["show", "phoenix"])?;
        ensure!(shown["state"] == "DRAINING", "without a daemon it is {}", shown["state"]);
        if shown["waitingOn"].to_string().contains("PROVIDER_UNREACHABLE") {
            break;
        }
        ensure!(Instant::now() < end, "it does not say what it waits for: {shown}");
        pause(100);
    }
    d.up()?;
    // its next attempt may be a minute away by now
    e.ok(&["wait", "phoenix", "--for", "state=destroyed", "--timeout", "180s"])?;
    e.ok(&["receipt", "phoenix", "--verify"])?;
    let filter = format!("label=syp.dev/store={}", e.store_id()?);
    for what in [["ps", "-aq"], ["network", "ls"], ["volume", "ls"]] {
        let left = d.docker(&[what[0], what[1], "-q", "--filter", &filter])?;
        ensure!(left.trim().is_empty(), "left behind: {left}");
    }
    Ok(())
}

#[test]
fn a_full_disk_is_named_nothing_is_left_and_it_works_once_there_is_room() -> Result<()> {
    let Some((d, e)) = bed(Some(96))? else { return Ok(()) };
    // the gate's image is there already: what does not fit any more are the containers
    e.up("first", "syp-test/hello", &["--port", "8080", "--allow", ALICE])?;
    e.down("first")?;
    let filler = d.data().join("filler");
    let mut f = std::fs::File::create(&filler)?;
    while f.write_all(&[0; 65_536]).is_ok() {}
    while f.write_all(&[0; 512]).is_ok() {}
    drop(f);
    let said = e.up_fails("shop", "syp-test/hello", &["--port", "8080", "--allow", ALICE])?;
    ensure!(said.err.contains("DISK_FULL"), "a full disk: {}", said.err);
    std::fs::remove_file(&filler)?;
    e.wait_state("shop", "DESTROYED", Duration::from_secs(180))?;
    e.ok(&["receipt", "shop", "--verify"])?;
    e.up("shop", "syp-test/hello", &["--port", "8080", "--allow", ALICE])?;
    e.down("shop")
}
