//! `sypctl metrics`: how it performs.
use super::Ctx;
use crate::{exit, failure::Done, parse, render};
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
    let ask = GetMetricsRequest { name: ctx.full(&a.name), window: None };
    let m = client.call(ask, |ch, r| async move { MetricsClient::new(ch).get_metrics(r).await }).await?;
    ctx.out.document(&m, || text(&m), || a.name.clone())?;
    Ok(exit::OK)
}

fn text(m: &MetricsPoint) -> String {
    let l = m.latency.unwrap_or_default();
    let mut classes: Vec<_> = m.status_class.iter().map(|(k, v)| format!("{k} {v}")).collect();
    classes.sort();
    let window =
        m.window.as_ref().map_or_else(String::new, |w| format!(" over {}", render::took(w.seconds * 1000)));
    render::fields([
        ("Requests", format!("{:.2}/s{window}", m.rps)),
        ("Answers", classes.join(", ")),
        ("Denied", m.auth_denied.to_string()),
        (
            "Latency",
            format!(
                "p50 {}, p90 {}, p99 {}, max {}",
                render::latency(l.p50.as_ref()),
                render::latency(l.p90.as_ref()),
                render::latency(l.p99.as_ref()),
                render::latency(l.max.as_ref())
            ),
        ),
        ("Open", m.open_streams.to_string()),
        ("Replicas", format!("{} ready", m.replicas_ready)),
        ("CPU", format!("{:.3} cores", m.cpu_cores)),
        ("Memory", render::bytes(m.memory_bytes)),
        ("Bytes", format!("{} in, {} out", render::bytes(m.bytes_in), render::bytes(m.bytes_out))),
    ])
}
