//! Changing what serves: fields beside revisions at once, a new revision by an operation; going back to an earlier one.
use super::{
    Api,
    access::lockout,
    authz::{self, Authz},
    create::{can_be_kept, newest_operation, normalised, other_rules},
    mask,
    requests::caller,
    revisions::earlier,
    status::{invalid, of_failure, refuse},
    validate,
};
use crate::{
    cell::Cell,
    cost, door,
    engine::Caller,
    id::InstanceId,
    ops::{self, Updating},
    revision::{self, merged},
    shared::Bound,
    step::{Have, Held, Owner},
    vault::{self, Secrets},
    view,
};
use secrecy::ExposeSecret;
use std::sync::Arc;
use syp_auth::policy::Role;
use syp_proto::{
    google::longrunning::Operation,
    journal::{Edited, Instance, Revision},
    v1::{self, InstanceSpec},
};
use tonic::{Code, Request, Response, Status};

/// Fields of a revision.
const REVISION: [&str; 13] = [
    "image",
    "port",
    "resources",
    "scaling",
    "probe",
    "env",
    "secrets",
    "entrypoint",
    "args",
    "protocol",
    "egress",
    "isolation",
    "read_only_root",
];

/// What an update comes to, checked.
pub(super) struct Change {
    /// Beside revisions.
    pub edited: Option<Edited>,
    /// The spec with the change in it.
    pub spec: InstanceSpec,
    /// A revision, unless what serves is one like it.
    pub revision: Option<Revision>,
    /// What its price is made of.
    pub lines: Vec<v1::offer::Line>,
    /// Its new secrets.
    pub bound: Bound,
    /// Pause before the revision serves.
    pub hold: bool,
}

impl Api {
    /// What an update asks for, against the instance as it is.
    pub(super) async fn change(
        &self,
        a: &Authz,
        r: &v1::UpdateInstanceRequest,
        i: &Instance,
    ) -> Result<Change, Status> {
        let new = r.instance.clone().ok_or_else(|| invalid("instance", "required"))?;
        let asked = new.spec.clone().unwrap_or_default();
        let held = i.spec.clone().unwrap_or_default();
        let paths = paths(r.update_mask.as_ref().map_or(&[], |m| &m.paths), &new, i)?;
        let mut e = Edited { request_id: r.request_id.clone(), ..Default::default() };
        let mut fields = Vec::new();
        let labels: Vec<_> =
            paths.iter().map(String::as_str).filter(|p| p.split('.').next() == Some("labels")).collect();
        if !labels.is_empty() {
            let held = v1::Instance { labels: i.labels.clone(), ..Default::default() };
            let given = v1::Instance { labels: new.labels.clone(), ..Default::default() };
            let after = mask::apply(&held, &given, &labels)?.labels;
            validate::labels(&after)?;
            (e.labels, e.set_labels) = (after, true);
        }
        for p in paths.iter().filter(|p| !labels.contains(&p.as_str())) {
            match p.as_str() {
                "spec.ttl" => {
                    let ttl = validate::ttl(asked.ttl.as_ref())?.unwrap_or(0);
                    (e.expire_ms, e.set_expire) =
                        (if ttl > 0 { self.engine.clock().now() + ttl } else { 0 }, true);
                }
                "spec.budget" => {
                    validate::budget(asked.budget.as_ref(), self.currency_in(i))?;
                    can_be_kept(asked.budget.as_ref(), &cost::Pricing::of(i))?;
                    (e.budget, e.set_budget) = (asked.budget.clone(), true);
                }
                "spec.protect" => (e.protect, e.set_protect) = (asked.protect, true),
                "spec.report_drift" => (e.report_drift, e.set_report_drift) = (asked.report_drift, true),
                "spec.cors_origins" => {
                    validate::cors(p, &asked.cors_origins)?;
                    (e.cors_origins, e.set_cors) = (asked.cors_origins.clone(), true);
                }
                "spec.access" => e.access = Some(asked.access.clone().unwrap_or_default()),
                "spec.operators" => e.operators = Some(asked.operators.clone().unwrap_or_default()),
                other => fields.push(revision_field(other)?),
            }
        }
        self.policies(a, &e, &held)?;
        let mut spec = mask::apply(&held, &asked, &fields)?;
        normalised(&mut spec);
        validate::spec(&spec)?;
        only_known(&spec, i)?;
        let newest = self.find_shared(a, &i.project, &held.secrets, &mut spec.secrets)?;
        self.keeps_secrets(a, i, &spec, e.operators.is_some())?;
        let uid = InstanceId::parse(&i.uid).ok_or_else(|| Status::internal("uid"))?;
        self.known_values(i, uid, &held.secrets, &mut spec.secrets).await;
        let bound = self.sealed(uid, revision::next_number(i), &mut spec, newest)?;
        let beside = Edited { request_id: String::new(), ..e.clone() } != Edited::default();
        let (revision, lines) =
            if fields.is_empty() { (None, vec![]) } else { self.revision(i, &spec, None).await? };
        let hold = r.rollout.is_some_and(|r| r.hold);
        Ok(Change { edited: beside.then_some(e), spec, revision, lines, bound, hold })
    }

    /// Are these the values that an instance has? Those without a value are not asked about.
    pub(super) async fn are_its_secrets(&self, i: &Instance, given: &[v1::SecretRef]) -> bool {
        let Some(uid) = InstanceId::parse(&i.uid) else { return false };
        let held = i.spec.clone().unwrap_or_default().secrets;
        let mut given = given.to_vec();
        self.known_values(i, uid, &held, &mut given).await;
        let same = |r: &v1::SecretRef| {
            let there = held.iter().find(|h| vault::name(h) == vault::name(r));
            there.is_none_or(|h| super::bind::is_same(&i.project, r, h))
        };
        given.iter().all(|r| r.value.is_empty() && same(r))
    }

    /// A value that the serving revision has already makes no other version of it.
    async fn known_values(
        &self,
        i: &Instance,
        uid: InstanceId,
        held: &[v1::SecretRef],
        asked: &mut [v1::SecretRef],
    ) {
        let (vault, store) = (Arc::clone(self.engine.vault()), Arc::clone(self.engine.store()));
        let secrets = Secrets::new(vault, store, uid, &i.project);
        for r in asked.iter_mut().filter(|r| !r.value.is_empty()) {
            // a shared one's value is not told by trying
            let same_name = |h: &&v1::SecretRef| h.env == r.env && h.file == r.file && !vault::is_shared(h);
            let Some(h) = held.iter().find(same_name) else { continue };
            // one that can't be read is replaced: that is the way out
            if secrets.get(h).await.is_ok_and(|value| value.expose_secret() == r.value) {
                r.clone_from(h);
            }
        }
    }

    /// Policies are checked as those who set them alone are.
    fn policies(&self, a: &Authz, e: &Edited, held: &InstanceSpec) -> Result<(), Status> {
        for (new, held) in [(&e.access, &held.access), (&e.operators, &held.operators)] {
            if let Some(p) = new {
                validate::access("spec", p)?;
                self.usable("spec", p, &held.clone().unwrap_or_default())?;
            }
        }
        if let Some(p) = &e.operators
            && authz::decide(&door::policy(p), &a.identity).max(a.role).is_none_or(|x| x < Role::Operator)
        {
            return Err(lockout());
        }
        Ok(())
    }

    /// A revision for this spec, with everything checked that can be before anything is made; `None` when it serves already.
    /// `image`: the very image that an earlier revision had, whatever its name stands for today.
    async fn revision(
        &self,
        i: &Instance,
        spec: &InstanceSpec,
        image: Option<&str>,
    ) -> Result<(Option<Revision>, Vec<v1::offer::Line>), Status> {
        ops::updatable(i)?;
        let target = self.engine.target(&spec.target).map_err(|f| of_failure(&f))?;
        let facts = serde_json::from_str(&i.facts).unwrap_or_default();
        let no = revision::next_number(i);
        let owner = Owner {
            store: self.engine.store().store_id().clone(),
            uid: InstanceId::parse(&i.uid).ok_or_else(|| Status::internal("uid"))?,
            name: i.name.clone(),
            revision: revision::name(&i.name, no),
        };
        let mut tried = spec.clone();
        if let Some(image) = image {
            image.clone_into(&mut tried.image);
        }
        let held = Held { facts: &facts, have: Have::of(i, no) };
        let mut p = target.preflight(&owner, &tried, Some(&held)).await.map_err(|f| of_failure(&f))?;
        p.spec.image.clone_from(&spec.image);
        let serving = i.spec.clone().unwrap_or_default();
        let same = revision::part(&p.spec) == revision::part(&serving)
            && revision::template(&p.spec, &p.facts) == revision::template(&serving, &facts);
        let new = (!same).then(|| Revision {
            no,
            spec: Some(revision::part(&p.spec)),
            facts: p.facts.to_string(),
            hourly_rate: Some(cost::money(p.hourly, self.currency_of(&*target))),
            ..Default::default()
        });
        Ok((new, p.lines))
    }

    pub(super) async fn update(
        &self,
        request: Request<v1::UpdateInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let mut known = r.clone();
        if let Some(spec) = known.instance.as_mut().and_then(|i| i.spec.as_mut()) {
            self.blind(spec);
        }
        let who = caller(&a, &r.request_id, &known)?;
        let name = r.instance.as_ref().map(|i| i.name.clone()).unwrap_or_default();
        let cell = self.live(&a, &name, Role::Operator).await?;
        if let Some(there) = self.repeated(&cell, &who).await? {
            return Ok(Response::new(there));
        }
        let change = self.change(&a, &r, &cell.get()).await?;
        if r.validate_only {
            return Ok(Response::new(Operation::default()));
        }
        let etag = r.instance.map(|i| i.etag).unwrap_or_default();
        Box::pin(self.make(&cell, change, "set", &etag, &who)).await.map(Response::new)
    }

    pub(super) async fn rollback(
        &self,
        request: Request<v1::RollbackInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let who = caller(&a, &r.request_id, &r)?;
        let cell = self.live(&a, &r.name, Role::Operator).await?;
        if let Some(there) = self.repeated(&cell, &who).await? {
            return Ok(Response::new(there));
        }
        let change = self.back(&cell.get(), &r.revision_id).await?;
        if r.validate_only {
            return Ok(Response::new(Operation::default()));
        }
        Box::pin(self.make(&cell, change, "rollback", &r.etag, &who)).await.map(Response::new)
    }

    /// Going back is making a new revision like an old one, with that one's very image.
    pub(super) async fn back(&self, i: &Instance, to: &str) -> Result<Change, Status> {
        let to = earlier(i, to)?;
        let held = i.spec.clone().unwrap_or_default();
        let spec = merged(&held, &to.spec.clone().unwrap_or_default());
        let facts: serde_json::Value = serde_json::from_str(&to.facts).unwrap_or_default();
        let (mut revision, lines) = self.revision(i, &spec, facts["image"].as_str()).await?;
        if let Some(new) = &mut revision {
            new.note = format!("back to {}", revision::name(&i.name, to.no));
        }
        Ok(Change { edited: None, spec, revision, lines, bound: Bound::default(), hold: false })
    }

    async fn make(
        &self,
        cell: &Arc<Cell>,
        change: Change,
        verb: &str,
        etag: &str,
        who: &Caller,
    ) -> Result<Operation, Status> {
        match change {
            Change { edited, revision: Some(mut new), bound, hold, .. } => {
                if new.note.is_empty() {
                    verb.clone_into(&mut new.note);
                }
                let how = Updating { verb, expect: etag, hold };
                let op = Box::pin(self.engine.update(cell, &new, edited, bound, &how, who)).await?;
                self.operation(&op.to_string()).await
            }
            Change { edited: Some(e), .. } => {
                self.engine.edit(cell, e, etag, who).await?;
                Ok(self.as_it_is(cell))
            }
            // it is so already
            _ => Ok(self.as_it_is(cell)),
        }
    }

    /// A request that was answered before is answered with what it has become.
    async fn repeated(&self, cell: &Arc<Cell>, who: &Caller) -> Result<Option<Operation>, Status> {
        Ok(match self.engine.answered(who).await? {
            None => None,
            Some(a) if a.operation.is_empty() => Some(self.as_it_is(cell)),
            Some(a) => Some(self.operation(&a.operation).await?),
        })
    }

    fn as_it_is(&self, cell: &Cell) -> Operation {
        let (i, now) = (cell.get(), self.engine.clock().now());
        let result = view::any(&view::instance(cell, &i, now));
        Operation {
            name: newest_operation(&i, now).name,
            done: true,
            result: Some(syp_proto::google::longrunning::operation::Result::Response(result)),
            metadata: None,
        }
    }
}

/// A reference without a value must be to one that this instance has.
fn only_known(spec: &InstanceSpec, i: &Instance) -> Result<(), Status> {
    let all = revision::all(i);
    let has = |r: &v1::SecretRef| all.iter().any(|x| x.spec.as_ref().is_some_and(|s| s.secrets.contains(r)));
    match spec.secrets.iter().find(|r| r.value.is_empty() && !vault::is_shared(r) && !has(r)) {
        Some(r) => Err(invalid("spec.secrets", &format!("'{}' has no value", crate::vault::name(r)))),
        None => Ok(()),
    }
}

/// The fields to change. `*` is what `apply` sends: everything that the given spec says, and the whole revision.
fn paths(mask: &[String], new: &v1::Instance, i: &Instance) -> Result<Vec<String>, Status> {
    if mask.is_empty() {
        return Err(invalid(
            "update_mask",
            "say which fields, such as spec.image; '*' for all that is given",
        ));
    }
    if !mask.iter().any(|p| p == "*") {
        return Ok(mask.to_vec());
    }
    let (asked, held) = (new.spec.clone().unwrap_or_default(), i.spec.clone().unwrap_or_default());
    let target = asked.target.trim_start_matches("providers/");
    // 'k8s' names no cluster: whichever it is
    let same = target == held.target || (target == "k8s" && held.target.starts_with("k8s:"));
    if !target.is_empty() && !same {
        return Err(immutable("spec.target"));
    }
    if asked.publish.is_some() && asked.publish != held.publish {
        return Err(immutable("spec.publish"));
    }
    if asked.kubernetes.is_some() && asked.kubernetes != held.kubernetes {
        return Err(immutable("spec.kubernetes"));
    }
    if asked.aws.is_some() && asked.aws != held.aws {
        return Err(immutable("spec.aws"));
    }
    if !asked.domains.is_empty() && asked.domains != held.domains {
        return Err(immutable("spec.domains"));
    }
    let mut out: Vec<_> = REVISION.iter().map(|f| format!("spec.{f}")).collect();
    let given = [
        ("labels", new.labels != i.labels),
        ("spec.ttl", asked.ttl.is_some() && asked.ttl != held.ttl),
        ("spec.protect", asked.protect != held.protect),
        ("spec.report_drift", asked.report_drift != held.report_drift),
        ("spec.budget", asked.budget.is_some() && asked.budget != held.budget),
        ("spec.cors_origins", !asked.cors_origins.is_empty() && asked.cors_origins != held.cors_origins),
        ("spec.access", other_rules(&asked.access, &held.access)),
        ("spec.operators", other_rules(&asked.operators, &held.operators)),
    ];
    out.extend(given.into_iter().filter(|(_, given)| *given).map(|(f, _)| f.to_owned()));
    Ok(out)
}

/// `spec.env.A` as a path inside the spec, if it belongs to a revision.
fn revision_field(path: &str) -> Result<&str, Status> {
    let inside = path.strip_prefix("spec.").unwrap_or_default();
    let first = inside.split('.').next().unwrap_or_default();
    if REVISION.contains(&first) {
        return Ok(inside);
    }
    if matches!(first, "target" | "publish" | "kubernetes" | "aws" | "domains") {
        return Err(immutable(path));
    }
    Err(invalid(
        "update_mask",
        &format!(
            "'{path}' can't be changed; what can: labels, spec.access, spec.operators, spec.ttl, spec.budget, spec.protect, spec.report_drift, spec.cors_origins, spec.{}",
            REVISION.join(", spec.")
        ),
    ))
}

fn immutable(field: &str) -> Status {
    refuse(
        Code::FailedPrecondition,
        "IMMUTABLE_FIELD",
        format!("'{field}' is fixed for the life of an instance: its address rests on it"),
        "make another instance with the new value, then take this one down",
    )
}
