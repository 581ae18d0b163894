//! `sypctl receipt`: the proof of a teardown.
use super::Ctx;
use crate::{
    client::Client,
    exit,
    failure::{Done, Failure},
    parse, render,
};
use syp_proto::v1::{
    GetTeardownReceiptRequest, Resource, TeardownReceipt, instances_client::InstancesClient, resource::Phase,
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl receipt shop
  sypctl receipt shop --verify
  sypctl receipt shop@0af3 -o json

--verify lists the provider again, now. Exit code 9: something is left.")]
pub struct Args {
    /// Name, the newest that is destroyed; or NAME@UID
    #[arg(value_parser = parse::name)]
    name: String,
    /// Look at the provider again
    #[arg(long)]
    verify: bool,
}

/// Runs it.
///
/// # Errors
/// What the engine said; 9 when something is left.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let r = get(&client, ctx.full(&a.name), a.verify).await?;
    ctx.out.document(&r, || text(&r, ctx.out.colours), || parse::short_name(&r.name).to_owned())?;
    problem(&r).map_or(Ok(exit::OK), Err)
}

/// Asks for a receipt.
///
/// # Errors
/// What the engine said.
pub async fn get(c: &Client, name: String, verify_now: bool) -> Result<TeardownReceipt, Failure> {
    let ask = GetTeardownReceiptRequest { name, verify_now };
    c.call_provider(ask, |ch, r| async move { InstancesClient::new(ch).get_teardown_receipt(r).await }).await
}

/// A receipt in one line.
pub fn summary(r: &TeardownReceipt) -> String {
    let cost = match &r.total_cost {
        Some(m) if r.price_note.is_empty() => render::money(m),
        Some(m) => format!("{} ({})", render::money(m), r.price_note),
        None if r.price_note.is_empty() => "unknown".into(),
        None => r.price_note.clone(),
    };
    format!(
        "{} is destroyed: {} made, {} gone, {} left ({}, {}); total cost {cost}",
        parse::short_name(&r.name),
        r.created_count,
        r.verified_gone_count,
        r.residuals.len(),
        r.verify_method,
        render::time(r.verify_time.as_ref()),
    )
}

/// Exit code 9 when it is not clean.
pub fn problem(r: &TeardownReceipt) -> Option<Failure> {
    let name = parse::short_name(&r.name);
    let left = |what: String| {
        let next = format!("remove it at the provider, then 'sypctl receipt {name} --verify'");
        Some(Failure::new(exit::RESIDUALS, "RESIDUAL_RESOURCES", what, next))
    };
    if !r.residuals.is_empty() {
        let ids: Vec<_> = r.residuals.iter().map(id).collect();
        return left(format!("{name} has left {}: {}", r.residuals.len(), ids.join(", ")));
    }
    if r.verified_gone_count < r.created_count {
        return left(format!(
            "{name}: {} of {} are not verified to be gone",
            r.created_count - r.verified_gone_count,
            r.created_count
        ));
    }
    None
}

fn id(r: &Resource) -> String {
    let id = if r.provider_id.is_empty() { &r.deterministic_id } else { &r.provider_id };
    format!("{} {id}", r.kind)
}

fn text(r: &TeardownReceipt, colours: bool) -> String {
    let row = |x: &Resource| {
        let phase = if x.phase() == Phase::Unspecified { "RESIDUAL" } else { x.phase().as_str_name() };
        vec![
            x.kind.clone(),
            x.deterministic_id.clone(),
            phase.to_owned(),
            render::time(x.create_time.as_ref()),
            render::time(x.verified_gone_time.as_ref()),
        ]
    };
    // residuals that the ledger has too are shown once
    let extra =
        r.residuals.iter().filter(|x| !r.resources.iter().any(|y| y.deterministic_id == x.deterministic_id));
    let rows = r.resources.iter().chain(extra).map(row);
    format!("{}\n{}", render::table(&["KIND", "ID", "PHASE", "MADE", "GONE"], rows, colours), summary(r))
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::google::r#type::Money;

    fn clean() -> TeardownReceipt {
        TeardownReceipt {
            name: "projects/p/instances/shop@1".into(),
            created_count: 2,
            verified_gone_count: 2,
            verify_method: "listing by label at the provider".into(),
            total_cost: Some(Money { currency_code: "EUR".into(), units: 0, nanos: 300_000 }),
            ..Default::default()
        }
    }

    #[test]
    fn a_clean_receipt_is_one_line() {
        assert_eq!(
            summary(&clean()),
            "shop is destroyed: 2 made, 2 gone, 0 left (listing by label at the provider, -); total cost 0.0003 EUR"
        );
        assert!(problem(&clean()).is_none());
    }

    #[test]
    fn what_is_left_is_exit_code_9() {
        let mut r = clean();
        r.residuals.push(Resource {
            kind: "docker.container".into(),
            provider_id: "abc".into(),
            ..Default::default()
        });
        let f = problem(&r).unwrap();
        assert_eq!((f.exit(), f.message()), (9, "shop has left 1: docker.container abc"));
        assert!(text(&r, false).contains("docker.container"));
        r.residuals.clear();
        r.verified_gone_count = 1;
        assert_eq!(problem(&r).unwrap().exit(), 9);
    }
}
