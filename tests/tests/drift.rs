//! What breaks in the middle of something is found when that has ended, and a repair that failed is begun again: not only at the next
//! full look.
use anyhow::{Context, Result, ensure};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use syp_engine::{
    cell::Cell,
    clock::Clock,
    door::Door,
    engine::{Caller, Engine, NewInstance, Options},
    fault::NoFaults,
    graph::State,
    id::InstanceId,
    store::{MemKv, open_inline},
    vault::Vault,
};
use syp_proto::v1;
use syp_steps::fake::{FakeCloud, Fault};
use syp_tests::sim::behaviour;
use tokio::time::{Instant, sleep};

fn who() -> Caller {
    Caller { actor: "t".into(), ..Default::default() }
}

/// An instance that serves, and an engine that listens to its cloud.
async fn serving() -> Result<(Engine, FakeCloud, Arc<Cell>)> {
    let cloud = FakeCloud::new(behaviour(0, 0));
    let engine = Engine::start(Options {
        store: open_inline(Arc::new(MemKv::default()))?,
        targets: vec![Arc::new(cloud.clone())],
        resolve: None,
        clock: Clock::virtual_now(),
        faults: Arc::new(NoFaults),
        door: Arc::new(Door::new(None)),
        vault: Vault::new(&vec![7; 32].into()),
    })
    .await?;
    let uid = InstanceId::random();
    let new = NewInstance {
        project: "p".into(),
        name: "i".into(),
        uid,
        labels: BTreeMap::new(),
        spec: v1::InstanceSpec { target: "fake".into(), image: "x".into(), port: 1, ..Default::default() },
        facts: serde_json::json!({}),
        hourly: syp_engine::cost::money(rust_decimal::Decimal::ONE, "EUR"),
        expire_ms: 0,
        deadline_ms: 0,
        bound: Default::default(),
    };
    engine.create(&who(), new).await?;
    let cell = engine.cell(uid).context("no instance")?;
    until(|| cell.get().state() == State::Serving && cell.get().run.is_none()).await?;
    engine.watch_targets();
    // it has looked once
    sleep(Duration::from_secs(1)).await;
    Ok((engine, cloud, cell))
}

/// Within a minute: a full look takes five.
async fn until(seen: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !seen() {
        ensure!(Instant::now() < end, "not within a minute");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn victim(cloud: &FakeCloud) -> Result<syp_steps::fake::Object> {
    cloud.live().into_iter().find(|o| o.node == "d").context("no d")
}

fn there(cloud: &FakeCloud) -> bool {
    victim(cloud).is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_failed_is_begun_again() -> Result<()> {
    let (engine, cloud, cell) = serving().await?;
    cloud.inject("apply d", Fault::Terminal);
    cloud.kill(&victim(&cloud)?.id.to_string());
    until(|| there(&cloud)).await.context("the second repair")?;
    let failed = cell.get().past.iter().filter(|r| r.failure.is_some()).count();
    ensure!(failed == 1, "the first one failed: {:?}", cell.get().past);
    engine.kill();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_breaks_in_the_middle_of_a_repair_is_found_at_its_end() -> Result<()> {
    let (engine, cloud, cell) = serving().await?;
    // the repair is at d for as long as its attempt may take
    cloud.inject("apply d", Fault::Hang);
    let applied = || cloud.calls().iter().filter(|c| *c == "apply d").count();
    let before = applied();
    engine.drift(&cell, vec!["on purpose".into()]).await?;
    until(|| applied() > before).await?;
    let a = cloud.live().into_iter().find(|o| o.node == "a").context("no a")?;
    cloud.kill(&a.id.to_string());
    ensure!(cell.get().run.is_some(), "in the middle");
    until(|| cloud.live().iter().any(|o| o.node == "a")).await.context("a is made again")?;
    engine.kill();
    Ok(())
}
