//! What is kept for a time only. The receipt and the cost of a destroyed instance stay for ever; its journal does not.
use super::{
    Error, Kv, Op, chain,
    kv::{log_key, uid},
    pages::pages,
    series,
};
use crate::{
    clock::Millis,
    journal::{self as codec, Kind},
    series::Tier,
};
use syp_proto::journal::{Answer, Instance};

/// Audit rows, and journals of destroyed instances.
const HISTORY_MS: Millis = 90 * 24 * 3_600_000;
/// Removals of one commit; what is over waits for the next.
pub(super) const MOST: usize = 2_000;

/// What is over its time: removals, at most so many that one commit carries them.
///
/// # Errors
/// What the disk says. A value that can't be read is left alone: `fsck` tells of it.
pub(super) fn over(kv: &dyn Kv, now: Millis) -> Result<Vec<Op>, Error> {
    let mut out: Vec<Op> = Vec::new();
    let old = now - HISTORY_MS;
    chain::over(kv, old, MOST, &mut out)?;
    // of all resolutions: only the sampler knows which points of a finer one are summed up already
    out.extend(series::over(kv, |_| Tier::Hours.over_ms(now))?);
    each(kv, b"d|", b"d}", |k, v| {
        if codec::decode::<Answer>(Kind::Answer, &v).is_ok_and(|a| a.expires_ms < now) {
            out.push((k, None));
        }
        Ok(out.len() < MOST)
    })?;
    each(kv, b"t|", b"t}", |k, v| {
        let long_gone = codec::decode::<Instance>(Kind::Instance, &v).is_ok_and(|i| i.destroy_ms < old);
        if let Some(id) = uid(&k).filter(|_| long_gone) {
            // its end first: what is left after a crash is still told from its beginning
            let journal = kv.scan(&log_key(id, 0), &log_key(id, u64::MAX), MOST, true)?;
            out.extend(journal.into_iter().map(|(k, _)| (k, None)));
        }
        Ok(out.len() < MOST)
    })?;
    Ok(out)
}

/// Walks a range, until told to stop.
fn each(
    kv: &dyn Kv,
    from: &[u8],
    to: &[u8],
    mut f: impl FnMut(Vec<u8>, Vec<u8>) -> Result<bool, Error>,
) -> Result<(), Error> {
    for page in pages(kv, from, to) {
        for (k, v) in page? {
            if !f(k, v)? {
                return Ok(());
            }
        }
    }
    Ok(())
}
