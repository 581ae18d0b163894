//! `sypctl cost`: rate now, accrued so far.
use super::{Ctx, list};
use crate::{client::Client, exit, failure::Done, parse, render};
use std::collections::BTreeSet;
use syp_proto::v1::{
    CostRow, CostSummary, Energy, GetCostRequest, QueryCostsRequest, QueryCostsResponse, cost_summary::Use,
    costs_client::CostsClient, energy::Source,
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl cost shop\n  sypctl cost                      (every instance)\n  sypctl cost shop --by day\n  sypctl cost --by label:team --since 30d\n  sypctl cost shop -o json"
)]
pub struct Args {
    /// Name, perhaps with @uid; without it every instance
    #[arg(value_parser = parse::name)]
    name: Option<String>,
    /// What was spent by instance, day, revision or label:KEY; destroyed instances count too
    #[arg(long, value_delimiter = ',', value_name = "WHAT")]
    by: Vec<String>,
    /// Whole days from so long ago on
    #[arg(long, value_parser = parse::duration, value_name = "TIME", requires = "by")]
    since: Option<std::time::Duration>,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    if !a.by.is_empty() {
        return history(ctx, &client, &a).await;
    }
    let Some(name) = a.name else {
        let all = list(&client, ctx.parent(), String::new(), false).await?;
        let rows = all.instances.iter().map(|i| {
            let c = i.cost.clone().unwrap_or_default();
            let m =
                [&c.rate_per_hour, &c.projected_month, &c.accrued].map(|m| render::priced(&c, m.as_ref()));
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

/// What was spent, in rows.
async fn history(ctx: &Ctx<'_>, c: &Client, a: &Args) -> Done {
    let since = a.since.map(|d| render::now_ms() - i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    let mut ask = QueryCostsRequest {
        parent: a.name.as_ref().map_or_else(|| ctx.parent(), |n| ctx.full(n)),
        start_time: since.and_then(syp_engine::clock::timestamp),
        group_by: a.by.clone(),
        page_size: 1000,
        ..Default::default()
    };
    let mut all = QueryCostsResponse::default();
    loop {
        let page =
            c.call(ask.clone(), |ch, r| async move { CostsClient::new(ch).query_costs(r).await }).await?;
        all.rows.extend(page.rows);
        all.total = page.total;
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    let heads: Vec<_> = a.by.iter().map(|b| b.to_uppercase()).chain(["ACCRUED".into()]).collect();
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    let row = |r: &CostRow| {
        let group = a.by.iter().map(|b| r.group.get(b).cloned().unwrap_or_default());
        group.chain([r.accrued.as_ref().map_or_else(|| "unpriced".into(), render::money)]).collect::<Vec<_>>()
    };
    let table = || {
        let rows = render::table(&heads, all.rows.iter().map(row), ctx.out.colours);
        let currencies: BTreeSet<_> =
            all.rows.iter().filter_map(|r| Some(&r.accrued.as_ref()?.currency_code)).collect();
        let none = if currencies.len() > 1 { "none: in more than one currency" } else { "unpriced" };
        format!("{rows}\nTotal: {}", all.total.as_ref().map_or_else(|| none.into(), render::money))
    };
    let names = || all.rows.iter().map(|r| row(r).join(" ")).collect::<Vec<_>>().join("\n");
    ctx.out.document(&all, table, names)?;
    Ok(exit::OK)
}

fn text(c: &CostSummary) -> String {
    let how = render::accuracy(c);
    let billed = c.billed.as_ref().map_or_else(
        || c.billed_note.clone(),
        |m| {
            let at = render::time(c.billed_as_of.as_ref());
            format!("{} as of {at}, {}", render::money(m), c.billed_note)
        },
    );
    let as_of = |t: &Option<prost_types::Timestamp>| {
        t.as_ref().map_or_else(String::new, |t| format!(", as of {}", render::time(Some(t))))
    };
    let known = c.rate_per_hour.is_some();
    let rate = if known {
        format!("{} an hour (for what it reserves){}", render::rate(c), as_of(&c.rate_as_of))
    } else {
        render::rate(c)
    };
    let month = format!("{} if always on", render::money_or(c.projected_month.as_ref()));
    let accrued = render::priced(c, c.accrued.as_ref());
    render::fields([
        ("Rate", rate),
        ("Month", if known { month } else { String::new() }),
        ("Accrued", format!("{accrued}{how}{}", as_of(&c.accrued_as_of))),
        ("By use", by_use(c)),
        ("Energy", c.energy.as_ref().map_or_else(String::new, energy)),
        ("Billed", billed),
        ("Price", format!("{}, as of {}", c.price_source, render::time(c.price_as_of.as_ref()))),
    ])
}

/// What the provider counted of it, in what is accrued.
fn by_use(c: &CostSummary) -> String {
    let one = |u: &Use| {
        let cost = render::money_or(u.cost.as_ref());
        format!("{cost} for {} {} of {}", u.quantity, u.unit, u.kind)
    };
    let until = c.used_until.as_ref();
    let until =
        until.map(|t| format!("counted by the provider until {}, in what is accrued", render::time(Some(t))));
    let note = Some(c.used_note.clone()).filter(|n| !n.is_empty());
    c.uses.iter().map(one).chain(until).chain(note).collect::<Vec<_>>().join("\n")
}

/// What it really drew.
fn energy(e: &Energy) -> String {
    let how = match e.source() {
        Source::Measured => "measured by the host (RAPL)".to_owned(),
        Source::Both => {
            format!("{} J measured (RAPL), the rest modelled by processor time", e.measured_joules)
        }
        _ => format!("modelled by processor time: {}", e.why_modelled),
    };
    format!(
        "{} J, {} since {}, as of {}; {how}\n{} J of it idle: {} of the host's idle watts, {}",
        e.joules,
        render::money_or(e.cost.as_ref()),
        render::time(e.from_time.as_ref()),
        render::time(e.as_of.as_ref()),
        e.idle_joules,
        e.idle_share,
        e.idle_rule
    )
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
            billed_note: "none: nobody bills this machine".into(),
            energy: Some(Energy {
                source: Source::Modelled as i32,
                joules: "70".into(),
                idle_joules: "30".into(),
                idle_share: "0.25".into(),
                idle_rule: "the rule".into(),
                why_modelled: "no counters".into(),
                cost: m(7_000),
                ..Default::default()
            }),
            ..Default::default()
        };
        let used = CostSummary {
            uses: vec![Use {
                kind: "load balancer".into(),
                quantity: "1.083333".into(),
                unit: "LCU-hours".into(),
                cost: m(8_666_667),
            }],
            used_until: Some(prost_types::Timestamp { seconds: 3_600, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(
            by_use(&used),
            "0.008666 EUR for 1.083333 LCU-hours of load balancer\ncounted by the provider until 1970-01-01T01:00:00Z, in what is accrued"
        );
        let late = CostSummary { used_note: "what was used since then is not in it".into(), ..used };
        assert!(by_use(&late).ends_with("in what is accrued\nwhat was used since then is not in it"));
        assert_eq!(by_use(&CostSummary { used_note: "x".into(), ..Default::default() }), "x");
        assert_eq!(
            text(&c),
            "Rate     0.003 EUR an hour (for what it reserves)\nMonth    0.00 EUR if always on\nAccrued  0.000001 EUR (metered)\nEnergy   70 J, 0.000007 EUR since -, as of -; modelled by processor time: no counters\n         30 J of it idle: 0.25 of the host's idle watts, the rule\nBilled   none: nobody bills this machine\nPrice    power model x tariff, as of -"
        );
    }
}
