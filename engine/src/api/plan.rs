//! What a call would do, before anything is done: resources, fields, cost before and after, who gains and who loses access.
use super::{
    Api,
    authz::Authz,
    create::different_fields,
    status::{invalid, of_failure},
    update::Change,
};
use crate::{
    cost,
    engine::Caller,
    fold::{over, row_at},
    graph::{RunKind, State},
    ops::TransitionOptions,
    revision, scaling,
    step::{Have, Owner, Target},
    vault,
};
use futures_util::future::try_join_all;
use rust_decimal::Decimal;
use serde_json::Value;
use syp_auth::policy::Role;
use syp_proto::{
    google::r#type::Money,
    journal,
    v1::{self, InstanceSpec, plan, plan_instance_request::Action},
};
use tonic::{Request, Response, Status};

mod beside;

impl Api {
    pub(super) async fn plan_of(
        &self,
        request: Request<v1::PlanInstanceRequest>,
    ) -> Result<Response<v1::Plan>, Status> {
        let a = Authz::of(&request)?;
        let action = request.into_inner().action;
        let out = match action {
            Some(Action::Create(c)) => {
                a.require(Role::Viewer)?;
                self.plan_create(&a, &c).await?
            }
            Some(Action::Update(u)) => {
                let name = u.instance.as_ref().map(|i| i.name.clone()).unwrap_or_default();
                let i = self.live(&a, &name, Role::Operator).await?.get();
                let change = self.change(&a, &u, &i).await?;
                self.plan_change(&i, &change).await?
            }
            Some(Action::Rollback(b)) => {
                let i = self.live(&a, &b.name, Role::Operator).await?.get();
                let change = self.back(&i, &b.revision_id).await?;
                self.plan_change(&i, &change).await?
            }
            Some(Action::Transition(t)) => self.plan_transition(&a, &t).await?,
            Some(beside) => self.plan_beside(&a, beside).await?,
            None => return Err(invalid("action", "say what is to be planned")),
        };
        Ok(Response::new(out))
    }

    async fn plan_create(&self, a: &Authz, c: &v1::CreateInstanceRequest) -> Result<v1::Plan, Status> {
        let (n, lines) = self.prepare(a, c).await?;
        let target = self.engine.target(&n.spec.target).map_err(|f| of_failure(&f))?;
        let owner = Owner {
            store: self.engine.store().store_id().clone(),
            uid: n.uid,
            name: n.name.clone(),
            revision: revision::name(&n.name, 1),
        };
        let have = Have::nothing();
        let p = target.plan(RunKind::Provision, &owner, &n.spec, &n.facts, &have);
        let nobody = InstanceSpec::default();
        let as_if = journal::Instance {
            uid: n.uid.to_string(),
            project: n.project.clone(),
            name: n.name.clone(),
            spec: Some(n.spec.clone()),
            facts: n.facts.to_string(),
            ..Default::default()
        };
        let out = v1::Plan {
            resources: self.rehearsed(&as_if, &p).await?,
            access_changes: access_changes(&nobody, &n.spec),
            hourly_most: self.most(&*target, &n.spec, &n.facts),
            lines,
            ..priced(Decimal::ZERO, cost::decimal(&n.hourly), self.currency_of(&*target))
        };
        Ok(known(out, &cost::Pricing::of_facts(&n.facts)))
    }

    async fn plan_change(&self, i: &journal::Instance, change: &Change) -> Result<v1::Plan, Status> {
        let held = i.spec.clone().unwrap_or_default();
        let before = cost::rate(i);
        let mut after_spec = change.spec.clone();
        if let Some(e) = &change.edited {
            after_spec.access = e.access.clone().or(after_spec.access);
            after_spec.operators = e.operators.clone().or(after_spec.operators);
            if e.set_budget {
                after_spec.budget.clone_from(&e.budget);
            }
            if e.set_cors {
                after_spec.cors_origins.clone_from(&e.cors_origins);
            }
        }
        let mut out = v1::Plan {
            changes: words(&held, &after_spec),
            access_changes: access_changes(&held, &after_spec),
            no_change: change.edited.is_none() && change.revision.is_none(),
            ..priced(before, before, self.currency_in(i))
        };
        let pricing = cost::Pricing::of(i);
        let Some(new) = &change.revision else { return Ok(known(out, &pricing)) };
        let target = self.engine.target(&held.target).map_err(|f| of_failure(&f))?;
        let owner = Owner {
            store: self.engine.store().store_id().clone(),
            uid: crate::id::InstanceId::parse(&i.uid).ok_or_else(|| Status::internal("uid"))?,
            name: i.name.clone(),
            revision: revision::name(&i.name, new.no),
        };
        let facts = serde_json::from_str(&new.facts).unwrap_or_default();
        let have = Have::of(i, new.no);
        let p = target.plan(RunKind::Update, &owner, &change.spec, &facts, &have);
        let gone = |n: &journal::PlanNode| {
            let row = row_at(&i.ledger, n.retires?)?;
            Some(planned(&row.kind, &row.key, plan::Change::Delete, row.hourly.clone()))
        };
        let as_if = journal::Instance {
            spec: Some(change.spec.clone()),
            facts: new.facts.clone(),
            run: None,
            ..i.clone()
        };
        out.resources = self.rehearsed(&as_if, &p).await?;
        out.resources.extend(p.nodes.iter().filter_map(gone));
        let after = new.hourly_rate.as_ref().map_or(Decimal::ZERO, cost::decimal);
        let price = priced(before, after, self.currency_of(&*target));
        out.hourly_most = self.most(&*target, &change.spec, &facts);
        out.lines.clone_from(&change.lines);
        (out.hourly_after, out.monthly_after) = (price.hourly_after, price.monthly_after);
        out.hourly_before = out.hourly_before.filter(|_| pricing.is_priced());
        Ok(known(out, &cost::Pricing::of_facts(&facts)))
    }

    async fn plan_transition(
        &self,
        a: &Authz,
        t: &v1::TransitionInstanceRequest,
    ) -> Result<v1::Plan, Status> {
        let cell = self.live(a, &t.name, Role::Viewer).await?;
        let i = cell.get();
        let o = TransitionOptions { validate_only: true, force: true, ..Default::default() };
        self.engine.transition(&cell, t.to(), &o, &Caller::default()).await?;
        let gone = t.to() == State::Destroyed;
        let change = if gone { plan::Change::Delete } else { plan::Change::Keep };
        let rows = i.ledger.iter().filter(|x| !over(x));
        let before = cost::rate(&i);
        let out = v1::Plan {
            resources: rows.map(|x| planned(&x.kind, &x.key, change, x.hourly.clone())).collect(),
            ..priced(before, if gone { Decimal::ZERO } else { before }, self.currency_in(&i))
        };
        Ok(known(out, &cost::Pricing::of(&i)))
    }

    /// What a plan makes, each as its provider judges it where it can be asked.
    async fn rehearsed(
        &self,
        as_if: &journal::Instance,
        p: &journal::Plan,
    ) -> Result<Vec<plan::PlannedResource>, Status> {
        let all = p.nodes.iter().filter_map(|n| Some((n, made(n)?)));
        let said = all.map(|(n, mut r)| async move {
            if let Some(would) = self.engine.rehearse(as_if, n).await? {
                r.set_change(would.change);
                r.diff = would.diff;
            }
            Ok(r)
        });
        try_join_all(said).await.map_err(|f| of_failure(&f))
    }

    /// What it may come to where the target chooses how many.
    fn most(&self, target: &dyn Target, spec: &InstanceSpec, facts: &Value) -> Option<Money> {
        if !scaling::is_elastic(spec) {
            return None;
        }
        let mut all = facts.clone();
        all[scaling::REPLICAS] = scaling::range(spec).1.into();
        let (hourly, _) = target.reprice(None, spec, &all)?;
        Some(cost::money(hourly, self.currency_of(target)))
    }
}

pub(super) fn priced(before: Decimal, after: Decimal, currency: &str) -> v1::Plan {
    v1::Plan {
        hourly_before: Some(cost::money(before, currency)),
        hourly_after: Some(cost::money(after, currency)),
        monthly_after: Some(cost::money(after * Decimal::from(730), currency)),
        ..Default::default()
    }
}

/// A plan whose price nobody knows says so.
fn known(mut p: v1::Plan, pricing: &cost::Pricing) -> v1::Plan {
    if !pricing.is_priced() {
        p.unpriced = pricing.words();
        (p.hourly_before, p.hourly_after, p.monthly_after, p.hourly_most) = (None, None, None, None);
        p.lines.clear();
        p.resources.iter_mut().for_each(|r| r.hourly_rate = None);
    }
    p
}

fn made(n: &journal::PlanNode) -> Option<plan::PlannedResource> {
    let e = n.effect.as_ref()?;
    Some(planned(&n.kind, &e.key, plan::Change::Create, e.hourly.clone()))
}

fn planned(kind: &str, id: &str, change: plan::Change, rate: Option<Money>) -> plan::PlannedResource {
    plan::PlannedResource {
        kind: kind.split('@').next().unwrap_or_default().into(),
        id: id.into(),
        change: change as i32,
        hourly_rate: rate,
        ..Default::default()
    }
}

/// What changes, a line a field. Environment values are not shown: people put passwords there all the same.
fn words(before: &InstanceSpec, after: &InstanceSpec) -> Vec<String> {
    let mut out = Vec::new();
    for field in different_fields(before, after) {
        match field.as_str() {
            "image" => out.push(format!("image: {} -> {}", before.image, after.image)),
            "port" => out.push(format!("port: {} -> {}", before.port, after.port)),
            "scaling" => {
                let all = |s| match scaling::aim(s) {
                    Some(aim) => format!("{} ({aim})", scaling::words(s)),
                    None => scaling::words(s),
                };
                out.push(format!("replicas: {} -> {}", all(before), all(after)));
            }
            "env" => {
                let keys =
                    before.env.keys().chain(after.env.keys()).collect::<std::collections::BTreeSet<_>>();
                for k in keys {
                    match (before.env.get(k), after.env.get(k)) {
                        (None, Some(_)) => out.push(format!("env {k}: added")),
                        (Some(_), None) => out.push(format!("env {k}: removed")),
                        (Some(x), Some(y)) if x != y => out.push(format!("env {k}: another value")),
                        _ => {}
                    }
                }
            }
            "secrets" => out.extend(secret_words(&before.secrets, &after.secrets)),
            other => out.push(format!("{other}: another value")),
        }
    }
    out
}

fn secret_words(before: &[v1::SecretRef], after: &[v1::SecretRef]) -> Vec<String> {
    let find = |all: &[v1::SecretRef], n: &str| all.iter().find(|r| vault::name(r) == n).cloned();
    let names: std::collections::BTreeSet<_> = before.iter().chain(after).map(vault::name).collect();
    let mut out = Vec::new();
    for n in names {
        match (find(before, n), find(after, n)) {
            (x, Some(y)) if vault::is_shared(&y) && x.as_ref() != Some(&y) => {
                let stays = if y.pinned { ", pinned" } else { "" };
                out.push(format!("secrets: {n} is {}@{}{stays}", y.secret, y.version));
            }
            (None, Some(_)) => out.push(format!("secrets: {n} added")),
            (Some(_), None) => out.push(format!("secrets: {n} removed")),
            (Some(x), Some(y)) if x != y => out.push(format!("secrets: another value of {n}")),
            _ => {}
        }
    }
    out
}

/// Who gains and who loses, rule by rule: `+` and `-` before the rule in words.
pub(super) fn access_changes(before: &InstanceSpec, after: &InstanceSpec) -> Vec<String> {
    let mut out = rule_changes("use", before.access.as_ref(), after.access.as_ref());
    out.extend(rule_changes("operate", before.operators.as_ref(), after.operators.as_ref()));
    out
}

/// The same for one policy.
fn rule_changes(
    plane: &str,
    before: Option<&v1::AccessPolicy>,
    after: Option<&v1::AccessPolicy>,
) -> Vec<String> {
    let (b, a) = (rules_words(before), rules_words(after));
    let come = a.iter().filter(|r| !b.contains(r)).map(|r| format!("+ {plane}: {r}"));
    come.chain(b.iter().filter(|r| !a.contains(r)).map(|r| format!("- {plane}: {r}"))).collect()
}

/// The rules in words, in the order they are tried.
fn rules_words(p: Option<&v1::AccessPolicy>) -> Vec<String> {
    p.iter().flat_map(|p| &p.rules).map(rule_words).collect()
}

/// A rule in one line.
pub(super) fn rule_words(r: &v1::access_policy::Rule) -> String {
    let effect = if r.effect() == v1::access_policy::Effect::Deny { "deny" } else { "allow" };
    let mut out = effect.to_owned();
    for m in &r.members {
        out.push_str(&format!(" {m}"));
    }
    for (k, v) in &r.claims {
        out.push_str(&format!(" claim:{k}={v}"));
    }
    if !r.issuer.is_empty() {
        out.push_str(&format!(" of {}", r.issuer));
    }
    if r.role() > v1::Role::User {
        out.push_str(&format!(" as {}", r.role().as_str_name().to_lowercase()));
    }
    for p in &r.path_prefixes {
        out.push_str(&format!(" under {p}"));
    }
    for m in &r.methods {
        out.push_str(&format!(" {m}"));
    }
    out
}
