//! What an operation would do, before anything is done.
use super::{
    Api,
    authz::Authz,
    status::{of_failure, refuse},
};
use crate::{cost, engine::Caller, graph::State, ops::TransitionOptions, step::Owner};
use syp_auth::policy::Role;
use syp_proto::v1::{self, plan};
use tonic::{Code, Request, Response, Status};

impl Api {
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
