//! AWS, as far as a machine without an account can have it: the bed of [`crate::aws_bed`], whose tasks, gates and load balancers are real.
use super::Bed;
use crate::{
    aws_bed,
    product::{Engine, sh},
    registry::Registry,
    trust,
};
use anyhow::{Context, Result, ensure};
use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

/// A region of the bed, with the images in a registry that its tasks pull from.
pub struct Aws {
    /// What stands for AWS.
    pub bed: aws_bed::Bed,
    registry: Registry,
    login: String,
    image: &'static str,
    broken: &'static str,
    gate: String,
}

// === impl Aws ===

impl Aws {
    /// `None`: something is missing on this machine, it was said what.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(sypctl: &Path) -> Result<Option<Self>> {
        Self::of(sypctl, aws_bed::Bed::start("eu-west-1")?)
    }

    /// As [`Self::start`]; an emulator's CloudFormation has the stacks.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn kept_by(sypctl: &Path, program: aws_bed::Program) -> Result<Option<Self>> {
        Self::of(sypctl, aws_bed::Bed::kept_by("eu-west-1", program)?)
    }

    fn of(sypctl: &Path, bed: Option<aws_bed::Bed>) -> Result<Option<Self>> {
        let Some(bed) = bed else { return Ok(None) };
        let Some(registry) = Registry::open()? else { return Ok(None) };
        let host = registry.host.clone();
        let push = |name: &str| -> Result<&'static str> {
            let there = format!("{host}/{name}:1");
            sh("docker", &["tag", &format!("syp-test/{name}"), &there])?;
            let pushed = sh("docker", &["push", "-q", &there]);
            sh("docker", &["rmi", "--no-prune", &there])?;
            pushed?;
            // as long as the process: names of images are those of the suite
            Ok(Box::leak(there.into_boxed_str()))
        };
        let (image, broken) = (push("hello")?, push("crash")?);
        let gate = std::env::var("SYP_TEST_GATE").context("SYP_TEST_GATE")?;
        let o = Command::new(sypctl)
            .args(["gate", "push", &format!("{host}/syp-gate")])
            .env("SYP_GATE", gate)
            .output()?;
        ensure!(o.status.success(), "gate push: {}", String::from_utf8_lossy(&o.stderr));
        let gate = String::from_utf8(o.stdout)?.trim().to_owned();
        trust::add(bed.ca_pem())?;
        // it gives everything to everybody, with a login too
        let login = registry.login("a-secret-of-nobody")?;
        Ok(Some(Self { bed, registry, login, image, broken, gate }))
    }

    /// Where its images are.
    pub fn registry(&self) -> &str {
        &self.registry.host
    }

    /// `DOCKER_CONFIG` with a login for it.
    pub fn login(&self) -> &str {
        &self.login
    }

    /// The name that callers of an instance use: two engines may have instances of one name.
    pub fn domain(e: &Engine, name: &str) -> String {
        let dir = e.dir().file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let tag: String = dir.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{name}-{tag}.example.com")
    }

    /// What an engine needs in its environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut all = self.bed.env();
        all.push(("SYP_GATE_IMAGE".into(), self.gate.clone()));
        all
    }

    fn containers(&self, which: &str) -> Result<Vec<String>> {
        let (bed, of) =
            (format!("label=syp.test/bed={}", self.bed.id()), format!("label=syp.test/container={which}"));
        let all = sh("docker", &["ps", "-q", "--filter", &bed, "--filter", &of])?;
        Ok(all.lines().map(str::to_owned).collect())
    }
}

impl Bed for Aws {
    fn on(&self) -> &'static str {
        "aws:eu-west-1"
    }

    fn image(&self) -> &'static str {
        self.image
    }

    fn broken(&self) -> &'static str {
        self.broken
    }

    fn engine(&self, sypctl: &Path) -> Result<Engine> {
        let e = Engine::new(sypctl)?;
        Ok(self.env().iter().fold(e, |e, (name, value)| e.with(name, value)))
    }

    fn of(&self, e: &Engine, name: &str) -> Vec<String> {
        vec!["--domain".into(), Self::domain(e, name)]
    }

    fn found(&self, e: &Engine, name: &str) -> Result<()> {
        let domain = Self::domain(e, name);
        let at = self.bed.front(&domain).with_context(|| format!("{domain} has no load balancer"))?;
        trust::at(&domain, at);
        Ok(())
    }

    fn secret_files(&self) -> bool {
        false
    }

    fn currency(&self) -> &'static str {
        "USD"
    }

    fn left(&self, store: &str) -> Result<Vec<String>> {
        self.bed.left(store)
    }

    fn ways_past_the_gate(&self, e: &Engine, name: &str) -> Result<Vec<String>> {
        let mut open = Vec::new();
        for task in self.bed.task_addresses(&Self::domain(e, name)) {
            let reached = |port: u16| {
                TcpStream::connect_timeout(&SocketAddr::from((task, port)), Duration::from_secs(2)).is_ok()
            };
            // the try itself must be able to succeed: the gate's port is open to the load balancer, and to this host
            ensure!(reached(8443), "not even the gate of {task} can be reached");
            open.extend(reached(8080).then(|| format!("{task}:8080 from this host")));
        }
        Ok(open)
    }

    fn way_out(&self, _: &Engine, _: &str) -> Result<bool> {
        let app = self.containers("app")?.into_iter().next().context("an app")?;
        // the host, as its containers see it, is somewhere else than they are
        let form = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";
        let holder = sh("docker", &["inspect", "-f", "{{.HostConfig.NetworkMode}}", &app])?;
        let holder = holder.trim().trim_start_matches("container:").to_owned();
        let gateway = sh("docker", &["inspect", "-f", form, &holder])?;
        let there = std::net::TcpListener::bind((gateway.trim(), 0))?;
        let script = format!(
            "/bin/busybox timeout 3 /bin/busybox nc -w 2 {} {} </dev/null",
            gateway.trim(),
            there.local_addr()?.port()
        );
        Ok(sh("docker", &["exec", &app, "/bin/busybox", "sh", "-c", &script]).is_ok()
            || there.set_nonblocking(true).is_ok() && there.accept().is_ok())
    }
}
