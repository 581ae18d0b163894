//! `sypctl logs`: what the image prints.
use super::Ctx;
use crate::{
    exit,
    failure::{Done, Failure},
    parse, render,
};
use futures_util::StreamExt;
use std::{collections::HashSet, time::Duration};
use syp_proto::v1::{LogEntry, StreamLogsRequest, instances_client::InstancesClient};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl logs shop --tail 50\n  sypctl logs shop -f --since 10m\n  sypctl logs shop --previous          (why it ended)\n  sypctl logs shop --replica 1 -o json    (a JSON line each)"
)]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
    /// Go on with what comes
    #[arg(short, long, conflicts_with = "previous")]
    follow: bool,
    /// Of the runs before this one, such as those that crashed; a replica that was replaced took its lines along
    #[arg(short, long)]
    previous: bool,
    /// Only the last lines
    #[arg(long, value_name = "N", value_parser = parse::lines)]
    tail: Option<i32>,
    /// Only of the last minutes, hours
    #[arg(long, value_parser = parse::duration, value_name = "TIME")]
    since: Option<Duration>,
    /// Only of one replica
    #[arg(long, value_name = "R")]
    replica: Option<String>,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let since = a.since.map(|d| {
        let ms = render::now_ms() - i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        prost_types::Timestamp {
            seconds: ms / 1000,
            nanos: i32::try_from(ms % 1000).unwrap_or(0).max(0) * 1_000_000,
        }
    });
    let ask = StreamLogsRequest {
        name: ctx.full(&a.name),
        follow: a.follow,
        since_time: since,
        tail: a.tail.unwrap_or(0),
        replica: a.replica.unwrap_or_default(),
        previous: a.previous,
        ..Default::default()
    };
    let mut lines =
        client.stream(ask, |ch, r| async move { InstancesClient::new(ch).stream_logs(r).await }).await?;
    let mut replicas = HashSet::new();
    loop {
        let next = tokio::select! {
            n = lines.next() => n,
            _ = tokio::signal::ctrl_c() => return Ok(exit::INTERRUPTED),
        };
        match next {
            None => return Ok(exit::OK),
            Some(Err(s)) => return Err(Failure::from(s)),
            Some(Ok(l)) if l.heartbeat => {}
            Some(Ok(l)) => {
                replicas.insert(l.replica.clone());
                ctx.out.item(&l, || line(&l, replicas.len() > 1))?;
            }
        }
    }
}

/// The replica is told as soon as there is more than one.
fn line(l: &LogEntry, several: bool) -> String {
    let text = l.line.trim_end_matches(['\n', '\r']);
    if several { format!("{}  {text}", l.replica) } else { text.to_owned() }
}
