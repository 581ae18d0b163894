//! `sypctl access history`: who changed the rules, when and how.
use crate::{client::Client, cmd::Ctx, exit, failure::Done, parse, render};
use syp_proto::v1::{
    ListPolicyChangesRequest, ListPolicyChangesResponse, PolicyChange, access_client::AccessClient,
};

/// Whose.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:\n  sypctl access history shop\n  sypctl access history shop@0af3 -o json")]
pub struct Args {
    /// Name of the instance, perhaps with @uid
    #[arg(value_parser = parse::name)]
    name: String,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, client: &Client, a: Args) -> Done {
    let mut ask =
        ListPolicyChangesRequest { resource: ctx.full(&a.name), page_size: 1000, ..Default::default() };
    let mut all = ListPolicyChangesResponse::default();
    loop {
        let page = client
            .call(ask.clone(), |ch, r| async move { AccessClient::new(ch).list_policy_changes(r).await })
            .await?;
        all.changes.extend(page.changes);
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    let lines = || all.changes.iter().map(text).collect::<Vec<_>>().join("\n");
    let names = || all.changes.iter().map(|c| c.seq.to_string()).collect::<Vec<_>>().join("\n");
    ctx.out.document(&all, lines, names)?;
    Ok(exit::OK)
}

fn text(c: &PolicyChange) -> String {
    let head = format!("{}  {}", render::time(c.time.as_ref()), c.actor);
    c.changes.iter().fold(head, |all, line| format!("{all}\n  {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_who_and_when_and_then_its_rules() {
        let c = PolicyChange {
            actor: "user:a@x.org".into(),
            changes: vec!["+ use: allow user:b@x.org".into(), "- token:1".into()],
            ..Default::default()
        };
        assert_eq!(text(&c), "-  user:a@x.org\n  + use: allow user:b@x.org\n  - token:1");
    }
}
