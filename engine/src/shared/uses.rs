//! Which revisions use a shared secret. Pure.
use super::SecretName;
use crate::{graph::State, revision, vault};
use syp_proto::{journal::Instance, v1::SecretRef};

/// A use by a revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Use {
    /// Number of the revision.
    pub revision: u32,
    /// How.
    pub by: SecretRef,
    /// By the revision that serves or is being made; otherwise by one that one can go back to.
    pub serving: bool,
}

/// All uses by an instance that is not over, oldest revision first.
pub fn uses(i: &Instance, name: &SecretName) -> Vec<Use> {
    // cheap for the many that use none
    let any = |s: &Option<syp_proto::v1::InstanceSpec>| {
        s.iter().flat_map(|s| &s.secrets).any(|r| vault::is_shared(r) && r.secret == name.id)
    };
    let revisions = i.history.iter().chain(&i.wanted);
    if i.project != name.project
        || i.state() == State::Destroyed
        || !(any(&i.spec) || revisions.map(|r| &r.spec).any(any))
    {
        return vec![];
    }
    let serving = |no: u32| no == revision::number(i) || i.wanted.as_ref().is_some_and(|w| w.no == no);
    let of = |r: &syp_proto::journal::Revision| {
        let refs = r.spec.clone().unwrap_or_default().secrets;
        let (no, id) = (r.no, name.id.clone());
        let mine = refs.into_iter().filter(move |r| vault::is_shared(r) && r.secret == id);
        let serving = serving(no);
        mine.map(move |by| Use { revision: no, by, serving }).collect::<Vec<_>>()
    };
    revision::all(i).iter().flat_map(of).collect()
}

/// Does what serves follow the secret, and is it not at this version?
pub fn follows(i: &Instance, name: &SecretName, newest: u32) -> bool {
    let newest = newest.to_string();
    i.project == name.project
        && i.spec
            .iter()
            .flat_map(|s| &s.secrets)
            .any(|r| vault::is_shared(r) && r.secret == name.id && !r.pinned && r.version != newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::{journal::Revision, v1::InstanceSpec};

    fn bound(version: &str, pinned: bool) -> SecretRef {
        SecretRef {
            secret: "pw".into(),
            env: "DB".into(),
            version: version.into(),
            pinned,
            ..Default::default()
        }
    }

    fn spec(r: SecretRef) -> Option<InstanceSpec> {
        Some(InstanceSpec { secrets: vec![r], ..Default::default() })
    }

    fn name(project: &str) -> SecretName {
        SecretName { project: project.into(), id: "pw".into() }
    }

    #[test]
    fn what_serves_what_is_made_and_what_can_be_gone_back_to_uses_it() {
        let i = Instance {
            project: "p".into(),
            revision_no: 2,
            spec: spec(bound("2", false)),
            history: vec![Revision { no: 1, spec: spec(bound("1", true)), ..Default::default() }],
            wanted: Some(Revision { no: 3, spec: spec(bound("3", false)), ..Default::default() }),
            ..Default::default()
        };
        let found = uses(&i, &name("p"));
        let told: Vec<_> = found.iter().map(|u| (u.revision, u.by.version.as_str(), u.serving)).collect();
        assert_eq!(told, [(1, "1", false), (2, "2", true), (3, "3", true)]);
        assert_eq!(uses(&i, &name("q")), [], "names of another project are others");
        let mut over = i;
        over.set_state(State::Destroyed);
        assert_eq!(uses(&over, &name("p")), []);
    }

    #[test]
    fn only_what_is_not_pinned_and_not_there_yet_follows() {
        let i = |r| Instance { project: "p".into(), spec: spec(r), ..Default::default() };
        assert!(follows(&i(bound("1", false)), &name("p"), 2));
        assert!(!follows(&i(bound("2", false)), &name("p"), 2));
        assert!(!follows(&i(bound("1", true)), &name("p"), 2));
        assert!(!follows(&i(bound("1", false)), &name("q"), 2));
        let own = SecretRef { secret: vault::OWN.into(), ..bound("1", false) };
        assert!(!follows(&i(own), &name("p"), 2));
    }
}
