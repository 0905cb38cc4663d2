//! Layout of a batch: what one group commit wrote. A header of 64 bytes, then the records.
//!
//! Owns the constants of that layout; `docs/log-format.md` explains them.

use super::position::{Micros, Sequence};
use super::wire::{u32_at, u64_at};

/// Bytes of a batch header.
pub const HEADER_BYTES: usize = 64;
/// First bytes of every batch, for finding the next one behind damage.
pub const MAGIC: [u8; 4] = *b"AQB\x01";
/// A header without records: carries positions only, its body is a [`Mark`].
pub(super) const FLAG_MARK: u16 = 1;
/// The mark that a clean close leaves behind.
pub(super) const FLAG_CLOSED: u16 = 2;
/// Rewritten: some of its `count` sequences have no record any more.
pub(super) const FLAG_HOLES: u16 = 4;
/// The body is compressed: [`super::body`].
pub(super) const FLAG_COMPRESSED: u16 = 8;
/// The body is encrypted (after it was compressed): [`super::body`].
pub(super) const FLAG_ENCRYPTED: u16 = 16;
/// Stands for `count` sequences whose records were damaged and put aside; the body says why.
pub(super) const FLAG_LOST: u16 = 32;
const KNOWN_FLAGS: u16 =
    FLAG_MARK | FLAG_CLOSED | FLAG_HOLES | FLAG_COMPRESSED | FLAG_ENCRYPTED | FLAG_LOST;

/// Bytes of a mark in the file, header included.
pub(super) const MARK_BYTES: usize = HEADER_BYTES + 8;

const _: () = assert!(HEADER_BYTES == 4 + 4 + 4 + 4 + 8 + 4 + 2 + 2 + 8 + 4 + 4 + 8 + 4 + 4);

/// Header of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// Bytes of the body.
    pub body_len: u32,
    /// CRC-32/ISO-HDLC of the body.
    pub body_crc: u32,
    /// Sequence of the first record; of a mark: the next sequence to be used.
    pub base: Sequence,
    /// Sequences that it stands for, 0 for a mark: as many records are in the body, fewer if it
    /// has holes, none if it stands for lost ones.
    pub count: u32,
    /// What the batch is.
    pub flags: u16,
    /// When the group was committed.
    pub appended_at: Micros,
    /// Session of the log that wrote it.
    pub epoch: u32,
    /// Node that wrote it.
    pub node: u32,
    /// Every sequence up to this one was known to be on disk when this was written; 0 = none.
    pub durable_through: u64,
    /// CRC-32/ISO-HDLC of the header before this one (for the first batch: of the segment header).
    pub chain: u32,
    /// CRC-32/ISO-HDLC of the log's id: tells own batches from those of a recycled file.
    pub log_tag: u32,
}

/// Why 64 bytes are no batch header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadHeader {
    /// They do not start with the magic bytes.
    Magic,
    /// The header's checksum: stored, computed.
    Checksum(u32, u32),
    /// Values that no writer produces.
    Values(&'static str),
}

impl BatchHeader {
    /// The bytes on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.base.get().to_le_bytes());
        out[24..28].copy_from_slice(&self.count.to_le_bytes());
        out[28..30].copy_from_slice(&self.flags.to_le_bytes());
        out[32..40].copy_from_slice(&self.appended_at.0.to_le_bytes());
        out[40..44].copy_from_slice(&self.epoch.to_le_bytes());
        out[44..48].copy_from_slice(&self.node.to_le_bytes());
        out[48..56].copy_from_slice(&self.durable_through.to_le_bytes());
        out[56..60].copy_from_slice(&self.chain.to_le_bytes());
        out[60..64].copy_from_slice(&self.log_tag.to_le_bytes());
        let crc = crc32fast::hash(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, BadHeader> {
        if bytes[0..4] != MAGIC {
            return Err(BadHeader::Magic);
        }
        let stored = u32_at(bytes, 4);
        let computed = crc32fast::hash(&bytes[8..]);
        if stored != computed {
            return Err(BadHeader::Checksum(stored, computed));
        }
        let header = Self {
            body_len: u32_at(bytes, 8),
            body_crc: u32_at(bytes, 12),
            base: Sequence::new(u64_at(bytes, 16)).ok_or(BadHeader::Values("sequence 0"))?,
            count: u32_at(bytes, 24),
            flags: u16::from_le_bytes([bytes[28], bytes[29]]),
            appended_at: Micros(u64_at(bytes, 32)),
            epoch: u32_at(bytes, 40),
            node: u32_at(bytes, 44),
            durable_through: u64_at(bytes, 48),
            chain: u32_at(bytes, 56),
            log_tag: u32_at(bytes, 60),
        };
        if header.flags & !KNOWN_FLAGS != 0 {
            return Err(BadHeader::Values("unknown flags"));
        }
        let only_records = FLAG_HOLES | FLAG_COMPRESSED | FLAG_ENCRYPTED;
        let plain = header.is_mark() || header.is_lost();
        if header.is_mark() != (header.count == 0)
            || header.is_mark() && header.is_lost()
            || plain && header.flags & only_records != 0
        {
            return Err(BadHeader::Values("count and flags disagree"));
        }
        if header
            .base
            .get()
            .checked_add(u64::from(header.count))
            .is_none()
        {
            return Err(BadHeader::Values("sequences overflow"));
        }
        Ok(header)
    }

    /// Whether it carries positions only.
    #[must_use]
    pub fn is_mark(&self) -> bool {
        self.flags & FLAG_MARK != 0
    }

    /// Whether it is what a clean close leaves behind.
    #[must_use]
    pub fn is_close(&self) -> bool {
        self.flags & FLAG_CLOSED != 0
    }

    /// Whether some of its sequences have no record.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        self.flags & FLAG_HOLES != 0
    }

    /// Whether it stands for records that were damaged and put aside.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.flags & FLAG_LOST != 0
    }

    /// Whether its body is compressed.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.flags & FLAG_COMPRESSED != 0
    }

    /// Whether its body is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.flags & FLAG_ENCRYPTED != 0
    }

    /// What an encrypted body is bound to: all of the header but its checksums and the length.
    #[must_use]
    pub(super) fn bound(&self) -> [u8; HEADER_BYTES - 16] {
        let bytes = self.encode();
        bytes
            .last_chunk()
            .copied()
            .unwrap_or([0; HEADER_BYTES - 16])
    }

    /// Exclusive end of its sequences.
    #[must_use]
    pub fn end(&self) -> Sequence {
        self.base.advance(u64::from(self.count))
    }

    /// Bytes in the file, header included.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.body_len)
    }
}

/// Value that the following batch must have as its `chain`.
#[must_use]
pub fn chain_of(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32fast::hash(header)
}

/// Body of a mark: sequences below `reserved_end` may have been seen by somebody although they
/// were never flushed, so none of them is used again after a power cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub(super) reserved_end: u64,
}

impl Mark {
    pub(super) fn encode(self) -> [u8; 8] {
        self.reserved_end.to_le_bytes()
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let bytes: [u8; 8] = body.try_into().ok()?;
        Some(Self {
            reserved_end: u64::from_le_bytes(bytes),
        })
    }
}

/// Where the first bytes of a batch stand in `bytes`.
pub(super) fn find_magic(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(MAGIC.len())
        .position(|window| *window == MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BatchHeader {
        BatchHeader {
            body_len: 10,
            body_crc: 11,
            base: Sequence::FIRST,
            count: 3,
            flags: 0,
            appended_at: Micros(12),
            epoch: 13,
            node: 14,
            durable_through: 15,
            chain: 16,
            log_tag: 17,
        }
    }

    #[test]
    fn a_header_round_trips() {
        assert_eq!(BatchHeader::decode(&header().encode()), Ok(header()));
    }

    // The length is under the header's own checksum, so that it can be trusted before the body.
    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let good = header().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }
}
