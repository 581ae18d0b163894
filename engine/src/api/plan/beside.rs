//! Plans of what lives beside revisions: policies, tokens, secrets, prices. Each one asks the very call, which checks and changes
//! nothing, and says the difference to what is there.
use super::{priced, rule_changes, rules_words};
use crate::{
    api::{Api, authz::Authz, status::invalid},
    cost, door,
    graph::State,
};
use rust_decimal::Decimal;
use syp_auth::policy::Role;
use syp_proto::v1::{
    self, AccessPolicy, Plan, Plane, access_server::Access, costs_server::Costs,
    plan_instance_request::Action, secrets_server::Secrets,
};
use tonic::{Request, Status};

/// The same caller's request, for a call of this server.
fn of<M>(a: &Authz, message: M) -> Request<M> {
    let mut r = Request::new(message);
    r.extensions_mut().insert(a.clone());
    r
}

fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

impl Api {
    pub(super) async fn plan_beside(&self, a: &Authz, action: Action) -> Result<Plan, Status> {
        match action {
            Action::SetAccessPolicy(r) => self.plan_policy(a, r).await,
            Action::CreateToken(r) => self.plan_token(a, r).await,
            Action::RevokeToken(r) => self.plan_revoke(a, r).await,
            Action::SetTariff(r) => self.plan_tariff(a, r).await,
            Action::CreateSecret(r) => self.plan_secret(a, r).await,
            Action::AddSecretVersion(r) => self.plan_version(a, r).await,
            Action::UpdateSecret(r) => self.plan_operators(a, r).await,
            Action::DeleteSecret(r) => self.plan_forget(a, r).await,
            // they bring a revision or end an instance
            Action::Create(_) | Action::Update(_) | Action::Rollback(_) | Action::Transition(_) => {
                Err(Status::internal("planned elsewhere"))
            }
        }
    }

    /// The cost stays, `full` names whose it is; nothing for what costs nothing by itself.
    async fn same_cost(&self, a: &Authz, full: &str) -> Result<Plan, Status> {
        if full.is_empty() {
            return Ok(priced(Decimal::ZERO, Decimal::ZERO, &self.currency));
        }
        let i = self.live(a, full, Role::Operator).await?.get();
        let rate = cost::rate(&i);
        Ok(priced(rate, rate, self.currency_in(&i)))
    }

    async fn plan_policy(&self, a: &Authz, mut r: v1::SetAccessPolicyRequest) -> Result<Plan, Status> {
        let (name, control) = (r.resource.clone(), r.plane() == Plane::Control || r.resource.is_empty());
        let after = r.policy.clone().unwrap_or_default();
        let ask = v1::GetAccessPolicyRequest { resource: name.clone(), plane: r.plane };
        let before = self.get_access_policy(of(a, ask)).await?.into_inner();
        // whoever plans wants to see that they lock themselves out, not to be refused
        (r.validate_only, r.allow_self_lockout) = (true, true);
        r.request_id.clear();
        self.set_access_policy(of(a, r)).await?;
        let mut out = self.same_cost(a, &name).await?;
        out.access_changes =
            rule_changes(if control { "operate" } else { "use" }, Some(&before), Some(&after));
        out.no_change = rules_words(Some(&before)) == rules_words(Some(&after));
        if !out.no_change && out.access_changes.is_empty() {
            out.changes.push("rules: tried in another order".into());
        }
        let need = if name.is_empty() { Role::Admin } else { Role::Operator };
        let own = crate::api::authz::decide(&door::policy(&after), &a.identity);
        let held = if name.is_empty() { own } else { own.max(a.role) };
        out.caller_loses_control = control && held < Some(need);
        Ok(out)
    }

    async fn plan_token(&self, a: &Authz, mut r: v1::CreateTokenRequest) -> Result<Plan, Status> {
        let parent = r.parent.clone();
        r.validate_only = true;
        r.request_id.clear();
        let t = self.create_token(of(a, r)).await?.into_inner();
        let until = t.expire_time.as_ref().map(ToString::to_string).unwrap_or_default();
        let mut out = self.same_cost(a, &parent).await?;
        out.access_changes.push(format!("+ {}, until {until}", token_words(&t)));
        Ok(out)
    }

    async fn plan_revoke(&self, a: &Authz, mut r: v1::RevokeTokenRequest) -> Result<Plan, Status> {
        let id = last(&r.name).to_owned();
        r.validate_only = true;
        r.request_id.clear();
        self.revoke_token(of(a, r)).await?;
        let mut out = priced(Decimal::ZERO, Decimal::ZERO, &self.currency);
        let own = self.identities.machines().all().into_iter().find(|t| t.id == id);
        let of_instance =
            || self.engine.cells().into_iter().find(|c| c.get().tokens.iter().any(|t| t.id == id));
        let t = match own {
            Some(t) => crate::api::tokens::shown("", t),
            None => {
                let cell = of_instance().ok_or_else(|| Status::not_found(id.clone()))?;
                let i = cell.get();
                let rate = cost::rate(&i);
                out = priced(rate, rate, self.currency_in(&i));
                let t = i.tokens.iter().find(|t| t.id == id).cloned().unwrap_or_default();
                crate::api::tokens::shown(&crate::view::full_name(&i), t)
            }
        };
        out.access_changes.push(format!("- {}", token_words(&t)));
        Ok(out)
    }

    async fn plan_tariff(&self, a: &Authz, mut r: v1::SetTariffRequest) -> Result<Plan, Status> {
        r.validate_only = true;
        r.request_id.clear();
        let asked = r.tariff.clone().unwrap_or_default();
        self.set_tariff(of(a, r)).await?;
        let (new, held) = self.new_tariff(asked).await?;
        let (mut before, mut after, mut lines) = (Decimal::ZERO, Decimal::ZERO, Vec::new());
        for cell in self.engine.cells() {
            let i = cell.get();
            let rate = cost::rate(&i);
            let spec = i.spec.clone().unwrap_or_default();
            let (Ok(target), false) = (self.engine.target(&spec.target), i.state() == State::Destroyed)
            else {
                continue;
            };
            if self.currency_of(&*target) != &*self.currency {
                continue;
            }
            let facts = serde_json::from_str(&i.facts).unwrap_or_default();
            let unpriced = !cost::Pricing::of_facts(&facts).is_priced();
            let next = match target.reprice(Some(&new), &spec, &facts) {
                Some((next, _)) if unpriced || !rate.is_zero() => next,
                _ => rate,
            };
            (before, after) = (before + rate, after + next);
            if next != rate {
                let rate = if unpriced { "unpriced".into() } else { rate.to_string() };
                lines.push(format!("{}: {rate} -> {next} {} an hour", i.name, self.currency));
            }
        }
        let mut out = priced(before, after, &self.currency);
        for (what, b, n) in [
            ("per kWh", &held.per_kwh, &new.per_kwh),
            ("watts per core", &held.watts_per_core, &new.watts_per_core),
            ("watts per GiB", &held.watts_per_gib, &new.watts_per_gib),
            ("idle watts", &held.idle_watts, &new.idle_watts),
            ("per vCPU-hour", &held.per_vcpu_hour, &new.per_vcpu_hour),
            ("per GiB-hour", &held.per_gib_hour, &new.per_gib_hour),
        ] {
            if b.parse::<Decimal>().ok() != n.parse::<Decimal>().ok() {
                let b = if b.is_empty() { "none" } else { b };
                out.changes.push(format!("{what}: {b} -> {n}"));
            }
        }
        out.no_change = out.changes.is_empty();
        out.changes.extend(lines);
        Ok(out)
    }

    async fn plan_secret(&self, a: &Authz, mut r: v1::CreateSecretRequest) -> Result<Plan, Status> {
        a.require(Role::Operator)?;
        let given = r.secret.as_ref().and_then(|s| s.operators.clone()).filter(|p| !p.rules.is_empty());
        let operators = given.unwrap_or_else(|| crate::api::create::only(&a.identity, v1::Role::Operator));
        let id = r.secret_id.clone();
        r.validate_only = true;
        r.request_id.clear();
        self.create_secret(of(a, r)).await?;
        Ok(Plan {
            changes: vec![format!("secret {id}: made, at version 1")],
            access_changes: rule_changes("operate", None, Some(&operators)),
            ..priced(Decimal::ZERO, Decimal::ZERO, &self.currency)
        })
    }

    async fn plan_version(&self, a: &Authz, mut r: v1::AddSecretVersionRequest) -> Result<Plan, Status> {
        let (name, rolls) = (r.parent.clone(), !r.no_rollout);
        r.validate_only = true;
        r.request_id.clear();
        // a validated value that is the newest one already is answered with that version
        let v = self.add_secret_version(of(a, r)).await?.into_inner();
        let s = self.get_secret(of(a, v1::GetSecretRequest { name: name.clone() })).await?.into_inner();
        let mut out = priced(Decimal::ZERO, Decimal::ZERO, &self.currency);
        if !v.name.is_empty() {
            out.no_change = true;
            return Ok(out);
        }
        out.changes.push(format!("secret {}: a version after {}", last(&name), s.latest_version));
        let follow: std::collections::BTreeSet<_> =
            s.uses.iter().filter(|u| u.serving && !u.pinned).map(|u| u.instance.clone()).collect();
        let mut rate = Decimal::ZERO;
        for full in follow {
            let (project, short) =
                full.strip_prefix("projects/").and_then(|n| n.split_once("/instances/")).unwrap_or_default();
            if let Some(cell) = self.engine.by_name(project, short) {
                rate += cost::rate(&cell.get());
            }
            out.changes.push(if rolls {
                format!("{short}: a revision with it, one replica after another")
            } else {
                format!("{short}: stays as it is until its next change")
            });
        }
        let price = priced(rate, rate, &self.currency);
        Ok(Plan { changes: out.changes, ..price })
    }

    async fn plan_operators(&self, a: &Authz, mut r: v1::UpdateSecretRequest) -> Result<Plan, Status> {
        let new = r.secret.clone().ok_or_else(|| invalid("secret", "required"))?;
        let masked = |f: &str| r.update_mask.iter().flat_map(|m| &m.paths).any(|p| p == f);
        let (operators, labels) = (masked("operators"), masked("labels"));
        let ask = v1::GetSecretRequest { name: new.name.clone() };
        let before = self.get_secret(of(a, ask)).await?.into_inner();
        r.validate_only = true;
        r.request_id.clear();
        self.update_secret(of(a, r)).await?;
        let mut out = priced(Decimal::ZERO, Decimal::ZERO, &self.currency);
        if operators {
            let mine = || crate::api::create::only(&a.identity, v1::Role::Operator);
            let after: AccessPolicy = new.operators.filter(|p| !p.rules.is_empty()).unwrap_or_else(mine);
            out.access_changes = rule_changes("operate", before.operators.as_ref(), Some(&after));
        }
        if labels && new.labels != before.labels {
            out.changes.push("labels: another value".into());
        }
        out.no_change = out.changes.is_empty() && out.access_changes.is_empty();
        Ok(out)
    }

    async fn plan_forget(&self, a: &Authz, mut r: v1::DeleteSecretRequest) -> Result<Plan, Status> {
        let name = r.name.clone();
        r.validate_only = true;
        r.request_id.clear();
        self.delete_secret(of(a, r)).await?;
        let s = self.get_secret(of(a, v1::GetSecretRequest { name: name.clone() })).await?.into_inner();
        let earlier = s.uses.iter().map(|u| format!("{}: one can't go back to it", u.revision));
        let gone = format!("secret {}: deleted, {} versions", last(&name), s.versions.len());
        Ok(Plan {
            changes: std::iter::once(gone).chain(earlier).collect(),
            access_changes: rule_changes("operate", s.operators.as_ref(), None),
            ..priced(Decimal::ZERO, Decimal::ZERO, &self.currency)
        })
    }
}

fn token_words(t: &v1::Token) -> String {
    let mut out = match t.role() {
        v1::Role::Unspecified | v1::Role::User => format!("use: token {}", t.display_name),
        role => format!("operate: token {} as {}", t.display_name, role.as_str_name().to_lowercase()),
    };
    for p in &t.path_prefixes {
        out.push_str(&format!(" under {p}"));
    }
    out
}
