//! `sypctl metrics`: how it performs.
use super::Ctx;
use crate::{
    client::Client,
    exit,
    failure::{Done, Failure},
    parse, render,
};
use std::time::Duration;
use syp_proto::v1::{GetMetricsRequest, MetricsPoint, metrics_client::MetricsClient};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sypctl metrics shop\n  sypctl metrics shop -o json")]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let m = ask(&client, ctx.full(&a.name), WINDOW).await?;
    ctx.out.document(&m, || text(&m), || a.name.clone())?;
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
