//! Figures over time: what was counted is told once, in each resolution, whatever crashes. Virtual time.
use anyhow::{Context, Result, ensure};
use rust_decimal::Decimal;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use syp_auth::door::GateMetrics;
use syp_engine::{
    clock::{Clock, Millis},
    door::Door,
    engine::{Caller, Engine, NewInstance, Options},
    fault::NoFaults,
    graph::State,
    id::InstanceId,
    ops::TransitionOptions,
    series::{Point, Range, Sampler},
    step::{ReplicaStats, Stats},
    store::{Kv, MemKv, open_inline},
};
use syp_proto::v1::{self, condition::Status};
use syp_steps::fake::{Behaviour, FakeCloud, Fault, MENDS};

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60_000;
const HOUR: Millis = 3_600_000;

/// An instance in virtual time with a gate that counts, and an engine that may die.
struct Life {
    kv: MemKv,
    cloud: FakeCloud,
    clock: Clock,
    id: InstanceId,
    engine: Engine,
    sampler: Sampler,
    gate: GateMetrics,
    cpu_us: u64,
    /// What was asked of the gate, by the end of the interval in which it was.
    asked: BTreeMap<Millis, u64>,
    dice: u64,
}

impl Life {
    async fn new() -> Result<Self> {
        let (latency, landing) = (Duration::from_millis(1), Duration::ZERO);
        Self::on(FakeCloud::new(Behaviour { latency, landing, lag: Duration::ZERO })).await
    }

    async fn on(cloud: FakeCloud) -> Result<Self> {
        let (kv, clock) = (MemKv::default(), Clock::virtual_now());
        let engine = boot(&kv, &cloud, &clock).await?;
        let id = InstanceId::random();
        let new = NewInstance {
            project: "default".into(),
            name: "shop".into(),
            uid: id,
            labels: BTreeMap::new(),
            spec: v1::InstanceSpec {
                target: "fake".into(),
                image: "x".into(),
                port: 1,
                ..Default::default()
            },
            facts: serde_json::json!({}),
            hourly: syp_engine::cost::money(Decimal::ONE, "EUR"),
            bound: Default::default(),
            expire_ms: 0,
            deadline_ms: 0,
        };
        engine.create(&Caller { actor: "t".into(), ..Default::default() }, new).await?;
        let serves = || engine.cell(id).is_some_and(|c| c.get().state() == State::Serving);
        for _ in 0..1_000 {
            if serves() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ensure!(serves(), "it does not serve");
        let (sampler, started) = (Sampler::new(&engine), u64::try_from(clock.now())?);
        let gate = GateMetrics { started_at_ms: started, ..Default::default() };
        let (asked, dice) = (BTreeMap::new(), 42);
        Ok(Self { kv, cloud, clock, id, engine, sampler, gate, cpu_us: 0, asked, dice })
    }

    /// A number below `n`; the same ones in every run.
    fn dice(&mut self, n: u64) -> u64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % n
    }

    /// Ten seconds of requests.
    async fn pass(&mut self) -> Result<()> {
        let n = if self.dice(5) == 0 { self.dice(40) } else { 0 };
        for _ in 0..n {
            let class = usize::try_from(self.dice(4))? + 2;
            self.gate.requests_by_class[class] += 1;
            let us = 1_u64 << self.dice(24);
            self.gate.latency.record(us);
        }
        self.cpu_us += self.dice(3_000_000);
        let now = self.clock.now();
        let wait = 10 * SECOND - now.rem_euclid(10 * SECOND);
        tokio::time::advance(Duration::from_millis(u64::try_from(wait)?)).await;
        self.asked.insert(self.clock.now(), n);
        let replica =
            ReplicaStats { id: "app-0".into(), started_ms: 1, cpu_us: self.cpu_us, memory_bytes: 1 << 20 };
        let status = None;
        let (gate, replicas) = (Some(self.gate.clone()), vec![replica]);
        self.cloud.tell("shop", Some(Stats { gate, replicas, status, ..Default::default() }));
        Ok(())
    }

    /// `kill -9`, and a new engine some time later.
    async fn crash(&mut self, passes: u64) -> Result<()> {
        self.engine.kill();
        self.kv.crash();
        for _ in 0..passes {
            self.pass().await?;
        }
        self.engine = boot(&self.kv, &self.cloud, &self.clock).await?;
        self.sampler = Sampler::new(&self.engine);
        Ok(())
    }

    /// Takes it down, to the end.
    async fn down(&self) -> Result<()> {
        let cell = self.engine.cell(self.id).context("no cell")?;
        let who = Caller { actor: "t".into(), ..Default::default() };
        let down = TransitionOptions { verb: "down".into(), ..Default::default() };
        self.engine.transition(&cell, State::Destroyed, &down, &who).await?;
        for _ in 0..10_000 {
            if self.engine.cell(self.id).is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ensure!(self.engine.cell(self.id).is_none(), "it is not taken down");
        Ok(())
    }

    fn all(&self) -> u64 {
        self.asked.values().sum()
    }

    async fn read(&self, back: Millis, step: Millis) -> Result<Vec<Point>> {
        let now = self.clock.now();
        let range = Range::new(Some(now - back), None, Some(step), now)
            .map_err(|(f, w)| anyhow::anyhow!("{f}: {w}"))?;
        Ok(range.read(&**self.engine.store(), self.engine.series(), self.id).await?)
    }

    fn rows(&self, prefix: &[u8]) -> Result<usize> {
        let end = [prefix, &[0xff]].concat();
        Ok(self.kv.scan(prefix, &end, usize::MAX, false)?.len())
    }
}

async fn boot(kv: &MemKv, cloud: &FakeCloud, clock: &Clock) -> Result<Engine> {
    let store = open_inline(Arc::new(kv.clone()))?;
    let door = Arc::new(Door::new(None));
    let targets: Vec<Arc<dyn syp_engine::step::Target>> = vec![Arc::new(cloud.clone())];
    let vault = syp_engine::vault::Vault::new(&vec![7; 32].into());
    let faults = Arc::new(NoFaults);
    Ok(Engine::start(Options { store, targets, resolve: None, clock: clock.clone(), faults, door, vault })
        .await?)
}

fn requests(points: &[Point]) -> u64 {
    points.iter().map(|p| p.counters.requests()).sum()
}

#[tokio::test(start_paused = true)]
async fn every_request_is_told_once_in_each_resolution_whatever_crashes() -> Result<()> {
    let mut l = Life::new().await?;
    // a morning with crashes, at any point of writing and summing up
    let end = l.clock.now() + 5 * HOUR;
    let mut crashes = 0;
    while l.clock.now() < end {
        l.pass().await?;
        l.sampler.look().await;
        if l.dice(60) == 0 {
            let away = if l.dice(4) == 0 { l.dice(400) } else { l.dice(3) };
            l.crash(away).await?;
            crashes += 1;
        }
        if l.dice(500) == 0 {
            // a gate that is replaced right after it was read: nothing it counted is lost
            l.gate = GateMetrics { started_at_ms: u64::try_from(l.clock.now())?, ..Default::default() };
        }
    }
    ensure!(crashes > 10, "{crashes} crashes are not many");
    let told = l.read(31 * 24 * HOUR, HOUR).await?;
    ensure!(requests(&told) == l.all(), "{} requests were asked, {} are told", l.all(), requests(&told));
    let minutes = l.read(24 * HOUR, MINUTE).await?;
    ensure!(requests(&minutes) == l.all(), "by minutes {} of {}", requests(&minutes), l.all());
    ensure!(minutes.iter().any(Point::is_spanning), "what was counted meanwhile says so");
    ensure!(
        minutes.iter().map(|p| p.cpu_us).sum::<u64>() <= l.cpu_us,
        "the processor was not used more than it was"
    );
    // a day and an hour without
    let calm = l.clock.now();
    while l.clock.now() < calm + 25 * HOUR {
        l.pass().await?;
        l.sampler.look().await;
    }
    ensure!(requests(&l.read(31 * 24 * HOUR, HOUR).await?) == l.all(), "all of it, by hours");
    for (back, step) in [(HOUR, 10 * SECOND), (24 * HOUR, MINUTE), (24 * HOUR, HOUR), (6 * HOUR, 5 * MINUTE)]
    {
        let told = l.read(back, step).await?;
        let mut truth: BTreeMap<Millis, u64> = BTreeMap::new();
        for (at, n) in &l.asked {
            let at = at - 10 * SECOND;
            *truth.entry(at - at.rem_euclid(step)).or_default() += n;
        }
        ensure!(i64::try_from(told.len())? >= back / step, "{} points of {step} ms", told.len());
        for p in &told {
            let want = truth.get(&p.at).copied();
            ensure!(Some(p.counters.requests()) == want, "{step} ms at {}: {want:?}, not {p:?}", p.at);
            ensure!(p.counters.latency.count == p.counters.requests() && !p.is_spanning(), "{p:?}");
        }
    }
    // what is kept is bounded, however long it goes on
    let (seconds, minutes, hours) = (l.rows(b"g|0|")?, l.rows(b"g|1|")?, l.rows(b"g|2|")?);
    ensure!((60..=75).contains(&seconds), "{seconds} rows of a minute");
    ensure!((96..=100).contains(&minutes), "{minutes} rows of a quarter of an hour");
    ensure!((2..=4).contains(&hours), "{hours} rows of half a day");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_was_away_leaves_a_gap_and_an_end_leaves_what_was_seen() -> Result<()> {
    let mut l = Life::new().await?;
    for _ in 0..30 {
        l.pass().await?;
        l.sampler.look().await;
    }
    // the provider does not answer: nothing is made up
    l.cloud.tell("shop", None);
    let from = l.clock.now();
    for _ in 0..6 {
        tokio::time::advance(Duration::from_secs(10)).await;
        l.sampler.look().await;
    }
    let silent = l.read(HOUR, 10 * SECOND).await?;
    ensure!(silent.iter().all(|p| p.at < from), "a point where nobody answered: {silent:?}");
    l.pass().await?;
    l.sampler.look().await;
    let told = l.read(HOUR, 10 * SECOND).await?;
    let last = told.last().context("no point")?;
    ensure!(last.is_spanning() && last.counted_ms == 70_000 && last.at >= from + 60_000, "{last:?}");
    // away for two hours, and it is taken down before anybody looks again
    l.crash(720).await?;
    l.down().await?;
    l.sampler.look().await;
    ensure!(l.rows(b"h|")? == 0, "one that is over has no head");
    // what was on disk is told in every resolution; up to a minute before the crash, and all that came after it, is not
    let seen: u64 = l.asked.range(..=from - MINUTE).map(|(_, n)| n).sum();
    for step in [MINUTE, HOUR] {
        let told = requests(&l.read(5 * HOUR, step).await?);
        ensure!(told >= seen && told <= l.all(), "{told} told by {step} ms, {seen} were on disk");
    }
    // a month later nothing is left of it
    tokio::time::advance(Duration::from_secs(33 * 24 * 3_600)).await;
    while l.engine.store().trim(l.clock.now()).await? > 0 {}
    ensure!(l.rows(b"g|")? == 0, "points outlive their time");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_just_before_the_end_is_told_too() -> Result<()> {
    let mut l = Life::new().await?;
    l.engine.follow_figures();
    tokio::time::sleep(Duration::from_secs(25)).await;
    for _ in 0..20 {
        l.pass().await?;
    }
    ensure!(l.all() > 0, "nobody asked");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    // in the middle between two looks
    l.gate.requests_by_class[2] += 500;
    let gate = Some(l.gate.clone());
    l.cloud.tell("shop", Some(Stats { gate, ..Default::default() }));
    l.down().await?;
    l.cloud.tell("shop", None);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let told = requests(&l.read(HOUR, MINUTE).await?);
    ensure!(told == l.all() + 500, "{told} of {} are told", l.all() + 500);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_paid_by_use_is_counted_once_whatever_crashes_and_to_the_end() -> Result<()> {
    let mut l = Life::new().await?;
    l.cloud.pay_by_use();
    let begun = l.engine.cell(l.id).context("no cell")?.get().create_ms;
    let begun = begun - begun.rem_euclid(MINUTE);
    let end = l.clock.now() + 7 * HOUR;
    let (mut crashes, mut faults) = (0, 0);
    while l.clock.now() < end {
        l.pass().await?;
        l.sampler.look().await;
        // its provider has trouble of every kind; each is met before the next, and the last one in time
        let asked = l.cloud.calls().iter().filter(|c| *c == "used").count();
        if l.dice(20) == 0 && asked >= faults && l.clock.now() < end - 2 * HOUR {
            let all = [Fault::Transient, Fault::Throttled, Fault::ExecutedTimeout, Fault::Hang];
            let n = usize::try_from(l.dice(4))?;
            l.cloud.inject("used", all.into_iter().nth(n).context("no fault")?);
            faults = asked + 1;
        }
        if l.dice(40) == 0 {
            let away = if l.dice(4) == 0 { l.dice(500) } else { l.dice(3) };
            l.crash(away).await?;
            crashes += 1;
        }
        // what was asked for is written down
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(crashes > 10 && faults > 3, "{crashes} crashes are not many, up to {faults} faults");
    let i = l.engine.cell(l.id).context("no cell")?.get();
    let told = |i: &syp_proto::journal::Instance| -> Result<(Decimal, Decimal)> {
        let [u] = &i.used[..] else { anyhow::bail!("{:?}", i.used) };
        Ok((u.quantity.parse()?, u.amount.parse()?))
    };
    let hours = |ms: Millis| Decimal::from(ms) / Decimal::from(HOUR);
    ensure!(i.used_until_ms > end - 3 * HOUR, "it lags behind: {} at {end}", i.used_until_ms);
    ensure!((told(&i)?.0 - hours(i.used_until_ms - begun)).abs() < Decimal::new(1, 9), "{:?}", i.used);
    // it is among what is spent, beside what exists: 2 an hour beside 1 an hour, by day and in all
    let now = l.clock.now();
    let spent = syp_engine::cost::accrued(&i, now);
    let exists: Decimal = i.ledger.iter().filter(|r| r.billed).map(|r| hours(now - r.intent_ms)).sum();
    ensure!(
        (spent - exists - told(&i)?.1).abs() < Decimal::new(1, 9),
        "{spent} of {exists} and {:?}",
        i.used
    );
    // the last one fails, and is asked once more
    l.cloud.inject("used", Fault::Transient);
    l.down().await?;
    let i = syp_engine::view::load_any(&**l.engine.store(), l.id).await?.context("no record of it")?;
    let (until, gone) = (i.used_until_ms, i.destroy_ms);
    ensure!(
        gone - until < MINUTE && told(&i)?.0 >= hours(7 * HOUR - MINUTE),
        "until {until}, gone at {gone}"
    );
    ensure!((told(&i)?.0 - hours(until - begun)).abs() < Decimal::new(1, 9), "{:?}", i.used);
    let total = i.receipt.as_ref().and_then(|r| r.total_cost.clone()).context("no total")?;
    ensure!(syp_engine::cost::decimal(&total) > told(&i)?.1, "{total:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_paid_by_use_is_within_the_budget() -> Result<()> {
    let mut l = Life::new().await?;
    l.cloud.pay_by_use();
    let who = Caller { actor: "t".into(), ..Default::default() };
    let drain = v1::budget::Threshold { percent: 100, action: v1::budget::Action::Drain as i32 };
    let limit = Some(syp_engine::cost::money(Decimal::from(4), "EUR"));
    let budget = v1::Budget { limit, thresholds: vec![drain], ..Default::default() };
    let edit = syp_proto::journal::Edited { budget: Some(budget), set_budget: true, ..Default::default() };
    let cell = l.engine.cell(l.id).context("no cell")?;
    l.engine.edit(&cell, edit, "", &who).await?;
    // 1 an hour would last for four of them; with 2 more by use it is over in the second, as soon as that is known
    let begun = l.clock.now();
    while cell.get().state() == State::Serving && l.clock.now() < begun + 4 * HOUR {
        l.pass().await?;
        l.sampler.look().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = l.clock.now() - begun;
    ensure!(
        cell.get().state() == State::Draining && took < 5 * HOUR / 2,
        "{:?} after {took} ms",
        cell.get().state()
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_condition_that_did_not_hold_is_told_to_hold_when_it_does() -> Result<()> {
    let (latency, landing) = (Duration::from_millis(1), Duration::ZERO);
    let cloud = FakeCloud::new(Behaviour { latency, landing, lag: Duration::ZERO });
    cloud.holds(false);
    let mut l = Life::on(cloud).await?;
    let cell = l.engine.cell(l.id).context("no cell")?;
    let status = || cell.get().conditions.iter().find(|c| c.r#type == MENDS).map(|c| c.status());
    let asked = |l: &Life| l.cloud.calls().iter().filter(|c| *c == "holds now").count();
    let minutes = async |l: &mut Life, n: usize| -> Result<()> {
        for _ in 0..n * 6 {
            l.pass().await?;
            l.sampler.look().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    minutes(&mut l, 5).await?;
    ensure!(status() == Some(Status::False), "{:?}", status());
    ensure!((4..=6).contains(&asked(&l)), "asked {} times in 5 minutes", asked(&l));
    // nobody knows: nothing new is told
    l.cloud.inject("holds now", Fault::Transient);
    minutes(&mut l, 2).await?;
    ensure!(status() == Some(Status::False), "{:?}", status());
    l.cloud.holds(true);
    minutes(&mut l, 2).await?;
    ensure!(status() == Some(Status::True), "{:?}", status());
    let (before, seq) = (asked(&l), cell.get().head_seq);
    // what holds is not looked at again, and nothing is written
    minutes(&mut l, 3).await?;
    ensure!(asked(&l) == before && cell.get().head_seq == seq, "{before} {seq}");
    Ok(())
}
