//! What the calls on instances do: defaults, attaching, reading, driving and changing. `instances.rs` is the service.
use super::{
    Api,
    authz::{self, Authz},
    mask, page,
    status::{invalid, of_failure, refuse},
    validate,
};
use crate::{
    clock::duration_millis,
    cost,
    engine::{Caller, NewInstance},
    graph::State,
    id::InstanceId,
    ops::{Accepted, TransitionOptions},
    step::Owner,
    view,
};
use sha2::{Digest, Sha256};
use syp_auth::policy::Role;
use syp_proto::{
    google::longrunning::Operation,
    journal::Edited,
    v1::{self, instance_spec, plan},
};
use tonic::{Code, Request, Response, Status};

/// Who asks, with the request in a hash, so that one request id means one request.
pub(super) fn caller<M: prost::Message + Clone>(
    a: &Authz,
    request_id: &str,
    m: &M,
) -> Result<Caller, Status> {
    if !request_id.is_empty() && uuid::Uuid::parse_str(request_id).is_err() {
        return Err(invalid("request_id", "a UUID, or nothing"));
    }
    Ok(Caller {
        actor: a.actor(),
        request_id: request_id.into(),
        request_hash: Sha256::digest(m.encode_to_vec()).to_vec(),
    })
}

/// Defaults that every target shares; what is not said is denied.
pub(super) fn with_defaults(s: &mut v1::InstanceSpec, a: &Authz) {
    s.target = s.target.trim_start_matches("providers/").to_owned();
    if s.scaling.is_none() {
        s.scaling = Some(v1::Scaling { min: 1, max: 1, ..Default::default() });
    }
    if let Some(sc) = &mut s.scaling {
        sc.min = sc.min.max(1);
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
    if s.access.as_ref().is_none_or(|p| p.rules.is_empty()) {
        // private by default: whoever made it may use it
        s.access = Some(only(&a.identity, v1::Role::User));
    }
    if s.operators.as_ref().is_none_or(|p| p.rules.is_empty()) {
        s.operators = Some(only(&a.identity, v1::Role::Operator));
    }
}

/// What makes a revision: access, operators, time to live and the like live beside revisions and are changed by their own commands.
fn revision_part(mut s: v1::InstanceSpec) -> v1::InstanceSpec {
    (s.access, s.operators, s.budget, s.ttl) = (None, None, None, None);
    (s.protect, s.desired_state) = (false, 0);
    s
}

/// The open operation; with none open, the newest one as done with the instance as it is.
fn newest_operation(i: &syp_proto::journal::Instance, now: crate::clock::Millis) -> Operation {
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

fn only(who: &syp_auth::verify::Identity, role: v1::Role) -> v1::AccessPolicy {
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
    async fn prepare(&self, a: &Authz, r: &v1::CreateInstanceRequest) -> Result<NewInstance, Status> {
        let project = validate::parent(&r.parent)?;
        validate::id("instance_id", &r.instance_id)?;
        a.is_about(&format!("projects/{project}/instances/{}", r.instance_id));
        let i = r.instance.as_ref().ok_or_else(|| invalid("instance", "required"))?;
        validate::labels(&i.labels)?;
        let mut spec = i.spec.clone().ok_or_else(|| invalid("instance.spec", "required"))?;
        with_defaults(&mut spec, a);
        validate::spec(&spec)?;
        if !self.identities.has_others() && !crate::door::is_on_loopback(&spec) {
            return Err(refuse(
                Code::FailedPrecondition,
                "ISSUER_MISSING",
                "off loopback only people of a configured issuer get in, and this engine has none",
                "start it with one: 'sypctl server run --issuer URL'; or leave out --publish",
            ));
        }
        for p in [&spec.access, &spec.operators].into_iter().flatten() {
            self.usable("spec", p, &v1::AccessPolicy::default())?;
        }
        let target = self.engine.target(&spec.target).map_err(|f| of_failure(&f))?;
        let uid = InstanceId::random();
        let owner = Owner {
            store: self.engine.store().store_id().clone(),
            uid,
            name: r.instance_id.clone(),
            revision: format!("{}-1", r.instance_id),
        };
        let p = target.preflight(&owner, &spec).await.map_err(|f| of_failure(&f))?;
        let ttl = p.spec.ttl.as_ref().map_or(0, duration_millis);
        Ok(NewInstance {
            project: project.into(),
            name: r.instance_id.clone(),
            uid,
            labels: authz::labels(&i.labels),
            spec: p.spec,
            facts: p.facts,
            hourly: cost::money(p.hourly, &self.currency),
            expire_ms: if ttl > 0 { self.engine.clock().now() + ttl } else { 0 },
            deadline_ms: 0,
        })
    }

    pub(super) async fn create(
        &self,
        request: Request<v1::CreateInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let who = caller(&a, &r.request_id, &r)?;
        if let Some(answer) = self.engine.answered(&who).await? {
            return self.operation(&answer.operation).await.map(Response::new);
        }
        let project = validate::parent(&r.parent)?;
        if let Some(cell) = self.engine.by_name(project, &r.instance_id) {
            let i = cell.get();
            a.require_on(&i, Role::Viewer)?;
            return self.attach(&a, &r, &i);
        }
        let new = self.prepare(&a, &r).await?;
        if r.validate_only {
            return Ok(Response::new(Operation { name: String::new(), ..Default::default() }));
        }
        let op = self.engine.create(&who, new).await?;
        self.operation(&op.to_string()).await.map(Response::new)
    }

    /// `up` on a name that exists: the same spec attaches, another one is a conflict.
    fn attach(
        &self,
        a: &Authz,
        r: &v1::CreateInstanceRequest,
        i: &syp_proto::journal::Instance,
    ) -> Result<Response<Operation>, Status> {
        let mut wanted = r.instance.as_ref().and_then(|i| i.spec.clone()).unwrap_or_default();
        with_defaults(&mut wanted, a);
        let mut have = i.spec.clone().unwrap_or_default();
        if wanted.port == 0 {
            // left open: preflight filled it in from the image
            have.port = 0;
        }
        if revision_part(wanted) != revision_part(have) || i.state() == State::Draining {
            let why = if i.state() == State::Draining { "it is draining" } else { "its spec is another one" };
            return Err(refuse(
                Code::AlreadyExists,
                "NAME_IN_USE",
                format!("'{}' exists and {why}", i.name),
                "choose another name, or take it down first: 'sypctl down'",
            ));
        }
        Ok(Response::new(newest_operation(i, self.engine.clock().now())))
    }

    pub(super) async fn get(
        &self,
        request: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::Instance>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let out = match self.live(&a, &r.name, Role::Viewer).await {
            Ok(cell) => view::instance(&cell, &cell.get(), self.engine.clock().now()),
            Err(_) => {
                view::of_projection(&*self.any(&a, &r.name, Role::Viewer).await?, self.engine.clock().now())
            }
        };
        mask::keep(out, r.read_mask.as_ref()).map(Response::new)
    }

    pub(super) async fn list(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let project = validate::parent(&r.parent)?.to_owned();
        let filter = page::Filter::parse(&r.filter)?;
        let now = self.engine.clock().now();
        let mut all: Vec<v1::Instance> = self
            .engine
            .cells()
            .iter()
            .map(|c| (c, c.get()))
            .filter(|(_, i)| a.role_on(i).is_some_and(|role| role >= Role::Viewer))
            .map(|(c, i)| view::instance(c, &i, now))
            .collect();
        if r.show_destroyed {
            for l in self.engine.store().load_destroyed(10_000).await.map_err(crate::error::Error::from)? {
                if let Ok(i) = l.instance
                    && a.role_on(&i).is_some_and(|role| role >= Role::Viewer)
                {
                    all.push(view::of_projection(&i, now));
                }
            }
        }
        all.retain(|i| {
            (project == "-" || i.name.starts_with(&format!("projects/{project}/"))) && filter.matches(i)
        });
        all.sort_by(|x, y| (&x.name, &x.uid).cmp(&(&y.name, &y.uid)));
        if !matches!(r.order_by.trim(), "" | "name") {
            return Err(invalid("order_by", "lists are ordered by 'name'"));
        }
        let bound = format!("{}|{}|{}|{}", r.parent, r.filter, r.order_by, r.show_destroyed);
        let (items, next) =
            page::cut(all, r.page_size, &r.page_token, &bound, |i| format!("{}@{}", i.name, i.uid))?;
        let instances =
            items.into_iter().map(|i| mask::keep(i, r.read_mask.as_ref())).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::ListInstancesResponse { instances, next_page_token: next, unreachable: vec![] }))
    }

    pub(super) async fn transit(
        &self,
        request: Request<v1::TransitionInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let who = caller(&a, &r.request_id, &r)?;
        if let Some(answer) = self.engine.answered(&who).await? {
            return self.operation(&answer.operation).await.map(Response::new);
        }
        let to = r.to();
        if to == State::Unspecified {
            return Err(invalid("to", "serving, draining or destroyed"));
        }
        let cell = match self.live(&a, &r.name, Role::Operator).await {
            Ok(cell) => cell,
            // absent on destroy is success: the newest incarnation is destroyed already
            Err(e) if to == State::Destroyed && e.code() == Code::NotFound => {
                let i = self.any(&a, &r.name, Role::Operator).await?;
                let op = view::operation(&i, i.runs, None, self.engine.clock().now());
                return op.map(Response::new).ok_or(e);
            }
            Err(e) => return Err(e),
        };
        let o = TransitionOptions {
            if_state: Some(r.if_state()).filter(|s| *s != State::Unspecified),
            etag: r.etag.clone(),
            force: r.force,
            validate_only: r.validate_only,
            verb: match to {
                State::Destroyed => "down".into(),
                State::Draining => "drain".into(),
                _ => "resume".into(),
            },
        };
        match self.engine.transition(&cell, to, &o, &who).await? {
            Accepted::Operation(op) if r.validate_only => {
                Ok(Response::new(Operation { name: op.to_string(), ..Default::default() }))
            }
            Accepted::Operation(op) | Accepted::Already(Some(op)) => {
                self.operation(&op.to_string()).await.map(Response::new)
            }
            Accepted::Already(None) => {
                Ok(Response::new(newest_operation(&cell.get(), self.engine.clock().now())))
            }
        }
    }

    /// Labels, time to live, protection, access and operators; a new image or size is a revision, which this version can't roll out yet.
    pub(super) async fn update(
        &self,
        request: Request<v1::UpdateInstanceRequest>,
    ) -> Result<Response<Operation>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let who = caller(&a, &r.request_id, &r)?;
        let new = r.instance.clone().ok_or_else(|| invalid("instance", "required"))?;
        let cell = self.live(&a, &new.name, Role::Operator).await?;
        let paths = r.update_mask.clone().unwrap_or_default().paths;
        if paths.is_empty() {
            return Err(invalid(
                "update_mask",
                "say which fields: labels, spec.ttl, spec.protect, spec.access, spec.operators",
            ));
        }
        let spec = new.spec.clone().unwrap_or_default();
        let mut e = Edited { request_id: r.request_id.clone(), ..Default::default() };
        for p in &paths {
            match p.as_str() {
                "labels" => {
                    validate::labels(&new.labels)?;
                    (e.labels, e.set_labels) = (new.labels.clone(), true);
                }
                "spec.ttl" => {
                    let ttl = spec.ttl.as_ref().map_or(0, duration_millis);
                    (e.expire_ms, e.set_expire) =
                        (if ttl > 0 { self.engine.clock().now() + ttl } else { 0 }, true);
                }
                "spec.protect" => (e.protect, e.set_protect) = (spec.protect, true),
                "spec.access" => e.access = Some(spec.access.clone().unwrap_or_default()),
                "spec.operators" => e.operators = Some(spec.operators.clone().unwrap_or_default()),
                other => {
                    return Err(refuse(
                        Code::Unimplemented,
                        "UPDATE_NOT_SUPPORTED",
                        format!("'{other}' can't be changed on a serving instance in this version"),
                        "take it down and up again with the new value",
                    ));
                }
            }
        }
        let held = cell.get().spec.clone().unwrap_or_default();
        for (new, held) in [(&e.access, held.access), (&e.operators, held.operators)] {
            if let Some(p) = new {
                validate::access("spec", p)?;
                self.usable("spec", p, &held.unwrap_or_default())?;
            }
        }
        if !r.validate_only {
            self.engine.edit(&cell, e, &new.etag, &who).await?;
        }
        let i = cell.get();
        let now = self.engine.clock().now();
        let response = view::instance(&cell, &cell.get(), now);
        let result = syp_proto::google::longrunning::operation::Result::Response(view::any(&response));
        let name = view::operation_id(&i, i.runs).map_or_else(String::new, |o| o.to_string());
        Ok(Response::new(Operation { name, done: true, result: Some(result), metadata: None }))
    }

    pub(super) async fn plan_of(
        &self,
        request: Request<v1::PlanInstanceRequest>,
    ) -> Result<Response<v1::Plan>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let now = self.engine.clock().now();
        match r.action {
            Some(v1::plan_instance_request::Action::Create(c)) => {
                let n = self.prepare(&a, &c).await?;
                let target = self.engine.target(&n.spec.target).map_err(|f| of_failure(&f))?;
                let owner = Owner {
                    store: self.engine.store().store_id().clone(),
                    uid: n.uid,
                    name: n.name.clone(),
                    revision: String::new(),
                };
                let p = target.plan(crate::graph::RunKind::Provision, &owner, &n.spec, &n.facts);
                let resources = p.nodes.iter().filter_map(|node| {
                    let e = node.effect.as_ref()?;
                    Some(planned(
                        &node.kind,
                        &e.key,
                        plan::Change::Create,
                        e.billed.then(|| n.hourly.clone()),
                    ))
                });
                let month = cost::decimal(&n.hourly) * rust_decimal::Decimal::from(730);
                Ok(Response::new(v1::Plan {
                    resources: resources.collect(),
                    hourly_before: Some(cost::money(rust_decimal::Decimal::ZERO, &self.currency)),
                    hourly_after: Some(n.hourly.clone()),
                    monthly_after: Some(cost::money(month, &self.currency)),
                    ..Default::default()
                }))
            }
            Some(v1::plan_instance_request::Action::Transition(t)) => {
                let cell = self.live(&a, &t.name, Role::Viewer).await?;
                let i = cell.get();
                let o = TransitionOptions { validate_only: true, force: true, ..Default::default() };
                self.engine.transition(&cell, t.to(), &o, &Caller::default()).await?;
                let gone = t.to() == State::Destroyed;
                let change = if gone { plan::Change::Delete } else { plan::Change::Keep };
                let rows = i.ledger.iter().filter(|x| !crate::fold::over(x));
                let before = cost::summary(&i, now).rate_per_hour;
                Ok(Response::new(v1::Plan {
                    resources: rows.map(|x| planned(&x.kind, &x.key, change, None)).collect(),
                    hourly_after: if gone {
                        Some(cost::money(rust_decimal::Decimal::ZERO, &self.currency))
                    } else {
                        before.clone()
                    },
                    hourly_before: before,
                    ..Default::default()
                }))
            }
            _ => Err(refuse(
                Code::Unimplemented,
                "PLAN_NOT_SUPPORTED",
                "this version plans create and transition",
                "",
            )),
        }
    }
}

fn planned(
    kind: &str,
    id: &str,
    change: plan::Change,
    rate: Option<syp_proto::google::r#type::Money>,
) -> plan::PlannedResource {
    plan::PlannedResource {
        kind: kind.split('@').next().unwrap_or_default().into(),
        id: id.into(),
        change: change as i32,
        hourly_rate: rate,
        ..Default::default()
    }
}
