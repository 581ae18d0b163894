//! Rows of time series. The time comes before the instance: what is written together lies together, and what is over is one range.
use super::{
    Error, Kv, Op,
    kv::{too_large, uid},
    pages::PAGE,
    trim::MOST,
};
use crate::{
    clock::Millis,
    id::InstanceId,
    journal::{self as codec, Kind},
    series::{Point, Row, Tier, from_chunk},
};
use syp_proto::journal::{SeriesChunk, SeriesHead};

fn chunk_key(tier: Tier, start_ms: Millis, id: Option<InstanceId>) -> Vec<u8> {
    let id = id.as_ref().map_or(&[][..], |id| id.as_bytes());
    [&b"g|"[..], &[b'0' + tier as u8, b'|'], &start_ms.max(0).to_be_bytes(), id].concat()
}

fn head_key(id: InstanceId) -> Vec<u8> {
    [&b"h|"[..], id.as_bytes()].concat()
}

/// A row as the map has it.
///
/// # Errors
/// [`Error::TooLarge`].
pub(super) fn op(row: &Row) -> Result<Op, Error> {
    Ok(match row {
        Row::Chunk { tier, start_ms, id, points } => {
            let value = codec::encode(Kind::SeriesChunk, points).map_err(too_large)?;
            (chunk_key(*tier, *start_ms, Some(*id)), Some(value))
        }
        Row::Head(id, head) => {
            let value = head.as_ref().map(|h| codec::encode(Kind::SeriesHead, &**h)).transpose();
            (head_key(*id), value.map_err(too_large)?)
        }
    })
}

/// As [`super::Store::series`].
pub(super) fn points(
    kv: &dyn Kv,
    id: InstanceId,
    tier: Tier,
    from: Millis,
    to: Millis,
) -> Result<Vec<Point>, Error> {
    let chunk = tier.chunk_ms();
    // more than is kept is not there, whatever was asked for
    let first = from.max(to.saturating_sub(2 * tier.keep_ms()));
    let mut start = first - first.rem_euclid(chunk);
    let mut out = Vec::new();
    while start < to {
        if let Some(v) = kv.get(&chunk_key(tier, start, Some(id)))? {
            match codec::decode::<SeriesChunk>(Kind::SeriesChunk, &v) {
                Ok(c) => out.extend(from_chunk(tier, start, &c)),
                Err(error) => tracing::warn!(instance = %id, %error, "points can't be read: a gap"),
            }
        }
        start += chunk;
    }
    Ok(out)
}

/// As [`super::Store::series_head`]. One that can't be read is none: the next difference begins anew.
pub(super) fn head(kv: &dyn Kv, id: InstanceId) -> Result<Option<SeriesHead>, Error> {
    let Some(v) = kv.get(&head_key(id))? else { return Ok(None) };
    let head = codec::decode(Kind::SeriesHead, &v);
    if let Err(error) = &head {
        tracing::warn!(instance = %id, %error, "the last counters can't be read");
    }
    Ok(head.ok())
}

/// As [`super::Store::series_heads`].
pub(super) fn heads(kv: &dyn Kv) -> Result<Vec<InstanceId>, Error> {
    let (mut from, mut out) = (b"h|".to_vec(), Vec::new());
    loop {
        let page = kv.scan(&from, b"h}", PAGE, false)?;
        let Some((last, _)) = page.last() else { return Ok(out) };
        from = [last.as_slice(), &[0]].concat();
        out.extend(page.iter().filter_map(|(k, _)| uid(k)));
    }
}

/// Removals of rows that begin before a time of their resolution, at most so many that one commit carries them.
pub(super) fn over(kv: &dyn Kv, before: impl Fn(Tier) -> Millis) -> Result<Vec<Op>, Error> {
    let mut out = Vec::new();
    for tier in Tier::ALL {
        let (from, to) = (chunk_key(tier, 0, None), chunk_key(tier, before(tier), None));
        out.extend(kv.scan(&from, &to, MOST, false)?.into_iter().map(|(k, _)| (k, None)));
    }
    out.truncate(MOST);
    Ok(out)
}
