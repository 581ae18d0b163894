//! `sypctl tariff`: what energy costs here, and what the nodes of clusters cost.
use super::{Ctx, request_id};
use crate::{exit, failure::Done, plan, render};
use syp_proto::v1::{
    ListTariffsRequest, SetTariffRequest, Tariff, costs_client::CostsClient, plan_instance_request::Action,
};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// What energy and nodes cost, and have cost
    #[command(after_help = "Examples:\n  sypctl tariff show\n  sypctl tariff show -o json")]
    Show,
    /// Another price from now on; what was spent before stays as it was
    #[command(
        after_help = "Examples:\n  sypctl tariff set --per-kwh 0.31 --plan\n  sypctl tariff set --per-kwh 0.31\n  sypctl tariff set --watts-per-core 6.5 --watts-per-gib 0.3 --idle-watts 20\n  sypctl tariff set k8s:prod --per-vcpu-hour 0.0333 --per-gib-hour 0.00447\n  sypctl tariff set k8s:prod --per-vcpu-hour 0.048 --per-gib-hour 0.006 --instance-type m5.large --region eu-west-1\n\nA k8s:CONTEXT is priced by what is requested x the price of its nodes. Of several prices the one that says most about a node counts\n(type, then zone, then region); an instance that may run on several kinds of nodes is priced by the dearest. A cluster without a price is\n'unpriced', but for kind's, whose nodes are this machine. A price may be set before its cluster is there.\n\nThe rate of a replica is (cores x watts per core + GiB x watts per GiB + its share of the idle watts) x price per kWh, from its limits;\nthe share is what it reserves of the host's cores. What it really draws is shown by 'sypctl cost NAME': by the host's own counters\nwhere the engine can read them (RAPL, as root), else by processor time and these watts."
    )]
    Set(Box<Set>),
}

/// A price. What is not said stays.
#[derive(Debug, clap::Args)]
pub struct Set {
    /// Of the nodes of this cluster (k8s:CONTEXT); without it of the energy that this machine draws
    #[arg(default_value = "", hide_default_value = true)]
    target: String,
    #[command(flatten)]
    price: Price,
    /// Of nodes of this type (label node.kubernetes.io/instance-type)
    #[arg(long, default_value = "", value_name = "TYPE", requires = "target")]
    instance_type: String,
    /// Of nodes in this region (label topology.kubernetes.io/region)
    #[arg(long, default_value = "", value_name = "REGION", requires = "target")]
    region: String,
    /// Of nodes in this zone (label topology.kubernetes.io/zone)
    #[arg(long, default_value = "", value_name = "ZONE", requires = "target")]
    zone: String,
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
    /// Price of a vCPU for an hour, of a cluster's nodes
    #[arg(long, default_value = "", allow_negative_numbers = true, value_name = "PRICE")]
    per_vcpu_hour: String,
    /// Price of a GiB of memory for an hour, of a cluster's nodes
    #[arg(long, default_value = "", allow_negative_numbers = true, value_name = "PRICE")]
    per_gib_hour: String,
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
            ctx.out.document(
                &all,
                || text(&all.tariffs, ctx.out.colours),
                || {
                    let energy = all.tariffs.iter().find(|t| t.target.is_empty());
                    energy.map_or_else(String::new, |t| t.per_kwh.clone())
                },
            )?;
        }
        Command::Set(set) => {
            let Set { price: s, plan: only_plan, target, instance_type, region, zone } = *set;
            let tariff = Tariff {
                target,
                instance_type,
                region,
                zone,
                per_vcpu_hour: s.per_vcpu_hour,
                per_gib_hour: s.per_gib_hour,
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
            ctx.out.document(
                &t,
                || in_words(&t),
                || if t.target.is_empty() { t.per_kwh.clone() } else { t.target.clone() },
            )?;
        }
    }
    Ok(exit::OK)
}

fn in_words(t: &Tariff) -> String {
    if t.target.is_empty() {
        return format!(
            "from now on {} {} a kWh, {} W a core, {} W a GiB, {} W idle",
            t.per_kwh, t.currency_code, t.watts_per_core, t.watts_per_gib, t.idle_watts
        );
    }
    format!(
        "from now on {} {} a vCPU and {} {} a GiB an hour on {} ({})",
        t.per_vcpu_hour,
        t.currency_code,
        t.per_gib_hour,
        t.currency_code,
        t.target,
        nodes(t)
    )
}

/// Which nodes it is for.
fn nodes(t: &Tariff) -> String {
    let said = [&t.instance_type, &t.region, &t.zone];
    let said: Vec<_> = said.into_iter().filter(|s| !s.is_empty()).map(String::as_str).collect();
    if said.is_empty() { "any node".into() } else { said.join(", ") }
}

fn since(t: &Tariff) -> String {
    t.from_time.as_ref().map_or_else(|| "the first start".into(), |x| render::time(Some(x)))
}

fn text(all: &[Tariff], colours: bool) -> String {
    let (energy, clusters): (Vec<_>, Vec<_>) = all.iter().partition(|t| t.target.is_empty());
    let heads = ["SINCE", "PER KWH", "WATTS PER CORE", "WATTS PER GIB", "IDLE WATTS", "BY"];
    let energy = render::table(&heads, energy.into_iter().map(row), colours);
    if clusters.is_empty() {
        return energy;
    }
    let heads = ["SINCE", "TARGET", "NODES", "PER VCPU-HOUR", "PER GIB-HOUR", "BY"];
    let rows = clusters.into_iter().map(|t| {
        let price = |p: &str| format!("{p} {}", t.currency_code);
        let (cpu, memory) = (price(&t.per_vcpu_hour), price(&t.per_gib_hour));
        vec![since(t), t.target.clone(), nodes(t), cpu, memory, t.creator.clone()]
    });
    format!("{energy}\n\n{}", render::table(&heads, rows, colours))
}

fn row(t: &Tariff) -> Vec<String> {
    vec![
        since(t),
        format!("{} {}", t.per_kwh, t.currency_code),
        t.watts_per_core.clone(),
        t.watts_per_gib.clone(),
        t.idle_watts.clone(),
        t.creator.clone(),
    ]
}
