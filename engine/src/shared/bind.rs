//! Binding: which version a reference of a revision stands for, decided where the revision is written down.
use super::{Directory, SecretName, version};
use crate::{error::Error, store::SealedOp, vault};
use std::{collections::BTreeSet, sync::Arc};
use syp_proto::{journal::SharedSecret, v1::SecretRef};

/// What a revision brings along besides its records.
#[derive(Clone, Debug, Default)]
pub struct Bound {
    /// Its own new values, sealed.
    pub sealed: Vec<SealedOp>,
    /// Names of references that take the newest version there is when they are written down.
    pub newest: BTreeSet<String>,
}

/// Why a reference can't be bound.
#[derive(Debug, PartialEq, Eq)]
pub enum Find {
    /// There is no such secret, or no such version of it: what, in words.
    Missing(String),
    /// It is no text, and a variable must be.
    NoText(String),
}

// === impl Find ===

impl From<Find> for Error {
    fn from(f: Find) -> Self {
        match f {
            Find::Missing(what) => Self::NotFound(what),
            Find::NoText(message) => Self::Invalid { field: "spec.secrets".into(), message },
        }
    }
}

/// The version that a reference stands for is there and fits.
///
/// # Errors
/// [`Find`].
pub fn check(name: &SecretName, secret: Option<&SharedSecret>, r: &SecretRef) -> Result<(), Find> {
    let Some(s) = secret else { return Err(Find::Missing(name.to_string())) };
    let Some(v) = version(s, &r.version) else {
        return Err(Find::Missing(format!("version {} of {name} (the newest is {})", r.version, s.latest)));
    };
    if !r.env.is_empty() && !v.text {
        let words = format!("version {} of '{}' is no text: hand it over as a file", r.version, name.id);
        return Err(Find::NoText(words));
    }
    Ok(())
}

// === impl Directory ===

impl Directory {
    /// The secret of a reference.
    pub fn of(&self, project: &str, r: &SecretRef) -> (SecretName, Option<Arc<SharedSecret>>) {
        let name = SecretName { project: project.to_owned(), id: r.secret.clone() };
        let secret = self.get(&name);
        (name, secret)
    }

    /// Fills in the newest versions and checks all of them. `binding` must be held until the revision is on disk.
    ///
    /// # Errors
    /// [`Find`].
    pub(crate) fn bind(
        &self,
        project: &str,
        refs: &mut [SecretRef],
        newest: &BTreeSet<String>,
    ) -> Result<(), Find> {
        for r in refs.iter_mut().filter(|r| vault::is_shared(r)) {
            let (name, secret) = self.of(project, r);
            if let Some(s) = secret.as_ref().filter(|_| newest.contains(vault::name(r))) {
                r.version = s.latest.to_string();
            }
            check(&name, secret.as_deref(), r)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::journal::SharedVersion;

    #[test]
    fn the_newest_is_what_is_newest_when_it_is_written_down() {
        let d = Directory::default();
        let v = |no, text| SharedVersion { no, text, ..Default::default() };
        let secret = |latest, versions| SharedSecret {
            project: "p".into(),
            name: "pw".into(),
            latest,
            versions,
            ..Default::default()
        };
        d.put(secret(1, vec![v(1, true)]));
        let r = |version: &str, env: &str, file: &str| SecretRef {
            secret: "pw".into(),
            version: version.into(),
            env: env.into(),
            file: file.into(),
            ..Default::default()
        };
        let mut refs = [r("1", "A", ""), r("1", "B", "")];
        let newest = BTreeSet::from(["A".to_owned()]);
        // one was added after the request was looked at
        d.put(secret(2, vec![v(1, true), v(2, true)]));
        d.bind("p", &mut refs, &newest).unwrap();
        assert_eq!((refs[0].version.as_str(), refs[1].version.as_str()), ("2", "1"));
        // one that was let go meanwhile
        d.put(secret(3, vec![v(3, false)]));
        assert!(
            matches!(d.bind("p", &mut [r("1", "B", "")], &newest), Err(Find::Missing(w)) if w.contains("version 1"))
        );
        assert!(matches!(d.bind("p", &mut [r("", "A", "")], &newest), Err(Find::NoText(_))));
        d.bind("p", &mut [r("3", "", "/k")], &newest).unwrap();
        assert!(d.bind("q", &mut [r("3", "", "/k")], &newest).is_err(), "a name of another project");
        d.put(SharedSecret { delete_ms: 1, ..secret(3, vec![]) });
        assert!(d.bind("p", &mut [r("3", "", "/k")], &newest).is_err());
        assert_eq!(d.last_number(&SecretName { project: "p".into(), id: "pw".into() }), 3);
    }
}
