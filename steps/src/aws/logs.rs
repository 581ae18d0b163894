//! What tasks print, from CloudWatch Logs: there for as long as the stack is, of tasks that have ended too.
use super::{
    Shared, names,
    query::LOGS,
    tasks::{self, Of},
};
use async_stream::try_stream;
use aws_sdk_ecs::types::Task;
use futures_util::{StreamExt, stream::BoxStream};
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use syp_engine::{
    clock::Millis,
    failure::{Class, failure},
    step::{LogLine, LogQuery, StepCx},
};
use syp_proto::journal::Failure;

type Lines = BoxStream<'static, Result<LogLine, Failure>>;

/// Lines are there a moment after they were printed; while somebody follows, it is looked so often.
const LOOK: Duration = Duration::from_secs(2);
/// What comes late is looked for once more.
const LATE_MS: Millis = 10_000;
/// Last lines are looked for in the last minutes, then further back: five minutes, an hour, a day, all.
const BACK_MS: [Millis; 4] = [300_000, 3_600_000, 86_400_000, Millis::MAX];
/// Last lines are kept in memory until the end is known: at most so many.
const MOST_LAST: usize = 100_000;

/// Which streams, and of which tasks.
#[derive(Clone, Debug)]
struct Asked {
    group: String,
    /// `app/app/`, `gate/gate/`, or of one task.
    prefix: String,
    /// Tasks that run now.
    running: BTreeSet<String>,
    /// Of those that have ended, and no others.
    previous: bool,
}

// === impl Asked ===

impl Asked {
    fn wants(&self, stream: &str) -> bool {
        !self.previous || !self.running.contains(tasks::id(stream))
    }
}

/// Lines, each with its time.
pub(super) async fn logs(s: Arc<Shared>, cx: &StepCx, q: LogQuery) -> Result<Lines, Failure> {
    let name = names::stack(&cx.owner);
    let now = tasks::list(&s, Of { cluster: &name, service: &name }, false).await?;
    let running: BTreeSet<String> =
        now.iter().filter_map(Task::task_arn).map(|a| tasks::id(a).to_owned()).collect();
    let prefix = match q.replica.as_str() {
        "" => "app/app/".to_owned(),
        // the gate's access log is asked for by name
        "gate" => "gate/gate/".to_owned(),
        id => format!("app/app/{id}"),
    };
    let asked = Asked { group: names::logs(&cx.owner), prefix, running, previous: q.previous };
    let end = s.clock.now();
    if q.previous {
        let lines = last(&s, &asked, &q, end).await?;
        if lines.is_empty() {
            let hint = "'sypctl logs' shows those that run; 'sypctl events' says what was replaced";
            let message = "no task of it has ended yet, or none of them has printed anything";
            return Err(failure(Class::Terminal, "NO_PREVIOUS_RUN", message, hint));
        }
        return Ok(futures_util::stream::iter(lines.into_iter().map(Ok)).boxed());
    }
    let lines = try_stream! {
        let mut from = q.since_ms;
        if q.tail > 0 {
            for l in last(&s, &asked, &q, end).await? {
                yield l;
            }
            from = end;
        }
        let mut seen: BTreeSet<String> = BTreeSet::new();
        loop {
            let looked = s.clock.now();
            if q.tail == 0 || q.follow {
                let mut now = BTreeSet::new();
                for e in events(&s, &asked, from).await? {
                    if !seen.contains(&e.event_id) {
                        yield line(&e);
                    }
                    now.insert(e.event_id);
                }
                seen = now;
            }
            if !q.follow {
                break;
            }
            from = from.max(looked - LATE_MS);
            tokio::time::sleep(LOOK).await;
        }
    };
    Ok(lines.boxed())
}

/// The last lines of a task that has ended, for a failure; what can't be had is left out.
pub(super) async fn last_lines(s: &Shared, cx: &StepCx, t: &Task) -> String {
    let asked = Asked {
        group: names::logs(&cx.owner),
        prefix: format!("app/app/{}", tasks::id(t.task_arn().unwrap_or_default())),
        running: BTreeSet::new(),
        previous: false,
    };
    let q = LogQuery { tail: crate::verdict::LOG_LINES, ..LogQuery::default() };
    let lines = last(s, &asked, &q, s.clock.now()).await.unwrap_or_default();
    lines.into_iter().map(|l| l.line).collect::<Vec<_>>().join("\n")
}

/// The last lines only; 0: all.
async fn last(s: &Shared, asked: &Asked, q: &LogQuery, end: Millis) -> Result<Vec<LogLine>, Failure> {
    let most =
        if q.tail == 0 { MOST_LAST } else { usize::try_from(q.tail).unwrap_or(MOST_LAST).min(MOST_LAST) };
    let mut kept = VecDeque::new();
    for back in BACK_MS {
        let from = end.saturating_sub(back).max(q.since_ms).max(0);
        kept.clear();
        for l in events(s, asked, from).await?.iter().map(line) {
            if kept.len() >= most {
                kept.pop_front();
            }
            kept.push_back(l);
        }
        if (kept.len() >= most && q.tail > 0) || from <= q.since_ms {
            break;
        }
    }
    Ok(kept.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    events: Vec<Event>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    event_id: String,
    log_stream_name: String,
    timestamp: Millis,
    #[serde(default)]
    message: String,
}

/// Oldest first.
async fn events(s: &Shared, asked: &Asked, from: Millis) -> Result<Vec<Event>, Failure> {
    let q = &s.clients().await?.query;
    let mut ask = json!({
        "logGroupName": asked.group,
        "logStreamNamePrefix": asked.prefix,
        "startTime": from,
    });
    let mut out = Vec::new();
    loop {
        let said: Page = match q.json(LOGS, "FilterLogEvents", &ask).await {
            Ok(said) => said,
            // nothing was printed yet, or all is gone
            Err(f) if f.message.contains("ResourceNotFoundException") => return Ok(out),
            Err(f) => return Err(f),
        };
        out.extend(said.events.into_iter().filter(|e| asked.wants(&e.log_stream_name)));
        match said.next_token.filter(|_| out.len() < MOST_LAST) {
            Some(next) => ask["nextToken"] = next.into(),
            None => return Ok(out),
        }
    }
}

/// CloudWatch does not say whether it was an error's line. Pure.
fn line(e: &Event) -> LogLine {
    let stream = &e.log_stream_name;
    let replica = if stream.starts_with("gate/") { "gate" } else { tasks::short(tasks::id(stream)) };
    LogLine {
        at_ms: e.timestamp,
        replica: replica.to_owned(),
        stream: "stdout",
        line: e.message.trim_end_matches(['\n', '\r']).to_owned(),
    }
}
