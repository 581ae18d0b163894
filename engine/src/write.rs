//! Writing what somebody asked for: a new instance, or records of one that is there, with the answer to the request.
use crate::{
    calls,
    cell::Cell,
    engine::{Caller, Engine, NewInstance},
    error::Error,
    fold::fold,
    graph::{self, RunKind},
    id::OperationId,
    inner::UP_DEADLINE_MS,
    plan, revision,
    shared::Bound,
    step::Have,
    store::SealedOp,
};
use std::{collections::hash_map::Entry, sync::Arc};
use syp_proto::journal::{self, Answer, Instance, Record, record::Body};

// === impl Engine ===

impl Engine {
    /// Creates: the instance, its first run and the answer to the request id are one commit.
    ///
    /// # Errors
    /// [`Error::NameInUse`], [`Error::Store`], or a plan that is not sound.
    pub async fn create(&self, who: &Caller, n: NewInstance) -> Result<OperationId, Error> {
        let e = &self.inner;
        let name = (n.project.clone(), n.name.clone());
        match e.names.lock().entry(name.clone()) {
            Entry::Occupied(taken) => return Err(Error::NameInUse(*taken.get())),
            Entry::Vacant(free) => free.insert(n.uid),
        };
        // a new instance is large, and so is what writes it
        let result = Box::pin(self.create_reserved(who, n)).await;
        if result.is_err() {
            e.names.lock().remove(&name);
        }
        result
    }

    async fn create_reserved(&self, who: &Caller, mut n: NewInstance) -> Result<OperationId, Error> {
        let e = &self.inner;
        // until everybody can see that this instance uses them
        let _binding = e.shared.binding.read().await;
        let Bound { sealed, newest } = std::mem::take(&mut n.bound);
        e.shared.bind(&n.project, &mut n.spec.secrets, &newest)?;
        let target = self.target(&n.spec.target).map_err(Error::Refused)?;
        let mut i = Instance { uid: n.uid.to_string(), ..Default::default() };
        let cell = Cell::new(n.uid, i.clone());
        i.name.clone_from(&n.name);
        i.revision = revision::name(&n.name, 1);
        let have = Have::nothing();
        let plan = target.plan(RunKind::Provision, &calls::owner(e, &i, 1), &n.spec, &n.facts, &have);
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
                grace_ms: None,
                hold: false,
            }),
        ];
        let op = OperationId { instance: n.uid, run: 1 };
        let guard = cell.writer.lock().await;
        self.append_sealed(&cell, bodies, who, Some(op), sealed).await?;
        drop(guard);
        self.adopt(Arc::clone(&cell));
        self.kick(&cell);
        Ok(op)
    }

    /// Appends records that somebody outside asked for. The writer of the cell must be held.
    pub(crate) async fn append_locked(
        &self,
        cell: &Arc<Cell>,
        bodies: Vec<Body>,
        who: &Caller,
        op: Option<OperationId>,
    ) -> Result<(), Error> {
        self.append_sealed(cell, bodies, who, op, vec![]).await
    }

    /// [`Self::append_locked`], with sealed secrets in the same commit.
    pub(crate) async fn append_sealed(
        &self,
        cell: &Arc<Cell>,
        bodies: Vec<Body>,
        who: &Caller,
        op: Option<OperationId>,
        sealed: Vec<SealedOp>,
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
        let answer = self.answer(who, op.map_or_else(String::new, |o| o.to_string()), cell.id.to_string());
        e.write(cell, &base, next, records, answer, sealed).await?;
        Ok(())
    }

    /// What a request id is answered with from now on; `None` without one.
    pub(crate) fn answer(
        &self,
        who: &Caller,
        operation: String,
        instance_uid: String,
    ) -> Option<(String, Answer)> {
        let expires_ms = self.inner.clock.now() + 30 * 24 * 3_600_000;
        let a = Answer { request_hash: who.request_hash.clone(), operation, expires_ms, instance_uid };
        (!who.request_id.is_empty()).then(|| (answer_key(who), a))
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

fn answer_key(who: &Caller) -> String {
    format!("{}|{}", who.actor, who.request_id)
}
