//! `sypctl transition`: the raw primitive.
use super::{Ctx, get, request_id, up};
use crate::{
    args::Work,
    client::Client,
    exit,
    failure::{Done, Failure},
    follow, parse, plan, render,
};
use std::time::Duration;
use syp_proto::{
    google::longrunning::Operation,
    v1::{
        TransitionInstanceRequest, instance::State, instances_client::InstancesClient,
        plan_instance_request::Action,
    },
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl transition shop --to draining --if-state serving
  sypctl transition shop --to serving
  sypctl transition shop --to destroyed --plan")]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
    /// The state to go to
    #[arg(long, value_parser = ["serving", "draining", "destroyed"], ignore_case = true, value_name = "STATE")]
    to: String,
    /// Only when it is in this state
    #[arg(long, value_parser = ["pending", "provisioning", "serving", "draining", "destroyed"], ignore_case = true, value_name = "STATE")]
    if_state: Option<String>,
    /// How long requests in flight may take
    #[arg(long, value_parser = parse::duration, value_name = "TIME")]
    grace: Option<Duration>,
    /// Even when it is protected
    #[arg(long)]
    force: bool,
    /// Only show what would happen
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    work: Work,
}

/// A state by its name.
fn state(text: &str) -> State {
    State::from_str_name(&text.to_uppercase()).unwrap_or(State::Unspecified)
}

/// A request for a transition.
pub fn request(name: String, to: State, grace: Option<Duration>, force: bool) -> TransitionInstanceRequest {
    TransitionInstanceRequest {
        name,
        to: to as i32,
        grace: grace.map(parse::proto_duration),
        force,
        request_id: request_id(),
        ..Default::default()
    }
}

/// Asks for a transition.
///
/// # Errors
/// What the engine said.
pub async fn start(c: &Client, r: TransitionInstanceRequest) -> Result<Operation, Failure> {
    c.call(r, |ch, r| async move { InstancesClient::new(ch).transition_instance(r).await }).await
}

/// Runs it.
///
/// # Errors
/// What the engine said, or what the work failed with.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let mut r = request(ctx.full(&a.name), state(&a.to), a.grace, a.force);
    r.if_state = a.if_state.as_deref().map_or(State::Unspecified, state) as i32;
    if a.plan {
        return plan::show(ctx, &client, Action::Transition(r)).await;
    }
    if r.to() == State::Destroyed && !a.work.yes && ctx.out.may_ask() {
        let question = format!("Take down {} for good?", a.name);
        if !ctx.out.ask(&question, false) {
            return Err(Failure::new(exit::FAILED, "", "nothing was done", ""));
        }
    }
    let op = start(&client, r).await?;
    finish(ctx, &client, op, &a.name, a.work.no_wait).await
}

/// Follows the work and shows the instance after it.
///
/// # Errors
/// What the work failed with.
pub async fn finish(ctx: &Ctx<'_>, c: &Client, op: Operation, name: &str, no_wait: bool) -> Done {
    if no_wait {
        return up::accepted(ctx, &op, name);
    }
    let op = if op.done { op } else { follow::operation(c, ctx.out, &op.name, ctx.limit()).await? };
    follow::outcome(&op)?;
    let i = get(c, ctx.full(&format!("{}@{}", parse::short_name(name), follow::uid(&op.name)))).await?;
    ctx.out.document(
        &i,
        || format!("{} is {}", parse::short_name(name), render::state(i.state)),
        || parse::short_name(name).to_owned(),
    )?;
    Ok(exit::OK)
}
