//! `sypctl events`: the journal of an instance in words.
use super::Ctx;
use crate::{
    client::{Client, can_resume},
    exit,
    failure::{Done, Failure},
    parse, render,
};
use futures_util::StreamExt;
use syp_proto::v1::{
    InstanceEvent, ListInstanceEventsRequest, ListInstanceEventsResponse, WatchInstanceEventsRequest,
    instances_client::InstancesClient, watch_instance_events_response::Event,
};
use tonic::Code;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sypctl events shop\n  sypctl events shop -w -o json")]
pub struct Args {
    /// Name, perhaps with @uid
    #[arg(value_parser = parse::name)]
    name: String,
    /// Go on until the instance is gone
    #[arg(short, long)]
    watch: bool,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let parent = ctx.full(&a.name);
    if a.watch {
        return watch(ctx, &client, parent).await;
    }
    let mut ask = ListInstanceEventsRequest { parent, page_size: 1000, ..Default::default() };
    let mut all = ListInstanceEventsResponse::default();
    loop {
        let page = client
            .call(ask.clone(), |ch, r| async move { InstancesClient::new(ch).list_instance_events(r).await })
            .await?;
        all.events.extend(page.events);
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    let lines = || all.events.iter().map(line).collect::<Vec<_>>().join("\n");
    ctx.out.document(&all, lines, lines)?;
    Ok(exit::OK)
}

async fn watch(ctx: &Ctx<'_>, client: &Client, parent: String) -> Done {
    let mut ask = WatchInstanceEventsRequest { parent, resume_token: String::new() };
    loop {
        let mut events = client
            .stream(
                ask.clone(),
                |ch, r| async move { InstancesClient::new(ch).watch_instance_events(r).await },
            )
            .await?;
        let lost = loop {
            let e = tokio::select! {
                e = events.next() => e,
                _ = tokio::signal::ctrl_c() => return Ok(exit::INTERRUPTED),
            };
            match e {
                // it ends with the instance
                None => return Ok(exit::OK),
                Some(Err(s)) => break s,
                Some(Ok(e)) => {
                    ask.resume_token.clone_from(&e.resume_token);
                    if let Some(Event::Item(i)) = &e.event {
                        ctx.out.item(i, || line(i))?;
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

fn line(e: &InstanceEvent) -> String {
    let some = |s: &str| if s.is_empty() { String::new() } else { format!("  {s}") };
    let step = if e.step.is_empty() { String::new() } else { format!(" {}", e.step) };
    format!(
        "{:>4}  {}  {}{step}{}{}{}",
        e.seq,
        render::time(e.time.as_ref()),
        e.r#type,
        some(&e.reason),
        some(&e.message),
        some(&e.actor)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let e = InstanceEvent {
            seq: 7,
            r#type: "step_outcome".into(),
            step: "app-0".into(),
            reason: "CRASH_LOOP".into(),
            message: "it exits".into(),
            ..Default::default()
        };
        assert_eq!(line(&e), "   7  -  step_outcome app-0  CRASH_LOOP  it exits");
    }
}
