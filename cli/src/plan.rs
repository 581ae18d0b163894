//! What would happen: resources, rights, cost.
use crate::{client::Client, failure::Failure, render};
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
    let cost = format!(
        "{} an hour now, {} after",
        render::money_or(p.hourly_before.as_ref()),
        render::money_or(p.hourly_after.as_ref())
    );
    let below = render::fields([
        ("Changes", list(&p.changes)),
        ("Cost", cost),
        (
            "Month",
            p.monthly_after
                .as_ref()
                .map_or_else(String::new, |m| format!("{} if always on", render::money(m))),
        ),
        ("Missing rights", list(&p.missing_permissions)),
        ("Quota", list(&p.quota_problems)),
        ("Access", list(&p.access_changes)),
    ]);
    if p.resources.is_empty() { below } else { format!("{table}\n{below}") }
}

/// The ids of a plan, one a line.
pub fn names(p: &Plan) -> String {
    p.resources.iter().map(|r| r.id.as_str()).collect::<Vec<_>>().join("\n")
}
