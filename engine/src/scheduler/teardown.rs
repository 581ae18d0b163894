//! Removing: of everything in a teardown, of single rows in an update.
use super::{Call, Decision, PARALLEL, cleared, condition, ended, steps, transition};
use crate::{clock::Millis, cost, fold::over, graph::Trigger};
use syp_proto::{
    journal::{self, Instance, Run, node, record::Body},
    v1::condition::Status,
};

/// Undo attempts after which the instance says that it is stuck (it goes on trying).
const STUCK_AFTER: u32 = 8;
/// Undo attempts after which is looked for what else there is.
const LOOK_AFTER: u32 = 2;

/// Removes what a row stands for, as soon as that is sure to find it.
pub(super) fn undo(row: &journal::LedgerRow, now: Millis, open: &mut usize, d: &mut Decision) {
    if row.undo_open {
        *open += 1;
        d.calls.push(Call::Undo { entry: row.ordinal, attempt: row.undo_attempt });
        return;
    }
    // what is in doubt may still land: removing it before that would find nothing and leave it
    let settled = if row.in_doubt { row.attempt_ms + row.settle_ms } else { 0 };
    let not_before = row.retry_at_ms.max(settled);
    if not_before > now {
        d.wake(not_before);
    } else if *open < PARALLEL {
        *open += 1;
        d.records.push(Body::UndoIntent(journal::UndoIntent {
            entry: row.ordinal,
            attempt: row.undo_attempt + 1,
        }));
    }
}

/// Drain, then undo the ledger from its leaves, then list until the provider is clean.
pub(super) fn teardown(i: &Instance, run: &Run, now: Millis, d: &mut Decision) {
    let draining = run.nodes.iter().any(|n| !matches!(n.state(), node::State::Ok | node::State::Terminal));
    if draining && (run.deadline_ms == 0 || now < run.deadline_ms) {
        steps(i, run, now, d);
        if run.deadline_ms != 0 {
            d.wake(run.deadline_ms);
        }
        return;
    }
    let mut open = 0;
    let mut left = false;
    for row in i.ledger.iter().filter(|r| !over(r)) {
        left = true;
        if i.ledger.iter().any(|x| x.deps.contains(&row.ordinal) && !over(x)) {
            continue;
        }
        undo(row, now, &mut open, d);
    }
    stuck(i, d);
    if left {
        // what holds it may be something that the journal does not know, since it came from a backup or somebody made it by hand
        let held = |r: &journal::LedgerRow| {
            !over(r) && !r.undo_open && r.undo_attempt >= LOOK_AFTER && r.failure.is_some()
        };
        if run.next_listing_ms <= now && i.ledger.iter().any(held) {
            d.calls.push(list(run));
        }
        return;
    }
    let needed = if i.let_go_in_doubt || i.ledger.iter().any(|r| r.ever_in_doubt) { 2 } else { 1 };
    if run.clean_listings >= needed {
        d.records.push(ended(run, None, false));
        if let Some(Body::Transition(mut t)) = transition(i, Trigger::RunSucceeded) {
            t.receipt = Some(cost::receipt(i, now));
            d.records.push(Body::Transition(t));
        }
        return;
    }
    if run.next_listing_ms > now {
        d.wake(run.next_listing_ms);
    } else {
        d.calls.push(list(run));
    }
}

fn list(run: &Run) -> Call {
    Call::List { run: run.no, nth: run.clean_listings * 1000 + run.listing_attempt }
}

/// Settle window of an instance: the longest of its rows.
pub fn settle_ms(i: &Instance) -> Millis {
    i.ledger.iter().map(|r| r.settle_ms).max().unwrap_or(0)
}

fn stuck(i: &Instance, d: &mut Decision) {
    let row = i.ledger.iter().find(|r| !over(r) && r.undo_attempt >= STUCK_AFTER && r.failure.is_some());
    let shown = i.conditions.iter().any(|c| c.r#type == "Stuck");
    match row {
        Some(row) if !shown => {
            let why = row.failure.clone().unwrap_or_default();
            let mut c = condition("Stuck", Status::True, &why);
            if let Body::ConditionSet(journal::ConditionSet { condition: Some(c) }) = &mut c {
                c.message = format!("{} {} can't be removed: {}", row.kind, row.key, why.message);
            }
            d.records.push(c);
        }
        None if shown => d.records.push(cleared("Stuck")),
        _ => {}
    }
}
