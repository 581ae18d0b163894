//! Operations on an instance that is there: transitions, cancel, retry, edits.
use crate::{
    cell::Cell,
    engine::{Caller, Engine},
    error::Error,
    fold::{drifted, over, row_at},
    graph::{self, Graph, RunKind, State, Trigger},
    id::OperationId,
    inner::Beginning,
    plan, revision, scheduler,
    shared::Bound,
};
use std::sync::Arc;
use syp_proto::journal::{self, Edited, Instance, Revision, node, record::Body};

/// What `TransitionInstance` may say besides the state.
#[derive(Clone, Debug, Default)]
pub struct TransitionOptions {
    /// Only if it is in this state now.
    pub if_state: Option<State>,
    /// Only if nothing changed since this etag.
    pub etag: String,
    /// Also when `protect` is set.
    pub force: bool,
    /// Say what would happen, change nothing.
    pub validate_only: bool,
    /// Word for the journal: `down`, `drain`, `transition`.
    pub verb: String,
    /// How long what is in flight may take to end, in ms, instead of what the spec says.
    pub grace_ms: Option<i64>,
}

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It runs.
    Operation(OperationId),
    /// It is there already.
    Already(Option<OperationId>),
}

/// The etag of a projection: of what somebody, or the engine, has done. That its provider has spoken meanwhile, or that its
/// gate has got what was asked for before, is no change that anybody's next one could undo.
pub fn etag(i: &Instance) -> String {
    format!("\"{}-{}\"", &i.uid[..i.uid.len().min(8)], i.changed_seq)
}

/// How an update is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Updating<'a> {
    /// Word for the journal: `set`, `rollback`.
    pub verb: &'a str,
    /// Only if nothing changed since this etag.
    pub expect: &'a str,
    /// Pause when the revision is proven, before it serves.
    pub hold: bool,
}

// === impl Engine ===

impl Engine {
    /// Moves an instance towards a state.
    ///
    /// # Errors
    /// What forbids it, with the states that are possible.
    pub async fn transition(
        &self,
        cell: &Arc<Cell>,
        to: State,
        o: &TransitionOptions,
        who: &Caller,
    ) -> Result<Accepted, Error> {
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        readable(cell)?;
        check_etag(&i, &o.etag)?;
        if let Some(s) = o.if_state.filter(|s| *s != i.state()) {
            let _ = s;
            return Err(Error::StateDiffers(i.state()));
        }
        if let Some(done) = already(&i, to) {
            return Ok(Accepted::Already(done));
        }
        let on = trigger(&i, to)?;
        if on == Trigger::Delete && i.spec.as_ref().is_some_and(|s| s.protect) && !o.force {
            return Err(not_allowed(&i, to, "it is protected: pass --force to destroy it all the same"));
        }
        if on == Trigger::Resume && !can_resume(&i) {
            return Err(not_allowed(
                &i,
                to,
                "it is being taken down already: finish with 'down', then 'up' again",
            ));
        }
        let op = OperationId { instance: cell.id, run: i.runs + 1 };
        if o.validate_only {
            return Ok(Accepted::Operation(op));
        }
        let b = Beginning {
            request_id: &who.request_id,
            verb: &o.verb,
            grace_ms: o.grace_ms,
            ..Default::default()
        };
        let bodies = self.inner.begin(&i, on, &b);
        self.append_locked(cell, bodies, who, Some(op)).await?;
        self.kick(cell);
        Ok(Accepted::Operation(op))
    }

    /// Cancels an open operation. A teardown can't be cancelled: it would leave things behind.
    ///
    /// # Errors
    /// [`Error::NotFound`], or why not.
    pub async fn cancel(&self, op: OperationId, who: &Caller) -> Result<(), Error> {
        let cell = self.cell(op.instance).ok_or_else(|| Error::NotFound(op.to_string()))?;
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        let Some(run) = i.run.as_ref().filter(|r| r.no == op.run) else {
            // over already: cancelling is then without effect (AIP-151)
            return Ok(());
        };
        if run.kind() == RunKind::Teardown {
            return Err(not_allowed(
                &i,
                State::Serving,
                "a teardown can't be cancelled: it would leave things behind",
            ));
        }
        if run.cancel_requested {
            return Ok(());
        }
        let body = Body::CancelRequested(journal::CancelRequested { run: op.run });
        self.append_locked(&cell, vec![body], who, None).await?;
        self.kick(&cell);
        Ok(())
    }

    /// An update begins nothing more, or goes on. What served before serves meanwhile.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::NotAllowed`]: of anything else nothing would serve.
    pub async fn pause(&self, op: OperationId, on: bool, who: &Caller) -> Result<(), Error> {
        let cell = self.cell(op.instance).ok_or_else(|| Error::NotFound(op.to_string()))?;
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        let state = i.state();
        let Some(run) = i.run.as_ref().filter(|r| r.no == op.run) else {
            return Err(not_allowed(&i, state, "it is over already"));
        };
        if run.kind() != RunKind::Update {
            return Err(not_allowed(
                &i,
                state,
                "only an update can be paused: what served before serves meanwhile",
            ));
        }
        if on == (run.paused_ms != 0) && !run.hold {
            return Ok(());
        }
        let body = Body::Paused(journal::Paused { run: op.run, on });
        self.append_locked(&cell, vec![body], who, None).await?;
        self.kick(&cell);
        Ok(())
    }

    /// Runs what a failed repair or drain left open once more; wakes a teardown that backs off.
    ///
    /// # Errors
    /// [`Error::NotFound`], or why not.
    pub async fn retry(&self, op: OperationId, who: &Caller) -> Result<OperationId, Error> {
        let cell = self.cell(op.instance).ok_or_else(|| Error::NotFound(op.to_string()))?;
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        if let Some(run) = &i.run {
            return if run.no == op.run { Ok(op) } else { Err(Error::InProgress(current(&i, run.no))) };
        }
        let on = match (i.state(), i.past.last().map(journal::Run::kind)) {
            (State::Serving, _) => Trigger::Drift,
            (State::Draining, Some(RunKind::Repair)) if can_resume(&i) => Trigger::Resume,
            (State::Draining, _) => Trigger::Delete,
            (from, _) => return Err(not_allowed(&i, from, "there is nothing to try again")),
        };
        let next = OperationId { instance: cell.id, run: i.runs + 1 };
        let b = Beginning { request_id: &who.request_id, verb: "retry", ..Default::default() };
        let bodies = self.inner.begin(&i, on, &b);
        self.append_locked(&cell, bodies, who, Some(next)).await?;
        self.kick(&cell);
        Ok(next)
    }

    /// Makes another revision serve. A repair that is under way is left off: the update does what it would have done.
    ///
    /// # Errors
    /// [`Error::InProgress`] beside another operation, [`Error::NotAllowed`] where nothing serves.
    pub async fn update(
        &self,
        cell: &Arc<Cell>,
        new: &Revision,
        edited: Option<Edited>,
        bound: Bound,
        how: &Updating<'_>,
        who: &Caller,
    ) -> Result<OperationId, Error> {
        let _binding = self.inner.shared.binding.read().await;
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        readable(cell)?;
        check_etag(&i, how.expect)?;
        updatable(&i)?;
        let mut new = new.clone();
        let refs = new.spec.as_mut().map_or(&mut [][..], |s| &mut s.secrets);
        self.inner.shared.bind(&i.project, refs, &bound.newest)?;
        if new.no != revision::next_number(&i) {
            // somebody else's update came between the preflight and here
            return Err(Error::InProgress(current(&i, i.runs)));
        }
        let op = OperationId { instance: cell.id, run: i.runs + 1 };
        let b = Beginning {
            request_id: &who.request_id,
            verb: how.verb,
            revision: Some(&new),
            hold: how.hold,
            ..Default::default()
        };
        let mut bodies: Vec<_> = edited.map(Body::Edited).into_iter().collect();
        bodies.extend(self.inner.begin(&i, Trigger::Update, &b));
        for body in &bodies {
            if let Body::RunCreated(journal::RunCreated { plan: Some(p), .. }) = body {
                plan::validate(p).map_err(|x| Error::Internal(x.to_string()))?;
                plan::retires_in_order(p, &i.ledger).map_err(|x| Error::Internal(x.to_string()))?;
            }
        }
        // a revision is large, and so is what writes it
        Box::pin(self.append_sealed(cell, bodies, who, Some(op), bound.sealed)).await?;
        self.kick(cell);
        Ok(op)
    }

    /// Starts a repair of what differs, unless something else is under way, it does not serve, or it is not `wanted`; `findings` say
    /// what. Has it begun?
    ///
    /// # Errors
    /// The store's.
    pub async fn drift(
        &self,
        cell: &Arc<Cell>,
        findings: Vec<String>,
        wanted: impl FnOnce(&Instance) -> bool,
    ) -> Result<bool, Error> {
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        if i.state() != State::Serving || i.run.is_some() || !wanted(&i) {
            return Ok(false);
        }
        let who = Caller { actor: "engine".into(), ..Default::default() };
        let mut bodies = vec![Body::Drift(journal::Drift { findings })];
        bodies.extend(self.inner.begin(
            &i,
            Trigger::Drift,
            &Beginning { verb: "repair", ..Default::default() },
        ));
        self.append_locked(cell, bodies, &who, None).await?;
        self.kick(cell);
        Ok(true)
    }

    /// Writes down what differs, or that nothing does any more, where that is all that is done about it.
    ///
    /// # Errors
    /// The store's.
    pub async fn tell_drift(&self, cell: &Arc<Cell>, findings: &[String]) -> Result<(), Error> {
        let told = |i: &Instance| {
            let held = drifted(i).map_or("", |c| c.message.as_str());
            held == findings.join("; ") || i.state() != State::Serving || i.run.is_some()
        };
        if told(&cell.get()) {
            return Ok(());
        }
        let _guard = cell.writer.lock().await;
        if told(&cell.get()) {
            return Ok(());
        }
        let who = Caller { actor: "engine".into(), ..Default::default() };
        let mut bodies = Vec::new();
        if !findings.is_empty() {
            bodies.push(Body::Drift(journal::Drift { findings: findings.to_vec() }));
        }
        bodies.push(scheduler::drift(findings));
        self.append_locked(cell, bodies, &who, None).await
    }

    /// Changes what lives beside revisions: access, operators, labels, time to live, protection.
    ///
    /// # Errors
    /// [`Error::EtagMismatch`], [`Error::NotAllowed`] once it is being destroyed.
    pub async fn edit(
        &self,
        cell: &Arc<Cell>,
        e: Edited,
        expect: &str,
        who: &Caller,
    ) -> Result<Arc<Instance>, Error> {
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        readable(cell)?;
        check_etag(&i, expect)?;
        if i.state() == State::Destroyed {
            return Err(not_allowed(&i, State::Destroyed, "it is destroyed"));
        }
        self.append_locked(cell, vec![Body::Edited(e)], who, None).await?;
        self.kick(cell);
        Ok(cell.get())
    }

    /// Lets a ledger row go without removing what it stands for; the receipt names it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such row.
    pub async fn retain(
        &self,
        cell: &Arc<Cell>,
        entry: u32,
        reason: &str,
        who: &Caller,
    ) -> Result<(), Error> {
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        if row_at(&i.ledger, entry).is_none_or(over) {
            return Err(Error::NotFound(format!("resource {entry}")));
        }
        let body = Body::Retained(journal::Retained { entry, reason: reason.into() });
        self.append_locked(cell, vec![body], who, None).await?;
        self.kick(cell);
        Ok(())
    }
}

/// Can it get another revision now?
///
/// # Errors
/// [`Error::InProgress`], [`Error::NotAllowed`].
pub fn updatable(i: &Instance) -> Result<(), Error> {
    if let Some(run) = i.run.as_ref().filter(|r| r.kind() != RunKind::Repair) {
        return Err(Error::InProgress(current(i, run.no)));
    }
    if i.state() == State::Serving {
        return Ok(());
    }
    Err(not_allowed(i, State::Serving, "only what serves can be changed to another revision"))
}

fn readable(cell: &Cell) -> Result<(), Error> {
    cell.blocked().map_or(Ok(()), |why| Err(Error::Corrupt(why.to_owned())))
}

fn check_etag(i: &Instance, expect: &str) -> Result<(), Error> {
    if expect.is_empty() || expect == etag(i) { Ok(()) } else { Err(Error::EtagMismatch) }
}

/// It is there already, or on its way there: by which operation.
fn already(i: &Instance, to: State) -> Option<Option<OperationId>> {
    let open = i.run.as_ref().map(|r| (r.kind(), r.no));
    let op = |no: u32| Some(OperationId { instance: crate::id::InstanceId::parse(&i.uid)?, run: no });
    match (to, i.state(), open) {
        (State::Destroyed, State::Destroyed, _) => Some(op(i.runs)),
        (State::Destroyed, _, Some((RunKind::Teardown, no))) => Some(op(no)),
        (State::Draining, State::Draining, open) => Some(open.and_then(|(_, no)| op(no))),
        (State::Serving, State::Serving, _) => Some(None),
        (State::Serving, State::Pending | State::Provisioning, Some((RunKind::Provision, no))) => {
            Some(op(no))
        }
        _ => None,
    }
}

fn trigger(i: &Instance, to: State) -> Result<Trigger, Error> {
    let on = match to {
        State::Destroyed => Trigger::Delete,
        State::Draining => Trigger::Drain,
        State::Serving => Trigger::Resume,
        _ => return Err(not_allowed(i, to, "only serving, draining and destroyed can be asked for")),
    };
    match graph::next(i.state(), on) {
        Some(_) => Ok(on),
        None => Err(not_allowed(i, to, "")),
    }
}

/// Once its teardown has begun there is no way back: what is being removed can't be relied on (I8).
fn can_resume(i: &Instance) -> bool {
    i.run.as_ref().is_none_or(|r| r.kind() != RunKind::Teardown)
}

fn not_allowed(i: &Instance, to: State, why: &str) -> Error {
    Error::NotAllowed { from: i.state(), to, allowed: allowed(i), why: why.into() }
}

/// States that `transition` may be asked for now.
pub fn allowed(i: &Instance) -> Vec<State> {
    let mut out = Graph::current().map_or_else(Vec::new, |g| g.targets(i.state()));
    // reached through draining
    if i.state() != State::Destroyed {
        out.push(State::Destroyed);
    }
    out.retain(|s| match s {
        State::Serving => i.state() == State::Draining && i.run.is_none() && can_resume(i),
        State::Draining => i.state() == State::Serving,
        State::Destroyed => true,
        _ => false,
    });
    out.sort();
    out.dedup();
    out
}

pub(crate) fn current(i: &Instance, run: u32) -> String {
    format!("operations/{}-{run}", i.uid)
}

/// Is every step of the run done?
pub fn all_ok(run: &journal::Run) -> bool {
    run.nodes.iter().all(|n| n.state() == node::State::Ok)
}
