//! A store that is damaged: one instance's records block that instance alone, and everybody is told.
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use syp_engine::{graph::State, id::InstanceId};
use syp_proto::v1::{
    self, CheckStoreRequest, GetInstanceRequest, TransitionInstanceRequest,
    instances_client::InstancesClient, server_client::ServerClient,
};
use syp_tests::api::{Conn, World, create};

const ADMIN: Option<&str> = Some("admin@example.com");

async fn get(i: &mut InstancesClient<Conn>, name: &str) -> Result<v1::Instance> {
    let name = format!("projects/default/instances/{name}");
    Ok(i.get_instance(GetInstanceRequest { name, ..Default::default() }).await?.into_inner())
}

#[tokio::test]
async fn a_damaged_journal_blocks_its_own_instance_and_no_other() -> Result<()> {
    let mut w = World::new().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    for name in ["bad", "good"] {
        i.create_instance(create(name)).await?;
        w.settled(name, State::Serving).await?;
    }
    let uid = InstanceId::parse(&get(&mut i, "bad").await?.uid).context("uid")?;
    w.kill().await;
    for prefix in [b"l|", b"i|"] {
        ensure!(w.disk.damage(&[&prefix[..], uid.as_bytes()].concat())? > 0, "nothing to damage");
    }
    w.start().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    let all = i
        .list_instances(v1::ListInstancesRequest { parent: "projects/-".into(), ..Default::default() })
        .await?;
    let all = all.into_inner().instances;
    let corrupt = |x: &v1::Instance| x.conditions.iter().any(|c| c.reason == "STORE_CORRUPT");
    ensure!(
        all.len() == 2 && all.iter().filter(|x| corrupt(x)).count() == 1,
        "one of two says that it can't be read: {all:?}"
    );
    // the other one lives and dies as ever
    let down = |name: &str| TransitionInstanceRequest {
        name: format!("projects/default/instances/{name}"),
        to: State::Destroyed as i32,
        ..Default::default()
    };
    i.transition_instance(down("good")).await?;
    for _ in 0..500 {
        if w.cloud.live().iter().all(|o| o.key.contains(&uid.short())) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ensure!(w.cloud.live().iter().all(|o| o.key.contains(&uid.short())), "'good' is gone");
    ensure!(!w.cloud.live().is_empty(), "nothing of 'bad' was touched");
    let mut server = ServerClient::new(w.connect(ADMIN).await?);
    let report = server.check_store(CheckStoreRequest::default()).await?.into_inner();
    ensure!(
        !report.problems.is_empty() && report.problems.iter().all(|p| p.contains(&uid.to_string())),
        "fsck names it, and only it: {report:?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_refused_and_not_touched() -> Result<()> {
    let mut w = World::new().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    i.create_instance(create("shop")).await?;
    w.settled("shop", State::Serving).await?;
    w.kill().await;
    w.disk.raise_format()?;
    let e = w.start().await.err().context("a store of a newer version was opened")?;
    ensure!(e.to_string().contains("newer version"), "{e}");
    Ok(())
}
