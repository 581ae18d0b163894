//! Creating an instance: defaults, everything that can be refused before anything is made, and `up` on a name that exists.
use super::{
    Api,
    authz::Authz,
    requests::caller,
    status::{invalid, of_failure, refuse},
    validate,
};
use crate::{
    clock::duration_millis,
    cost,
    engine::{Caller, NewInstance},
    error::Error,
    failure::{Class, failure},
    graph::State,
    id::InstanceId,
    shared::Bound,
    step::Owner,
    view,
};
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, ReflectMessage};
use std::{collections::BTreeSet, time::Duration};
use syp_auth::policy::Role;
use syp_proto::{
    google::longrunning::Operation,
    journal,
    v1::{self, instance_spec},
};
use tonic::{Code, Request, Response, Status};

/// The other call's commit has ended within this, or will not.
const UNDER_WAY: Duration = Duration::from_secs(5);

/// Defaults that every target shares; what is not said is denied.
pub(super) fn with_defaults(s: &mut v1::InstanceSpec, a: &Authz) {
    normalised(s);
    if s.access.as_ref().is_none_or(|p| p.rules.is_empty()) {
        // private by default: whoever made it may use it
        s.access = Some(only(&a.identity, v1::Role::User));
    }
    if s.operators.as_ref().is_none_or(|p| p.rules.is_empty()) {
        s.operators = Some(only(&a.identity, v1::Role::Operator));
    }
}

/// Defaults that do not depend on who asks.
pub(super) fn normalised(s: &mut v1::InstanceSpec) {
    s.target = s.target.trim_start_matches("providers/").to_owned();
    // their order means nothing
    s.secrets.sort_by(|a, b| (&a.env, &a.file).cmp(&(&b.env, &b.file)));
    if s.scaling.is_none() {
        s.scaling = Some(v1::Scaling { min: 1, max: 1, ..Default::default() });
    }
    if let Some(sc) = &mut s.scaling {
        // nothing said; less than nothing is refused where all else is
        sc.min = if sc.min == 0 { 1 } else { sc.min };
        sc.max = sc.max.max(sc.min);
    }
    if s.protocol() == instance_spec::Protocol::Unspecified {
        s.set_protocol(instance_spec::Protocol::Auto);
    }
    if s.egress() == instance_spec::Egress::Unspecified {
        s.set_egress(instance_spec::Egress::On);
    }
    if s.isolation() == instance_spec::Isolation::Unspecified {
        s.set_isolation(instance_spec::Isolation::Enforced);
    }
}

/// What makes a revision: access, operators, time to live and the like live beside revisions and are changed by their own commands.
fn revision_part(mut s: v1::InstanceSpec) -> v1::InstanceSpec {
    (s.access, s.operators, s.budget, s.ttl) = (None, None, None, None);
    (s.protect, s.report_drift, s.desired_state) = (false, false, 0);
    s.cors_origins.clear();
    s
}

/// The open operation; with none open, the newest one as done with the instance as it is.
pub(super) fn newest_operation(i: &journal::Instance, now: crate::clock::Millis) -> Operation {
    let open = i.run.as_ref().and_then(|r| view::operation(i, r.no, None, now));
    open.unwrap_or_else(|| Operation {
        name: view::operation_id(i, i.runs).map_or_else(String::new, |o| o.to_string()),
        metadata: i.past.last().map(|r| view::any(&view::metadata(i, r, None))),
        done: true,
        result: Some(syp_proto::google::longrunning::operation::Result::Response(view::any(
            &view::of_projection(i, now),
        ))),
    })
}

pub(super) fn only(who: &syp_auth::verify::Identity, role: v1::Role) -> v1::AccessPolicy {
    let rule = v1::access_policy::Rule {
        id: "creator".into(),
        effect: v1::access_policy::Effect::Allow as i32,
        issuer: who.issuer.clone(),
        members: vec![format!("sub:{}", who.subject)],
        role: role as i32,
        ..Default::default()
    };
    v1::AccessPolicy { rules: vec![rule], etag: String::new() }
}

impl Api {
    pub(super) async fn prepare(
        &self,
        a: &Authz,
        r: &v1::CreateInstanceRequest,
    ) -> Result<(NewInstance, Vec<v1::offer::Line>), Status> {
        let project = validate::one_project(&r.parent)?;
        validate::id("instance_id", &r.instance_id)?;
        a.is_about(&format!("projects/{project}/instances/{}", r.instance_id));
        let i = r.instance.as_ref().ok_or_else(|| invalid("instance", "required"))?;
        validate::labels(&i.labels)?;
        let mut spec = i.spec.clone().ok_or_else(|| invalid("instance.spec", "required"))?;
        with_defaults(&mut spec, a);
        validate::spec(&spec)?;
        let target = self.engine.target(&spec.target).map_err(|f| of_failure(&f))?;
        // 'k8s' is whatever cluster is current today
        spec.target = target.name().to_owned();
        if spec.aws.is_some() && !spec.target.starts_with("aws:") {
            let why = format!(
                "'{}' has no certificate of ACM, zone or subnet: they are for aws targets",
                spec.target
            );
            return Err(invalid("spec.aws", &why));
        }
        validate::budget(spec.budget.as_ref(), self.currency_of(&*target))?;
        self.somebody_gets_in(&spec).map_err(|f| of_failure(&f))?;
        for p in [&spec.access, &spec.operators].into_iter().flatten() {
            self.usable("spec", p, &v1::AccessPolicy::default())?;
        }
        let uid = InstanceId::random();
        let owner = Owner {
            store: self.engine.store().store_id().clone(),
            uid,
            name: r.instance_id.clone(),
            revision: crate::revision::name(&r.instance_id, 1),
        };
        let newest = self.find_shared(a, project, &[], &mut spec.secrets)?;
        let none = |r: &&v1::SecretRef| r.value.is_empty() && !crate::vault::is_shared(r);
        if let Some(r) = spec.secrets.iter().find(none) {
            return Err(invalid("spec.secrets", &format!("'{}' has no value", crate::vault::name(r))));
        }
        self.engine.with_prices(&target).await;
        let mut p = target.preflight(&owner, &spec, None).await.map_err(|f| of_failure(&f))?;
        can_be_kept(p.spec.budget.as_ref(), &cost::Pricing::of_facts(&p.facts))?;
        let bound = self.sealed(uid, 1, &mut p.spec, newest)?;
        let ttl = p.spec.ttl.as_ref().map_or(0, duration_millis);
        let new = NewInstance {
            project: project.into(),
            name: r.instance_id.clone(),
            uid,
            labels: i.labels.clone(),
            spec: p.spec,
            facts: p.facts,
            hourly: cost::money(p.hourly, self.currency_of(&*target)),
            expire_ms: if ttl > 0 { self.engine.clock().now() + ttl } else { 0 },
            deadline_ms: 0,
            bound,
        };
        Ok((new, p.lines))
    }

    pub(super) async fn create(
        &self,
        request: Request<v1::CreateInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let who = caller(&a, &r.request_id, &self.without_values(r.clone()))?;
        if let Some(there) = self.there(&a, &r, &who).await? {
            return Ok(Response::new(there));
        }
        let (new, _) = self.prepare(&a, &r).await?;
        if r.validate_only {
            return Ok(Response::new(Operation { name: String::new(), ..Default::default() }));
        }
        let mut news = self.engine.changes().subscribe();
        let end = tokio::time::Instant::now() + UNDER_WAY;
        loop {
            let taken = match self.engine.create(&who, new.clone()).await {
                Ok(op) => return self.operation(&op.to_string()).await.map(Response::new),
                Err(e @ Error::NameInUse(_)) => e,
                Err(e) => return Err(e.into()),
            };
            // another call (perhaps this very one, sent twice) is writing it down: what comes of that is the answer
            if let Some(there) = self.there(&a, &r, &who).await? {
                return Ok(Response::new(there));
            }
            if tokio::time::timeout_at(end, news.changed()).await.is_err() {
                return Err(taken.into());
            }
        }
    }

    /// The values of a spec's secrets as the store keeps them; the spec has none of them any more.
    pub(super) fn sealed(
        &self,
        uid: InstanceId,
        revision: u32,
        spec: &mut v1::InstanceSpec,
        newest: BTreeSet<String>,
    ) -> Result<Bound, Status> {
        let now = self.engine.clock().now();
        let kept = self.engine.vault().take(uid, revision, &mut spec.secrets, now);
        let sealed = kept.map_err(|f| of_failure(&f))?.into_iter().map(Into::into).collect();
        Ok(Bound { sealed, newest })
    }

    /// The request with something in the place of each secret that tells it apart: requests are known by their hash, and a hash
    /// of a short secret can be guessed.
    fn without_values(&self, mut r: v1::CreateInstanceRequest) -> v1::CreateInstanceRequest {
        if let Some(spec) = r.instance.as_mut().and_then(|i| i.spec.as_mut()) {
            self.blind(spec);
        }
        r
    }

    pub(super) fn blind(&self, spec: &mut v1::InstanceSpec) {
        for s in spec.secrets.iter_mut().filter(|s| !s.value.is_empty()) {
            s.value = self.engine.vault().blinded(&s.value);
        }
    }

    /// Off loopback the built-in issuer is no good.
    pub(super) fn somebody_gets_in(&self, spec: &v1::InstanceSpec) -> Result<(), journal::Failure> {
        if self.identities.has_others() || crate::door::is_on_loopback(spec) {
            return Ok(());
        }
        Err(failure(
            Class::Terminal,
            "ISSUER_MISSING",
            "off loopback only people of a configured issuer get in, and this engine has none",
            "start it with one: 'sypctl server run --issuer URL'; or leave out --publish",
        ))
    }

    /// What an earlier call has made of this request or this name.
    async fn there(
        &self,
        a: &Authz,
        r: &v1::CreateInstanceRequest,
        who: &Caller,
    ) -> Result<Option<Operation>, Status> {
        if let Some(answer) = self.engine.answered(who).await? {
            return self.operation(&answer.operation).await.map(Some);
        }
        let Some(cell) = self.engine.by_name(validate::parent(&r.parent)?, &r.instance_id) else {
            return Ok(None);
        };
        let i = cell.get();
        a.require_on(&i, Role::Viewer)?;
        let given = r.instance.as_ref().and_then(|i| i.spec.clone()).unwrap_or_default().secrets;
        let same = self.are_its_secrets(&i, &given).await;
        self.attach(a, r, &i, same).map(Some)
    }

    /// `up` on a name that exists: the same spec attaches, another one is a conflict.
    fn attach(
        &self,
        a: &Authz,
        r: &v1::CreateInstanceRequest,
        i: &journal::Instance,
        same_secrets: bool,
    ) -> Result<Operation, Status> {
        let (why, hint) = if i.state() == State::Draining {
            ("it is draining".to_owned(), "take it down first: 'sypctl down'")
        } else {
            let mut other = differences(a, r, i);
            if !same_secrets && !other.iter().any(|f| f == "secrets") {
                other.push("secrets".into());
            }
            if other.is_empty() {
                return Ok(newest_operation(i, self.engine.clock().now()));
            }
            let hint =
                "change it with 'sypctl set' (or 'sypctl access' for who may use it), or choose another name";
            (format!("differs in: {}", other.join(", ")), hint)
        };
        Err(refuse(Code::AlreadyExists, "NAME_IN_USE", format!("'{}' exists and {why}", i.name), hint))
    }
}

/// A budget where nothing has a price would never be reached.
pub(super) fn can_be_kept(budget: Option<&v1::Budget>, pricing: &cost::Pricing) -> Result<(), Status> {
    if budget.is_none() || pricing.is_priced() {
        return Ok(());
    }
    let why = pricing.unpriced.clone().unwrap_or_default();
    Err(refuse(
        Code::FailedPrecondition,
        "UNPRICED",
        format!("a budget there would never be reached: {why}"),
        &format!("{}; or leave the budget away", cost::SET_TARIFF),
    ))
}

/// In which fields an instance is not what is asked for. What the request leaves open is not one of them.
fn differences(a: &Authz, r: &v1::CreateInstanceRequest, i: &journal::Instance) -> Vec<String> {
    let asked = r.instance.clone().unwrap_or_default();
    let given = asked.spec.unwrap_or_default();
    let have = i.spec.clone().unwrap_or_default();
    let mut wanted = given.clone();
    with_defaults(&mut wanted, a);
    if wanted.port == 0 {
        // preflight filled it in from the image
        wanted.port = have.port;
    }
    if wanted.domains.is_empty() {
        // likewise, from the name
        wanted.domains.clone_from(&have.domains);
    }
    // 'k8s' was the cluster that was current then
    if wanted.target == "k8s" && have.target.starts_with("k8s:") {
        wanted.target.clone_from(&have.target);
    }
    // a value can't be compared with one that is sealed: the same names attach
    let named =
        |s: &v1::InstanceSpec| s.secrets.iter().map(|r| (r.env.clone(), r.file.clone())).collect::<Vec<_>>();
    if named(&wanted) == named(&have) {
        wanted.secrets.clone_from(&have.secrets);
    }
    let mut out = different_fields(&revision_part(wanted), &revision_part(have.clone()));
    let beside = [
        ("access", other_rules(&given.access, &have.access)),
        ("operators", other_rules(&given.operators, &have.operators)),
        ("ttl", given.ttl.is_some() && given.ttl != have.ttl),
        ("budget", given.budget.is_some() && given.budget != have.budget),
        ("protect", given.protect && !have.protect),
        ("report_drift", given.report_drift && !have.report_drift),
        ("cors_origins", !given.cors_origins.is_empty() && given.cors_origins != have.cors_origins),
        ("labels", !asked.labels.is_empty() && asked.labels != i.labels),
    ];
    out.extend(beside.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned()));
    out
}

/// Are rules given, and others than those that hold? Their ids do not matter.
pub(super) fn other_rules(given: &Option<v1::AccessPolicy>, have: &Option<v1::AccessPolicy>) -> bool {
    let rules = |p: &Option<v1::AccessPolicy>| -> Vec<_> {
        let all = p.iter().flat_map(|p| &p.rules).cloned();
        all.map(|r| v1::access_policy::Rule { id: String::new(), ..r }).collect()
    };
    given.as_ref().is_some_and(|p| !p.rules.is_empty()) && rules(given) != rules(have)
}

/// Names of the fields in which two specs differ.
pub(super) fn different_fields(a: &v1::InstanceSpec, b: &v1::InstanceSpec) -> Vec<String> {
    let descriptor = syp_proto::pool().and_then(|p| p.get_message_by_name(&v1::InstanceSpec::full_name()));
    let read =
        |m: &v1::InstanceSpec| DynamicMessage::decode(descriptor.clone()?, m.encode_to_vec().as_slice()).ok();
    match (read(a), read(b)) {
        (Some(x), Some(y)) => x
            .descriptor()
            .fields()
            .filter(|f| x.get_field(f) != y.get_field(f))
            .map(|f| f.name().to_owned())
            .collect(),
        _ => {
            if a == b {
                vec![]
            } else {
                vec!["spec".to_owned()]
            }
        }
    }
}
