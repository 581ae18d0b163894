//! `sypctl fsck`: does the store hold together?
use super::Ctx;
use crate::{
    exit,
    failure::{Done, Failure},
};
use syp_proto::v1::{CheckStoreRequest, server_client::ServerClient};

/// Runs it.
///
/// # Errors
/// What the engine said; 1 when there are problems.
pub async fn run(ctx: &Ctx<'_>) -> Done {
    let client = ctx.client().await?;
    let c = client
        .call_provider(
            CheckStoreRequest {},
            |ch, r| async move { ServerClient::new(ch).check_store(r).await },
        )
        .await?;
    let text = || {
        let head = format!("{} instances, {} records: {} problems", c.instances, c.records, c.problems.len());
        c.problems.iter().fold(head, |all, p| format!("{all}\n{p}"))
    };
    ctx.out.document(&c, text, || c.problems.join("\n"))?;
    if c.problems.is_empty() {
        return Ok(exit::OK);
    }
    let what = format!("the store has {} problems", c.problems.len());
    Err(Failure::new(exit::FAILED, "STORE_CORRUPT", what, "sypctl explain STORE_CORRUPT"))
}
