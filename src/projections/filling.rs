//! Fills a copy of a projection's tables from the log, through the same fold as a lane, from the
//! first record that the log has.
//!
//! Who fills it says how far, and when to rest. Nothing of the live copy is touched.

use std::ops::Range;

use super::batch::{Batch, Limits, Pending, Reading, chained, decide};
use super::fold::{Chain, Known, Outcome, Repeats};
use super::jobs::{Course, Trouble};
use super::letters::Letters;
use super::logs::{Feed, LogsError};
use super::projection::Poison;
use super::sink::{Commit, Place, Position, Sink, SinkError};
use crate::log::{Log, Sequence, TopicReader};
use crate::proto::view::RecordView;

/// Ranges of lost records that are remembered.
const LOST_MAX: usize = 1_024;

/// What is done about poison.
#[derive(Debug)]
pub(super) enum Burial {
    /// A letter is made where there is none.
    Letters(Letters),
    /// Nothing; and what these letters are about is poison although it can be read, because the
    /// table's sink refused it.
    Known(Letters),
    /// Nothing.
    Left,
}

/// A copy on its way.
pub(super) struct Filling<'a> {
    course: &'a Course,
    feed: &'a dyn Feed,
    log: Log,
    sink: &'a dyn Sink,
    place: Place,
    burial: Burial,
    by_topic: TopicReader,
    stored: Position,
    next: Sequence,
    chain: Chain,
    /// What the chain must be at positions, ascending; and those where it was another.
    marks: Vec<(Sequence, String)>,
    marks_met: usize,
    marks_missed: Vec<Sequence>,
    lost: Vec<Range<Sequence>>,
    lost_records: u64,
}

impl<'a> Filling<'a> {
    /// Takes `place`, which is empty, to be filled from the first record of the log.
    pub(super) fn begin(
        course: &'a Course,
        feed: &'a dyn Feed,
        sink: &'a dyn Sink,
        place: Place,
        burial: Burial,
    ) -> Result<Self, Trouble> {
        let stored = course.persist(|| Ok(course.block_on(sink.take(&place))?))?;
        let log = feed.log();
        let reading = Reading {
            projection: &**course.lane.projection(),
            place: &place,
            payloads: course.shared.logs.payloads(),
        };
        let by_topic = reading.by_topic(&log);
        let next = log.bounds().first.max(stored.next);
        Ok(Self {
            course,
            feed,
            log,
            sink,
            place,
            burial,
            by_topic,
            stored,
            next,
            chain: Chain(stored.hash),
            marks: Vec::new(),
            marks_met: 0,
            marks_missed: Vec::new(),
            lost: Vec::new(),
            lost_records: 0,
        })
    }

    /// What the rolling hash must be at positions.
    pub(super) fn expect(&mut self, mut marks: Vec<(Sequence, String)>) {
        marks.sort();
        self.marks = marks;
    }

    pub(super) const fn next(&self) -> Sequence {
        self.next
    }

    pub(super) const fn chain(&self) -> Chain {
        self.chain
    }

    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    pub(super) const fn marks_met(&self) -> usize {
        self.marks_met
    }

    pub(super) fn marks_missed(&self) -> &[Sequence] {
        &self.marks_missed
    }

    pub(super) const fn lost_records(&self) -> u64 {
        self.lost_records
    }

    /// Whether the record at `sequence` is lost, as far as ranges are remembered.
    pub(super) fn is_lost(&self, sequence: Sequence) -> bool {
        self.lost.iter().any(|lost| lost.contains(&sequence))
    }

    /// Takes in a batch of records before `end`, at most so many.
    pub(super) fn advance(&mut self, end: Sequence, records: usize) -> Result<(), Trouble> {
        let first = self.log.bounds().first;
        if self.next < first {
            return Err(Trouble::refused(format!(
                "records {} to {} were removed from the log while they were to be read; begin again",
                self.next,
                first.get() - 1
            )));
        }
        let options = &self.course.shared.options;
        let limits = Limits {
            records,
            bytes: options.batch_bytes_max,
        };
        let reading = Reading {
            projection: &**self.course.lane.projection(),
            place: &self.place,
            payloads: self.course.shared.logs.payloads(),
        };
        let by_topic = Some(&mut self.by_topic);
        let batch = reading.read(&self.log, by_topic, self.next, end, limits)?;
        let Batch {
            mut pending,
            upto,
            lost,
        } = batch;
        self.bury_all(&mut pending)?;
        let before = self.next;
        let outcomes = self.project(pending, upto)?;
        for lost in lost {
            self.lost_records += lost.end.since(lost.start);
            if self.lost.len() < LOST_MAX {
                self.lost.push(lost);
            }
        }
        self.course.took(upto.since(before), &outcomes);
        Ok(())
    }

    /// Stores that the copy stands where it does, after records that were of no interest.
    pub(super) fn settle(&mut self) -> Result<(), Trouble> {
        if self.stored.next == self.next {
            return Ok(());
        }
        let to = Position {
            next: self.next,
            ..self.stored
        };
        self.commit(Vec::new(), to)?;
        Ok(())
    }

    fn commit(&mut self, writes: Vec<super::sink::Write>, to: Position) -> Result<(), SinkError> {
        let commit = Commit {
            writes,
            moves: Some((self.stored, to)),
            epoch: self.stored.epoch,
        };
        let projection = &**self.course.lane.projection();
        let committed = self.sink.commit(projection, &self.place, &commit);
        self.course.block_on(committed)?;
        self.stored = to;
        Ok(())
    }

    /// After a commit that failed: what it came to is asked of the sink. The lane takes the epoch
    /// of its place anew after its own failures, and this copy's with it.
    pub(super) fn retake(&mut self) -> Result<(), Trouble> {
        let stands = self.course.block_on(self.sink.take(&self.place))?;
        if stands.next == self.stored.next && stands.hash == self.stored.hash {
            self.stored = stands;
            return Ok(());
        }
        Err(Trouble::refused(
            "the copy that was filled has changed under the job's hands; begin again",
        ))
    }

    fn bury_all(&self, pending: &mut [Pending]) -> Result<(), Trouble> {
        for one in pending {
            match (&self.burial, &one.meaning) {
                (Burial::Letters(letters), Err(poison)) => {
                    bury(self.course, self.feed, letters, &self.place, one, poison)?;
                }
                (Burial::Known(letters), Ok(_)) if letters.was_refused(one.sequence) => {
                    let sink = self.course.lane.kind();
                    one.meaning = Err(Poison::refused(sink, "refused before"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Decides and commits `pending`, and moves to `upto`. What the sink refuses is found by halves.
    fn project(
        &mut self,
        mut pending: Vec<Pending>,
        upto: Sequence,
    ) -> Result<Vec<Outcome>, Trouble> {
        if pending.is_empty() {
            self.pass_marks(&[], &[], upto);
            self.next = upto;
            return Ok(Vec::new());
        }
        let projection = &**self.course.lane.projection();
        let mut known = Known::default();
        let decided = self.course.block_on(decide(
            &mut known,
            self.sink,
            projection,
            &self.place,
            &pending,
            Repeats::AreDone,
        ))?;
        let outcomes = decided.outcomes;
        let chain = chained(self.chain, &pending, &outcomes);
        let to = Position {
            next: upto,
            epoch: self.stored.epoch,
            hash: chain.0,
        };
        match self.commit(decided.writes, to) {
            Ok(()) => {
                self.pass_marks(&pending, &outcomes, upto);
                self.next = upto;
                self.chain = chain;
                Ok(outcomes)
            }
            Err(error @ SinkError::Rejected { .. })
                if pending.iter().all(|one| one.meaning.is_err()) =>
            {
                Err(error.into())
            }
            Err(SinkError::Rejected { reason, .. }) if pending.len() == 1 => {
                let poison = Poison::refused(self.course.lane.kind(), reason);
                if let Burial::Letters(letters) = &self.burial {
                    let (course, feed, place) = (self.course, self.feed, &self.place);
                    bury(course, feed, letters, place, &pending[0], &poison)?;
                }
                pending[0].meaning = Err(poison);
                self.project(pending, upto)
            }
            Err(SinkError::Rejected { .. }) => {
                let second = pending.split_off(pending.len() / 2);
                let between = second[0].sequence;
                let mut outcomes = self.project(pending, between)?;
                outcomes.extend(self.project(second, upto)?);
                Ok(outcomes)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Compares the chain with what it must be at the positions from here to `upto`.
    fn pass_marks(&mut self, pending: &[Pending], outcomes: &[Outcome], upto: Sequence) {
        if self.marks.first().is_none_or(|(mark, _)| *mark > upto) {
            return;
        }
        let later = self.marks.partition_point(|(mark, _)| *mark <= upto);
        let rest = self.marks.split_off(later);
        let marks = std::mem::replace(&mut self.marks, rest);
        let mut records = pending.iter().zip(outcomes).peekable();
        let mut chain = self.chain;
        for (mark, hash) in marks {
            while let Some((one, outcome)) = records.next_if(|(one, _)| one.sequence < mark) {
                chain.take(one.sequence, one.changes(), *outcome);
            }
            if super::notes::hex(&chain.0) == hash {
                self.marks_met += 1;
            } else {
                self.marks_missed.push(mark);
            }
        }
    }
}

/// Makes the dead letter of a record, unless there is one.
pub(super) fn bury(
    course: &Course,
    feed: &dyn Feed,
    letters: &Letters,
    place: &Place,
    pending: &Pending,
    poison: &Poison,
) -> Result<(), LogsError> {
    // It was decoded when it was read.
    let Ok(view) = RecordView::parse(&pending.record) else {
        return Ok(());
    };
    let reading = Reading {
        projection: &**course.lane.projection(),
        place,
        payloads: course.shared.logs.payloads(),
    };
    let source = reading.source(&view, pending.sequence, pending.appended_at);
    letters.ensure(feed, reading.projection, &source, poison)
}
