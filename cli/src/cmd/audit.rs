//! `sypctl audit`: who did what, from the engine's audit trail.
use super::Ctx;
use crate::{
    client::{Client, can_resume},
    exit,
    failure::{Done, Failure},
    output, parse, render,
};
use futures_util::StreamExt;
use std::time::Duration;
use syp_proto::v1::{
    AuditEvent, CheckAuditTrailRequest, CheckAuditTrailResponse, ListAuditEventsRequest,
    ListAuditEventsResponse, WatchAuditEventsRequest, audit_client::AuditClient,
};
use tonic::Code;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl audit --since 1h
  sypctl audit shop --actor user:bob@example.com --method SetAccessPolicy -o json
  sypctl audit --outcome PermissionDenied -f
  sypctl audit --export > trail.jsonl
  sypctl audit --verify
  sypctl audit --verify 4711:9f86d0...    (number and hash of an event that was exported earlier)")]
pub struct Args {
    /// Calls about this instance
    #[arg(value_parser = parse::name)]
    name: Option<String>,
    /// Not older than this
    #[arg(long, value_parser = parse::duration, value_name = "TIME")]
    since: Option<Duration>,
    /// Calls of somebody: user:ADDRESS, sub:SUBJECT or token:ID
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Calls of a method, such as SetAccessPolicy
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Calls that ended so, such as PermissionDenied or Ok
    #[arg(long, value_name = "CODE")]
    outcome: Option<String>,
    /// The newest so many; 0: all
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    /// Go on with what comes
    #[arg(short, long, conflicts_with_all = ["export", "since", "limit"])]
    follow: bool,
    /// All of them as JSON lines, oldest first
    #[arg(long, conflicts_with = "limit")]
    export: bool,
    /// Compute the chain of hashes anew; with SEQ:HASH also whether that event is still there
    #[arg(long, value_name = "SEQ:HASH", num_args = 0..=1, default_missing_value = "", value_parser = known,
        conflicts_with_all = ["name", "since", "actor", "method", "outcome", "limit", "follow", "export"])]
    verify: Option<CheckAuditTrailRequest>,
}

fn known(text: &str) -> Result<CheckAuditTrailRequest, String> {
    if text.is_empty() {
        return Ok(CheckAuditTrailRequest::default());
    }
    let parts = text.split_once(':').and_then(|(seq, hash)| Some((seq.parse().ok()?, hash)));
    let (seq, hash) = parts.ok_or("number and hash of an event, such as 4711:9f86d0...")?;
    Ok(CheckAuditTrailRequest { seq, hash: hash.to_lowercase() })
}

/// Runs it.
///
/// # Errors
/// What the engine said; 1 when the chain is broken.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    if let Some(ask) = a.verify {
        return verify(ctx, &client, ask).await;
    }
    let filter = filter(ctx, &a);
    if a.follow {
        return follow(ctx, &client, filter).await;
    }
    let limit = if a.export || a.limit == 0 { usize::MAX } else { a.limit };
    let mut ask = ListAuditEventsRequest {
        page_size: i32::try_from(limit.min(1000)).unwrap_or(1000),
        filter,
        ..Default::default()
    };
    let mut all = ListAuditEventsResponse::default();
    loop {
        let page = client
            .call(ask.clone(), |ch, r| async move { AuditClient::new(ch).list_audit_events(r).await })
            .await?;
        all.audit_events.extend(page.audit_events);
        if page.next_page_token.is_empty() || all.audit_events.len() >= limit {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    all.audit_events.truncate(limit);
    if a.export {
        for e in all.audit_events.iter().rev() {
            ctx.out.data(output::json(e)?.to_string());
        }
        return Ok(exit::OK);
    }
    let lines = || all.audit_events.iter().rev().map(line).collect::<Vec<_>>().join("\n");
    let names = || all.audit_events.iter().map(|e| e.name.clone()).collect::<Vec<_>>().join("\n");
    ctx.out.document(&all, lines, names)?;
    Ok(exit::OK)
}

fn filter(ctx: &Ctx<'_>, a: &Args) -> String {
    let from = a.since.map(|d| {
        let ms = render::now_ms().saturating_sub(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)).max(0);
        prost_types::Timestamp { seconds: ms / 1000, nanos: 0 }
    });
    let some = |field: &str, value: &Option<String>| value.as_ref().map(|v| format!("{field}={v}"));
    [
        a.name.as_ref().map(|n| format!("target={}", ctx.full(n))),
        some("actor", &a.actor),
        some("method", &a.method),
        some("outcome", &a.outcome),
        from.map(|t| format!("time>={t}")),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(" AND ")
}

async fn verify(ctx: &Ctx<'_>, client: &Client, ask: CheckAuditTrailRequest) -> Done {
    let c = client
        .call_provider(ask, |ch, r| async move { AuditClient::new(ch).check_audit_trail(r).await })
        .await?;
    ctx.out.document(&c, || checked(&c), || format!("{}:{}", c.head_seq, c.head_hash))?;
    if c.problem.is_empty() {
        return Ok(exit::OK);
    }
    let what = format!("event {}: {}", c.broken_seq, c.problem);
    Err(Failure::new(exit::FAILED, "AUDIT_CHAIN_BROKEN", what, "sypctl explain AUDIT_CHAIN_BROKEN"))
}

fn checked(c: &CheckAuditTrailResponse) -> String {
    let sound = if c.problem.is_empty() { "the chain holds" } else { "the chain is broken" };
    let head = format!("{} events from {} on: {sound}", c.events, c.first_seq);
    format!("{head}\nlast sound event: {}:{}", c.head_seq, c.head_hash)
}

async fn follow(ctx: &Ctx<'_>, client: &Client, filter: String) -> Done {
    let mut ask = WatchAuditEventsRequest { filter, ..Default::default() };
    loop {
        let mut events = client
            .stream(ask.clone(), |ch, r| async move { AuditClient::new(ch).watch_audit_events(r).await })
            .await?;
        let lost = loop {
            let e = tokio::select! {
                e = events.next() => e,
                _ = tokio::signal::ctrl_c() => return Ok(exit::INTERRUPTED),
            };
            match e {
                None => return Ok(exit::OK),
                Some(Err(s)) => break s,
                Some(Ok(e)) => {
                    ask.resume_token.clone_from(&e.resume_token);
                    // one without a name is a heartbeat
                    if !e.name.is_empty() {
                        ctx.out.item(&e, || line(&e))?;
                    }
                }
            }
        };
        if !can_resume(client, &lost) && lost.code() != Code::Unauthenticated {
            return Err(Failure::from(lost));
        }
        client.revive(3).await?;
    }
}

fn line(e: &AuditEvent) -> String {
    let actor = e.actor.as_ref().map_or("", |p| if p.email.is_empty() { &p.subject } else { &p.email });
    let method = e.method.rsplit('/').next().unwrap_or_default();
    let targets = e.targets.iter().map(|t| parse::short_name(t)).collect::<Vec<_>>().join(" ");
    let some = |s: &str| if s.is_empty() { String::new() } else { format!("  {s}") };
    format!(
        "{}  {actor}  {method}{}{}{}",
        render::time(e.time.as_ref()),
        some(&targets),
        some(&e.outcome),
        some(&e.message)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1::Principal;

    #[test]
    fn an_event_is_one_line() {
        let e = AuditEvent {
            actor: Some(Principal { email: "a@x.org".into(), subject: "1".into(), ..Default::default() }),
            method: "syp.v1.Instances/DeleteInstance".into(),
            targets: vec!["projects/default/instances/shop".into()],
            outcome: "PermissionDenied".into(),
            message: "no".into(),
            ..Default::default()
        };
        assert_eq!(line(&e), "-  a@x.org  DeleteInstance  shop  PermissionDenied  no");
    }

    #[test]
    fn an_event_that_is_remembered_has_number_and_hash() {
        let k = known("7:AB").unwrap();
        assert_eq!((k.seq, k.hash.as_str()), (7, "ab"));
        assert_eq!(known("").unwrap(), CheckAuditTrailRequest::default());
        assert!(known("7").is_err() && known("x:ab").is_err());
    }
}
