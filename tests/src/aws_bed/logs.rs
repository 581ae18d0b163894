//! CloudWatch's logs: the lines of containers, those of ended ones too for as long as their group is there.
use super::{
    task::lines,
    wire::Refused,
    world::{Line, Shared, Stream},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is told at once, unless less is asked for.
const LIMIT: u64 = 10_000;
const NS: i128 = 1_000_000;

/// A line, and where it is in its stream.
struct Told {
    at_ns: i128,
    stream: String,
    nth: usize,
    text: String,
}

/// Answers a call.
pub async fn call(shared: &Shared, action: &str, asked: &Value) -> Result<Value, Refused> {
    let name = asked["logGroupName"].as_str().unwrap_or_default();
    let streams = streams(shared, name)?;
    match action {
        "DescribeLogStreams" => Ok(describe(shared, name, &streams, asked)),
        "FilterLogEvents" => filter(shared, chosen(streams, asked)?, asked).await,
        "GetLogEvents" => get(shared, streams, asked).await,
        _ => Err(Refused::new("UnknownOperationException", action)),
    }
}

fn missing(what: &str) -> Refused {
    Refused::new("ResourceNotFoundException", format!("The specified log {what} does not exist."))
}

fn streams(shared: &Shared, group: &str) -> Result<BTreeMap<String, Stream>, Refused> {
    shared.see(|w| w.groups.get(group).map(|g| g.streams.clone())).ok_or_else(|| missing("group"))
}

/// Those that are named, or begin so.
fn chosen(all: BTreeMap<String, Stream>, asked: &Value) -> Result<BTreeMap<String, Stream>, Refused> {
    if let Some(names) = asked["logStreamNames"].as_array() {
        let one = |n: &Value| {
            let name = n.as_str().unwrap_or_default();
            all.get(name).map(|s| (name.to_owned(), s.clone())).ok_or_else(|| missing("stream"))
        };
        return names.iter().map(one).collect();
    }
    let prefix = asked["logStreamNamePrefix"].as_str().unwrap_or_default();
    Ok(all.into_iter().filter(|(name, _)| name.starts_with(prefix)).collect())
}

/// In a time, all of them by time.
async fn told(shared: &Shared, streams: BTreeMap<String, Stream>, asked: &Value) -> Vec<Told> {
    let since = asked["startTime"].as_i64();
    let from = since.map_or(i128::MIN, |ms| i128::from(ms) * NS);
    let until = asked["endTime"].as_i64().map_or(i128::MAX, |ms| i128::from(ms) * NS);
    let mut out = vec![];
    for (name, stream) in streams {
        let all = of(shared, &name, &stream).await;
        let in_time = all.into_iter().enumerate().filter(|(_, l)| l.at_ns >= from && l.at_ns < until);
        out.extend(in_time.map(|(nth, l)| Told { at_ns: l.at_ns, stream: name.clone(), nth, text: l.text }));
    }
    out.sort_by(|a, b| (a.at_ns, &a.stream, a.nth).cmp(&(b.at_ns, &b.stream, b.nth)));
    out
}

async fn of(shared: &Shared, name: &str, stream: &Stream) -> Vec<Line> {
    if let Some(kept) = &stream.kept {
        return kept.clone();
    }
    match lines(shared, &stream.container, None).await {
        Ok(all) => all,
        // it is gone, and its lines are kept since
        Err(_) => shared.see(|w| {
            let now = w.groups.values().find_map(|g| g.streams.get(name));
            now.and_then(|s| s.kept.clone()).unwrap_or_default()
        }),
    }
}

fn limit(asked: &Value) -> usize {
    usize::try_from(asked["limit"].as_u64().unwrap_or(LIMIT).min(LIMIT)).unwrap_or(usize::MAX)
}

fn ms(ns: i128) -> i64 {
    i64::try_from(ns / NS).unwrap_or(i64::MAX)
}

async fn filter(shared: &Shared, streams: BTreeMap<String, Stream>, asked: &Value) -> Result<Value, Refused> {
    // a token is the place of the last line that was told
    let place = |t: &Told| format!("{}|{}|{}", t.at_ns, t.stream, t.nth);
    let mut all = told(shared, streams, asked).await;
    if let Some(token) = asked["nextToken"].as_str() {
        let parts: Vec<&str> = token.split('|').collect();
        let wrong = || Refused::new("InvalidParameterException", "The specified nextToken is invalid.");
        let [at, stream, nth] = parts.as_slice() else { return Err(wrong()) };
        let (at, nth): (i128, usize) = (at.parse().map_err(|_| wrong())?, nth.parse().map_err(|_| wrong())?);
        all.retain(|t| (t.at_ns, t.stream.as_str(), t.nth) > (at, stream, nth));
    }
    let more = all.len() > limit(asked);
    all.truncate(limit(asked));
    let next = all.last().filter(|_| more).map(place);
    let events = all.iter().map(|t| {
        json!({
            "logStreamName": t.stream, "timestamp": ms(t.at_ns), "message": t.text,
            "ingestionTime": ms(t.at_ns), "eventId": format!("{}{}", t.at_ns, t.nth),
        })
    });
    let mut out = json!({ "events": events.collect::<Vec<_>>(), "searchedLogStreams": [] });
    if let Some(next) = next {
        out["nextToken"] = next.into();
    }
    Ok(out)
}

async fn get(shared: &Shared, streams: BTreeMap<String, Stream>, asked: &Value) -> Result<Value, Refused> {
    let name = asked["logStreamName"].as_str().unwrap_or_default();
    let one = streams.into_iter().filter(|(n, _)| n == name).collect::<BTreeMap<_, _>>();
    if one.is_empty() {
        return Err(missing("stream"));
    }
    let all = told(shared, one, asked).await;
    // a token is a direction and the number of the next line there
    let token = asked["nextToken"].as_str().unwrap_or_default();
    let (direction, at) = token.split_once('/').unwrap_or(("", ""));
    let (at, n) = (at.parse::<usize>().unwrap_or(0).min(all.len()), limit(asked));
    let (begin, end) = match direction {
        "f" => (at, at.saturating_add(n).min(all.len())),
        "b" => (at.saturating_sub(n), at),
        _ if asked["startFromHead"] == true => (0, n.min(all.len())),
        _ => (all.len().saturating_sub(n), all.len()),
    };
    let events = all
        .get(begin..end)
        .unwrap_or_default()
        .iter()
        .map(|t| json!({ "timestamp": ms(t.at_ns), "message": t.text, "ingestionTime": ms(t.at_ns) }));
    Ok(json!({
        "events": events.collect::<Vec<_>>(),
        "nextForwardToken": format!("f/{end}"), "nextBackwardToken": format!("b/{begin}"),
    }))
}

fn describe(shared: &Shared, group: &str, all: &BTreeMap<String, Stream>, asked: &Value) -> Value {
    let prefix = asked["logStreamNamePrefix"].as_str().unwrap_or_default();
    let list = all.iter().filter(|(n, _)| n.starts_with(prefix)).map(|(name, s)| {
        let arn = shared.arn("logs", &format!("log-group:{group}:log-stream:{name}"));
        json!({ "logStreamName": name, "creationTime": ms(s.created.unix_timestamp_nanos()), "arn": arn })
    });
    json!({ "logStreams": list.collect::<Vec<_>>() })
}
