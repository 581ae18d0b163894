//! `sypctl scale`: more or fewer replicas; those that stay are not touched.
use super::{Ctx, set};
use crate::{
    args::Work,
    change::{self, Change},
    failure::Done,
    parse,
};
use syp_proto::v1::{Instance, InstanceSpec, Scaling};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl scale shop --replicas 3\n  sypctl scale shop --replicas 1 --plan"
)]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
    /// How many
    #[arg(long, value_parser = parse::replicas, allow_negative_numbers = true)]
    replicas: i32,
    /// Only show what would change and what it would cost
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
    let scaling = Some(Scaling { min: a.replicas, max: a.replicas, ..Default::default() });
    let spec = Some(InstanceSpec { scaling, ..Default::default() });
    let instance = Instance { spec, ..Default::default() };
    let r = set::update(ctx.full(&a.name), instance, vec!["spec.scaling".into()]);
    change::run(ctx, Change::Update(Box::new(r)), &a.name, a.plan, a.work).await
}
