//! `sypctl drain`: stops new requests, finishes those in flight, stays there until `down`.
use super::{Ctx, transition};
use crate::{args::Work, failure::Done, parse, plan};
use std::time::Duration;
use syp_proto::v1::{instance::State, plan_instance_request::Action};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl drain shop\n  sypctl drain shop --grace 60s\n\nIt stays draining until 'sypctl down shop', or goes back with 'sypctl transition shop --to serving'."
)]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
    /// How long requests in flight may take
    #[arg(long, value_parser = parse::duration, value_name = "TIME")]
    grace: Option<Duration>,
    /// Only show what would happen
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    work: Work,
}

/// Runs it.
///
/// # Errors
/// What the engine said, or what the work failed with.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let r = transition::request(ctx.full(&a.name), State::Draining, a.grace, false);
    if a.plan {
        return plan::show(ctx, &client, Action::Transition(r)).await;
    }
    let op = transition::start(&client, r).await?;
    transition::finish(ctx, &client, op, &a.name, a.work.no_wait).await
}
