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
pub const VERSION: u16 = 2;

/// The oldest version that this program reads.
pub const VERSION_OLDEST: u16 = 1;
/// Where the first batch starts. A block of its own, so that writing batches never touches it.
pub const HEADER_BLOCK_BYTES: u64 = 4096;
/// Bytes of the header that mean something; the last four are its checksum.
pub const HEADER_BYTES: usize = 256;

/// Where the header stands a second time, from version 2 on: without it the key of an encrypted
/// segment would be lost with one sector.
pub const HEADER_COPY_AT: usize = 2048;

/// The same as [`HEADER_BYTES`] in version 1.
const HEADER_BYTES_V1: usize = 128;

/// Written again since it was sealed: as long as its batches are, with sequences left out.
pub(super) const FLAG_REWRITTEN: u32 = 1;
/// Its bodies are compressed.
pub(super) const FLAG_COMPRESSED: u32 = 2;

/// Where the capacity stands, which the chain leaves out.
const CAPACITY: std::ops::Range<usize> = 80..88;

const _: () = assert!(HEADER_BYTES as u64 <= HEADER_BLOCK_BYTES);

/// Header of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Version of the format.
    pub version: u16,
    /// Node that created it.
    pub node: u32,
    /// Identity of the log that wrote it: the same in all segments of a directory but those that a
    /// fork has from its ancestors.
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
    /// What was done to it.
    pub flags: u32,
    /// How often it was written again.
    pub generation: u32,
    /// Of a rewritten segment: the root that it had when it was sealed, which its successor names.
    pub sealed_root: u32,
    /// Of a rewritten segment: exclusive end of the sequences that it stands for; 0 for others.
    pub end: u64,
    /// Random, new in each file: goes into the key of an encrypted segment.
    pub salt: [u8; 16],
    /// Of the own segments of a fork: where it comes from.
    pub origin: Option<Origin>,
}

/// The log that a fork was taken from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Identity of the log that the last record in common was written by: the parent, or one that
    /// the parent had it from.
    pub log_id: [u8; 16],
    /// Exclusive end of what it had in common with its parent.
    pub end: Sequence,
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
        out[CAPACITY].copy_from_slice(&self.capacity.to_le_bytes());
        if self.version > 1 {
            out[88..92].copy_from_slice(&self.flags.to_le_bytes());
            out[92..96].copy_from_slice(&self.generation.to_le_bytes());
            out[96..100].copy_from_slice(&self.sealed_root.to_le_bytes());
            out[104..112].copy_from_slice(&self.end.to_le_bytes());
            out[112..128].copy_from_slice(&self.salt);
            if let Some(origin) = &self.origin {
                out[128..144].copy_from_slice(&origin.log_id);
                out[144..152].copy_from_slice(&origin.end.get().to_le_bytes());
            }
        }
        let crc_at = meaningful_bytes(self.version) - 4;
        let crc = crc32fast::hash(&out[..crc_at]);
        out[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The whole header block.
    #[must_use]
    pub fn block(&self) -> Vec<u8> {
        let header = self.encode();
        let mut block = vec![0; usize::try_from(HEADER_BLOCK_BYTES).unwrap_or(HEADER_BYTES)];
        block[..HEADER_BYTES].copy_from_slice(&header);
        if self.version > 1 {
            block[HEADER_COPY_AT..HEADER_COPY_AT + HEADER_BYTES].copy_from_slice(&header);
        }
        block
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    /// What is wrong with it. The version is looked at before the checksum, because that stands
    /// elsewhere in other versions.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, BadSegmentHeader> {
        if bytes[0..8] != MAGIC {
            return Err(BadSegmentHeader::Magic);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > VERSION {
            return Err(BadSegmentHeader::Version(version));
        }
        let crc_at = meaningful_bytes(version) - 4;
        let stored = u32_at(bytes, crc_at);
        let computed = crc32fast::hash(&bytes[..crc_at]);
        if stored != computed {
            return Err(BadSegmentHeader::Checksum(stored, computed));
        }
        if version < VERSION_OLDEST {
            return Err(BadSegmentHeader::Version(version));
        }
        let later = version > 1;
        let in_later = |at: usize| if later { u32_at(bytes, at) } else { 0 };
        let block = |at: usize| bytes[at..].first_chunk().copied().unwrap_or_default();
        let origin_end = if later { u64_at(bytes, 144) } else { 0 };
        Ok(Self {
            version,
            node: u32_at(bytes, 12),
            log_id: block(16),
            base: Sequence::new(u64_at(bytes, 32)).ok_or(BadSegmentHeader::Base)?,
            epoch: u32_at(bytes, 40),
            previous_root: u32_at(bytes, 44),
            created_at: Micros(u64_at(bytes, 48)),
            reserved_end: u64_at(bytes, 56),
            key_id: block(64),
            capacity: u64_at(bytes, 80),
            flags: in_later(88),
            generation: in_later(92),
            sealed_root: in_later(96),
            end: if later { u64_at(bytes, 104) } else { 0 },
            salt: if later { block(112) } else { [0; 16] },
            origin: Sequence::new(origin_end).map(|end| Origin {
                log_id: block(128),
                end,
            }),
        })
    }

    /// `chain` of the first batch. From version 2 on without the capacity, which a rewritten
    /// segment knows only when its last batch is written.
    #[must_use]
    pub fn chain(&self) -> u32 {
        let mut bytes = self.encode();
        let len = meaningful_bytes(self.version);
        if self.version > 1 {
            bytes[CAPACITY].fill(0);
            bytes[len - 4..len].fill(0);
        }
        crc32fast::hash(&bytes[..len])
    }

    /// Tells this file from every other that had or will have its name: the header's checksum.
    #[must_use]
    pub fn identity(&self) -> u32 {
        // Not a checksum over the checksum as well, which is the same for every header.
        u32_at(&self.encode(), meaningful_bytes(self.version) - 4)
    }

    /// Whether bodies have to be decoded before records can be found in them.
    #[must_use]
    pub fn is_encoded(&self) -> bool {
        self.is_compressed() || self.is_encrypted()
    }

    /// Whether it was written again since it was sealed.
    #[must_use]
    pub fn is_rewritten(&self) -> bool {
        self.flags & FLAG_REWRITTEN != 0
    }

    /// Whether its bodies are compressed.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.flags & FLAG_COMPRESSED != 0
    }

    /// Whether its bodies are encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.key_id != [0; 16]
    }

    /// `log_tag` of the batches of this log.
    #[must_use]
    pub fn log_tag(&self) -> u32 {
        crc32fast::hash(&self.log_id)
    }
}

const fn meaningful_bytes(version: u16) -> usize {
    if version > 1 {
        HEADER_BYTES
    } else {
        HEADER_BYTES_V1
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

/// A segment that is being written again.
pub(super) const REWRITING: &str = "rewriting.tmp";

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
            key_id: [9; 16],
            capacity: 1 << 20,
            flags: FLAG_REWRITTEN,
            generation: 10,
            sealed_root: 11,
            end: 50,
            salt: [12; 16],
            origin: Some(Origin {
                log_id: [13; 16],
                end: Sequence::FIRST.advance(14),
            }),
        }
    }

    #[test]
    fn a_header_round_trips() {
        assert_eq!(SegmentHeader::decode(&header().encode()), Ok(header()));
    }

    // LOG-03: an index is not taken for that of another file of the same name.
    #[test]
    fn headers_that_differ_have_different_identities() {
        let again = SegmentHeader {
            generation: 11,
            ..header()
        };
        let earlier = SegmentHeader {
            version: 1,
            ..header()
        };
        let identities = [header(), again, earlier].map(|header| header.identity());
        assert_ne!(identities[0], identities[1]);
        assert_ne!(identities[0], identities[2]);
    }

    // LOG-17: the first version has a shorter header and none of the later fields.
    #[test]
    fn a_header_of_version_1_round_trips() {
        let old = SegmentHeader {
            version: 1,
            flags: 0,
            generation: 0,
            sealed_root: 0,
            end: 0,
            salt: [0; 16],
            origin: None,
            ..header()
        };
        let bytes = old.encode();
        assert!(bytes[HEADER_BYTES_V1..].iter().all(|&byte| byte == 0));
        assert_eq!(SegmentHeader::decode(&bytes), Ok(old));
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
