//! How records lie on disk: `magic | format | kind | flags | length | crc32c | prost bytes`.
//!
//! The checksum is ours because the store's own does not notice every flipped bit.
use prost::Message;

const MAGIC: u8 = 0x53;
const FORMAT: u8 = 1;
const HEAD: usize = 12;
/// Values above this are refused: the embedded store keeps larger ones in files of their own that it does not clean up.
pub const MAX_BYTES: usize = 120 * 1024;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `journal.Entry`.
    Entry = 1,
    /// `journal.Instance`.
    Instance = 2,
    /// `journal.Answer`.
    Answer = 3,
    /// `journal.Audit`.
    Audit = 4,
    /// `journal.SeriesChunk`.
    SeriesChunk = 5,
    /// `journal.SeriesHead`.
    SeriesHead = 6,
}

/// Why bytes are not a value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Too short, wrong magic or length.
    #[error("not a record")]
    NotARecord,
    /// Written by a newer version.
    #[error("format {0} is newer than this version understands ({FORMAT})")]
    Newer(u8),
    /// The checksum differs.
    #[error("checksum differs")]
    Checksum,
    /// A record of another kind, or not decodable.
    #[error("undecodable record")]
    Undecodable,
    /// Larger than [`MAX_BYTES`].
    #[error("{0} bytes are more than {MAX_BYTES} allowed in one record")]
    TooLarge(usize),
}

/// Bytes of a value.
///
/// # Errors
/// [`Error::TooLarge`].
pub fn encode(kind: Kind, message: &impl Message) -> Result<Vec<u8>, Error> {
    let len = message.encoded_len();
    if len > MAX_BYTES {
        return Err(Error::TooLarge(len));
    }
    let mut out = Vec::with_capacity(HEAD + len);
    out.extend([MAGIC, FORMAT, kind as u8, 0]);
    out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    out.extend([0; 4]);
    message.encode(&mut out).map_err(|_| Error::Undecodable)?;
    let crc = crc32c::crc32c(&out[HEAD..]).to_be_bytes();
    out[8..HEAD].copy_from_slice(&crc);
    Ok(out)
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// All but [`Error::TooLarge`].
pub fn decode<M: Message + Default>(kind: Kind, bytes: &[u8]) -> Result<M, Error> {
    let (head, body) = bytes.split_at_checked(HEAD).ok_or(Error::NotARecord)?;
    if head[0] != MAGIC || head[1] == 0 {
        return Err(Error::NotARecord);
    }
    if head[1] > FORMAT {
        return Err(Error::Newer(head[1]));
    }
    if head[4..8] != u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes() {
        return Err(Error::NotARecord);
    }
    if head[8..12] != crc32c::crc32c(body).to_be_bytes() {
        return Err(Error::Checksum);
    }
    if head[2] != kind as u8 {
        return Err(Error::Undecodable);
    }
    M::decode(body).map_err(|_| Error::Undecodable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::journal::Answer;

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let value = Answer { operation: "operations/x-1".into(), expires_ms: 5, ..Default::default() };
        let good = encode(Kind::Answer, &value).unwrap();
        assert_eq!(decode::<Answer>(Kind::Answer, &good), Ok(value));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // byte 3 holds flags that nothing uses yet
            if bit / 8 != 3 {
                assert!(decode::<Answer>(Kind::Answer, &bad).is_err(), "bit {bit}");
            }
        }
        for cut in 0..good.len() {
            assert!(decode::<Answer>(Kind::Answer, &good[..cut]).is_err());
        }
    }
}
