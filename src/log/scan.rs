//! Walks over a segment file and says what is there: batches, damage, the end.
//!
//! Used by recovery, by the index, by readers that meet damage, and by offline tools. Never
//! panics, whatever the bytes are, and never reads beyond the file.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::batch::{self, BadHeader, BatchHeader, chain_of};
use super::body::{BadBody, BodyCodec};
use super::chunk::{Chunk, RecordRef};
use super::error::Damage;
use super::index::Place;
use super::position::{ByteOffset, Sequence};
use super::record;
use super::segment::{HEADER_BLOCK_BYTES, SegmentHeader};

/// A good batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Where its header starts.
    pub offset: ByteOffset,
    /// The header.
    pub header: BatchHeader,
    /// `chain` that the next batch must have.
    pub next_chain: u32,
    /// What its body holds, decoded: framed records, the positions of a mark, or why records are
    /// lost. Empty if it is [`Batch::locked`].
    pub body: Bytes,
    /// It is encrypted with a key that is not at hand.
    pub locked: bool,
}

/// A place where no good batch is.
#[derive(Clone, Debug)]
pub struct DamagedRegion {
    /// The bytes concerned: up to the next good batch, or to the last byte that is not zero.
    pub range: Range<u64>,
    /// What is wrong at its start.
    pub damage: Damage,
    /// The bytes themselves.
    pub bytes: Bytes,
    /// The sequence that was expected here.
    pub expected: Sequence,
    /// The sequence that the good batch behind the region begins with; [`Sequence::MAX`] if there
    /// is none.
    pub end: Sequence,
    /// Bodies are encoded here, so that no record can be found but in a whole one.
    encoded: bool,
}

/// One step of a scan.
#[derive(Clone, Debug)]
pub enum Scanned {
    /// A good batch.
    Batch(Batch),
    /// Damage; the scan goes on behind it.
    Damaged(DamagedRegion),
    /// Nothing but zeros from here to the end of the file.
    End(ByteOffset),
}

/// A scan over the bytes of one segment file.
#[derive(Clone, Debug)]
pub struct Scan {
    path: PathBuf,
    bytes: Bytes,
    at: usize,
    log_tag: u32,
    /// Unknown behind damage.
    chain: Option<u32>,
    next: Sequence,
    epoch: u32,
    ended: bool,
    encoded: bool,
    codec: BodyCodec,
}

impl Scan {
    /// A scan of the batches in `bytes`, the whole file at `path` with the header `header`.
    #[must_use]
    pub fn new(path: &Path, bytes: Bytes, header: &SegmentHeader) -> Self {
        Self {
            path: path.to_owned(),
            bytes,
            at: usize::try_from(HEADER_BLOCK_BYTES).unwrap_or(usize::MAX),
            log_tag: header.log_tag(),
            chain: Some(header.chain()),
            next: header.base,
            epoch: header.epoch,
            ended: false,
            encoded: header.is_encoded(),
            codec: BodyCodec::default(),
        }
    }

    /// The same, with a key for encrypted bodies.
    #[must_use]
    pub(super) fn decoding(mut self, codec: &BodyCodec) -> Self {
        self.codec = codec.clone();
        self
    }

    /// A scan of a file whose header cannot be read: by the log's tag and by `base`, the lowest
    /// sequence that may stand in it. Without a tag, the first batch header that is whole says
    /// which log the file belongs to.
    #[must_use]
    pub fn headless(path: &Path, bytes: Bytes, base: Sequence, log_tag: Option<u32>) -> Self {
        let at = usize::try_from(HEADER_BLOCK_BYTES).unwrap_or(usize::MAX);
        let first = || first_log_tag(bytes.get(at..).unwrap_or_default());
        Self {
            path: path.to_owned(),
            log_tag: log_tag.or_else(first).unwrap_or(0),
            bytes,
            at,
            chain: None,
            next: base,
            epoch: 0,
            ended: false,
            encoded: false,
            codec: BodyCodec::default(),
        }
    }

    /// The same, but no record is taken out of a damaged region.
    #[must_use]
    pub(super) fn without_salvage(mut self) -> Self {
        self.encoded = true;
        self
    }

    /// The same, starting at `at`, where a batch with sequence `next` or later is known to start.
    #[must_use]
    pub fn from(mut self, at: ByteOffset, next: Sequence) -> Self {
        self.at = usize::try_from(at.0).unwrap_or(usize::MAX);
        self.next = next;
        self.chain = None;
        self
    }

    /// The next sequence that is expected.
    #[must_use]
    pub fn next_sequence(&self) -> Sequence {
        self.next
    }

    fn batch_at(&self, at: usize) -> Result<Batch, (Damage, Option<usize>)> {
        let Some(header_bytes) = self.bytes.get(at..).and_then(<[u8]>::first_chunk) else {
            let found = self.bytes.len().saturating_sub(at);
            return Err((
                self.damage(at, "batch header", "64 bytes", format!("{found} bytes")),
                None,
            ));
        };
        let header =
            BatchHeader::decode(header_bytes).map_err(|bad| (self.bad_header(at, &bad), None))?;
        if header.log_tag != self.log_tag {
            return Err((
                self.damage(at, "log tag", hex(self.log_tag), hex(header.log_tag)),
                None,
            ));
        }
        let start = at + batch::HEADER_BYTES;
        let end = usize::try_from(header.body_len)
            .ok()
            .and_then(|len| start.checked_add(len));
        let Some(end) = end.filter(|&end| end <= self.bytes.len()) else {
            let room = self.bytes.len() - start;
            let len = header.body_len;
            return Err((
                self.damage(
                    at,
                    "body length",
                    format!("at most {room} bytes"),
                    format!("{len} bytes"),
                ),
                None,
            ));
        };
        if let Some(chain) = self.chain
            && chain != header.chain
        {
            return Err((
                self.damage(at, "chain", hex(chain), hex(header.chain)),
                Some(end),
            ));
        }
        if header.base < self.next || header.epoch < self.epoch {
            let expected = format!(
                "sequence {} or later of epoch {} or later",
                self.next, self.epoch
            );
            let found = format!("sequence {} of epoch {}", header.base, header.epoch);
            return Err((self.damage(at, "sequence", expected, found), Some(end)));
        }
        let body = self.bytes.slice(start..end);
        let crc = crc32fast::hash(&body);
        if crc != header.body_crc {
            return Err((
                self.damage(start, "body checksum", hex(header.body_crc), hex(crc)),
                Some(end),
            ));
        }
        let (body, locked) = match self.codec.decode(&header, body) {
            Ok(body) => (body, false),
            Err(BadBody::Locked) => (Bytes::new(), true),
            Err(BadBody::Cipher) => {
                let expected = "a body encrypted with this segment's key";
                return Err((
                    self.damage(start, "body encryption", expected, "another"),
                    Some(end),
                ));
            }
            Err(BadBody::Compression) => {
                let expected = "a compressed body";
                return Err((
                    self.damage(start, "body compression", expected, "other bytes"),
                    Some(end),
                ));
            }
        };
        Ok(Batch {
            offset: ByteOffset(at as u64),
            next_chain: chain_of(header_bytes),
            header,
            body,
            locked,
        })
    }

    fn bad_header(&self, at: usize, bad: &BadHeader) -> Damage {
        match bad {
            BadHeader::Magic => {
                let found = self.bytes.get(at..at + 4).unwrap_or_default();
                self.damage(
                    at,
                    "batch magic",
                    format!("{:02x?}", batch::MAGIC),
                    format!("{found:02x?}"),
                )
            }
            BadHeader::Checksum(stored, computed) => {
                self.damage(at, "header checksum", hex(*stored), hex(*computed))
            }
            BadHeader::Values(what) => self.damage(
                at,
                "header values",
                "values a writer produces",
                (*what).to_owned(),
            ),
        }
    }

    fn damage(
        &self,
        at: usize,
        what: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Damage {
        Damage {
            path: self.path.clone(),
            offset: ByteOffset(at as u64),
            what,
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The start of the next good batch after `from`.
    fn resync(&self, from: usize) -> Option<usize> {
        let blind = Self {
            chain: None,
            ..self.clone()
        };
        let mut at = from;
        while let Some(step) = batch::find_magic(self.bytes.get(at..)?) {
            at += step;
            if blind.batch_at(at).is_ok() {
                return Some(at);
            }
            at += 1;
        }
        None
    }

    fn damaged(&mut self, damage: Damage, end_known: Option<usize>) -> DamagedRegion {
        let start = self.at;
        let end = match end_known {
            // The header is good, so the length is: the next batch follows the bad body.
            Some(end) if self.clone_at(end).is_plausible() => end,
            _ => self
                .resync(start + 1)
                .unwrap_or_else(|| self.data_end().max(start)),
        };
        let following = self.clone_at(end).batch_at(end);
        let region = DamagedRegion {
            range: start as u64..end as u64,
            damage,
            bytes: self.bytes.slice(start..end),
            expected: self.next,
            end: following.map_or(Sequence::MAX, |batch| batch.header.base),
            encoded: self.encoded,
        };
        if let Some((_, last)) = region.salvage().last() {
            self.next = self.next.max(last.next());
        }
        self.at = end;
        self.chain = None;
        region
    }

    fn clone_at(&self, at: usize) -> Self {
        Self {
            at,
            chain: None,
            ..self.clone()
        }
    }

    fn is_plausible(&self) -> bool {
        self.batch_at(self.at).is_ok() || is_zero(self.bytes.get(self.at..).unwrap_or_default())
    }

    /// One past the last byte that is not zero.
    fn data_end(&self) -> usize {
        self.bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1)
    }
}

impl Iterator for Scan {
    type Item = Scanned;

    fn next(&mut self) -> Option<Scanned> {
        if self.ended {
            return None;
        }
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let starts_with_zeros = is_zero(&rest[..rest.len().min(batch::HEADER_BYTES)]);
        if starts_with_zeros && is_zero(rest) {
            self.ended = true;
            return Some(Scanned::End(ByteOffset(self.at as u64)));
        }
        Some(match self.batch_at(self.at) {
            Ok(batch) => {
                let len = usize::try_from(batch.header.file_len());
                self.at += len.unwrap_or(usize::MAX - self.at);
                self.chain = Some(batch.next_chain);
                self.next = batch.header.end();
                self.epoch = batch.header.epoch;
                Scanned::Batch(batch)
            }
            Err((damage, end)) => Scanned::Damaged(self.damaged(damage, end)),
        })
    }
}

impl Batch {
    /// Its records; none for a mark, for lost ones, and for what is locked.
    pub fn records(&self) -> impl Iterator<Item = RecordRef<'_>> {
        let body: &[u8] = if self.holds_records() {
            &self.body
        } else {
            &[]
        };
        record::Records::new(body)
    }

    /// Whether its body is a run of records.
    pub(super) fn holds_records(&self) -> bool {
        !self.header.is_mark() && !self.header.is_lost() && !self.locked
    }

    /// Its records as they are read; `None` if it has none.
    pub(super) fn chunk(&self) -> Option<Chunk> {
        if !self.holds_records() {
            return None;
        }
        chunk_of(&self.header, self.body.clone())
    }

    /// What its records are counted from in an index.
    pub(super) fn records_place(&self) -> Place {
        Place::of_batch(self.offset, &self.header)
    }

    /// Why the sequences that it stands for are lost, if they are.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        self.header
            .is_lost()
            .then(|| String::from_utf8_lossy(&self.body).into_owned())
    }

    /// Sequences that a mark reserves: below this one any may have been seen.
    #[must_use]
    pub fn reserved_end(&self) -> Option<u64> {
        if self.header.is_mark() {
            batch::Mark::decode(&self.body).map(|mark| mark.reserved_end)
        } else {
            None
        }
    }
}

/// The decoded `body` of a batch with `header` as a chunk. Its sequences are those that are
/// there.
pub(super) fn chunk_of(header: &BatchHeader, body: Bytes) -> Option<Chunk> {
    let (base, last) = if header.has_holes() {
        let mut records = record::Records::new(&body);
        let base = records.next()?.sequence;
        (base, records.last().map_or(base, |record| record.sequence))
    } else {
        (header.base, header.end().previous()?)
    };
    Some(Chunk {
        base,
        last,
        records: body,
    })
}

/// The damage that a batch of lost records stands for.
pub(super) fn lost_damage(
    path: &Path,
    offset: ByteOffset,
    header: &BatchHeader,
    reason: &str,
) -> Damage {
    let last = header.end().previous().unwrap_or(header.base);
    let expected = format!("sequences {} to {last}", header.base);
    Damage::put_aside(path.to_owned(), offset, expected, reason.to_owned())
}

/// What a reader is told of records whose key is gone.
pub(super) fn locked_damage(path: &Path, batch: &Batch) -> Damage {
    Damage {
        path: path.to_owned(),
        offset: batch.offset,
        what: "body encryption",
        expected: "a data key that is at hand".to_owned(),
        found: "none; the keys of the log were destroyed".to_owned(),
    }
}

impl DamagedRegion {
    /// Where good records are, and which, in the order of both. A record that cannot belong here,
    /// because a sector was written to the wrong place, is none of them.
    fn salvage(&self) -> Vec<(Range<usize>, Sequence)> {
        if self.encoded {
            return Vec::new();
        }
        let mut found = record::salvage(&self.bytes);
        found.retain(|(_, sequence)| (self.expected..self.end).contains(sequence));
        ascending(found)
    }

    /// The records in the region that are still good, each with its offset in the file.
    pub fn salvaged(&self) -> impl Iterator<Item = (ByteOffset, RecordRef<'_>)> {
        let start = self.range.start;
        self.salvage().into_iter().filter_map(move |(range, _)| {
            let (record, _) = record::parse(&self.bytes[range.clone()])?;
            Some((ByteOffset(start + range.start as u64), record))
        })
    }

    /// The good records of the region as runs that lie together.
    #[must_use]
    pub fn chunks(&self) -> Vec<Chunk> {
        let mut chunks: Vec<(Range<usize>, Sequence, Sequence)> = Vec::new();
        for (range, sequence) in self.salvage() {
            match chunks.last_mut() {
                Some((run, _, last)) if run.end == range.start && last.next() == sequence => {
                    run.end = range.end;
                    *last = sequence;
                }
                _ => chunks.push((range, sequence, sequence)),
            }
        }
        chunks
            .into_iter()
            .map(|(range, base, last)| Chunk {
                base,
                last,
                records: self.bytes.slice(range),
            })
            .collect()
    }
}

/// The longest ascending part of `found`: where a sector is there twice, some of its records are
/// too, and only one of them may be read.
fn ascending(found: Vec<(Range<usize>, Sequence)>) -> Vec<(Range<usize>, Sequence)> {
    if found.is_sorted_by(|(_, before), (_, after)| before < after) {
        return found;
    }
    // By length: where the part of that length with the lowest last sequence ends.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(found.len());
    for (at, (_, sequence)) in found.iter().enumerate() {
        let length = ends.partition_point(|&end| found[end].1 < *sequence);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        if length == ends.len() {
            ends.push(at);
        } else {
            ends[length] = at;
        }
    }
    let mut kept: Vec<usize> =
        std::iter::successors(ends.last().copied(), |&at| before[at]).collect();
    kept.reverse();
    kept.into_iter().map(|at| found[at].clone()).collect()
}

/// The tag of the log that the first good batch header in `bytes` belongs to.
pub(super) fn first_log_tag(mut bytes: &[u8]) -> Option<u32> {
    loop {
        bytes = bytes.get(batch::find_magic(bytes)?..)?;
        match BatchHeader::decode(bytes.first_chunk()?) {
            Ok(header) => return Some(header.log_tag),
            Err(_) => bytes = bytes.get(1..)?,
        }
    }
}

/// Compares in blocks, so that a segment's free tail costs little more than touching it.
fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes
        .chunks(ZEROS.len())
        .all(|chunk| *chunk == ZEROS[..chunk.len()])
}

fn hex(value: u32) -> String {
    format!("{value:#010x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    // LOG-03: no record twice, and as many as can be.
    #[test]
    fn of_records_in_the_wrong_order_the_longest_row_is_kept() {
        let kept = |sequences: &[u64]| -> Vec<u64> {
            let found = sequences.iter().enumerate();
            let found = found.filter_map(|(at, &n)| Some((at..at + 1, Sequence::new(n)?)));
            let kept = ascending(found.collect());
            assert!(kept.is_sorted_by(|(a, _), (b, _)| a.start < b.start));
            kept.into_iter().map(|(_, n)| n.get()).collect()
        };
        assert_eq!(kept(&[]), [0; 0]);
        assert_eq!(kept(&[5, 6, 9]), [5, 6, 9]);
        assert_eq!(kept(&[5, 6, 6, 7]), [5, 6, 7]);
        assert_eq!(kept(&[8, 5, 6, 7, 8]), [5, 6, 7, 8]);
        assert_eq!(kept(&[5, 6, 2, 3, 4, 7]), [2, 3, 4, 7]);
        assert_eq!(kept(&[3, 2, 1]), [1]);
    }
}
