//! What replicas print: of the run that is, or of those that ended.
use super::{
    Shared,
    client::{failed, inspect, key, running},
    observe::replicas,
};
use bollard::{container::LogOutput, models::ContainerInspectResponse, query_parameters::LogsOptions};
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream, SelectAll},
};
use std::collections::VecDeque;
use syp_engine::{
    clock::Millis,
    failure::{Class, failure},
    step::{LogLine, LogQuery, StepCx},
};
use syp_proto::journal::Failure;

type Lines = BoxStream<'static, Result<LogLine, Failure>>;

/// Last lines are kept in memory until the end is known: at most so many.
const MOST_LAST: usize = 100_000;

/// Lines of the replicas, each with its time.
pub(super) async fn logs(s: &Shared, cx: &StepCx, q: LogQuery) -> Result<Lines, Failure> {
    let mut names: Vec<(String, String)> =
        replicas(cx).into_iter().map(|n| (n.to_string(), key(&cx.owner, &format!("app-{n}")))).collect();
    names.push(("gate".into(), key(&cx.owner, "gate")));
    // the gate's access log is asked for by name
    names.retain(|(id, _)| if q.replica.is_empty() { id != "gate" } else { *id == q.replica });
    if names.is_empty() {
        let message = format!("there is no replica '{}'", q.replica);
        return Err(failure(Class::Terminal, "INVALID_ARGUMENT", message, "use 0, 1, ... or 'gate'"));
    }
    if q.previous {
        return previous(s, names, &q).await;
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

/// Lines of runs that have ended, of the containers that are there: a container that was replaced took its lines along.
async fn previous(s: &Shared, names: Vec<(String, String)>, q: &LogQuery) -> Result<Lines, Failure> {
    let mut all = SelectAll::new();
    for (replica, name) in names {
        let Some(c) = inspect(&s.docker, &name).await? else { continue };
        let Some(end) = ended(&c) else { continue };
        let how = LogsOptions {
            stdout: true,
            stderr: true,
            timestamps: true,
            since: i32::try_from(q.since_ms / 1000).unwrap_or(0),
            // Docker cuts at seconds; what is too much is left out below
            until: i32::try_from(end / 1000 + 1).unwrap_or(0),
            tail: "all".into(),
            ..Default::default()
        };
        let lines = s.docker.logs(&name, Some(how)).map(move |l| match l {
            Ok(l) => Ok(line(&replica, &l)),
            Err(e) => Err(failed(&e)),
        });
        let lines = lines.try_filter(move |l| std::future::ready(l.at_ms < end));
        all.push(last(lines.boxed(), usize::try_from(q.tail).unwrap_or(MOST_LAST)).await?);
    }
    if all.is_empty() {
        let message = "no replica has run before: each is in its first run, or took its lines along when it was replaced";
        let hint = "'sypctl logs' shows this run; 'sypctl events' says what was replaced, and a failure keeps its last lines";
        return Err(failure(Class::Terminal, "NO_PREVIOUS_RUN", message, hint));
    }
    Ok(all.boxed())
}

/// Until when lines are of runs that have ended; `None`: there was none. Docker tells the beginning of this run and the end
/// of the one before, and stamps a line when it has read it, which may be a little later: the middle parts them.
fn ended(c: &ContainerInspectResponse) -> Option<Millis> {
    let state = c.state.as_ref();
    let at = |t: Option<&String>| t.map_or(0, |t| rfc3339_ms(t));
    let started = at(state.and_then(|s| s.started_at.as_ref()));
    let finished = at(state.and_then(|s| s.finished_at.as_ref()));
    if running(c) {
        return (finished > 0).then(|| i64::midpoint(finished, started));
    }
    // it rests: all its runs have ended
    (started > 0).then_some(Millis::MAX / 2)
}

/// The last lines only; 0: all. Docker's own would count those of this run.
async fn last(mut lines: Lines, count: usize) -> Result<Lines, Failure> {
    if count == 0 {
        return Ok(lines);
    }
    let mut kept = VecDeque::new();
    while let Some(l) = lines.try_next().await? {
        if kept.len() >= count.min(MOST_LAST) {
            kept.pop_front();
        }
        kept.push_back(Ok(l));
    }
    Ok(stream::iter(kept).boxed())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_keeps_its_time_stream_and_text() {
        let l =
            line("0", &LogOutput::StdErr { message: "2026-11-24T19:40:30.123456789Z two  words\n".into() });
        assert_eq!((l.at_ms, l.stream, l.line.as_str()), (1_795_549_230_123, "stderr", "two  words"));
    }

    #[test]
    fn the_end_of_the_former_run_is_between_two_runs() {
        let c = |running, started: &str, finished: &str| ContainerInspectResponse {
            state: Some(bollard::models::ContainerState {
                running: Some(running),
                started_at: Some(started.into()),
                finished_at: Some(finished.into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let never = "0001-01-01T00:00:00Z";
        assert_eq!(ended(&c(true, "2026-11-24T10:00:00Z", never)), None);
        let between = ended(&c(true, "2026-11-24T10:00:02Z", "2026-11-24T10:00:00Z"));
        assert_eq!(between, Some(rfc3339_ms("2026-11-24T10:00:01Z")));
        assert!(ended(&c(false, "2026-11-24T10:00:00Z", "2026-11-24T10:00:02Z")) > between);
        assert_eq!(ended(&c(false, never, never)), None);
    }

    #[tokio::test]
    async fn the_last_lines_are_counted_in_the_former_run() {
        let one =
            |n: i64| Ok(LogLine { at_ms: n, replica: String::new(), stream: "stdout", line: n.to_string() });
        let of = |count| last(stream::iter((0..5).map(one)).boxed(), count);
        let text = async |count| -> Vec<String> {
            of(count).await.unwrap().map_ok(|l| l.line).try_collect().await.unwrap()
        };
        assert_eq!(
            (text(2).await, text(0).await.len(), text(9).await.len()),
            (vec!["3".into(), "4".into()], 5, 5)
        );
    }
}
