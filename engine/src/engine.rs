//! The engine: opens the store, goes on where it stopped, and offers the operations of the API in plain Rust.
use crate::{
    calls,
    cell::Cell,
    changes::Changes,
    clock::{Clock, Millis},
    door::Door,
    error::Error,
    fault::{Faults, Point},
    graph::{self, State},
    id::InstanceId,
    inner::Inner,
    scheduler,
    series::Series,
    shared,
    step::Target,
    store::{self, Store},
    targets::{Resolve, Targets},
    timer::Timer,
    vault::Vault,
    worker,
};
use futures_util::FutureExt;
use parking_lot::{Mutex, RwLock};
use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};
use syp_proto::journal::{self, Failure, Instance, record::Body};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What an engine is made of.
pub struct Options {
    /// Where the journal lives.
    pub store: Arc<dyn Store>,
    /// The providers.
    pub targets: Vec<Arc<dyn Target>>,
    /// Finds more of them by name.
    pub resolve: Option<Arc<dyn Resolve>>,
    /// Time.
    pub clock: Clock,
    /// Crash points (tests).
    pub faults: Arc<dyn Faults>,
    /// Issuers for the gates.
    pub door: Arc<Door>,
    /// Secrets.
    pub vault: Arc<Vault>,
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

/// Who asks, and under which request id.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// For the journal.
    pub actor: String,
    /// Client's id of the request; empty: none.
    pub request_id: String,
    /// Hash of the request, so that one id can't mean two things.
    pub request_hash: Vec<u8>,
}

/// A new instance, checked by preflight.
#[derive(Clone, Debug)]
pub struct NewInstance {
    /// Project.
    pub project: String,
    /// Name.
    pub name: String,
    /// Incarnation.
    pub uid: InstanceId,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// With defaults filled in.
    pub spec: syp_proto::v1::InstanceSpec,
    /// What preflight found.
    pub facts: serde_json::Value,
    /// Per hour.
    pub hourly: syp_proto::google::r#type::Money,
    /// 0: never.
    pub expire_ms: Millis,
    /// 0: the default of 10 minutes.
    pub deadline_ms: Millis,
    /// The secrets that the spec names.
    pub bound: shared::Bound,
}

/// How often the store lets go of what is over its time.
const TRIM_EVERY: Duration = Duration::from_secs(24 * 3600);

// === impl Engine ===

impl Engine {
    /// Loads every live instance and goes on with what was open.
    ///
    /// # Errors
    /// What the store says; a single unreadable instance is not an error but blocked by itself (I17).
    pub async fn start(o: Options) -> Result<Self, Error> {
        graph::Graph::load(graph::TABLE).map_err(|e| Error::Internal(e.to_string()))?;
        let epoch = o.store.boot_epoch();
        let shared = shared::Directory::load(&*o.store, o.clock.now()).await?;
        let inner = Arc::new(Inner {
            shared,
            epoch,
            targets: Targets::new(o.targets, o.resolve),
            store: o.store,
            clock: o.clock,
            faults: o.faults,
            door: o.door,
            vault: o.vault,
            timer: Timer::default(),
            changes: Changes::default(),
            series: Series::default(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            cells: RwLock::default(),
            names: Mutex::default(),
            pricing: tokio::sync::Mutex::default(),
            asking: crate::bill::Asking::default(),
            tasks: TaskTracker::new(),
        });
        let engine = Self { inner };
        engine.inner.faults.at(Point::Recovering, "").await;
        let mut after = None;
        loop {
            let page = engine.inner.store.load_live(after).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            page.into_iter().for_each(|l| engine.adopt(cell_of(l)));
        }
        let cells: Vec<_> = engine.inner.cells.read().values().cloned().collect();
        engine.tell_of_restore(&cells).await?;
        engine.set_back(&cells).await;
        engine.spawn_timer();
        engine.spawn_trimmer();
        engine.stop_with_store();
        engine.watch_clock();
        for cell in cells {
            engine.kick(&cell);
        }
        engine.resume_rollouts();
        Ok(engine)
    }

    /// Every instance must know of a restore before anything else is done to it: what it thinks that gates have may be old.
    async fn tell_of_restore(&self, cells: &[Arc<Cell>]) -> Result<(), Error> {
        let Some(at) = store::restored_at(&*self.inner.store).await? else { return Ok(()) };
        let who = Caller { actor: "engine".into(), ..Default::default() };
        for cell in cells.iter().filter(|c| c.blocked().is_none() && c.get().restored_ms < at) {
            let _guard = cell.writer.lock().await;
            let body = Body::Restored(journal::Restored { restored_ms: at });
            self.append_locked(cell, vec![body], &who, None).await?;
        }
        Ok(())
    }

    pub(crate) fn adopt(&self, cell: Arc<Cell>) {
        let i = cell.get();
        if cell.blocked().is_none() {
            self.inner.names.lock().insert((i.project.clone(), i.name.clone()), cell.id);
        }
        self.inner.cells.write().insert(cell.id, cell);
    }

    /// Whoever met the failed write: an engine that can only read would look alive and do nothing.
    fn stop_with_store(&self) {
        let e = self.clone();
        self.spawn(async move {
            tokio::select! {
                () = e.inner.store.closed() => {
                    tracing::error!("the store can't be written any more: the engine stops, a new start goes on");
                    e.inner.stop.cancel();
                }
                () = e.inner.stop.cancelled() => {}
            }
        });
    }

    fn spawn_timer(&self) {
        let e = self.clone();
        self.spawn(async move {
            loop {
                let id = e.inner.timer.next(&e.inner.clock).await;
                if let Some(cell) = e.cell(id) {
                    e.kick(&cell);
                }
            }
        });
    }

    fn spawn_trimmer(&self) {
        let e = self.clone();
        self.spawn(async move {
            loop {
                if let Err(error) = e.tidy_secrets().await {
                    tracing::warn!(%error, "old versions of secrets are not let go");
                }
                match e.inner.store.trim(e.inner.clock.now()).await {
                    Ok(0) => tokio::time::sleep(TRIM_EVERY).await,
                    Ok(n) => tracing::info!(n, "let go of what is over its time"),
                    Err(error) => {
                        tracing::warn!(%error, "history is not trimmed");
                        tokio::time::sleep(TRIM_EVERY).await;
                    }
                }
            }
        });
    }

    /// Runs a task of the engine: it ends with [`Engine::kill`], and [`Engine::shutdown`] waits for workers.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (kill, stop) = (self.inner.kill.clone(), self.inner.stop.clone());
        drop(tokio::spawn(async move {
            tokio::select! {
                biased;
                () = kill.cancelled() => {}
                () = stop.cancelled() => {}
                () = task => {}
            }
        }));
    }

    /// Makes sure that somebody works on the instance.
    pub fn kick(&self, cell: &Arc<Cell>) {
        if cell.blocked().is_some() || self.inner.stop.is_cancelled() {
            return;
        }
        if !cell.take() {
            cell.wake.notify_one();
            return;
        }
        let d = scheduler::decide(&cell.get(), self.inner.clock.now());
        if d.records.is_empty() && d.calls.is_empty() && d.trigger.is_none() {
            // parked: no task, only a time
            self.inner.timer.set(cell.id, d.wake_at);
            cell.running.store(false, std::sync::atomic::Ordering::Release);
            cell.rest();
            return;
        }
        let (kill, cell) = (self.inner.kill.clone(), Arc::clone(cell));
        let work = AssertUnwindSafe(worker::run(Arc::clone(&self.inner), Arc::clone(&cell))).catch_unwind();
        drop(self.inner.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = kill.cancelled() => {}
                // of the engine itself: what calls a provider is caught where it is called
                ended = work => if ended.is_err() {
                    cell.block("the engine failed on this instance; its log says where".into());
                }
            }
        }));
    }

    /// The live instance of an id.
    pub fn cell(&self, id: InstanceId) -> Option<Arc<Cell>> {
        self.inner.cells.read().get(&id).cloned()
    }

    /// All live instances, and those destroyed since the start.
    pub fn cells(&self) -> Vec<Arc<Cell>> {
        self.inner.cells.read().values().cloned().collect()
    }

    /// The live instance of a name.
    pub fn by_name(&self, project: &str, name: &str) -> Option<Arc<Cell>> {
        let id = *self.inner.names.lock().get(&(project.to_owned(), name.to_owned()))?;
        self.cell(id)
    }

    /// Ends: no new calls, what is under way gets `grace`, then everything is dropped.
    pub async fn shutdown(&self, grace: Duration) {
        self.inner.stop.cancel();
        for cell in self.cells() {
            cell.wake.notify_one();
        }
        self.inner.tasks.close();
        let _ = tokio::time::timeout(grace, self.inner.tasks.wait()).await;
        self.inner.kill.cancel();
    }

    /// Ends at once, as a crash would (tests).
    pub fn kill(&self) {
        self.inner.stop.cancel();
        self.inner.kill.cancel();
    }

    /// Resolves when the engine can't go on because its store failed.
    pub async fn stopped(&self) {
        self.inner.stop.cancelled().await;
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// Secrets.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.inner.vault
    }

    /// Time.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Changes of all instances.
    pub fn changes(&self) -> &Changes {
        &self.inner.changes
    }

    /// Figures over time of all instances that are looked at.
    pub fn series(&self) -> &Series {
        &self.inner.series
    }

    /// The providers that are known by now.
    pub fn targets(&self) -> impl Iterator<Item = Arc<dyn Target>> + use<> {
        self.inner.targets.all().into_iter()
    }

    /// A provider by the name in `spec.target`.
    ///
    /// # Errors
    /// `TARGET_UNKNOWN`, naming those that are there; or why it can't be had.
    pub fn target(&self, name: &str) -> Result<Arc<dyn Target>, Failure> {
        self.inner.targets.get(name).map(|p| Arc::clone(&p.target))
    }

    /// What a node of a plan would change, where its step says so; `i` as it would be by then.
    pub(crate) async fn rehearse(
        &self,
        i: &Instance,
        n: &syp_proto::journal::PlanNode,
    ) -> Result<Option<crate::step::Rehearsed>, Failure> {
        let Some(effect) = &n.effect else { return Ok(None) };
        let params = serde_json::from_str(&n.params).unwrap_or(serde_json::Value::Null);
        let cx = calls::planned(&self.inner, i, &n.id, params);
        self.inner.step(i, &n.kind)?.rehearse(&cx, &effect.key).await
    }

    /// Context for figures and logs of an instance.
    pub fn context(&self, cell: &Cell) -> crate::step::StepCx {
        calls::context(&self.inner, cell, &cell.get(), "", serde_json::Value::Null, CancellationToken::new())
    }
}

/// An unreadable instance is blocked by itself.
fn cell_of(loaded: store::Loaded) -> Arc<Cell> {
    let (instance, corrupt) = match loaded.instance {
        Ok(i) => (i, None),
        Err(why) => (Instance { uid: loaded.id.to_string(), ..Default::default() }, Some(why)),
    };
    let cell = Cell::new(loaded.id, instance);
    match corrupt {
        Some(why) => cell.block(why),
        None => cell.rest(),
    }
    cell
}

/// Is it at rest, with nothing to wait for?
pub fn is_settled(i: &Instance) -> bool {
    i.run.is_none() && i.state() != State::Pending
}
