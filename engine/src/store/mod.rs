//! Where the journal lives. `Ok` from [`Store::commit`] means: atomic and durable.
//!
//! One layout over an ordered key-value store ([`Kv`]) carries memory and sled; both run the same conformance suite.
//! ```text
//! m|name                 format, store id, boot epoch
//! i|uid                  checkpoint of a live instance       t|uid   of a destroyed one
//! l|uid|first seq BE     one commit of records
//! n|project/name|0|time  uid: every incarnation of a name
//! d|caller|0|key         answer to a request id
//! c|seq BE               audit, a chain of hashes        a|time BE|n  as versions before the chain wrote it
//! s|name                 settings
//! g|tier|time BE|uid     points of one resolution, from a time on
//! h|uid                  where the next difference of an instance's counters begins
//! k|uid|kind|name|n      a sealed secret of an instance; they go with it
//! k|0|project/name|n     a sealed version of a shared secret, which no instance owns
//! ```
mod backup;
mod chain;
mod check;
mod committer;
pub mod conformance;
mod kv;
mod mem;
mod pages;
mod series;
mod sled_kv;
mod trim;
mod upgrade;

pub use backup::{restored, restored_at};
pub use chain::{AuditRow, Checked, Hash, Link};
pub use kv::{FORMAT, Kv, Op, Pair, open, open_inline};
pub use mem::MemKv;
pub use sled_kv::{SledKv, room};

use crate::{
    clock::Millis,
    id::{InstanceId, StoreId},
    series::{Point, Row, Tier},
};
use async_trait::async_trait;
use syp_proto::journal::{Answer, Audit, Instance, Record, SeriesHead};
use tokio::sync::{mpsc, watch};

/// Room that is kept for what must always be possible: taking things down, taking access away, what is under way. What would
/// make the store grow is refused before it begins. A store that meets a full disk stops its engine.
pub const RESERVE: u64 = 32 << 20;

/// Everything that becomes durable together.
#[derive(Debug, Default, Clone)]
pub struct Commit {
    /// Whose; `None` for audit alone.
    pub id: Option<InstanceId>,
    /// Number of the last record that the caller has seen.
    pub expect_head: u64,
    /// New records, numbered on from `expect_head`.
    pub records: Vec<Record>,
    /// The projection after the records; written now and then, and always when a run starts or ends.
    pub checkpoint: Option<Instance>,
    /// Answer to the request id under which this was asked.
    pub answer: Option<(String, Answer)>,
    /// Audit rows.
    pub audit: Vec<Audit>,
    /// Settings of the engine: name and value; an empty value removes.
    pub settings: Vec<(String, Vec<u8>)>,
    /// Rows of time series.
    pub series: Vec<Row>,
    /// Sealed secrets, written or removed.
    pub sealed: Vec<SealedOp>,
}

/// A checkpoint with the records after it folded in.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Whose.
    pub id: InstanceId,
    /// The projection, or why it can't be read: that blocks this instance alone.
    pub instance: Result<Instance, String>,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum Error {
    /// Somebody else wrote to the instance; load again.
    #[error("the instance changed meanwhile")]
    HeadMoved,
    /// The request id was answered already.
    #[error("the request id is taken")]
    AnswerExists,
    /// Another process has the store open.
    #[error("another engine has the store open: {0}")]
    Busy(String),
    /// The files are damaged. Nothing was changed.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// Written by a newer version. Nothing was changed.
    #[error("the store has format {found}, this version knows {known}: use the newer version")]
    Newer {
        /// Found.
        found: u64,
        /// Known.
        known: u64,
    },
    /// Commits came faster than the reader of a backup took them.
    #[error("the backup was read too slowly for all that is being written")]
    Behind,
    /// A record is too large.
    #[error("{0}")]
    TooLarge(String),
    /// The disk refused.
    #[error("the disk refused: {0}")]
    Io(String),
    /// The committer has stopped: nothing more can be written by this process.
    #[error("the store has stopped")]
    Stopped,
}

/// Key (without the store's prefix) and record of a sealed secret; `None` removes it.
pub type SealedOp = (Vec<u8>, Option<Vec<u8>>);

/// The store.
///
/// # Guarantees
/// A commit is visible and durable as a whole or not at all. Numbers of an instance's records have no gap. An answer is never overwritten before it expires.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Identity of the store.
    fn store_id(&self) -> &StoreId;
    /// Grows by one with every open.
    fn boot_epoch(&self) -> u64;
    /// Writes.
    async fn commit(&self, commit: Commit) -> Result<(), Error>;
    /// The next instances after `after` that are not destroyed; none: that was all. In pages, so that a start does not hold
    /// everything twice.
    async fn load_live(&self, after: Option<InstanceId>) -> Result<Vec<Loaded>, Error>;
    /// One instance, destroyed or not.
    async fn load(&self, id: InstanceId) -> Result<Option<Loaded>, Error>;
    /// Incarnations of a name, newest first (destroyed ones included).
    async fn incarnations(&self, project: &str, name: &str) -> Result<Vec<InstanceId>, Error>;
    /// Destroyed instances, at most `limit`.
    async fn load_destroyed(&self, limit: usize) -> Result<Vec<Loaded>, Error>;
    /// Records after a number.
    async fn events(&self, id: InstanceId, after: u64, limit: usize) -> Result<Vec<Record>, Error>;
    /// The answer to a request id.
    async fn answer(&self, key: &str) -> Result<Option<Answer>, Error>;
    /// A setting.
    async fn setting(&self, name: &str) -> Result<Option<Vec<u8>>, Error>;
    /// The settings whose names begin so, in order.
    async fn settings(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Error>;
    /// A sealed secret.
    async fn sealed(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Audit rows before a key (`None`: from the end), newest first.
    async fn audit(&self, before: Option<&[u8]>, limit: usize) -> Result<Vec<AuditRow>, Error>;
    /// Audit rows after a number, oldest first.
    async fn audit_after(&self, seq: u64, limit: usize) -> Result<Vec<AuditRow>, Error>;
    /// Number of the last audit row; wakes when there are more.
    fn audit_head(&self) -> watch::Receiver<u64>;
    /// Computes the chain of audit rows anew; `known` is a row that somebody remembers.
    async fn check_audit(&self, known: Option<Link>) -> Result<Checked, Error>;
    /// Points of one resolution from rows that touch `from..to`, in order; a row that can't be read is a gap.
    async fn series(&self, id: InstanceId, tier: Tier, from: Millis, to: Millis)
    -> Result<Vec<Point>, Error>;
    /// Resolves when nothing can be written any more: after a failed write only a new start knows what is on disk.
    async fn closed(&self);
    /// Bytes that can still be written; `None` where nobody knows.
    fn room(&self) -> Option<u64>;
    /// Batches that, applied in order to an empty store, give this one as it is when the last of them is sent. Commits go on
    /// meanwhile. An error is the last thing that comes.
    fn backup(&self) -> mpsc::Receiver<Result<Vec<Op>, Error>>;
    /// Where the next difference of an instance begins.
    async fn series_head(&self, id: InstanceId) -> Result<Option<SeriesHead>, Error>;
    /// The instances that have a head.
    async fn series_heads(&self) -> Result<Vec<InstanceId>, Error>;
    /// Removes points that are over the time of their resolution. How many rows went; call again until none.
    async fn trim_series(&self, now: Millis) -> Result<usize, Error>;
    /// Removes what is over its time: answers to request ids (30 days), points (a month), audit rows and journals of destroyed
    /// instances (90 days; receipt and cost stay). How many values went; call again until none.
    async fn trim(&self, now: Millis) -> Result<usize, Error>;
    /// Checks that every projection is the fold of its journal; the list of what is not, and how many records were read.
    async fn fsck(&self) -> Result<(u64, Vec<String>), Error>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn memory_keeps_its_promises() {
        let kv = MemKv::default();
        conformance::run(async || open(Arc::new(kv.clone()))).await.unwrap();
    }

    #[tokio::test]
    async fn sled_keeps_its_promises() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        conformance::run(async || {
            // the committer of the store before gives the files back when its thread ends
            for _ in 0..200 {
                match SledKv::open(&path) {
                    Err(Error::Busy(_)) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                    other => return open(Arc::new(other?)),
                }
            }
            Err(Error::Busy("still".into()))
        })
        .await
        .unwrap();
    }

    #[test]
    fn a_second_opener_is_told_that_the_store_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let _first = SledKv::open(dir.path()).unwrap();
        assert!(matches!(SledKv::open(dir.path()), Err(Error::Busy(_))));
    }

    #[test]
    fn a_store_of_a_newer_version_is_refused_and_left_alone() {
        let kv = MemKv::default();
        kv.apply(vec![(b"m|format".to_vec(), Some(9u64.to_be_bytes().to_vec()))]).unwrap();
        kv.sync().unwrap();
        assert!(matches!(open(Arc::new(kv.clone())), Err(Error::Newer { found: 9, known: FORMAT })));
        assert_eq!(kv.get(b"m|boot_epoch").unwrap(), None);
    }
}
