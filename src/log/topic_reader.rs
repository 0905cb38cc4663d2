//! Reads only the records of some topics, by the per-topic index.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Log;
use super::chunk::{Chunk, Found, RecordRef};
use super::error::Error;
use super::position::Sequence;
use super::reader::Segment;
use super::record;

/// A reader of the topics that a predicate accepts. Its cost follows what it delivers, not what
/// lies in between.
pub struct TopicReader {
    log: Log,
    wanted: Box<dyn Fn(&str) -> bool + Send + Sync>,
    place: Option<Place>,
}

/// Where the wanted records of one segment are.
struct Place {
    segment: Arc<Segment>,
    /// The whole file.
    bytes: Bytes,
    /// Offsets of their frames, ascending.
    offsets: Vec<u64>,
    /// The index reached to here when the offsets were taken from it.
    indexed_end: Sequence,
    /// The segment was sealed then, so that nothing is missing.
    sealed: bool,
    /// The first offset that has not been delivered.
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
            place: None,
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
            self.go_to(&segment, next_base.is_some(), from, end)?;
            match self.take(from, end, bytes_max) {
                Taken::Chunk(chunk) => return Ok(Found::Records(chunk)),
                Taken::Nothing => {}
                Taken::Damaged => return self.read_around_damage(from, end, bytes_max),
            }
            match next_base {
                Some(base) => from = base,
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
        if let Some(place) = &mut self.place
            && Arc::ptr_eq(&place.segment, segment)
            && (sealed && place.sealed || place.indexed_end >= end)
            && place.next <= from
        {
            return Ok(());
        }
        let storage = &*self.log.state().storage;
        let (offsets, indexed_end) =
            segment.with_index(storage, |index| (index.offsets(&*self.wanted), index.end))?;
        self.log.state().keep_index(segment);
        let bytes = segment.bytes()?;
        // Records before `from` are not looked at again: their offsets come first.
        let at = offsets.partition_point(|&offset| {
            record_at(&bytes, offset).is_some_and(|(record, _)| record.sequence < from)
        });
        self.place = Some(Place {
            segment: Arc::clone(segment),
            bytes,
            offsets,
            indexed_end,
            sealed,
            at,
            next: from,
        });
        Ok(())
    }

    fn take(&mut self, from: Sequence, end: Sequence, bytes_max: usize) -> Taken {
        let Some(place) = &mut self.place else {
            return Taken::Nothing;
        };
        // Runs of records that lie together; usually one, which is then passed on uncopied.
        let mut runs: Vec<Range<usize>> = Vec::new();
        let mut total = 0;
        let mut bounds: Option<(Sequence, Sequence)> = None;
        while let Some(&offset) = place.offsets.get(place.at) {
            let good = record_at(&place.bytes, offset).filter(|(record, _)| record.is_intact());
            let Some((record, range)) = good else {
                if bounds.is_none() {
                    return Taken::Damaged;
                }
                break;
            };
            if record.sequence >= end || (bounds.is_some() && total + range.len() > bytes_max) {
                break;
            }
            place.at += 1;
            if record.sequence < from {
                continue;
            }
            total += range.len();
            let base = bounds.map_or(record.sequence, |(base, _)| base);
            bounds = Some((base, record.sequence));
            match runs.last_mut() {
                Some(run) if run.end == range.start => run.end = range.end,
                _ => runs.push(range),
            }
        }
        let Some((base, last)) = bounds else {
            return Taken::Nothing;
        };
        place.next = last.next();
        let records = joined(&place.bytes, &runs, total);
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

/// The record framed at `offset` of a segment's `bytes`, and where its frame lies in them.
fn record_at(bytes: &[u8], offset: u64) -> Option<(RecordRef<'_>, Range<usize>)> {
    let start = usize::try_from(offset).ok()?;
    let (record, len) = record::parse(bytes.get(start..)?)?;
    Some((record, start..start + len))
}

fn joined(bytes: &Bytes, runs: &[Range<usize>], total: usize) -> Bytes {
    if let [run] = runs {
        return bytes.slice(run.clone());
    }
    let mut joined = BytesMut::with_capacity(total);
    for run in runs {
        joined.extend_from_slice(&bytes[run.clone()]);
    }
    joined.freeze()
}

enum Taken {
    Chunk(Chunk),
    Nothing,
    Damaged,
}
