//! Layout of a segment file: one header block, then batches, then zeros.
//!
//! Owns the constants of that layout and the names of the files; `docs/log-format.md` explains
//! them.

use std::path::{Path, PathBuf};

use super::position::{Micros, Sequence};
use super::wire::{u32_at, u64_at};

/// First bytes of every segment file.
pub const MAGIC: [u8; 8] = *b"ARQONSEG";
/// Version of the format that this program writes.
pub const VERSION: u16 = 1;
/// Where the first batch starts. A block of its own, so that writing batches never touches it.
pub const HEADER_BLOCK_BYTES: u64 = 4096;
/// Bytes of the header that mean something; the last four are its checksum.
pub const HEADER_BYTES: usize = 128;

/// Header of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Version of the format.
    pub version: u16,
    /// Node that created it.
    pub node: u32,
    /// Identity of the log: the same in all its segments.
    pub log_id: [u8; 16],
    /// Sequence of the first record that may stand in it.
    pub base: Sequence,
    /// Session of the log that created it.
    pub epoch: u32,
    /// `chain` that a batch after the last one of the previous segment would have; 0 for the first.
    pub previous_root: u32,
    /// When it was created.
    pub created_at: Micros,
    /// As in a mark: sequences below may have been seen.
    pub reserved_end: u64,
    /// Key that its bodies are encrypted with; all zeros = not encrypted.
    pub key_id: [u8; 16],
    /// Length of the file.
    pub capacity: u64,
}

/// Why a block is no segment header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BadSegmentHeader {
    /// It does not start with the magic bytes.
    Magic,
    /// A version that this program does not know.
    Version(u16),
    /// The checksum: stored, computed.
    Checksum(u32, u32),
    /// The base sequence is 0.
    Base,
}

impl SegmentHeader {
    /// The bytes on disk, without the zeros that fill the block.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&self.version.to_le_bytes());
        out[12..16].copy_from_slice(&self.node.to_le_bytes());
        out[16..32].copy_from_slice(&self.log_id);
        out[32..40].copy_from_slice(&self.base.get().to_le_bytes());
        out[40..44].copy_from_slice(&self.epoch.to_le_bytes());
        out[44..48].copy_from_slice(&self.previous_root.to_le_bytes());
        out[48..56].copy_from_slice(&self.created_at.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.reserved_end.to_le_bytes());
        out[64..80].copy_from_slice(&self.key_id);
        out[80..88].copy_from_slice(&self.capacity.to_le_bytes());
        let crc = crc32fast::hash(&out[..124]);
        out[124..128].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    /// What is wrong with it. The version is looked at before the checksum, because a later
    /// version may place its checksum elsewhere.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, BadSegmentHeader> {
        if bytes[0..8] != MAGIC {
            return Err(BadSegmentHeader::Magic);
        }
        let stored = u32_at(bytes, 124);
        let computed = crc32fast::hash(&bytes[..124]);
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION && (version > VERSION || stored == computed) {
            return Err(BadSegmentHeader::Version(version));
        }
        if stored != computed {
            return Err(BadSegmentHeader::Checksum(stored, computed));
        }
        Ok(Self {
            version,
            node: u32_at(bytes, 12),
            log_id: bytes[16..].first_chunk().copied().unwrap_or_default(),
            base: Sequence::new(u64_at(bytes, 32)).ok_or(BadSegmentHeader::Base)?,
            epoch: u32_at(bytes, 40),
            previous_root: u32_at(bytes, 44),
            created_at: Micros(u64_at(bytes, 48)),
            reserved_end: u64_at(bytes, 56),
            key_id: bytes[64..].first_chunk().copied().unwrap_or_default(),
            capacity: u64_at(bytes, 80),
        })
    }

    /// `chain` of the first batch.
    #[must_use]
    pub fn chain(&self) -> u32 {
        crc32fast::hash(&self.encode())
    }

    /// `log_tag` of the batches of this log.
    #[must_use]
    pub fn log_tag(&self) -> u32 {
        crc32fast::hash(&self.log_id)
    }
}

/// Name of the file with the batches from `base` on.
#[must_use]
pub fn file_name(base: Sequence) -> String {
    format!("{:020}.seg", base.get())
}

/// Name of the index file of that segment.
#[must_use]
pub fn index_name(base: Sequence) -> String {
    format!("{:020}.idx", base.get())
}

/// The base sequence in a segment's file name.
#[must_use]
pub fn base_of(name: &str) -> Option<Sequence> {
    let digits = name.strip_suffix(".seg")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Sequence::new(digits.parse().ok()?)
}

/// The next segment, already as long as it will be, all zeros.
pub(super) const PREPARED: &str = "prepared.seg";
/// A file on its way to becoming [`PREPARED`].
pub(super) const PREPARING: &str = "preparing.tmp";
/// A segment that retention has removed and whose blocks are about to be used again.
pub(super) const RETIRED: &str = "retired.tmp";

/// Path of a segment of the log in `dir`.
#[must_use]
pub fn path(dir: &Path, base: Sequence) -> PathBuf {
    dir.join(file_name(base))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            version: VERSION,
            node: 3,
            log_id: *b"0123456789abcdef",
            base: Sequence::FIRST.advance(41),
            epoch: 5,
            previous_root: 6,
            created_at: Micros(7),
            reserved_end: 8,
            key_id: [0; 16],
            capacity: 1 << 20,
        }
    }

    #[test]
    fn a_header_round_trips() {
        assert_eq!(SegmentHeader::decode(&header().encode()), Ok(header()));
    }

    // LOG-17: a later version is refused as such, not as damage.
    #[test]
    fn a_later_version_is_named() {
        let mut bytes = header().encode();
        bytes[8] = 9;
        assert_eq!(
            SegmentHeader::decode(&bytes),
            Err(BadSegmentHeader::Version(9))
        );
    }

    #[test]
    fn names_sort_as_their_sequences_do() {
        let names = [1, 9, 10, 1 << 40].map(|base| file_name(Sequence::new(base).unwrap()));
        assert!(names.is_sorted());
        assert_eq!(base_of(&names[2]).map(Sequence::get), Some(10));
        assert_eq!(base_of("00000000000000000000.seg"), None);
        assert_eq!(base_of("prepared.seg"), None);
    }
}
