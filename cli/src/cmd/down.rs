//! `sypctl down`: drains, destroys, proves that nothing is left.
use super::{Ctx, filter, list, receipt, transition, up};
use crate::{
    args::Work,
    client::Client,
    exit,
    failure::{Done, Failure},
    follow, output, parse, plan,
};
use std::time::Duration;
use syp_proto::{
    google::longrunning::Operation,
    v1::{TeardownReceipt, instance::State, plan_instance_request::Action},
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl down shop
  sypctl down -l team=ml --yes
  sypctl down --all --yes

Ends with the receipt: what was made, that it is gone, and what it has cost. Exit code 9: something is left.")]
pub struct Args {
    /// Names
    #[arg(value_parser = parse::name, required_unless_present_any = ["all", "labels"], conflicts_with_all = ["all", "labels"])]
    names: Vec<String>,
    /// Every instance with this label (NAME=VALUE, several with commas)
    #[arg(short = 'l', long = "label", value_parser = parse::selector, value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Every instance of the project
    #[arg(long)]
    all: bool,
    /// How long requests in flight may take
    #[arg(long, value_parser = parse::duration, value_name = "TIME")]
    grace: Option<Duration>,
    /// Even when it is protected
    #[arg(long)]
    force: bool,
    /// Only show what would be removed
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    work: Work,
}

/// Runs it.
///
/// # Errors
/// What the engine said, what the work failed with, 9 when something is left.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let bulk = a.all || !a.labels.is_empty();
    if bulk && !a.work.yes && !a.plan && !ctx.out.may_ask() {
        return Err(Failure::usage("several at once need --yes where nobody can be asked"));
    }
    let client = ctx.client().await?;
    let names = if bulk {
        let found = list(&client, ctx.parent(), filter(&a.labels, None), false).await?;
        found.instances.iter().map(|i| parse::short_name(&i.name).to_owned()).collect()
    } else {
        a.names.clone()
    };
    if names.is_empty() {
        ctx.out.note("nothing to take down");
    }
    if a.plan {
        for n in &names {
            let r = transition::request(ctx.full(n), State::Destroyed, a.grace, a.force);
            plan::show(ctx, &client, Action::Transition(r)).await?;
        }
        return Ok(exit::OK);
    }
    if !a.work.yes && ctx.out.may_ask() && !names.is_empty() {
        let question = format!("Take down {} ({}) for good?", names.join(", "), names.len());
        if !ctx.out.ask(&question, false) {
            return Err(Failure::new(exit::FAILED, "", "nothing was done", ""));
        }
    }
    several(ctx, &client, &a, &names, bulk || names.len() > 1).await
}

/// All are begun before the first one is waited for; one that fails does not keep the others from being told.
async fn several(ctx: &Ctx<'_>, c: &Client, a: &Args, names: &[String], many: bool) -> Done {
    let mut begun: Vec<(&String, Result<Operation, Failure>)> = Vec::new();
    for n in names {
        let r = transition::request(ctx.full(n), State::Destroyed, a.grace, a.force);
        begun.push((n, transition::start(c, r).await));
    }
    let (mut receipts, mut worst) = (Vec::new(), None::<Failure>);
    for (n, op) in begun {
        let done = match op {
            Ok(op) if a.work.no_wait => up::accepted(ctx, &op, n).map(|_| None),
            Ok(op) => one(ctx, c, op, n).await.map(Some),
            Err(f) => Err(f),
        };
        match done {
            Ok(None) => {}
            Ok(Some(r)) => {
                worst = receipt::problem(&r).or(worst);
                if many && ctx.out.format != output::Format::Json && ctx.out.format != output::Format::Yaml {
                    ctx.out.data(format!("{n}: {}", receipt::summary(&r)));
                }
                receipts.push(r);
            }
            Err(f) if matches!(f.exit(), exit::INTERRUPTED) => return Err(f),
            Err(f) => {
                if let Some(earlier) = worst.replace(f) {
                    ctx.out.failure(&earlier);
                }
            }
        }
    }
    match (many, receipts.as_slice()) {
        (false, [r]) => {
            ctx.out.document(r, || receipt::summary(r), || parse::short_name(&r.name).to_owned())?
        }
        (true, all)
            if matches!(ctx.out.format, output::Format::Json | output::Format::Yaml) && !a.work.no_wait =>
        {
            let all: Result<Vec<_>, _> = all.iter().map(output::json).collect();
            ctx.out.value(&serde_json::json!({"receipts": all?}))?;
        }
        _ => {}
    }
    worst.map_or(Ok(exit::OK), Err)
}

async fn one(ctx: &Ctx<'_>, c: &Client, op: Operation, name: &str) -> Result<TeardownReceipt, Failure> {
    let op = if op.done { op } else { follow::operation(c, ctx.out, &op.name, ctx.limit()).await? };
    follow::outcome(&op)?;
    let full = ctx.full(&format!("{}@{}", parse::short_name(name), follow::uid(&op.name)));
    receipt::get(c, full, false).await
}
