//! `sypctl cost`: rate now, accrued so far.
use super::{Ctx, list};
use crate::{exit, failure::Done, parse, render};
use syp_proto::v1::{CostSummary, GetCostRequest, costs_client::CostsClient};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl cost shop\n  sypctl cost            (every instance)\n  sypctl cost shop -o json"
)]
pub struct Args {
    /// Name, perhaps with @uid; without it every instance
    #[arg(value_parser = parse::name)]
    name: Option<String>,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let Some(name) = a.name else {
        let all = list(&client, ctx.parent(), String::new(), false).await?;
        let rows = all.instances.iter().map(|i| {
            let c = i.cost.clone().unwrap_or_default();
            let m = [&c.rate_per_hour, &c.projected_month, &c.accrued].map(|m| render::money_or(m.as_ref()));
            [parse::short_name(&i.name).to_owned()].into_iter().chain(m).collect::<Vec<_>>()
        });
        let text = || render::table(&["NAME", "PER HOUR", "PER MONTH", "ACCRUED"], rows, ctx.out.colours);
        let names =
            || all.instances.iter().map(|i| parse::short_name(&i.name)).collect::<Vec<_>>().join("\n");
        ctx.out.document(&all, text, names)?;
        return Ok(exit::OK);
    };
    let ask = GetCostRequest { name: ctx.full(&name), currency_code: String::new() };
    let c = client.call(ask, |ch, r| async move { CostsClient::new(ch).get_cost(r).await }).await?;
    ctx.out.document(&c, || text(&c), || name.clone())?;
    Ok(exit::OK)
}

fn text(c: &CostSummary) -> String {
    let how = render::accuracy(c);
    let billed = c.billed.as_ref().map_or_else(String::new, |m| {
        format!("{} as of {}", render::money(m), render::time(c.billed_as_of.as_ref()))
    });
    render::fields([
        ("Rate", format!("{} an hour", render::money_or(c.rate_per_hour.as_ref()))),
        ("Month", format!("{} if always on", render::money_or(c.projected_month.as_ref()))),
        ("Accrued", format!("{}{how}", render::money_or(c.accrued.as_ref()))),
        ("Billed", billed),
        ("Price", format!("{}, as of {}", c.price_source, render::time(c.price_as_of.as_ref()))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::{google::r#type::Money, v1::cost_summary::Accuracy};

    #[test]
    fn the_figures_are_labelled() {
        let m = |nanos| Some(Money { currency_code: "EUR".into(), units: 0, nanos });
        let c = CostSummary {
            rate_per_hour: m(3_000_000),
            accrued: m(1_000),
            projected_month: m(0),
            accuracy: Accuracy::Metered as i32,
            price_source: "power model x tariff".into(),
            ..Default::default()
        };
        assert_eq!(
            text(&c),
            "Rate     0.003 EUR an hour\nMonth    0.00 EUR if always on\nAccrued  0.000001 EUR (metered)\nPrice    power model x tariff, as of -"
        );
    }
}
