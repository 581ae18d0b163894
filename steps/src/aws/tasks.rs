//! The tasks of an instance's service: how many there are, and why one has ended.
use super::{Shared, client::failed, stack_step};
use aws_sdk_ecs::types::{DesiredStatus, Service, Task};
use syp_engine::{clock::Millis, step::StepCx};
use syp_proto::journal::Failure;

/// AWS describes so many in one call, and lists as many.
const PAGE: i32 = 100;

/// Of an event. Source: Amazon ECS developer guide, "Service event messages".
const UNPLACED: &str = "unable to place a task";

/// Where they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of<'a> {
    /// Of the stack's outputs.
    pub cluster: &'a str,
    /// Of the stack's outputs.
    pub service: &'a str,
}

// === impl Of ===

impl<'a> Of<'a> {
    /// Of the stack that a step sees.
    pub fn stack(cx: &'a StepCx) -> Option<Self> {
        let of = |field| cx.output(stack_step::NODE, field);
        Some(Self { cluster: of("cluster")?, service: of("service")? })
    }
}

/// The service; `None`: there is none.
///
/// # Errors
/// AWS'.
pub(super) async fn service(s: &Shared, of: Of<'_>) -> Result<Option<Service>, Failure> {
    let c = s.clients().await?;
    match c.ecs.describe_services().cluster(of.cluster).services(of.service).send().await {
        Ok(said) => Ok(said.services().iter().find(|s| s.status() != Some("INACTIVE")).cloned()),
        Err(e) if e.as_service_error().is_some_and(|e| e.is_cluster_not_found_exception()) => Ok(None),
        Err(e) => Err(failed("ecs:DescribeServices", &e)),
    }
}

/// Why the service can't begin a task, in its words; `None`: it can, or has said nothing since then.
///
/// # Errors
/// AWS'.
pub(super) async fn unplaced(s: &Shared, of: Of<'_>, since: Millis) -> Result<Option<String>, Failure> {
    let Some(held) = service(s, of).await? else { return Ok(None) };
    // newest first
    let Some(last) = held.events().first() else { return Ok(None) };
    let new = last.created_at().and_then(|at| at.to_millis().ok()).is_some_and(|at| at >= since);
    Ok(last.message().filter(|m| new && m.contains(UNPLACED)).map(str::to_owned))
}

/// Those that run or shall, or those that have ended within the hour.
///
/// # Errors
/// AWS'.
pub(super) async fn list(s: &Shared, of: Of<'_>, ended: bool) -> Result<Vec<Task>, Failure> {
    let c = s.clients().await?;
    let status = if ended { DesiredStatus::Stopped } else { DesiredStatus::Running };
    let ask = c.ecs.list_tasks().cluster(of.cluster).service_name(of.service).desired_status(status);
    let arns = match ask.max_results(PAGE).send().await {
        Ok(said) => said.task_arns().to_vec(),
        Err(e)
            if e.as_service_error().is_some_and(|e| {
                e.is_cluster_not_found_exception() || e.is_service_not_found_exception()
            }) =>
        {
            vec![]
        }
        Err(e) => return Err(failed("ecs:ListTasks", &e)),
    };
    if arns.is_empty() {
        return Ok(vec![]);
    }
    let said = c.ecs.describe_tasks().cluster(of.cluster).set_tasks(Some(arns)).send().await;
    Ok(said.map_err(|e| failed("ecs:DescribeTasks", &e))?.tasks().to_vec())
}

/// How many gates a load balancer leads to, at least: tasks that run.
///
/// # Errors
/// AWS'.
pub(super) async fn healthy(s: &Shared, cx: &StepCx) -> Result<usize, Failure> {
    let Some(of) = Of::stack(cx) else { return Ok(0) };
    let held = service(s, of).await?;
    Ok(held.map_or(0, |s| usize::try_from(s.running_count()).unwrap_or(0)))
}

/// Why a task has ended, in AWS' words and its containers'. Pure.
pub(super) fn ending(t: &Task) -> String {
    let containers = t.containers().iter().filter_map(|c| {
        let name = c.name()?;
        match (c.exit_code(), c.reason()) {
            (Some(code), Some(why)) => Some(format!("{name} exited with code {code} ({why})")),
            (Some(code), None) => Some(format!("{name} exited with code {code}")),
            (None, Some(why)) => Some(format!("{name}: {why}")),
            (None, None) => None,
        }
    });
    let all: Vec<String> = t.stopped_reason().map(str::to_owned).into_iter().chain(containers).collect();
    all.join("; ")
}

/// The last part of an ARN: a task's id. Pure.
pub(super) fn id(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// As people see it. Pure.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
