//! An update that waits for somebody: nothing more of it is begun, what served before serves, and no time passes for it.
use anyhow::{Result, ensure};
use std::time::Duration;
use syp_engine::{error::Error, graph::State};
use syp_tests::watched::{Watched, who};
use tokio::time::sleep;

fn paused(w: &Watched) -> bool {
    w.cell.get().run.as_ref().is_some_and(|r| r.paused_ms != 0)
}

fn serves(w: &Watched, no: u32) -> bool {
    let i = w.cell.get();
    i.state() == State::Serving && i.run.is_none() && i.revision_no.max(1) == no
}

#[tokio::test(start_paused = true)]
async fn one_that_holds_stops_when_it_is_proven_and_goes_on_over_crashes_and_hours() -> Result<()> {
    let w = Watched::start().await?;
    let op = w.update(true).await?;
    w.until("it holds", || paused(&w)).await?;
    ensure!(w.there("d") && w.there("d2"), "both are there");
    ensure!(w.cell.get().revision_no.max(1) == 1, "the old one serves");
    let shown = syp_engine::view::instance(&w.cell, &w.cell.get(), w.engine.clock().now());
    let why = shown.waiting_on.first().map(|x| (x.step.clone(), x.reason.clone()));
    ensure!(why == Some(("switch".into(), "PAUSED".into())), "{:?}", shown.waiting_on);
    // longer than an update may take
    sleep(Duration::from_secs(20 * 3_600)).await;
    let w = w.restarted().await?;
    sleep(Duration::from_secs(3_600)).await;
    ensure!(paused(&w) && w.there("d"), "over a crash too: {:?}", w.cell.get().run);
    w.engine.pause(op, false, &who()).await?;
    w.until("it serves", || serves(&w, 2)).await?;
    w.until("and the old one is gone", || !w.there("d") && w.there("d2")).await?;
    let failed = w.cell.get().past.iter().any(|r| r.failure.is_some());
    ensure!(!failed, "it was not late: {:?}", w.cell.get().past);
    ensure!(w.engine.pause(op, true, &who()).await.is_err(), "it is over");
    w.engine.kill();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn one_that_is_paused_can_be_taken_back_and_is_when_what_serves_breaks() -> Result<()> {
    let w = Watched::start().await?;
    let op = w.update(true).await?;
    w.until("it holds", || paused(&w)).await?;
    w.engine.cancel(op, &who()).await?;
    w.until("taken back", || serves(&w, 1) && !w.there("d2")).await?;
    ensure!(w.there("d"), "what served is there");

    w.update(true).await?;
    w.until("it holds", || paused(&w)).await?;
    w.kill("d");
    w.until("what served is made again", || w.there("d") && serves(&w, 1)).await?;
    ensure!(!w.there("d3"), "and the update is taken back");
    w.engine.kill();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn one_that_is_under_way_stops_where_it_is_and_nothing_else_can_be_paused() -> Result<()> {
    let w = Watched::start().await?;
    let op = w.update(false).await?;
    w.engine.pause(op, true, &who()).await?;
    sleep(Duration::from_secs(600)).await;
    ensure!(paused(&w) && !serves(&w, 2), "{:?}", w.cell.get().run);
    // asked for twice is asked for once
    let records = w.cell.get().head_seq;
    w.engine.pause(op, true, &who()).await?;
    ensure!(w.cell.get().head_seq == records);
    w.engine.pause(op, false, &who()).await?;
    w.until("it serves", || serves(&w, 2)).await?;
    w.engine.drift(&w.cell, vec!["on purpose".into()], |_| true).await?;
    let repair = w.cell.get().run.as_ref().map(|r| r.no).unwrap_or_default();
    let op = syp_engine::id::OperationId { instance: w.cell.id, run: repair };
    let no = w.engine.pause(op, true, &who()).await;
    let why = match no {
        Err(Error::NotAllowed { why, .. }) => why,
        other => anyhow::bail!("a repair goes on: {other:?}"),
    };
    ensure!(why.contains("only an update"), "{why}");
    w.engine.kill();
    Ok(())
}
