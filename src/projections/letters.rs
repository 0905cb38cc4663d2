//! Which records of a log are dead letters already, so that each becomes one once, however often
//! its batch is repeated and however many sinks fail on it.
//!
//! A letter is appended, and on disk, before any sink moves past its record. What was appended is
//! read back from the log when a place is opened.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use super::letter::{self, Replay};
use super::logs::{Feed, LogsError};
use super::projection::{Poison, Projection, Source};
use super::sink::SinkKind;
use crate::log::{Found, Sequence};
use crate::proto::continuum::DeadLetter;
use crate::proto::view::RecordView;

/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;

/// The dead letters of one projection of one log.
#[derive(Debug, Default)]
pub(super) struct Letters(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Everything from here on is known.
    from: Option<Sequence>,
    /// Records with a letter, and whether that is because a sink did not take their rows.
    records: BTreeMap<Sequence, bool>,
    /// Where the sinks stand that have asked.
    passed: HashMap<SinkKind, Sequence>,
}

/// The letter that stands at `sequence`, if one does.
pub(super) fn letter_at(feed: &dyn Feed, sequence: Sequence) -> Option<DeadLetter> {
    let found = feed
        .log()
        .read(sequence, sequence.next(), READ_BYTES)
        .ok()?;
    let Found::Records(chunk) = found else {
        return None;
    };
    let record = chunk.iter().find(|record| record.sequence == sequence)?;
    letter::read(&RecordView::parse(record.record).ok()?)
}

impl Letters {
    /// Makes sure that every letter about a record from `from` on is known, and stays so for `sink`,
    /// which goes on from there: it may have lost what it had, and be behind where it was. Blocks.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) fn recover(
        &self,
        feed: &dyn Feed,
        topic: &str,
        sink: SinkKind,
        from: Sequence,
    ) -> Result<(), LogsError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.passed.insert(sink, from);
        if known.from.is_some_and(|known| known <= from) {
            return Ok(());
        }
        let log = feed.log();
        let wanted = topic.to_owned();
        let mut reader = log.topic_reader(Box::new(move |topic| topic == wanted));
        let (mut next, end) = (from, log.bounds().durable_end);
        while next < end {
            match reader
                .read(next, end, READ_BYTES)
                .map_err(LogsError::from)?
            {
                Found::Records(chunk) => {
                    for record in chunk.iter().filter(|record| record.topic == topic) {
                        let letter = RecordView::parse(record.record)
                            .ok()
                            .and_then(|view| letter::read(&view));
                        let tried = letter.and_then(|letter| {
                            let tried = Sequence::new(letter.tried_as)?;
                            Some((tried, !letter.refused_by.is_empty()))
                        });
                        known
                            .records
                            .extend(tried.filter(|(tried, _)| *tried >= from));
                    }
                    next = chunk.last.next();
                }
                // A letter that is lost is written again.
                Found::Damaged { next: after, .. } => next = after.max(next.next()),
                Found::End => break,
            }
        }
        known.from = Some(from);
        Ok(())
    }

    /// Whether there is a letter about the record at `sequence` because a sink did not take its row,
    /// as far as letters are known.
    pub(super) fn was_refused(&self, sequence: Sequence) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.records.get(&sequence).copied().unwrap_or_default()
    }

    /// Appends the letter about a record, unless there is one. Blocks.
    ///
    /// # Errors
    /// The log does not take it.
    pub(super) fn ensure(
        &self,
        feed: &dyn Feed,
        projection: &dyn Projection,
        source: &Source<'_>,
        poison: &Poison,
    ) -> Result<(), LogsError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.records.contains_key(&source.sequence) {
            return Ok(());
        }
        let before = Replay::of(source.record).and_then(|replay| letter_at(feed, replay.letter));
        feed.append(letter::write(projection, source, poison, before))?;
        let refused = poison.refused_by.is_some();
        known.records.insert(source.sequence, refused);
        Ok(())
    }

    /// A sink has passed everything before `next`. What all have passed is forgotten.
    pub(super) fn passed(&self, sink: SinkKind, next: Sequence) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.passed.insert(sink, next);
        let Some(before) = known.passed.values().copied().min() else {
            return;
        };
        if known
            .records
            .keys()
            .next()
            .is_some_and(|first| *first < before)
        {
            known.records = known.records.split_off(&before);
        }
        known.from = known.from.map(|from| from.max(before));
    }
}
