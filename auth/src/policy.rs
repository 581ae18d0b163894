//! Access policy: who may call. One language for the data plane and the control plane.
//!
//! Rules are tried in order; the first one that matches decides; none means deny. In one rule every condition that is given
//! must hold (issuer, one of the members, all claims, one of the path prefixes, one of the methods).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::path::Normal;
use crate::verify::Identity;

mod member;
mod miss;

use member::claim_is;
pub use member::{Member, is_email};
use miss::Miss;

/// What a caller may do on the control plane. Ordered: each role holds those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May call the served instance; nothing on the control plane.
    #[default]
    User,
    /// May look.
    Viewer,
    /// May drive an instance's lifecycle.
    Operator,
    /// May change policy and the server itself.
    Admin,
}

/// Whether a rule that matches lets the caller in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Lets the caller in.
    Allow,
    /// Keeps the caller out.
    Deny,
}

/// One line of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name of the rule, unique in its policy; it appears in the access log.
    pub id: String,
    /// What a match means.
    pub effect: Effect,
    /// Only tokens of this issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// One of these: `user:` `sub:` `group:` `domain:` `token:` `claim:NAME=VALUE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// All of these claims must have these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
    /// The request's path must be one of these or lie below one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path_prefixes: Vec<String>,
    /// The request's method must be one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// The role a match gives; [`Role::User`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// Rules in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The rules.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// The part of a request that policy looks at.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Raw path, without query.
    pub path: &'a str,
    /// Method in capitals.
    pub method: &'a str,
}

/// What a policy says about one caller and request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Whether the caller gets in.
    pub allowed: bool,
    /// The role that the matching rule gives.
    pub role: Role,
    /// The rule that decided.
    pub rule_id: Option<String>,
    /// Stable: `POLICY_ALLOWED`, `POLICY_DENIED`, `POLICY_NO_MATCH`, `POLICY_EMPTY`, `EMAIL_UNVERIFIED`, `TOKEN_SCOPE`.
    pub reason: &'static str,
}

/// What is wrong with a policy; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a member expression.
    #[error(
        "'{text}' is not a member; write user:alice@example.com, sub:SUBJECT, group:NAME, domain:example.com, token:ID or claim:NAME=VALUE"
    )]
    Member {
        /// What was written.
        text: String,
    },
    /// `user:` without an email address.
    #[error(
        "'{text}' is not an email address; write user:alice@example.com, or sub:SUBJECT for a caller without one"
    )]
    Email {
        /// What was written.
        text: String,
    },
    /// `domain:` with something else.
    #[error("'{text}' is not a domain; write domain:example.com (exact: sub-domains are not included)")]
    Domain {
        /// What was written.
        text: String,
    },
    /// An allow rule that would let everybody in.
    #[error(
        "rule '{id}' allows everybody its issuers know; name members (user:, group:, domain:, claim:) or claims"
    )]
    Everybody {
        /// The rule.
        id: String,
    },
    /// `sub:` with several issuers.
    #[error(
        "rule '{id}' uses sub: and there are several issuers; a subject means nothing without one: set the rule's issuer"
    )]
    SubjectNeedsIssuer {
        /// The rule.
        id: String,
    },
    /// An issuer nobody configured.
    #[error("rule '{id}' names issuer '{issuer}', which is not configured; configured: {known}")]
    UnknownIssuer {
        /// The rule.
        id: String,
        /// The issuer it names.
        issuer: String,
        /// Those that are configured.
        known: String,
    },
    /// A path prefix with two readings.
    #[error(
        "rule '{id}': path prefix '{prefix}' is ambiguous; write a plain absolute path such as /admin, without '.', '..', '//', ';' or encoded letters"
    )]
    PathPrefix {
        /// The rule.
        id: String,
        /// The prefix.
        prefix: String,
    },
    /// A method that is none.
    #[error("rule '{id}': '{method}' is not a method; write capitals, such as GET")]
    Method {
        /// The rule.
        id: String,
        /// What was written.
        method: String,
    },
    /// Two rules of one name, or none.
    #[error(
        "rule id '{id}' is empty, used twice or longer than 64 characters; every rule needs its own short id"
    )]
    Id {
        /// The id.
        id: String,
    },
}

// === impl Rule ===

impl Rule {
    /// The short form that `--allow MEMBER` makes.
    #[must_use]
    pub fn allow(id: impl Into<String>, members: Vec<String>) -> Self {
        let (issuer, claims, path_prefixes) = (None, BTreeMap::new(), Vec::new());
        Self {
            id: id.into(),
            effect: Effect::Allow,
            issuer,
            members,
            claims,
            path_prefixes,
            methods: Vec::new(),
            role: None,
        }
    }

    fn matches<'r>(
        &'r self,
        who: &Identity,
        request: Option<&Request<'_>>,
        path: Option<&Normal>,
    ) -> Result<(), Miss<'r>> {
        let deny = self.effect == Effect::Deny;
        if self.issuer.as_ref().is_some_and(|issuer| *issuer != who.issuer) {
            return Err(Miss::Issuer);
        }
        for (name, value) in &self.claims {
            if !who.claims.get(name).is_some_and(|v| claim_is(v, value)) {
                return Err(Miss::Claim(name, value));
            }
        }
        // what cannot be decided (no request, an ambiguous path) never lets in and always keeps out
        if !self.methods.is_empty() && !request.map_or(deny, |r| self.methods.iter().any(|m| m == r.method)) {
            return Err(Miss::Method);
        }
        if !self.path_prefixes.is_empty() && !self.covers(path, deny) {
            return Err(if path.is_none() { Miss::Unreadable } else { Miss::Path });
        }
        if self.members.is_empty() {
            // refused by validate(); never open the door to everybody by accident
            return if deny || !self.claims.is_empty() { Ok(()) } else { Err(Miss::Nobody) };
        }
        self.names(who, deny)
    }

    fn covers(&self, path: Option<&Normal>, deny: bool) -> bool {
        let Some(path) = path else { return deny };
        self.path_prefixes.iter().any(|p| Normal::read(p).map_or(deny, |p| path.is_under(&p, deny)))
    }

    fn names(&self, who: &Identity, deny: bool) -> Result<(), Miss<'_>> {
        let mut unverified = false;
        for text in &self.members {
            let Ok(member) = Member::parse(text) else { continue };
            if member.names(who) {
                // an unverified address may keep its bearer out, never let them in
                if deny || who.email_verified || !member.needs_verified_email() {
                    return Ok(());
                }
                unverified = true;
            }
        }
        Err(if unverified { Miss::Unverified } else { Miss::Members })
    }
}

// === impl Policy ===

impl Policy {
    /// Checks what can be checked without knowing the issuers.
    ///
    /// # Errors
    /// The first [`Error`] found; its text says what to write instead.
    pub fn validate(&self) -> Result<(), Error> {
        let mut seen = std::collections::BTreeSet::new();
        for rule in &self.rules {
            let id = || rule.id.clone();
            if rule.id.is_empty() || rule.id.len() > 64 || !seen.insert(&rule.id) {
                return Err(Error::Id { id: id() });
            }
            for member in &rule.members {
                Member::parse(member)?;
            }
            if rule.effect == Effect::Allow && rule.members.is_empty() && rule.claims.is_empty() {
                return Err(Error::Everybody { id: id() });
            }
            if let Some(prefix) = rule.path_prefixes.iter().find(|p| Normal::read(p).is_none()) {
                return Err(Error::PathPrefix { id: id(), prefix: prefix.clone() });
            }
            let method = |m: &str| !m.is_empty() && m.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            if let Some(wrong) = rule.methods.iter().find(|m| !method(m)) {
                return Err(Error::Method { id: id(), method: wrong.clone() });
            }
        }
        Ok(())
    }

    /// As [`Policy::validate`], and against the issuers that are configured.
    ///
    /// # Errors
    /// The first [`Error`] found.
    pub fn validate_for(&self, issuers: &[&str]) -> Result<(), Error> {
        self.validate()?;
        for rule in &self.rules {
            match &rule.issuer {
                Some(issuer) if !issuers.contains(&issuer.as_str()) => {
                    let (id, issuer) = (rule.id.clone(), issuer.clone());
                    return Err(Error::UnknownIssuer { id, issuer, known: issuers.join(", ") });
                }
                None if issuers.len() > 1 && rule.members.iter().any(|m| m.starts_with("sub:")) => {
                    return Err(Error::SubjectNeedsIssuer { id: rule.id.clone() });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether any rule looks at the request: without one, a decision holds for all of a caller's requests.
    #[must_use]
    pub fn depends_on_request(&self) -> bool {
        self.rules.iter().any(|r| !r.path_prefixes.is_empty() || !r.methods.is_empty())
    }

    /// Decides. Without a request (control plane), rules with path prefixes or methods never allow and always deny.
    #[must_use]
    pub fn decide(&self, who: &Identity, request: Option<&Request<'_>>) -> Decision {
        self.walk(who, request, |_, _| {})
    }

    /// As [`Policy::decide`], and tells for each rule before the one that decided what of it does not hold.
    #[must_use]
    pub fn explain(&self, who: &Identity, request: Option<&Request<'_>>) -> (Decision, Vec<String>) {
        let mut missed = Vec::new();
        let decision = self.walk(who, request, |rule, miss| {
            missed.push(format!("{}: {}", rule.id, miss.words(rule, who, request)));
        });
        if decision.reason == "TOKEN_SCOPE" {
            missed.push(format!("token: it is for paths under {} alone", who.scope.join(" or ")));
        }
        (decision, missed)
    }

    /// The one place where rules are tried.
    fn walk(
        &self,
        who: &Identity,
        request: Option<&Request<'_>>,
        mut missed: impl FnMut(&Rule, Miss<'_>),
    ) -> Decision {
        // reading a path costs more than most rules: only when one looks at it
        let looked_at = !who.scope.is_empty() || self.rules.iter().any(|r| !r.path_prefixes.is_empty());
        let path = request.filter(|_| looked_at).and_then(|r| Normal::read(r.path));
        // before any rule: none can widen what a token was made for
        if !in_scope(&who.scope, path.as_ref()) {
            return Decision { allowed: false, role: Role::User, rule_id: None, reason: "TOKEN_SCOPE" };
        }
        let mut reason = if self.rules.is_empty() { "POLICY_EMPTY" } else { "POLICY_NO_MATCH" };
        for rule in &self.rules {
            match rule.matches(who, request, path.as_ref()) {
                Ok(()) => return Decision::by(rule),
                Err(miss) => {
                    if miss == Miss::Unverified {
                        reason = "EMAIL_UNVERIFIED";
                    }
                    missed(rule, miss);
                }
            }
        }
        Decision { allowed: false, role: Role::User, rule_id: None, reason }
    }
}

fn in_scope(scope: &[String], path: Option<&Normal>) -> bool {
    let under = |p: &String| path.zip(Normal::read(p)).is_some_and(|(path, p)| path.is_under(&p, false));
    scope.is_empty() || scope.iter().any(under)
}

impl Decision {
    fn by(rule: &Rule) -> Self {
        let allowed = rule.effect == Effect::Allow;
        let role = if allowed { rule.role.unwrap_or_default() } else { Role::User };
        let reason = if allowed { "POLICY_ALLOWED" } else { "POLICY_DENIED" };
        Self { allowed, role, rule_id: Some(rule.id.clone()), reason }
    }
}

#[cfg(test)]
mod tests;
