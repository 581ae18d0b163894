//! The engine: opens the store, goes on where it stopped, and offers the operations of the API in plain Rust.
use crate::{
    calls,
    cell::Cell,
    changes::Changes,
    clock::{Clock, Millis},
    door::Door,
    error::Error,
    failure::{Class, failure},
    fault::{Faults, Point},
    fold::fold,
    graph::{self, RunKind, State, Trigger},
    id::{InstanceId, OperationId},
    plan, scheduler,
    step::{Step, Target},
    store::{self, Commit, Store},
    timer::Timer,
    worker,
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use syp_proto::journal::{self, Answer, Failure, Instance, Plan, Record, record::Body};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What an engine is made of.
pub struct Options {
    /// Where the journal lives.
    pub store: Arc<dyn Store>,
    /// The providers.
    pub targets: Vec<Arc<dyn Target>>,
    /// Time.
    pub clock: Clock,
    /// Crash points (tests).
    pub faults: Arc<dyn Faults>,
    /// Issuers for the gates.
    pub door: Arc<Door>,
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub store: Arc<dyn Store>,
    pub targets: BTreeMap<&'static str, Arc<dyn Target>>,
    pub clock: Clock,
    pub faults: Arc<dyn Faults>,
    pub door: Arc<Door>,
    pub epoch: u64,
    pub timer: Timer,
    pub changes: Changes,
    /// No new calls; what is under way ends.
    pub stop: CancellationToken,
    /// Everything is dropped where it stands.
    pub kill: CancellationToken,
    pub cells: RwLock<HashMap<InstanceId, Arc<Cell>>>,
    /// Newest incarnation of each live name.
    pub names: Mutex<HashMap<(String, String), InstanceId>>,
    tasks: TaskTracker,
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
}

/// How often the stamps of key sets are compared (in memory; issuers are asked by their own schedule).
const UP_DEADLINE_MS: Millis = 600_000;

// === impl Engine ===

impl Engine {
    /// Loads every live instance and goes on with what was open.
    ///
    /// # Errors
    /// What the store says; a single unreadable instance is not an error but blocked by itself (I17).
    pub async fn start(o: Options) -> Result<Self, Error> {
        graph::Graph::load(graph::TABLE).map_err(|e| Error::Internal(e.to_string()))?;
        let epoch = o.store.boot_epoch();
        let inner = Arc::new(Inner {
            epoch,
            targets: o.targets.into_iter().map(|t| (t.name(), t)).collect(),
            store: o.store,
            clock: o.clock,
            faults: o.faults,
            door: o.door,
            timer: Timer::default(),
            changes: Changes::default(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            cells: RwLock::default(),
            names: Mutex::default(),
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
        engine.spawn_timer();
        let cells: Vec<_> = engine.inner.cells.read().values().cloned().collect();
        for cell in cells {
            engine.kick(&cell);
        }
        Ok(engine)
    }

    fn adopt(&self, cell: Arc<Cell>) {
        let i = cell.get();
        if cell.corrupt.is_none() {
            self.inner.names.lock().insert((i.project.clone(), i.name.clone()), cell.id);
        }
        self.inner.cells.write().insert(cell.id, cell);
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
        if cell.corrupt.is_some() || self.inner.stop.is_cancelled() {
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
        let kill = self.inner.kill.clone();
        let work = worker::run(Arc::clone(&self.inner), Arc::clone(cell));
        drop(self.inner.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = kill.cancelled() => {}
                () = work => {}
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

    /// Time.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Changes of all instances.
    pub fn changes(&self) -> &Changes {
        &self.inner.changes
    }

    /// The providers.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<dyn Target>> {
        self.inner.targets.values()
    }

    /// A provider by the name in `spec.target`.
    ///
    /// # Errors
    /// `TARGET_UNKNOWN`, naming those that are there.
    pub fn target(&self, name: &str) -> Result<&Arc<dyn Target>, Failure> {
        let key = name.strip_prefix("providers/").unwrap_or(name).split('/').next().unwrap_or_default();
        self.inner.targets.get(key).ok_or_else(|| {
            let known = self.inner.targets.keys().copied().collect::<Vec<_>>().join(", ");
            failure(
                Class::Terminal,
                "TARGET_UNKNOWN",
                format!("there is no target '{name}'"),
                format!("use one of: {known}"),
            )
        })
    }

    /// Context for figures and logs of an instance.
    pub fn context(&self, cell: &Cell) -> crate::step::StepCx {
        calls::context(&self.inner, cell, &cell.get(), "", serde_json::Value::Null, CancellationToken::new())
    }

    /// Creates: the instance, its first run and the answer to the request id are one commit.
    ///
    /// # Errors
    /// [`Error::NameInUse`], [`Error::Store`], or a plan that is not sound.
    pub async fn create(&self, who: &Caller, n: NewInstance) -> Result<OperationId, Error> {
        let e = &self.inner;
        let name = (n.project.clone(), n.name.clone());
        if let Some(id) = e.names.lock().insert(name.clone(), n.uid) {
            e.names.lock().insert(name, id);
            return Err(Error::NameInUse(id));
        }
        let result = self.create_reserved(who, n).await;
        if result.is_err() {
            e.names.lock().remove(&name);
        }
        result
    }

    async fn create_reserved(&self, who: &Caller, n: NewInstance) -> Result<OperationId, Error> {
        let e = &self.inner;
        let target = self.target(&n.spec.target).map_err(Error::Refused)?;
        let mut i = Instance { uid: n.uid.to_string(), ..Default::default() };
        let cell = Cell::new(n.uid, i.clone(), None);
        i.name.clone_from(&n.name);
        i.revision = format!("{}-1", n.name);
        let plan = target.plan(RunKind::Provision, &calls::owner(e, &i), &n.spec, &n.facts);
        plan::validate(&plan).map_err(|x| Error::Internal(x.to_string()))?;
        let now = e.clock.now();
        let bodies = vec![
            Body::Created(journal::Created {
                project: n.project,
                name: n.name,
                labels: n.labels.into_iter().collect(),
                spec: Some(n.spec),
                facts: n.facts.to_string(),
                creator: who.actor.clone(),
                expire_ms: n.expire_ms,
                hourly_rate: Some(n.hourly),
                graph_version: graph::VERSION,
            }),
            Body::RunCreated(journal::RunCreated {
                run: 1,
                kind: RunKind::Provision as i32,
                plan: Some(plan),
                deadline_ms: now + if n.deadline_ms > 0 { n.deadline_ms } else { UP_DEADLINE_MS },
                request_id: who.request_id.clone(),
                cause: None,
                verb: "up".into(),
            }),
        ];
        let op = OperationId { instance: n.uid, run: 1 };
        self.append(&cell, bodies, who, Some(op)).await?;
        self.adopt(Arc::clone(&cell));
        self.kick(&cell);
        Ok(op)
    }

    /// Appends records that somebody outside asked for. The caller of this holds no lock; it is taken here.
    pub(crate) async fn append(
        &self,
        cell: &Arc<Cell>,
        bodies: Vec<Body>,
        who: &Caller,
        op: Option<OperationId>,
    ) -> Result<(), Error> {
        let _guard = cell.writer.lock().await;
        self.append_locked(cell, bodies, who, op).await
    }

    pub(crate) async fn append_locked(
        &self,
        cell: &Arc<Cell>,
        bodies: Vec<Body>,
        who: &Caller,
        op: Option<OperationId>,
    ) -> Result<(), Error> {
        let e = &self.inner;
        let base = cell.get();
        let mut next = Instance::clone(&base);
        let now = e.clock.now();
        let mut records = Vec::with_capacity(bodies.len());
        for body in bodies {
            let r = Record {
                seq: next.head_seq + 1,
                at_ms: now,
                epoch: e.epoch,
                actor: who.actor.clone(),
                body: Some(body),
            };
            fold(&mut next, &r).map_err(|x| Error::Internal(x.to_string()))?;
            records.push(r);
        }
        let answer = (!who.request_id.is_empty()).then(|| {
            let a = Answer {
                request_hash: who.request_hash.clone(),
                operation: op.map_or_else(String::new, |o| o.to_string()),
                expires_ms: now + 30 * 24 * 3_600_000,
                instance_uid: cell.id.to_string(),
            };
            (answer_key(who), a)
        });
        e.write(cell, &base, next, records, answer).await?;
        Ok(())
    }

    /// What a request id was answered with; the hash decides whether it is the same request.
    ///
    /// # Errors
    /// [`Error::RequestIdReused`] for another request under the same id.
    pub async fn answered(&self, who: &Caller) -> Result<Option<Answer>, Error> {
        if who.request_id.is_empty() {
            return Ok(None);
        }
        let Some(a) = self.inner.store.answer(&answer_key(who)).await? else { return Ok(None) };
        if a.request_hash != who.request_hash {
            return Err(Error::RequestIdReused);
        }
        Ok(Some(a))
    }
}

/// An unreadable instance is blocked by itself.
fn cell_of(loaded: store::Loaded) -> Arc<Cell> {
    let (instance, corrupt) = match loaded.instance {
        Ok(i) => (i, None),
        Err(why) => {
            tracing::error!(instance = %loaded.id, why, "this instance can't be read and is left alone");
            (Instance { uid: loaded.id.to_string(), ..Default::default() }, Some(why))
        }
    };
    let cell = Cell::new(loaded.id, instance, corrupt);
    cell.rest();
    cell
}

fn answer_key(who: &Caller) -> String {
    format!("{}|{}", who.actor, who.request_id)
}

// === impl Inner ===

impl Inner {
    /// Writes records and publishes the projection after them. The writer of the cell must be held.
    pub async fn write(
        &self,
        cell: &Cell,
        base: &Instance,
        next: Instance,
        records: Vec<Record>,
        answer: Option<(String, Answer)>,
    ) -> Result<(), store::Error> {
        let weighty = |r: &Record| {
            matches!(
                r.body,
                Some(
                    Body::Created(_)
                        | Body::RunCreated(_)
                        | Body::RunEnded(_)
                        | Body::Transition(_)
                        | Body::Edited(_)
                )
            )
        };
        // a checkpoint now and then keeps recovery short, not one per step: that would be the largest write of all
        let due = base.head_seq / 64 != next.head_seq / 64;
        let checkpoint = (due || records.iter().any(weighty)).then(|| next.clone());
        let commit = Commit {
            id: Some(cell.id),
            expect_head: base.head_seq,
            records,
            checkpoint,
            answer,
            ..Default::default()
        };
        self.store.commit(commit).await?;
        cell.publish(next);
        self.changes.note(cell.id);
        Ok(())
    }

    /// The name of a destroyed instance is free at once.
    pub fn forget(&self, cell: &Cell) {
        let i = cell.get();
        let mut names = self.names.lock();
        let key = (i.project.clone(), i.name.clone());
        if names.get(&key) == Some(&cell.id) {
            names.remove(&key);
        }
        drop(names);
        self.timer.set(cell.id, None);
        self.cells.write().remove(&cell.id);
    }

    /// After a failed write nothing may go on: what is on disk is the truth, and a new start reads it.
    pub fn store_failed(&self, e: &store::Error) {
        if matches!(e, store::Error::Io(_) | store::Error::Stopped) {
            self.stop.cancel();
        }
    }

    pub fn target(&self, i: &Instance) -> Result<&Arc<dyn Target>, Failure> {
        let target = i.spec.as_ref().map_or("", |s| s.target.as_str());
        let key = target.strip_prefix("providers/").unwrap_or(target).split('/').next().unwrap_or_default();
        self.targets.get(key).ok_or_else(|| {
            failure(
                Class::Transient,
                "UNSUPPORTED_VERSION",
                format!("this engine has no target '{key}'"),
                "start the version of sypctl that made the instance",
            )
        })
    }

    pub fn step(&self, i: &Instance, kind: &str) -> Result<Arc<dyn Step>, Failure> {
        self.target(i)?.step(kind).ok_or_else(|| {
            failure(
                Class::Transient,
                "UNSUPPORTED_VERSION",
                format!("this engine does not know the step {kind}"),
                "start the version of sypctl that made the instance",
            )
        })
    }

    /// The records with which a trigger begins: the end of the run that it pre-empts, the transition, the new run.
    pub fn begin(&self, i: &Instance, on: Trigger, request_id: &str, verb: &str) -> Vec<Body> {
        let Some(edge) = graph::next(i.state(), on) else { return vec![] };
        let mut out = Vec::new();
        if let Some(run) = &i.run {
            out.push(Body::RunEnded(journal::RunEnded {
                run: run.no,
                failure: None,
                cancelled: true,
                preempted_by: verb.into(),
            }));
        }
        out.extend(scheduler::transition(i, on));
        if let Some(kind) = edge.run {
            let served = i.serving_ms != 0;
            let spec = i.spec.clone().unwrap_or_default();
            let facts = serde_json::from_str(&i.facts).unwrap_or(serde_json::Value::Null);
            let empty = || Plan { target: spec.target.clone(), version: 1, nodes: vec![] };
            // what never served has nobody in flight to wait for
            let plan = match self.target(i) {
                Ok(t) if kind != RunKind::Teardown || served => {
                    t.plan(kind, &calls::owner(self, i), &spec, &facts)
                }
                _ => empty(),
            };
            let grace = spec.drain_grace.as_ref().map_or(10_000, crate::clock::duration_millis);
            let now = self.clock.now();
            let deadline_ms = match kind {
                RunKind::Teardown => now + grace + 5_000,
                RunKind::Drain => now + grace + 30_000,
                _ => now + UP_DEADLINE_MS,
            };
            out.push(Body::RunCreated(journal::RunCreated {
                run: i.runs + 1,
                kind: kind as i32,
                plan: Some(plan),
                deadline_ms,
                request_id: request_id.into(),
                cause: None,
                verb: verb.into(),
            }));
        }
        out
    }
}

/// Is it at rest, with nothing to wait for?
pub fn is_settled(i: &Instance) -> bool {
    i.run.is_none() && i.state() != State::Pending
}
