//! What was pushed is kept over a restart; the higher generation counts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use syp_auth::door::GateConfig;

use crate::common::{ALICE, App, Gate, Issuer, MALLORY, allow, config, next, until};

async fn start(config: &Path, keep: &Path) -> Result<Gate> {
    let (config, keep) = (config.to_str().context("a name")?, keep.to_str().context("a name")?);
    Gate::bare(&["--config", config, "--keep", keep]).await
}

fn write(path: &Path, config: &GateConfig) -> Result<()> {
    Ok(std::fs::write(path, serde_json::to_vec(config)?)?)
}

#[tokio::test]
async fn a_restart_goes_on_with_the_higher_generation_of_both() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (given, kept) = (directory.path().join("gate.json"), directory.path().join("kept.json"));
    let (app, issuer) = (App::echo().await?, Issuer::new("https://issuer.example", "key-1")?);
    let first = config(&issuer, &[&app])?;
    write(&given, &first)?;
    let gate = start(&given, &kept).await?;
    until("it is ready", async || Ok(gate.status().await?.upstreams.iter().all(|u| u.ready))).await?;
    ensure!(gate.get("/", &issuer.token(ALICE)?).await?.status == 200 && !kept.exists());
    // alice is out; the file that is mounted does not know yet
    let second = next(&first, |c| c.policy = allow(&[MALLORY]));
    gate.push(&second).await?;
    ensure!(std::fs::metadata(&kept)?.permissions().mode() & 0o777 == 0o600);
    // what was refused is not kept
    ensure!(gate.put(&serde_json::to_vec(&first)?).await?.status == 409);
    drop(gate);
    let gate = start(&given, &kept).await?;
    ensure!(gate.status().await?.generation == 2 && gate.printed().contains("\"used\":true"));
    until("it is ready", async || Ok(gate.status().await?.upstreams.iter().all(|u| u.ready))).await?;
    ensure!(gate.get("/", &issuer.token(ALICE)?).await?.status == 403);
    ensure!(gate.get("/", &issuer.token(MALLORY)?).await?.status == 200);
    drop(gate);
    // and the other way round
    write(&given, &next(&second, |c| c.policy = allow(&[ALICE])))?;
    let gate = start(&given, &kept).await?;
    ensure!(gate.status().await?.generation == 3, "{:?}", gate.status().await?);
    ensure!(gate.printed().contains("lower than 3"), "{}", gate.printed());
    Ok(())
}

#[tokio::test]
async fn what_is_damaged_or_not_there_is_told_and_no_reason_to_stay_away() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (given, kept) = (directory.path().join("gate.json"), directory.path().join("kept.json"));
    let (app, issuer) = (App::echo().await?, Issuer::new("https://issuer.example", "key-1")?);
    let first = config(&issuer, &[&app])?;
    write(&given, &first)?;
    let whole = serde_json::to_string(&next(&first, |_| {}))?;
    let other = serde_json::to_string(&next(&first, |c| c.instance_uid = "uid-2".to_owned()))?;
    let no_config = serde_json::to_string(&next(&first, |c| c.audiences.clear()))?;
    for (text, why) in [
        (None, "reading"),
        (Some(""), "damaged"),
        (Some(&whole[..whole.len() / 2]), "damaged"),
        (Some(&other), "uid-2"),
        (Some(&no_config), "audiences"),
    ] {
        if let Some(text) = text {
            std::fs::write(&kept, text)?;
        }
        let gate = start(&given, &kept).await?;
        ensure!(gate.status().await?.generation == 1, "{text:?}");
        let printed = gate.printed();
        ensure!(printed.lines().count() == 1 && printed.contains(why), "{text:?}: {printed}");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_kept_is_in_force_all_the_same() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let nowhere = directory.path().join("none").join("kept.json");
    let gate = start(&directory.path().join("gate.json"), &nowhere).await?;
    let issuer = Issuer::new("https://issuer.example", "key-1")?;
    gate.push(&config(&issuer, &[])?).await?;
    ensure!(gate.status().await?.generation == 1);
    until("it says so", async || Ok(gate.printed().contains("could not be kept"))).await
}
