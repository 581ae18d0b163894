//! `sypctl sweep`: what carries our labels and belongs to nobody.
use super::{Ctx, request_id};
use crate::{
    exit,
    failure::{Done, Failure},
    render,
};
use prost::Message;
use syp_proto::{
    google::longrunning::operation,
    v1::{SweepOrphansRequest, SweepReport, providers_client::ProvidersClient},
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl sweep\n  sypctl sweep --provider docker --delete\n  sypctl sweep --provider aws                # each region where an instance is or was\n\nWithout --delete it only lists. Without --provider it looks wherever an instance of this engine is or has been."
)]
pub struct Args {
    /// Only at this provider, or at all of this kind
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Remove what is found
    #[arg(long)]
    delete: bool,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    if a.delete && !a.yes && ctx.out.may_ask() && !ctx.out.ask("Remove what is found for good?", false) {
        return Err(Failure::new(exit::FAILED, "", "nothing was done", ""));
    }
    let ask = SweepOrphansRequest {
        provider: a.provider.unwrap_or_default(),
        delete: a.delete,
        request_id: request_id(),
        ..Default::default()
    };
    let op = client
        .call_provider(ask, |ch, r| async move { ProvidersClient::new(ch).sweep_orphans(r).await })
        .await?;
    let report = match &op.result {
        Some(operation::Result::Response(any)) => {
            SweepReport::decode(any.value.as_slice()).map_err(anyhow::Error::from)?
        }
        Some(operation::Result::Error(s)) => return Err(Failure::of_operation(s)),
        None => SweepReport::default(),
    };
    let names = || report.orphans.iter().map(|r| r.deterministic_id.as_str()).collect::<Vec<_>>().join("\n");
    ctx.out.document(&report, || text(&report, a.delete, ctx.out.colours), names)?;
    if !report.left.is_empty() {
        let what = format!("still there: {}", report.left.join("\n"));
        return Err(Failure::new(
            exit::FAILED,
            "RESIDUAL_RESOURCES",
            what,
            "do what is said there, then sweep again",
        ));
    }
    if report.unreachable.is_empty() {
        return Ok(exit::OK);
    }
    let what = format!("not looked at: {}", report.unreachable.join("; "));
    Err(Failure::new(exit::UNAVAILABLE, "PROVIDER_UNREACHABLE", what, "make it reachable, then sweep again"))
}

fn text(r: &SweepReport, deleted: bool, colours: bool) -> String {
    if r.orphans.is_empty() {
        return "nothing of ours is left over".into();
    }
    let rows = r.orphans.iter().map(|o| [o.kind.clone(), o.deterministic_id.clone(), o.provider_id.clone()]);
    let below = if deleted {
        format!("{} of {} removed", r.deleted_count, r.orphans.len())
    } else {
        format!("{} found; 'sypctl sweep --delete' removes them", r.orphans.len())
    };
    format!("{}\n{below}", render::table(&["KIND", "ID", "AT PROVIDER"], rows, colours))
}
