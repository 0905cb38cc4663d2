//! The files of a log's directory as one input, so that any bytes are some directory.
//!
//! Owns the packing and the repair of checksums. A mutation hardly ever finds a checksum, and
//! behind checksums lies most of what reads a log; so the input itself says which of them are made
//! right again after the mutation. The offsets are those of `docs/log-format.md`.
//!
//! ```text
//! input: repairs (1 byte), then files: kind (1), base (1), zeros / 256 (1), length (2, little
//! endian), content. A segment's content is its header (128 bytes in version 1; in later ones 256,
//! and the 256 of its copy), and then what follows its header block.
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use arqonbus::log::Sequence;
use arqonbus::log::batch;
use arqonbus::log::segment::{
    self, HEADER_BLOCK_BYTES, HEADER_BYTES, HEADER_COPY_AT, SegmentHeader,
};

use super::disk::Disk;

/// Where the log lies.
pub const DIR: &str = "/data/dev/main";
/// More of an input than this is not looked at.
const INPUT_BYTES_MAX: usize = 64 << 10;
const BLOCK: usize = 4096;
const _: () = assert!(BLOCK as u64 == HEADER_BLOCK_BYTES);
const ENTRY_BYTES: usize = 5;
const ZEROS_UNIT: usize = 256;
/// Of a segment of version 1, which has no copy of its header.
const HEADER_BYTES_OLD: usize = 128;
const CAPACITY_AT: usize = 80;
/// Where version and identity of the segment stand in an index file.
const INDEX_VERSION_AT: usize = 8;
const INDEX_IDENTITY_AT: usize = 9;
const BATCH_FLAGS_AT: usize = 28;
const FLAG_COMPRESSED: u16 = 8;
/// A compressed body whose records stand in it as they are: their length, then a zstd frame of one
/// raw block. What stands before the records:
const RAW_PREFIX_BYTES: usize = 16;

/// What is made right again; bits of the first byte of an input.
#[derive(Clone, Copy, Debug)]
pub struct Repairs(u8);

impl Repairs {
    /// Nothing: the bytes are as they are.
    pub const NONE: u8 = 0;
    /// Capacity and checksum of segment headers, not of their copies.
    pub const HEADERS: u8 = 1;
    /// Checksums of batch headers and bodies.
    pub const BATCHES: u8 = 2;
    /// Which log a batch belongs to, and which batch comes before it.
    pub const CHAINS: u8 = 4;
    /// Checksums of records.
    pub const RECORDS: u8 = 8;
    /// Checksums of index files, and which segment they belong to.
    pub const INDEXES: u8 = 16;
    /// Capacity and checksum of the copies of segment headers.
    pub const COPIES: u8 = 32;
    /// Everything.
    pub const ALL: u8 = 63;

    fn wants(self, which: u8) -> bool {
        self.0 & which != 0
    }
}

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// `%020d.seg`
    Segment,
    /// `%020d.idx`
    Index,
    /// `session`
    Session,
    /// `prepared.seg`
    Prepared,
    /// `loss-%010d.json`
    Loss,
    /// Files left behind under names that are not final.
    Leftover,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Segment,
        Self::Index,
        Self::Session,
        Self::Prepared,
        Self::Loss,
        Self::Leftover,
    ];

    fn name(self, base: u8) -> String {
        let sequence = Sequence::at_least_first(u64::from(base));
        match self {
            Self::Segment => segment::file_name(sequence),
            Self::Index => segment::index_name(sequence),
            Self::Session => "session".to_owned(),
            Self::Prepared => "prepared.seg".to_owned(),
            Self::Loss => format!("loss-{base:010}.json"),
            Self::Leftover => match base % 4 {
                0 => "preparing.tmp".to_owned(),
                1 => "retired.tmp".to_owned(),
                2 => "loss.tmp".to_owned(),
                _ => "rewriting.tmp".to_owned(),
            },
        }
    }
}

/// A file to be packed.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// The number in its name.
    pub base: u8,
    /// The whole file.
    pub bytes: Vec<u8>,
}

/// Packs `entries` into one input.
///
/// # Panics
/// A file is too long, or has more in its header block than a header.
#[must_use]
pub fn pack(repairs: u8, entries: &[Entry]) -> Vec<u8> {
    let mut out = vec![repairs];
    for Entry { kind, base, bytes } in entries {
        let used = bytes.iter().rposition(|&byte| byte != 0);
        let used = used.map_or(0, |last| last + 1);
        let zeros = (bytes.len() - used) / ZEROS_UNIT;
        let used = bytes.len() - zeros * ZEROS_UNIT;
        let front = front_bytes(bytes);
        let content = if *kind == Kind::Segment && used > front {
            let mut block = bytes[..used.min(BLOCK)].to_vec();
            block.resize(BLOCK, 0);
            let mut packed = block[..front].to_vec();
            if front > HEADER_BYTES_OLD {
                let copy = HEADER_COPY_AT..HEADER_COPY_AT + HEADER_BYTES;
                packed[HEADER_BYTES..].copy_from_slice(&block[copy]);
            }
            assert!(
                header_block(&packed) == block,
                "bytes beside a header and its copy"
            );
            packed.extend_from_slice(bytes.get(BLOCK..used).unwrap_or_default());
            packed
        } else {
            bytes[..used].to_vec()
        };
        let kind = Kind::ALL.iter().position(|one| one == kind);
        out.push(kind.and_then(|at| u8::try_from(at).ok()).expect("a kind"));
        out.push(*base);
        out.push(u8::try_from(zeros).expect("few zeros"));
        let len = u16::try_from(content.len()).expect("a small file");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&content);
    }
    out
}

/// The directory that `data` stands for.
#[must_use]
pub fn unpack(data: &[u8]) -> Disk {
    let disk = Disk::default();
    let data = &data[..data.len().min(INPUT_BYTES_MAX)];
    let Some((&repairs, mut rest)) = data.split_first() else {
        return disk;
    };
    let repairs = Repairs(repairs);
    let mut files: BTreeMap<(String, Kind, u8), Vec<u8>> = BTreeMap::new();
    while let Some((&[kind, base, zeros, low, high], behind)) =
        rest.split_first_chunk::<ENTRY_BYTES>()
    {
        let len = usize::from(u16::from_le_bytes([low, high])).min(behind.len());
        let (content, next) = behind.split_at(len);
        rest = next;
        let kind = Kind::ALL[usize::from(kind) % Kind::ALL.len()];
        let mut bytes = content.to_vec();
        let front = front_bytes(&bytes);
        if kind == Kind::Segment && len > front {
            let data = bytes.split_off(front);
            bytes = header_block(&bytes);
            bytes.extend_from_slice(&data);
        }
        bytes.resize(bytes.len() + usize::from(zeros) * ZEROS_UNIT, 0);
        if kind == Kind::Segment {
            repair_segment(&mut bytes, repairs);
        }
        files.insert((kind.name(base), kind, base), bytes);
    }
    let headers: BTreeMap<u8, SegmentHeader> = files
        .iter()
        .filter(|((_, kind, _), _)| *kind == Kind::Segment)
        .filter_map(|((_, _, base), bytes)| Some((*base, header_of(bytes)?)))
        .collect();
    for ((name, kind, base), mut bytes) in files {
        if kind == Kind::Index && repairs.wants(Repairs::INDEXES) {
            repair_index(&mut bytes, headers.get(&base));
        }
        disk.place(&Path::new(DIR).join(name), bytes);
    }
    disk
}

/// How many bytes of a segment's content stand for its header block.
fn front_bytes(bytes: &[u8]) -> usize {
    match bytes.get(8..10) {
        None | Some([0 | 1, 0]) => HEADER_BYTES_OLD,
        Some(_) => 2 * HEADER_BYTES,
    }
}

fn header_block(front: &[u8]) -> Vec<u8> {
    let (header, copy) = front.split_at(front.len().min(HEADER_BYTES));
    let mut block = vec![0; BLOCK];
    put(&mut block, 0, header);
    put(&mut block, HEADER_COPY_AT, copy);
    block
}

/// The header that a node would go by: the first good one.
fn header_of(bytes: &[u8]) -> Option<SegmentHeader> {
    [0, HEADER_COPY_AT]
        .into_iter()
        .find_map(|at| SegmentHeader::decode(bytes.get(at..)?.first_chunk()?).ok())
}

/// Makes the checksum at the end of an index file right, and in a file that names its segment the
/// name of the one with `header`.
pub fn repair_index(bytes: &mut [u8], header: Option<&SegmentHeader>) {
    if let Some(header) = header
        && bytes
            .get(INDEX_VERSION_AT)
            .is_some_and(|&version| version > 1)
        && bytes.len() >= INDEX_IDENTITY_AT + 8
    {
        put(bytes, INDEX_IDENTITY_AT, &header.identity().to_le_bytes());
    }
    if let Some((content, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32fast::hash(content).to_le_bytes();
    }
}

fn repair_header(bytes: &mut [u8], capacity: u64) {
    let len = if front_bytes(bytes) == HEADER_BYTES_OLD {
        HEADER_BYTES_OLD
    } else {
        HEADER_BYTES
    };
    put(bytes, CAPACITY_AT, &capacity.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..len - 4]);
    put(bytes, len - 4, &crc.to_le_bytes());
}

/// `records` as the body of a compressed batch, not compressed: mutations reach what is in it, and
/// their checksums can be made right.
///
/// # Panics
/// There are more than fit into a block of zstd.
#[must_use]
pub fn raw_frame(records: &[u8]) -> Vec<u8> {
    const FRAME_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    /// One segment, length in four bytes, no checksum.
    const DESCRIPTOR: u8 = 0xa0;
    const BLOCK_BYTES_MAX: usize = 128 << 10;
    assert!(records.len() <= BLOCK_BYTES_MAX, "one block");
    let len = u32::try_from(records.len()).expect("one block");
    let last_raw_block = (len << 3 | 1).to_le_bytes();
    let mut body = len.to_le_bytes().to_vec();
    body.extend_from_slice(&FRAME_MAGIC);
    body.push(DESCRIPTOR);
    body.extend_from_slice(&len.to_le_bytes());
    body.extend_from_slice(&last_raw_block[..3]);
    assert_eq!(body.len(), RAW_PREFIX_BYTES);
    body.extend_from_slice(records);
    body
}

fn repair_segment(bytes: &mut [u8], repairs: Repairs) {
    let capacity = bytes.len() as u64;
    for (repair, at) in [(Repairs::HEADERS, 0), (Repairs::COPIES, HEADER_COPY_AT)] {
        let header = bytes.get_mut(at..at + HEADER_BYTES);
        if let Some(header) = header.filter(|header| header.starts_with(&segment::MAGIC))
            && repairs.wants(repair)
        {
            repair_header(header, capacity);
        }
    }
    let header = header_of(bytes);
    let tag = header.as_ref().map_or(0, SegmentHeader::log_tag);
    let mut chain = header.as_ref().map_or(0, SegmentHeader::chain);
    let mut at = BLOCK;
    while let Some(header) = bytes.get(at..at + batch::HEADER_BYTES) {
        if !header.starts_with(&batch::MAGIC) {
            at += 1;
            continue;
        }
        let body = at + batch::HEADER_BYTES;
        let len = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| body.checked_add(len));
        let Some(end) = end.filter(|&end| end <= bytes.len()) else {
            at += 1;
            continue;
        };
        if repairs.wants(Repairs::RECORDS) {
            let flags =
                u16::from_le_bytes([bytes[at + BATCH_FLAGS_AT], bytes[at + BATCH_FLAGS_AT + 1]]);
            let prefix = if flags & FLAG_COMPRESSED == 0 {
                0
            } else {
                RAW_PREFIX_BYTES
            };
            if let Some(records) = bytes[body..end].get_mut(prefix..) {
                repair_records(records);
            }
        }
        if repairs.wants(Repairs::CHAINS) {
            put(bytes, at + 56, &chain.to_le_bytes());
            put(bytes, at + 60, &tag.to_le_bytes());
        }
        if repairs.wants(Repairs::BATCHES) {
            let crc = crc32fast::hash(&bytes[body..end]);
            put(bytes, at + 12, &crc.to_le_bytes());
            let crc = crc32fast::hash(&bytes[at + 8..body]);
            put(bytes, at + 4, &crc.to_le_bytes());
        }
        chain = crc32fast::hash(&bytes[at..body]);
        at = end;
    }
}

fn repair_records(mut body: &mut [u8]) {
    while let Some((0x0a, framed)) = body.split_first_mut() {
        let Some((len, prefix)) = varint(framed) else {
            return;
        };
        let record = usize::try_from(len).ok().and_then(|len| {
            let end = prefix.checked_add(len)?;
            (end <= framed.len() && len > 5).then_some(end)
        });
        let Some(end) = record else { return };
        let (record, rest) = framed.split_at_mut(end);
        let (content, crc) = record[prefix..].split_at_mut(end - prefix - 5);
        crc[1..].copy_from_slice(&crc32fast::hash(content).to_le_bytes());
        body = rest;
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            return Some((value, at + 1));
        }
    }
    None
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
