//! The pages of `sypctl explain`: one for every reason that the engine, its steps, the gate or this program can give.

/// Reason and page, sorted.
pub const PAGES: &[(&str, &str)] = &[
    ("AUDIT_CHAIN_BROKEN", include_str!("reasons/AUDIT_CHAIN_BROKEN.md")),
    ("AUTH_NOT_ENFORCED", include_str!("reasons/AUTH_NOT_ENFORCED.md")),
    ("BODY_NOT_RECEIVED", include_str!("reasons/BODY_NOT_RECEIVED.md")),
    ("BUDGET_EXCEEDED", include_str!("reasons/BUDGET_EXCEEDED.md")),
    ("BUDGET_NEAR", include_str!("reasons/BUDGET_NEAR.md")),
    ("CANCELLED", include_str!("reasons/CANCELLED.md")),
    ("CLIENT_GONE", include_str!("reasons/CLIENT_GONE.md")),
    ("CORS_PREFLIGHT", include_str!("reasons/CORS_PREFLIGHT.md")),
    ("CRASH_LOOP", include_str!("reasons/CRASH_LOOP.md")),
    ("DEADLINE_EXCEEDED", include_str!("reasons/DEADLINE_EXCEEDED.md")),
    ("DESTROYED", include_str!("reasons/DESTROYED.md")),
    ("DEVICE_LOGIN_UNSUPPORTED", include_str!("reasons/DEVICE_LOGIN_UNSUPPORTED.md")),
    ("DISK_FULL", include_str!("reasons/DISK_FULL.md")),
    ("DRIFT", include_str!("reasons/DRIFT.md")),
    ("EMAIL_UNVERIFIED", include_str!("reasons/EMAIL_UNVERIFIED.md")),
    ("ENDPOINT_UNREACHABLE", include_str!("reasons/ENDPOINT_UNREACHABLE.md")),
    ("ENGINE_NOT_ANSWERING", include_str!("reasons/ENGINE_NOT_ANSWERING.md")),
    ("ENGINE_NOT_RUNNING", include_str!("reasons/ENGINE_NOT_RUNNING.md")),
    ("ENGINE_START_FAILED", include_str!("reasons/ENGINE_START_FAILED.md")),
    ("ENGINE_STOPPING", include_str!("reasons/ENGINE_STOPPING.md")),
    ("ENGINE_UNREACHABLE", include_str!("reasons/ENGINE_UNREACHABLE.md")),
    ("ETAG_MISMATCH", include_str!("reasons/ETAG_MISMATCH.md")),
    ("GATE_BINARY", include_str!("reasons/GATE_BINARY.md")),
    ("GATE_REFUSED", include_str!("reasons/GATE_REFUSED.md")),
    ("GATE_UNREACHABLE", include_str!("reasons/GATE_UNREACHABLE.md")),
    ("IMAGE_ARCH_MISMATCH", include_str!("reasons/IMAGE_ARCH_MISMATCH.md")),
    ("IMAGE_AUTH_FAILED", include_str!("reasons/IMAGE_AUTH_FAILED.md")),
    ("IMAGE_NOT_FOUND", include_str!("reasons/IMAGE_NOT_FOUND.md")),
    ("IMMUTABLE_FIELD", include_str!("reasons/IMMUTABLE_FIELD.md")),
    ("INTERNAL", include_str!("reasons/INTERNAL.md")),
    ("INTERRUPTED", include_str!("reasons/INTERRUPTED.md")),
    ("INVALID_ARGUMENT", include_str!("reasons/INVALID_ARGUMENT.md")),
    ("ISOLATION_NOT_ENFORCED", include_str!("reasons/ISOLATION_NOT_ENFORCED.md")),
    ("ISSUER_MISSING", include_str!("reasons/ISSUER_MISSING.md")),
    ("ISSUER_UNREACHABLE", include_str!("reasons/ISSUER_UNREACHABLE.md")),
    ("JWKS_UNAVAILABLE", include_str!("reasons/JWKS_UNAVAILABLE.md")),
    ("LISTING", include_str!("reasons/LISTING.md")),
    ("LOCAL_ISSUER", include_str!("reasons/LOCAL_ISSUER.md")),
    ("LOGIN_FAILED", include_str!("reasons/LOGIN_FAILED.md")),
    ("NAME_CONFLICT", include_str!("reasons/NAME_CONFLICT.md")),
    ("NAME_IN_USE", include_str!("reasons/NAME_IN_USE.md")),
    ("NETWORK_FULL", include_str!("reasons/NETWORK_FULL.md")),
    ("NOT_CONFIGURED", include_str!("reasons/NOT_CONFIGURED.md")),
    ("NOT_DESTROYED", include_str!("reasons/NOT_DESTROYED.md")),
    ("NOT_FOUND", include_str!("reasons/NOT_FOUND.md")),
    ("NOT_SERVING", include_str!("reasons/NOT_SERVING.md")),
    ("NOT_SUPPORTED", include_str!("reasons/NOT_SUPPORTED.md")),
    ("NO_LOCAL_ROUTE", include_str!("reasons/NO_LOCAL_ROUTE.md")),
    ("NO_REPLICA_READY", include_str!("reasons/NO_REPLICA_READY.md")),
    ("OPERATION_DONE", include_str!("reasons/OPERATION_DONE.md")),
    ("OPERATION_IN_PROGRESS", include_str!("reasons/OPERATION_IN_PROGRESS.md")),
    ("PERMISSION_DENIED", include_str!("reasons/PERMISSION_DENIED.md")),
    ("POLICY_ALLOWED", include_str!("reasons/POLICY_ALLOWED.md")),
    ("POLICY_CHANGED", include_str!("reasons/POLICY_CHANGED.md")),
    ("POLICY_DENIED", include_str!("reasons/POLICY_DENIED.md")),
    ("POLICY_EMPTY", include_str!("reasons/POLICY_EMPTY.md")),
    ("POLICY_NO_MATCH", include_str!("reasons/POLICY_NO_MATCH.md")),
    ("PORT_NOT_LISTENING", include_str!("reasons/PORT_NOT_LISTENING.md")),
    ("PORT_TAKEN", include_str!("reasons/PORT_TAKEN.md")),
    ("PORT_UNKNOWN", include_str!("reasons/PORT_UNKNOWN.md")),
    ("PROBE_FAILED", include_str!("reasons/PROBE_FAILED.md")),
    ("PROVIDER_BUSY", include_str!("reasons/PROVIDER_BUSY.md")),
    ("PROVIDER_ERROR", include_str!("reasons/PROVIDER_ERROR.md")),
    ("PROVIDER_REFUSED", include_str!("reasons/PROVIDER_REFUSED.md")),
    ("PROVIDER_THROTTLED", include_str!("reasons/PROVIDER_THROTTLED.md")),
    ("PROVIDER_UNREACHABLE", include_str!("reasons/PROVIDER_UNREACHABLE.md")),
    ("QUEUED", include_str!("reasons/QUEUED.md")),
    ("QUOTA_EXCEEDED", include_str!("reasons/QUOTA_EXCEEDED.md")),
    ("REMOVING", include_str!("reasons/REMOVING.md")),
    ("REQUEST_ENCODING", include_str!("reasons/REQUEST_ENCODING.md")),
    ("REQUEST_HOST", include_str!("reasons/REQUEST_HOST.md")),
    ("REQUEST_HOST_MISMATCH", include_str!("reasons/REQUEST_HOST_MISMATCH.md")),
    ("REQUEST_HOST_MISSING", include_str!("reasons/REQUEST_HOST_MISSING.md")),
    ("REQUEST_HOST_TWICE", include_str!("reasons/REQUEST_HOST_TWICE.md")),
    ("REQUEST_ID_REUSED", include_str!("reasons/REQUEST_ID_REUSED.md")),
    ("REQUEST_LENGTH_AND_ENCODING", include_str!("reasons/REQUEST_LENGTH_AND_ENCODING.md")),
    ("REQUEST_LENGTH_TWICE", include_str!("reasons/REQUEST_LENGTH_TWICE.md")),
    ("REQUEST_TARGET", include_str!("reasons/REQUEST_TARGET.md")),
    ("RESERVED_PATH", include_str!("reasons/RESERVED_PATH.md")),
    ("RESIDUAL_RESOURCES", include_str!("reasons/RESIDUAL_RESOURCES.md")),
    ("RESOURCES_EXCEED_HOST", include_str!("reasons/RESOURCES_EXCEED_HOST.md")),
    ("REVISION_NOT_FOUND", include_str!("reasons/REVISION_NOT_FOUND.md")),
    ("REVISION_SERVES", include_str!("reasons/REVISION_SERVES.md")),
    ("RUNNING", include_str!("reasons/RUNNING.md")),
    ("SECRET_EXISTS", include_str!("reasons/SECRET_EXISTS.md")),
    ("SECRET_FILES_UNSUPPORTED", include_str!("reasons/SECRET_FILES_UNSUPPORTED.md")),
    ("SECRET_IN_USE", include_str!("reasons/SECRET_IN_USE.md")),
    ("SECRET_UNREADABLE", include_str!("reasons/SECRET_UNREADABLE.md")),
    ("SELF_LOCKOUT", include_str!("reasons/SELF_LOCKOUT.md")),
    ("SPEC_TOO_LARGE", include_str!("reasons/SPEC_TOO_LARGE.md")),
    ("STATE_DIFFERS", include_str!("reasons/STATE_DIFFERS.md")),
    ("STEP_TIMEOUT", include_str!("reasons/STEP_TIMEOUT.md")),
    ("STORE_BUSY", include_str!("reasons/STORE_BUSY.md")),
    ("STORE_CORRUPT", include_str!("reasons/STORE_CORRUPT.md")),
    ("STORE_IO", include_str!("reasons/STORE_IO.md")),
    ("STORE_STOPPED", include_str!("reasons/STORE_STOPPED.md")),
    ("SUBNET_POOL_EXHAUSTED", include_str!("reasons/SUBNET_POOL_EXHAUSTED.md")),
    ("SUBNET_TAKEN", include_str!("reasons/SUBNET_TAKEN.md")),
    ("TARGET_UNKNOWN", include_str!("reasons/TARGET_UNKNOWN.md")),
    ("TLS_FILE", include_str!("reasons/TLS_FILE.md")),
    ("TOKEN_ALGORITHM", include_str!("reasons/TOKEN_ALGORITHM.md")),
    ("TOKEN_AUDIENCE", include_str!("reasons/TOKEN_AUDIENCE.md")),
    ("TOKEN_CLAIM", include_str!("reasons/TOKEN_CLAIM.md")),
    ("TOKEN_CRITICAL_HEADER", include_str!("reasons/TOKEN_CRITICAL_HEADER.md")),
    ("TOKEN_EXPIRED", include_str!("reasons/TOKEN_EXPIRED.md")),
    ("TOKEN_ISSUER_UNKNOWN", include_str!("reasons/TOKEN_ISSUER_UNKNOWN.md")),
    ("TOKEN_KEY_UNKNOWN", include_str!("reasons/TOKEN_KEY_UNKNOWN.md")),
    ("TOKEN_MALFORMED", include_str!("reasons/TOKEN_MALFORMED.md")),
    ("TOKEN_MISSING", include_str!("reasons/TOKEN_MISSING.md")),
    ("TOKEN_NOT_YET_VALID", include_str!("reasons/TOKEN_NOT_YET_VALID.md")),
    ("TOKEN_SCOPE", include_str!("reasons/TOKEN_SCOPE.md")),
    ("TOKEN_SIGNATURE", include_str!("reasons/TOKEN_SIGNATURE.md")),
    ("TOKEN_TOO_LARGE", include_str!("reasons/TOKEN_TOO_LARGE.md")),
    ("TOKEN_TYPE", include_str!("reasons/TOKEN_TYPE.md")),
    ("TOKEN_UNKNOWN", include_str!("reasons/TOKEN_UNKNOWN.md")),
    ("TOO_MANY_INSTANCES", include_str!("reasons/TOO_MANY_INSTANCES.md")),
    ("TRANSITION_NOT_ALLOWED", include_str!("reasons/TRANSITION_NOT_ALLOWED.md")),
    ("TRIED", include_str!("reasons/TRIED.md")),
    ("TUNNEL_NOT_OPENED", include_str!("reasons/TUNNEL_NOT_OPENED.md")),
    ("UNSUPPORTED_VERSION", include_str!("reasons/UNSUPPORTED_VERSION.md")),
    ("UPSTREAM_BROKE_OFF", include_str!("reasons/UPSTREAM_BROKE_OFF.md")),
    ("UPSTREAM_UNASKED_UPGRADE", include_str!("reasons/UPSTREAM_UNASKED_UPGRADE.md")),
    ("UPSTREAM_UNREACHABLE", include_str!("reasons/UPSTREAM_UNREACHABLE.md")),
    ("UPSTREAM_WRONG_UPGRADE", include_str!("reasons/UPSTREAM_WRONG_UPGRADE.md")),
    ("WITHIN_BUDGET", include_str!("reasons/WITHIN_BUDGET.md")),
];

/// The page of a reason.
pub fn page(reason: &str) -> Option<&'static str> {
    PAGES.iter().find(|(r, _)| *r == reason).map(|(_, p)| *p)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, path::Path};

    /// Literals that look like reasons: variables, capabilities and settings.
    const NO_REASON: [&str; 4] = ["CARGO_PKG_VERSION", "CARGO_MANIFEST_DIR", "NET_ADMIN", "WAYLAND_DISPLAY"];

    fn literals(dir: &Path, out: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                literals(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                // what stands in tests is made up
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]").next().unwrap_or_default();
                for word in text.split('"').filter(|w| is_reason(w)) {
                    out.insert(word.to_owned());
                }
            }
        }
    }

    fn is_reason(word: &str) -> bool {
        let shape = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let setting = ["SYP_", "SYPCTL_", "DOCKER_", "OTEL_", "XDG_", "NO_COLOR", "LC_"]
            .iter()
            .any(|p| word.starts_with(p));
        word.contains('_')
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && !word.ends_with('_')
            && word.chars().all(shape)
            && !setting
            && !NO_REASON.contains(&word)
    }

    #[test]
    fn every_reason_in_the_sources_has_a_page() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut found = BTreeSet::new();
        for dir in ["engine", "steps", "auth", "gate", "cli"] {
            let before = found.len();
            // the fake cloud of the tests makes its own
            literals(&root.join(dir).join("src"), &mut found);
            assert!(dir != "engine" || found.len() > before + 10, "{dir}: no reasons found");
        }
        let missing: Vec<_> = found.iter().filter(|r| page(r).is_none()).collect();
        assert!(
            missing.is_empty(),
            "write cli/src/reasons/REASON.md and a line in reasons.rs for {missing:?}"
        );
    }

    #[test]
    fn pages_are_short_sorted_and_say_what_to_do() {
        assert!(PAGES.is_sorted());
        for (reason, text) in PAGES {
            let lines = text.lines().count();
            assert!((5..=12).contains(&lines), "{reason}: {lines} lines");
            assert!(
                text.starts_with(&format!("{reason}: ")) && text.contains("\nWhat to do:\n- "),
                "{reason}"
            );
        }
    }
}
