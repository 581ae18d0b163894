//! Replicas that come and go: closed ones finish what they have, and callers wait where they are told to.

use anyhow::{Result, ensure};

use crate::common::{ALICE, App, Gate, get, next, soon, until};

#[tokio::test]
async fn a_closed_replica_gets_nothing_new_and_finishes_what_it_has() -> Result<()> {
    let old = App::slow().await?;
    let new = App::named("new").await?;
    let (gate, issuer, first) = Gate::before(&[&old, &new]).await?;
    let token = issuer.token(ALICE)?;
    // the new one is probed and gets nothing before it is open
    let standby = next(&first, |c| c.upstreams[1].closed = true);
    gate.push(&standby).await?;
    let mut waiting = gate.wire().await?;
    waiting.send(get("/held", &token)).await?;
    until("the old one has it", async || Ok(gate.status().await?.upstreams[0].in_flight == 1)).await?;
    until("the new one is ready", async || Ok(gate.status().await?.upstreams[1].ready)).await?;
    ensure!(new.requests() == 0, "closed");
    let switched = next(&standby, |c| (c.upstreams[0].closed, c.upstreams[1].closed) = (true, false));
    gate.push(&switched).await?;
    for _ in 0..10 {
        ensure!(gate.get("/", &token).await?.text() == "new");
    }
    ensure!(gate.status().await?.upstreams[0].in_flight == 1, "it still has its request");
    old.let_go();
    ensure!(soon("the old answer", waiting.reply()).await??.text() == "done", "and answers it");
    until("it has nothing any more", async || Ok(gate.status().await?.upstreams[0].in_flight == 0)).await
}

#[tokio::test]
async fn callers_wait_for_a_replica_where_they_are_told_to_and_only_so_long() -> Result<()> {
    let app = App::named("app").await?;
    let (gate, issuer, first) = Gate::before(&[&app]).await?;
    let token = issuer.token(ALICE)?;
    let closed = next(&first, |c| c.upstreams[0].closed = true);
    gate.push(&closed).await?;
    ensure!(gate.get("/", &token).await?.status == 503, "at once, without a word about waiting");
    let holding = next(&closed, |c| c.hold_ms = 300);
    gate.push(&holding).await?;
    let refused = gate.get("/", &token).await?;
    ensure!(refused.status == 503 && gate.reason(&refused).await? == "NO_REPLICA_READY", "after its time");
    let patient = next(&holding, |c| c.hold_ms = 20_000);
    gate.push(&patient).await?;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut wire = gate.wire().await?;
        wire.send(get("/", &token)).await?;
        waiting.push(wire);
    }
    until("they wait", async || Ok(gate.status().await?.in_flight == 5)).await?;
    gate.push(&next(&patient, |c| (c.upstreams[0].closed, c.hold_ms) = (false, 0))).await?;
    for mut wire in waiting {
        ensure!(soon("the answer", wire.reply()).await??.status == 200);
    }
    // whoever may not enter does not wait either
    let closed = next(&patient, |c| (c.generation, c.upstreams[0].closed) = (c.generation + 5, true));
    gate.push(&closed).await?;
    let stranger = issuer.token("eve@example.com")?;
    ensure!(soon("no", gate.get("/", &stranger)).await??.status == 403);
    Ok(())
}
