//! From chunks of a log to the runs of records that a filter wants.
//!
//! A run is a slice of a chunk: nothing is copied until it goes into a frame.

use std::collections::VecDeque;
use std::sync::Arc;

use super::damage::Encounters;
use super::delta::Current;
use super::expiry::Expiry;
use super::filter::{Filter, Traits};
use crate::log::{self, Chunk, Found, Log, Micros, Sequence, TopicReader};

/// Which records are wanted, and up to where.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) filter: Filter,
    pub(super) traits: Traits,
    /// What has expired is not wanted.
    pub(super) expiry: Arc<Expiry>,
    /// What came before what counts is not wanted.
    pub(super) current: Option<Arc<Current>>,
    /// Exclusive.
    pub(super) stop_before: Option<Sequence>,
    /// Inclusive.
    pub(super) stop_time: Option<Micros>,
}

/// What was found in order.
#[derive(Debug)]
pub(super) enum Piece {
    /// Records without a gap in their bytes.
    Run { records: Chunk, count: u64 },
    /// Records that are damaged on disk.
    Lost(Lost),
}

/// A range of records that cannot be delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    /// First sequence of it.
    pub first: Sequence,
    /// Last sequence of it.
    pub last: Sequence,
    /// Which check failed.
    pub reason: String,
}

/// Pieces that cover everything from where the scan began up to `next`.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) pieces: VecDeque<Piece>,
    pub(super) next: Sequence,
    /// A record beyond the stop time was met: nothing after `next` is wanted.
    pub(super) stopped: bool,
}

impl Scanned {
    pub(super) fn at(next: Sequence) -> Self {
        Self {
            pieces: VecDeque::new(),
            next,
            stopped: false,
        }
    }

    /// Takes over what one read found; `false` if it found the end.
    pub(super) fn take(
        &mut self,
        found: Found,
        end: Sequence,
        selection: &Selection,
        encounters: &Encounters,
    ) -> bool {
        match found {
            Found::Records(chunk) => {
                self.next = chunk.last.next();
                self.select(&chunk, selection);
                true
            }
            Found::Damaged { damage, next } => {
                encounters.note(&damage, self.next, next);
                self.pieces.push_back(Piece::Lost(Lost {
                    first: self.next,
                    last: next.previous().unwrap_or(next).max(self.next),
                    reason: format!("damaged on disk: {}", damage.what),
                }));
                self.next = next.max(self.next.next());
                true
            }
            Found::End => {
                self.next = self.next.max(end);
                false
            }
        }
    }

    fn select(&mut self, chunk: &Chunk, selection: &Selection) {
        let mut run = Run::default();
        let mut offset = 0;
        for record in chunk.iter() {
            let late = selection
                .stop_time
                .is_some_and(|stop| record.appended_at > stop);
            if late {
                self.stopped = true;
                self.next = record.sequence;
                break;
            }
            if selection.filter.matches(record.topic)
                && selection.traits.fit(record.record)
                && !selection.expiry.has_passed(&record)
                && !selection
                    .current
                    .as_ref()
                    .is_some_and(|current| current.passes_over(&record))
            {
                run.extend(offset, record.sequence);
            } else {
                self.push(run.take(offset, chunk));
            }
            offset += record.field.len();
        }
        self.push(run.take(offset, chunk));
    }

    fn push(&mut self, piece: Option<Piece>) {
        self.pieces.extend(piece);
    }
}

/// Matching records that follow each other, while they are being counted.
#[derive(Default)]
struct Run {
    start: usize,
    base: Option<Sequence>,
    last: Option<Sequence>,
    count: u64,
}

impl Run {
    fn extend(&mut self, offset: usize, sequence: Sequence) {
        if self.base.is_none() {
            self.start = offset;
            self.base = Some(sequence);
        }
        self.last = Some(sequence);
        self.count += 1;
    }

    fn take(&mut self, end: usize, chunk: &Chunk) -> Option<Piece> {
        let Self {
            start,
            base,
            last,
            count,
        } = std::mem::take(self);
        let records = Chunk {
            base: base?,
            last: last?,
            records: chunk.records.slice(start..end),
        };
        Some(Piece::Run { records, count })
    }
}

/// A read that may touch the disk; to be run where blocking is allowed.
#[derive(Debug)]
pub struct HistoryRead {
    pub(super) source: Source,
    pub(super) selection: Selection,
    pub(super) from: Sequence,
    pub(super) end: Sequence,
    pub(super) bytes_max: usize,
    pub(super) encounters: Arc<Encounters>,
}

/// What a [`HistoryRead`] reads from.
#[derive(Debug)]
pub(super) enum Source {
    /// All of a log.
    Everything(Log),
    /// Only some topics of it, by its topic index.
    Topics(TopicReader),
}

impl Source {
    pub(super) fn new(log: &Log, filter: &Filter) -> Self {
        if filter.is_everything() {
            return Self::Everything(log.clone());
        }
        let filter = filter.clone();
        Self::Topics(log.topic_reader(Box::new(move |topic| filter.matches(topic))))
    }

    pub(super) fn read(
        &mut self,
        from: Sequence,
        end: Sequence,
        bytes: usize,
    ) -> Result<Found, log::Error> {
        match self {
            Self::Everything(log) => log.read(from, end, bytes),
            Self::Topics(reader) => reader.read(from, end, bytes),
        }
    }
}

/// What a [`HistoryRead`] found.
#[derive(Debug)]
pub struct History {
    pub(super) found: Result<Scanned, log::Error>,
    /// To read on from.
    pub(super) source: Source,
}

impl HistoryRead {
    /// Reads until enough is gathered or the end is reached. Blocks on the disk.
    #[must_use]
    pub fn run(mut self) -> History {
        let found = self.scan();
        History {
            found,
            source: self.source,
        }
    }

    fn scan(&mut self) -> Result<Scanned, log::Error> {
        let mut scanned = Scanned::at(self.from);
        let mut gathered = 0;
        while scanned.next < self.end && gathered < self.bytes_max && !scanned.stopped {
            let room = self.bytes_max - gathered;
            let found = self.source.read(scanned.next, self.end, room)?;
            if let Found::Records(chunk) = &found {
                gathered += chunk.records.len();
            }
            if !scanned.take(found, self.end, &self.selection, &self.encounters) {
                break;
            }
        }
        Ok(scanned)
    }
}
