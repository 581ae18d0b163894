//! What the gate of an instance shall enforce, as a pure function of the projection and the configured issuers.
use arc_swap::ArcSwap;
use std::{collections::BTreeMap, sync::Arc};
use syp_auth::{
    cors,
    door::{GateConfig, Mode, Probe, Protocol},
    jwks::IssuerConfig,
    machine::MachineToken,
    policy::{Effect, Policy, Role, Rule},
};
use syp_proto::{
    journal::{self, Instance},
    v1::{self, access_policy, instance_spec},
};

/// The issuers that gates trust, with their keys inline.
#[derive(Debug, Default)]
pub struct Door {
    /// The built-in issuer, trusted on loopback only, and the configured ones.
    issuers: ArcSwap<(Option<IssuerConfig>, Vec<IssuerConfig>)>,
    /// Audience that tokens of configured (not local) issuers carry for the data plane.
    audience: Option<String>,
}

// === impl Door ===

impl Door {
    /// With the audience that tokens of an external issuer carry.
    pub fn new(audience: Option<String>) -> Self {
        Self { issuers: ArcSwap::default(), audience }
    }

    /// Replaces the issuers; instances get them with their next push.
    pub fn set_issuers(&self, local: IssuerConfig, others: Vec<IssuerConfig>) {
        self.issuers.store(Arc::new((Some(local), others)));
    }

    /// Replaces the configured issuers, keeps the built-in one.
    pub fn set_others(&self, others: Vec<IssuerConfig>) {
        self.issuers.rcu(|old| (old.0.clone(), others.clone()));
    }

    fn trusted(&self, spec: &v1::InstanceSpec) -> Vec<IssuerConfig> {
        let (on_loopback, all) = (is_on_loopback(spec), self.issuers.load());
        all.0.iter().filter(|_| on_loopback).chain(&all.1).cloned().collect()
    }

    /// The configuration of an instance's gate; upstreams are the target's to add.
    pub fn config(&self, i: &Instance, mode: Mode, drain_ms: u64) -> GateConfig {
        let default = v1::InstanceSpec::default();
        let spec = i.spec.as_ref().unwrap_or(&default);
        let mut audiences = vec![instance_audience(&i.uid)];
        audiences.extend(self.audience.clone());
        let issuers = self.trusted(spec);
        let mut policy = spec.access.as_ref().map_or_else(Policy::default, policy);
        // a rule for an issuer that is trusted no more matches nobody; the gate would refuse it, and with it the news
        policy
            .rules
            .retain(|r| r.issuer.as_ref().is_none_or(|name| issuers.iter().any(|i| i.issuer == *name)));
        let tokens: Vec<_> = i.tokens.iter().map(token).collect();
        policy.rules.extend(tokens.iter().map(|t| admits(t, &spec.access)));
        GateConfig {
            generation: i.gate_generation,
            instance_uid: i.uid.clone(),
            instance_name: i.name.clone(),
            mode,
            drain_deadline_ms: drain_ms,
            audiences,
            issuers,
            policy,
            tokens,
            cors_origins: spec.cors_origins.iter().filter_map(|o| cors::origin(o).ok()).collect(),
            upstreams: Vec::new(),
            protocol: protocol(spec),
            probe: probe(spec),
            forward_token: spec.forward_token,
            hold_ms: 0,
            revision: i.revision.clone(),
        }
    }
}

/// The journal's machine token as gates know it.
pub fn token(t: &journal::MachineToken) -> MachineToken {
    MachineToken {
        id: t.id.clone(),
        sha256: hex::encode(&t.sha256),
        expires_at: u64::try_from(t.expire_ms / 1000).unwrap_or(0),
        paths: t.path_prefixes.clone(),
    }
}

/// The rule that a token brings, behind all others: it lets in for its paths what no rule before keeps out.
fn admits(t: &MachineToken, access: &Option<v1::AccessPolicy>) -> Rule {
    let mut rule = Rule::allow(format!("token-{}", t.id), vec![format!("token:{}", t.id)]);
    rule.path_prefixes.clone_from(&t.paths);
    // a rule may have been called so
    while access.iter().flat_map(|p| &p.rules).any(|r| r.id == rule.id) {
        rule.id.push('+');
    }
    rule
}

/// Whether an instance is published for this host alone.
pub fn is_on_loopback(spec: &v1::InstanceSpec) -> bool {
    // a cluster's endpoint is where others are, but for one that runs on this host
    if spec.target.starts_with("k8s:") && !spec.target.starts_with("k8s:kind-") {
        return false;
    }
    let address = spec.publish.as_ref().map_or("", |p| p.address.as_str());
    address.is_empty() || address.parse().is_ok_and(|a: std::net::IpAddr| a.is_loopback())
}

/// Audience of an instance's data plane in tokens of the local issuer.
pub fn instance_audience(uid: &str) -> String {
    format!("syp:{uid}")
}

/// What the app of a spec speaks.
pub fn protocol(spec: &v1::InstanceSpec) -> Protocol {
    match spec.protocol() {
        instance_spec::Protocol::Http1 => Protocol::Http1,
        instance_spec::Protocol::H2c => Protocol::H2c,
        _ => Protocol::Auto,
    }
}

/// How a replica of a spec is probed.
pub fn probe(spec: &v1::InstanceSpec) -> Probe {
    let p = spec.probe.as_ref();
    let ms = |d: Option<&prost_types::Duration>, or: i64| {
        u64::try_from(d.map_or(or, crate::clock::duration_millis)).unwrap_or(1000)
    };
    Probe {
        path: p.map(|p| p.path.clone()).filter(|p| !p.is_empty()),
        period_ms: ms(p.and_then(|p| p.period.as_ref()), 2_000),
        timeout_ms: ms(p.and_then(|p| p.timeout.as_ref()), 2_000),
    }
}

/// The API's policy as the one that decides.
pub fn policy(p: &v1::AccessPolicy) -> Policy {
    Policy { rules: p.rules.iter().enumerate().map(rule).collect() }
}

fn rule((n, r): (usize, &access_policy::Rule)) -> Rule {
    Rule {
        id: if r.id.is_empty() { format!("rule-{}", n + 1) } else { r.id.clone() },
        effect: if r.effect() == access_policy::Effect::Deny { Effect::Deny } else { Effect::Allow },
        issuer: (!r.issuer.is_empty()).then(|| r.issuer.clone()),
        members: r.members.clone(),
        claims: r.claims.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>(),
        path_prefixes: r.path_prefixes.clone(),
        methods: r.methods.clone(),
        role: role(r.role()),
    }
}

/// The API's role as the one that decides.
pub fn role(r: v1::Role) -> Option<Role> {
    match r {
        v1::Role::Unspecified => None,
        v1::Role::User => Some(Role::User),
        v1::Role::Viewer => Some(Role::Viewer),
        v1::Role::Operator => Some(Role::Operator),
        v1::Role::Admin => Some(Role::Admin),
    }
}
