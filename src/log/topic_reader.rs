//! Reads only the records of some topics, by the per-topic index.

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;

use super::Log;
use super::chunk::{Chunk, Found};
use super::error::Error;
use super::position::Sequence;
use super::reader::Segment;

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
                // The slow way finds out what is wrong and where reading can go on.
                Taken::Damaged(at) => return self.log.read(at, end, bytes_max),
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
        // Records before `from` are not looked at again: their offsets come first.
        let at = offsets.partition_point(|&offset| {
            segment
                .record_at(offset)
                .is_some_and(|(sequence, _)| sequence < from)
        });
        let segment = Arc::clone(segment);
        self.place = Some(Place {
            segment,
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
        let mut records = BytesMut::new();
        let mut bounds: Option<(Sequence, Sequence)> = None;
        while let Some(&offset) = place.offsets.get(place.at) {
            let Some((sequence, record)) = place.segment.record_at(offset) else {
                if bounds.is_none() {
                    return Taken::Damaged(from);
                }
                break;
            };
            if sequence >= end || (bounds.is_some() && records.len() + record.len() > bytes_max) {
                break;
            }
            place.at += 1;
            if sequence < from {
                continue;
            }
            records.extend_from_slice(&record);
            bounds = Some((bounds.map_or(sequence, |(base, _)| base), sequence));
        }
        match bounds {
            Some((base, last)) => {
                place.next = last.next();
                Taken::Chunk(Chunk {
                    base,
                    last,
                    records: records.freeze(),
                })
            }
            None => Taken::Nothing,
        }
    }
}

enum Taken {
    Chunk(Chunk),
    Nothing,
    Damaged(Sequence),
}
