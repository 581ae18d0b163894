//! `sypctl rollback`: back to an earlier revision, with that one's very image. Who may call stays as it is.
use super::{Ctx, request_id};
use crate::{
    args::Work,
    change::{self, Change},
    failure::Done,
    parse,
};
use syp_proto::v1::RollbackInstanceRequest;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl rollback shop              (the newest revision before this one that served)\n  sypctl rollback shop shop-2\n  sypctl rollback shop --plan\n\nIt makes a new revision like the old one. Access, time to live and labels are not part of revisions and stay."
)]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
    /// The revision, by name or number, as 'sypctl revisions' lists it
    #[arg(default_value = "", value_name = "REVISION")]
    revision: String,
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
    let r = RollbackInstanceRequest {
        name: ctx.full(&a.name),
        revision_id: a.revision.clone(),
        request_id: request_id(),
        ..Default::default()
    };
    change::run(ctx, Change::Rollback(r), &a.name, a.plan, a.work).await
}
