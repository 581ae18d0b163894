//! `sypctl ls`: instances.
use super::{Ctx, filter, list};
use crate::{
    client::can_resume,
    exit,
    failure::{Done, Failure},
    parse, render,
};
use comfy_table::Cell;
use futures_util::StreamExt;
use syp_proto::v1::{
    Instance, ListInstancesResponse, WatchInstancesRequest, instances_client::InstancesClient,
    watch_instances_response::Event,
};
use tonic::Code;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl ls\n  sypctl ls -l team=ml --state serving -o json\n  sypctl ls -w"
)]
pub struct Args {
    /// Only with this label (NAME=VALUE, several with commas)
    #[arg(short = 'l', long = "label", value_parser = parse::selector, value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Only in this state
    #[arg(long, value_parser = ["pending", "provisioning", "serving", "draining", "destroyed"], ignore_case = true)]
    state: Option<String>,
    /// Destroyed ones too
    #[arg(long)]
    all: bool,
    /// Go on showing what changes
    #[arg(short, long)]
    watch: bool,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let filter = filter(&a.labels, a.state.as_deref());
    let destroyed = a.all || a.state.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("destroyed"));
    if !a.watch {
        let all = list(&client, ctx.parent(), filter, destroyed).await?;
        for u in &all.unreachable {
            ctx.out.note(format!("note: {u} can't be reached: what it has is missing here"));
        }
        ctx.out.document(&all, || text(&all, ctx.out.colours), || names(&all))?;
        return Ok(exit::OK);
    }
    let mut resume_token = String::new();
    loop {
        let ask = WatchInstancesRequest {
            parent: ctx.parent(),
            filter: filter.clone(),
            resume_token: resume_token.clone(),
            read_mask: None,
        };
        let mut events = client
            .stream(ask, |ch, r| async move { InstancesClient::new(ch).watch_instances(r).await })
            .await?;
        let lost = loop {
            let e = tokio::select! {
                e = events.next() => e,
                _ = tokio::signal::ctrl_c() => return Ok(exit::INTERRUPTED),
            };
            match e {
                None => break None,
                Some(Err(s)) => break Some(s),
                Some(Ok(e)) => {
                    resume_token.clone_from(&e.resume_token);
                    match &e.event {
                        Some(Event::Added(i) | Event::Modified(i)) => ctx.out.item(&e, || line(i))?,
                        Some(Event::Purged(n)) => {
                            ctx.out.item(&e, || format!("{}  PURGED", parse::short_name(n)))?
                        }
                        _ => {}
                    }
                }
            }
        };
        if let Some(s) = lost.filter(|s| !can_resume(&client, s) && s.code() != Code::Unauthenticated) {
            return Err(Failure::from(s));
        }
        client.revive(3).await?;
    }
}

fn row(i: &Instance, now: i64) -> Vec<Cell> {
    let spec = i.spec.clone().unwrap_or_default();
    let cost = i.cost.clone().unwrap_or_default();
    vec![
        Cell::new(parse::short_name(&i.name)),
        render::state_cell(i),
        Cell::new(spec.target),
        Cell::new(spec.image),
        Cell::new(if i.endpoint.is_empty() { "-" } else { &i.endpoint }),
        Cell::new(render::rate(&cost)),
        Cell::new(render::age(i.create_time.as_ref(), now)),
    ]
}

fn text(all: &ListInstancesResponse, colours: bool) -> String {
    if all.instances.is_empty() {
        return String::new();
    }
    let now = render::now_ms();
    render::table(
        &["NAME", "STATE", "TARGET", "IMAGE", "ENDPOINT", "PER HOUR", "AGE"],
        all.instances.iter().map(|i| row(i, now)),
        colours,
    )
}

fn names(all: &ListInstancesResponse) -> String {
    all.instances.iter().map(|i| parse::short_name(&i.name)).collect::<Vec<_>>().join("\n")
}

fn line(i: &Instance) -> String {
    let why =
        i.waiting_on.first().map_or_else(String::new, |w| format!("  waiting on {}: {}", w.step, w.message));
    format!(
        "{}  {}  {}{why}",
        render::time(i.update_time.as_ref()),
        parse::short_name(&i.name),
        render::state(i.state)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_a_table_and_an_empty_one_is_nothing() {
        let i = Instance {
            name: "projects/p/instances/shop".into(),
            state: 3,
            endpoint: "http://x".into(),
            ..Default::default()
        };
        let all = ListInstancesResponse { instances: vec![i], ..Default::default() };
        let t = text(&all, false);
        assert_eq!(t.lines().next().unwrap(), "NAME  STATE    TARGET  IMAGE  ENDPOINT  PER HOUR  AGE");
        assert!(t.contains("shop  SERVING") && t.contains("http://x"), "{t}");
        assert_eq!(
            (text(&ListInstancesResponse::default(), false), names(&all)),
            (String::new(), "shop".into())
        );
    }
}
