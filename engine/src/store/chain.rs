//! The audit trail as a chain: each row carries the SHA-256 of the hash before it, its number and its own bytes.
//!
//! The committer numbers and hashes, since it alone knows in which order rows become durable: those of changes, whose caller
//! waits for the disk, and those of reads, which come in batches. The chain begins with the store's id, so that rows of another
//! store don't fit. Trimming leaves the number and hash of the last row that went; the last row of all is written down too.
//!
//! Caveat: whoever can write to the store's files can make the whole chain anew. Against that helps only a hash that was
//! exported before: `CheckAuditTrail` compares one.
use super::{Error, Kv, Op, Pair};
use crate::{
    clock::Millis,
    journal::{self as codec, Kind},
};
use sha2::{Digest, Sha256};
use syp_proto::journal::{Audit, ChainedAudit};

/// Where the chain begins after a trim.
const ANCHOR: &[u8] = b"m|audit_anchor";
/// Where it ends.
const HEAD: &[u8] = b"m|audit_head";
/// Rows of versions before the chain.
const BEFORE: &[u8] = b"a|";
/// Rows checked at once.
const PAGE: usize = 1024;

/// SHA-256.
pub type Hash = [u8; 32];

/// A place in the chain: a row's number and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// From 1, without a gap.
    pub seq: u64,
    /// Over everything up to it.
    pub hash: Hash,
}

/// A row of the trail.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditRow {
    /// Where it lies: lists go on behind it.
    pub key: Vec<u8>,
    /// Number and hash; `None` for a row of a version before the chain.
    pub link: Option<Link>,
    /// Who did what.
    pub audit: Audit,
}

/// What the chain says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Rows that were read.
    pub rows: u64,
    /// The first one that is there.
    pub first: u64,
    /// Its end.
    pub head: Link,
    /// Where it breaks, and how.
    pub broken: Option<(u64, String)>,
    /// The row that was asked for is there with the hash that was given (true when none was).
    pub known_fits: bool,
}

/// The end of the chain, as the committer holds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain(Link);

fn key(seq: u64) -> Vec<u8> {
    [&b"c|"[..], &seq.to_be_bytes()].concat()
}

fn seq_of(key: &[u8]) -> u64 {
    key.get(2..).and_then(|k| k.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn hash(before: &Hash, seq: u64, row: &[u8]) -> Hash {
    Sha256::new().chain_update(before).chain_update(seq.to_be_bytes()).chain_update(row).finalize().into()
}

fn genesis(kv: &dyn Kv) -> Result<Link, Error> {
    let id = kv.get(b"m|store_id")?.unwrap_or_default();
    Ok(Link { seq: 0, hash: Sha256::new().chain_update("syp audit ").chain_update(id).finalize().into() })
}

fn link(kv: &dyn Kv, at: &[u8]) -> Result<Option<Link>, Error> {
    let Some(v) = kv.get(at)? else { return Ok(None) };
    let bad = || Error::Corrupt("the audit trail's place".into());
    let (seq, hash) = v.split_first_chunk::<8>().ok_or_else(bad)?;
    Ok(Some(Link { seq: u64::from_be_bytes(*seq), hash: hash.try_into().map_err(|_| bad())? }))
}

fn place(at: &[u8], l: Link) -> Op {
    (at.to_vec(), Some([&l.seq.to_be_bytes()[..], &l.hash].concat()))
}

// === impl Chain ===

impl Chain {
    /// Where the last process left it.
    pub(super) fn open(kv: &dyn Kv) -> Result<Self, Error> {
        if let Ok(Some(head)) = link(kv, HEAD) {
            return Ok(Self(head));
        }
        // damaged: the last row knows it too
        match kv.scan(b"c|", b"c}", 1, true)?.first() {
            Some((k, v)) => chained(k, v).map(|(_, l)| Self(l)).map_err(Error::Corrupt),
            None => Ok(Self(genesis(kv)?)),
        }
    }

    /// Number of the last row.
    pub(super) fn seq(&self) -> u64 {
        self.0.seq
    }

    /// Appends rows, each encoded as [`encoded`] does.
    pub(super) fn add(&mut self, rows: Vec<Vec<u8>>, ops: &mut Vec<Op>) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let (mut at, mut new) = (self.0, Vec::with_capacity(rows.len() + 1));
        for row in rows {
            let seq = at.seq + 1;
            at = Link { seq, hash: hash(&at.hash, seq, &row) };
            let value = ChainedAudit { seq, row, hash: at.hash.to_vec() };
            let value =
                codec::encode(Kind::ChainedAudit, &value).map_err(|e| Error::TooLarge(e.to_string()))?;
            new.push((key(seq), Some(value)));
        }
        new.push(place(HEAD, at));
        ops.extend(new);
        self.0 = at;
        Ok(())
    }
}

/// The bytes of a row, over which it is hashed.
pub(super) fn encoded(audit: &Audit) -> Result<Vec<u8>, Error> {
    let row = prost::Message::encode_to_vec(audit);
    // with room for what is put around it
    if row.len() > codec::MAX_BYTES - 2048 {
        return Err(Error::TooLarge(format!("an audit row of {} bytes", row.len())));
    }
    Ok(row)
}

fn read((key, value): Pair) -> Result<AuditRow, (u64, String)> {
    let seq = seq_of(&key);
    let (chained, link) = chained(&key, &value).map_err(|why| (seq, why))?;
    let audit = prost::Message::decode(chained.row.as_slice())
        .map_err(|_| (seq, "the row can't be read".to_owned()))?;
    Ok(AuditRow { key, link: Some(link), audit })
}

fn chained(key: &[u8], value: &[u8]) -> Result<(ChainedAudit, Link), String> {
    let c: ChainedAudit = codec::decode(Kind::ChainedAudit, value).map_err(|e| e.to_string())?;
    if c.seq != seq_of(key) {
        return Err("the row lies in another one's place".into());
    }
    let hash = c.hash.as_slice().try_into().map_err(|_| "the row has no hash".to_owned())?;
    let link = Link { seq: c.seq, hash };
    Ok((c, link))
}

/// Rows before a key, newest first; those of versions before the chain come last. Damaged ones are left out: the check tells.
pub(super) fn before(kv: &dyn Kv, before: Option<&[u8]>, limit: usize) -> Result<Vec<AuditRow>, Error> {
    let mut out = Vec::new();
    let old = match before {
        Some(key) if key.starts_with(BEFORE) => key,
        other => {
            let all = kv.scan(b"c|", other.unwrap_or(b"c}"), limit, true)?;
            let n = all.len();
            out.extend(all.into_iter().filter_map(|pair| read(pair).ok()));
            if n >= limit {
                return Ok(out);
            }
            b"a}"
        }
    };
    for (key, v) in kv.scan(BEFORE, old, limit - out.len().min(limit), true)? {
        if let Ok(audit) = codec::decode(Kind::Audit, &v) {
            out.push(AuditRow { key, link: None, audit });
        }
    }
    Ok(out)
}

/// Rows of the chain after a number, oldest first.
pub(super) fn after(kv: &dyn Kv, seq: u64, limit: usize) -> Result<Vec<AuditRow>, Error> {
    let all = kv.scan(&key(seq.saturating_add(1)), b"c}", limit, false)?;
    Ok(all.into_iter().filter_map(|pair| read(pair).ok()).collect())
}

/// Rows older than `old`: removals, and the place where the chain begins then.
pub(super) fn over(kv: &dyn Kv, old: Millis, most: usize, out: &mut Vec<Op>) -> Result<(), Error> {
    let until = [BEFORE, &old.max(0).to_be_bytes()].concat();
    out.extend(kv.scan(BEFORE, &until, most, false)?.into_iter().map(|(k, _)| (k, None)));
    let mut anchor = None;
    for (k, v) in kv.scan(b"c|", b"c}", most, false)? {
        // one that is damaged stays, and all behind it: a chain that is cut there would hide the damage
        let Ok((c, link)) = chained(&k, &v) else { break };
        if <Audit as prost::Message>::decode(c.row.as_slice()).map_or(true, |a| a.at_ms >= old) {
            break;
        }
        anchor = Some(link);
        out.push((k, None));
    }
    out.extend(anchor.map(|l| place(ANCHOR, l)));
    Ok(())
}

/// Computes the whole chain anew, and looks for a row that somebody knows.
pub(super) fn check(kv: &dyn Kv, known: Option<Link>) -> Result<Checked, Error> {
    loop {
        let anchor = link(kv, ANCHOR)?;
        let out = walk(kv, anchor, known)?;
        // rows that are let go meanwhile are not missing: the chain begins behind them then. It ends, for a trim does
        if out.broken.is_none() || link(kv, ANCHOR)? == anchor {
            return Ok(out);
        }
    }
}

/// The chain from where it begins.
fn walk(kv: &dyn Kv, anchor: Option<Link>, known: Option<Link>) -> Result<Checked, Error> {
    // first: rows that come meanwhile are not missed at the end
    let head = link(kv, HEAD)?;
    let start = match anchor {
        Some(anchor) => anchor,
        None => genesis(kv)?,
    };
    let mut at = start;
    let mut out = Checked {
        rows: 0,
        first: start.seq + 1,
        head: start,
        broken: None,
        known_fits: known.is_none_or(|k| k == start),
    };
    let mut from = key(start.seq);
    'rows: loop {
        let page = kv.scan(&from, b"c}", PAGE, false)?;
        let Some((last, _)) = page.last() else { break };
        from = [last.as_slice(), &[0]].concat();
        for (k, v) in &page {
            let next = at.seq + 1;
            let found = match chained(k, v) {
                _ if seq_of(k) != next => Err(format!("rows are missing: {} follows", seq_of(k))),
                Ok((c, l)) if hash(&at.hash, next, &c.row) == l.hash => Ok(l),
                Ok(_) => Err("the row was changed, or one before it".to_owned()),
                Err(why) => Err(why),
            };
            match found {
                Ok(l) => at = l,
                Err(why) => {
                    out.broken = Some((next, why));
                    break 'rows;
                }
            }
            out.rows += 1;
            out.known_fits |= known == Some(at);
        }
    }
    out.head = at;
    if out.broken.is_none() && head.is_some_and(|h| at.seq < h.seq || (at.seq == h.seq && at != h)) {
        out.broken = Some((at.seq + 1, "the last rows are missing".into()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
