//! Figures, logs and news of instances.
use super::{
    Shared, admin,
    client::{INSTANCE, REVISION, STORE, failed, inspect, key, labels_of, running, started_at},
    config::admin_address,
    routes::slot,
};
use bollard::{
    container::LogOutput,
    query_parameters::{EventsOptions, LogsOptions, StatsOptions},
};
use futures_util::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use std::collections::HashMap;
use syp_engine::{
    clock::{Millis, millis},
    energy::Power,
    failure::{Class, failure},
    id::{InstanceId, StoreId},
    step::{LogLine, LogQuery, ReplicaStats, Stats, StepCx},
};
use syp_proto::journal::Failure;

/// Slots of the replicas that may be there, those of two revisions during an update.
fn replicas(cx: &StepCx) -> Vec<u32> {
    let mut slots: Vec<_> = cx.live.iter().filter_map(|n| slot(n, "app")).collect();
    slots.sort_unstable();
    slots
}

/// CPU and memory of the replicas, counters of the gate. What does not answer is left out, not made up.
pub(super) async fn stats(s: &Shared, cx: &StepCx) -> Result<Stats, Failure> {
    let mut out = Stats::default();
    let (to, token) = (admin_address(cx)?, s.admin_token(&cx.owner));
    // it first: it may be about to go
    out.gate = admin::read(to, &token, "/metrics.json").await.ok();
    for n in replicas(cx) {
        let how = StatsOptions { stream: false, one_shot: true };
        let name = key(&cx.owner, &format!("app-{n}"));
        // of one that does not run Docker says zeros
        let Some(c) = inspect(&s.docker, &name).await.ok().flatten().filter(running) else { continue };
        if let Some(Ok(x)) = s.docker.stats(&name, Some(how)).next().await {
            let ns = x.cpu_stats.and_then(|c| c.cpu_usage).and_then(|u| u.total_usage).unwrap_or(0);
            #[allow(clippy::cast_precision_loss)]
            {
                out.cpu_seconds += ns as f64 / 1e9;
            }
            let memory_bytes = x.memory_stats.and_then(|m| m.usage).unwrap_or(0);
            out.memory_bytes += memory_bytes;
            let started_ms = started_at(&c).parse::<prost_types::Timestamp>().map_or(0, |t| millis(&t));
            // a replica of another revision is another one, also where it has the place of an earlier one
            let revision = labels_of(&c).and_then(|l| l.get(REVISION)).map_or("", String::as_str);
            let id = format!("app-{n} {revision}");
            out.replicas.push(ReplicaStats { id, started_ms, cpu_us: ns / 1_000, memory_bytes });
        }
    }
    out.status = admin::read(to, &token, "/status").await.ok();
    let models = s.tariffs.read().models(&cx.spec);
    out.power = s.power.read().map(|reading| Power { reading, models });
    Ok(out)
}

/// Lines of the replicas, each with its time.
pub(super) async fn logs(
    s: &Shared,
    cx: &StepCx,
    q: LogQuery,
) -> Result<BoxStream<'static, Result<LogLine, Failure>>, Failure> {
    let mut names: Vec<(String, String)> =
        replicas(cx).into_iter().map(|n| (n.to_string(), key(&cx.owner, &format!("app-{n}")))).collect();
    names.push(("gate".into(), key(&cx.owner, "gate")));
    // the gate's access log is asked for by name
    names.retain(|(id, _)| if q.replica.is_empty() { id != "gate" } else { *id == q.replica });
    if names.is_empty() {
        let message = format!("there is no replica '{}'", q.replica);
        return Err(failure(Class::Terminal, "INVALID_ARGUMENT", message, "use 0, 1, ... or 'gate'"));
    }
    let mut all = SelectAll::new();
    for (replica, name) in names {
        let how = LogsOptions {
            follow: q.follow,
            stdout: true,
            stderr: true,
            timestamps: true,
            since: i32::try_from(q.since_ms / 1000).unwrap_or(0),
            tail: if q.tail == 0 { "all".into() } else { q.tail.to_string() },
            ..Default::default()
        };
        let lines = s.docker.logs(&name, Some(how)).map(move |l| match l {
            Ok(l) => Ok(line(&replica, &l)),
            Err(e) => Err(failed(&e)),
        });
        all.push(lines.boxed());
    }
    Ok(all.boxed())
}

fn line(replica: &str, l: &LogOutput) -> LogLine {
    let stream = if matches!(l, LogOutput::StdErr { .. }) { "stderr" } else { "stdout" };
    let text = l.to_string();
    let (at, rest) = text.split_once(' ').unwrap_or(("", &text));
    LogLine {
        at_ms: rfc3339_ms(at),
        replica: replica.to_owned(),
        stream,
        line: rest.trim_end_matches(['\n', '\r']).to_owned(),
    }
}

/// `2026-11-24T19:40:30.123456789Z` in Unix milliseconds; 0 when it is not a time.
fn rfc3339_ms(text: &str) -> Millis {
    text.parse::<prost_types::Timestamp>().map_or(0, |t| syp_engine::clock::millis(&t))
}

/// Ends of containers of this store, as the daemon tells them.
pub(super) async fn changes(
    s: &Shared,
    store: &StoreId,
) -> Result<BoxStream<'static, Option<InstanceId>>, Failure> {
    s.docker.ping().await.map_err(|e| failed(&e))?;
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("event".to_owned(), ["die", "destroy", "oom"].map(str::to_owned).to_vec()),
        ("label".to_owned(), vec![format!("{STORE}={store}")]),
    ]);
    let news = s.docker.events(Some(EventsOptions { filters: Some(filters), ..Default::default() }));
    Ok(news
        .take_while(|e| std::future::ready(e.is_ok()))
        .map(|e| {
            let labels = e.ok()?.actor?.attributes?;
            InstanceId::parse(labels.get(INSTANCE)?)
        })
        .boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_keeps_its_time_stream_and_text() {
        let l =
            line("0", &LogOutput::StdErr { message: "2026-11-24T19:40:30.123456789Z two  words\n".into() });
        assert_eq!((l.at_ms, l.stream, l.line.as_str()), (1_795_549_230_123, "stderr", "two  words"));
    }
}
