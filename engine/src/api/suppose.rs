//! `TestAccess`: would this caller be let in, and by which rule? Asked of the very policy and verifier that decide.
use super::{
    Api,
    authz::{self, Authz},
    identity::API_AUDIENCE,
    plan::rule_words,
    status::invalid,
    validate,
};
use crate::door;
use serde_json::{Map, Value, json};
use syp_auth::{
    MachineTokens,
    door::Mode,
    machine,
    policy::{Decision, Policy, Request, Role},
    verify::{self, Identity, Verifier},
};
use syp_proto::{
    journal::Instance,
    v1::{self, Plane, test_access_request::Who},
};
use tonic::Status;

/// A policy as the API has it, the one that decides, and whose it is.
struct Asked {
    api: v1::AccessPolicy,
    policy: Policy,
    of: &'static str,
}

/// What one policy said.
struct Said {
    decision: Decision,
    missed: Vec<String>,
    rule: String,
    of: &'static str,
}

// === impl Asked ===

impl Asked {
    fn of(api: v1::AccessPolicy, of: &'static str) -> Self {
        Self { policy: door::policy(&api), api, of }
    }

    fn explain(&self, who: &Identity, request: Option<&Request<'_>>) -> Said {
        let (decision, missed) = self.policy.explain(who, request);
        // rules without an id get one by their place, before any of them is left out
        let ids = door::policy(&self.api).rules;
        let at = ids.iter().position(|r| Some(&r.id) == decision.rule_id.as_ref());
        let rule = match at.and_then(|n| self.api.rules.get(n)) {
            Some(rule) => rule_words(rule),
            // the one that a machine token brings
            None if decision.allowed => who.subject.clone(),
            None => String::new(),
        };
        Said { decision, missed, rule, of: self.of }
    }
}

// === impl Api ===

impl Api {
    pub(super) async fn suppose(
        &self,
        a: &Authz,
        r: v1::TestAccessRequest,
    ) -> Result<v1::TestAccessResponse, Status> {
        let instance = if r.resource.is_empty() {
            a.require(Role::Operator)?;
            None
        } else {
            Some(self.live(a, &r.resource, Role::Operator).await?.get())
        };
        if let Some(p) = &r.candidate_policy {
            validate::access("candidate_policy", p)?;
            self.usable("candidate_policy", p, &v1::AccessPolicy::default())?;
        }
        match instance {
            Some(i) if r.plane() != Plane::Control => self.suppose_data(&i, r).await,
            i => self.suppose_control(i.as_deref(), r).await,
        }
    }

    /// With what the gate of the instance is told.
    async fn suppose_data(
        &self,
        i: &Instance,
        mut r: v1::TestAccessRequest,
    ) -> Result<v1::TestAccessResponse, Status> {
        let mut i = i.clone();
        let spec = i.spec.get_or_insert_default();
        if let Some(p) = r.candidate_policy.take() {
            spec.access = Some(p);
        }
        let api = spec.access.clone().unwrap_or_default();
        let gate = self.engine.inner.door.config(&i, Mode::Serve, 0);
        let verifier = self
            .identities
            .verifier()
            .with(gate.audiences.clone(), |name| gate.issuers.iter().any(|i| i.issuer == name));
        let machines = MachineTokens::of(&gate.tokens);
        let machine = |t: &str| machines.verify(&Verifier::digest(t), syp_auth::unix_now());
        let machine = |t: &str| machine(t).map(|i| Identity::clone(&i));
        let who = match self.who(&verifier, machine, r.who.take(), &r.claims_json).await? {
            Ok(who) => who,
            Err(e) => return Ok(refused(e, gate.audiences)),
        };
        let path = if r.path.is_empty() { "/" } else { &r.path };
        let method = if r.method.is_empty() { "GET" } else { &r.method };
        if !path.starts_with('/') || path.contains('?') {
            return Err(invalid("path", "begins with / and has no query"));
        }
        let asked = Asked { api, policy: gate.policy, of: "instance" };
        let said = asked.explain(&who, Some(&Request { path, method }));
        let role = Some(said.decision.role).filter(|_| said.decision.allowed);
        Ok(answer(said, vec![], &who, role, gate.audiences))
    }

    /// The better one of the instance's operators and the engine's own policy counts, as in [`Authz::role_on`].
    async fn suppose_control(
        &self,
        i: Option<&Instance>,
        mut r: v1::TestAccessRequest,
    ) -> Result<v1::TestAccessResponse, Status> {
        let audiences = vec![API_AUDIENCE.to_owned()];
        let verifier = self.identities.verifier();
        let machine = |t: &str| self.identities.machines().verify(t);
        let who = match self.who(verifier, machine, r.who.take(), &r.claims_json).await? {
            Ok(who) => who,
            Err(e) => return Ok(refused(e, audiences)),
        };
        if who.issuer == machine::ISSUER {
            return Ok(by_role(&who, self.identities.role(&who, false), audiences));
        }
        let (own, engine) = match (i, r.candidate_policy.take()) {
            (None, candidate) => (None, candidate.unwrap_or_else(|| self.identities.control_policy())),
            (Some(i), candidate) => {
                let held = i.spec.as_ref().and_then(|s| s.operators.clone()).unwrap_or_default();
                (Some(candidate.unwrap_or(held)), self.identities.control_policy())
            }
        };
        let engine = Asked::of(engine, "engine").explain(&who, None);
        let Some(own) = own.map(|p| Asked::of(p, "instance").explain(&who, None)) else {
            let role = role(&engine);
            return Ok(answer(engine, vec![], &who, role, audiences));
        };
        let (by_own, by_engine) = (role(&own), role(&engine));
        let (first, second, role) =
            if by_own >= by_engine { (own, engine, by_own) } else { (engine, own, by_engine) };
        let more = second.missed.into_iter().map(|m| format!("of the {}: {m}", second.of)).collect();
        Ok(answer(first, more, &who, role, audiences))
    }

    /// The caller that is asked about; the inner error is a token that is refused.
    async fn who(
        &self,
        verifier: &Verifier,
        machine: impl Fn(&str) -> Result<Identity, verify::Error>,
        who: Option<Who>,
        claims: &str,
    ) -> Result<Result<Identity, verify::Error>, Status> {
        let p = match who {
            None => return Err(invalid("who", "a token or a principal")),
            Some(Who::Token(token)) => {
                let token = secrecy::SecretString::from(token);
                let text = secrecy::ExposeSecret::expose_secret(&token).trim();
                if machine::is_machine(text) {
                    return Ok(machine(text));
                }
                return Ok(verifier.verify(text).await.map(|i| Identity::clone(&i)));
            }
            Some(Who::Principal(p)) => p,
        };
        let mut claims = match claims {
            "" => Map::new(),
            text => serde_json::from_str::<Map<String, Value>>(text)
                .map_err(|_| invalid("claims_json", "a JSON object"))?,
        };
        let local = self.identities.local_issuer();
        let issuer = match (&p.issuer, claims.get("iss").and_then(Value::as_str)) {
            (given, _) if !given.is_empty() => given.clone(),
            (_, Some(iss)) => iss.to_owned(),
            _ => {
                let all: Vec<&str> = verifier.issuers().collect();
                let other = all.iter().find(|i| Some(**i) != local.as_deref());
                other.or_else(|| all.first()).copied().unwrap_or_default().to_owned()
            }
        };
        supply(&mut claims, &p, &issuer, verifier.groups_claim(&issuer).unwrap_or("groups"));
        Ok(verifier.suppose(&issuer, claims))
    }
}

/// What a good token of such a caller would carry beside the given claims.
fn supply(claims: &mut Map<String, Value>, p: &v1::Principal, issuer: &str, groups_claim: &str) {
    let mut set = |name: &str, value: Value| {
        claims.entry(name.to_owned()).or_insert(value);
    };
    if !p.email.is_empty() {
        set("email", json!(p.email));
        set("email_verified", json!(true));
    }
    if !p.groups.is_empty() {
        set(groups_claim, json!(p.groups));
    }
    match (p.subject.as_str(), p.email.as_str()) {
        ("", "") => set("sub", json!("somebody")),
        ("", email) => set("sub", json!(format!("user:{}", email.to_ascii_lowercase()))),
        (subject, _) => set("sub", json!(subject)),
    }
    set("iss", json!(issuer));
    set("exp", json!(syp_auth::unix_now() + 3600));
}

fn role(said: &Said) -> Option<Role> {
    said.decision.allowed.then(|| said.decision.role.max(Role::Viewer))
}

fn refused(e: verify::Error, audiences: Vec<String>) -> v1::TestAccessResponse {
    v1::TestAccessResponse {
        reason: e.reason().into(),
        missed: vec![format!("token: {e}")],
        audiences,
        ..Default::default()
    }
}

/// A machine token of the control plane has its role by itself.
fn by_role(who: &Identity, role: Option<Role>, audiences: Vec<String>) -> v1::TestAccessResponse {
    let decision = Decision {
        allowed: role.is_some(),
        role: role.unwrap_or_default(),
        rule_id: None,
        reason: "POLICY_ALLOWED",
    };
    let said = Said { decision, missed: vec![], rule: String::new(), of: "engine" };
    answer(said, vec![], who, role, audiences)
}

fn answer(
    said: Said,
    more: Vec<String>,
    who: &Identity,
    role: Option<Role>,
    audiences: Vec<String>,
) -> v1::TestAccessResponse {
    v1::TestAccessResponse {
        allowed: said.decision.allowed,
        rule_id: said.decision.rule_id.unwrap_or_default(),
        reason: said.decision.reason.into(),
        missed: said.missed.into_iter().chain(more).collect(),
        rule: said.rule,
        role: role.map_or(v1::Role::Unspecified, authz::to_proto) as i32,
        principal: Some(Authz::new(who.clone(), role, false).principal()),
        policy: said.of.into(),
        audiences,
    }
}
