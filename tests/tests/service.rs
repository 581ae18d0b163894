//! The engine as a service, on a machine of its own: a real systemd with a Docker engine, where nothing was installed before and
//! nothing is left after.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use syp_tests::product::{Said, binary, pause, said, sh};

const DATA: &str = "/var/lib/sypctl";

/// A machine that is switched off and thrown away at the end.
struct Machine {
    name: String,
    /// Control group hierarchies of this host before it was there.
    before: BTreeSet<String>,
}

/// Controllers that are mounted together, as the kernel names them.
fn hierarchies() -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    text.lines().filter_map(|l| l.split(':').nth(1)).filter(|c| !c.is_empty()).map(str::to_owned).collect()
}

impl Machine {
    /// Boots it, with the binaries in a folder that belongs to nobody.
    fn boot(sypctl: &Path) -> Result<Self> {
        let (name, before) = (format!("syp-test-machine-{}", uuid::Uuid::new_v4().simple()), hierarchies());
        // what systemd and a Docker engine need, and no more than an unprivileged root of this machine may give away
        let mut args = vec!["run", "-d", "--name", &name, "--security-opt", "seccomp=unconfined"];
        args.extend(["--security-opt", "apparmor=unconfined", "--tmpfs", "/run", "--tmpfs", "/run/lock"]);
        args.extend([
            "--tmpfs",
            "/tmp:exec",
            "-v",
            "/var/lib/docker",
            // read-only: systemd would mount every controller that this machine leaves out, and with a hierarchy that is mounted
            // nowhere else this machine's Docker can't read any figures any more
            "-v",
            "/sys/fs/cgroup:/sys/fs/cgroup:ro",
        ]);
        for cap in ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_CHROOT"] {
            args.extend(["--cap-add", cap]);
        }
        args.push("syp-test/systemd");
        sh("docker", &args)?;
        let m = Self { name, before };
        let end = Instant::now() + Duration::from_secs(300);
        while m.run(&["docker", "version"])?.code != 0 {
            ensure!(
                Instant::now() < end,
                "the machine does not boot: {:?}",
                m.run(&["systemctl", "--failed"])?
            );
            pause(200);
        }
        // what the boot and its timers still write is none of what is looked for
        m.run(&["systemctl", "is-system-running", "--wait"])?;
        m.run(&["systemctl", "stop", "*.timer"])?;
        m.ok(&["mkdir", "/opt/syp"])?;
        let gate = std::env::var("SYP_TEST_GATE").context("SYP_TEST_GATE")?;
        for (from, to) in [(sypctl.to_string_lossy().into_owned(), "sypctl"), (gate, "syp-gate")] {
            sh("docker", &["cp", &from, &format!("{}:/opt/syp/{to}", m.name)])?;
        }
        let mut save =
            Command::new("docker").args(["save", "syp-test/hello"]).stdout(Stdio::piped()).spawn()?;
        let image = save.stdout.take().context("docker save")?;
        let load =
            Command::new("docker").args(["exec", "-i", &m.name, "docker", "load"]).stdin(image).output()?;
        ensure!(save.wait()?.success() && load.status.success(), "docker load: {}", said(&load).err);
        Ok(m)
    }

    fn run(&self, args: &[&str]) -> Result<Said> {
        let all: Vec<_> = ["exec", &self.name].into_iter().chain(args.iter().copied()).collect();
        Ok(said(&Command::new("docker").args(all).stdin(Stdio::null()).output()?))
    }

    fn ok(&self, args: &[&str]) -> Result<String> {
        let s = self.run(args)?;
        ensure!(s.code == 0, "{} ended with {}: {}{}", args.join(" "), s.code, s.out, s.err);
        Ok(s.out)
    }

    /// `sypctl` as root, with the service's engine.
    fn syp(&self, args: &[&str]) -> Result<String> {
        self.ok(&[&["sypctl", "--data-dir", DATA], args].concat())
    }

    fn refused(&self, args: &[&str], code: i32, reason: &str) -> Result<()> {
        let s = self.run(&[&["/opt/syp/sypctl"], args].concat())?;
        ensure!(s.code == code && s.err.contains(reason), "{args:?}: {s:?}");
        Ok(())
    }

    /// All files but those of the kernel, of Docker's own store and of the journal, and all users and units.
    fn all(&self) -> Result<BTreeSet<String>> {
        let script = "find / \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/lib/docker -o -path /var/log/journal \\
            -o -path /var/lib/containerd \\) -prune -o -print; cut -d: -f1 /etc/passwd /etc/group /etc/shadow /etc/gshadow; \
            systemctl list-unit-files --no-legend --no-pager | cut -d' ' -f1; docker images -q; docker ps -aq; docker network ls -q; ls /dev/shm";
        Ok(self.ok(&["sh", "-c", script])?.lines().map(str::to_owned).collect())
    }

    fn state(&self) -> Result<String> {
        Ok(self.run(&["systemctl", "is-active", "sypctl"])?.out.trim().to_owned())
    }

    fn status(&self, url: &str, token: &str) -> Result<String> {
        let header = format!("Authorization: Bearer {token}");
        self.ok(&["curl", "-s", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}", "-H", &header, url])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = sh("docker", &["rm", "-fv", &self.name]);
        // a hierarchy that came with it and is mounted nowhere makes this host's Docker blind: no figures of any container.
        // It goes with its last mount.
        let Ok(dir) = tempfile::tempdir() else { return };
        let at = dir.path().display().to_string();
        for _ in 0..50 {
            let now = hierarchies();
            let more: Vec<_> = now.difference(&self.before).collect();
            for new in &more {
                let _ = sh("mount", &["-t", "cgroup", "-o", new, "none", &at]);
                let _ =
                    sh("find", &[&at, "-mindepth", "1", "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
                let _ = sh("umount", &[&at]);
            }
            if more.is_empty() {
                return;
            }
            // what was in it ends a moment after its container
            pause(200);
        }
    }
}

#[test]
fn the_service_is_installed_hardened_upgraded_while_serving_and_leaves_nothing() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let m = Machine::boot(&sypctl)?;
    let before = m.all()?;
    // refused before anything is touched
    m.refused(&["server", "uninstall", "--yes"], 5, "NOT_INSTALLED")?;
    m.refused(&["server", "install", "--listen", "0.0.0.0:7443"], 2, "TLS")?;
    m.refused(&["server", "install", "--tls-cert", "/no", "--tls-key", "/no"], 2, "/no")?;
    m.ok(&["sh", "-c", "echo [Unit] >/etc/systemd/system/sypctl.service"])?;
    m.refused(&["server", "install"], 7, "SERVICE_CONFLICT")?;
    m.ok(&["rm", "/etc/systemd/system/sypctl.service"])?;
    ensure!(m.all()? == before, "refused, and nothing was touched");

    m.ok(&["/opt/syp/sypctl", "server", "install"])?;
    ensure!(m.state()? == "active");
    let user = m.ok(&["sh", "-c", "ps -o user= -C sypctl"])?;
    ensure!(user.split_whitespace().all(|u| u == "sypctl") && !user.trim().is_empty(), "not root: {user}");
    let judged = m.ok(&["sh", "-c", "systemd-analyze security sypctl --no-pager | tail -n 1"])?;
    println!("{}", judged.trim());
    ensure!(judged.contains("OK"), "hardened: {judged}");
    m.ok(&[
        "sh",
        "-c",
        "systemd-analyze verify /etc/systemd/system/sypctl.service 2>&1 | (! grep -i sypctl)",
    ])?;
    let modes = m.ok(&["stat", "-c", "%U %a", DATA, "/var/lib/sypctl/engine.key"])?;
    ensure!(modes == "sypctl 700\nsypctl 600\n", "{modes}");

    // it does its work under all of that
    m.ok(&["sh", "-c", "printf s3cret >/tmp/value"])?;
    let up = ["up", "shop", "--image", "syp-test/hello", "--on", "docker", "--port", "8080", "--yes"];
    let more = ["--allow", "user:alice@example.com", "--secret-file", "/run/pass=@/tmp/value"];
    m.syp(&[&up[..], &more].concat())?;
    let i: Value = serde_json::from_str(&m.syp(&["show", "shop", "-o", "json"])?)?;
    let url = i["endpoint"].as_str().context("endpoint")?.to_owned();
    let token = m.syp(&["token", "shop", "--as", "user:alice@example.com"])?.trim().to_owned();
    ensure!(m.status(&url, &token)? == "200" && m.status(&url, "none")? == "401");

    // killed, it comes back by itself
    m.ok(&["systemctl", "kill", "-s", "KILL", "sypctl"])?;
    let end = Instant::now() + Duration::from_secs(120);
    while m.run(&["sypctl", "--data-dir", DATA, "server", "status"])?.code != 0 {
        ensure!(Instant::now() < end, "it does not come back");
        pause(200);
    }
    // again, with other flags: the instance serves all the time, what is sealed stays where it is
    m.ok(&["/opt/syp/sypctl", "server", "install", "--listen", "127.0.0.1:7443"])?;
    ensure!(m.status(&url, &token)? == "200");
    ensure!(
        m.ok(&[
            "curl",
            "-s",
            "-m",
            "30",
            "-o",
            "/dev/null",
            "-w",
            "%{http_version}",
            "--http2-prior-knowledge",
            "http://127.0.0.1:7443"
        ])? == "2"
    );
    ensure!(
        m.ok(&["sh", "-c", "cat /dev/shm/syp-*/*/* 2>/dev/null || cat $(find /dev/shm -type f)"])?
            .contains("s3cret")
    );
    // its log is the journal's, which rotates it
    ensure!(m.ok(&["journalctl", "-u", "sypctl", "-o", "cat", "--no-pager"])?.contains("engine started"));

    m.refused(&["server", "uninstall", "--yes"], 6, "INSTANCES_LEFT")?;
    ensure!(m.state()? == "active" && m.status(&url, &token)? == "200", "refused, and nothing was touched");
    m.syp(&["down", "shop", "--yes"])?;
    m.syp(&["receipt", "shop", "--verify"])?;
    m.ok(&["/opt/syp/sypctl", "server", "uninstall", "--yes"])?;
    let after = m.all()?;
    // what useradd and userdel keep for themselves
    let theirs = |f: &&String| {
        ["/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock"]
            .contains(&f.as_str())
    };
    let left: Vec<_> = after.difference(&before).filter(|f| !theirs(f)).collect();
    let lost: Vec<_> = before.difference(&after).collect();
    println!("{} entries before, {} after", before.len(), after.len());
    ensure!(left.is_empty() && lost.is_empty(), "left: {left:?}, lost: {lost:?}");
    m.refused(&["server", "uninstall", "--yes"], 5, "NOT_INSTALLED")
}
