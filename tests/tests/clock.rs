//! The host's clock is set while an engine runs, and while none does: what waits does not wait longer, an hour costs an hour, and
//! what goes by the clock follows it.
use anyhow::{Context, Result, ensure};
use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};
use syp_engine::{graph::State, step::Billed};
use syp_proto::v1::{
    self, GetCostRequest, GetInstanceRequest, TransitionInstanceRequest, costs_client::CostsClient,
    instances_client::InstancesClient, server_client::ServerClient,
};
use syp_steps::fake::Fault;
use syp_tests::api::{Conn, World, create};

const ADMIN: Option<&str> = Some("admin@example.com");
const SHOP: &str = "projects/default/instances/shop";
const HOUR: i64 = 3_600_000;

async fn get(i: &mut InstancesClient<Conn>) -> Result<v1::Instance> {
    Ok(i.get_instance(GetInstanceRequest { name: SHOP.into(), ..Default::default() }).await?.into_inner())
}

async fn cost(w: &World) -> Result<i64> {
    let mut c = CostsClient::new(w.connect(ADMIN).await?);
    let cost = c.get_cost(GetCostRequest { name: SHOP.into(), ..Default::default() }).await?.into_inner();
    let m = cost.accrued.context("accrued")?;
    Ok(m.units * 1_000_000_000 + i64::from(m.nanos))
}

async fn jumps(i: &mut InstancesClient<Conn>) -> Result<usize> {
    let ask = v1::ListInstanceEventsRequest { parent: SHOP.into(), page_size: 1000, ..Default::default() };
    let all = i.list_instance_events(ask).await?.into_inner().events;
    Ok(all.iter().filter(|e| e.reason == "CLOCK_JUMPED").count())
}

async fn told(i: &mut InstancesClient<Conn>, times: usize) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while jumps(i).await? < times {
        ensure!(Instant::now() < end, "nobody told of jump {times}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Billed so far, and the words beside it.
async fn bill(w: &World) -> Result<(Option<i64>, String)> {
    let mut c = CostsClient::new(w.connect(ADMIN).await?);
    let cost = c.get_cost(GetCostRequest { name: SHOP.into(), ..Default::default() }).await?.into_inner();
    ensure!(cost.billed.is_some() == cost.billed_as_of.is_some(), "as of when: {cost:?}");
    Ok((cost.billed.map(|m| m.units), cost.billed_note))
}

#[tokio::test]
async fn a_bill_is_asked_for_once_a_day_by_whoever_looks_and_outlives_the_engine() -> Result<()> {
    let mut w = World::serving("shop").await?;
    let uid = get(&mut InstancesClient::new(w.connect(ADMIN).await?)).await?.uid;
    ensure!(bill(&w).await?.1.starts_with("none: "), "nobody bills");
    let owes = |units: i64| Billed { amounts: [(uid.clone(), units.into())].into(), currency: "EUR".into() };
    w.cloud.bill(owes(3));
    let asked = |w: &World| w.cloud.calls().iter().filter(|c| *c == "bill").count();
    ensure!(bill(&w).await?.1.contains("is asked from"), "it can't know yet");
    ensure!(asked(&w) == 0, "a question that costs and has no answer");
    w.clock.fetch_add(25 * HOUR, Relaxed);
    // whoever comes at the same time waits for the same answer
    let all = futures_util::future::try_join_all((0..5).map(|_| bill(&w))).await?;
    ensure!(all.iter().all(|(units, _)| *units == Some(3)) && asked(&w) == 1, "{all:?}");
    w.cloud.bill(owes(5));
    w.kill().await;
    w.start().await?;
    w.clock.fetch_add(23 * HOUR, Relaxed);
    ensure!(bill(&w).await?.0 == Some(3) && asked(&w) == 1, "it is kept, and a day is not over");
    // a refusal leaves what is known, says why, and is soon tried again
    w.cloud.inject("bill", Fault::Throttled);
    w.clock.fetch_add(HOUR, Relaxed);
    let (units, words) = bill(&w).await?;
    ensure!(units == Some(3) && words.contains("injected"), "{words}");
    w.clock.fetch_add(HOUR, Relaxed);
    ensure!(bill(&w).await?.0 == Some(5) && asked(&w) == 3, "an hour later it is asked again");
    // the engine dies in the question: it is paid, and not asked again at once
    w.cloud.inject("bill", Fault::Hang);
    w.clock.fetch_add(24 * HOUR, Relaxed);
    let hangs = bill(&w).await?;
    ensure!(hangs.0 == Some(5) && asked(&w) == 4, "nobody waits for ever: {hangs:?}");
    w.kill().await;
    w.start().await?;
    ensure!(bill(&w).await?.0 == Some(5) && asked(&w) == 4, "it is asked tomorrow");
    Ok(())
}

#[tokio::test]
async fn a_clock_that_is_set_costs_nothing_holds_up_nothing_and_ends_what_goes_by_it() -> Result<()> {
    let mut w = World::serving("shop").await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    let hourly = get(&mut i).await?.cost.and_then(|c| c.rate_per_hour).context("rate")?;
    let hourly = hourly.units * 1_000_000_000 + i64::from(hourly.nanos);
    ensure!(hourly > 1000, "a rate that can be told from nothing: {hourly}");
    for (n, by) in [HOUR, -2 * HOUR, HOUR].into_iter().enumerate() {
        w.clock.fetch_add(by, Relaxed);
        told(&mut i, n + 1).await?;
        ensure!(
            cost(&w).await? < hourly / 20,
            "three minutes at most: {} at {hourly} an hour",
            cost(&w).await?
        );
    }
    // set back while no engine runs: what was written is in the future
    w.kill().await;
    w.clock.fetch_sub(3 * HOUR, Relaxed);
    w.start().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    told(&mut i, 4).await?;
    ensure!(cost(&w).await? < hourly / 20, "{}", cost(&w).await?);

    // a pause before another attempt, then an hour back: the pause stays what it was
    for call in ["destroy a", "destroy b", "destroy c", "destroy d"].repeat(4) {
        w.cloud.inject(call, Fault::Transient);
    }
    let down =
        TransitionInstanceRequest { name: SHOP.into(), to: State::Destroyed as i32, ..Default::default() };
    i.transition_instance(down).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure!(get(&mut i).await?.state() == State::Draining, "it waits for another attempt");
    w.clock.fetch_sub(HOUR, Relaxed);
    w.settled("shop", State::Destroyed).await?;
    let mut server = ServerClient::new(w.connect(ADMIN).await?);
    let fsck = server.check_store(v1::CheckStoreRequest {}).await?.into_inner();
    ensure!(fsck.problems.is_empty(), "{:?}", fsck.problems);

    // a lifetime is a promise by the clock
    let mut other = create("other");
    let spec = other.instance.as_mut().and_then(|i| i.spec.as_mut()).context("spec")?;
    spec.ttl = Some(prost_types::Duration { seconds: 8 * 3600, nanos: 0 });
    i.create_instance(other).await?;
    let name = "projects/default/instances/other";
    let end = Instant::now() + Duration::from_secs(90);
    w.clock.fetch_add(9 * HOUR, Relaxed);
    loop {
        let ask = GetInstanceRequest { name: name.into(), ..Default::default() };
        if i.get_instance(ask).await?.into_inner().state() == State::Destroyed {
            return Ok(());
        }
        ensure!(Instant::now() < end, "its time is over, and it goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
