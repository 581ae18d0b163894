//! What is found to differ is repaired, or told where that is asked for. What breaks in the middle of something is found when that
//! has ended, and a repair that failed is begun again: not only at the next full look.
use anyhow::{Result, ensure};
use std::time::Duration;
use syp_engine::fold::drifted;
use syp_proto::journal::Edited;
use syp_steps::fake::Fault;
use syp_tests::watched::{Watched, who};
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn a_repair_that_failed_is_begun_again() -> Result<()> {
    let w = Watched::start().await?;
    w.cloud.inject("apply d", Fault::Terminal);
    w.kill("d");
    w.until("the second repair", || w.there("d")).await?;
    let failed = w.cell.get().past.iter().filter(|r| r.failure.is_some()).count();
    ensure!(failed == 1, "the first one failed: {:?}", w.cell.get().past);
    w.engine.kill();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_breaks_in_the_middle_of_a_repair_is_found_at_its_end() -> Result<()> {
    let w = Watched::start().await?;
    // the repair is at d for as long as its attempt may take
    w.cloud.inject("apply d", Fault::Hang);
    let applied = || w.cloud.calls().iter().filter(|c| *c == "apply d").count();
    let before = applied();
    w.engine.drift(&w.cell, vec!["on purpose".into()], |_| true).await?;
    w.until("it has begun", || applied() > before).await?;
    w.kill("a");
    ensure!(w.cell.get().run.is_some() && !w.there("a"), "in the middle");
    w.until("a is made again", || w.there("a")).await?;
    w.engine.kill();
    Ok(())
}

/// A look takes its time. Who says in the middle of it that nothing shall be put back is heard.
#[tokio::test(start_paused = true)]
async fn what_was_asked_for_while_it_was_looked_at_holds() -> Result<()> {
    let w = Watched::start().await?;
    let (runs, looks) = (w.cell.get().runs, || w.cloud.calls().iter().filter(|c| *c == "observe d").count());
    let before = looks();
    w.kill("d");
    for _ in 0..60_000 {
        if looks() > before {
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
    ensure!(looks() > before && w.cell.get().runs == runs, "it is being looked at");
    let report = Edited { report_drift: true, set_report_drift: true, ..Default::default() };
    w.engine.edit(&w.cell, report, "", &who()).await?;
    sleep(Duration::from_secs(700)).await;
    ensure!(!w.there("d") && w.cell.get().runs == runs, "left as it is: {:?}", w.cell.get().past.last());
    ensure!(drifted(&w.cell.get()).is_some(), "and told: {:?}", w.cell.get().conditions);
    w.engine.kill();
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_differs_is_told_and_left_where_that_is_asked_for() -> Result<()> {
    let w = Watched::start().await?;
    let report = |on| Edited { report_drift: on, set_report_drift: true, ..Default::default() };
    w.engine.edit(&w.cell, report(true), "", &who()).await?;
    let runs = w.cell.get().runs;
    w.kill("d");
    w.until("it is told", || drifted(&w.cell.get()).is_some()).await?;
    let said = drifted(&w.cell.get()).map(|c| (c.reason.clone(), c.message.clone()));
    ensure!(
        said.is_some_and(|(r, m)| r == "DRIFT" && m.contains("is gone")),
        "{:?}",
        w.cell.get().conditions
    );
    let records = w.cell.get().head_seq;
    // two full looks later
    sleep(Duration::from_secs(700)).await;
    ensure!(!w.there("d") && w.cell.get().runs == runs, "left as it is");
    ensure!(w.cell.get().head_seq == records, "and told once");
    w.engine.edit(&w.cell, report(false), "", &who()).await?;
    w.until("put back", || w.there("d") && w.cell.get().run.is_none()).await?;
    ensure!(drifted(&w.cell.get()).is_none(), "{:?}", w.cell.get().conditions);
    ensure!(w.cell.get().past.last().is_some_and(|r| r.verb == "repair"), "{:?}", w.cell.get().past.last());
    // and from now on as before
    w.kill("d");
    w.until("repaired by itself", || w.there("d")).await?;
    w.engine.kill();
    Ok(())
}
