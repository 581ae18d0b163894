//! A new version comes to all that follow: an update of each, which changes nothing but the version.
//!
//! # Expected flow
//! The commit that adds the version marks the secret. Then each instance that follows gets its update; those that can't have one
//! now (another operation is open, it does not serve) are waited for. When nobody is left the mark is taken away. A start goes on
//! with what is marked.
//!
//! # Guarantees
//! The update of an instance is made once for a version: it is written together with the answer to a request id that follows from
//! both. So one that was gone back from is not made again, neither by the next pass nor after a crash.
use super::{Directory, SecretName, follows};
use crate::{
    cell::Cell,
    engine::{Caller, Engine},
    error::Error,
    fault::Point,
    graph::State,
    id::InstanceId,
    ops::{self, Updating},
    revision, store, vault, view,
};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};
use syp_proto::journal::{Instance, Revision, SharedSecret};

/// What changes at once is looked at together.
const GATHER: Duration = Duration::from_millis(300);
/// Without a change.
const AGAIN: Duration = Duration::from_secs(60);

/// How one instance comes to a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rolled {
    /// By this operation.
    By(String),
    /// Nothing to do: it does not follow, has the version, or is over.
    Not,
    /// Not yet: what it waits for.
    Waits(String),
}

/// A revision like the one that serves, with the newest version where it follows. Pure.
fn next(i: &Instance, name: &SecretName, newest: u32) -> Revision {
    let mut spec = i.spec.as_ref().map(revision::part).unwrap_or_default();
    for r in spec.secrets.iter_mut().filter(|r| vault::is_shared(r) && r.secret == name.id && !r.pinned) {
        r.version = newest.to_string();
    }
    Revision {
        no: revision::next_number(i),
        spec: Some(spec),
        // the very image that serves: a tag may have moved, and this is not the time to follow it
        facts: i.facts.clone(),
        hourly_rate: i.hourly_rate.clone(),
        note: format!("secret {}@{newest}", name.id),
        ..Default::default()
    }
}

/// Who asks for the update of an instance: whoever added the version, under an id that follows from both.
fn request(s: &SharedSecret, name: &SecretName, id: InstanceId) -> Caller {
    let digest = Sha256::digest(format!("{name}@{} {id}", s.latest));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    let actor = s.versions.last().map_or_else(|| "engine".into(), |v| v.creator.clone());
    Caller { actor, request_id: uuid::Uuid::from_bytes(bytes).to_string(), request_hash: digest.to_vec() }
}

// === impl Engine ===

impl Engine {
    /// Secrets that several instances use.
    pub fn shared(&self) -> &Directory {
        &self.inner.shared
    }

    /// Goes on with what a former process left; called once at a start.
    pub(crate) fn resume_rollouts(&self) {
        for s in self.shared().all().into_iter().filter(|s| s.rollout) {
            self.keep_rolling(SecretName::of(&s));
        }
    }

    /// One pass: each instance with how it comes to the newest version. Whoever must wait is looked at again by a task.
    ///
    /// # Errors
    /// The store's.
    pub async fn roll_out(&self, name: &SecretName) -> Result<Vec<(String, Rolled)>, Error> {
        self.inner.faults.at(Point::OutcomeSynced, &format!("secret {}", name.id)).await;
        let out = self.pass(name, self.cells()).await;
        self.keep_rolling(name.clone());
        let out = out?.into_iter().filter(|(_, r)| *r != Rolled::Not);
        Ok(out.map(|(cell, r)| (view::full_name(&cell.get()), r)).collect())
    }

    async fn pass(
        &self,
        name: &SecretName,
        cells: Vec<Arc<Cell>>,
    ) -> Result<Vec<(Arc<Cell>, Rolled)>, Error> {
        let mut out = Vec::new();
        for cell in cells {
            let Some(s) = self.shared().get(name).filter(|s| s.rollout) else { break };
            let rolled = self.roll(&cell, name, &s).await?;
            if matches!(rolled, Rolled::By(_)) {
                self.inner.faults.at(Point::OutcomeSynced, &format!("secret {}", name.id)).await;
            }
            out.push((cell, rolled));
        }
        Ok(out)
    }

    /// One instance.
    async fn roll(&self, cell: &Arc<Cell>, name: &SecretName, s: &SharedSecret) -> Result<Rolled, Error> {
        let i = cell.get();
        let uses = || i.spec.iter().chain(i.wanted.iter().filter_map(|w| w.spec.as_ref()));
        let any = i.project == name.project
            && uses()
                .flat_map(|s| &s.secrets)
                .any(|r| vault::is_shared(r) && r.secret == name.id && !r.pinned);
        if !any || cell.blocked().is_some() || i.state() == State::Destroyed {
            return Ok(Rolled::Not);
        }
        let who = request(s, name, cell.id);
        if let Some(made) = self.answered(&who).await? {
            return Ok(Rolled::By(made.operation));
        }
        // whether it follows is known when what is open has ended
        if let Err(e) = ops::updatable(&i) {
            return Ok(waits(&i, &e));
        }
        if !follows(&i, name, s.latest) {
            return Ok(Rolled::Not);
        }
        let new = next(&i, name, s.latest);
        let how = Updating { verb: "rotate", ..Default::default() };
        match Box::pin(self.update(cell, &new, None, super::Bound::default(), &how, &who)).await {
            Ok(op) => Ok(Rolled::By(op.to_string())),
            Err(e @ (Error::InProgress(_) | Error::NotAllowed { .. } | Error::EtagMismatch)) => {
                Ok(waits(&i, &e))
            }
            // another pass was faster
            Err(Error::Store(store::Error::AnswerExists | store::Error::HeadMoved)) => {
                Ok(Rolled::Waits("it changes right now".into()))
            }
            Err(e) => Err(e),
        }
    }

    /// A task until everybody has it; there is one for each secret at most.
    fn keep_rolling(&self, name: SecretName) {
        if !self.shared().rolling.lock().insert(name.clone()) {
            return;
        }
        let e = self.clone();
        self.spawn(async move {
            if let Err(error) = e.roll_to_the_end(&name).await {
                tracing::warn!(secret = %name, %error, "not rolled out to all; the next start goes on");
            }
            e.shared().rolling.lock().remove(&name);
            // added while the last pass ended
            if e.shared().get(&name).is_some_and(|s| s.rollout && !e.inner.stop.is_cancelled()) {
                e.keep_rolling(name);
            }
        });
    }

    async fn roll_to_the_end(&self, name: &SecretName) -> Result<(), Error> {
        let mut news = self.changes().subscribe();
        let (mut waiting, mut seen) = (self.cells(), 0);
        loop {
            let Some(s) = self.shared().get(name).filter(|s| s.rollout) else { return Ok(()) };
            if s.latest != seen {
                (waiting, seen) = (self.cells(), s.latest);
            }
            let done = self.pass(name, waiting).await?;
            let left = done.into_iter().filter(|(_, r)| matches!(r, Rolled::Waits(_)));
            waiting = left.map(|(cell, _)| cell).collect();
            if waiting.is_empty() {
                self.rolled_out(name, seen).await?;
                return self.tidy_secrets().await;
            }
            // an end without news: a clock is no worse than a change that was missed
            let _ = tokio::time::timeout(AGAIN, news.changed()).await;
            tokio::time::sleep(GATHER).await;
        }
    }

    /// Takes the mark away, unless there is a newer version.
    async fn rolled_out(&self, name: &SecretName, version: u32) -> Result<(), Error> {
        let _lock = self.shared().binding.write().await;
        match self.shared().get(name).filter(|s| s.rollout && s.latest == version) {
            Some(s) => {
                let done = SharedSecret { rollout: false, ..SharedSecret::clone(&s) };
                self.write_secret(done, vec![], &Caller::default()).await.map(drop)
            }
            None => Ok(()),
        }
    }
}

fn waits(i: &Instance, e: &Error) -> Rolled {
    Rolled::Waits(match e {
        Error::InProgress(op) => format!("{op} to end"),
        _ => format!("serving again: it is {}", i.state().as_str_name()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1::{InstanceSpec, SecretRef};

    #[test]
    fn the_next_revision_differs_in_the_version_of_what_follows_alone() {
        let r = |env: &str, pinned| SecretRef {
            secret: "pw".into(),
            env: env.into(),
            version: "1".into(),
            pinned,
            ..Default::default()
        };
        let other = SecretRef { secret: "key".into(), ..r("C", false) };
        let spec = InstanceSpec {
            image: "x".into(),
            secrets: vec![r("A", false), r("B", true), other],
            ..Default::default()
        };
        let i = Instance {
            project: "p".into(),
            spec: Some(spec.clone()),
            facts: "{}".into(),
            ..Default::default()
        };
        let name = SecretName { project: "p".into(), id: "pw".into() };
        let made = next(&i, &name, 4);
        let mut wanted = revision::part(&spec);
        wanted.secrets[0].version = "4".into();
        assert_eq!((made.spec, made.facts.as_str(), made.no), (Some(wanted), "{}", 2));
        assert_eq!(made.note, "secret pw@4");
    }

    #[test]
    fn one_instance_and_version_have_one_request_id() {
        let s = |latest| SharedSecret { latest, ..Default::default() };
        let name = SecretName { project: "p".into(), id: "pw".into() };
        let (a, b) = (InstanceId::random(), InstanceId::random());
        let id = |s: &SharedSecret, i| request(s, &name, i).request_id;
        assert_eq!(id(&s(1), a), id(&s(1), a));
        assert_ne!(id(&s(1), a), id(&s(2), a));
        assert_ne!(id(&s(1), a), id(&s(1), b));
    }
}
