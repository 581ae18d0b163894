//! The layout over an ordered key-value store.
use super::{
    AuditRow, Checked, Commit, Error, Link, Loaded, Store,
    backup::{Source, Taps},
    chain::{self, Chain},
    check,
    committer::{self, Job},
    pages::PAGE,
    series, trim, upgrade,
};
use crate::{
    clock::Millis,
    fold::fold,
    graph::State,
    id::{InstanceId, StoreId},
    journal::{self as codec, Kind},
    series::{Point, Tier},
};
use async_trait::async_trait;
use std::{collections::HashMap, sync::Arc};
use syp_proto::journal::{Answer, Entry, Instance, Record, SeriesHead};
use tokio::sync::{mpsc, oneshot, watch};

/// Format of the whole store. It grows when a former version would take what it does not know for damage, or folds otherwise:
/// 2 has packed values, revisions, secrets, series and the audit chain, 3 what providers say, 4 etags that gates' news leave alone.
pub const FORMAT: u64 = 4;

/// Key and value.
pub type Pair = (Vec<u8>, Vec<u8>);
/// Key and new value; `None` removes.
pub type Op = (Vec<u8>, Option<Vec<u8>>);

/// An ordered map on a disk.
pub trait Kv: Send + Sync + 'static {
    /// All of it or nothing of it, in order; durable only after [`Kv::sync`].
    fn apply(&self, ops: Vec<Op>) -> Result<(), Error>;
    /// Makes everything before it durable.
    fn sync(&self) -> Result<(), Error>;
    /// One value.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Bytes that can still be written; `None` where nobody knows.
    fn room(&self) -> Option<u64> {
        None
    }
    /// Pairs of `from..to`.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Pair>, Error>;
}

struct KvStore {
    kv: Arc<dyn Kv>,
    committer: committer::Handle,
    taps: Arc<Taps>,
    id: StoreId,
    epoch: u64,
    audit: watch::Receiver<u64>,
}

/// Opens a store: checks the format, counts the boot, starts the committer.
///
/// # Errors
/// [`Error::Newer`], [`Error::Corrupt`] or what the disk says.
pub fn open(kv: Arc<dyn Kv>) -> Result<Arc<dyn Store>, Error> {
    open_with(kv, committer::start)
}

/// As [`open`], but commits happen where they are asked for: for simulations in virtual time.
///
/// # Errors
/// As [`open`].
pub fn open_inline(kv: Arc<dyn Kv>) -> Result<Arc<dyn Store>, Error> {
    open_with(kv, |kv, state| Ok(committer::inline(kv, state)))
}

fn open_with(
    kv: Arc<dyn Kv>,
    start: impl FnOnce(Arc<dyn Kv>, committer::State) -> Result<committer::Handle, Error>,
) -> Result<Arc<dyn Store>, Error> {
    let number = |k: &[u8]| -> Result<Option<u64>, Error> {
        kv.get(k)?
            .map(|v| Ok(u64::from_be_bytes(v.try_into().map_err(|_| Error::Corrupt("meta".into()))?)))
            .transpose()
    };
    let found = number(b"m|format")?.unwrap_or(FORMAT);
    if found > FORMAT {
        return Err(Error::Newer { found, known: FORMAT });
    }
    if found < FORMAT {
        upgrade::upgrade(&*kv)?;
    }
    let id = match kv.get(b"m|store_id")? {
        Some(v) => StoreId::from_stored(String::from_utf8(v).map_err(|_| Error::Corrupt("store id".into()))?),
        None => StoreId::random(),
    };
    let epoch = number(b"m|boot_epoch")?.unwrap_or(0) + 1;
    kv.apply(vec![
        (b"m|format".to_vec(), Some(FORMAT.to_be_bytes().to_vec())),
        (b"m|store_id".to_vec(), Some(id.as_str().as_bytes().to_vec())),
        (b"m|boot_epoch".to_vec(), Some(epoch.to_be_bytes().to_vec())),
    ])?;
    kv.sync()?;
    let mut heads = HashMap::new();
    let mut after = None;
    loop {
        let page = live(&*kv, after)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (id, _) in page {
            let head = match head(&*kv, id) {
                // it alone can't be written to: no commit expects this head
                Err(Error::Corrupt(_)) => u64::MAX,
                head => head?,
            };
            heads.insert(id, head);
        }
    }
    let state = committer::State::new(heads, Chain::open(&*kv)?);
    let (audit, taps) = (state.audit(), state.taps());
    let committer = start(Arc::clone(&kv), state)?;
    Ok(Arc::new(KvStore { kv, committer, taps, id, epoch, audit }))
}

/// The next page of live instances: ids and checkpoints.
fn live(kv: &dyn Kv, after: Option<InstanceId>) -> Result<Vec<(InstanceId, Vec<u8>)>, Error> {
    // the smallest key after one is that key and a zero
    let from = after.map_or_else(|| b"i|".to_vec(), |id| [key(b'i', id), vec![0]].concat());
    let rows = kv.scan(&from, b"i}", PAGE, false)?;
    Ok(rows.into_iter().filter_map(|(k, v)| Some((uid(&k)?, v))).collect())
}

/// Number of the last record of an instance: from its last commit, without reading its history.
fn head(kv: &dyn Kv, id: InstanceId) -> Result<u64, Error> {
    let last = kv.scan(&log_key(id, 0), &log_key(id, u64::MAX), 1, true)?;
    let Some((_, v)) = last.first() else { return Ok(0) };
    let entry: Entry =
        codec::decode(Kind::Entry, v).map_err(|e| Error::Corrupt(format!("journal of {id}: {e}")))?;
    Ok(entry.records.last().map_or(0, |r| r.seq))
}

/// Records of an instance after a number, oldest first.
pub(super) fn entries(kv: &dyn Kv, id: InstanceId, after: u64, limit: usize) -> Result<Vec<Record>, Error> {
    let mut out = Vec::new();
    // the commit that holds `after + 1` may have begun earlier
    let from = kv.scan(&log_key(id, 0), &log_key(id, after + 2), 1, true)?;
    let from = from.into_iter().next().map_or_else(|| log_key(id, 0), |(k, _)| k);
    for (_, v) in kv.scan(&from, &log_key(id, u64::MAX), limit.saturating_add(1), false)? {
        let entry: Entry =
            codec::decode(Kind::Entry, &v).map_err(|e| Error::Corrupt(format!("journal of {id}: {e}")))?;
        out.extend(entry.records.into_iter().filter(|r| r.seq > after));
    }
    out.truncate(limit);
    Ok(out)
}

fn key(prefix: u8, id: InstanceId) -> Vec<u8> {
    [&[prefix, b'|'][..], id.as_bytes()].concat()
}

pub(super) fn log_key(id: InstanceId, seq: u64) -> Vec<u8> {
    [&b"l|"[..], id.as_bytes(), &seq.to_be_bytes()].concat()
}

pub(super) fn uid(key: &[u8]) -> Option<InstanceId> {
    Some(InstanceId::from_bytes(key.get(2..18)?.try_into().ok()?))
}

fn name_key(project: &str, name: &str, ms: i64) -> Vec<u8> {
    [b"n|", project.as_bytes(), b"/", name.as_bytes(), &[0], &ms.to_be_bytes()].concat()
}

pub(super) fn too_large(e: codec::Error) -> Error {
    Error::TooLarge(e.to_string())
}

fn sealed_key(key: &[u8]) -> Vec<u8> {
    [&b"k|"[..], key].concat()
}

fn sealed_range(id: InstanceId) -> (Vec<u8>, Vec<u8>) {
    let from = sealed_key(&crate::vault::prefix(id));
    let mut to = from.clone();
    to.pop();
    to.push(b'|' + 1);
    (from, to)
}

// === impl KvStore ===

impl KvStore {
    fn encode(&self, c: &Commit) -> Result<Vec<Op>, Error> {
        let mut ops = Vec::new();
        if let (Some(id), Some(first)) = (c.id, c.records.first()) {
            let entry = Entry { records: c.records.clone() };
            ops.push((log_key(id, first.seq), Some(codec::encode(Kind::Entry, &entry).map_err(too_large)?)));
        }
        if let (Some(id), Some(i)) = (c.id, &c.checkpoint) {
            let value = codec::encode(Kind::Instance, i).map_err(too_large)?;
            if i.state() == State::Destroyed {
                ops.push((key(b'i', id), None));
                ops.push((key(b't', id), Some(value)));
                // its secrets end with it, in the same moment
                let (from, to) = sealed_range(id);
                let all = self.kv.scan(&from, &to, usize::MAX, false)?;
                ops.extend(all.into_iter().map(|(k, _)| (k, None)));
            } else {
                ops.push((key(b'i', id), Some(value)));
            }
            if c.expect_head == 0 {
                ops.push((name_key(&i.project, &i.name, i.create_ms), Some(id.as_bytes().to_vec())));
            }
        }
        if let Some((k, a)) = &c.answer {
            ops.push((answer_key(k), Some(codec::encode(Kind::Answer, a).map_err(too_large)?)));
        }
        for (k, record) in &c.sealed {
            ops.push((sealed_key(k), record.clone()));
        }
        for (name, value) in &c.settings {
            let value = (!value.is_empty()).then(|| value.clone());
            ops.push((setting_key(name), value));
        }
        for row in &c.series {
            ops.push(series::op(row)?);
        }
        Ok(ops)
    }

    fn read(&self, id: InstanceId, checkpoint: &[u8]) -> Loaded {
        let instance = codec::decode::<Instance>(Kind::Instance, checkpoint)
            .map_err(|e| format!("checkpoint: {e}"))
            .and_then(|i| self.fold_tail(id, i));
        Loaded { id, instance }
    }

    fn fold_tail(&self, id: InstanceId, mut i: Instance) -> Result<Instance, String> {
        // a commit may hold records on both sides of the checkpoint only if it wrote that checkpoint
        let tail = self
            .kv
            .scan(&log_key(id, i.head_seq + 1), &log_key(id, u64::MAX), usize::MAX, false)
            .map_err(|e| e.to_string())?;
        for (_, v) in tail {
            let entry: Entry = codec::decode(Kind::Entry, &v).map_err(|e| format!("journal: {e}"))?;
            for r in &entry.records {
                fold(&mut i, r).map_err(|e| e.to_string())?;
            }
        }
        Ok(i)
    }

    /// Removes keys; how many.
    async fn remove(&self, ops: Vec<Op>) -> Result<usize, Error> {
        let n = ops.len();
        if n > 0 {
            let (reply, answer) = oneshot::channel();
            let job = Job { ops, ..Job::empty(reply) };
            self.committer.send(job).await?;
            answer.await.map_err(|_| Error::Stopped)??;
        }
        Ok(n)
    }
}

fn setting_key(name: &str) -> Vec<u8> {
    [b"s|", name.as_bytes()].concat()
}

fn answer_key(k: &str) -> Vec<u8> {
    [b"d|", k.as_bytes()].concat()
}

#[async_trait]
impl Store for KvStore {
    fn store_id(&self) -> &StoreId {
        &self.id
    }

    fn boot_epoch(&self) -> u64 {
        self.epoch
    }

    async fn commit(&self, c: Commit) -> Result<(), Error> {
        let ops = self.encode(&c)?;
        let audit = c.audit.iter().map(chain::encoded).collect::<Result<Vec<_>, _>>()?;
        let (reply, answer) = oneshot::channel();
        let records = c.records.len() as u64;
        let last = c.checkpoint.as_ref().is_some_and(|i| i.state == State::Destroyed as i32);
        let answer_key = c.answer.as_ref().map(|(k, _)| answer_key(k));
        self.committer
            .send(Job { id: c.id, expect_head: c.expect_head, records, last, answer_key, ops, audit, reply })
            .await?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    async fn load_live(&self, after: Option<InstanceId>) -> Result<Vec<Loaded>, Error> {
        Ok(live(&*self.kv, after)?.iter().map(|(id, v)| self.read(*id, v)).collect())
    }

    async fn load(&self, id: InstanceId) -> Result<Option<Loaded>, Error> {
        for prefix in [b'i', b't'] {
            if let Some(v) = self.kv.get(&key(prefix, id))? {
                return Ok(Some(self.read(id, &v)));
            }
        }
        Ok(None)
    }

    async fn incarnations(&self, project: &str, name: &str) -> Result<Vec<InstanceId>, Error> {
        let rows =
            self.kv.scan(&name_key(project, name, 0), &name_key(project, name, i64::MAX), 1000, true)?;
        Ok(rows.into_iter().filter_map(|(_, v)| Some(InstanceId::from_bytes(v.try_into().ok()?))).collect())
    }

    async fn load_destroyed(&self, limit: usize) -> Result<Vec<Loaded>, Error> {
        let rows = self.kv.scan(b"t|", b"t}", limit, false)?;
        Ok(rows.iter().filter_map(|(k, v)| Some(self.read(uid(k)?, v))).collect())
    }

    async fn events(&self, id: InstanceId, after: u64, limit: usize) -> Result<Vec<Record>, Error> {
        entries(&*self.kv, id, after, limit)
    }

    async fn answer(&self, k: &str) -> Result<Option<Answer>, Error> {
        let Some(v) = self.kv.get(&answer_key(k))? else { return Ok(None) };
        codec::decode(Kind::Answer, &v).map(Some).map_err(|e| Error::Corrupt(format!("answer {k}: {e}")))
    }

    async fn sealed(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.kv.get(&sealed_key(key))
    }

    async fn setting(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.kv.get(&setting_key(name))
    }

    async fn settings(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let from = setting_key(prefix);
        // names are text: no byte of one is above this
        let to = [&from[..], &[0xff]].concat();
        let rows = self.kv.scan(&from, &to, usize::MAX, false)?;
        let name = |k: &[u8]| k.get(2..).map(|n| String::from_utf8_lossy(n).into_owned());
        Ok(rows.into_iter().filter_map(|(k, v)| Some((name(&k)?, v))).collect())
    }

    async fn audit(&self, before: Option<&[u8]>, limit: usize) -> Result<Vec<AuditRow>, Error> {
        chain::before(&*self.kv, before, limit)
    }

    async fn audit_after(&self, seq: u64, limit: usize) -> Result<Vec<AuditRow>, Error> {
        chain::after(&*self.kv, seq, limit)
    }

    fn audit_head(&self) -> watch::Receiver<u64> {
        self.audit.clone()
    }

    async fn check_audit(&self, known: Option<Link>) -> Result<Checked, Error> {
        chain::check(&*self.kv, known)
    }

    async fn series(
        &self,
        id: InstanceId,
        tier: Tier,
        from: Millis,
        to: Millis,
    ) -> Result<Vec<Point>, Error> {
        series::points(&*self.kv, id, tier, from, to)
    }

    async fn series_head(&self, id: InstanceId) -> Result<Option<SeriesHead>, Error> {
        series::head(&*self.kv, id)
    }

    async fn series_heads(&self) -> Result<Vec<InstanceId>, Error> {
        series::heads(&*self.kv)
    }

    async fn trim_series(&self, now: Millis) -> Result<usize, Error> {
        self.remove(series::over(&*self.kv, |tier| tier.over_ms(now))?).await
    }

    async fn trim(&self, now: Millis) -> Result<usize, Error> {
        self.remove(trim::over(&*self.kv, now)?).await
    }

    async fn closed(&self) {
        self.committer.closed().await;
    }

    fn room(&self) -> Option<u64> {
        self.kv.room()
    }

    fn backup(&self) -> mpsc::Receiver<Result<Vec<Op>, Error>> {
        let (tx, rx) = mpsc::channel(2);
        let (kv, taps, committer) = (Arc::clone(&self.kv), Arc::clone(&self.taps), self.committer.clone());
        tokio::spawn(Source { kv, taps, committer }.send(tx));
        rx
    }

    async fn fsck(&self) -> Result<(u64, Vec<String>), Error> {
        check::all(&*self.kv)
    }
}
