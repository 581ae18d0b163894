//! Who calls, and what they may do. Put into every request by the interceptor layer; handlers can't get an instance without asking it.
use super::status::refuse;
use crate::door;
use std::sync::{Arc, OnceLock};
use syp_auth::{
    machine,
    policy::{Policy, Role},
    verify::Identity,
};
use syp_proto::{
    journal::{Instance, SharedSecret},
    v1,
};
use tonic::{Code, Request, Status};

/// A caller whose token was checked.
#[derive(Clone, Debug)]
pub struct Authz {
    /// From the token.
    pub identity: Identity,
    /// By the control policy.
    pub role: Option<Role>,
    /// The call came over the engine's Unix socket from its own user.
    pub local_peer: bool,
    /// What the call is about, for the audit trail; shared with the layer that writes it.
    target: Arc<OnceLock<String>>,
}

// === impl Authz ===

impl Authz {
    /// A caller whose token was checked.
    pub fn new(identity: Identity, role: Option<Role>, local_peer: bool) -> Self {
        Self { identity, role, local_peer, target: Arc::default() }
    }

    /// Tells what the call is about; the first word counts.
    pub fn is_about(&self, what: &str) {
        // already told: nothing to do
        let _ = self.target.set(what.to_owned());
    }

    /// What the call is about, as far as it was told.
    pub fn target(&self) -> String {
        self.target.get().cloned().unwrap_or_default()
    }

    /// The caller of a request.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when the interceptor did not let it through (a bug).
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request.extensions().get::<Self>().cloned().ok_or_else(|| Status::unauthenticated("no caller"))
    }

    /// For the journal: the address people know, else the subject.
    pub fn actor(&self) -> String {
        match &self.identity.email {
            Some(email) => format!("user:{email}"),
            None if self.identity.issuer == machine::ISSUER => self.identity.subject.clone(),
            None => format!("sub:{}", self.identity.subject),
        }
    }

    /// The role on an instance: the better one of the control policy and the instance's operators.
    pub fn role_on(&self, i: &Instance) -> Option<Role> {
        let own = i
            .spec
            .as_ref()
            .and_then(|s| s.operators.as_ref())
            .and_then(|p| decide(&door::policy(p), &self.identity));
        self.role.max(own)
    }

    /// The role on a shared secret. What the control policy gives counts as a viewer's, but for administrators: whoever may bind a
    /// secret can read it, and whoever may make instances is an operator there.
    pub fn role_on_secret(&self, s: &SharedSecret) -> Option<Role> {
        let own = s.operators.as_ref().and_then(|p| decide(&door::policy(p), &self.identity));
        let control = self.role.map(|r| if r == Role::Admin { r } else { r.min(Role::Viewer) });
        control.max(own)
    }

    /// Refuses who has less than `need` on the secret. Who may not even see it gets `NOT_FOUND`.
    ///
    /// # Errors
    /// `NOT_FOUND` or `PERMISSION_DENIED`.
    pub fn require_on_secret(&self, s: &SharedSecret, need: Role) -> Result<(), Status> {
        match self.role_on_secret(s) {
            Some(role) if role >= need => Ok(()),
            Some(role) if role >= Role::Viewer => Err(refuse(
                Code::PermissionDenied,
                "PERMISSION_DENIED",
                format!("the secret '{}' is not yours to use or change", s.name),
                "one of its operators can let you: 'sypctl secret show NAME' names them, 'sypctl secret set NAME --operator ...'",
            )),
            _ => Err(crate::error::Error::NotFound(crate::shared::SecretName::of(s).to_string()).into()),
        }
    }

    /// Is the caller one of the instance's own operators, whatever the control policy says?
    pub fn is_own_operator(&self, i: &Instance) -> bool {
        let own = i.spec.as_ref().and_then(|s| s.operators.as_ref());
        own.and_then(|p| decide(&door::policy(p), &self.identity)).is_some_and(|r| r >= Role::Operator)
    }

    /// Refuses who has less than `need` on the instance. Who may not even see it gets `NOT_FOUND`.
    ///
    /// # Errors
    /// `NOT_FOUND` or `PERMISSION_DENIED`.
    pub fn require_on(&self, i: &Instance, need: Role) -> Result<(), Status> {
        match self.role_on(i) {
            Some(role) if role >= need => Ok(()),
            Some(role) if role >= Role::Viewer => Err(denied(need, Some(role))),
            _ => Err(crate::error::Error::NotFound(crate::view::full_name(i)).into()),
        }
    }

    /// Refuses who has less than `need` everywhere.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub fn require(&self, need: Role) -> Result<(), Status> {
        if self.role.is_some_and(|r| r >= need) { Ok(()) } else { Err(denied(need, self.role)) }
    }

    /// As the API shows a caller.
    pub fn principal(&self) -> v1::Principal {
        v1::Principal {
            subject: self.identity.subject.clone(),
            issuer: self.identity.issuer.clone(),
            email: self.identity.email.clone().unwrap_or_default(),
            groups: self.identity.groups.clone(),
            role: self.role.map_or(v1::Role::Unspecified, to_proto) as i32,
            expire_time: crate::clock::timestamp(
                i64::try_from(self.identity.expires_at.saturating_mul(1000)).unwrap_or(i64::MAX),
            ),
        }
    }
}

/// The role that a policy gives; an allowing rule without one makes a viewer.
pub fn decide(policy: &Policy, identity: &Identity) -> Option<Role> {
    let d = policy.decide(identity, None);
    d.allowed.then(|| d.role.max(Role::Viewer))
}

/// As the API has it.
pub(super) fn to_proto(r: Role) -> v1::Role {
    match r {
        Role::User => v1::Role::User,
        Role::Viewer => v1::Role::Viewer,
        Role::Operator => v1::Role::Operator,
        Role::Admin => v1::Role::Admin,
    }
}

fn denied(need: Role, have: Option<Role>) -> Status {
    let word = |r: Role| format!("{r:?}").to_lowercase();
    let have = have.map_or_else(|| "no role".to_owned(), word);
    refuse(
        Code::PermissionDenied,
        "PERMISSION_DENIED",
        format!("this needs the role {}; you have {have}", word(need)),
        "ask an administrator: 'sypctl access allow' with --plane control",
    )
}
