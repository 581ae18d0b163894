//! `sypctl prices`: the list prices of a provider by which what is made there is counted.
use super::{Ctx, request_id};
use crate::{exit, failure::Done, render};
use syp_proto::v1::{
    GetPricesRequest, PriceList, RefreshPricesRequest, costs_client::CostsClient, price_list::Price,
};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// The list prices that count, with their date and source
    #[command(
        after_help = "Examples:\n  sypctl prices show aws:eu-west-1\n  sypctl prices show aws:eu-west-1 -o json"
    )]
    Show {
        /// Of this target
        #[arg(value_name = "TARGET")]
        target: String,
    },
    /// Read the provider's list prices of today; they count from now on, what was spent before stays as it was
    #[command(
        after_help = "Examples:\n  sypctl prices refresh aws:eu-west-1 --plan\n  sypctl prices refresh aws:eu-west-1\n\nThe program comes with the prices of us-east-1. Those of another region are read by the first 'up' there, and again only by this\ncommand: a rate does not change by itself. They are public list prices; discounts of an account are on its bill ('sypctl cost NAME')."
    )]
    Refresh {
        /// Of this target
        #[arg(value_name = "TARGET")]
        target: String,
        /// Only show what would change
        #[arg(long)]
        plan: bool,
    },
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, c: Command) -> Done {
    let client = ctx.client().await?;
    match c {
        Command::Show { target } => {
            let ask = GetPricesRequest { target };
            let list =
                client.call(ask, |ch, r| async move { CostsClient::new(ch).get_prices(r).await }).await?;
            ctx.out.document(&list, || text(&list, None, ctx.out.colours), || keys(&list))?;
        }
        Command::Refresh { target, plan } => {
            let ask = RefreshPricesRequest { target, request_id: request_id(), validate_only: plan };
            let said = client
                .call_provider(ask, |ch, r| async move { CostsClient::new(ch).refresh_prices(r).await })
                .await?;
            let (new, former) =
                (said.prices.clone().unwrap_or_default(), said.former.clone().unwrap_or_default());
            let words = || {
                let then = if plan { "would count" } else { "count from now on" };
                format!(
                    "{}\n\n{then}; {}",
                    text(&new, Some(&former), ctx.out.colours),
                    changed(&new, &former)
                )
            };
            ctx.out.document(&said, words, || keys(&new))?;
        }
    }
    Ok(exit::OK)
}

fn keys(list: &PriceList) -> String {
    list.prices.iter().map(|p| format!("{} {}", p.key, p.amount)).collect::<Vec<_>>().join("\n")
}

fn held<'a>(list: &'a PriceList, p: &Price) -> Option<&'a str> {
    list.prices.iter().find(|h| h.key == p.key).map(|h| h.amount.as_str())
}

fn changed(new: &PriceList, former: &PriceList) -> String {
    let other = new.prices.iter().filter(|p| held(former, p) != Some(&p.amount)).count();
    if former.prices.is_empty() {
        "none were known before".into()
    } else {
        format!("{other} of {} are other than before", new.prices.len())
    }
}

fn text(list: &PriceList, former: Option<&PriceList>, colours: bool) -> String {
    if list.prices.is_empty() {
        return format!(
            "none of {} are known: 'sypctl prices refresh {}' reads them",
            list.target, list.target
        );
    }
    let mut heads = vec!["PRICE OF", "AMOUNT", "UNIT", "ON THE BILL"];
    heads.extend(former.map(|_| "BEFORE"));
    let row = |p: &Price| {
        let amount = format!("{} {}", p.amount, list.currency_code);
        let mut row = vec![p.key.replace('_', " "), amount, p.unit.clone(), p.usage_type.clone()];
        row.extend(former.map(|f| held(f, p).unwrap_or("-").to_owned()));
        row
    };
    let table = render::table(&heads, list.prices.iter().map(row), colours);
    format!("{table}\n\n{}, as of {}", list.source, render::time(list.as_of.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_stands_beside_what_was() {
        let price = |key: &str, amount: &str| Price {
            key: key.into(),
            unit: "hour".into(),
            amount: amount.into(),
            usage_type: "EU-X".into(),
        };
        let list = |prices: Vec<Price>| PriceList {
            target: "aws:eu-west-1".into(),
            currency_code: "USD".into(),
            source: "the list".into(),
            prices,
            ..Default::default()
        };
        let former = list(vec![price("alb_hour", "0.02"), price("secret_month", "0.4")]);
        let new = list(vec![price("alb_hour", "0.03"), price("secret_month", "0.4")]);
        let said = text(&new, Some(&former), false);
        let line = said.lines().find(|l| l.contains("alb hour")).unwrap();
        assert!(line.contains("0.03 USD") && line.ends_with("0.02"), "{said}");
        assert_eq!(changed(&new, &former), "1 of 2 are other than before");
        assert_eq!(changed(&new, &list(vec![])), "none were known before");
        assert!(text(&list(vec![]), None, false).contains("sypctl prices refresh aws:eu-west-1"));
    }
}
