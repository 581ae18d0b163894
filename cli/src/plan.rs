//! What would happen: resources, rights, cost.
use crate::{
    client::Client,
    cmd::Ctx,
    exit,
    failure::{Done, Failure},
    render,
};
use syp_proto::google::r#type::Money;
use syp_proto::v1::{
    Plan, PlanInstanceRequest, instances_client::InstancesClient, plan_instance_request::Action,
};

/// Asks for a plan.
///
/// # Errors
/// What the engine said.
pub async fn ask(c: &Client, action: Action) -> Result<Plan, Failure> {
    let ask = PlanInstanceRequest { action: Some(action) };
    c.call_provider(ask, |ch, r| async move { InstancesClient::new(ch).plan_instance(r).await }).await
}

/// Asks for a plan and shows it.
///
/// # Errors
/// What the engine said.
pub async fn show(ctx: &Ctx<'_>, c: &Client, action: Action) -> Done {
    let p = ask(c, action).await?;
    ctx.out.document(&p, || text(&p, ctx.out.colours), || names(&p))?;
    Ok(exit::OK)
}

/// What a plan makes, changes and costs.
pub fn text(p: &Plan, colours: bool) -> String {
    if p.no_change {
        return "nothing changes: it is so already".into();
    }
    let rows = p.resources.iter().map(|r| {
        let rate = r.hourly_rate.as_ref().map_or_else(String::new, render::money);
        vec![r.change().as_str_name().to_lowercase(), r.kind.clone(), r.id.clone(), rate]
    });
    let table = render::table(&["CHANGE", "KIND", "ID", "PER HOUR"], rows, colours);
    let list = |v: &[String]| v.join("\n");
    let (before, after) = (p.hourly_before.as_ref(), p.hourly_after.as_ref());
    let nothing = |m: Option<&Money>| m.is_none_or(|m| m.units == 0 && m.nanos == 0);
    let cost = match (nothing(before) && nothing(after), before == after) {
        _ if !p.unpriced.is_empty() => p.unpriced.clone(),
        (true, _) => "none".into(),
        (_, true) => format!("{} an hour, as now", render::money_or(after)),
        _ => format!("{} an hour now, {} after", render::money_or(before), render::money_or(after)),
    };
    let month = p.monthly_after.as_ref().filter(|m| !nothing(Some(m)));
    let lost = if p.caller_loses_control { "you yourself: you could not change it back" } else { "" };
    let below = render::fields([
        ("Changes", list(&p.changes)),
        ("Cost", cost),
        (
            "At most",
            p.hourly_most
                .as_ref()
                .map_or_else(String::new, |m| format!("{} an hour, with all replicas", render::money(m))),
        ),
        ("Month", month.map_or_else(String::new, |m| format!("{} if always on", render::money(m)))),
        ("Missing rights", list(&p.missing_permissions)),
        ("Quota", list(&p.quota_problems)),
        ("Access", list(&p.access_changes)),
        ("Locked out", lost.to_owned()),
    ]);
    let diffs = p.resources.iter().filter(|r| !r.diff.is_empty());
    // the whole is told after its parts: it is what is looked for
    let diffs: String = diffs.map(|r| format!("{} {}\n{}\n", r.kind, r.id, r.diff)).collect();
    let priced = lines(p, colours);
    if p.resources.is_empty() { below } else { format!("{diffs}{table}\n{priced}{below}") }
}

/// What the price is made of, where that is more than one thing.
fn lines(p: &Plan, colours: bool) -> String {
    if p.lines.len() < 2 {
        return String::new();
    }
    let rows = p.lines.iter().map(|l| {
        let month = l.hourly.as_ref().map(render::month);
        let none = if l.description.starts_with("unpriced") { "unpriced" } else { "by use" };
        let per = |m: Option<&Money>| m.map_or_else(|| none.to_owned(), render::money);
        [l.kind.clone(), per(l.hourly.as_ref()), per(month.as_ref()), l.description.clone()]
    });
    format!("{}\n", render::table(&["FOR", "PER HOUR", "PER MONTH", "WHICH IS"], rows, colours))
}

/// The ids of a plan, one a line.
pub fn names(p: &Plan) -> String {
    p.resources.iter().map(|r| r.id.as_str()).collect::<Vec<_>>().join("\n")
}
