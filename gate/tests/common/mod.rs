//! Starts gates, configures them, asks them.

pub mod app;
pub mod issuer;
pub mod netns;
pub mod wire;

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde_json::Value;
use syp_auth::door::{GateConfig, GateMetrics, GateStatus, Mode, Probe, Protocol, Upstream};
use syp_auth::policy::{Policy, Rule};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

pub use app::App;
pub use issuer::{AUDIENCE, Issuer};
pub use wire::{LIMIT, Reply, Wire, get, upgrade};

pub const ADMIN_TOKEN: &str = "the-admin-token-of-the-tests";
pub const ALICE: &str = "alice@example.com";
pub const MALLORY: &str = "mallory@example.com";

/// A gate as a child process; killed when dropped.
pub struct Gate {
    pub traffic: SocketAddr,
    pub admin: SocketAddr,
    pub child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    _directory: tempfile::TempDir,
}

/// Waits until this is so.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !so().await? {
        ensure!(Instant::now() < end, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Puts these bytes as configuration of the gate with this admin port.
pub async fn put(admin: SocketAddr, body: &[u8]) -> Result<Reply> {
    let mut bytes = format!(
        "PUT /config HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    Wire::to(admin).await?.ask(bytes).await
}

/// Reads a document of this admin port.
pub async fn read(admin: SocketAddr, path: &str) -> Result<Reply> {
    let reply = Wire::to(admin).await?.ask(get(path, ADMIN_TOKEN)).await?;
    ensure!(reply.status == 200, "{path}: {reply:?}");
    Ok(reply)
}

impl Gate {
    /// Starts one that nobody has configured yet.
    pub async fn bare(more: &[&str]) -> Result<Self> {
        Self::told(more, &[]).await
    }

    /// The same with these variables.
    pub async fn told(more: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let token = directory.path().join("admin.token");
        std::fs::write(&token, format!("{ADMIN_TOKEN}\n"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_syp-gate"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2"])
            .arg("--admin-token-file")
            .arg(&token);
        if !more.contains(&"--config") {
            command.arg("--config").arg(directory.path().join("none"));
        }
        let mut child = command
            .args(more)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut out = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let lines = Arc::<Mutex<Vec<String>>>::default();
        // what it says before is of what it begins with
        let said = loop {
            let line = tokio::time::timeout(LIMIT, out.next_line()).await??.context("no first line")?;
            let said: Value = serde_json::from_str(&line)?;
            ensure!(said["event"] != "error", "{line}");
            if said["event"] == "listening" {
                break said;
            }
            lines.lock().push(line);
        };
        let address =
            |name: &str| -> Result<SocketAddr> { Ok(said[name].as_str().unwrap_or_default().parse()?) };
        let (traffic, admin) = (address("traffic")?, address("admin")?);
        let kept = lines.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = out.next_line().await {
                kept.lock().push(line);
            }
        });
        Ok(Self { traffic, admin, child, lines, _directory: directory })
    }

    /// Starts one for alice in front of these apps, and waits until they are ready.
    pub async fn before(apps: &[&App]) -> Result<(Self, Issuer, GateConfig)> {
        let (gate, issuer) = (Self::bare(&[]).await?, Issuer::new("https://issuer.example", "key-1")?);
        let config = config(&issuer, apps)?;
        gate.serve(&config).await?;
        Ok((gate, issuer, config))
    }

    /// Pushes a configuration and waits until its replicas are ready.
    pub async fn serve(&self, config: &GateConfig) -> Result<()> {
        self.push(config).await?;
        until("replicas are ready", async || Ok(self.status().await?.upstreams.iter().all(|u| u.ready))).await
    }

    /// Pushes a configuration; it must be accepted.
    pub async fn push(&self, config: &GateConfig) -> Result<()> {
        let reply = self.put(&serde_json::to_vec(config)?).await?;
        ensure!(reply.status == 200, "the configuration was refused: {}", reply.text());
        Ok(())
    }

    /// Puts these bytes as configuration.
    pub async fn put(&self, body: &[u8]) -> Result<Reply> {
        put(self.admin, body).await
    }

    /// Reads a document of the admin port.
    pub async fn read(&self, path: &str) -> Result<Reply> {
        read(self.admin, path).await
    }

    pub async fn status(&self) -> Result<GateStatus> {
        Ok(serde_json::from_slice(&self.read("/status").await?.body)?)
    }

    pub async fn metrics(&self) -> Result<GateMetrics> {
        Ok(serde_json::from_slice(&self.read("/metrics.json").await?.body)?)
    }

    pub async fn wire(&self) -> Result<Wire> {
        Wire::to(self.traffic).await
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, path: &str, token: &str) -> Result<Reply> {
        self.wire().await?.ask(get(path, token)).await
    }

    /// These bytes on a connection of their own.
    pub async fn ask(&self, bytes: impl AsRef<[u8]>) -> Result<Reply> {
        self.wire().await?.ask(bytes).await
    }

    /// A connection that speaks HTTP/2 without TLS.
    pub async fn http2(&self) -> Result<http2::SendRequest<Full<Bytes>>> {
        let stream = tokio::net::TcpStream::connect(self.traffic).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// An open WebSocket of the bearer.
    pub async fn socket(&self, token: &str) -> Result<Wire> {
        let mut wire = self.wire().await?;
        wire.send(upgrade(token)).await?;
        let reply = wire.head().await?;
        ensure!(reply.status == 101, "{reply:?}");
        wire.send("hello").await?;
        ensure!(wire.take(5).await? == b"hello");
        Ok(wire)
    }

    /// The access log's line with this id.
    pub async fn logged(&self, id: &str) -> Result<Value> {
        let mut found = None;
        until("the log line", async || {
            found = self.lines.lock().iter().find(|l| l.contains(id)).cloned();
            Ok(found.is_some())
        })
        .await?;
        Ok(serde_json::from_str(&found.unwrap_or_default())?)
    }

    /// The reason that the log has for this refusal.
    pub async fn reason(&self, reply: &Reply) -> Result<String> {
        let id = reply.header("x-request-id").with_context(|| format!("no id: {reply:?}"))?;
        Ok(self.logged(id).await?["reason"].as_str().unwrap_or_default().to_owned())
    }

    /// All that it printed so far.
    pub fn printed(&self) -> String {
        self.lines.lock().join("\n")
    }

    /// Tells the process to end.
    pub async fn terminate(&self) -> Result<()> {
        let id = self.child.id().context("it has ended")?.to_string();
        let done = Command::new("kill").args(["-TERM", &id]).status().await?;
        ensure!(done.success(), "kill: {done}");
        Ok(())
    }

    /// Memory that is resident now and was at most, in KiB.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let text =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id().context("it has ended")?))?;
        let field = |name: &str| {
            let line = text.lines().find(|l| l.starts_with(name)).context("no such field")?;
            Ok::<u64, anyhow::Error>(line.split_whitespace().nth(1).context("no value")?.parse()?)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }
}

/// A configuration that lets alice in, generation 1.
pub fn config(issuer: &Issuer, apps: &[&App]) -> Result<GateConfig> {
    let upstream = |(n, app): (usize, &&App)| Upstream {
        id: n.to_string(),
        address: app.address,
        holder: None,
        closed: false,
        // a gate that finds it out itself gives up after half a second
        protocol: app.h2c.then_some(Protocol::H2c),
        probe: None,
    };
    Ok(GateConfig {
        generation: 1,
        instance_uid: "uid-1".to_owned(),
        instance_name: "shop".to_owned(),
        mode: Mode::Serve,
        drain_deadline_ms: 30_000,
        audiences: vec![AUDIENCE.to_owned()],
        issuers: vec![issuer.config()?],
        policy: allow(&[ALICE]),
        tokens: vec![],
        cors_origins: vec![],
        upstreams: apps.iter().enumerate().map(upstream).collect(),
        protocol: Protocol::Auto,
        probe: Probe { path: None, period_ms: 200, timeout_ms: 1_000 },
        forward_token: false,
        hold_ms: 0,
        revision: "r1".to_owned(),
    })
}

/// Lets these users in.
pub fn allow(users: &[&str]) -> Policy {
    let members = users.iter().map(|u| format!("user:{u}")).collect();
    Policy { rules: vec![Rule::allow("users", members)] }
}

/// The next generation of a configuration, changed.
pub fn next(config: &GateConfig, change: impl FnOnce(&mut GateConfig)) -> GateConfig {
    let mut config = config.clone();
    config.generation += 1;
    change(&mut config);
    config
}

/// What an echo heard under this name.
pub fn heard(said: &Value, name: &str) -> Vec<String> {
    let headers = said["headers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |h: &&Value| h[0].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name));
    headers.iter().filter(of).filter_map(|h| h[1].as_str().map(str::to_owned)).collect()
}

/// Fails when the future takes too long.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> Result<T> {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(value) => Ok(value),
        Err(_) => bail!("took too long: {what}"),
    }
}

/// A response of hyper's client, gathered.
pub async fn gather(
    response: http::Response<hyper::body::Incoming>,
) -> Result<(http::response::Parts, Bytes)> {
    let (parts, body) = response.into_parts();
    Ok((parts, soon("the body", body.collect()).await??.to_bytes()))
}
