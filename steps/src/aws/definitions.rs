//! Task definitions that CloudFormation has let go: AWS keeps them for ever as INACTIVE, unless somebody deletes them.
use super::{Shared, client::failed, names};
use aws_sdk_ecs::types::TaskDefinitionStatus;
use syp_engine::step::Owner;
use syp_proto::journal::Failure;

/// AWS deletes so many in one call.
const AT_ONCE: usize = 10;

/// ARNs of an instance's INACTIVE ones.
///
/// # Errors
/// AWS'.
pub(super) async fn inactive(s: &Shared, family: &str) -> Result<Vec<String>, Failure> {
    let c = s.clients().await?;
    let ask = c.ecs.list_task_definitions().family_prefix(family).status(TaskDefinitionStatus::Inactive);
    let mut out = Vec::new();
    let mut pages = ask.into_paginator().send();
    while let Some(page) = pages.next().await {
        out.extend_from_slice(
            page.map_err(|e| failed("ecs:ListTaskDefinitions", &e))?.task_definition_arns(),
        );
    }
    Ok(out)
}

/// Deletes them. One that a task still runs goes when that has ended.
///
/// # Errors
/// AWS'.
pub(super) async fn sweep(s: &Shared, owner: &Owner) -> Result<(), Failure> {
    let all = inactive(s, &names::stack(owner)).await?;
    remove(s, &all).await
}

/// These.
///
/// # Errors
/// AWS'.
pub(super) async fn remove(s: &Shared, arns: &[String]) -> Result<(), Failure> {
    let c = s.clients().await?;
    for some in arns.chunks(AT_ONCE) {
        let done = c.ecs.delete_task_definitions().set_task_definitions(Some(some.to_vec())).send().await;
        done.map_err(|e| failed("ecs:DeleteTaskDefinitions", &e))?;
    }
    Ok(())
}
