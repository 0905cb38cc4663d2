//! What stands in the body of a batch: its records as they are, compressed, encrypted, or both.
//!
//! ```text
//! plain       records
//! compressed  length of the records (4 bytes), records as one zstd frame
//! encrypted   nonce (12 bytes), one of the above encrypted, tag (16 bytes)
//! ```
//!
//! The flags of the batch say which. Checksums are those of the body as it is stored, so that a
//! copy can be checked without keys.

use std::sync::Arc;

use bytes::Bytes;

use super::batch::BatchHeader;
use super::cipher::{CIPHER_BYTES, NONCE_BYTES, SegmentKey};
use super::wire::u32_at;

/// Records that a compressed body may claim to hold; no group commit makes a larger one.
const RECORDS_BYTES_MAX: usize = 1 << 31;
/// zstd's own ratio ends near here; a body that claims more was not made by it.
const RATIO_MAX: usize = 1 << 17;

/// Turns stored bodies into records and back, for one segment.
#[derive(Clone, Debug, Default)]
pub(super) struct BodyCodec {
    /// Of an encrypted segment, if it is at hand.
    pub(super) key: Option<Arc<SegmentKey>>,
}

/// Why a body with a good checksum gives no records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadBody {
    /// It is encrypted and the key is not at hand.
    Locked,
    /// It was encrypted with another key, or for another place.
    Cipher,
    /// It is no compressed body.
    Compression,
}

impl BodyCodec {
    /// The records in `body`; without a copy if it is plain. Its checksum must have been verified.
    pub(super) fn decode(&self, header: &BatchHeader, body: Bytes) -> Result<Bytes, BadBody> {
        let opened = if header.is_encrypted() {
            let key = self.key.as_ref().ok_or(BadBody::Locked)?;
            let opened = key.open(&header.bound(), &body);
            Bytes::from(opened.map_err(|_unopened| BadBody::Cipher)?)
        } else {
            body
        };
        if header.is_compressed() {
            return decompress(&opened).ok_or(BadBody::Compression);
        }
        Ok(opened)
    }

    /// Appends `plain` (records, or what [`compress`] made of them) to `out` as the flags of
    /// `header` say. `nonce` must be new if they say encrypted.
    pub(super) fn encode_into(
        &self,
        out: &mut Vec<u8>,
        header: &BatchHeader,
        nonce: [u8; NONCE_BYTES],
        plain: &[u8],
    ) {
        match &self.key {
            Some(key) => {
                assert!(header.is_encrypted(), "a key, and no flag for it");
                key.seal_into(out, nonce, &header.bound(), plain);
            }
            None => {
                assert!(!header.is_encrypted(), "a flag for encryption, and no key");
                out.extend_from_slice(plain);
            }
        }
    }

    /// What encoding adds to the length of a body that is not compressed.
    pub(super) fn overhead_bytes(&self) -> usize {
        if self.key.is_some() { CIPHER_BYTES } else { 0 }
    }
}

/// `records` as the body of a compressed batch.
pub(super) fn compress(records: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    let len = u32::try_from(records.len()).map_err(std::io::Error::other)?;
    let mut out = Vec::with_capacity(records.len() / 2);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&zstd::bulk::compress(records, level)?);
    Ok(out)
}

fn decompress(body: &[u8]) -> Option<Bytes> {
    let frame = body.get(4..)?;
    let len = usize::try_from(u32_at(body, 0)).ok()?;
    if len > RECORDS_BYTES_MAX || len / RATIO_MAX > frame.len() {
        return None;
    }
    let records = zstd::bulk::decompress(frame, len).ok()?;
    (records.len() == len).then(|| Bytes::from(records))
}

#[cfg(test)]
mod tests {
    use super::*;

    // LOG-15: whatever stands there, no compressed body takes more memory than it can explain.
    #[test]
    fn a_body_that_claims_too_much_is_refused() {
        let mut bomb = compress(&[7; 10_000], 3).unwrap();
        assert_eq!(decompress(&bomb).unwrap(), vec![7; 10_000]);
        bomb[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decompress(&bomb), None);
        bomb[..4].copy_from_slice(&9_999_u32.to_le_bytes());
        assert_eq!(decompress(&bomb), None);
        assert_eq!(decompress(&[]), None);
    }
}
