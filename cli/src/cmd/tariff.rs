//! `sypctl tariff`: what energy costs here.
use super::{Ctx, request_id};
use crate::{exit, failure::Done, plan, render};
use syp_proto::v1::{
    ListTariffsRequest, SetTariffRequest, Tariff, costs_client::CostsClient, plan_instance_request::Action,
};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// What energy costs, and has cost
    #[command(after_help = "Examples:\n  sypctl tariff show\n  sypctl tariff show -o json")]
    Show,
    /// Another price from now on; what was spent before stays as it was
    #[command(
        after_help = "Examples:\n  sypctl tariff set --per-kwh 0.31 --plan\n  sypctl tariff set --per-kwh 0.31\n  sypctl tariff set --watts-per-core 6.5 --watts-per-gib 0.3 --idle-watts 20\n\nThe rate of a replica is (cores x watts per core + GiB x watts per GiB + its share of the idle watts) x price per kWh, from its limits;\nthe share is what it reserves of the host's cores. What it really draws is shown by 'sypctl cost NAME': by the host's own counters\nwhere the engine can read them (RAPL, as root), else by processor time and these watts."
    )]
    Set(Set),
}

/// A price. What is not said stays.
#[derive(Debug, clap::Args)]
pub struct Set {
    #[command(flatten)]
    price: Price,
    /// Only show what every instance would cost from then on
    #[arg(long)]
    plan: bool,
}

/// What can be said of it.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub struct Price {
    /// Price of a kWh, in the engine's currency
    #[arg(long, default_value = "", allow_negative_numbers = true, value_name = "PRICE")]
    per_kwh: String,
    /// Watts of a busy core beyond the idle ones, its share of fans and supply included
    #[arg(long, default_value = "", allow_negative_numbers = true, value_name = "WATTS")]
    watts_per_core: String,
    /// Watts of a GiB of memory
    #[arg(long, default_value = "", allow_negative_numbers = true, value_name = "WATTS")]
    watts_per_gib: String,
    /// Watts of the whole host when it does nothing [default: 0.74 a core]
    #[arg(long, default_value = "", value_name = "WATTS")]
    idle_watts: String,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, c: Command) -> Done {
    let client = ctx.client().await?;
    match c {
        Command::Show => {
            let ask = ListTariffsRequest { page_size: 1000, ..Default::default() };
            let all =
                client.call(ask, |ch, r| async move { CostsClient::new(ch).list_tariffs(r).await }).await?;
            let rows = all.tariffs.iter().map(row);
            let heads = ["SINCE", "PER KWH", "WATTS PER CORE", "WATTS PER GIB", "IDLE WATTS", "BY"];
            let table = || render::table(&heads, rows, ctx.out.colours);
            ctx.out.document(&all, table, || {
                all.tariffs.first().map_or_else(String::new, |t| t.per_kwh.clone())
            })?;
        }
        Command::Set(Set { price: s, plan: only_plan }) => {
            let tariff = Tariff {
                per_kwh: s.per_kwh,
                watts_per_core: s.watts_per_core,
                watts_per_gib: s.watts_per_gib,
                idle_watts: s.idle_watts,
                ..Default::default()
            };
            let ask =
                SetTariffRequest { tariff: Some(tariff), request_id: request_id(), validate_only: false };
            if only_plan {
                return plan::show(ctx, &client, Action::SetTariff(ask)).await;
            }
            let t = client.call(ask, |ch, r| async move { CostsClient::new(ch).set_tariff(r).await }).await?;
            let words = || {
                format!(
                    "from now on {} {} a kWh, {} W a core, {} W a GiB, {} W idle",
                    t.per_kwh, t.currency_code, t.watts_per_core, t.watts_per_gib, t.idle_watts
                )
            };
            ctx.out.document(&t, words, || t.per_kwh.clone())?;
        }
    }
    Ok(exit::OK)
}

fn row(t: &Tariff) -> Vec<String> {
    vec![
        t.from_time.as_ref().map_or_else(|| "the first start".into(), |x| render::time(Some(x))),
        format!("{} {}", t.per_kwh, t.currency_code),
        t.watts_per_core.clone(),
        t.watts_per_gib.clone(),
        t.idle_watts.clone(),
        t.creator.clone(),
    ]
}
