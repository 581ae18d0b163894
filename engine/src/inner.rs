//! What every part of the engine shares: the store, the targets, who is there, and the one way to write.
use crate::{
    calls,
    cell::Cell,
    changes::Changes,
    clock::{Clock, Millis},
    door::Door,
    failure::{Class, failure},
    fault::Faults,
    graph::{self, RunKind, Trigger},
    id::InstanceId,
    revision, scheduler,
    series::Series,
    shared::Directory,
    step::{DynStep, Have, Target},
    store::{self, Commit, SealedOp, Store},
    targets::{Placed, Targets},
    timer::Timer,
    vault::{self, Vault},
};
use parking_lot::{Mutex, RwLock};
use std::{collections::HashMap, sync::Arc};
use syp_proto::journal::{self, Answer, Failure, Instance, Plan, Record, Revision, record::Body};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// An `up` that takes longer has failed.
pub(crate) const UP_DEADLINE_MS: Millis = 600_000;

pub(crate) struct Inner {
    pub store: Arc<dyn Store>,
    pub targets: Targets,
    pub clock: Clock,
    pub faults: Arc<dyn Faults>,
    pub door: Arc<Door>,
    pub vault: Arc<Vault>,
    /// Secrets that several instances use.
    pub shared: Directory,
    pub epoch: u64,
    pub timer: Timer,
    pub changes: Changes,
    /// Figures over time.
    pub series: Series,
    /// No new calls; what is under way ends.
    pub stop: CancellationToken,
    /// Everything is dropped where it stands.
    pub kill: CancellationToken,
    pub cells: RwLock<HashMap<InstanceId, Arc<Cell>>>,
    /// Newest incarnation of each live name.
    pub names: Mutex<HashMap<(String, String), InstanceId>>,
    /// Held while a tariff is set: the history is read, added to and written.
    pub pricing: tokio::sync::Mutex<()>,
    /// Questions for bills, one at a time of each target.
    pub asking: crate::bill::Asking,
    pub tasks: TaskTracker,
}

/// How a run that somebody or something asked for begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beginning<'a> {
    /// Client's id of the request; empty: none.
    pub request_id: &'a str,
    /// Word for the journal.
    pub verb: &'a str,
    /// Instead of the spec's.
    pub grace_ms: Option<Millis>,
    /// What an update makes.
    pub revision: Option<&'a Revision>,
    /// What led to it.
    pub cause: Option<&'a Failure>,
    /// Pause before what it makes serves.
    pub hold: bool,
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
        mut sealed: Vec<SealedOp>,
    ) -> Result<(), store::Error> {
        sealed.extend(vault::let_go(cell.id, base, &next));
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
            sealed,
            ..Default::default()
        };
        if let Err(e) = self.store.commit(commit).await {
            if e == store::Error::HeadMoved {
                self.reload(cell).await?;
            }
            return Err(e);
        }
        cell.publish(next);
        self.changes.note(cell.id);
        Ok(())
    }

    /// What is on disk is the truth, whatever this process took for it.
    async fn reload(&self, cell: &Cell) -> Result<(), store::Error> {
        let Some(loaded) = self.store.load(cell.id).await? else { return Ok(()) };
        match loaded.instance {
            Ok(i) => cell.publish(i),
            Err(why) => cell.block(why),
        }
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

    pub fn target(&self, i: &Instance) -> Result<Arc<dyn Target>, Failure> {
        self.placed(i).map(|p| Arc::clone(&p.target))
    }

    /// The target of an instance with its places for calls.
    pub fn placed(&self, i: &Instance) -> Result<Arc<Placed>, Failure> {
        let target = i.spec.as_ref().map_or("", |s| s.target.as_str());
        self.targets.get(target).map_err(|f| match f.reason.as_str() {
            "TARGET_UNKNOWN" => failure(
                Class::Transient,
                "UNSUPPORTED_VERSION",
                format!("this engine has no target '{target}'"),
                "start the version of sypctl that made the instance",
            ),
            // a context that is missing now may come back
            _ => Failure { class: Class::Transient.as_str().into(), ..f },
        })
    }

    pub fn step(&self, i: &Instance, kind: &str) -> Result<Arc<dyn DynStep>, Failure> {
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
    pub fn begin(&self, i: &Instance, on: Trigger, b: &Beginning<'_>) -> Vec<Body> {
        let Some(edge) = graph::next(i.state(), on) else { return vec![] };
        let mut out = Vec::new();
        if let Some(run) = &i.run {
            out.push(Body::RunEnded(journal::RunEnded {
                run: run.no,
                failure: None,
                cancelled: true,
                preempted_by: b.verb.into(),
            }));
        }
        out.extend(scheduler::transition(i, on));
        if let Some(kind) = edge.run {
            let served = i.serving_ms != 0;
            let mut spec = i.spec.clone().unwrap_or_default();
            let (mut facts, mut number) = (i.facts.as_str(), revision::number(i));
            if let Some(new) = b.revision {
                spec = revision::merged(&spec, &new.spec.clone().unwrap_or_default());
                (facts, number) = (&new.facts, new.no);
                out.push(Body::Revised(journal::Revised { revision: Some(new.clone()) }));
            }
            let facts = serde_json::from_str(facts).unwrap_or(serde_json::Value::Null);
            let have = Have::of(i, number);
            let empty = || Plan { target: spec.target.clone(), version: 1, nodes: vec![] };
            // what never served has nobody in flight to wait for
            let plan = match self.target(i) {
                Ok(t) if kind != RunKind::Teardown || served => {
                    t.plan(kind, &calls::owner(self, i, number), &spec, &facts, &have)
                }
                _ => empty(),
            };
            let grace = b.grace_ms.unwrap_or_else(|| calls::grace_ms(Some(&spec)));
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
                request_id: b.request_id.into(),
                cause: b.cause.cloned(),
                verb: b.verb.into(),
                grace_ms: b.grace_ms,
                hold: b.hold,
            }));
        }
        out
    }
}
