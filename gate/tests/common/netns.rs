//! Two network namespaces with a wire between them: a pod, and what is outside of it.

use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// The pod's addresses.
pub const POD: [&str; 2] = ["10.99.0.2", "[fd99::2]"];
/// Those of what is outside.
pub const OUTSIDE: [&str; 2] = ["10.99.0.1", "[fd99::1]"];

/// Both; they go when it is dropped, after all processes in them.
pub struct Pod {
    pub inside: String,
    pub outside: String,
    pub token: tempfile::NamedTempFile,
}

async fn ip(args: &str) -> Result<String> {
    let output = Command::new("ip").args(args.split(' ')).output().await.context("the program ip")?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "ip {args}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Pod {
    /// None where namespaces can't be made: that takes root.
    pub async fn new() -> Result<Option<Self>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sypg{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let token = tempfile::NamedTempFile::new()?;
        std::fs::write(token.path(), super::ADMIN_TOKEN)?;
        let pod = Self { inside: format!("{name}i"), outside: format!("{name}o"), token };
        if let Err(error) = ip(&format!("netns add {}", pod.inside)).await {
            eprintln!("left out, as it takes root: {error:#}");
            return Ok(None);
        }
        let (inside, outside) = (&pod.inside, &pod.outside);
        ip(&format!("netns add {outside}")).await?;
        ip(&format!("-n {inside} link add eth0 type veth peer name eth0 netns {outside}")).await?;
        for (ns, n) in [(outside, 1), (inside, 2)] {
            for rest in [
                "link set lo up".to_owned(),
                "link set eth0 up".to_owned(),
                format!("address add 10.99.0.{n}/24 dev eth0"),
                format!("-6 address add fd99::{n}/64 dev eth0 nodad"),
            ] {
                ip(&format!("-n {ns} {rest}")).await?;
            }
        }
        Ok(Some(pod))
    }

    /// A command in one of them.
    pub fn command(ns: &str, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", ns, program]).args(args).kill_on_drop(true);
        command
    }

    /// The gate's program, run to its end.
    pub async fn gate(ns: &str, args: &[&str]) -> Result<Output> {
        Ok(Self::command(ns, env!("CARGO_BIN_EXE_syp-gate"), args).output().await?)
    }

    /// A gate that listens on these two ports.
    pub async fn serve(&self, ns: &str, traffic: &str, admin: &str) -> Result<Child> {
        let token = self.token.path().to_string_lossy();
        let args =
            ["serve", "--listen", traffic, "--admin", admin, "--admin-token-file", &token, "--workers", "1"];
        let mut child =
            Self::command(ns, env!("CARGO_BIN_EXE_syp-gate"), &args).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().context("stdout")?).read_line(&mut line).await?;
        ensure!(line.contains("listening"), "{line}");
        Ok(child)
    }

    /// What `reach` says from there.
    pub async fn reach(ns: &str, to: String) -> Result<String> {
        let output = Self::gate(ns, &["reach", &to, "--tries", "2", "--timeout-ms", "300"]).await?;
        let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(output.status.success() && said["reached"] == (said["detail"] == "connected"), "{output:?}");
        Ok(said["detail"].as_str().context("words")?.to_owned())
    }

    /// Its routing rules.
    pub async fn rules(&self) -> Result<Vec<String>> {
        let both = [
            ip(&format!("-n {} rule", self.inside)).await?,
            ip(&format!("-n {} -6 rule", self.inside)).await?,
        ];
        Ok(both.iter().flat_map(|text| text.lines()).map(str::to_owned).collect())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for ns in [&self.inside, &self.outside] {
            let _ =
                std::process::Command::new("ip").args(["netns", "del", ns]).stderr(Stdio::null()).status();
        }
    }
}
