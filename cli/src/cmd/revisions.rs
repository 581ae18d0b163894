//! `sypctl revisions`: what served, what serves, what failed.
use super::Ctx;
use crate::{
    client::Client,
    exit,
    failure::{Done, Failure},
    parse, render,
};
use syp_engine::scaling;
use syp_proto::v1::{
    InstanceRevision, ListInstanceRevisionsRequest, ListInstanceRevisionsResponse,
    instances_client::InstancesClient,
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sypctl revisions shop\n  sypctl revisions shop -o json")]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let all = all(&client, ctx.full(&a.name)).await?;
    ctx.out.document(&all, || text(&all, ctx.out.colours), || names(&all))?;
    Ok(exit::OK)
}

/// Every revision of an instance.
///
/// # Errors
/// What the engine said.
pub async fn all(c: &Client, parent: String) -> Result<ListInstanceRevisionsResponse, Failure> {
    let mut ask = ListInstanceRevisionsRequest { parent, page_size: 100, ..Default::default() };
    let mut out = ListInstanceRevisionsResponse::default();
    loop {
        let page = c
            .call(
                ask.clone(),
                |ch, r| async move { InstancesClient::new(ch).list_instance_revisions(r).await },
            )
            .await?;
        out.instance_revisions.extend(page.instance_revisions);
        if page.next_page_token.is_empty() {
            return Ok(out);
        }
        ask.page_token = page.next_page_token;
    }
}

fn short(r: &InstanceRevision) -> &str {
    r.name.rsplit('/').next().unwrap_or_default()
}

fn names(all: &ListInstanceRevisionsResponse) -> String {
    all.instance_revisions.iter().map(short).collect::<Vec<_>>().join("\n")
}

/// How a revision does, in a word.
pub fn state(r: &InstanceRevision) -> String {
    match (&r.failure, r.traffic_percent, &r.serving_time) {
        (_, 100, _) => "serves".into(),
        (Some(f), ..) => format!("failed: {}", f.message.lines().next().unwrap_or_default()),
        (None, _, Some(_)) => "served".into(),
        _ => "being made".into(),
    }
}

fn text(all: &ListInstanceRevisionsResponse, colours: bool) -> String {
    let rows = all.instance_revisions.iter().map(|r| {
        let spec = r.snapshot.as_ref().and_then(|i| i.spec.clone()).unwrap_or_default();
        vec![
            short(r).to_owned(),
            state(r),
            spec.image.clone(),
            scaling::words(&spec),
            render::money_or(r.hourly_rate.as_ref()),
            render::time(r.create_time.as_ref()),
            r.creator.clone(),
            r.note.clone(),
        ]
    });
    render::table(
        &["REVISION", "STATE", "IMAGE", "REPLICAS", "PER HOUR", "MADE", "BY", "NOTE"],
        rows,
        colours,
    )
}
