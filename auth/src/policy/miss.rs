//! Why a rule did not match, in words for operators: never for the caller, who would learn the policy from it.
use serde_json::Value;

use super::{Request, Rule};
use crate::verify::Identity;

/// Longest claim value that is shown.
const SHOWN: usize = 64;

/// The first condition of a rule that does not hold. Made for every rule of every request: the words come only when asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss<'a> {
    /// Another issuer than the rule's.
    Issuer,
    /// This claim is absent or has another value.
    Claim(&'a str, &'a str),
    /// Another method, or no request to have one.
    Method,
    /// Another path.
    Path,
    /// A path with two readings, or no request to have one.
    Unreadable,
    /// The rule names nobody.
    Nobody,
    /// None of the members.
    Members,
    /// A member, but by an address that its issuer did not verify.
    Unverified,
}

// === impl Miss ===

impl Miss<'_> {
    /// As an operator reads it.
    pub(super) fn words(self, rule: &Rule, who: &Identity, request: Option<&Request<'_>>) -> String {
        match self {
            Self::Issuer => {
                format!("issuer: it is {}, not {}", who.issuer, rule.issuer.as_deref().unwrap_or_default())
            }
            Self::Claim(name, want) => match who.claims.get(name) {
                None => format!("claim {name}: absent, not '{want}'"),
                Some(has) => format!("claim {name}: it is {}, not '{want}'", short(has)),
            },
            Self::Method => match request {
                None => "method: the rule is for requests to an app, and this is none".into(),
                Some(r) => format!("method: it is {}, not {}", r.method, rule.methods.join(" or ")),
            },
            Self::Path => {
                let path = request.map(|r| r.path).unwrap_or_default();
                format!("path: {path} is not under {}", rule.path_prefixes.join(" or "))
            }
            Self::Unreadable => match request {
                None => "path: the rule is for requests to an app, and this is none".into(),
                Some(r) => format!("path: {} can be read in two ways, no rule allows it", r.path),
            },
            Self::Nobody => "the rule names nobody".into(),
            Self::Members => format!("member: the caller is none of {}", rule.members.join(", ")),
            Self::Unverified => format!(
                "member: the issuer does not say that it verified the address {}",
                who.email.as_deref().unwrap_or_default()
            ),
        }
    }
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    };
    if text.chars().count() <= SHOWN {
        return text;
    }
    format!("{}...", text.chars().take(SHOWN).collect::<String>())
}
