//! How records lie on disk: `magic | format | kind | flags | length | crc32c | prost bytes`.
//!
//! The checksum is ours because the store's own does not notice every flipped bit.
use prost::Message;

const MAGIC: u8 = 0x53;
/// Plain values; what every version reads.
const FORMAT: u8 = 1;
/// Packed ones: the body is `length | LZ4 block`.
const PACKED: u8 = 2;
const HEAD: usize = 12;
/// Longer ones are packed: an instance with many replicas says much of the same many times.
const PACK_FROM: usize = 32 * 1024;
/// Values above this, packed, are refused: the embedded store keeps larger ones in files of their own that it does not clean up.
pub const MAX_BYTES: usize = 120 * 1024;
/// Nothing is larger than this unpacked.
const MAX_UNPACKED: usize = 8 << 20;

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
    /// `journal.Audit`, as versions before the chain wrote it.
    Audit = 4,
    /// `journal.SeriesChunk`.
    SeriesChunk = 5,
    /// `journal.SeriesHead`.
    SeriesHead = 6,
    /// `journal.Sealed`.
    Sealed = 7,
    /// `journal.ChainedAudit`.
    ChainedAudit = 8,
    /// `journal.SharedSecret`.
    SharedSecret = 9,
}

/// Why bytes are not a value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Too short, wrong magic or length.
    #[error("not a record")]
    NotARecord,
    /// Written by a newer version.
    #[error("format {0} is newer than this version understands ({PACKED})")]
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
    if len > MAX_UNPACKED {
        return Err(Error::TooLarge(len));
    }
    let mut out = Vec::with_capacity(HEAD + len);
    out.extend([MAGIC, FORMAT, kind as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.encode(&mut out).map_err(|_| Error::Undecodable)?;
    if len > PACK_FROM {
        let packed = lz4_flex::compress_prepend_size(&out[HEAD..]);
        out.truncate(HEAD);
        out[1] = PACKED;
        out.extend(packed);
    }
    let len = out.len() - HEAD;
    if len > MAX_BYTES {
        return Err(Error::TooLarge(len));
    }
    out[4..8].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
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
    if head[1] > PACKED {
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
    if head[1] == FORMAT {
        return M::decode(body).map_err(|_| Error::Undecodable);
    }
    let (len, _) = lz4_flex::block::uncompressed_size(body).map_err(|_| Error::Undecodable)?;
    if len > MAX_UNPACKED {
        return Err(Error::Undecodable);
    }
    let plain = lz4_flex::decompress_size_prepended(body).map_err(|_| Error::Undecodable)?;
    M::decode(plain.as_slice()).map_err(|_| Error::Undecodable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::journal::Answer;

    #[test]
    fn a_large_value_is_packed_and_what_can_t_be_packed_small_enough_is_refused() {
        let long = |text: String| Answer { operation: text, ..Default::default() };
        let value = long("docker.app@1 holder-12 ".repeat(20_000));
        let bytes = encode(Kind::Answer, &value).unwrap();
        assert!(bytes.len() < 20_000 && bytes[1] == PACKED, "{}", bytes.len());
        assert_eq!(decode::<Answer>(Kind::Answer, &bytes), Ok(value));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(bit / 8 == 3 || decode::<Answer>(Kind::Answer, &bad).is_err(), "bit {bit}");
        }
        let mut seed = 1u64;
        let noise: String = std::iter::repeat_with(|| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            char::from(b' ' + (seed % 94) as u8)
        })
        .take(200_000)
        .collect();
        assert!(matches!(encode(Kind::Answer, &long(noise)), Err(Error::TooLarge(_))));
        assert!(matches!(encode(Kind::Answer, &long("x".repeat(9 << 20))), Err(Error::TooLarge(_))));
    }

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
