//! A store of a former version is made one of this version when it is opened.
//!
//! Projections are folds of journals: those of a former version, whose fold knew less, are made anew from the beginning. The
//! journal itself is never rewritten. The format is raised after all of it, so that what was interrupted is done again; from
//! then on the former version refuses the store.
use super::{
    Error, Kv,
    kv::{log_key, uid},
    pages::pages,
};
use crate::{
    fold::fold,
    id::InstanceId,
    journal::{self as codec, Kind},
};
use syp_proto::journal::{Entry, Instance};

/// Makes all projections anew.
///
/// # Errors
/// What the disk says.
pub(super) fn upgrade(kv: &dyn Kv) -> Result<(), Error> {
    for (from, to) in [(b"i|", b"i}"), (b"t|", b"t}")] {
        for page in pages(kv, from, to) {
            let mut anew = Vec::new();
            for (key, _) in page? {
                let Some(id) = uid(&key) else { continue };
                // what can't be read stays as it is: its instance says so
                if let Some(value) = folded(kv, id)? {
                    anew.push((key, Some(value)));
                }
            }
            kv.apply(anew)?;
        }
    }
    kv.sync()
}

/// The projection from the first record on; none where the journal was let go or can't be read.
fn folded(kv: &dyn Kv, id: InstanceId) -> Result<Option<Vec<u8>>, Error> {
    let mut i = Instance { uid: id.to_string(), ..Default::default() };
    for page in pages(kv, &log_key(id, 0), &log_key(id, u64::MAX)) {
        for (_, v) in page? {
            let Ok(entry) = codec::decode::<Entry>(Kind::Entry, &v) else { return Ok(None) };
            if entry.records.iter().any(|r| fold(&mut i, r).is_err()) {
                return Ok(None);
            }
        }
    }
    if i.head_seq == 0 {
        return Ok(None);
    }
    Ok(codec::encode(Kind::Instance, &i).ok())
}
