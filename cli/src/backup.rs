//! Backup files: `magic | LZ4 frame of (length | BackupChunk)...`. The last chunk has the hash of all before it, so that half a
//! file, or a changed one, is known for what it is before anything is replaced.
mod swap;

pub use swap::{NAMES, Staging, finish, unfinished};

use anyhow::{Context, bail, ensure};
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use prost::Message;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use syp_proto::v1::{
    BackupChunk,
    backup_chunk::{End, Part},
};

const MAGIC: &[u8] = b"SYPBACKUP\n";
/// Far more than a chunk has: a mebibyte and one value.
const MOST: usize = 16 << 20;

/// Writes a backup.
pub struct Writer<W: Write> {
    out: FrameEncoder<W>,
    hash: Sha256,
    batches: u64,
}

/// Reads one.
pub struct Reader<R: Read> {
    from: FrameDecoder<R>,
    hash: Sha256,
    batches: u64,
}

// === impl Writer ===

impl<W: Write> Writer<W> {
    /// # Errors
    /// As the file system says.
    pub fn new(mut out: W) -> std::io::Result<Self> {
        out.write_all(MAGIC)?;
        Ok(Self { out: FrameEncoder::new(out), hash: Sha256::new(), batches: 0 })
    }

    /// # Errors
    /// As the file system says.
    pub fn add(&mut self, part: Part) -> std::io::Result<()> {
        self.batches += u64::from(matches!(part, Part::Batch(_)));
        let bytes = BackupChunk { part: Some(part) }.encode_length_delimited_to_vec();
        self.hash.update(&bytes);
        self.out.write_all(&bytes)
    }

    /// Ends it: only now it is a backup.
    ///
    /// # Errors
    /// As the file system says.
    pub fn end(mut self) -> anyhow::Result<W> {
        let sha256 = self.hash.clone().finalize().to_vec();
        self.add(Part::End(End { batches: self.batches, sha256 }))?;
        Ok(self.out.finish()?)
    }
}

// === impl Reader ===

impl<R: Read> Reader<R> {
    /// # Errors
    /// It is no backup.
    pub fn new(mut from: R) -> anyhow::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        let read = from.read_exact(&mut magic);
        ensure!(read.is_ok() && magic == MAGIC, "it does not begin as a backup does");
        Ok(Self { from: FrameDecoder::new(from), hash: Sha256::new(), batches: 0 })
    }

    /// The next part; none after a good end.
    ///
    /// # Errors
    /// It is cut off, or was changed.
    pub fn next(&mut self) -> anyhow::Result<Option<Part>> {
        let mut bytes = Vec::new();
        let length = loop {
            let mut one = [0];
            self.from.read_exact(&mut one).context("it is cut off")?;
            bytes.push(one[0]);
            if one[0] < 0x80 {
                break prost::decode_length_delimiter(bytes.as_slice())?;
            }
            ensure!(bytes.len() < 10, "it is damaged");
        };
        ensure!(length <= MOST, "it is damaged");
        let head = bytes.len();
        bytes.resize(head + length, 0);
        self.from.read_exact(&mut bytes[head..]).context("it is cut off")?;
        let chunk = BackupChunk::decode(&bytes[head..]).context("it is damaged")?;
        match chunk.part {
            Some(Part::End(end)) => {
                let same = end.sha256 == self.hash.clone().finalize().to_vec() && end.batches == self.batches;
                ensure!(same, "its hash is not that of its content: it was changed or is damaged");
                Ok(None)
            }
            Some(part) => {
                self.hash.update(&bytes);
                self.batches += u64::from(matches!(part, Part::Batch(_)));
                Ok(Some(part))
            }
            None => bail!("it has a part that this version does not know"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1::backup_chunk::{Batch, File, Pair};

    fn parts() -> Vec<Part> {
        let pair = |n: u8| Pair { key: vec![n], value: (n != 3).then(|| vec![n; 1000]) };
        let key = File { name: "engine.key".into(), content: vec![1; 32] };
        vec![Part::File(key), Part::Batch(Batch { pairs: (0..200).map(pair).collect() })]
    }

    fn written() -> Vec<u8> {
        let mut w = Writer::new(Vec::new()).unwrap();
        for p in parts() {
            w.add(p).unwrap();
        }
        w.end().unwrap()
    }

    fn read(bytes: &[u8]) -> anyhow::Result<Vec<Part>> {
        let mut r = Reader::new(bytes)?;
        let mut all = Vec::new();
        while let Some(p) = r.next()? {
            all.push(p);
        }
        Ok(all)
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(read(&written()).unwrap(), parts());
    }

    #[test]
    fn half_a_file_and_a_changed_one_are_no_backup() {
        let whole = written();
        for length in 0..whole.len() - 4 {
            assert!(read(&whole[..length]).is_err(), "the first {length} of {} bytes", whole.len());
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            assert!(read(&changed).ok().is_none_or(|all| all == parts()), "byte {at} changed");
        }
    }
}
