//! What a stack's status means, and what comes next. Pure: the calls are the steps'.
//!
//! Source: CloudFormation user guide, "Stack status codes"; API reference of `DeleteStack` (`RetainResources` is for stacks in
//! `DELETE_FAILED` alone) and `ContinueUpdateRollback`.
use std::collections::BTreeSet;

/// How often a deletion is asked for before what does not go is kept out of it: load balancers let go of network interfaces late.
pub const DELETIONS: u32 = 3;

/// A stack as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `StackStatus`.
    pub status: String,
    /// It carries our tags.
    pub ours: bool,
    /// Digest of its template, by its tag.
    pub digest: String,
    /// Token of the operation that it was changed by last.
    pub token: String,
    /// Logical ids of its resources that failed in that operation, and those that can't be deleted.
    pub failed: BTreeSet<String>,
}

// === impl Held ===

impl Held {
    /// It is what some template says, and can become another.
    pub fn rests(&self) -> bool {
        let all = ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"];
        all.contains(&self.status.as_str())
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// `CreateStack`.
    Create,
    /// A change to another template.
    Update,
    /// It is as it should be, or gone.
    Done,
    /// Something goes on; look again.
    Wait,
    /// `CancelUpdateStack`, then look again: a stack in an update can't be deleted.
    Cancel,
    /// `DeleteStack`, without these resources.
    Delete(BTreeSet<String>),
    /// `ContinueUpdateRollback`, without these resources.
    Continue(BTreeSet<String>),
    /// `RollbackStack`: an update has stopped halfway.
    Rollback,
    /// What was asked for has failed; its events say why.
    Failed,
    /// Somebody else's; never touched.
    Foreign,
}

/// Towards a stack with this template, by the operation with this token.
pub fn towards(held: Option<&Held>, digest: &str, token: &str) -> Next {
    let Some(h) = held.filter(|h| h.status != "DELETE_COMPLETE") else { return Next::Create };
    if !h.ours {
        return Next::Foreign;
    }
    // what the same operation has led to is its result; under another token it is what an earlier one has left
    let of_this = h.token == token;
    match h.status.as_str() {
        "CREATE_COMPLETE" | "UPDATE_COMPLETE" | "IMPORT_COMPLETE" if h.digest == digest => Next::Done,
        "UPDATE_ROLLBACK_COMPLETE" | "UPDATE_ROLLBACK_FAILED" | "UPDATE_FAILED" if of_this => {
            match h.status.as_str() {
                "UPDATE_ROLLBACK_COMPLETE" => Next::Failed,
                "UPDATE_FAILED" => Next::Rollback,
                _ => Next::Continue(h.failed.clone()),
            }
        }
        "UPDATE_ROLLBACK_COMPLETE" if h.digest == digest => Next::Done,
        "CREATE_COMPLETE" | "UPDATE_COMPLETE" | "IMPORT_COMPLETE" | "UPDATE_ROLLBACK_COMPLETE" => {
            Next::Update
        }
        // of a run that was given up: nobody wants to know how it ends
        "UPDATE_IN_PROGRESS" if !of_this => Next::Cancel,
        "UPDATE_ROLLBACK_FAILED" => Next::Continue(h.failed.clone()),
        "UPDATE_FAILED" => Next::Rollback,
        "CREATE_FAILED" | "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" if of_this => Next::Failed,
        // can't be updated: it makes room for a new one
        "CREATE_FAILED" | "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "REVIEW_IN_PROGRESS"
        | "DELETE_FAILED" => Next::Delete(BTreeSet::new()),
        _ => Next::Wait,
    }
}

/// Towards no stack; `asked`: so many deletions have been asked for.
pub fn away(held: Option<&Held>, asked: u32) -> Next {
    let Some(h) = held.filter(|h| h.status != "DELETE_COMPLETE") else { return Next::Done };
    if !h.ours {
        return Next::Foreign;
    }
    match h.status.as_str() {
        "DELETE_FAILED" if asked >= DELETIONS => Next::Delete(h.failed.clone()),
        "DELETE_IN_PROGRESS" => Next::Wait,
        "UPDATE_IN_PROGRESS" => Next::Cancel,
        // CREATE_IN_PROGRESS and ROLLBACK_IN_PROGRESS may be deleted; what ends an update may not
        s if s.starts_with("UPDATE_") && s.ends_with("_IN_PROGRESS") => Next::Wait,
        s if s.starts_with("IMPORT_") && s.ends_with("_IN_PROGRESS") => Next::Wait,
        _ => Next::Delete(BTreeSet::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every status there is (API reference, `Stack.StackStatus`).
    const ALL: [&str; 23] = [
        "CREATE_IN_PROGRESS",
        "CREATE_FAILED",
        "CREATE_COMPLETE",
        "ROLLBACK_IN_PROGRESS",
        "ROLLBACK_FAILED",
        "ROLLBACK_COMPLETE",
        "DELETE_IN_PROGRESS",
        "DELETE_FAILED",
        "DELETE_COMPLETE",
        "UPDATE_IN_PROGRESS",
        "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
        "UPDATE_COMPLETE",
        "UPDATE_FAILED",
        "UPDATE_ROLLBACK_IN_PROGRESS",
        "UPDATE_ROLLBACK_FAILED",
        "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS",
        "UPDATE_ROLLBACK_COMPLETE",
        "REVIEW_IN_PROGRESS",
        "IMPORT_IN_PROGRESS",
        "IMPORT_COMPLETE",
        "IMPORT_ROLLBACK_IN_PROGRESS",
        "IMPORT_ROLLBACK_FAILED",
        "IMPORT_ROLLBACK_COMPLETE",
    ];

    fn held(status: &str, digest: &str, token: &str) -> Held {
        Held {
            status: status.into(),
            ours: true,
            digest: digest.into(),
            token: token.into(),
            failed: ["Service".to_owned()].into(),
        }
    }

    #[test]
    fn nothing_is_ever_done_to_somebody_elses_stack() {
        for status in ALL.into_iter().filter(|s| *s != "DELETE_COMPLETE") {
            let h = Held { ours: false, ..held(status, "d", "t") };
            assert_eq!(towards(Some(&h), "d", "t"), Next::Foreign, "{status}");
            for asked in 0..5 {
                assert_eq!(away(Some(&h), asked), Next::Foreign, "{status}");
            }
        }
    }

    #[test]
    fn what_goes_on_is_waited_for_and_nothing_else_is() {
        for status in ALL {
            let waits = towards(Some(&held(status, "d", "t")), "d", "t") == Next::Wait;
            let goes_on = status.ends_with("_IN_PROGRESS") && status != "REVIEW_IN_PROGRESS";
            // an import is nothing that we begin: its failed end needs a person
            assert_eq!(waits, goes_on || status.starts_with("IMPORT_ROLLBACK"), "{status}");
        }
    }

    #[test]
    fn done_only_with_the_template_that_was_asked_for() {
        for status in ALL {
            for (digest, token) in [("d", "t"), ("old", "t"), ("d", "earlier"), ("old", "earlier")] {
                let next = towards(Some(&held(status, digest, token)), "d", "t");
                assert!(next != Next::Done || digest == "d", "{status} {digest} {token}");
            }
        }
        assert_eq!(towards(Some(&held("CREATE_COMPLETE", "d", "earlier")), "d", "t"), Next::Done);
        assert_eq!(towards(Some(&held("UPDATE_COMPLETE", "old", "t")), "d", "t"), Next::Update);
    }

    #[test]
    fn a_failed_operation_fails_once_and_the_next_begins_from_what_it_left() {
        for status in ["CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED"] {
            assert_eq!(towards(Some(&held(status, "d", "t")), "d", "t"), Next::Failed, "{status}");
            let later = towards(Some(&held(status, "d", "t")), "d", "later");
            assert_eq!(later, Next::Delete(BTreeSet::new()), "{status}");
        }
        let back = held("UPDATE_ROLLBACK_COMPLETE", "old", "t");
        assert_eq!(towards(Some(&back), "d", "t"), Next::Failed);
        assert_eq!(towards(Some(&back), "d", "later"), Next::Update);
        // a repair towards what it was rolled back to has nothing to do
        assert_eq!(towards(Some(&back), "old", "later"), Next::Done);
        let stuck = held("UPDATE_ROLLBACK_FAILED", "old", "t");
        assert_eq!(towards(Some(&stuck), "d", "t"), Next::Continue(["Service".to_owned()].into()));
        assert_eq!(towards(Some(&held("UPDATE_FAILED", "old", "t")), "d", "t"), Next::Rollback);
    }

    #[test]
    fn an_update_of_a_run_that_was_given_up_is_called_off() {
        assert_eq!(towards(Some(&held("UPDATE_IN_PROGRESS", "", "earlier")), "d", "t"), Next::Cancel);
        assert_eq!(towards(Some(&held("UPDATE_IN_PROGRESS", "", "t")), "d", "t"), Next::Wait);
    }

    #[test]
    fn what_does_not_go_is_kept_out_only_in_the_end_and_only_in_delete_failed() {
        for status in ALL {
            for asked in 0..6 {
                let next = away(Some(&held(status, "d", "t")), asked);
                let kept = matches!(&next, Next::Delete(without) if !without.is_empty());
                assert_eq!(kept, status == "DELETE_FAILED" && asked >= DELETIONS, "{status} {asked}");
                assert_eq!(next == Next::Done, status == "DELETE_COMPLETE", "{status}");
            }
        }
        assert_eq!(away(None, 0), Next::Done);
        assert_eq!(away(Some(&held("UPDATE_IN_PROGRESS", "d", "t")), 0), Next::Cancel);
        assert_eq!(away(Some(&held("CREATE_IN_PROGRESS", "d", "t")), 0), Next::Delete(BTreeSet::new()));
    }

    #[test]
    fn a_word_that_is_new_is_waited_for() {
        assert_eq!(towards(Some(&held("SOMETHING_NEW", "d", "t")), "d", "t"), Next::Wait);
    }
}
