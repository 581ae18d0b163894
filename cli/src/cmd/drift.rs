//! `sypctl drift`: what of an instance is no longer as it was made, because somebody changed it at the provider.
use super::{Ctx, request_id, up};
use crate::{
    args::Work,
    exit,
    failure::{Done, Failure},
    follow, parse, render,
};
use prost::Message;
use std::time::Duration;
use syp_proto::{
    google::longrunning::operation,
    v1::{
        CheckDriftRequest, DriftReport,
        instances_client::InstancesClient,
        plan::{Change, PlannedResource},
    },
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl drift shop\n  sypctl drift shop --fix\n\nThe engine looks by itself every few minutes, and repairs ('sypctl set NAME --on-drift report': only tells). This looks at once\nand more closely: on AWS each resource of the stack is compared with its template, which takes a minute; what only that finds, AWS has to bring back. Found and not brought back: exit code 1."
)]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
    /// Bring back what the engine can: what is gone, does not run, or has another template
    #[arg(long)]
    fix: bool,
    #[command(flatten)]
    work: Work,
}

/// A look takes AWS up to two minutes for each stack.
const LOOK: Duration = Duration::from_mins(5);

/// Runs it.
///
/// # Errors
/// What the engine said, that something differs, or what the repair failed with.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let asks = a.fix && !a.work.yes && ctx.out.may_ask();
    let send = |fix| {
        let ask = CheckDriftRequest {
            name: ctx.full(&a.name),
            fix,
            request_id: request_id(),
            ..Default::default()
        };
        client.call_for(LOOK, ask, |ch, r| async move { InstancesClient::new(ch).check_drift(r).await })
    };
    let mut op = send(a.fix && !asks).await?;
    let mut report = read(op.result.as_ref())?;
    if asks && report.differences.iter().any(mends) {
        ctx.out.note(text(&report));
        if !ctx.out.ask("Bring it back?", true) {
            return Err(Failure::new(exit::FAILED, "", "nothing was done", ""));
        }
        op = send(true).await?;
        report = read(op.result.as_ref())?;
    }
    let mended = a.fix && report.differences.iter().any(mends);
    if mended {
        if a.work.no_wait {
            return up::accepted(ctx, &op, &a.name);
        }
        let end = follow::operation(&client, ctx.out, &op.name, ctx.limit()).await?;
        follow::outcome(&end)?;
    }
    let words = || if mended { format!("{}\nbrought back", text(&report)) } else { text(&report) };
    let names = || report.differences.iter().map(|d| d.id.as_str()).collect::<Vec<_>>().join("\n");
    ctx.out.document(&report, words, names)?;
    // what nobody but the provider brings back stays, whoever asks
    let left = report.differences.iter().filter(|d| !mended || !mends(d)).count();
    if left == 0 {
        return Ok(exit::OK);
    }
    let what = format!("{} is not as it was made", a.name);
    let next = if report.differences.iter().any(mends) && !mended {
        format!("'sypctl drift {} --fix' brings it back", a.name)
    } else {
        "change it back where it was changed; on AWS a change set with deployment mode REVERT_DRIFT does"
            .to_owned()
    };
    Err(Failure::new(exit::FAILED, "DRIFT", what, next))
}

/// Can the engine bring it back?
fn mends(d: &PlannedResource) -> bool {
    d.change() == Change::Update
}

fn read(said: Option<&operation::Result>) -> Result<DriftReport, Failure> {
    match said {
        Some(operation::Result::Response(any)) => {
            Ok(DriftReport::decode(any.value.as_slice()).map_err(anyhow::Error::from)?)
        }
        Some(operation::Result::Error(s)) => Err(Failure::of_operation(s)),
        None => Ok(DriftReport::default()),
    }
}

fn text(r: &DriftReport) -> String {
    if !r.drifted {
        return format!("nothing differs, as of {}", render::time(r.check_time.as_ref()));
    }
    r.differences.iter().map(|d| d.id.as_str()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_a_line_each() {
        let one = |id: &str| PlannedResource { id: id.into(), ..Default::default() };
        let r = DriftReport {
            drifted: true,
            differences: vec![one("a was changed: x"), one("b is gone")],
            ..Default::default()
        };
        assert_eq!(text(&r), "a was changed: x\nb is gone");
        assert!(text(&DriftReport::default()).starts_with("nothing differs"));
    }
}
