//! Changes of shared secrets: each is one commit of its record, its sealed values and the answer to the request.
use super::{MOST, MOST_VERSIONS, SecretName, bind::Bound, etag, uses};
use crate::{
    engine::{Caller, Engine},
    error::Error,
    graph::State,
    journal::{self as codec, Kind},
    revision,
    store::{Commit, SealedOp},
    vault, view,
};
use secrecy::{ExposeSecret, SecretSlice};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use syp_proto::{
    journal::{SharedSecret, SharedVersion},
    v1::AccessPolicy,
};

/// A new secret with its first value.
#[derive(Debug)]
pub struct NewSecret {
    /// What it is called.
    pub name: SecretName,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Who may bind and change it.
    pub operators: AccessPolicy,
    /// Its first version.
    pub value: SecretSlice<u8>,
}

/// What of a secret changes.
#[derive(Debug, Default)]
pub struct Change {
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Operators.
    pub operators: Option<AccessPolicy>,
}

/// Can it be a variable?
fn is_text(value: &SecretSlice<u8>) -> bool {
    let bytes = value.expose_secret();
    !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}

fn current(s: Option<Arc<SharedSecret>>, name: &SecretName, expect: &str) -> Result<SharedSecret, Error> {
    let s = s.ok_or_else(|| Error::NotFound(name.to_string()))?;
    if expect.is_empty() || expect == etag(&s) {
        Ok(SharedSecret::clone(&s))
    } else {
        Err(Error::EtagMismatch)
    }
}

// === impl Engine ===

impl Engine {
    /// Makes a secret.
    ///
    /// # Errors
    /// [`Error::SecretExists`], [`Error::Invalid`] for one too many, or the store's.
    pub async fn create_secret(&self, n: NewSecret, who: &Caller) -> Result<Arc<SharedSecret>, Error> {
        let shared = &self.inner.shared;
        let _lock = shared.binding.write().await;
        if shared.get(&n.name).is_some() {
            return Err(Error::SecretExists(n.name.to_string()));
        }
        if shared.all().len() >= MOST {
            let message = format!("there are {MOST} already: delete what nobody uses");
            return Err(Error::Invalid { field: "secret".into(), message });
        }
        let now = self.clock().now();
        let mut s = SharedSecret {
            project: n.name.project.clone(),
            name: n.name.id.clone(),
            labels: n.labels,
            creator: who.actor.clone(),
            create_ms: now,
            // numbers go on where an earlier secret of that name stopped
            latest: shared.last_number(&n.name),
            operators: Some(n.operators),
            ..Default::default()
        };
        let sealed = self.add(&mut s, &n.value, who)?;
        self.write_secret(s, vec![sealed], who).await
    }

    /// Adds a version, unless the value is that of the newest; with `roll` all that follow are to get it. The second: its number.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`], [`Error::Invalid`] for a value that a user can't be given, or the store's.
    pub async fn add_secret_version(
        &self,
        name: &SecretName,
        value: &SecretSlice<u8>,
        expect: &str,
        roll: bool,
        who: &Caller,
    ) -> Result<u32, Error> {
        let shared = &self.inner.shared;
        let lock = shared.binding.write().await;
        let mut s = current(shared.get(name), name, expect)?;
        self.fits(name, &s, value)?;
        let same = |v: &SharedVersion| v.fingerprint == self.vault().fingerprint(name, value);
        if s.versions.last().is_some_and(same) {
            let answer = self.answer(who, format!("{name}/versions/{}", s.latest), String::new());
            self.store().commit(Commit { answer, ..Default::default() }).await?;
            return Ok(s.latest);
        }
        let sealed = self.add(&mut s, value, who)?;
        // one that was not to be rolled out stays where it is until the next is
        s.rollout = roll;
        let s = self.write_secret(s, vec![sealed], who).await?;
        drop(lock);
        Ok(s.latest)
    }

    /// Whether a value can be a version of a secret.
    ///
    /// # Errors
    /// [`Error::Invalid`] with who can't be given it.
    pub fn fits(&self, name: &SecretName, s: &SharedSecret, value: &SecretSlice<u8>) -> Result<(), Error> {
        if s.versions.len() >= MOST_VERSIONS {
            let message =
                format!("{MOST_VERSIONS} versions are still referred to: take down what holds old ones");
            return Err(Error::Invalid { field: "payload".into(), message });
        }
        if is_text(value) {
            return Ok(());
        }
        let as_variable = |u: &uses::Use| u.serving && !u.by.pinned && !u.by.env.is_empty();
        let all = self.users(name);
        match all.iter().find(|(_, uses)| uses.iter().any(as_variable)) {
            None => Ok(()),
            Some((i, _)) => Err(Error::Invalid {
                field: "payload".into(),
                message: format!("it is no text, and '{i}' has it as a variable"),
            }),
        }
    }

    /// Changes labels or operators.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::EtagMismatch`], or the store's.
    pub async fn update_secret(
        &self,
        name: &SecretName,
        change: Change,
        expect: &str,
        who: &Caller,
    ) -> Result<Arc<SharedSecret>, Error> {
        let _lock = self.inner.shared.binding.write().await;
        let mut s = current(self.inner.shared.get(name), name, expect)?;
        if let Some(labels) = change.labels {
            s.labels = labels;
        }
        if let Some(operators) = change.operators {
            s.operators = Some(operators);
        }
        self.write_secret(s, vec![], who).await
    }

    /// Deletes a secret that nothing uses; with `force` also when only earlier revisions do.
    ///
    /// # Errors
    /// [`Error::SecretInUse`] with those who do, [`Error::NotFound`], [`Error::EtagMismatch`], or the store's.
    pub async fn delete_secret(
        &self,
        name: &SecretName,
        expect: &str,
        force: bool,
        validate_only: bool,
        who: &Caller,
    ) -> Result<(), Error> {
        let _lock = self.inner.shared.binding.write().await;
        let mut s = current(self.inner.shared.get(name), name, expect)?;
        let mut users: Vec<String> = Vec::new();
        for (i, uses) in self.users(name) {
            if uses.iter().any(|u| u.serving) {
                users.push(i);
            } else if !force {
                users.push(format!("{i} (an earlier revision)"));
            }
        }
        // what can't be read may use it
        users.extend(self.unreadable().map(|uid| format!("{uid} (its records can't be read)")));
        if !users.is_empty() {
            return Err(Error::SecretInUse { name: name.id.clone(), users });
        }
        if validate_only {
            return Ok(());
        }
        let sealed = s.versions.drain(..).map(|v| vault::forget_shared(name, v.no)).collect();
        (s.delete_ms, s.rollout) = (self.clock().now(), false);
        self.write_secret(s, sealed, who).await.map(drop)
    }

    /// Lets go of versions that are not the newest and that no revision of anybody refers to.
    ///
    /// # Errors
    /// The store's.
    pub async fn tidy_secrets(&self) -> Result<(), Error> {
        let _lock = self.inner.shared.binding.write().await;
        // what can't be read may refer to any of them
        if self.unreadable().next().is_some() {
            return Ok(());
        }
        let old: Vec<_> = self.inner.shared.all().into_iter().filter(|s| s.versions.len() > 1).collect();
        if old.is_empty() {
            return Ok(());
        }
        let mut used: BTreeSet<(SecretName, String)> = BTreeSet::new();
        for cell in self.cells() {
            let i = cell.get();
            if i.state() == State::Destroyed {
                continue;
            }
            let all = revision::all(&i).into_iter().filter_map(|r| r.spec).flat_map(|s| s.secrets);
            let of = |id: &str| SecretName { project: i.project.clone(), id: id.to_owned() };
            used.extend(all.filter(vault::is_shared).map(|r| (of(&r.secret), r.version)));
        }
        for s in old {
            let name = SecretName::of(&s);
            let (mut next, mut sealed) = (SharedSecret::clone(&s), vec![]);
            next.versions.retain(|v| {
                let kept = v.no == s.latest || used.contains(&(name.clone(), v.no.to_string()));
                if !kept {
                    sealed.push(vault::forget_shared(&name, v.no));
                }
                kept
            });
            if !sealed.is_empty() {
                self.write_secret(next, sealed, &Caller::default()).await?;
            }
        }
        Ok(())
    }

    /// Who uses a secret: full names of instances, and how.
    pub fn users(&self, name: &SecretName) -> Vec<(String, Vec<uses::Use>)> {
        self.users_of(std::slice::from_ref(name)).pop().unwrap_or_default()
    }

    /// [`Self::users`] of several, in their order; each instance is looked at once.
    pub fn users_of(&self, names: &[SecretName]) -> Vec<Vec<(String, Vec<uses::Use>)>> {
        let mut out = vec![vec![]; names.len()];
        for cell in self.cells() {
            let i = cell.get();
            for (name, users) in names.iter().zip(&mut out) {
                let uses = uses::uses(&i, name);
                if !uses.is_empty() {
                    users.push((view::full_name(&i), uses));
                }
            }
        }
        for users in &mut out {
            users.sort_by(|a, b| a.0.cmp(&b.0));
        }
        out
    }

    fn unreadable(&self) -> impl Iterator<Item = String> {
        self.cells().into_iter().filter(|c| c.blocked().is_some()).map(|c| c.id.to_string())
    }

    /// The next version, in the record; its sealed value.
    fn add(&self, s: &mut SharedSecret, value: &SecretSlice<u8>, who: &Caller) -> Result<SealedOp, Error> {
        let (name, now) = (SecretName::of(s), self.clock().now());
        s.latest += 1;
        s.versions.push(SharedVersion {
            no: s.latest,
            create_ms: now,
            creator: who.actor.clone(),
            fingerprint: self.vault().fingerprint(&name, value),
            text: is_text(value),
        });
        let kept = self.vault().take_shared(&name, s.latest, value, now).map_err(Error::Refused)?;
        Ok(kept.into())
    }

    pub(super) async fn write_secret(
        &self,
        mut s: SharedSecret,
        sealed: Vec<SealedOp>,
        who: &Caller,
    ) -> Result<Arc<SharedSecret>, Error> {
        (s.generation, s.update_ms) = (s.generation + 1, self.clock().now());
        let name = SecretName::of(&s);
        let record = codec::encode(Kind::SharedSecret, &s)
            .map_err(|e| Error::Store(crate::store::Error::TooLarge(e.to_string())))?;
        let version = format!("{name}/versions/{}", s.latest);
        let commit = Commit {
            settings: vec![(name.setting(), record)],
            sealed,
            answer: self.answer(who, version, String::new()),
            ..Default::default()
        };
        self.store().commit(commit).await?;
        Ok(self.inner.shared.put(s))
    }
}

impl Bound {
    /// Without shared secrets.
    pub fn own(sealed: Vec<SealedOp>) -> Self {
        Self { sealed, ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_t_be_a_variable_is_known() {
        let of = |b: &[u8]| is_text(&SecretSlice::from(b.to_vec()));
        assert!(of(b"a\n") && of("ü".as_bytes()) && !of(b"a\0b") && !of(&[0xff]));
    }
}
