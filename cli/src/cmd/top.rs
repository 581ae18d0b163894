//! `sypctl top`: all instances by what they do and cost right now.
use super::{Ctx, list};
use crate::{
    client::Client,
    exit,
    failure::{Done, Failure},
    output::{self, Format},
    parse, render,
};
use comfy_table::Cell;
use console::Term;
use std::{cmp::Ordering, collections::HashMap, time::Duration};
use syp_proto::v1::{CostSummary, Instance, ListMetricsRequest, MetricsPoint, metrics_client::MetricsClient};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl top            (again every 2 s, until Ctrl-C)
  sypctl top --once
  sypctl top -o json | jq '.[] | select(.metrics.rps > 10) | .name'")]
pub struct Args {
    /// Print once, as when the output is no terminal
    #[arg(long)]
    once: bool,
}

/// How often it is asked again. The engine itself looks every 10 s.
const EVERY: Duration = Duration::from_secs(2);

struct Row {
    instance: Instance,
    /// Nobody could say within the last 30 s.
    point: Option<MetricsPoint>,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let screen = Term::stdout();
    let dumb = std::env::var("TERM").is_ok_and(|t| t == "dumb");
    if a.once || dumb || !screen.is_term() || ctx.out.format != Format::Table {
        let rows = ask(&client, ctx.parent()).await?;
        match ctx.out.format {
            Format::Table | Format::Name if rows.is_empty() => {}
            Format::Table => ctx.out.data(text(&rows, ctx.out.colours)),
            Format::Name => ctx.out.data(names(&rows)),
            Format::Json | Format::Yaml => ctx.out.value(&json(&rows)?)?,
        }
        return Ok(exit::OK);
    }
    screen.clear_screen()?;
    loop {
        let rows = ask(&client, ctx.parent()).await?;
        let lines = usize::from(screen.size().0.max(4)) - 1;
        screen.move_cursor_to(0, 0)?;
        if rows.is_empty() {
            screen.write_line("no instances")?;
        }
        for line in text(&rows, ctx.out.colours).lines().take(lines) {
            screen.clear_line()?;
            screen.write_line(line)?;
        }
        screen.clear_to_end_of_screen()?;
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = tokio::signal::ctrl_c() => return Ok(exit::INTERRUPTED),
        }
    }
}

/// All instances, the busiest first.
async fn ask(c: &Client, parent: String) -> Result<Vec<Row>, Failure> {
    let all = list(c, parent.clone(), String::new(), false).await?;
    let mut points = HashMap::new();
    let mut ask = ListMetricsRequest { parent, page_size: 1000, ..Default::default() };
    loop {
        let page =
            c.call(ask.clone(), |ch, r| async move { MetricsClient::new(ch).list_metrics(r).await }).await?;
        points.extend(page.instances.into_iter().filter_map(|i| Some((i.name, i.point?))));
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    let mut rows: Vec<_> = all
        .instances
        .into_iter()
        .map(|instance| Row { point: points.remove(&instance.name), instance })
        .collect();
    rows.sort_by(busiest);
    Ok(rows)
}

fn busiest(a: &Row, b: &Row) -> Ordering {
    let rps = |r: &Row| r.point.as_ref().map_or(-1.0, |p| p.rps);
    rps(b).total_cmp(&rps(a)).then_with(|| a.instance.name.cmp(&b.instance.name))
}

fn cells(r: &Row) -> Vec<Cell> {
    let cost = r.instance.cost.clone().unwrap_or_default();
    let p = r.point.clone().unwrap_or_default();
    let known = |is: bool, text: String| Cell::new(if is { text } else { "-".into() });
    let counted = p.window.is_some();
    vec![
        Cell::new(parse::short_name(&r.instance.name)),
        render::state_cell(&r.instance),
        known(counted, format!("{:.2}", p.rps)),
        Cell::new(render::latency(p.latency.and_then(|l| l.p99).as_ref())),
        known(counted, p.open_streams.to_string()),
        known(p.cpu_window.is_some(), format!("{:.3}", p.cpu_cores)),
        known(p.memory_bytes > 0, render::bytes(p.memory_bytes)),
        Cell::new(render::rate(&cost)),
        Cell::new(format!("{}{}", render::priced(&cost, cost.accrued.as_ref()), render::accuracy(&cost))),
    ]
}

fn text(rows: &[Row], colours: bool) -> String {
    if rows.is_empty() {
        return String::new();
    }
    render::table(
        &["NAME", "STATE", "REQ/S", "P99", "OPEN", "CPU", "MEMORY", "PER HOUR", "ACCRUED"],
        rows.iter().map(cells),
        colours,
    )
}

fn names(rows: &[Row]) -> String {
    rows.iter().map(|r| parse::short_name(&r.instance.name)).collect::<Vec<_>>().join("\n")
}

/// No message of the API has both: each part is one.
fn json(rows: &[Row]) -> Result<serde_json::Value, Failure> {
    let one = |r: &Row| {
        let point = r.point.as_ref().map(output::json).transpose()?;
        let cost: Option<&CostSummary> = r.instance.cost.as_ref();
        Ok(serde_json::json!({
            "name": r.instance.name,
            "state": render::state(r.instance.state),
            "metrics": point,
            "cost": cost.map(output::json).transpose()?,
        }))
    };
    rows.iter().map(one).collect::<Result<Vec<_>, Failure>>().map(serde_json::Value::Array)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Duration as Proto;

    #[test]
    fn the_busiest_come_first_and_what_is_not_known_is_a_dash() {
        let row = |name: &str, rps: Option<f64>| Row {
            instance: Instance {
                name: format!("projects/p/instances/{name}"),
                state: 3,
                ..Default::default()
            },
            point: rps.map(|rps| MetricsPoint {
                rps,
                window: Some(Proto { seconds: 10, nanos: 0 }),
                ..Default::default()
            }),
        };
        let mut rows = vec![row("b", Some(1.0)), row("z", None), row("c", Some(2.5)), row("a", Some(1.0))];
        rows.sort_by(busiest);
        assert_eq!(names(&rows), "c\na\nb\nz");
        let t = text(&rows, false);
        let words: Vec<Vec<&str>> = t.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(words[0][..5], ["NAME", "STATE", "REQ/S", "P99", "OPEN"]);
        assert_eq!(words[1][..7], ["c", "SERVING", "2.50", "-", "0", "-", "-"]);
        assert_eq!(words[4][..7], ["z", "SERVING", "-", "-", "-", "-", "-"]);
        let j = json(&rows).unwrap();
        assert_eq!((&j[0]["metrics"]["rps"], &j[3]["metrics"]), (&2.5.into(), &serde_json::Value::Null));
        assert_eq!(text(&[], false), "", "as in every list");
    }
}
