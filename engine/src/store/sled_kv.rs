//! sled 0.34.7, with the rules that make it safe: own flushing, `fdatasync` after every flush, one tree, small values,
//! and a panic while it opens a damaged file becomes an error.
use super::{Error, Kv, Op, Pair};
use std::{
    fs::File,
    path::{Path, PathBuf},
    thread,
};

/// A sled database in a directory.
#[derive(Debug)]
pub struct SledKv {
    db: sled::Db,
    file: File,
    dir: PathBuf,
}

/// Bytes that can still be written to the disk of a path.
///
/// # Errors
/// As the file system says.
pub fn room(at: &Path) -> std::io::Result<u64> {
    let s = nix::sys::statvfs::statvfs(at)?;
    // the types differ from platform to platform
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    Ok((s.blocks_available() as u64).saturating_mul(s.fragment_size() as u64))
}

// === impl SledKv ===

impl SledKv {
    /// Opens or creates.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Corrupt`], [`Error::Io`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.to_owned();
        // sled panics on some damaged files: on a thread of its own that is an answer
        let opened = thread::Builder::new()
            .name("store-open".into())
            .spawn(move || {
                sled::Config::new().path(path).cache_capacity(32 * 1024 * 1024).flush_every_ms(None).open()
            })
            .map_err(|e| Error::Io(e.to_string()))?
            .join();
        let db = match opened {
            Err(_) => return Err(Error::Corrupt(format!("{} can't be opened", dir.display()))),
            Ok(Err(e)) => return Err(error(e)),
            Ok(Ok(db)) => db,
        };
        let file = File::open(dir.join("db")).map_err(|e| Error::Io(e.to_string()))?;
        Ok(Self { db, file, dir: dir.to_owned() })
    }
}

impl Kv for SledKv {
    fn apply(&self, ops: Vec<Op>) -> Result<(), Error> {
        let mut batch = sled::Batch::default();
        for (k, v) in ops {
            match v {
                Some(v) => batch.insert(k, v),
                None => batch.remove(k),
            }
        }
        self.db.apply_batch(batch).map_err(error)
    }

    fn sync(&self) -> Result<(), Error> {
        self.db.flush().map_err(error)?;
        // flush() is sync_file_range, which neither empties the disk's cache nor writes the file's size
        self.file.sync_data().map_err(|e| Error::Io(e.to_string()))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.db.get(key).map_err(error)?.map(|v| v.to_vec()))
    }

    fn room(&self) -> Option<u64> {
        room(&self.dir).ok()
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Pair>, Error> {
        let range = self.db.range(from..to);
        let pair = |r: sled::Result<(sled::IVec, sled::IVec)>| {
            r.map(|(k, v)| (k.to_vec(), v.to_vec())).map_err(error)
        };
        if reverse {
            range.rev().take(limit).map(pair).collect()
        } else {
            range.take(limit).map(pair).collect()
        }
    }
}

fn error(e: sled::Error) -> Error {
    match e {
        sled::Error::Io(e) if e.to_string().contains("lock") => Error::Busy(e.to_string()),
        sled::Error::Io(e) => Error::Io(e.to_string()),
        sled::Error::Corruption { .. } => Error::Corrupt(e.to_string()),
        other => Error::Io(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_the_disk_does_not_confirm_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut kv = SledKv::open(dir.path()).unwrap();
        kv.apply(vec![(b"k".to_vec(), Some(b"v".to_vec()))]).unwrap();
        kv.sync().unwrap();
        // a file that can't be synced stands for a disk that does not answer: sled's own flush does not notice
        kv.file = File::open("/proc/self/mem").unwrap();
        kv.apply(vec![(b"k".to_vec(), Some(b"w".to_vec()))]).unwrap();
        assert!(matches!(kv.sync(), Err(Error::Io(_))));
    }
}
