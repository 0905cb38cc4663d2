//! The files of a log's directory as one input, so that any bytes are some directory.
//!
//! Owns the packing and the repair of checksums. A mutation hardly ever finds a checksum, and
//! behind checksums lies most of what reads a log; so the input itself says which of them are made
//! right again after the mutation. The offsets are those of `docs/log-format.md`.
//!
//! ```text
//! input: repairs (1 byte), then files: kind (1), base (1), zeros / 256 (1), length (2, little
//! endian), content. A segment's content is its 128 header bytes and then what follows its header
//! block.
//! ```

use std::path::Path;

use arqonbus::log::Sequence;
use arqonbus::log::batch;
use arqonbus::log::segment::{self, HEADER_BLOCK_BYTES, HEADER_BYTES};

use super::disk::Disk;

/// Where the log lies.
pub const DIR: &str = "/data/dev/main";
/// More of an input than this is not looked at.
const INPUT_BYTES_MAX: usize = 64 << 10;
const BLOCK: usize = 4096;
const _: () = assert!(BLOCK as u64 == HEADER_BLOCK_BYTES);
const ENTRY_BYTES: usize = 5;
const ZEROS_UNIT: usize = 256;

/// What is made right again; bits of the first byte of an input.
#[derive(Clone, Copy, Debug)]
pub struct Repairs(u8);

impl Repairs {
    /// Nothing: the bytes are as they are.
    pub const NONE: u8 = 0;
    /// Capacity and checksum of segment headers.
    pub const HEADERS: u8 = 1;
    /// Checksums of batch headers and bodies.
    pub const BATCHES: u8 = 2;
    /// Which log a batch belongs to, and which batch comes before it.
    pub const CHAINS: u8 = 4;
    /// Checksums of records.
    pub const RECORDS: u8 = 8;
    /// Checksums of index files.
    pub const INDEXES: u8 = 16;
    /// Everything.
    pub const ALL: u8 = 31;

    fn wants(self, which: u8) -> bool {
        self.0 & which != 0
    }
}

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
            Self::Leftover => match base % 3 {
                0 => "preparing.tmp".to_owned(),
                1 => "retired.tmp".to_owned(),
                _ => "loss.tmp".to_owned(),
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
        let content = if *kind == Kind::Segment && used > HEADER_BYTES {
            let block = &bytes[HEADER_BYTES..used.min(BLOCK)];
            assert!(block.iter().all(|&byte| byte == 0), "bytes behind a header");
            let data = bytes.get(BLOCK..used).unwrap_or_default();
            [&bytes[..HEADER_BYTES], data].concat()
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
    while let Some((&[kind, base, zeros, low, high], behind)) =
        rest.split_first_chunk::<ENTRY_BYTES>()
    {
        let len = usize::from(u16::from_le_bytes([low, high])).min(behind.len());
        let (content, next) = behind.split_at(len);
        rest = next;
        let kind = Kind::ALL[usize::from(kind) % Kind::ALL.len()];
        let mut bytes = content.to_vec();
        if kind == Kind::Segment && len > HEADER_BYTES {
            let data = bytes.split_off(HEADER_BYTES);
            bytes.resize(BLOCK, 0);
            bytes.extend_from_slice(&data);
        }
        bytes.resize(bytes.len() + usize::from(zeros) * ZEROS_UNIT, 0);
        match kind {
            Kind::Segment => repair_segment(&mut bytes, repairs),
            Kind::Index if repairs.wants(Repairs::INDEXES) => repair_index(&mut bytes),
            Kind::Index | Kind::Session | Kind::Prepared | Kind::Loss | Kind::Leftover => {}
        }
        disk.place(&Path::new(DIR).join(kind.name(base)), bytes);
    }
    disk
}

/// Sets the four bytes of checksum at the end of an index file.
pub fn repair_index(bytes: &mut [u8]) {
    if let Some((content, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32fast::hash(content).to_le_bytes();
    }
}

fn repair_segment(bytes: &mut [u8], repairs: Repairs) {
    if repairs.wants(Repairs::HEADERS) && bytes.len() >= HEADER_BYTES {
        let capacity = bytes.len() as u64;
        put(bytes, 80, &capacity.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..124]);
        put(bytes, 124, &crc.to_le_bytes());
    }
    let tag = bytes.get(16..32).map_or(0, crc32fast::hash);
    let mut chain = bytes.get(..HEADER_BYTES).map_or(0, crc32fast::hash);
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
            repair_records(&mut bytes[body..end]);
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
