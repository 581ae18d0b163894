//! `sypctl metrics`: how it performs, now and over time.
use super::Ctx;
use crate::{
    client::Client,
    exit,
    failure::{Done, Failure},
    history,
    output::Format,
    parse, render, spark,
};
use futures_util::StreamExt;
use std::time::Duration;
use syp_proto::v1::{GetMetricsRequest, MetricsPoint, ScrapeRequest, metrics_client::MetricsClient};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl metrics shop
  sypctl metrics shop --since 24h --step 10m
  sypctl metrics shop -o json             (of now)
  sypctl metrics shop --since 1h -o json  (over time)
  sypctl metrics --prometheus             (all instances, as Prometheus scrapes them)

Steps of 10s reach back an hour, of 1m a day, of 1h a month.")]
pub struct Args {
    /// Name, perhaps with @uid
    #[arg(value_parser = parse::name, required_unless_present = "prometheus")]
    name: Option<String>,
    /// How far back [default: 1h]
    #[arg(long, value_parser = parse::duration, value_name = "TIME")]
    since: Option<Duration>,
    /// Length of a step; without it one that gives at most 60
    #[arg(long, value_parser = parse::duration, value_name = "TIME")]
    step: Option<Duration>,
    /// All instances in the text format of Prometheus
    #[arg(long, conflicts_with_all = ["name", "since", "step"])]
    prometheus: bool,
}

/// How far back when nothing is said.
const HOUR: Duration = Duration::from_secs(3600);

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let Some(name) = a.name.filter(|_| !a.prometheus) else { return scrape(ctx, &client).await };
    let over_time = a.since.is_some() || a.step.is_some();
    let (full, since) = (ctx.full(&name), a.since.unwrap_or(HOUR));
    if ctx.out.format == Format::Table {
        let past = history::ask(&client, full.clone(), since, a.step).await?;
        let theirs = history::of_provider(&past);
        let mut past = history::text(&past, render::now_ms(), width(), spark::can_show_blocks());
        if !theirs.is_empty() {
            past = format!("{past}\n\n{theirs}").trim_start().to_owned();
        }
        match ask(&client, full, WINDOW).await {
            Ok(m) => ctx.out.data(format!("{}\n\n{past}", text(&m))),
            // it is not there any more, or can't be asked: what was is told all the same
            Err(f) if !past.is_empty() => {
                ctx.out.note(format!("note: of now nothing is known: {}", f.message()));
                ctx.out.data(past);
            }
            Err(f) => return Err(f),
        }
    } else if over_time {
        let past = history::ask(&client, full, since, a.step).await?;
        ctx.out.document(&past, String::new, || name.clone())?;
    } else {
        let m = ask(&client, full, WINDOW).await?;
        ctx.out.document(&m, String::new, || name.clone())?;
    }
    Ok(exit::OK)
}

/// Places for the bars of a line: what a terminal has beside the words, else as many as there are points when nothing is said.
fn width() -> usize {
    const WORDS: usize = 46;
    match console::Term::stdout().size_checked() {
        Some((_, columns)) => usize::from(columns).saturating_sub(WORDS).clamp(20, 120),
        None => 61,
    }
}

async fn scrape(ctx: &Ctx<'_>, c: &Client) -> Done {
    let ask = ScrapeRequest { accept: "text/plain".into() };
    let mut pieces = c.stream(ask, |ch, r| async move { MetricsClient::new(ch).scrape(r).await }).await?;
    let mut all = Vec::new();
    while let Some(piece) = pieces.next().await {
        all.extend(piece.map_err(Failure::from)?.body);
    }
    ctx.out.data(String::from_utf8_lossy(&all));
    Ok(exit::OK)
}

/// Over how long the processor is looked at.
const WINDOW: Duration = Duration::from_millis(500);

/// The figures of an instance; the processor's over `window`.
///
/// # Errors
/// What the engine said.
pub async fn ask(c: &Client, name: String, window: Duration) -> Result<MetricsPoint, Failure> {
    let ask = GetMetricsRequest { name, window: Some(parse::proto_duration(window)) };
    c.call(ask, |ch, r| async move { MetricsClient::new(ch).get_metrics(r).await }).await
}

/// Rate and status classes, since when.
pub fn requests(m: &MetricsPoint) -> String {
    let Some(w) = &m.window else { return "unknown: the gate does not answer".into() };
    let all: i64 = m.status_class.values().sum();
    format!("{:.2}/s over {} ({all} in all)", m.rps, render::took(w.seconds.saturating_mul(1000)))
}

/// `2xx 10, 4xx 1`.
pub fn classes(m: &MetricsPoint) -> String {
    let mut classes: Vec<_> = m.status_class.iter().map(|(k, v)| format!("{k} {v}")).collect();
    classes.sort();
    classes.join(", ")
}

/// The middle and the slow end.
pub fn latency(m: &MetricsPoint) -> String {
    let l = m.latency.unwrap_or_default();
    let named = [("p50", l.p50), ("p90", l.p90), ("p99", l.p99), ("max", l.max)];
    let known = named.iter().filter(|(_, d)| d.is_some());
    known.map(|(n, d)| format!("{n} {}", render::latency(d.as_ref()))).collect::<Vec<_>>().join(", ")
}

/// Cores in use, and over how long.
pub fn cpu(m: &MetricsPoint, window: Duration) -> String {
    format!("{:.3} cores over the last {}", m.cpu_cores, humantime::format_duration(window))
}

fn text(m: &MetricsPoint) -> String {
    render::fields([
        ("Requests", requests(m)),
        ("Answers", classes(m)),
        ("Denied", m.auth_denied.to_string()),
        ("Latency", latency(m)),
        ("Open", m.open_streams.to_string()),
        ("Replicas", format!("{} ready", m.replicas_ready)),
        ("CPU", cpu(m, WINDOW)),
        ("Memory", render::bytes(m.memory_bytes)),
        ("Bytes", format!("{} in, {} out", render::bytes(m.bytes_in), render::bytes(m.bytes_out))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let m = MetricsPoint { cpu_cores: 0.25, ..Default::default() };
        let t = text(&m);
        assert!(t.starts_with("Requests  unknown: the gate does not answer\nDenied"), "{t}");
        assert!(t.contains("CPU       0.250 cores over the last 500ms"), "{t}");
    }
}
