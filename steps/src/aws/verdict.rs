//! Tasks that have ended: is it time to give up, and with which words? Pure.
use super::tasks;
use aws_sdk_ecs::types::Task;
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// Exit code of what was killed for its memory.
const KILLED: i32 = 137;

/// Newest last; after `limit` endings of the same kind. What can't get better is said at once.
pub(super) fn of(ended: &[&Task], limit: usize) -> Option<Failure> {
    let said = |t: &Task| tasks::ending(t);
    let pull = ended.iter().find(|t| said(t).contains("CannotPullContainerError"));
    if let Some(t) = pull {
        let words = said(t);
        let reason = if is_denied(&words) { "IMAGE_AUTH_FAILED" } else { "IMAGE_NOT_FOUND" };
        return Some(failure(
            Class::Terminal,
            reason,
            format!("AWS can't pull an image: {words}"),
            "tasks pull it by the internet: a public registry, this account's ECR in this region, or any other with --pull-login",
        ));
    }
    let secret = ended.iter().find(|t| said(t).contains("ResourceInitializationError"));
    if let Some(t) = secret.filter(|_| ended.len() >= limit) {
        return Some(failure(
            Class::Terminal,
            "PROVIDER_REFUSED",
            format!("AWS can't start a task: {}", said(t)),
            "the message is AWS' own: change what it names, then try again",
        ));
    }
    let exits: Vec<(&Task, i32)> = ended.iter().filter_map(|t| Some((*t, exit(t, "app")?))).collect();
    let (last, code) = exits.last().filter(|_| exits.len() >= limit)?;
    let why = if *code == KILLED && said(last).contains("OutOfMemory") {
        "was killed because it used more memory than its limit".to_owned()
    } else {
        format!("exited with code {code}")
    };
    Some(failure(
        Class::Terminal,
        "CRASH_LOOP",
        format!("the app of task {} {why}", tasks::id(last.task_arn().unwrap_or_default())),
        "'sypctl logs --previous' shows more; run the image by hand to see why it ends",
    ))
}

/// A task that can't even be begun, in the words of its service. Pure.
/// Source: Amazon ECS developer guide, "Service event messages"; "Fargate task ... capacity unavailable".
pub(super) fn unplaced(words: &str) -> Failure {
    let (reason, next) = if words.contains("limit") {
        (
            "QUOTA_EXCEEDED",
            "ask for a higher quota of Fargate's vCPU in the Service Quotas console, or for less with --cpu and --replicas",
        )
    } else {
        ("PROVIDER_BUSY", "AWS has no room for it now: later it may, or another size or region has")
    };
    failure(Class::Terminal, reason, format!("AWS can't place a task: {words}"), next)
}

/// The registry wants a login, or another one. Words of "CannotPullContainer task errors", Amazon ECS developer guide.
fn is_denied(words: &str) -> bool {
    let words = words.to_lowercase();
    ["denied", "unauthorized", "authorize", "credentials", "403 forbidden"].iter().any(|w| words.contains(w))
}

/// The exit code of a container; that of one that was told to go because another had ended is none of its own.
fn exit(t: &Task, name: &str) -> Option<i32> {
    let by_itself = t.stopped_reason().is_some_and(|r| r.contains("Essential container"));
    let c = t.containers().iter().find(|c| c.name() == Some(name))?;
    c.exit_code().filter(|_| by_itself)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_ecs::types::Container;

    fn task(why: &str, code: Option<i32>, reason: &str) -> Task {
        let app = Container::builder().name("app").set_exit_code(code);
        let app = if reason.is_empty() { app } else { app.reason(reason) };
        Task::builder()
            .task_arn("arn:aws:ecs:us-east-1:1:task/c/0123")
            .stopped_reason(why)
            .containers(app.build())
            .build()
    }

    #[test]
    fn an_app_that_ends_again_and_again_is_given_up_and_a_pull_that_fails_at_once() {
        let ended = task("Essential container in task exited", Some(3), "");
        assert_eq!(of(&[&ended, &ended], 3), None);
        let f = of(&[&ended, &ended, &ended], 3).unwrap();
        assert_eq!(
            (f.reason.as_str(), f.message.as_str()),
            ("CRASH_LOOP", "the app of task 0123 exited with code 3")
        );
        let killed =
            task("Essential container in task exited", Some(137), "OutOfMemoryError: container killed");
        assert!(of(&[&killed, &killed, &killed], 3).unwrap().message.contains("more memory"));
        let pull = task("CannotPullContainerError: not found", None, "");
        assert_eq!(of(&[&pull], 3).unwrap().reason, "IMAGE_NOT_FOUND");
        let denied = task(
            "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref x: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
            None,
            "",
        );
        assert_eq!(of(&[&denied], 3).unwrap().reason, "IMAGE_AUTH_FAILED");
        // those that a deployment has replaced
        let gone = task("Scaling activity initiated by (deployment ecs-svc/1)", Some(0), "");
        assert_eq!(of(&[&gone, &gone, &gone], 3), None);
    }
}
