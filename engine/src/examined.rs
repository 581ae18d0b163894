//! What an `up` would meet at a target, looked at one by one before anybody needs it. Nothing is made.
use syp_proto::{journal::Failure, v1};

pub use syp_proto::v1::check_provider_response::Verdict;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub what: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty: nothing.
    pub next: String,
    /// The reason that `up` would give; empty: none.
    pub reason: String,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examined {
    /// Who the engine is there, as the provider says it.
    pub identity: String,
    /// In the order in which they were looked at.
    pub findings: Vec<Finding>,
    /// Rights that are missing, each in a few words.
    pub missing: Vec<String>,
    /// What gives them, ready to be applied as it stands.
    pub role: String,
}

// === impl Examined ===

impl Examined {
    fn add(&mut self, what: &str, verdict: Verdict, found: String, next: String, reason: String) {
        self.findings.push(Finding { what: what.into(), verdict, found, next, reason });
    }

    /// It is as it should be.
    pub fn ok(&mut self, what: &str, found: impl Into<String>) {
        self.add(what, Verdict::Ok, found.into(), String::new(), String::new());
    }

    /// Neither good nor bad; or nobody can say.
    pub fn note(&mut self, what: &str, found: impl Into<String>) {
        self.add(what, Verdict::Note, found.into(), String::new(), String::new());
    }

    /// `up` would pass, and something would be missing.
    pub fn warn(&mut self, what: &str, found: impl Into<String>, next: impl Into<String>) {
        self.add(what, Verdict::Warn, found.into(), next.into(), String::new());
    }

    /// `up` would be refused, or would fail.
    pub fn fail(&mut self, what: &str, f: Failure) {
        self.add(what, Verdict::Fail, f.message, f.hint, f.reason);
    }

    /// As a preflight says it: `found` when it passes.
    pub fn judge(&mut self, what: &str, said: Result<(), Failure>, found: impl Into<String>) {
        match said {
            Ok(()) => self.ok(what, found),
            Err(f) => self.fail(what, f),
        }
    }

    /// Would an `up` pass, as far as this goes?
    pub fn passes(&self) -> bool {
        self.findings.iter().all(|f| f.verdict != Verdict::Fail)
    }

    /// As the API has it.
    pub fn to_api(self) -> v1::CheckProviderResponse {
        let quota = self.findings.iter().filter(|f| f.reason == "QUOTA_EXCEEDED").map(|f| f.found.clone());
        v1::CheckProviderResponse {
            ok: self.passes(),
            quota_problems: quota.collect(),
            identity: self.identity,
            missing_permissions: self.missing,
            role: self.role,
            findings: self.findings.into_iter().map(Into::into).collect(),
            ..Default::default()
        }
    }
}

// === impl Finding ===

impl From<Finding> for v1::check_provider_response::Finding {
    fn from(f: Finding) -> Self {
        Self { what: f.what, verdict: f.verdict as i32, found: f.found, next: f.next, reason: f.reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Class, failure};

    #[test]
    fn only_what_would_stop_an_up_makes_it_not_ok() {
        let mut e = Examined::default();
        e.ok("API server", "1.34");
        e.note("network", "unknown");
        e.warn("metrics", "none", "install one");
        assert!(e.passes());
        e.judge("gate's image", Err(failure(Class::Terminal, "GATE_IMAGE", "none", "set it")), "there");
        assert!(!e.passes());
        let said = e.to_api();
        assert!(!said.ok);
        let last = said.findings.last().unwrap();
        assert_eq!(
            (last.verdict(), last.reason.as_str(), last.next.as_str()),
            (Verdict::Fail, "GATE_IMAGE", "set it")
        );
    }
}
