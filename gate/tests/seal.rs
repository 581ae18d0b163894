//! A namespace that is sealed for a gate in it, with real routing rules; left out where no namespace can be made.

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::common::netns::{OUTSIDE, POD, Pod};

const GATE: &str = "8080";
const APP: &str = "5000";

/// The status of the gate's health, asked from outside: a whole answer must get out, not only a handshake.
async fn health(pod: &Pod, ip: &str) -> Result<String> {
    let bare = ip.trim_matches(['[', ']']);
    let script = format!(
        "exec 3<>/dev/tcp/{bare}/{GATE}; printf 'GET /_syp/health HTTP/1.1\\r\\nHost: g\\r\\n\\r\\n' >&3; read -t 30 line <&3; echo $line"
    );
    let output = Pod::command(&pod.outside, "bash", &["-c", &script]).output().await?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What is found from outside at gate and app, and from inside at the gate, the app and outside, in both families.
async fn look(pod: &Pod, family: usize, app: &str) -> Result<[String; 5]> {
    let (inside, outside) = (POD[family], OUTSIDE[family]);
    let loopback = ["127.0.0.1", "[::1]"][family];
    let (app_of, gate_of) = (|ip: &str| format!("{ip}:{app}"), |ip: &str| format!("{ip}:{GATE}"));
    let words = tokio::try_join!(
        Pod::reach(&pod.outside, gate_of(inside)),
        Pod::reach(&pod.outside, app_of(inside)),
        Pod::reach(&pod.inside, app_of(inside)),
        Pod::reach(&pod.inside, app_of(loopback)),
        Pod::reach(&pod.inside, gate_of(outside)),
    )?;
    Ok(words.into())
}

/// The gate, and a process that listens on the app's port; another pair outside.
async fn listen(pod: &Pod, app: &str) -> Result<[tokio::process::Child; 2]> {
    let (gate, app) = (format!("[::]:{GATE}"), format!("[::]:{app}"));
    Ok([pod.serve(&pod.inside, &gate, &app).await?, pod.serve(&pod.outside, &gate, &app).await?])
}

fn sealed(output: &std::process::Output) -> Result<serde_json::Value> {
    ensure!(output.status.success(), "{output:?}");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(said["event"] == "sealed" && said["interface"] == "eth0", "{said}");
    Ok(said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gate_alone_is_reached_and_the_app_reaches_out() -> Result<()> {
    let Some(pod) = Pod::new().await? else { return Ok(()) };
    let _listening = listen(&pod, APP).await?;
    for family in 0..2 {
        ensure!(
            look(&pod, family, APP).await? == ["connected"; 5],
            "before: {:?}",
            look(&pod, family, APP).await?
        );
    }
    let said = sealed(&Pod::gate(&pod.inside, &["seal", "--port", GATE]).await?)?;
    ensure!(said["ports"] == serde_json::json!([8080]) && said["egress"] == "on", "{said}");
    let rules = pod.rules().await?;
    for (family, ip) in POD.iter().enumerate() {
        let found = look(&pod, family, APP).await?;
        ensure!(
            found == ["connected", "timed out", "connected", "connected", "connected"],
            "{found:?} {rules:#?}"
        );
        ensure!(health(&pod, ip).await?.contains(" 503 "), "not configured");
    }
    ensure!(!rules.iter().any(|r| r.starts_with("0:")), "{rules:#?}");
    // an init container that runs again finds its rules
    sealed(&Pod::gate(&pod.inside, &["seal", "--port", GATE]).await?)?;
    ensure!(pod.rules().await? == rules, "{:#?}", pod.rules().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_egress_only_the_gates_answers_get_out() -> Result<()> {
    let Some(pod) = Pod::new().await? else { return Ok(()) };
    let _listening = listen(&pod, APP).await?;
    sealed(&Pod::gate(&pod.inside, &["seal", "--port", GATE, "--egress", "none"]).await?)?;
    for (family, ip) in POD.iter().enumerate() {
        let [gate, app, own, loopback, out] = look(&pod, family, APP).await?;
        ensure!(gate == "connected" && app == "timed out", "{gate}, {app}, {:#?}", pod.rules().await?);
        ensure!(own == "connected" && loopback == "connected", "{own}, {loopback}");
        ensure!(out != "connected" && out != "refused", "{out}");
        ensure!(health(&pod, ip).await?.contains(" 503 "), "not configured");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_among_the_ports_of_outgoing_connections_is_closed_too() -> Result<()> {
    let Some(pod) = Pod::new().await? else { return Ok(()) };
    let app = "50051";
    let _listening = listen(&pod, app).await?;
    sealed(&Pod::gate(&pod.inside, &["seal", "--port", GATE, "--app-port", app]).await?)?;
    for family in 0..2 {
        let found = look(&pod, family, app).await?;
        ensure!(found == ["connected", "timed out", "connected", "connected", "connected"], "{found:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sealed_is_said_and_ends_with_1() -> Result<()> {
    let Some(pod) = Pod::new().await? else { return Ok(()) };
    let failed = |output: std::process::Output, words: &str| -> Result<()> {
        let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(output.status.code() == Some(1) && said["event"] == "error", "{output:?}");
        ensure!(said["message"].as_str().context("words")?.contains(words), "{said}");
        Ok(())
    };
    failed(Pod::gate(&pod.inside, &["seal", "--port", "0"]).await?, "port 0")?;
    failed(Pod::gate(&pod.inside, &["seal", "--port", "65535"]).await?, "port 65535")?;
    failed(
        Pod::gate(&pod.inside, &["seal", "--port", "80", "--app-port", "80"]).await?,
        "needs another one",
    )?;
    let weak = ["--bounding-set", "-net_admin", env!("CARGO_BIN_EXE_syp-gate"), "seal", "--port", GATE];
    failed(Pod::command(&pod.inside, "setpriv", &weak).output().await?, "NET_ADMIN")?;
    ensure!(pod.rules().await?.iter().any(|r| r.starts_with("0:")), "{:#?}", pod.rules().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_lets_its_gates_address_in_and_no_other() -> Result<()> {
    let Some(pod) = Pod::new().await? else { return Ok(()) };
    let _listening = listen(&pod, APP).await?;
    let args = ["hold", "--gate", OUTSIDE[0], "--port", APP];
    let mut command = Pod::command(&pod.inside, env!("CARGO_BIN_EXE_syp-gate"), &args);
    let mut holder = command.stdout(std::process::Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(holder.stdout.as_mut().context("stdout")?).read_line(&mut line).await?;
    ensure!(line.contains("\"sealed\""), "{line}");
    let found = look(&pod, 0, APP).await?;
    ensure!(found == ["connected"; 5], "{found:?} {:#?}", pod.rules().await?);
    // the gate has no address of this family, so that nobody may come by it
    let found = look(&pod, 1, APP).await?;
    ensure!(found == ["timed out", "timed out", "connected", "connected", "connected"], "{found:?}");
    Ok(())
}
