//! Group commit: one thread takes what has arrived while the last sync ran, writes it as one batch, syncs once, answers all.
//!
//! No timer: batches form by themselves under load. A failed sync is final (the kernel may have dropped the pages): the
//! committer stops and with it the engine, which is safe to start again.
use super::{Error, Kv, Op};
use crate::id::InstanceId;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, thread};
use tokio::sync::{mpsc, oneshot};

const QUEUE: usize = 4096;
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 512 * 1024;

/// One encoded commit.
#[derive(Debug)]
pub struct Job {
    pub(super) id: Option<InstanceId>,
    pub(super) expect_head: u64,
    pub(super) records: u64,
    /// The instance is over: nothing will follow.
    pub(super) last: bool,
    pub(super) answer_key: Option<Vec<u8>>,
    pub(super) ops: Vec<Op>,
    pub(super) reply: oneshot::Sender<Result<(), Error>>,
}

/// Sends to the committer; a full queue makes the sender wait.
#[derive(Clone)]
pub enum Handle {
    /// A thread of its own.
    Thread(mpsc::Sender<Job>),
    /// In place, one commit a sync: for simulations in virtual time, which may not wait for another thread.
    Inline(Arc<Inline>),
}

/// What an inline committer holds.
pub struct Inline {
    kv: Arc<dyn Kv>,
    heads: Mutex<HashMap<InstanceId, u64>>,
}

/// Starts the thread. `heads` holds the number of the last record of every instance.
pub(super) fn start(kv: Arc<dyn Kv>, heads: HashMap<InstanceId, u64>) -> Result<Handle, Error> {
    let (tx, rx) = mpsc::channel(QUEUE);
    thread::Builder::new()
        .name("committer".into())
        .spawn(move || run(&*kv, heads, rx))
        .map_err(|e| Error::Io(e.to_string()))?;
    Ok(Handle::Thread(tx))
}

/// Commits where they are asked for.
pub(super) fn inline(kv: Arc<dyn Kv>, heads: HashMap<InstanceId, u64>) -> Handle {
    Handle::Inline(Arc::new(Inline { kv, heads: Mutex::new(heads) }))
}

// === impl Handle ===

impl Handle {
    pub(super) async fn send(&self, job: Job) -> Result<(), Error> {
        match self {
            Self::Thread(tx) => tx.send(job).await.map_err(|_| Error::Stopped),
            Self::Inline(all) => {
                let done = admit(&*all.kv, &mut all.heads.lock(), &mut Vec::new(), &job);
                let done = done.and_then(|()| all.kv.apply(job.ops)).and_then(|()| all.kv.sync());
                let _ = job.reply.send(done);
                Ok(())
            }
        }
    }
}

fn run(kv: &dyn Kv, mut heads: HashMap<InstanceId, u64>, mut rx: mpsc::Receiver<Job>) {
    while let Some(first) = rx.blocking_recv() {
        let mut ops = Vec::new();
        let mut replies = Vec::new();
        let mut answers: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            match admit(kv, &mut heads, &mut answers, &job) {
                Ok(()) => {
                    bytes +=
                        job.ops.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len)).sum::<usize>();
                    ops.extend(job.ops);
                    replies.push(job.reply);
                }
                Err(e) => drop(job.reply.send(Err(e))),
            }
            next = if replies.len() < BATCH && bytes < BATCH_BYTES { rx.try_recv().ok() } else { None };
        }
        if replies.is_empty() {
            continue;
        }
        let done = kv.apply(ops).and_then(|()| kv.sync());
        let failed = done.is_err();
        for reply in replies {
            // a caller that went away has its record all the same
            let _ = reply.send(done.clone());
        }
        if failed {
            return;
        }
    }
}

fn admit(
    kv: &dyn Kv,
    heads: &mut HashMap<InstanceId, u64>,
    answers: &mut Vec<Vec<u8>>,
    job: &Job,
) -> Result<(), Error> {
    if let Some(key) = &job.answer_key
        && (answers.contains(key) || kv.get(key)?.is_some())
    {
        return Err(Error::AnswerExists);
    }
    if let Some(id) = job.id {
        let head = heads.entry(id).or_insert(0);
        if *head != job.expect_head {
            return Err(Error::HeadMoved);
        }
        *head += job.records;
        if job.last {
            heads.remove(&id);
        }
    }
    answers.extend(job.answer_key.clone());
    Ok(())
}
