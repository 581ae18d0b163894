//! Is it time to give up on a replica that is not ready, and with which words? The same on every target.
use std::{collections::BTreeSet, time::Duration};
use syp_auth::door::UpstreamStatus;
use syp_engine::{
    failure::{Class, failure},
    step::StepCx,
};
use syp_proto::journal::Failure;

/// Time an app has to listen and answer, unless the spec's probe says more.
const START: Duration = Duration::from_secs(60);
/// With other ports open and this one closed, waiting longer rarely helps.
const WRONG_PORT: Duration = Duration::from_secs(10);
/// With no port open at all for so long, nothing will come.
const NO_PORT: Duration = Duration::from_secs(30);
/// Lines of a log that a failure keeps.
pub(crate) const LOG_LINES: u32 = 20;

/// For how long a replica may be not ready.
pub(crate) fn limit(cx: &StepCx) -> Duration {
    cx.spec.probe.as_ref().and_then(|p| p.initial_delay.as_ref()).map_or(START, |d| {
        START + Duration::from_millis(u64::try_from(syp_engine::clock::duration_millis(d)).unwrap_or(0))
    })
}

/// A failure with the app's last lines.
pub(crate) fn with_lines(mut f: Failure, lines: &str) -> Failure {
    if !lines.is_empty() {
        f.message = format!("{}. Its last lines:\n{lines}", f.message);
    }
    f
}

/// What to do about an app that ended; `otherwise` unless it wrote where its root is read-only.
pub(crate) fn hint(cx: &StepCx, lines: &str, otherwise: &str) -> String {
    let wrote = cx.spec.read_only_root && lines.to_lowercase().contains("read-only file system");
    let words =
        "it writes to its own files: let it with '--root writable', or make it write to /tmp or a volume";
    if wrote { words } else { otherwise }.to_owned()
}

/// Decides; `others` are the ports on which the app listens. Pure.
pub(crate) fn verdict(
    cx: &StepCx,
    u: &UpstreamStatus,
    others: &BTreeSet<u16>,
    waited: Duration,
    limit: Duration,
) -> Option<Failure> {
    let port = u16::try_from(cx.spec.port).unwrap_or(0);
    let wrong = !others.is_empty() && !others.contains(&port);
    let nothing = others.is_empty() && u.sealed.is_some();
    if (wrong && waited >= WRONG_PORT)
        || (nothing && waited >= NO_PORT)
        || (waited >= limit && !others.contains(&port))
    {
        let found = others.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let (what, hint) = if wrong {
            let first = others.first().copied().unwrap_or_default();
            (
                format!("it listens on {found}"),
                format!("use --port {first}, or make the app listen on {port}"),
            )
        } else {
            (
                "it listens on no port at all".to_owned(),
                "make the app listen, or give it more time with a probe".to_owned(),
            )
        };
        return Some(failure(
            Class::Terminal,
            "PORT_NOT_LISTENING",
            format!("nothing listens on port {port}; {what}"),
            hint,
        ));
    }
    (waited >= limit).then(|| {
        failure(
            Class::Terminal,
            "PROBE_FAILED",
            format!("replica {} is not ready: {}", u.id, u.detail),
            "check --probe (the path must answer 2xx or 3xx without a token) and --protocol",
        )
    })
}
