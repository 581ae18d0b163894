//! The pages of `sypctl explain`: one for every reason that the engine, its steps, the gate or this program can give.

/// Reason and page, sorted.
pub const PAGES: &[(&str, &str)] = &[
    ("ADMISSION_DENIED", include_str!("reasons/ADMISSION_DENIED.md")),
    ("AUDIT_CHAIN_BROKEN", include_str!("reasons/AUDIT_CHAIN_BROKEN.md")),
    ("AUTH_NOT_ENFORCED", include_str!("reasons/AUTH_NOT_ENFORCED.md")),
    ("BACKUP_BROKEN", include_str!("reasons/BACKUP_BROKEN.md")),
    ("BACKUP_TOO_SLOW", include_str!("reasons/BACKUP_TOO_SLOW.md")),
    ("BODY_NOT_RECEIVED", include_str!("reasons/BODY_NOT_RECEIVED.md")),
    ("BUDGET_EXCEEDED", include_str!("reasons/BUDGET_EXCEEDED.md")),
    ("BUDGET_NEAR", include_str!("reasons/BUDGET_NEAR.md")),
    ("CANCELLED", include_str!("reasons/CANCELLED.md")),
    ("CERTIFICATE_UNSUITABLE", include_str!("reasons/CERTIFICATE_UNSUITABLE.md")),
    ("CLIENT_GONE", include_str!("reasons/CLIENT_GONE.md")),
    ("CLOCK_JUMPED", include_str!("reasons/CLOCK_JUMPED.md")),
    ("CLUSTER_FAILED", include_str!("reasons/CLUSTER_FAILED.md")),
    ("CLUSTER_GONE", include_str!("reasons/CLUSTER_GONE.md")),
    ("CLUSTER_MAKING", include_str!("reasons/CLUSTER_MAKING.md")),
    ("CLUSTER_STOPPED", include_str!("reasons/CLUSTER_STOPPED.md")),
    ("CLUSTER_TOO_OLD", include_str!("reasons/CLUSTER_TOO_OLD.md")),
    ("CORS_PREFLIGHT", include_str!("reasons/CORS_PREFLIGHT.md")),
    ("CRASH_LOOP", include_str!("reasons/CRASH_LOOP.md")),
    ("CREDENTIALS", include_str!("reasons/CREDENTIALS.md")),
    ("DEADLINE_EXCEEDED", include_str!("reasons/DEADLINE_EXCEEDED.md")),
    ("DELETING", include_str!("reasons/DELETING.md")),
    ("DESTROYED", include_str!("reasons/DESTROYED.md")),
    ("DEVICE_LOGIN_UNSUPPORTED", include_str!("reasons/DEVICE_LOGIN_UNSUPPORTED.md")),
    ("DISK_FULL", include_str!("reasons/DISK_FULL.md")),
    ("DNS_RECORD", include_str!("reasons/DNS_RECORD.md")),
    ("DRAINED", include_str!("reasons/DRAINED.md")),
    ("DRAINING", include_str!("reasons/DRAINING.md")),
    ("DRIFT", include_str!("reasons/DRIFT.md")),
    ("EMAIL_UNVERIFIED", include_str!("reasons/EMAIL_UNVERIFIED.md")),
    ("ENDPOINT_UNREACHABLE", include_str!("reasons/ENDPOINT_UNREACHABLE.md")),
    ("ENGINE_NOT_ANSWERING", include_str!("reasons/ENGINE_NOT_ANSWERING.md")),
    ("ENGINE_NOT_RUNNING", include_str!("reasons/ENGINE_NOT_RUNNING.md")),
    ("ENGINE_START_FAILED", include_str!("reasons/ENGINE_START_FAILED.md")),
    ("ENGINE_STOPPING", include_str!("reasons/ENGINE_STOPPING.md")),
    ("ENGINE_UNREACHABLE", include_str!("reasons/ENGINE_UNREACHABLE.md")),
    ("ETAG_MISMATCH", include_str!("reasons/ETAG_MISMATCH.md")),
    ("FILE_EXISTS", include_str!("reasons/FILE_EXISTS.md")),
    ("GATEWAY_NOT_FOUND", include_str!("reasons/GATEWAY_NOT_FOUND.md")),
    ("GATE_BINARY", include_str!("reasons/GATE_BINARY.md")),
    ("GATE_IMAGE", include_str!("reasons/GATE_IMAGE.md")),
    ("GATE_REFUSED", include_str!("reasons/GATE_REFUSED.md")),
    ("GATE_REPLACED", include_str!("reasons/GATE_REPLACED.md")),
    ("GATE_UNREACHABLE", include_str!("reasons/GATE_UNREACHABLE.md")),
    ("IMAGE_ARCH_MISMATCH", include_str!("reasons/IMAGE_ARCH_MISMATCH.md")),
    ("IMAGE_AUTH_FAILED", include_str!("reasons/IMAGE_AUTH_FAILED.md")),
    ("IMAGE_NOT_FOUND", include_str!("reasons/IMAGE_NOT_FOUND.md")),
    ("IMMUTABLE_FIELD", include_str!("reasons/IMMUTABLE_FIELD.md")),
    ("INGRESS_CLASS_NOT_FOUND", include_str!("reasons/INGRESS_CLASS_NOT_FOUND.md")),
    ("INGRESS_NOT_READY", include_str!("reasons/INGRESS_NOT_READY.md")),
    ("INSTANCES_LEFT", include_str!("reasons/INSTANCES_LEFT.md")),
    ("INTERNAL", include_str!("reasons/INTERNAL.md")),
    ("INTERRUPTED", include_str!("reasons/INTERRUPTED.md")),
    ("INVALID_ARGUMENT", include_str!("reasons/INVALID_ARGUMENT.md")),
    ("ISOLATION_NOT_ENFORCED", include_str!("reasons/ISOLATION_NOT_ENFORCED.md")),
    ("ISSUER_MISSING", include_str!("reasons/ISSUER_MISSING.md")),
    ("ISSUER_UNREACHABLE", include_str!("reasons/ISSUER_UNREACHABLE.md")),
    ("JWKS_UNAVAILABLE", include_str!("reasons/JWKS_UNAVAILABLE.md")),
    ("KIND_MISSING", include_str!("reasons/KIND_MISSING.md")),
    ("KUBECONFIG", include_str!("reasons/KUBECONFIG.md")),
    ("LISTING", include_str!("reasons/LISTING.md")),
    ("LOCAL_CA", include_str!("reasons/LOCAL_CA.md")),
    ("LOCAL_IO", include_str!("reasons/LOCAL_IO.md")),
    ("LOCAL_ISSUER", include_str!("reasons/LOCAL_ISSUER.md")),
    ("LOGIN_FAILED", include_str!("reasons/LOGIN_FAILED.md")),
    ("METRICS_MISSING", include_str!("reasons/METRICS_MISSING.md")),
    ("NAMESPACE_NOT_FOUND", include_str!("reasons/NAMESPACE_NOT_FOUND.md")),
    ("NAME_CONFLICT", include_str!("reasons/NAME_CONFLICT.md")),
    ("NAME_IN_USE", include_str!("reasons/NAME_IN_USE.md")),
    ("NETWORK_FULL", include_str!("reasons/NETWORK_FULL.md")),
    ("NETWORK_UNSUITABLE", include_str!("reasons/NETWORK_UNSUITABLE.md")),
    ("NOT_CONFIGURED", include_str!("reasons/NOT_CONFIGURED.md")),
    ("NOT_DESTROYED", include_str!("reasons/NOT_DESTROYED.md")),
    ("NOT_FOUND", include_str!("reasons/NOT_FOUND.md")),
    ("NOT_INSTALLED", include_str!("reasons/NOT_INSTALLED.md")),
    ("NOT_SERVING", include_str!("reasons/NOT_SERVING.md")),
    ("NOT_SUPPORTED", include_str!("reasons/NOT_SUPPORTED.md")),
    ("NO_LOCAL_ROUTE", include_str!("reasons/NO_LOCAL_ROUTE.md")),
    ("NO_PREVIOUS_RUN", include_str!("reasons/NO_PREVIOUS_RUN.md")),
    ("NO_REPLICA_READY", include_str!("reasons/NO_REPLICA_READY.md")),
    ("NO_SYSTEMD", include_str!("reasons/NO_SYSTEMD.md")),
    ("OPERATION_DONE", include_str!("reasons/OPERATION_DONE.md")),
    ("OPERATION_IN_PROGRESS", include_str!("reasons/OPERATION_IN_PROGRESS.md")),
    ("PAUSED", include_str!("reasons/PAUSED.md")),
    ("PERMISSION_DENIED", include_str!("reasons/PERMISSION_DENIED.md")),
    ("POD_SECURITY", include_str!("reasons/POD_SECURITY.md")),
    ("POLICY_ALLOWED", include_str!("reasons/POLICY_ALLOWED.md")),
    ("POLICY_CHANGED", include_str!("reasons/POLICY_CHANGED.md")),
    ("POLICY_DENIED", include_str!("reasons/POLICY_DENIED.md")),
    ("POLICY_EMPTY", include_str!("reasons/POLICY_EMPTY.md")),
    ("POLICY_NO_MATCH", include_str!("reasons/POLICY_NO_MATCH.md")),
    ("PORT_NOT_LISTENING", include_str!("reasons/PORT_NOT_LISTENING.md")),
    ("PORT_TAKEN", include_str!("reasons/PORT_TAKEN.md")),
    ("PORT_UNKNOWN", include_str!("reasons/PORT_UNKNOWN.md")),
    ("PROBE_FAILED", include_str!("reasons/PROBE_FAILED.md")),
    ("PROBING", include_str!("reasons/PROBING.md")),
    ("PROVIDER_BUSY", include_str!("reasons/PROVIDER_BUSY.md")),
    ("PROVIDER_ERROR", include_str!("reasons/PROVIDER_ERROR.md")),
    ("PROVIDER_REFUSED", include_str!("reasons/PROVIDER_REFUSED.md")),
    ("PROVIDER_THROTTLED", include_str!("reasons/PROVIDER_THROTTLED.md")),
    ("PROVIDER_UNREACHABLE", include_str!("reasons/PROVIDER_UNREACHABLE.md")),
    ("PULLING", include_str!("reasons/PULLING.md")),
    ("QUEUED", include_str!("reasons/QUEUED.md")),
    ("QUOTA_EXCEEDED", include_str!("reasons/QUOTA_EXCEEDED.md")),
    ("REGISTRY_REFUSED", include_str!("reasons/REGISTRY_REFUSED.md")),
    ("REGISTRY_UNREACHABLE", include_str!("reasons/REGISTRY_UNREACHABLE.md")),
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
    ("RESTORE_UNFINISHED", include_str!("reasons/RESTORE_UNFINISHED.md")),
    ("RESTORE_WOULD_REPLACE", include_str!("reasons/RESTORE_WOULD_REPLACE.md")),
    ("REVISION_NOT_FOUND", include_str!("reasons/REVISION_NOT_FOUND.md")),
    ("REVISION_SERVES", include_str!("reasons/REVISION_SERVES.md")),
    ("RIGHTS_MISSING", include_str!("reasons/RIGHTS_MISSING.md")),
    ("ROUTE_REFUSED", include_str!("reasons/ROUTE_REFUSED.md")),
    ("RUNNING", include_str!("reasons/RUNNING.md")),
    ("SEALING", include_str!("reasons/SEALING.md")),
    ("SECRET_EXISTS", include_str!("reasons/SECRET_EXISTS.md")),
    ("SECRET_FILES_UNSUPPORTED", include_str!("reasons/SECRET_FILES_UNSUPPORTED.md")),
    ("SECRET_IN_USE", include_str!("reasons/SECRET_IN_USE.md")),
    ("SECRET_UNREADABLE", include_str!("reasons/SECRET_UNREADABLE.md")),
    ("SELF_LOCKOUT", include_str!("reasons/SELF_LOCKOUT.md")),
    ("SERVICE_CONFLICT", include_str!("reasons/SERVICE_CONFLICT.md")),
    ("SERVICE_FAILED", include_str!("reasons/SERVICE_FAILED.md")),
    ("SERVING", include_str!("reasons/SERVING.md")),
    ("SPEC_TOO_LARGE", include_str!("reasons/SPEC_TOO_LARGE.md")),
    ("STACK_FAILED", include_str!("reasons/STACK_FAILED.md")),
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
    ("UNPRICED", include_str!("reasons/UNPRICED.md")),
    ("UNSCHEDULABLE", include_str!("reasons/UNSCHEDULABLE.md")),
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

/// The first line of a page, without the reason.
pub fn summary(reason: &str, page: &str) -> String {
    let first = page.lines().next().unwrap_or_default();
    first.trim_start_matches(reason).trim_start_matches(':').trim().to_owned()
}

/// Reasons that were perhaps meant, the nearest first.
pub fn near(word: &str) -> Vec<&'static str> {
    const LIKE: f64 = 0.85;
    const MOST: usize = 4;
    let part = |r: &str| word.split('_').any(|w| w.len() > 2 && r.split('_').any(|p| p == w));
    let rate = |r: &&'static str| (strsim::jaro_winkler(word, r), *r);
    let mut all: Vec<_> =
        PAGES.iter().map(|(r, _)| r).map(rate).filter(|(l, r)| *l > LIKE || part(r)).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().take(MOST).map(|(_, r)| r).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, path::Path};

    /// Words that are no reasons: of protocols, keys and units, of variables, capabilities and the journal.
    const NO_REASON: &[&str] = &[
        "AAAA",
        "ALL",
        "API",
        "ARM64",
        "CARGO_MANIFEST_DIR",
        "CARGO_PKG_VERSION",
        "DISABLED",
        "EC2",
        "ECS_CONTAINER_METADATA_URI_V4",
        "ENABLED",
        "EUR",
        "FARGATE",
        "FILE",
        "GATEPORT",
        "GET",
        "HTTP",
        "HTTPS",
        "INACTIVE",
        "JWT",
        "KIND_EXPERIMENTAL_PROVIDER",
        "LINUX",
        "MISMATCHED_TYPE_BUT_USABLE",
        "MONTHLY",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "OKP",
        "PORT",
        "POST",
        "PUT",
        "RESOURCE_MISMATCH",
        "RESOURCE_STAR",
        "RSA",
        "SERVICE",
        "START",
        "STATE",
        "TAG",
        "TCP",
        "TERM_MATCH",
        "TLS",
        "URI",
        "USD",
        "WAYLAND_DISPLAY",
        "X86_64",
    ];
    /// What they begin with: settings, crash points, algorithms, statuses of a stack.
    const NO_REASONS: &[&str] = &[
        "SYP_",
        "SYPCTL_",
        "DOCKER_",
        "OTEL_",
        "XDG_",
        "NO_COLOR",
        "NO_PROXY",
        "HTTP_",
        "HTTPS_",
        "LC_",
        "CP",
        "ES",
        "HS",
        "PS",
        "RS",
        "CREATE_",
        "DELETE_",
        "IMPORT_",
        "REVIEW_",
        "ROLLBACK_",
        "UPDATE_",
    ];

    fn sources(dir: &Path, out: &mut Vec<String>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs")
                && path.file_name().and_then(|n| n.to_str()).is_some_and(|n| {
                    !n.ends_with("tests.rs") && !n.starts_with("scripted") && n != "variants.rs"
                })
            {
                let text = fs::read_to_string(&path).unwrap();
                // what stands in tests is made up
                out.push(text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned());
            }
        }
    }

    fn is_reason(word: &str) -> bool {
        let shape = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        word.len() > 2
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && !word.ends_with('_')
            && word.chars().all(shape)
            && !NO_REASONS
                .iter()
                .any(|p| word.starts_with(p) && (p.len() > 2 || word.contains(|c: char| c.is_ascii_digit())))
            && !NO_REASON.contains(&word)
    }

    /// Every reason that a crate can give. The words of the command line are full of capitals: there a reason without '_' is
    /// only what a failure is made with.
    fn given(dir: &str) -> BTreeSet<String> {
        let mut texts = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(dir).join("src"), &mut texts);
        let mut out = BTreeSet::new();
        for text in &texts {
            let words = text.split('"').filter(|w| is_reason(w));
            out.extend(words.filter(|w| dir != "cli" || w.contains('_')).map(str::to_owned));
            let made = text.split("Failure::new(").skip(1).filter_map(|t| t.split('"').nth(1));
            out.extend(made.filter(|w| is_reason(w)).map(str::to_owned));
        }
        out
    }

    #[test]
    fn every_reason_in_the_sources_has_a_page_and_every_page_a_reason() {
        // states, which are reasons where they are why an instance is not ready
        let mut all: BTreeSet<String> = ["DRAINING", "DESTROYED"].map(str::to_owned).into();
        for (dir, least) in [("engine", 30), ("steps", 25), ("auth", 12), ("gate", 12), ("cli", 10)] {
            let found = given(dir);
            assert!(found.len() >= least, "{dir}: only {found:?}");
            all.extend(found);
        }
        let missing: Vec<_> = all.iter().filter(|r| page(r).is_none()).collect();
        assert!(
            missing.is_empty(),
            "write cli/src/reasons/REASON.md and a line in reasons.rs for {missing:?}"
        );
        let stale: Vec<_> = PAGES.iter().filter(|(r, _)| !all.contains(*r)).map(|(r, _)| r).collect();
        assert!(stale.is_empty(), "nothing gives {stale:?}: take the pages away");
        let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/reasons")).unwrap();
        assert_eq!(files.count(), PAGES.len(), "every file is a page");
    }

    #[test]
    fn pages_are_short_sorted_and_say_what_why_and_what_to_do() {
        assert!(PAGES.is_sorted());
        for (reason, text) in PAGES {
            let lines = text.lines().count();
            assert!((5..=14).contains(&lines), "{reason}: {lines} lines");
            let parts = [format!("{reason}: "), "\n\nWhy: ".into(), "\n\nWhat to do:\n- ".into()];
            let at: Vec<_> = parts.iter().map(|p| text.find(p.as_str())).collect();
            assert!(at[0] == Some(0) && at[1] > at[0] && at[2] > at[1], "{reason}: {at:?} in {text}");
            assert!(summary(reason, text).ends_with('.') && summary(reason, text).len() > 15, "{reason}");
        }
    }

    #[test]
    fn a_word_that_is_nearly_a_reason_is_understood() {
        for (word, first) in [
            ("CRSH_LOOP", "CRASH_LOOP"),
            ("QUEUD", "QUEUED"),
            ("IMAGE_NOTFOUND", "IMAGE_NOT_FOUND"),
            ("TOKEN_EXPIERD", "TOKEN_EXPIRED"),
        ] {
            assert_eq!(near(word).first(), Some(&first), "{word}: {:?}", near(word));
        }
        assert!(near("XYZZY").is_empty() && near("TOKEN").len() == 4);
    }
}
