//! A world in virtual time: the real engine over memory that forgets what was not synced, against the fake cloud.
//!
//! A run is one life: `up`, (until Serving), `down`, until Destroyed, with crashes at chosen hits of the crash points. After every
//! crash a new engine opens the same store. At the end the cloud must be empty and the store must agree with its journal.
use anyhow::{Context, Result, bail, ensure};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use syp_engine::{
    cell::Cell,
    clock::Clock,
    door::Door,
    engine::{Caller, Engine, NewInstance, Options},
    error::Error,
    fault::{Faults, Point},
    fold::fold,
    graph::{RunKind, State},
    id::InstanceId,
    ops::TransitionOptions,
    revision,
    store::{MemKv, open_inline},
    vault::Vault,
};
use syp_proto::{
    journal::{Edited, Instance, LedgerRow, Record, Revision, ledger_row, record::Body, undo_outcome},
    v1::{
        self,
        budget::{Action, Period, Threshold},
    },
};
use syp_steps::fake::{Behaviour, FakeCloud, Fault};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// What a run is put through.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The cloud.
    pub behaviour: Behaviour,
    /// Crash at these hits of crash points, counted over the whole run from 1.
    pub crashes: Vec<usize>,
    /// Faults of the provider.
    pub faults: Vec<(&'static str, Fault)>,
    /// The cloud says what it does.
    pub talks: bool,
    /// Revisions to bring once it serves, one after another.
    pub updates: i64,
    /// Ask for these in turn, each once the journal has so many records.
    pub at_record: Vec<(u64, Ask)>,
}

/// Something a user asks for in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Cancel the open operation.
    Cancel,
    /// Drain.
    Drain,
    /// Destroy.
    Delete,
    /// Back to serving.
    Resume,
    /// Find something broken.
    Repair,
    /// Let its time be over.
    Expire,
    /// Another revision.
    Update,
    /// A budget that is spent at once, and ends it.
    Budget,
}

/// What a run was like.
#[derive(Debug)]
pub struct Outcome {
    /// Hits of crash points.
    pub hits: usize,
    /// Which (point, what) were hit.
    pub seen: BTreeSet<(Point, String)>,
    /// Number of starts.
    pub boots: usize,
    /// Did it serve?
    pub served: bool,
    /// The final projection.
    pub instance: Instance,
    /// Its whole journal.
    pub records: Vec<Record>,
    /// Objects of one key alive together while it served, at most.
    pub most_alive: usize,
}

/// Crash points of a simulated process.
#[derive(Debug, Default)]
struct SimFaults {
    hits: Mutex<(usize, BTreeSet<(Point, String)>)>,
    at: Vec<usize>,
    crashed: Mutex<CancellationToken>,
}

#[async_trait]
impl Faults for SimFaults {
    async fn at(&self, point: Point, what: &str) {
        let crash = {
            let mut h = self.hits.lock();
            h.0 += 1;
            h.1.insert((point, what.to_owned()));
            self.at.contains(&h.0)
        };
        if crash {
            self.crashed.lock().cancel();
            std::future::pending::<()>().await;
        }
    }
}

/// A cloud of the model: creates land late, listings lag.
pub fn behaviour(landing_ms: u64, lag_ms: u64) -> Behaviour {
    Behaviour {
        latency: Duration::from_millis(10),
        landing: Duration::from_millis(landing_ms),
        lag: Duration::from_millis(lag_ms),
    }
}

// === impl Scenario ===

impl Scenario {
    /// No crash, no fault.
    pub fn plain(landing_ms: u64, lag_ms: u64) -> Self {
        Self {
            behaviour: behaviour(landing_ms, lag_ms),
            crashes: vec![],
            faults: vec![],
            talks: false,
            updates: 0,
            at_record: vec![],
        }
    }

    /// With so many updates before the end.
    pub fn updates(mut self, n: i64) -> Self {
        self.updates = n;
        self
    }

    /// With a cloud that says what it does.
    pub fn talking(mut self) -> Self {
        self.talks = true;
        self
    }

    /// With crashes at hits.
    pub fn crash_at(mut self, hits: &[usize]) -> Self {
        self.crashes = hits.to_vec();
        self
    }

    /// With a user who asks for something once the journal has so many records.
    pub fn ask(mut self, at: u64, ask: Ask) -> Self {
        self.at_record.push((at, ask));
        self
    }

    /// With faults at calls.
    pub fn fault(mut self, call: &'static str, fault: Fault) -> Self {
        self.faults.push((call, fault));
        self
    }
}

/// Runs one life.
///
/// # Errors
/// The invariant that broke.
pub async fn run(s: &Scenario) -> Result<Outcome> {
    let kv = MemKv::default();
    let cloud = FakeCloud::new(s.behaviour);
    for (call, fault) in &s.faults {
        cloud.inject(call, *fault);
    }
    if s.talks {
        cloud.talk();
    }
    let faults = Arc::new(SimFaults { at: s.crashes.clone(), ..Default::default() });
    let uid = InstanceId::random();
    let mut life = Life { s, kv, cloud, faults, uid, served: false, asked: 0, most_alive: 0 };
    for boots in 1..=60 {
        if let Some(instance) = life.boot().await? {
            let records = life.judge(&instance).await?;
            let h = life.faults.hits.lock();
            return Ok(Outcome {
                hits: h.0,
                seen: h.1.clone(),
                boots,
                served: life.served,
                instance,
                records,
                most_alive: life.most_alive,
            });
        }
        life.kv.crash();
        *life.faults.crashed.lock() = CancellationToken::new();
        sleep(Duration::from_millis(1)).await;
    }
    bail!("no end after 60 starts")
}

struct Life<'a> {
    s: &'a Scenario,
    kv: MemKv,
    cloud: FakeCloud,
    faults: Arc<SimFaults>,
    uid: InstanceId,
    served: bool,
    asked: usize,
    most_alive: usize,
}

impl Life<'_> {
    /// One process. `None`: it crashed.
    async fn boot(&mut self) -> Result<Option<Instance>> {
        let crashed = self.faults.crashed.lock().clone();
        let store = open_inline(Arc::new(self.kv.clone()))?;
        let options = Options {
            store,
            targets: vec![Arc::new(self.cloud.clone())],
            resolve: None,
            clock: Clock::virtual_now(),
            faults: Arc::<SimFaults>::clone(&self.faults),
            door: Arc::new(Door::new(None)),
            vault: Vault::new(&vec![7; 32].into()),
        };
        let engine = tokio::select! {
            biased;
            () = crashed.cancelled() => return Ok(None),
            e = Engine::start(options) => e?,
        };
        let ended = tokio::select! {
            biased;
            () = crashed.cancelled() => None,
            r = self.drive(&engine) => Some(r?),
        };
        engine.kill();
        Ok(ended)
    }

    async fn drive(&mut self, e: &Engine) -> Result<Instance> {
        let known = e.store().load(self.uid).await?;
        if known.is_none() {
            let new = NewInstance {
                project: "p".into(),
                name: "i".into(),
                uid: self.uid,
                labels: BTreeMap::new(),
                spec: v1::InstanceSpec {
                    target: "fake".into(),
                    image: "x".into(),
                    port: 1,
                    ..Default::default()
                },
                facts: serde_json::json!({}),
                hourly: syp_engine::cost::money(rust_decimal::Decimal::ONE, "EUR"),
                expire_ms: 0,
                deadline_ms: 0,
                bound: Default::default(),
            };
            e.create(&Caller { actor: "t".into(), ..Default::default() }, new).await?;
        }
        let mut news = e.changes().subscribe();
        loop {
            let Some(cell) = e.cell(self.uid) else {
                let i = e.store().load(self.uid).await?.context("the instance vanished")?.instance;
                return i.map_err(anyhow::Error::msg);
            };
            let i = cell.get();
            self.ask(e, &i).await?;
            // what was asked for has changed it
            let i = cell.get();
            if i.state() == State::Serving && i.run.is_none() {
                self.served = true;
                self.count();
                if i.generation <= self.s.updates {
                    self.update(e, &cell).await?;
                } else if i.revert_ms == 0 {
                    self.down(e).await?;
                }
            }
            if i.state() == State::Draining && i.run.is_none() {
                self.down(e).await?;
            }
            tokio::time::timeout(Duration::from_secs(7_200), news.changed())
                .await
                .with_context(|| format!("nothing happens any more in {:?}: {:?}", i.state(), i.run))??;
        }
    }

    fn count(&mut self) {
        let mut by_key: BTreeMap<String, usize> = BTreeMap::new();
        for o in self.cloud.live() {
            *by_key.entry(o.key).or_default() += 1;
        }
        self.most_alive = self.most_alive.max(by_key.values().copied().max().unwrap_or(0));
    }

    async fn update(&self, e: &Engine, cell: &Arc<Cell>) -> Result<(), Error> {
        let i = cell.get();
        let new = Revision {
            no: revision::next_number(&i),
            spec: i.spec.as_ref().map(revision::part),
            facts: "{}".into(),
            hourly_rate: i.hourly_rate.clone(),
            ..Default::default()
        };
        let who = Caller { actor: "t".into(), ..Default::default() };
        let how = syp_engine::ops::Updating { verb: "set", ..Default::default() };
        e.update(cell, &new, None, Default::default(), &how, &who).await.map(drop)
    }

    async fn down(&self, e: &Engine) -> Result<()> {
        let Some(cell) = e.cell(self.uid) else { return Ok(()) };
        let o = TransitionOptions { verb: "down".into(), ..Default::default() };
        e.transition(&cell, State::Destroyed, &o, &Caller { actor: "t".into(), ..Default::default() })
            .await?;
        Ok(())
    }

    async fn ask(&mut self, e: &Engine, i: &Instance) -> Result<()> {
        let Some((n, ask)) = self.s.at_record.get(self.asked).copied() else { return Ok(()) };
        if i.head_seq < n {
            return Ok(());
        }
        self.asked += 1;
        let Some(cell) = e.cell(self.uid) else { return Ok(()) };
        let who = Caller { actor: "t".into(), ..Default::default() };
        let verb = TransitionOptions { verb: "asked".into(), ..Default::default() };
        let r = match (ask, &i.run) {
            (Ask::Cancel, Some(run)) => {
                e.cancel(syp_engine::id::OperationId { instance: self.uid, run: run.no }, &who).await
            }
            (Ask::Cancel, None) => Ok(()),
            (Ask::Drain, _) => e.transition(&cell, State::Draining, &verb, &who).await.map(drop),
            (Ask::Delete, _) => e.transition(&cell, State::Destroyed, &verb, &who).await.map(drop),
            (Ask::Resume, _) => e.transition(&cell, State::Serving, &verb, &who).await.map(drop),
            (Ask::Repair, _) => e.drift(&cell, vec!["broken on purpose".into()], |_| true).await.map(drop),
            (Ask::Update, _) => self.update(e, &cell).await,
            (Ask::Budget, _) => {
                let line = Threshold { percent: 100, action: Action::Destroy as i32 };
                let budget = Some(v1::Budget {
                    limit: Some(syp_engine::cost::money(rust_decimal::Decimal::new(1, 6), "EUR")),
                    period: Period::Lifetime as i32,
                    thresholds: vec![line],
                    ..Default::default()
                });
                let edit = Edited { set_budget: true, budget, ..Default::default() };
                e.edit(&cell, edit, "", &who).await.map(drop)
            }
            (Ask::Expire, _) => {
                let edit = Edited { set_expire: true, expire_ms: e.clock().now(), ..Default::default() };
                e.edit(&cell, edit, "", &who).await.map(drop)
            }
        };
        match r {
            // a state in which it can't be asked for is a right answer
            Ok(()) | Err(Error::NotAllowed { .. } | Error::InProgress(_)) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    async fn judge(&self, i: &Instance) -> Result<Vec<Record>> {
        ensure!(i.state() == State::Destroyed, "ended in {:?}", i.state());
        ensure!(self.most_alive <= 1, "{} objects of one key at once", self.most_alive);
        // whatever could still land has landed then
        sleep(Duration::from_secs(3_600)).await;
        let left = self.cloud.live();
        ensure!(left.is_empty(), "left behind: {left:?}");
        let receipt = i.receipt.as_ref().context("no receipt")?;
        ensure!(receipt.created_count == receipt.verified_gone_count, "receipt: {receipt:?}");
        let store = open_inline(Arc::new(self.kv.clone()))?;
        let (records, bad) = store.fsck().await?;
        ensure!(records == i.head_seq && bad.is_empty(), "fsck: {records} records, {bad:?}");
        // what is being removed never serves again (I8)
        let mut removing = false;
        let mut at = Instance { uid: self.uid.to_string(), ..Default::default() };
        let records = store.events(self.uid, 0, usize::MAX).await?;
        for r in &records {
            knows_what_is_gone(&at, r)?;
            fold(&mut at, r)?;
            serves_what_exists(&at)?;
            let tearing = at.run.as_ref().is_some_and(|r| r.kind() == RunKind::Teardown);
            removing |= tearing && matches!(r.body, Some(Body::UndoIntent(_)));
            let serves = matches!(&r.body, Some(Body::Transition(t)) if t.to == State::Serving as i32);
            ensure!(!(removing && serves), "record {}: back to serving while it is being removed", r.seq);
        }
        self.all_is_told(&records)?;
        Ok(records)
    }

    /// What the cloud has said is in the journal: all of it, each of a row once, and in order.
    fn all_is_told(&self, records: &[Record]) -> Result<()> {
        let mut last: BTreeMap<u32, i64> = BTreeMap::new();
        let mut told = BTreeSet::new();
        for r in records {
            let Some(Body::ProviderEvent(t)) = &r.body else { continue };
            let before = last.insert(t.entry, t.event_ms).unwrap_or(0);
            ensure!(before <= t.event_ms, "record {}: '{}' is told late", r.seq, t.message);
            ensure!(told.insert((t.entry, t.id.clone())), "record {}: '{}' is told again", r.seq, t.message);
        }
        for e in self.cloud.said() {
            ensure!(told.iter().any(|(_, id)| *id == e.text), "'{}' is not told", e.text);
        }
        Ok(())
    }
}

/// Of whatever the cloud has told, its handle is known by the time it is gone, however its making ended.
fn knows_what_is_gone(i: &Instance, r: &Record) -> Result<()> {
    let Some(Body::UndoOutcome(o)) = &r.body else { return Ok(()) };
    let gone = o.result() == undo_outcome::Result::Gone;
    let row = i.ledger.iter().find(|row| gone && row.ordinal == o.entry && row.last_event.is_some());
    ensure!(row.is_none_or(|row| row.handle == row.key), "record {}: gone without a handle: {row:?}", r.seq);
    Ok(())
}

/// Whatever serves is there, also in the middle of an update and of one that fails.
fn serves_what_exists(i: &Instance) -> Result<()> {
    if i.state() != State::Serving {
        return Ok(());
    }
    let number = revision::number(i);
    let node = if number < 2 { "d".to_owned() } else { format!("d{number}") };
    let there = |r: &LedgerRow| r.node == node && r.state() == ledger_row::State::Exists;
    ensure!(i.ledger.iter().any(there), "record {}: {node} serves and is not there", i.head_seq);
    Ok(())
}
