//! `sypctl scale`: more or fewer replicas; those that stay are not touched.
use super::{Ctx, choices, set};
use crate::{
    args::Work,
    change::{self, Change},
    failure::Done,
    parse,
};
use syp_proto::v1::{Instance, InstanceSpec};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl scale shop --replicas 3\n  sypctl scale shop --replicas 1-5 --target-cpu 60    (on a cluster with a metrics server)\n  sypctl scale shop --replicas 1-5 --target-rps 50    (on a cluster with an external metrics API)\n  sypctl scale shop --replicas 1 --plan"
)]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
    /// How many; on a cluster also a range in which the cluster chooses, such as 1-5
    #[arg(long, value_parser = parse::range, value_name = "N|MIN-MAX", allow_negative_numbers = true)]
    replicas: (i32, i32),
    /// With a range: how busy the app shall be, in percent of its --cpu [default: 70]
    #[arg(long, value_parser = parse::percent, value_name = "PERCENT", allow_negative_numbers = true)]
    target_cpu: Option<i32>,
    /// With a range: how many admitted requests a second a replica shall get; the cluster needs an external metrics API
    #[arg(long, value_parser = parse::rps, value_name = "N", allow_negative_numbers = true)]
    target_rps: Option<f64>,
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
    let scaling = Some(choices::scaling(a.replicas, a.target_cpu, a.target_rps));
    let spec = Some(InstanceSpec { scaling, ..Default::default() });
    let instance = Instance { spec, ..Default::default() };
    let r = set::update(ctx.full(&a.name), instance, vec!["spec.scaling".into()]);
    change::run(ctx, Change::Update(Box::new(r)), &a.name, a.plan, a.work).await
}
