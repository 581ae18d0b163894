//! `sypctl drift`: what of an instance is no longer as it was made, because somebody changed it at the provider.
use super::{Ctx, request_id, up};
use crate::{
    args::Work,
    exit,
    failure::{Done, Failure},
    follow, parse, render,
};
use prost::Message;
use syp_proto::{
    google::longrunning::operation,
    v1::{CheckDriftRequest, DriftReport, instances_client::InstancesClient},
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl drift shop\n  sypctl drift shop --fix\n\nThe engine looks by itself every few minutes, and repairs ('sypctl set NAME --on-drift report': only tells). This looks at once\nand more closely: on AWS each resource of the stack is compared with its template, which takes a minute. Found and not repaired: exit code 1."
)]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
    /// Bring back what was changed
    #[arg(long)]
    fix: bool,
    #[command(flatten)]
    work: Work,
}

/// Runs it.
///
/// # Errors
/// What the engine said, that something differs, or what the repair failed with.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let asks = a.fix && !a.work.yes && ctx.out.may_ask();
    let ask = |fix| CheckDriftRequest {
        name: ctx.full(&a.name),
        fix,
        request_id: request_id(),
        ..Default::default()
    };
    let send = |fix| {
        client.call_provider(ask(fix), |ch, r| async move { InstancesClient::new(ch).check_drift(r).await })
    };
    let mut op = send(a.fix && !asks).await?;
    let mut report = read(op.result.as_ref())?;
    if asks && report.drifted {
        ctx.out.note(text(&report));
        if !ctx.out.ask("Bring it back?", true) {
            return Err(Failure::new(exit::FAILED, "", "nothing was done", ""));
        }
        op = send(true).await?;
        report = read(op.result.as_ref())?;
    }
    if a.fix && report.drifted {
        if a.work.no_wait {
            return up::accepted(ctx, &op, &a.name);
        }
        let end = follow::operation(&client, ctx.out, &op.name, ctx.limit()).await?;
        follow::outcome(&end)?;
    }
    let words =
        || if a.fix && report.drifted { format!("{}\nbrought back", text(&report)) } else { text(&report) };
    let names = || report.differences.iter().map(|d| d.id.as_str()).collect::<Vec<_>>().join("\n");
    ctx.out.document(&report, words, names)?;
    if report.drifted && !a.fix {
        let what = format!("{} is not as it was made", a.name);
        return Err(Failure::new(
            exit::FAILED,
            "DRIFT",
            what,
            format!("'sypctl drift {} --fix' brings it back", a.name),
        ));
    }
    Ok(exit::OK)
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
    use syp_proto::v1::plan::PlannedResource;

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
