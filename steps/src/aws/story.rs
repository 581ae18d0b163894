//! What a stack's events say: which operation was the last, what of it failed and why, and how often a deletion was tried. Pure.
//!
//! Source: CloudFormation user guide, "Monitor stack progress": events are newest first, those of the stack itself have its own id as
//! their physical id, and each carries the token of the request that led to it.
use std::collections::BTreeSet;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Logical id of the resource.
    pub logical: String,
    /// Is it the stack's own?
    pub of_stack: bool,
    /// `CREATE_IN_PROGRESS`, ...
    pub status: String,
    /// Why.
    pub reason: String,
    /// Of the request.
    pub token: String,
    /// AWS' id of it.
    pub id: String,
    /// When, Unix time in ms.
    pub at_ms: i64,
    /// `AWS::ECS::Service`, ...
    pub kind: String,
}

/// What they come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// Token of the last operation.
    pub token: String,
    /// What failed in the last phase of it (its rollback, if it had come to that).
    pub failed: BTreeSet<String>,
    /// What a deletion has left out.
    pub skipped: BTreeSet<String>,
    /// The first failure of the last operation, which is what led to all others.
    pub why: String,
    /// Deletions that failed since anything else was done.
    pub deletions: u32,
    /// What the newest event is about.
    pub newest: String,
    /// Those of the last operation and of what a deletion has interrupted, the oldest first.
    pub events: Vec<Event>,
}

/// Has enough been read? What comes before the last operation that is no deletion tells nothing.
pub fn is_whole(newest_first: &[Event]) -> bool {
    newest_first.iter().any(|e| e.of_stack && begins(&e.status) && e.status != "DELETE_IN_PROGRESS")
}

fn begins(status: &str) -> bool {
    let operations = ["CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS", "IMPORT_IN_PROGRESS"];
    operations.contains(&status)
}

/// Reads them.
pub fn read(newest_first: &[Event]) -> Story {
    let mut s = Story::default();
    if let Some(e) = newest_first.first() {
        s.newest = format!("{} {}", e.logical, e.status);
    }
    let (mut in_phase, mut in_operation) = (true, true);
    for e in newest_first {
        s.events.push(e.clone());
        if !e.of_stack {
            // what is called off because something else failed has not failed
            if e.status.ends_with("_FAILED") && !e.reason.contains("cancelled") {
                if in_phase {
                    s.failed.insert(e.logical.clone());
                }
                if in_operation {
                    s.why = format!("{}: {}", e.logical, e.reason);
                }
            }
            if e.status == "DELETE_SKIPPED" && in_operation {
                s.skipped.insert(e.logical.clone());
            }
            continue;
        }
        if s.token.is_empty() {
            s.token.clone_from(&e.token);
        }
        if e.status == "DELETE_FAILED" {
            s.deletions += 1;
        }
        if e.status.ends_with("_FAILED") && in_operation && s.why.is_empty() {
            s.why.clone_from(&e.reason);
        }
        if e.status.ends_with("_IN_PROGRESS") {
            in_phase = false;
            in_operation &= !begins(&e.status);
            if begins(&e.status) && e.status != "DELETE_IN_PROGRESS" {
                break;
            }
        }
    }
    s.events.reverse();
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oldest first, as they happen: `NAME STATUS [why]`, the stack's own without a name.
    fn story(lines: &[&str]) -> Story {
        let one = |l: &&str| {
            let (of_stack, l) = match l.strip_prefix("- ") {
                Some(rest) => (true, format!("stack {rest}")),
                None => (false, (*l).to_owned()),
            };
            let mut words = l.splitn(3, ' ');
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (logical, status, reason) = (word(), word(), word());
            let token = if status.contains("DELETE") { "d" } else { "t" }.to_owned();
            Event { logical, of_stack, status, reason, token, ..Event::default() }
        };
        let mut all: Vec<_> = lines.iter().map(one).collect();
        all.reverse();
        assert!(is_whole(&all));
        read(&all)
    }

    #[test]
    fn a_failed_create_is_told_by_what_failed_first() {
        let s = story(&[
            "- CREATE_IN_PROGRESS",
            "LogGroup CREATE_FAILED it exists",
            "Service CREATE_FAILED Resource creation cancelled",
            "- ROLLBACK_IN_PROGRESS",
            "Cluster DELETE_COMPLETE",
            "- ROLLBACK_COMPLETE",
        ]);
        assert_eq!((s.why.as_str(), s.token.as_str(), s.deletions), ("LogGroup: it exists", "t", 0));
        assert!(s.failed.is_empty(), "its rollback went well: {s:?}");
        assert_eq!(s.events.len(), 6, "{s:?}");
        assert_eq!((&*s.events[1].logical, &*s.events[5].status), ("LogGroup", "ROLLBACK_COMPLETE"));
    }

    #[test]
    fn what_stops_a_rollback_is_what_failed_in_it_and_not_before() {
        let s = story(&[
            "- CREATE_IN_PROGRESS",
            "- CREATE_COMPLETE",
            "- UPDATE_IN_PROGRESS",
            "TaskDefinition UPDATE_FAILED no such image",
            "- UPDATE_ROLLBACK_IN_PROGRESS",
            "Service UPDATE_FAILED no capacity",
            "- UPDATE_ROLLBACK_FAILED",
        ]);
        assert_eq!(s.failed, ["Service".to_owned()].into());
        assert_eq!(s.why, "TaskDefinition: no such image");
    }

    #[test]
    fn deletions_are_counted_since_anything_else_was_done() {
        let s = story(&[
            "- CREATE_IN_PROGRESS",
            "- CREATE_COMPLETE",
            "- DELETE_IN_PROGRESS",
            "Old DELETE_FAILED busy",
            "- DELETE_FAILED",
            "- DELETE_IN_PROGRESS",
            "Group DELETE_FAILED has a dependent object",
            "- DELETE_FAILED The following resource(s) failed to delete: [Group].",
        ]);
        assert_eq!((s.deletions, s.token.as_str()), (2, "d"));
        assert_eq!(s.failed, ["Group".to_owned()].into());
        assert_eq!(s.why, "Group: has a dependent object");
        assert_eq!(s.newest, "stack DELETE_FAILED");
        assert_eq!(s.events.len(), 8, "from what was there before the first deletion: {s:?}");
        let s = story(&[
            "- CREATE_IN_PROGRESS",
            "- DELETE_IN_PROGRESS",
            "Group DELETE_SKIPPED",
            "- DELETE_COMPLETE",
        ]);
        assert_eq!(s.skipped, ["Group".to_owned()].into());
    }

    #[test]
    fn a_stack_that_fails_by_itself_says_why_too() {
        let s = story(&["- CREATE_IN_PROGRESS", "- CREATE_FAILED the role can't be assumed"]);
        assert_eq!(s.why, "the role can't be assumed");
        assert_eq!(read(&[]), Story::default());
    }
}
