//! Reads only the records of some topics, by the per-topic index.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Log;
use super::chunk::{Chunk, Found};
use super::error::Error;
use super::index::Place;
use super::position::{ByteOffset, Sequence};
use super::reader::Segment;
use super::record;
use super::segment::SegmentHeader;

/// A reader of the topics that a predicate accepts. Its cost follows what it delivers, not what
/// lies in between.
pub struct TopicReader {
    log: Log,
    wanted: Box<dyn Fn(&str) -> bool + Send + Sync>,
    selection: Option<Selection>,
}

/// The wanted records of one segment.
struct Selection {
    segment: Arc<Segment>,
    source: Source,
    places: Vec<Place>,
    /// Sequences whose records are lost, ascending.
    lost: Vec<Range<Sequence>>,
    /// The index reached to here when the places were taken from it.
    indexed_end: Sequence,
    /// The segment was sealed then, so that nothing is missing.
    sealed: bool,
    /// The first place that has not been delivered.
    at: usize,
    /// The sequence that the next read is expected to ask for.
    next: Sequence,
}

impl fmt::Debug for TopicReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicReader").finish_non_exhaustive()
    }
}

impl TopicReader {
    pub(super) fn new(log: Log, wanted: Box<dyn Fn(&str) -> bool + Send + Sync>) -> Self {
        Self {
            log,
            wanted,
            selection: None,
        }
    }

    /// Wanted records from `from` on and below `end`, about `bytes_max` bytes of them but at least
    /// one. They are in order; their sequences are not consecutive. [`Found::End`] means that
    /// none is left below `end`.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read(
        &mut self,
        from: Sequence,
        end: Sequence,
        bytes_max: usize,
    ) -> Result<Found, Error> {
        let mut from = from.max(self.log.bounds().first);
        while from < end {
            let Some((segment, next_base)) = self.log.state().segment_of(from) else {
                break;
            };
            if segment.is_locked() {
                self.selection = None;
                return self.read_around_damage(from, end, bytes_max);
            }
            self.go_to(&segment, next_base.is_some(), from, end)?;
            let lost = self.next_lost(from, end);
            let before = lost.as_ref().map_or(end, |lost| lost.start.max(from));
            match self.take(from, before, bytes_max) {
                Taken::Chunk(chunk) => return Ok(Found::Records(chunk)),
                // It may have been any topic's.
                Taken::Nothing if lost.is_some() => {
                    return self.read_around_damage(before, end, bytes_max);
                }
                Taken::Nothing => {}
                Taken::Damaged => return self.read_around_damage(from, end, bytes_max),
            }
            match next_base {
                Some(base) => {
                    let log = self.log.state();
                    if base < end
                        && let Some(damage) = log.missing_between(&segment, from, base)?
                    {
                        return Ok(Found::Damaged { damage, next: base });
                    }
                    from = base;
                }
                None => break,
            }
        }
        Ok(Found::End)
    }

    fn go_to(
        &mut self,
        segment: &Arc<Segment>,
        sealed: bool,
        from: Sequence,
        end: Sequence,
    ) -> Result<(), Error> {
        if let Some(selection) = &self.selection
            && Arc::ptr_eq(&selection.segment, segment)
            && (sealed && selection.sealed || selection.indexed_end >= end)
            && selection.next <= from
        {
            return Ok(());
        }
        let storage = &*self.log.state().storage;
        let (places, lost, indexed_end) = segment.with_index(storage, |index| {
            (index.places(&*self.wanted), index.lost.clone(), index.end)
        })?;
        self.log.state().keep_index(segment);
        let mut source = Source::of(segment)?;
        // Records before `from` are not looked at again: their places come first.
        let at = places.partition_point(|&place| {
            source
                .record_at(place)
                .is_some_and(|found| found.sequence < from)
        });
        self.selection = Some(Selection {
            segment: Arc::clone(segment),
            source,
            places,
            lost,
            indexed_end,
            sealed,
            at,
            next: from,
        });
        Ok(())
    }

    /// The first range of lost records that touches what is read.
    fn next_lost(&self, from: Sequence, end: Sequence) -> Option<Range<Sequence>> {
        let lost = &self.selection.as_ref()?.lost;
        let after = lost.partition_point(|range| range.end <= from);
        lost.get(after).filter(|range| range.start < end).cloned()
    }

    fn take(&mut self, from: Sequence, end: Sequence, bytes_max: usize) -> Taken {
        let Some(selection) = &mut self.selection else {
            return Taken::Nothing;
        };
        // Records that lie together; usually one run, which is then passed on uncopied.
        let mut runs: Vec<(Bytes, Range<usize>)> = Vec::new();
        let mut total = 0;
        let mut bounds: Option<(Sequence, Sequence)> = None;
        while let Some(&place) = selection.places.get(selection.at) {
            let Some(found) = selection.source.record_at(place).filter(|f| f.intact) else {
                if bounds.is_none() {
                    return Taken::Damaged;
                }
                break;
            };
            let FoundRecord {
                sequence, range, ..
            } = found;
            if sequence >= end || (bounds.is_some() && total + range.len() > bytes_max) {
                break;
            }
            selection.at += 1;
            if sequence < from {
                continue;
            }
            total += range.len();
            let base = bounds.map_or(sequence, |(base, _)| base);
            bounds = Some((base, sequence));
            let bytes = selection.source.bytes();
            match runs.last_mut() {
                Some((same, run)) if run.end == range.start && same.as_ptr() == bytes.as_ptr() => {
                    run.end = range.end;
                }
                _ => runs.push((bytes.clone(), range)),
            }
        }
        let Some((base, last)) = bounds else {
            return Taken::Nothing;
        };
        selection.next = last.next();
        let records = joined(&runs, total);
        Taken::Chunk(Chunk {
            base,
            last,
            records,
        })
    }

    /// The slow way, which finds out what is wrong and where reading can go on.
    fn read_around_damage(
        &self,
        mut from: Sequence,
        end: Sequence,
        bytes_max: usize,
    ) -> Result<Found, Error> {
        loop {
            let chunk = match self.log.read(from, end, bytes_max)? {
                Found::Records(chunk) => chunk,
                other => return Ok(other),
            };
            if let Some(wanted) = self.wanted_of(&chunk) {
                return Ok(Found::Records(wanted));
            }
            from = chunk.last.next();
        }
    }

    fn wanted_of(&self, chunk: &Chunk) -> Option<Chunk> {
        let mut records = BytesMut::new();
        let mut bounds: Option<(Sequence, Sequence)> = None;
        for record in chunk.iter().filter(|record| (self.wanted)(record.topic)) {
            records.extend_from_slice(record.field);
            let base = bounds.map_or(record.sequence, |(base, _)| base);
            bounds = Some((base, record.sequence));
        }
        let (base, last) = bounds?;
        let records = records.freeze();
        Some(Chunk {
            base,
            last,
            records,
        })
    }
}

/// Where places of a segment lead to.
pub(super) enum Source {
    /// The whole file.
    Plain(Bytes),
    /// The decoded body of one batch at a time.
    Encoded(Arc<Segment>, ByteOffset, Bytes),
}

/// A record in the bytes of a [`Source`].
pub(super) struct FoundRecord {
    pub(super) sequence: Sequence,
    pub(super) intact: bool,
    pub(super) range: Range<usize>,
}

impl Source {
    pub(super) fn of(segment: &Arc<Segment>) -> Result<Self, Error> {
        let encoded = segment
            .header
            .as_ref()
            .is_some_and(SegmentHeader::is_encoded);
        Ok(if encoded {
            Self::Encoded(Arc::clone(segment), ByteOffset(0), Bytes::new())
        } else {
            Self::Plain(segment.bytes()?)
        })
    }

    /// The bytes that the record found last lies in.
    pub(super) const fn bytes(&self) -> &Bytes {
        match self {
            Self::Plain(bytes) | Self::Encoded(_, _, bytes) => bytes,
        }
    }

    pub(super) fn record_at(&mut self, place: Place) -> Option<FoundRecord> {
        let start = match self {
            Self::Plain(_) => place.0,
            Self::Encoded(segment, at, bytes) => {
                let (batch, within) = place.split();
                if batch != *at {
                    *bytes = segment.decoded_body(batch)?;
                    *at = batch;
                }
                within
            }
        };
        let start = usize::try_from(start).ok()?;
        let (record, len) = record::parse(self.bytes().get(start..)?)?;
        Some(FoundRecord {
            sequence: record.sequence,
            intact: record.is_intact(),
            range: start..start + len,
        })
    }
}

fn joined(runs: &[(Bytes, Range<usize>)], total: usize) -> Bytes {
    if let [(bytes, run)] = runs {
        return bytes.slice(run.clone());
    }
    let mut joined = BytesMut::with_capacity(total);
    for (bytes, run) in runs {
        joined.extend_from_slice(&bytes[run.clone()]);
    }
    joined.freeze()
}

enum Taken {
    Chunk(Chunk),
    Nothing,
    Damaged,
}
