//! Where things are in one segment: sparse by sequence and time, complete by topic.
//!
//! Kept in memory while the segment is written, in a file beside it when it is sealed. The file is
//! believed only with its checksum; without it the index is built again from the segment.

use std::collections::HashMap;
use std::ops::Range;

use super::batch::{BatchHeader, HEADER_BYTES};
use super::body::BodyCodec;
use super::cipher::NONCE_BYTES;
use super::position::{ByteOffset, Micros, Sequence};
use super::record::Records;
use super::scan::Batch;
use super::segment::SegmentHeader;
use super::wire::{length_prefixed, put_varint, varint};

const MAGIC: [u8; 8] = *b"ARQONIDX";
const VERSION: u8 = 2;

/// Where a record is: in a segment of plain bodies the offset of its frame in the file, in one of
/// encoded bodies the offset of its batch (upper half) and of its frame in the decoded body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place(pub(super) u64);

const WITHIN_BITS: u32 = 32;

impl Place {
    /// The first record of the batch at `offset`.
    pub(super) fn of_batch(offset: ByteOffset, header: &BatchHeader) -> Self {
        if header.is_compressed() || header.is_encrypted() {
            Self(offset.0 << WITHIN_BITS)
        } else {
            Self(offset.0 + HEADER_BYTES as u64)
        }
    }

    /// Of an encoded segment: the batch, and where in its decoded body.
    pub(super) fn split(self) -> (ByteOffset, u64) {
        let within = self.0 & ((1 << WITHIN_BITS) - 1);
        (ByteOffset(self.0 >> WITHIN_BITS), within)
    }
}

/// A batch that can be found without scanning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Point {
    pub(super) sequence: Sequence,
    pub(super) appended_at: Micros,
    pub(super) offset: ByteOffset,
}

/// Everything about one topic in one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Topic {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) first: Sequence,
    pub(super) last: Sequence,
    /// Places of its framed records: varints, each the distance from the one before.
    postings: Vec<u8>,
    last_place: u64,
}

/// Index of one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Index {
    interval_bytes: u32,
    pub(super) end: Sequence,
    pub(super) data_end: ByteOffset,
    /// `chain` that a batch after the last one would have.
    pub(super) root: u32,
    pub(super) points: Vec<Point>,
    pub(super) topics: HashMap<Box<str>, Topic>,
    /// Sequences whose records are lost, ascending.
    pub(super) lost: Vec<Range<Sequence>>,
}

impl Index {
    pub(super) fn new(base: Sequence, start: ByteOffset, root: u32, interval_bytes: u32) -> Self {
        Self {
            interval_bytes,
            end: base,
            data_end: start,
            root,
            points: Vec::new(),
            topics: HashMap::new(),
            lost: Vec::new(),
        }
    }

    /// Notes that the sequences from `first` on and below `end` have lost their records, so that
    /// readers of single topics are told of them too: which topics they had, nobody knows.
    pub(super) fn add_lost(&mut self, first: Sequence, end: Sequence) {
        match self.lost.last_mut() {
            Some(before) if before.end == first => before.end = end,
            _ if first < end => self.lost.push(first..end),
            _ => {}
        }
    }

    pub(super) fn interval_bytes(&self) -> u32 {
        self.interval_bytes
    }

    /// The checksum that the bytes of an index file have, and the one that they carry.
    pub(super) fn checksums(bytes: &[u8]) -> (u32, u32) {
        bytes
            .split_last_chunk::<4>()
            .map_or((0, 0), |(content, crc)| {
                (crc32fast::hash(content), u32::from_le_bytes(*crc))
            })
    }

    /// The identity of the segment file that the bytes of an index file are about, if they say so.
    pub(super) fn segment_named_in(bytes: &[u8]) -> Option<u32> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first()?;
        let is_known = *magic == MAGIC && *version == VERSION;
        rest.first_chunk()
            .filter(|_| is_known)
            .map(|identity| u32::from_le_bytes(*identity))
    }

    /// Adds the batch that follows what is there.
    pub(super) fn add(&mut self, batch: &Batch) {
        if !batch.header.is_mark() {
            self.add_point(batch);
            if batch.holds_records() {
                self.add_records(batch.records_place(), &batch.body);
            } else if batch.header.is_lost() {
                self.add_lost(batch.header.base, batch.header.end());
            }
            self.end = batch.header.end();
        }
        self.data_end = batch.offset.advance(batch.header.file_len());
        self.root = batch.next_chain;
    }

    fn add_point(&mut self, batch: &Batch) {
        let last = self.points.last();
        let due = last
            .is_none_or(|point| batch.offset.0 - point.offset.0 >= u64::from(self.interval_bytes));
        if due {
            // No writer goes back in time; a file that says so must not bring the search into
            // disorder.
            let before = last.map_or(Micros(0), |point| point.appended_at);
            self.points.push(Point {
                sequence: batch.header.base,
                appended_at: batch.header.appended_at.max(before),
                offset: batch.offset,
            });
        }
    }

    /// Adds records that stand at `place` one after the other.
    pub(super) fn add_records(&mut self, place: Place, records: &[u8]) {
        let mut at = place.0;
        for record in Records::new(records) {
            let len = record.field.len() as u64;
            if let Some(topic) = self.topics.get_mut(record.topic) {
                topic.add(at, len, record.sequence);
            } else {
                let mut topic = Topic::new(record.sequence);
                topic.add(at, len, record.sequence);
                self.topics.insert(record.topic.into(), topic);
            }
            at += len;
        }
    }

    /// The last known batch that starts at or before `sequence`.
    pub(super) fn point_at(&self, sequence: Sequence) -> Option<Point> {
        let after = self
            .points
            .partition_point(|point| point.sequence <= sequence);
        after
            .checked_sub(1)
            .and_then(|at| self.points.get(at))
            .copied()
    }

    /// The last known batch appended before `time`. Times never decrease within a log, so nothing
    /// before it can be at or after `time`.
    pub(super) fn point_before(&self, time: Micros) -> Option<Point> {
        let after = self
            .points
            .partition_point(|point| point.appended_at < time);
        after
            .checked_sub(1)
            .and_then(|at| self.points.get(at))
            .copied()
    }

    /// Places of the records of all topics that `wanted` accepts, ascending.
    pub(super) fn places(&self, wanted: &dyn Fn(&str) -> bool) -> Vec<Place> {
        let mut places = Vec::new();
        for (name, topic) in &self.topics {
            if wanted(name) {
                topic.places_into(&mut places);
            }
        }
        places.sort_unstable();
        places
    }

    /// Places of the records of one topic, ascending.
    pub(super) fn places_of(&self, topic: &str) -> Vec<Place> {
        let mut places = Vec::new();
        if let Some(topic) = self.topics.get(topic) {
            topic.places_into(&mut places);
        }
        places
    }

    /// The bytes of the index file of the segment with `header`; encrypted as its bodies are.
    pub(super) fn encode(
        &self,
        header: &SegmentHeader,
        codec: &BodyCodec,
        nonce: [u8; NONCE_BYTES],
    ) -> Vec<u8> {
        let content = self.content();
        let mut out = Vec::with_capacity(32 + content.len());
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&header.identity().to_le_bytes());
        match &codec.key {
            Some(key) => {
                let bound = out.clone();
                key.seal_into(&mut out, nonce, &bound, &content);
            }
            None => out.extend_from_slice(&content),
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// All that it says, in one way only, so that two indexes of one segment are the same bytes.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 12 * self.points.len());
        put_varint(&mut out, u64::from(self.interval_bytes));
        put_varint(&mut out, self.end.get());
        put_varint(&mut out, self.data_end.0);
        put_varint(&mut out, u64::from(self.root));
        put_varint(&mut out, self.points.len() as u64);
        let mut before = (0, 0, 0);
        for point in &self.points {
            let now = (point.sequence.get(), point.appended_at.0, point.offset.0);
            put_varint(&mut out, now.0 - before.0);
            put_varint(&mut out, now.1 - before.1);
            put_varint(&mut out, now.2 - before.2);
            before = now;
        }
        // Sorted, so that the same segment always gives the same file.
        let mut topics: Vec<_> = self.topics.iter().collect();
        topics.sort_unstable_by_key(|(name, _)| *name);
        put_varint(&mut out, topics.len() as u64);
        for (name, topic) in topics {
            put_varint(&mut out, name.len() as u64);
            out.extend_from_slice(name.as_bytes());
            put_varint(&mut out, topic.records);
            put_varint(&mut out, topic.bytes);
            put_varint(&mut out, topic.first.get());
            put_varint(&mut out, topic.last.get());
            put_varint(&mut out, topic.last_place);
            put_varint(&mut out, topic.postings.len() as u64);
            out.extend_from_slice(&topic.postings);
        }
        for lost in &self.lost {
            put_varint(&mut out, lost.start.get());
            put_varint(&mut out, lost.end.get());
        }
        out
    }

    /// `None` if the bytes are not exactly what [`Index::encode`] made for the segment with
    /// `header`. Files of version 1 name no segment: they are believed of segments of version 1,
    /// which were never written again.
    pub(super) fn decode(bytes: &[u8], header: &SegmentHeader, codec: &BodyCodec) -> Option<Self> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
            return None;
        }
        let content = content.strip_prefix(&MAGIC)?;
        if let Some(content) = content.strip_prefix(&[1]) {
            return (header.version == 1).then(|| Self::parse(content))?;
        }
        let content = content.strip_prefix(&[VERSION])?;
        let content = content.strip_prefix(&header.identity().to_le_bytes())?;
        if !header.is_encrypted() {
            return Self::parse(content);
        }
        let bound = bytes.get(..bytes.len() - 4 - content.len())?;
        let opened = codec.key.as_ref()?.open(bound, content).ok()?;
        Self::parse(&opened)
    }

    /// The inverse of [`Index::content`].
    fn parse(content: &[u8]) -> Option<Self> {
        let mut input = Input(content);
        let mut index = Self {
            interval_bytes: u32::try_from(input.number()?).ok()?,
            end: Sequence::new(input.number()?)?,
            data_end: ByteOffset(input.number()?),
            root: u32::try_from(input.number()?).ok()?,
            points: Vec::new(),
            topics: HashMap::new(),
            lost: Vec::new(),
        };
        let mut point = (0_u64, 0_u64, 0_u64);
        for _ in 0..input.number()? {
            point.0 = point.0.checked_add(input.number()?)?;
            point.1 = point.1.checked_add(input.number()?)?;
            point.2 = point.2.checked_add(input.number()?)?;
            index.points.push(Point {
                sequence: Sequence::new(point.0)?,
                appended_at: Micros(point.1),
                offset: ByteOffset(point.2),
            });
        }
        for _ in 0..input.number()? {
            let name = std::str::from_utf8(input.bytes()?).ok()?.into();
            let topic = Topic {
                records: input.number()?,
                bytes: input.number()?,
                first: Sequence::new(input.number()?)?,
                last: Sequence::new(input.number()?)?,
                last_place: input.number()?,
                postings: input.bytes()?.to_vec(),
            };
            index.topics.insert(name, topic);
        }
        while !input.0.is_empty() {
            let first = Sequence::new(input.number()?)?;
            index.lost.push(first..Sequence::new(input.number()?)?);
        }
        Some(index)
    }
}

impl Topic {
    fn new(first: Sequence) -> Self {
        Self {
            records: 0,
            bytes: 0,
            first,
            last: first,
            postings: Vec::new(),
            last_place: 0,
        }
    }

    fn add(&mut self, place: u64, len: u64, sequence: Sequence) {
        put_varint(&mut self.postings, place - self.last_place);
        self.last_place = place;
        self.records += 1;
        self.bytes += len;
        self.last = sequence;
    }

    fn places_into(&self, out: &mut Vec<Place>) {
        let mut rest = self.postings.as_slice();
        let mut place = 0_u64;
        while let Some((delta, len)) = varint(rest) {
            place = place.saturating_add(delta);
            out.push(Place(place));
            rest = &rest[len..];
        }
    }
}

/// Reads numbers and byte strings off the front.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn number(&mut self) -> Option<u64> {
        let (value, len) = varint(self.0)?;
        self.0 = &self.0[len..];
        Some(value)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let (bytes, len) = length_prefixed(self.0)?;
        self.0 = &self.0[len..];
        Some(bytes)
    }
}
