//! `fsck`: is every checkpoint the fold of its journal, and is the audit trail whole? The engine goes on meanwhile, and that is no
//! damage: what is compared was written in one moment, or is read in the order in which it is written.
use super::{
    Error, Kv, chain,
    kv::{entries, log_key, uid},
};
use crate::{
    fold::fold,
    id::InstanceId,
    journal::{self as codec, Kind},
};
use std::collections::HashSet;
use syp_proto::journal::{Instance, Record};

/// Records that were read, and what is damaged, in words.
///
/// # Errors
/// What the disk says.
pub(super) fn all(kv: &dyn Kv) -> Result<(u64, Vec<String>), Error> {
    let (mut count, mut bad, mut seen) = (0, Vec::new(), HashSet::new());
    for prefix in [b'i', b't'] {
        for (k, checkpoint) in kv.scan(&[prefix, b'|'], &[prefix, b'}'], usize::MAX, false)? {
            // one that was destroyed between the two scans is in both
            let Some(id) = uid(&k).filter(|id| seen.insert(*id)) else { continue };
            let told = match entries(kv, id, 0, usize::MAX) {
                // the journal of one that is long gone is let go
                Ok(r) if prefix == b't' && r.first().is_none_or(|r| r.seq != 1) => continue,
                Ok(records) => {
                    count += records.len() as u64;
                    differs(id, &checkpoint, &records)
                }
                Err(Error::Corrupt(why)) => Some(Error::Corrupt(why).to_string()),
                Err(e) => return Err(e),
            };
            // and may be let go while it is read
            bad.extend(told.filter(|_| prefix == b'i' || !matches!(kv.get(&log_key(id, 1)), Ok(None))));
        }
    }
    if let Some((seq, why)) = chain::check(kv, None)?.broken {
        bad.push(format!("audit row {seq}: {why}"));
    }
    Ok((count, bad))
}

/// What is wrong with a checkpoint that was read before these records were: they reach its moment, and may go on behind it.
fn differs(id: InstanceId, checkpoint: &[u8], records: &[Record]) -> Option<String> {
    let mut from_zero = Instance { uid: id.to_string(), ..Default::default() };
    if let Err(e) = records.iter().try_for_each(|r| fold(&mut from_zero, r)) {
        return Some(e.to_string());
    }
    let mut now = match codec::decode::<Instance>(Kind::Instance, checkpoint) {
        Ok(i) => i,
        Err(e) => return Some(format!("{id}: checkpoint: {e}")),
    };
    let head = now.head_seq;
    if let Err(e) = records.iter().filter(|r| r.seq > head).try_for_each(|r| fold(&mut now, r)) {
        return Some(format!("{id}: {e}"));
    }
    (now != from_zero).then(|| format!("{id}: its checkpoint is not the fold of its journal"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Commit, MemKv, Op, Pair, Store, open_inline};
    use parking_lot::Mutex;
    use std::sync::Arc;
    use syp_proto::journal::{Audit, Created, Edited, record::Body};

    /// A store to which something is written right after the first look at some keys.
    struct Meanwhile {
        kv: MemKv,
        looked_at: &'static [u8],
        written: Mutex<Vec<Op>>,
    }

    impl Kv for Meanwhile {
        fn apply(&self, ops: Vec<Op>) -> Result<(), Error> {
            self.kv.apply(ops)
        }
        fn sync(&self) -> Result<(), Error> {
            self.kv.sync()
        }
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
            let found = self.kv.get(key)?;
            if key.starts_with(self.looked_at) {
                self.kv.apply(std::mem::take(&mut self.written.lock()))?;
            }
            Ok(found)
        }
        fn scan(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Pair>, Error> {
            let found = self.kv.scan(from, to, limit, reverse)?;
            if from.starts_with(self.looked_at) && limit > 1 {
                self.kv.apply(std::mem::take(&mut self.written.lock()))?;
            }
            Ok(found)
        }
    }

    fn record(seq: u64) -> Record {
        let body = match seq {
            1 => Body::Created(Created::default()),
            _ => Body::Edited(Edited { set_expire: true, expire_ms: 7, ..Default::default() }),
        };
        Record { seq, body: Some(body), ..Default::default() }
    }

    /// Writes the next record, with or without a checkpoint, and a row of the audit trail.
    async fn write(store: &dyn Store, id: InstanceId, i: &mut Instance, checkpoint: bool) {
        let r = record(i.head_seq + 1);
        let expect_head = i.head_seq;
        fold(i, &r).unwrap();
        let checkpoint = checkpoint.then(|| i.clone());
        let audit = vec![Audit { at_ms: r.seq.try_into().unwrap(), ..Default::default() }];
        let c =
            Commit { id: Some(id), expect_head, records: vec![r], checkpoint, audit, ..Default::default() };
        store.commit(c).await.unwrap();
    }

    /// What `write` changes; it is taken back.
    async fn changes(kv: &MemKv, write: impl AsyncFnOnce()) -> Vec<Op> {
        let all = |kv: &MemKv| kv.scan(b"", &[0xff], usize::MAX, false).unwrap();
        let before = all(kv);
        write().await;
        let after = all(kv);
        let none = |all: &[Pair]| all.iter().map(|(k, _)| (k.clone(), None)).collect::<Vec<Op>>();
        let some = |all: &[Pair]| all.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect::<Vec<Op>>();
        kv.apply([none(&after), some(&before)].concat()).unwrap();
        [none(&before), some(&after)].concat()
    }

    #[tokio::test]
    async fn what_the_engine_writes_meanwhile_is_no_damage() {
        for (looked_at, checkpoint) in [(b"i|", false), (b"i|", true), (b"l|", false), (b"l|", true)] {
            let kv = MemKv::default();
            let store = open_inline(Arc::new(kv.clone())).unwrap();
            let (id, other) = (InstanceId::random(), InstanceId::random());
            for id in [id, other] {
                let mut i = Instance { uid: id.to_string(), ..Default::default() };
                write(&*store, id, &mut i, true).await;
            }
            let mut i = Instance { uid: id.to_string(), ..Default::default() };
            fold(&mut i, &record(1)).unwrap();
            let written = changes(&kv, async || write(&*store, id, &mut i, checkpoint).await).await;
            let written = Mutex::new(written);
            let kv = Meanwhile { kv, looked_at, written };
            let (records, bad) = all(&kv).unwrap();
            assert_eq!(bad, [""; 0], "written after a look at {}", String::from_utf8_lossy(looked_at));
            assert!(kv.written.lock().is_empty() && (2..=3).contains(&records), "it was written");
            // and what is damaged is found whenever it is looked at: a checkpoint of no journal
            let taken = kv.kv.get(&[b"i|", id.as_bytes().as_slice()].concat()).unwrap();
            kv.apply(vec![([b"i|", other.as_bytes().as_slice()].concat(), taken)]).unwrap();
            let (_, bad) = all(&kv).unwrap();
            assert!(bad.len() == 1 && bad[0].starts_with(&other.to_string()), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn rows_that_are_let_go_meanwhile_are_not_missing() {
        const DAY: i64 = 24 * 3_600_000;
        let kv = MemKv::default();
        let store = open_inline(Arc::new(kv.clone())).unwrap();
        for n in 1..9 {
            let audit = vec![Audit { at_ms: n, ..Default::default() }];
            store.commit(Commit { audit, ..Default::default() }).await.unwrap();
        }
        let trim = async || assert!(store.trim(90 * DAY + 4).await.unwrap() > 0);
        let written = Mutex::new(changes(&kv, trim).await);
        let kv = Meanwhile { kv, looked_at: b"m|", written };
        assert_eq!(all(&kv).unwrap().1, [""; 0]);
        assert!(kv.written.lock().is_empty(), "they went meanwhile");
    }
}
