//! `sypctl show`: one instance.
use super::{Ctx, get, metrics};
use crate::{client::Client, exit, failure::Done, follow, output::Format, parse, render};
use std::time::Duration;
use syp_engine::scaling;
use syp_proto::v1::{Instance, InstanceSpec, condition::Status, instance::State};

/// How long `show` waits for figures.
const PATIENCE: Duration = Duration::from_secs(2);
/// Over how long the processor is looked at.
const WINDOW: Duration = Duration::from_millis(250);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl show shop\n  sypctl show shop -o json\n  sypctl show shop@0af3    (an earlier incarnation)"
)]
pub struct Args {
    /// Name, perhaps with @uid
    #[arg(value_parser = parse::name)]
    name: String,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let i = get(&client, ctx.full(&a.name)).await?;
    let figures = if ctx.out.format == Format::Table { figures(&client, &i).await } else { vec![] };
    ctx.out.document(
        &i,
        || text(&i, &figures, render::now_ms()),
        || parse::short_name(&i.name).to_owned(),
    )?;
    Ok(exit::OK)
}

/// How it performs, when somebody can say so in time: nobody waits long for figures.
async fn figures(c: &Client, i: &Instance) -> Vec<(&'static str, String)> {
    if i.endpoint.is_empty() || !matches!(i.state(), State::Serving | State::Draining) {
        return vec![];
    }
    let asked = tokio::time::timeout(PATIENCE, metrics::ask(c, i.name.clone(), WINDOW));
    match asked.await {
        Ok(Ok(m)) => vec![
            ("Ready", format!("{} of {} replicas", m.replicas_ready, replicas(i))),
            ("Requests", metrics::requests(&m)),
            ("Answers", metrics::classes(&m)),
            ("Latency", metrics::latency(&m)),
            ("CPU", metrics::cpu(&m, WINDOW)),
            ("Memory", render::bytes(m.memory_bytes)),
        ],
        Ok(Err(f)) => vec![("Requests", format!("unknown: {}", f.message()))],
        Err(_) => vec![("Requests", format!("unknown: no answer within {} s", PATIENCE.as_secs()))],
    }
}

fn how_many(spec: &InstanceSpec, now: i32) -> String {
    let mut words = scaling::words(spec);
    if scaling::is_elastic(spec) && now > 0 {
        words.push_str(&format!(" (now {now})"));
    }
    match scaling::aim(spec) {
        Some(aim) => format!("{words}, {aim}"),
        None => words,
    }
}

fn replicas(i: &Instance) -> String {
    scaling::words(&i.spec.clone().unwrap_or_default())
}

fn text(i: &Instance, figures: &[(&'static str, String)], now: i64) -> String {
    let name = parse::short_name(&i.name);
    let spec = i.spec.clone().unwrap_or_default();
    let cost = i.cost.clone().unwrap_or_default();
    let mut labels: Vec<_> = i.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    labels.sort();
    let state =
        format!("{}{}", render::state(i.state), if i.reconciling { " (being worked on)" } else { "" });
    let conditions = i.conditions.iter().map(|c| {
        let status = match c.status() {
            Status::True => "yes",
            Status::False => "NO",
            _ => "?",
        };
        format!(
            "{} {status}{}",
            c.r#type,
            if c.message.is_empty() { String::new() } else { format!(": {} ({})", c.message, c.reason) }
        )
    });
    let waiting = i.waiting_on.iter().map(|w| {
        let again = if w.attempt > 1 { format!(", attempt {}", w.attempt) } else { String::new() };
        format!(
            "{}: {} ({}{again}, since {})",
            w.step,
            w.message,
            w.reason,
            render::age(w.since.as_ref(), now)
        )
    });
    let time =
        |t: &Option<prost_types::Timestamp>| t.as_ref().map_or_else(String::new, |t| render::time(Some(t)));
    let head = [
        ("Name", i.name.clone()),
        ("Uid", i.uid.clone()),
        ("State", state),
        ("Endpoint", i.endpoint.clone()),
        ("Image", spec.image.clone()),
        ("Digest", i.image_digest.clone()),
        ("Port", if spec.port == 0 { String::new() } else { spec.port.to_string() }),
        ("Target", spec.target.clone()),
        ("Replicas", how_many(&spec, i.replicas_ready)),
        ("Labels", labels.join(", ")),
        ("Callers", render::callers(spec.access.as_ref())),
        ("Operators", render::callers(spec.operators.as_ref())),
        ("Rate", format!("{} an hour", render::rate(&cost))),
        ("Accrued", format!("{}{}", render::priced(&cost, cost.accrued.as_ref()), render::accuracy(&cost))),
        ("Price", cost.price_source),
        ("Budget", spec.budget.as_ref().map_or_else(String::new, render::budget)),
    ];
    let tail = [
        ("Created", format!("{} by {}", render::time(i.create_time.as_ref()), i.creator)),
        ("Expires", time(&i.expire_time)),
        ("Destroyed", time(&i.destroy_time)),
        ("Conditions", conditions.collect::<Vec<_>>().join("\n")),
        ("Operation", follow::short(&i.current_operation).to_owned()),
        ("Waiting on", waiting.collect::<Vec<_>>().join("\n")),
        ("Next", next(i, name)),
    ];
    render::fields(head.into_iter().chain(figures.iter().cloned()).chain(tail))
}

fn next(i: &Instance, name: &str) -> String {
    let hints: Vec<_> = i.waiting_on.iter().map(|w| w.hint.as_str()).filter(|h| !h.is_empty()).collect();
    if !hints.is_empty() {
        return hints.join("\n");
    }
    match render::state(i.state) {
        "SERVING" => format!("sypctl curl {name} /"),
        "DRAINING" if !i.reconciling => format!("sypctl down {name}"),
        "DESTROYED" => format!("sypctl receipt {name}"),
        _ if !i.current_operation.is_empty() => {
            format!("sypctl op watch {}", follow::short(&i.current_operation))
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1::WaitingOn;

    #[test]
    fn show_ends_with_what_it_waits_for_and_what_to_do() {
        let i = Instance {
            name: "projects/default/instances/shop".into(),
            state: State::Provisioning as i32,
            reconciling: true,
            creator: "user:a@x".into(),
            waiting_on: vec![WaitingOn {
                step: "app-0".into(),
                message: "the port".into(),
                reason: "PORT_NOT_LISTENING".into(),
                hint: "check --port".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let t = text(&i, &[], 0);
        assert!(
            t.ends_with(
                "Waiting on  app-0: the port (PORT_NOT_LISTENING, since -)\nNext        check --port"
            ),
            "{t}"
        );
        assert!(t.contains("State       PROVISIONING (being worked on)"), "{t}");
    }
}
