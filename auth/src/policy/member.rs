//! Members: the people, groups and machines that rules speak of.
use serde_json::Value;

use super::Error;
use crate::machine;
use crate::verify::Identity;

/// Somebody a rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member<'a> {
    /// `user:alice@example.com`: exact email, ASCII case ignored.
    User(&'a str),
    /// `sub:SUBJECT`: exact subject.
    Subject(&'a str),
    /// `group:ml@example.com`: exact group.
    Group(&'a str),
    /// `domain:example.com`: the email's domain, ASCII case ignored, no sub-domains.
    Domain(&'a str),
    /// `token:ID`: a machine token.
    Token(&'a str),
    /// `claim:NAME=VALUE`: a claim of exactly this value, or a list that holds it.
    Claim {
        /// Name of the claim.
        name: &'a str,
        /// Its value as text.
        value: &'a str,
    },
}

// === impl Member ===

impl<'a> Member<'a> {
    /// Reads one member expression.
    ///
    /// # Errors
    /// [`Error::Member`], [`Error::Email`] or [`Error::Domain`]: the text is none.
    pub fn parse(text: &'a str) -> Result<Self, Error> {
        let bad = || Error::Member { text: text.to_owned() };
        let (kind, rest) = text.split_once(':').ok_or_else(bad)?;
        if rest.is_empty() || rest.trim() != rest || rest.chars().any(char::is_control) {
            return Err(bad());
        }
        match kind {
            "user" if is_email(rest) => Ok(Self::User(rest)),
            "user" => Err(Error::Email { text: rest.to_owned() }),
            "sub" => Ok(Self::Subject(rest)),
            "group" => Ok(Self::Group(rest)),
            "domain" if is_domain(rest) => Ok(Self::Domain(rest)),
            "domain" => Err(Error::Domain { text: rest.to_owned() }),
            "token" => Ok(Self::Token(rest)),
            "claim" => match rest.split_once('=') {
                Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                    Ok(Self::Claim { name, value })
                }
                _ => Err(bad()),
            },
            _ => Err(bad()),
        }
    }

    /// Whether the identity is meant, email verified or not.
    pub(super) fn names(&self, who: &Identity) -> bool {
        match self {
            Self::User(email) => who.email.as_deref().is_some_and(|e| e.eq_ignore_ascii_case(email)),
            Self::Subject(sub) => who.subject == *sub,
            Self::Group(group) => who.groups.iter().any(|g| g == group),
            Self::Domain(domain) => who
                .email
                .as_deref()
                .and_then(|e| e.split_once('@'))
                .is_some_and(|(_, d)| d.eq_ignore_ascii_case(domain)),
            // an issuer may call a subject of its own so
            Self::Token(id) => {
                who.issuer == machine::ISSUER && who.subject.strip_prefix("token:") == Some(*id)
            }
            Self::Claim { name, value } => who.claims.get(*name).is_some_and(|v| claim_is(v, value)),
        }
    }

    pub(super) fn needs_verified_email(&self) -> bool {
        matches!(self, Self::User(_) | Self::Domain(_))
    }
}

/// Whether this is an email address as policy accepts them: one `@`, no spaces, quotes or control characters.
#[must_use]
pub fn is_email(text: &str) -> bool {
    let plain = |c: char| {
        !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | ',' | '<' | '>' | ';' | '(' | ')' | '\\')
    };
    text.len() <= 254
        && text
            .split_once('@')
            .is_some_and(|(name, domain)| !name.is_empty() && name.chars().all(plain) && is_domain(domain))
}

fn is_domain(text: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text.len() <= 253 && text.split('.').all(|l| !l.is_empty() && l.chars().all(plain))
}

pub(super) fn claim_is(value: &Value, want: &str) -> bool {
    match value {
        Value::String(text) => text == want,
        Value::Bool(flag) => want == if *flag { "true" } else { "false" },
        Value::Number(number) => number.to_string() == want,
        // one level only: a list inside a list is no set of values
        Value::Array(items) => items.iter().any(|item| !item.is_array() && claim_is(item, want)),
        _ => false,
    }
}
