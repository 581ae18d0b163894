//! What replicas print, those of two revisions during an update: of the run that is, or of the one before it.
use super::{
    Shared,
    client::failed,
    names::namespace,
    pods::{container, selector},
};
use futures_util::{
    AsyncBufReadExt, StreamExt, TryStreamExt,
    stream::{BoxStream, SelectAll},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, LogParams},
};
use syp_engine::{
    failure::{Class, failure},
    step::{LogLine, LogQuery, StepCx},
};
use syp_proto::journal::Failure;

type Lines = BoxStream<'static, Result<LogLine, Failure>>;

/// Lines of the replicas, each with its time.
pub(super) async fn logs(s: &Shared, cx: &StepCx, q: LogQuery) -> Result<Lines, Failure> {
    let c = s.client().await?;
    let api: Api<Pod> = Api::namespaced(c, namespace(cx));
    let all = api.list(&ListParams::default().labels(&selector(cx, None))).await.map_err(|e| failed(&e))?;
    // the gate's access log is asked for by name
    let (which, sidecar) = if q.replica == "gate" { ("gate", true) } else { ("app", false) };
    let mut out = SelectAll::new();
    let (mut known, mut ran) = (Vec::new(), false);
    for p in all.items {
        let name = p.name_any();
        let Some(state) = container(&p, which, sidecar) else { continue };
        let short = short(&name);
        known.push(short.clone());
        if !(q.replica.is_empty() || q.replica == "gate" || q.replica == short) {
            continue;
        }
        ran = true;
        if q.previous && state.restarts == 0 {
            continue;
        }
        let how = LogParams {
            container: Some(which.to_owned()),
            follow: q.follow,
            timestamps: true,
            previous: q.previous,
            tail_lines: (q.tail > 0).then(|| i64::from(q.tail)),
            since_seconds: since(s.clock.now(), q.since_ms),
            ..Default::default()
        };
        let replica = if which == "gate" { format!("gate {short}") } else { short };
        match api.log_stream(&name, &how).await {
            Ok(lines) => out.push(
                lines
                    .lines()
                    .map_ok(move |l| line(&replica, &l))
                    .map_err(|e| {
                        failure(
                            Class::Transient,
                            "PROVIDER_ERROR",
                            format!("the log broke off: {e}"),
                            "ask again",
                        )
                    })
                    .boxed(),
            ),
            // a container that waits for its image has none yet
            Err(kube::Error::Api(e)) if e.code == 400 => {}
            Err(e) => return Err(failed(&e)),
        }
    }
    if !ran && !q.replica.is_empty() {
        let message = format!("there is no replica '{}'", q.replica);
        return Err(failure(
            Class::Terminal,
            "INVALID_ARGUMENT",
            message,
            format!("use one of: {}, or 'gate'", known.join(", ")),
        ));
    }
    if q.previous && out.is_empty() {
        let message = "no replica has run before: each is in its first run, or took its lines along when it was replaced";
        let hint = "'sypctl logs' shows this run; 'sypctl events' says what was replaced, and a failure keeps its last lines";
        return Err(failure(Class::Terminal, "NO_PREVIOUS_RUN", message, hint));
    }
    Ok(out.boxed())
}

/// The part of a pod's name that tells it from the others: `app-1-7d4b9-x2x7k`.
pub(super) fn short(pod: &str) -> String {
    pod.splitn(4, '-').nth(3).unwrap_or(pod).to_owned()
}

fn since(now: i64, since_ms: i64) -> Option<i64> {
    (since_ms > 0).then(|| ((now - since_ms) / 1000).max(1))
}

fn line(replica: &str, text: &str) -> LogLine {
    let (at, rest) = text.split_once(' ').unwrap_or(("", text));
    LogLine {
        at_ms: at.parse::<prost_types::Timestamp>().map_or(0, |t| syp_engine::clock::millis(&t)),
        replica: replica.to_owned(),
        // the kubelet tells both in one stream
        stream: "stdout",
        line: rest.trim_end_matches(['\n', '\r']).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_time_and_a_pod_its_short_name() {
        let l = line("0", "2026-11-24T19:40:30.123456789Z two  words");
        assert_eq!((l.at_ms, l.line.as_str()), (1_795_549_230_123, "two  words"));
        assert_eq!(short("syp-0a1b2c3d4e5f-0123456789ab-app-1-7d4b9-x2x7k"), "app-1-7d4b9-x2x7k");
    }
}
