//! A copy of the whole store of one moment, while commits go on.
//!
//! Two things at once: pages of the store as they are when they are read, and every batch that was committed since the first
//! page. Batches are absolute (a value or its removal), so that the pages and the batches in their order give exactly the
//! store after the last batch, though no page was read at that moment.
//!
//! Nothing waits for a backup: one that is read too slowly is given up.
use super::{
    Error, Kv, Op, Store,
    committer::{self, Job},
    pages::pages,
};
use crate::clock::Millis;
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use tokio::sync::{mpsc, oneshot};

/// Bytes of batches that a backup may be behind.
const BEHIND: usize = 64 << 20;
/// Bytes that are handed on at once.
const PART: usize = 1 << 20;

/// The setting that says when this store came back from a backup.
const RESTORED: &str = "restored";

/// What makes of a copy a store that knows that it is one.
pub fn restored(at: Millis) -> Vec<Op> {
    vec![([b"s|", RESTORED.as_bytes()].concat(), Some(at.to_be_bytes().to_vec()))]
}

/// When the store came back from a backup, if ever.
///
/// # Errors
/// The store's.
pub async fn restored_at(store: &dyn Store) -> Result<Option<Millis>, Error> {
    let Some(v) = store.setting(RESTORED).await? else { return Ok(None) };
    v.try_into()
        .map(|v| Some(Millis::from_be_bytes(v)))
        .map_err(|_| Error::Corrupt("the time of a restore".into()))
}

/// Who wants to have every batch.
#[derive(Default)]
pub(super) struct Taps(Mutex<Vec<Tap>>);

/// One of them. The channel has no bound of its own: the bytes in it do.
struct Tap {
    to: mpsc::UnboundedSender<Vec<Op>>,
    behind: Arc<AtomicUsize>,
}

/// Its other end.
struct Batches {
    from: mpsc::UnboundedReceiver<Vec<Op>>,
    behind: Arc<AtomicUsize>,
}

// === impl Taps ===

impl Taps {
    /// Applies a batch and hands it on. Under one lock: a tap has a batch, or its first page is read after it.
    pub fn apply(&self, kv: &dyn Kv, ops: Vec<Op>) -> Result<(), Error> {
        let mut taps = self.0.lock();
        taps.retain(|t| !t.to.is_closed());
        if taps.is_empty() {
            return kv.apply(ops);
        }
        kv.apply(ops.clone())?;
        let bytes = size(&ops);
        // one that is too far behind is given up: its reader sees the end of what it has
        taps.retain(|t| t.behind.fetch_add(bytes, Relaxed) <= BEHIND && t.to.send(ops.clone()).is_ok());
        Ok(())
    }

    fn open(&self) -> Batches {
        let (to, from) = mpsc::unbounded_channel();
        let behind = Arc::new(AtomicUsize::new(0));
        self.0.lock().push(Tap { to, behind: Arc::clone(&behind) });
        Batches { from, behind }
    }
}

// === impl Batches ===

impl Batches {
    /// What is there now.
    fn next(&mut self) -> Option<Vec<Op>> {
        let batch = self.from.try_recv().ok()?;
        self.behind.fetch_sub(size(&batch), Relaxed);
        Some(batch)
    }
}

fn size(ops: &[Op]) -> usize {
    ops.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len)).sum()
}

/// Where the parts of a copy come from.
pub(super) struct Source {
    pub kv: Arc<dyn Kv>,
    pub taps: Arc<Taps>,
    pub committer: committer::Handle,
}

// === impl Source ===

impl Source {
    /// Sends all of it. The channel ends after the last part; an error is the last thing it says.
    pub async fn send(self, to: mpsc::Sender<Result<Vec<Op>, Error>>) {
        if let Err(e) = self.parts(&to).await {
            // nobody is left to be told when this fails
            let _ = to.send(Err(e)).await;
        }
    }

    async fn parts(&self, to: &mpsc::Sender<Result<Vec<Op>, Error>>) -> Result<(), Error> {
        let mut batches = self.taps.open();
        // what was applied before the tap can be read from here on
        self.barrier().await?;
        for page in pages(&*self.kv, &[], &[0xff]) {
            pass(to, page?.into_iter().map(|(k, v)| (k, Some(v)))).await?;
            // never between the reading of a page and its sending: what a page holds is older than these
            while let Some(batch) = batches.next() {
                pass(to, batch).await?;
            }
            tokio::task::yield_now().await;
        }
        self.barrier().await?;
        let behind = batches.from.is_closed();
        batches.from.close();
        while let Some(batch) = batches.next() {
            pass(to, batch).await?;
        }
        if behind { Err(Error::Behind) } else { Ok(()) }
    }

    /// What was committed before has been applied, written and handed on.
    async fn barrier(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.committer.send(Job::empty(reply)).await?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}

async fn pass(
    to: &mpsc::Sender<Result<Vec<Op>, Error>>,
    all: impl IntoIterator<Item = Op>,
) -> Result<(), Error> {
    let (mut part, mut bytes) = (Vec::new(), 0);
    for op in all {
        bytes += op.0.len() + op.1.as_ref().map_or(0, Vec::len);
        part.push(op);
        if bytes >= PART {
            to.send(Ok(std::mem::take(&mut part))).await.map_err(|_| Error::Stopped)?;
            bytes = 0;
        }
    }
    if part.is_empty() {
        return Ok(());
    }
    to.send(Ok(part)).await.map_err(|_| Error::Stopped)
}

#[cfg(test)]
mod tests {
    use super::super::{Commit, MemKv, SledKv, open};
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Two settings that are always written together, many times, and a lot that the scan has to get past.
    async fn writer(store: Arc<dyn Store>, stop: Arc<AtomicBool>) -> u64 {
        let mut n = 0u64;
        while !stop.load(Relaxed) {
            n += 1;
            let value = n.to_be_bytes().to_vec();
            let settings = ["a", "z"].map(|k| (k.to_owned(), value.clone())).to_vec();
            let gone = (format!("gone{n}"), value);
            let settings = settings.into_iter().chain([gone]).collect();
            store.commit(Commit { settings, ..Default::default() }).await.unwrap();
        }
        n
    }

    async fn copied(kv: Arc<dyn Kv>) {
        let store = open(kv).unwrap();
        for page in 0..30 {
            let settings = (0..100).map(|n| (format!("m{page}-{n}"), vec![7; 500])).collect();
            store.commit(Commit { settings, ..Default::default() }).await.unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let writing = tokio::spawn(writer(Arc::clone(&store), Arc::clone(&stop)));
        for _ in 0..5 {
            let before = store.setting("a").await.unwrap();
            let copy = Arc::new(MemKv::default());
            let mut parts = store.backup();
            while let Some(part) = parts.recv().await {
                copy.apply(part.unwrap()).unwrap();
            }
            copy.sync().unwrap();
            let (a, z) = (copy.get(b"s|a").unwrap(), copy.get(b"s|z").unwrap());
            assert!(a == z && a >= before, "one moment, not before it was asked for: {a:?} {z:?} {before:?}");
            let n = a.map_or(0, |a| u64::from_be_bytes(a.try_into().unwrap()));
            for n in 1..=n {
                assert!(copy.get(format!("s|gone{n}").as_bytes()).unwrap().is_some(), "{n} is missing");
            }
            assert_eq!(copy.scan(b"s|m", b"s|n", 9_999, false).unwrap().len(), 3_000);
            let again = open(copy).unwrap();
            assert_eq!(again.store_id(), store.store_id());
            assert_eq!(again.fsck().await.unwrap().1, Vec::<String>::new());
        }
        stop.store(true, Relaxed);
        assert!(writing.await.unwrap() > 5, "nothing was written meanwhile");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_is_of_one_moment_while_commits_go_on() {
        copied(Arc::new(MemKv::default())).await;
        let dir = tempfile::tempdir().unwrap();
        copied(Arc::new(SledKv::open(&dir.path().join("store")).unwrap())).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_that_does_not_read_holds_up_nobody() {
        let store = open(Arc::new(MemKv::default())).unwrap();
        let settings = (0..9).map(|n| (format!("m{n}"), vec![7; PART])).collect();
        store.commit(Commit { settings, ..Default::default() }).await.unwrap();
        let mut parts = store.backup();
        assert!(parts.recv().await.unwrap().is_ok());
        for n in 0..2 * BEHIND / PART {
            let settings = vec![(format!("n{n}"), vec![1; PART])];
            store.commit(Commit { settings, ..Default::default() }).await.unwrap();
        }
        let mut last = None;
        while let Some(part) = parts.recv().await {
            last = Some(part.map(|_| ()));
        }
        assert_eq!(last, Some(Err(Error::Behind)));
    }
}
