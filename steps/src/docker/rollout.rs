//! What becomes of an instance's replicas when a revision is to serve: which stay, which are made, which go. Pure.
//!
//! New replicas are made beside the old ones and proven before the old ones go, so that a revision that does not work never
//! serves. Where that can't be, one replica after another is replaced where it is: with an image's volumes, which two processes
//! must not write at once, and in a network without room for both.
use super::routes::slot;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use syp_engine::step::Have;
use syp_proto::journal::LedgerRow;

/// Each slot in one of these.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rollout {
    /// Replicas of this revision.
    pub keep: Vec<u32>,
    /// New ones, in free slots.
    pub make: Vec<u32>,
    /// Others, replaced where they are.
    pub replace: Vec<u32>,
    /// Others, removed.
    pub retire: Vec<u32>,
}

/// What a replica is made of, what rests on another before it.
const PARTS: [&str; 3] = ["app", "files", "holder"];

/// The rows of one slot, the app before what it rests on.
pub(super) fn rows_of<'a>(have: &Have<'a>, n: u32) -> Vec<&'a LedgerRow> {
    let of = |kind: &str| have.live().find(|r| slot(&r.node, kind) == Some(n));
    PARTS.into_iter().filter_map(of).collect()
}

/// Decides. `room`: how many slots the network has.
pub(super) fn rollout(have: &Have<'_>, template: &str, wanted: u32, room: u32, volumes: bool) -> Rollout {
    let mut slots: BTreeMap<u32, bool> = BTreeMap::new();
    for row in have.live() {
        let Some(n) = PARTS.iter().find_map(|part| slot(&row.node, part)) else { continue };
        *slots.entry(n).or_insert(true) &= is_of(row, template, have.revision);
    }
    let (mut same, others): (Vec<_>, Vec<_>) = slots.iter().partition(|(_, same)| **same);
    let extra = same.split_off(same.len().min(wanted as usize));
    let mut others = others.into_iter().map(|(n, _)| *n).collect::<Vec<_>>();
    let mut out = Rollout { keep: same.into_iter().map(|(n, _)| *n).collect(), ..Default::default() };
    let needed = (wanted as usize).saturating_sub(out.keep.len());
    let used: BTreeSet<u32> = slots.keys().copied().collect();
    let free: Vec<u32> = (0..room).filter(|n| !used.contains(n)).collect();
    let in_place = if volumes { needed.min(others.len()) } else { needed.saturating_sub(free.len()) };
    let rest = others.split_off(in_place.min(others.len()));
    out.make = free.into_iter().take(needed - others.len()).collect();
    out.replace = others;
    out.retire = rest.into_iter().chain(extra.into_iter().map(|(n, _)| *n)).collect();
    out.retire.sort_unstable();
    out
}

/// Was this row made for a replica like that? Rows of former versions do not say: they are of the first revision.
fn is_of(row: &LedgerRow, template: &str, revision: u32) -> bool {
    let params: Value = serde_json::from_str(&row.params).unwrap_or_default();
    params["template"].as_str().map_or(revision == 1, |t| t == template)
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::journal::ledger_row;

    fn rows(of: &[(&str, &str)]) -> Vec<LedgerRow> {
        let row = |(node, template): &(&str, &str)| LedgerRow {
            node: (*node).into(),
            params: if template.is_empty() {
                "{}".into()
            } else {
                format!("{{\"template\":\"{template}\"}}")
            },
            state: ledger_row::State::Exists as i32,
            ..Default::default()
        };
        of.iter().map(row).collect()
    }

    fn go(of: &[(&str, &str)], revision: u32, wanted: u32, room: u32, volumes: bool) -> [Vec<u32>; 4] {
        let ledger = rows(of);
        let have = Have { ledger: &ledger, revision, ..Default::default() };
        let r = rollout(&have, "new", wanted, room, volumes);
        [r.keep, r.make, r.replace, r.retire]
    }

    const TWO_OLD: [(&str, &str); 4] =
        [("holder-0", "old"), ("app-0", "old"), ("holder-1", "old"), ("app-1", "old")];

    #[test]
    fn new_replicas_come_beside_the_old_ones() {
        assert_eq!(go(&[], 1, 2, 12, false), [vec![], vec![0, 1], vec![], vec![]]);
        assert_eq!(go(&TWO_OLD, 2, 2, 12, false), [vec![], vec![2, 3], vec![], vec![0, 1]]);
        assert_eq!(go(&TWO_OLD, 2, 3, 12, false), [vec![], vec![2, 3, 4], vec![], vec![0, 1]]);
    }

    #[test]
    fn volumes_and_a_full_network_are_replaced_where_they_are() {
        assert_eq!(go(&TWO_OLD, 2, 3, 12, true), [vec![], vec![2], vec![0, 1], vec![]]);
        assert_eq!(go(&TWO_OLD, 2, 1, 12, true), [vec![], vec![], vec![0], vec![1]]);
        assert_eq!(go(&TWO_OLD, 2, 2, 3, false), [vec![], vec![2], vec![0], vec![1]]);
        assert_eq!(go(&TWO_OLD, 2, 2, 2, false), [vec![], vec![], vec![0, 1], vec![]]);
    }

    #[test]
    fn more_or_fewer_of_the_same_touch_no_other() {
        let same = [("holder-0", "new"), ("app-0", "new"), ("holder-3", "new"), ("app-3", "new")];
        assert_eq!(go(&same, 5, 3, 12, false), [vec![0, 3], vec![1], vec![], vec![]]);
        assert_eq!(go(&same, 5, 1, 12, false), [vec![0], vec![], vec![], vec![3]]);
        // a holder whose app is not there yet is completed
        assert_eq!(go(&[("holder-1", "new")], 5, 1, 12, true), [vec![1], vec![], vec![], vec![]]);
    }

    #[test]
    fn rows_of_a_former_version_are_of_the_first_revision() {
        let old = [("holder-0", ""), ("app-0", "")];
        assert_eq!(go(&old, 1, 1, 12, false)[0], [0]);
        assert_eq!(go(&old, 2, 1, 12, false), [vec![], vec![1], vec![], vec![0]]);
    }
}
