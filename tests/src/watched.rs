//! An instance that serves on the fake cloud, in virtual time, with an engine that listens to it.
use crate::sim::behaviour;
use anyhow::{Context, Result, ensure};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use syp_engine::{
    cell::Cell,
    clock::Clock,
    door::Door,
    engine::{Caller, Engine, NewInstance, Options},
    fault::NoFaults,
    graph::State,
    id::{InstanceId, OperationId},
    ops::Updating,
    revision,
    store::{MemKv, open_inline},
    vault::Vault,
};
use syp_proto::{journal::Revision, v1};
use syp_steps::fake::FakeCloud;
use tokio::time::{Instant, sleep};

/// All of it.
pub struct Watched {
    /// The engine.
    pub engine: Engine,
    /// What it makes its things on.
    pub cloud: FakeCloud,
    /// The instance.
    pub cell: Arc<Cell>,
    clock: Clock,
    disk: Arc<MemKv>,
}

/// Who asks.
pub fn who() -> Caller {
    Caller { actor: "t".into(), ..Default::default() }
}

async fn engine(cloud: &FakeCloud, clock: &Clock, disk: &Arc<MemKv>) -> Result<Engine> {
    let disk: Arc<MemKv> = Arc::clone(disk);
    Engine::start(Options {
        store: open_inline(disk)?,
        targets: vec![Arc::new(cloud.clone())],
        resolve: None,
        clock: clock.clone(),
        faults: Arc::new(NoFaults),
        door: Arc::new(Door::new(None)),
        vault: Vault::new(&vec![7; 32].into()),
    })
    .await
    .map_err(Into::into)
}

// === impl Watched ===

impl Watched {
    /// It serves, and the engine has looked once.
    ///
    /// # Errors
    /// It does not.
    pub async fn start() -> Result<Self> {
        let (cloud, clock, disk) =
            (FakeCloud::new(behaviour(0, 0)), Clock::virtual_now(), Arc::new(MemKv::default()));
        let engine = engine(&cloud, &clock, &disk).await?;
        let uid = InstanceId::random();
        let new = NewInstance {
            project: "p".into(),
            name: "i".into(),
            uid,
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
        engine.create(&who(), new).await?;
        let cell = engine.cell(uid).context("no instance")?;
        let out = Self { engine, cloud, cell, clock, disk };
        out.listening().await?;
        Ok(out)
    }

    async fn listening(&self) -> Result<()> {
        self.until("it serves", || self.cell.get().state() == State::Serving).await?;
        self.engine.watch_targets();
        sleep(Duration::from_secs(1)).await;
        Ok(())
    }

    /// As after a `kill -9`: another engine on the same disk and cloud.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restarted(self) -> Result<Self> {
        self.engine.kill();
        let engine = engine(&self.cloud, &self.clock, &self.disk).await?;
        let cell = engine.cell(self.cell.id).context("no instance")?;
        let out = Self { engine, cell, ..self };
        out.listening().await?;
        Ok(out)
    }

    /// Within a minute: a full look takes five.
    ///
    /// # Errors
    /// It never was.
    pub async fn until(&self, what: &str, seen: impl Fn() -> bool) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        while !seen() {
            ensure!(Instant::now() < end, "{what}: not within a minute: {:?}", self.cell.get().run);
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Another revision.
    ///
    /// # Errors
    /// The engine's.
    pub async fn update(&self, hold: bool) -> Result<OperationId> {
        let i = self.cell.get();
        let new = Revision {
            no: revision::next_number(&i),
            spec: i.spec.as_ref().map(revision::part),
            facts: "{}".into(),
            hourly_rate: i.hourly_rate.clone(),
            ..Default::default()
        };
        let how = Updating { verb: "set", hold, ..Default::default() };
        Ok(self.engine.update(&self.cell, &new, None, Default::default(), &how, &who()).await?)
    }

    /// Is something of this node there?
    pub fn there(&self, node: &str) -> bool {
        self.cloud.live().iter().any(|o| o.node == node)
    }

    /// Somebody removes what a node made.
    pub fn kill(&self, node: &str) {
        for o in self.cloud.live().iter().filter(|o| o.node == node) {
            self.cloud.kill(&o.id.to_string());
        }
    }
}
