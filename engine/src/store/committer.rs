//! Group commit: one thread takes what has arrived while the last sync ran, writes it as one batch, syncs once, answers all.
//!
//! No timer: batches form by themselves under load. A failed sync is final (the kernel may have dropped the pages): the
//! committer stops and with it the engine, which is safe to start again.
use super::{Error, Kv, Op, backup::Taps, chain::Chain};
use crate::id::InstanceId;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, thread};
use tokio::sync::{mpsc, oneshot, watch};

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
    /// Rows for the audit trail, which get their places here.
    pub(super) audit: Vec<Vec<u8>>,
    pub(super) reply: oneshot::Sender<Result<(), Error>>,
}

/// What the committer goes on from.
pub struct State {
    /// Number of the last record of every instance.
    heads: HashMap<InstanceId, u64>,
    chain: Chain,
    /// Told of the last audit row that is durable.
    tick: watch::Sender<u64>,
    taps: Arc<Taps>,
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
    state: Mutex<State>,
}

/// Starts the thread.
pub(super) fn start(kv: Arc<dyn Kv>, state: State) -> Result<Handle, Error> {
    let (tx, rx) = mpsc::channel(QUEUE);
    thread::Builder::new()
        .name("committer".into())
        .spawn(move || run(&*kv, state, rx))
        .map_err(|e| Error::Io(e.to_string()))?;
    Ok(Handle::Thread(tx))
}

/// Commits where they are asked for.
pub(super) fn inline(kv: Arc<dyn Kv>, state: State) -> Handle {
    Handle::Inline(Arc::new(Inline { kv, state: Mutex::new(state) }))
}

// === impl State ===

impl State {
    pub(super) fn new(heads: HashMap<InstanceId, u64>, chain: Chain) -> Self {
        Self { heads, chain, tick: watch::Sender::new(chain.seq()), taps: Arc::default() }
    }

    /// For those who want every batch.
    pub(super) fn taps(&self) -> Arc<Taps> {
        Arc::clone(&self.taps)
    }

    /// Number of the last audit row.
    pub(super) fn audit(&self) -> watch::Receiver<u64> {
        self.tick.subscribe()
    }

    /// What became durable is told.
    fn written(&self) {
        self.tick.send_if_modified(|seq| std::mem::replace(seq, self.chain.seq()) != self.chain.seq());
    }
}

// === impl Job ===

impl Job {
    /// Without anything to write.
    pub(super) fn empty(reply: oneshot::Sender<Result<(), Error>>) -> Self {
        let (ops, audit) = (Vec::new(), Vec::new());
        Self { id: None, expect_head: 0, records: 0, last: false, answer_key: None, ops, audit, reply }
    }
}

// === impl Handle ===

impl Handle {
    /// Resolves when the thread has given up.
    pub(super) async fn closed(&self) {
        match self {
            Self::Thread(tx) => tx.closed().await,
            Self::Inline(_) => std::future::pending().await,
        }
    }

    pub(super) async fn send(&self, job: Job) -> Result<(), Error> {
        match self {
            Self::Thread(tx) => tx.send(job).await.map_err(|_| Error::Stopped),
            Self::Inline(all) => {
                let state = &mut *all.state.lock();
                let (mut chain, mut ops) = (state.chain, job.ops);
                let job = Job { ops: Vec::new(), ..job };
                let done = admit(&*all.kv, &mut state.heads, &mut Vec::new(), &job);
                let done = done.and_then(|()| chain.add(job.audit, &mut ops));
                let done = done.and_then(|()| state.taps.apply(&*all.kv, ops)).and_then(|()| all.kv.sync());
                if done.is_ok() {
                    state.chain = chain;
                    state.written();
                }
                let _ = job.reply.send(done);
                Ok(())
            }
        }
    }
}

fn run(kv: &dyn Kv, mut state: State, mut rx: mpsc::Receiver<Job>) {
    while let Some(first) = rx.blocking_recv() {
        let mut ops = Vec::new();
        let mut replies = Vec::new();
        let mut answers: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            let admitted = admit(kv, &mut state.heads, &mut answers, &job);
            let before = ops.len();
            match admitted.and_then(|()| state.chain.add(job.audit, &mut ops)) {
                Ok(()) => {
                    ops.extend(job.ops);
                    let new = ops.iter().skip(before);
                    bytes += new.map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len)).sum::<usize>();
                    replies.push(job.reply);
                }
                Err(e) => drop(job.reply.send(Err(e))),
            }
            next = if replies.len() < BATCH && bytes < BATCH_BYTES { rx.try_recv().ok() } else { None };
        }
        if replies.is_empty() {
            continue;
        }
        let done = state.taps.apply(kv, ops).and_then(|()| kv.sync());
        let failed = done.is_err();
        if !failed {
            state.written();
        }
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
