//! Who may give a shared secret to an instance, and who may change an instance that has one.
//!
//! An image can do with a secret what it likes. So binding one is as good as reading it, and so is changing what runs where one is
//! bound. The first is for operators of the secret; the second also for the instance's own operators, whom somebody who was allowed
//! to bind it has chosen. Both are for administrators. Operators of the engine alone may neither: they drive such an instance
//! (scale, drain, down, back to an earlier revision), and their own instances get the secrets that are theirs.
use super::{
    Api,
    authz::Authz,
    create::different_fields,
    status::{invalid, refuse},
};
use crate::{
    error::Error,
    revision,
    shared::{self, SecretName},
    vault,
};
use std::collections::BTreeSet;
use syp_auth::policy::Role;
use syp_proto::{
    journal::Instance,
    v1::{InstanceSpec, SecretRef},
};
use tonic::{Code, Status};

/// What of a revision says nothing of a secret to whoever sets it.
const HARMLESS: [&str; 3] = ["scaling", "resources", "probe"];

/// The name in its project of what a reference names, perhaps in full.
fn short<'a>(project: &str, r: &'a SecretRef) -> Option<&'a str> {
    match r.secret.strip_prefix("projects/") {
        None => Some(r.secret.as_str()).filter(|s| !s.contains('/')),
        Some(rest) => rest.strip_prefix(project)?.strip_prefix("/secrets/").filter(|s| !s.contains('/')),
    }
}

/// Does a reference ask for what an instance has under this name already?
pub(super) fn is_same(project: &str, asked: &SecretRef, held: &SecretRef) -> bool {
    if !vault::is_shared(asked) {
        // an own value was compared already; without one nothing else is asked for
        return !vault::is_shared(held) || asked == held;
    }
    let version = asked.version.is_empty() || asked.version == held.version;
    let pinned = asked.pinned || !asked.version.is_empty();
    vault::is_shared(held)
        && short(project, asked) == Some(&held.secret)
        && (asked == held || (version && pinned == held.pinned))
}

impl Api {
    /// Finds the shared secrets that a spec names: each reference has its version then. The names of those that take the newest
    /// version at the moment they are written down.
    ///
    /// # Errors
    /// `NOT_FOUND`, `PERMISSION_DENIED`, `INVALID_ARGUMENT`.
    pub(super) fn find_shared(
        &self,
        a: &Authz,
        project: &str,
        held: &[SecretRef],
        refs: &mut [SecretRef],
    ) -> Result<BTreeSet<String>, Status> {
        let mut newest = BTreeSet::new();
        for r in refs.iter_mut().filter(|r| vault::is_shared(r)) {
            if held.contains(r) {
                continue;
            }
            let Some(id) = short(project, r) else {
                return Err(invalid(
                    "spec.secrets",
                    &format!("'{}': an instance uses secrets of its own project, by their names", r.secret),
                ));
            };
            r.secret = id.to_owned();
            let (name, secret) = self.engine.shared().of(project, r);
            let secret = secret.ok_or_else(|| Error::NotFound(name.to_string()))?;
            // who follows it already is given the newest anyway
            let follows =
                |h: &SecretRef| vault::name(h) == vault::name(r) && h.secret == r.secret && !h.pinned;
            let asks_newest = r.version.is_empty();
            if !(asks_newest && !r.pinned && held.iter().any(follows)) {
                a.require_on_secret(&secret, Role::Operator)?;
            }
            if asks_newest {
                r.version = secret.latest.to_string();
                newest.insert(vault::name(r).to_owned());
            } else {
                r.pinned = true;
            }
            shared::check(&name, Some(&secret), r).map_err(Error::from)?;
        }
        Ok(newest)
    }

    /// Whoever changes what runs where shared secrets stay bound, or who may, could read them.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub(super) fn keeps_secrets(
        &self,
        a: &Authz,
        i: &Instance,
        spec: &InstanceSpec,
        operators: bool,
    ) -> Result<(), Status> {
        let held = i.spec.as_ref().map(revision::part).unwrap_or_default();
        let other = different_fields(&revision::part(spec), &held);
        if operators || other.iter().any(|f| !HARMLESS.contains(&f.as_str())) {
            self.may_be_given(a, i)?;
        }
        Ok(())
    }

    /// May this caller have the shared secrets of an instance?
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub(super) fn may_be_given(&self, a: &Authz, i: &Instance) -> Result<(), Status> {
        if a.role == Some(Role::Admin) || a.is_own_operator(i) {
            return Ok(());
        }
        let refs = i.spec.iter().flat_map(|s| &s.secrets).filter(|r| vault::is_shared(r));
        for r in refs {
            let (_, secret): (SecretName, _) = self.engine.shared().of(&i.project, r);
            if secret.is_some_and(|s| a.role_on_secret(&s) >= Some(Role::Operator)) {
                continue;
            }
            return Err(refuse(
                Code::PermissionDenied,
                "PERMISSION_DENIED",
                format!(
                    "'{}' uses the shared secret '{}', and you are an operator of neither: \
                     whoever changes what runs there, or who may, could read it",
                    i.name, r.secret
                ),
                "an operator of the instance can let you: 'sypctl access show NAME --plane control'; scaling, draining and taking it down need no more than you have",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(secret: &str, version: &str, pinned: bool) -> SecretRef {
        SecretRef {
            secret: secret.into(),
            version: version.into(),
            pinned,
            env: "DB".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_secret_is_named_within_its_project() {
        let named = |project, s: &str| short(project, &r(s, "", false)).map(str::to_owned);
        assert_eq!(named("p", "pw").as_deref(), Some("pw"));
        assert_eq!(named("p", "projects/p/secrets/pw").as_deref(), Some("pw"));
        assert_eq!(named("q", "projects/p/secrets/pw"), None);
        assert_eq!(named("p", "projects/p2/secrets/pw"), None);
        assert_eq!((named("p", "a/b"), named("p", "projects/p/secrets/a/b")), (None, None));
    }

    #[test]
    fn the_same_again_is_the_same() {
        let (follows, pinned) = (r("pw", "2", false), r("pw", "2", true));
        for asked in [r("pw", "", false), r("pw", "2", false), r("projects/p/secrets/pw", "", false)] {
            assert!(is_same("p", &asked, &follows), "{asked:?}");
        }
        assert!(is_same("p", &r("pw", "2", true), &pinned) && is_same("p", &r("pw", "2", false), &pinned));
        assert!(!is_same("p", &r("pw", "2", true), &follows), "to pin it is a change");
        assert!(!is_same("p", &r("pw", "", false), &pinned), "and so is not to");
        assert!(!is_same("p", &r("pw", "1", true), &pinned) && !is_same("p", &r("key", "", false), &follows));
        assert!(!is_same("p", &r("pw", "", false), &r(vault::OWN, "2", false)));
    }
}
