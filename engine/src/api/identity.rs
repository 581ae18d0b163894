//! Who may call: issuers, the built-in local issuer, and the control policy.
use super::{
    authz,
    machines::Machines,
    status::{refuse, refuse_with},
};
use crate::door;
use arc_swap::ArcSwap;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use std::{collections::HashMap, sync::Arc, time::Duration};
use syp_auth::{
    jwks::IssuerConfig,
    local::{LocalIssuer, MintRequest},
    machine,
    policy::{Policy, Role},
    verify::{self, Identity, Verifier},
};
use syp_proto::v1::{
    self,
    access_policy::{Effect, Rule},
};
use tonic::{Code, Status};

/// Audience of tokens for this API.
pub const API_AUDIENCE: &str = "syp-api";
/// Setting under which the control policy is stored.
pub const CONTROL_POLICY: &str = "control_policy";
/// Groups and addresses in one local token.
const MAX_GROUPS: usize = 64;

/// What identities are made of.
pub struct Options {
    /// Checks tokens with [`API_AUDIENCE`] or the audience of the configured issuers.
    pub verifier: Verifier,
    /// Names of the configured issuers, the local one included.
    pub issuers: Vec<String>,
    /// Audience that tokens of the configured issuers carry for the instances.
    pub app_audience: Option<String>,
    /// The built-in issuer; `None` when the engine only trusts others.
    pub local: Option<LocalIssuer>,
    /// Stored control policy; `None`: [`default_policy`].
    pub policy: Option<v1::AccessPolicy>,
    /// The engine's own user.
    pub own_uid: u32,
    /// Members that are administrators from the start.
    pub admins: Vec<String>,
}

/// Checks callers.
pub struct Identities {
    verifier: Verifier,
    issuers: Vec<String>,
    app_audience: Option<String>,
    local: Option<LocalIssuer>,
    own_uid: u32,
    policy: ArcSwap<(v1::AccessPolicy, Policy)>,
    machines: Machines,
    /// Held from reading the control policy to having the next one on disk.
    pub(super) changing: tokio::sync::Mutex<()>,
}

/// The engine's own user is an administrator, and whoever was named at the start. Nobody else is anything.
pub fn default_policy(
    local: Option<&LocalIssuer>,
    own_uid: u32,
    admins: &[String],
    subjects_of: &str,
) -> v1::AccessPolicy {
    let rule = |id: &str, issuer: &str, members: Vec<String>| Rule {
        id: id.into(),
        effect: Effect::Allow as i32,
        issuer: issuer.into(),
        members,
        role: v1::Role::Admin as i32,
        ..Default::default()
    };
    let mut rules = Vec::new();
    if let Some(local) = local {
        rules.push(rule("local", local.issuer(), vec![format!("sub:{}", own_subject(own_uid))]));
    }
    let (subjects, others): (Vec<_>, Vec<_>) = admins.iter().cloned().partition(|m| m.starts_with("sub:"));
    if !subjects.is_empty() {
        rules.push(rule("admin-subjects", subjects_of, subjects));
    }
    if !others.is_empty() {
        rules.push(rule("admins", "", others));
    }
    v1::AccessPolicy { rules, etag: String::new() }
}

fn own_subject(uid: u32) -> String {
    format!("uid:{uid}")
}

// === impl Identities ===

impl Identities {
    /// From its parts.
    pub fn new(o: Options) -> Self {
        let local = o.local.as_ref().map(LocalIssuer::issuer);
        let others: Vec<&str> = o.issuers.iter().map(String::as_str).filter(|i| Some(*i) != local).collect();
        let policy = o.policy.unwrap_or_else(|| {
            // a subject means nothing without an issuer
            let subjects_of = others.first().copied().or(local).unwrap_or_default();
            default_policy(o.local.as_ref(), o.own_uid, &o.admins, subjects_of)
        });
        let this = Self {
            verifier: o.verifier,
            issuers: o.issuers,
            app_audience: o.app_audience,
            local: o.local,
            own_uid: o.own_uid,
            policy: ArcSwap::default(),
            machines: Machines::default(),
            changing: tokio::sync::Mutex::default(),
        };
        this.set_control_policy(policy);
        this
    }

    /// Checks a token.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`. The reason is told: whoever calls this API is not a stranger at a public door.
    pub async fn verify(&self, token: &str) -> Result<Identity, Status> {
        let who = if machine::is_machine(token) {
            self.machines.verify(token)
        } else {
            self.verifier.verify(token).await.map(|i| Identity::clone(&i))
        };
        who.map_err(|e| {
            let (code, hint) = match e {
                // another login would not help
                verify::Error::JwksUnavailable => (
                    Code::Unavailable,
                    "the engine can't reach the identity provider; it tries again by itself",
                ),
                verify::Error::Expired => (Code::Unauthenticated, "log in again: 'sypctl login'"),
                verify::Error::Audience => {
                    (Code::Unauthenticated, "the token is for something else: get one for 'syp-api'")
                }
                _ => (Code::Unauthenticated, "'sypctl login', or call over the engine's socket"),
            };
            refuse(code, e.reason(), e.to_string(), hint)
        })
    }

    /// Machine tokens of the control plane.
    pub(super) fn machines(&self) -> &Machines {
        &self.machines
    }

    /// What checks tokens for this API; for other audiences by [`Verifier::with`].
    pub(super) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Is it one of the built-in issuer?
    pub fn is_local(&self, identity: &Identity) -> bool {
        self.local.as_ref().is_some_and(|l| l.issuer() == identity.issuer)
    }

    /// What a caller without a token is told: where to get one.
    pub fn token_missing(&self) -> Status {
        let local = self.local_issuer();
        let mut at = HashMap::new();
        if let Some(issuer) = self.issuers.iter().find(|i| Some(*i) != local.as_ref()) {
            at.insert("issuer".to_owned(), issuer.clone());
            at.insert("audience".to_owned(), API_AUDIENCE.to_owned());
            at.extend(self.app_audience.iter().map(|a| ("app_audience".to_owned(), a.clone())));
        }
        refuse_with(
            Code::Unauthenticated,
            "TOKEN_MISSING",
            "this call needs a token",
            "'sypctl login', or call over the engine's socket",
            at,
        )
    }

    /// The role by the control policy. The engine's own user over its own socket is an administrator whatever the policy says:
    /// the way back after a lockout.
    pub fn role(&self, identity: &Identity, local_peer: bool) -> Option<Role> {
        if identity.issuer == machine::ISSUER {
            return self.machines.role(&identity.subject);
        }
        if local_peer && self.is_local(identity) && identity.subject == own_subject(self.own_uid) {
            return Some(Role::Admin);
        }
        authz::decide(&self.policy.load().1, identity)
    }

    /// A token of the built-in issuer, as the engine's own user or as somebody named.
    ///
    /// # Errors
    /// In words: no local issuer, or what it refuses.
    pub fn issue_local(
        &self,
        audience: &str,
        email: &str,
        subject: &str,
        groups: &[String],
        ttl: Duration,
    ) -> Result<(SecretString, Identity), String> {
        let local = self.local.as_ref().ok_or("this engine has no local issuer")?;
        if groups.len() > MAX_GROUPS {
            return Err(format!("at most {MAX_GROUPS} groups"));
        }
        let somebody = !email.is_empty() || !subject.is_empty();
        let subject = match (subject, email) {
            ("", "") => own_subject(self.own_uid),
            // nobody becomes the engine's user by name
            (s, _) if s.starts_with("uid:") => {
                return Err("subjects that begin with 'uid:' are the engine's".into());
            }
            ("", email) => format!("user:{}", email.to_ascii_lowercase()),
            (s, _) => s.to_owned(),
        };
        let email = match email {
            "" if somebody => None,
            "" => Some(format!("{}@localhost", own_name(self.own_uid))),
            e => Some(e.to_ascii_lowercase()),
        };
        let request = MintRequest {
            subject: subject.clone(),
            email: email.clone(),
            groups: groups.to_vec(),
            audience: audience.to_owned(),
            ttl,
            ..Default::default()
        };
        let token = local.mint(&request).map_err(|e| e.to_string())?;
        let identity = Identity {
            issuer: local.issuer().to_owned(),
            subject,
            email_verified: email.is_some(),
            email,
            groups: groups.to_vec(),
            claims: serde_json::Map::new(),
            expires_at: syp_auth::unix_now() + ttl.as_secs(),
            scope: Vec::new(),
        };
        Ok((token, identity))
    }

    /// Names of all issuers.
    pub fn issuers(&self) -> Vec<String> {
        self.issuers.clone()
    }

    /// Whether somebody but the built-in issuer is trusted.
    pub fn has_others(&self) -> bool {
        let local = self.local_issuer();
        self.issuers.iter().any(|i| Some(i) != local.as_ref())
    }

    /// Name of the built-in issuer.
    pub fn local_issuer(&self) -> Option<String> {
        self.local.as_ref().map(|l| l.issuer().to_owned())
    }

    /// The built-in issuer as gates trust it.
    pub fn local_config(&self) -> Option<IssuerConfig> {
        self.local.as_ref().map(LocalIssuer::config)
    }

    /// The control policy with its etag.
    pub fn control_policy(&self) -> v1::AccessPolicy {
        self.policy.load().0.clone()
    }

    /// Replaces the control policy (the caller has stored it).
    pub fn set_control_policy(&self, mut p: v1::AccessPolicy) {
        p.etag.clear();
        p.etag = format!("\"{}\"", hex::encode(&Sha256::digest(prost::Message::encode_to_vec(&p))[..6]));
        let decided = door::policy(&p);
        self.policy.store(Arc::new((p, decided)));
    }
}

/// For people: the name of the engine's user, or its number.
fn own_name(uid: u32) -> String {
    if uid == 0 { "root".into() } else { format!("uid{uid}") }
}
