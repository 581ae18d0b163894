use super::*;
use crate::store::{Commit, MemKv, Store, open_inline};
use std::sync::Arc;

const DAY: Millis = 24 * 3_600_000;

fn row(n: i64) -> Audit {
    Audit { at_ms: n, method: format!("m{n}"), ..Default::default() }
}

async fn written(kv: &MemKv, rows: std::ops::Range<i64>) -> Arc<dyn Store> {
    let store = open_inline(Arc::new(kv.clone())).unwrap();
    for n in rows {
        let audit = vec![row(2 * n), row(2 * n + 1)];
        store.commit(Commit { audit, ..Default::default() }).await.unwrap();
    }
    store
}

fn put(kv: &MemKv, ops: Vec<Op>) {
    kv.apply(ops).unwrap();
    kv.sync().unwrap();
}

#[tokio::test]
async fn the_chain_goes_on_over_a_restart_and_a_trim() {
    let kv = MemKv::default();
    drop(written(&kv, 1..4).await);
    let store = written(&kv, 4..6).await;
    let all = store.check_audit(None).await.unwrap();
    assert_eq!((all.rows, all.first, all.head.seq, all.broken.clone()), (10, 1, 10, None));
    let newest = store.audit(None, 3).await.unwrap();
    assert_eq!(newest.iter().map(|r| r.audit.at_ms).collect::<Vec<_>>(), [11, 10, 9]);
    let next = store.audit(Some(&newest[2].key), 2).await.unwrap();
    assert_eq!(next.iter().map(|r| r.audit.at_ms).collect::<Vec<_>>(), [8, 7]);
    let third = store.audit_after(2, 1).await.unwrap().remove(0).link.unwrap();
    assert!(store.check_audit(Some(third)).await.unwrap().known_fits);
    let made_up = Link { hash: [0; 32], ..third };
    assert!(!store.check_audit(Some(made_up)).await.unwrap().known_fits);
    // those of 2 to 5 are older than the 90 days, the others are not
    while store.trim(90 * DAY + 6).await.unwrap() > 0 {}
    let left = store.check_audit(None).await.unwrap();
    assert_eq!((left.rows, left.first, left.head, left.broken), (6, 5, all.head, None));
    // everything goes, and the next row still follows
    while store.trim(900 * DAY).await.unwrap() > 0 {}
    drop(store);
    let store = written(&kv, 6..7).await;
    let left = store.check_audit(None).await.unwrap();
    assert_eq!((left.rows, left.first, left.head.seq, left.broken), (2, 11, 12, None));
    assert_eq!(store.fsck().await.unwrap().1, [""; 0]);
}

#[tokio::test]
async fn whatever_is_changed_removed_or_moved_breaks_the_chain_there() {
    let kv = MemKv::default();
    let store = written(&kv, 1..6).await;
    let value = |seq| kv.get(&key(seq)).unwrap();
    let other: ChainedAudit = codec::decode(Kind::ChainedAudit, &value(4).unwrap()).unwrap();
    let forged = ChainedAudit { row: encoded(&row(999)).unwrap(), ..other.clone() };
    let forged = codec::encode(Kind::ChainedAudit, &forged).unwrap();
    let mut cut = value(4).unwrap();
    cut.pop();
    let cases: [(Vec<Op>, u64, &str); 6] = [
        (vec![(key(4), Some(forged))], 4, "changed"),
        (vec![(key(4), None)], 4, "missing"),
        (vec![(key(1), None)], 1, "missing"),
        (vec![(key(10), None)], 10, "last rows"),
        (vec![(key(4), value(5)), (key(5), value(4))], 4, "another one's place"),
        (vec![(key(4), Some(cut))], 4, "not a record"),
    ];
    for (ops, at, says) in cases {
        let back = ops.iter().map(|(k, _)| (k.clone(), kv.get(k).unwrap())).collect();
        put(&kv, ops);
        let (seq, why) = store.check_audit(None).await.unwrap().broken.unwrap();
        assert!(seq == at && why.contains(says), "{seq}: {why}");
        assert!(store.fsck().await.unwrap().1[0].contains("audit"), "fsck tells of it");
        put(&kv, back);
    }
    assert_eq!(store.check_audit(None).await.unwrap().broken, None);
}

#[tokio::test]
async fn rows_of_a_version_before_the_chain_are_read_behind_it() {
    let kv = MemKv::default();
    let old = |n: i64| {
        let key = [BEFORE, &n.to_be_bytes(), &[0; 12]].concat();
        (key, Some(codec::encode(Kind::Audit, &row(n)).unwrap()))
    };
    put(&kv, vec![old(1), old(2)]);
    let store = written(&kv, 5..6).await;
    let mut seen = Vec::new();
    let mut at = None;
    loop {
        let page = store.audit(at.as_deref(), 1).await.unwrap();
        let Some(r) = page.first() else { break };
        seen.push((r.audit.at_ms, r.link.is_some()));
        at = Some(r.key.clone());
    }
    assert_eq!(seen, [(11, true), (10, true), (2, false), (1, false)]);
    assert_eq!(store.check_audit(None).await.unwrap().broken, None);
}
