//! `syp-gate reach`: connected and refused; what times out is in `seal.rs`, where packets really get lost.

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::Instant;

async fn reach(args: &[&str]) -> Result<(Option<i32>, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_syp-gate")).arg("reach").args(args).output().await?;
    Ok((output.status.code(), String::from_utf8(output.stdout)?))
}

#[tokio::test]
async fn what_is_found_is_said_on_stdout_and_in_the_file() -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let out = file.path().to_string_lossy();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let to = listener.local_addr()?.to_string();
    let want = json!({ "reached": true, "detail": "connected" });
    let (code, text) = reach(&[&to, "--out", &out]).await?;
    ensure!(code == Some(0) && serde_json::from_str::<serde_json::Value>(&text)? == want, "{text}");
    ensure!(serde_json::from_slice::<serde_json::Value>(&std::fs::read(&file)?)? == want);
    drop(listener);
    let since = Instant::now();
    let (code, text) = reach(&[&to, "--tries", "2", "--out", &out]).await?;
    ensure!(code == Some(0) && since.elapsed().as_millis() >= 200, "one try: {text}");
    let want = json!({ "reached": false, "detail": "refused" });
    ensure!(serde_json::from_str::<serde_json::Value>(&text)? == want, "{text}");
    ensure!(serde_json::from_slice::<serde_json::Value>(&std::fs::read(&file)?)? == want);
    Ok(())
}

#[tokio::test]
async fn no_answer_is_no_success() -> Result<()> {
    let (code, text) = reach(&["127.0.0.1:9", "--tries", "1", "--out", "/none/file"]).await?;
    ensure!(code == Some(1) && text.contains("/none/file"), "{text}");
    for wrong in [&["127.0.0.1"][..], &["127.0.0.1:9", "--tries", "0"]] {
        let (code, _) = reach(wrong).await?;
        ensure!(code == Some(2), "{wrong:?}");
    }
    Ok(())
}
