//! Looks for moments at which all records can have come into being, and become durable; see the
//! parent for why that decides whether the history is linearizable.

use super::super::event::{AppendOutcome, CommitOutcome, Durability, NEVER, Sight, Tick, What};
use super::super::violation::Rule;
use super::World;

/// A bound, and the operation that sets it.
type Bound = (Tick, Option<usize>);

/// The moments at which the records came into being, or became durable, in order.
#[derive(Debug)]
struct Line {
    sequences: Vec<u64>,
    lower: Vec<Bound>,
    upper: Vec<Bound>,
}

impl Line {
    fn new(sequences: Vec<u64>) -> Self {
        let count = sequences.len();
        Self {
            sequences,
            lower: vec![(0, None); count],
            upper: vec![(NEVER, None); count],
        }
    }

    fn at(&self, sequence: u64) -> Option<usize> {
        self.sequences.binary_search(&sequence).ok()
    }

    fn not_before(&mut self, index: usize, tick: Tick, by: Option<usize>) {
        if let Some(bound) = self.lower.get_mut(index)
            && bound.0 < tick
        {
            *bound = (tick, by);
        }
    }

    fn not_after(&mut self, index: usize, tick: Tick, by: usize) {
        if let Some(bound) = self.upper.get_mut(index)
            && bound.0 > tick
        {
            *bound = (tick, Some(by));
        }
    }

    /// Somebody who asked in `start..end` found that everything below `next` was there.
    fn was_there(&mut self, next: u64, end: Tick, by: usize) {
        let index = self.sequences.partition_point(|sequence| *sequence < next);
        if let Some(last) = index.checked_sub(1) {
            self.not_after(last, end, by);
        }
    }

    /// Somebody who asked at `start` or later found that `sequence` was not there.
    fn was_not_there(&mut self, sequence: u64, start: Tick, by: usize) {
        if let Some(index) = self.at(sequence) {
            self.not_before(index, start, Some(by));
        }
    }

    /// The smallest solution; or where there is none: the index, who forbids an earlier moment and
    /// who a later one.
    fn solve(&self) -> Result<Vec<Bound>, (usize, Option<usize>, Option<usize>)> {
        let mut now: Bound = (0, None);
        let mut solution = Vec::with_capacity(self.sequences.len());
        for (index, (lower, upper)) in self.lower.iter().zip(&self.upper).enumerate() {
            if lower.0 > now.0 {
                now = *lower;
            }
            if now.0 > upper.0 {
                return Err((index, now.1, upper.1));
            }
            solution.push(now);
        }
        Ok(solution)
    }
}

impl World<'_> {
    pub(super) fn check_order(&mut self) {
        let mut written = Line::new(self.places.keys().copied().collect());
        let mut durable = Line::new(
            self.places
                .keys()
                .filter(|sequence| self.given_up(**sequence).is_none())
                .copied()
                .collect(),
        );
        self.bound_by_appends(&mut written, &mut durable);
        self.bound_by_looks(&mut written, &mut durable);
        if !self.violations.is_empty() {
            return;
        }
        let moments = match written.solve() {
            Ok(moments) => moments,
            Err((index, lower, upper)) => {
                return self.report_order(written.sequences[index], lower, upper);
            }
        };
        for (sequence, (tick, by)) in written.sequences.iter().zip(moments) {
            if let Some(index) = durable.at(*sequence) {
                durable.not_before(index, tick, by);
            }
        }
        if let Err((index, lower, upper)) = durable.solve() {
            self.report_order(durable.sequences[index], lower, upper);
        }
    }

    fn bound_by_appends(&self, written: &mut Line, durable: &mut Line) {
        for (sequence, place) in &self.places {
            let operation = &self.operations[place.append];
            let append = self.append(place.append);
            let end = match append.outcome {
                AppendOutcome::Stored { .. } => operation.end,
                AppendOutcome::Unknown
                | AppendOutcome::Refused
                | AppendOutcome::Conflict { .. } => self.history.lives[operation.life].end,
            };
            if let Some(index) = written.at(*sequence) {
                written.not_before(index, operation.start, Some(place.append));
                written.not_after(index, end, place.append);
            }
            let is_synced = append.durability == Durability::Synced
                && matches!(append.outcome, AppendOutcome::Stored { .. });
            if let Some(index) = durable.at(*sequence) {
                // Recovery flushes what it keeps before anybody sees the log again.
                let recovered = self.history.lives[operation.life].end;
                let end = if is_synced { end } else { recovered };
                durable.not_after(index, end, place.append);
            }
        }
    }

    fn bound_by_looks(&mut self, written: &mut Line, durable: &mut Line) {
        for (at, operation) in self.operations.iter().enumerate() {
            match &operation.what {
                What::Read(read) => {
                    // A read from beyond the end, that found nothing, saw nothing of what is below.
                    let through = if read.next > read.from { read.next } else { 0 };
                    let end = read.is_end.then_some(read.next);
                    self.look(at, read.sight, through, end, written, durable);
                }
                What::Tail { sight, end } => {
                    let last = end - 1;
                    if last > 0 && !self.places.contains_key(&last) && !self.is_unseen(last) {
                        let what = format!("the log ended with {last}, of which nobody knows");
                        self.report(Rule::Phantom, &[at], what);
                    }
                    self.look(at, *sight, *end, Some(*end), written, durable);
                }
                What::Commit {
                    through, outcome, ..
                } => {
                    if *outcome == CommitOutcome::Stored {
                        self.cursor_at(at, *through, durable);
                    }
                }
                What::Cursor { through, .. } => {
                    if *through > 0 {
                        self.cursor_at(at, *through, durable);
                    }
                }
                What::Append(append) => {
                    if let (AppendOutcome::Conflict { last }, Some(expected)) =
                        (append.outcome, &append.expected)
                    {
                        written.was_there(last + 1, operation.end, at);
                        let known = self.topics.get(expected.topic.as_str());
                        let next = known.and_then(|known| {
                            let mut later = known.iter().filter(|sequence| **sequence > last);
                            later.find(|later| !self.may_be_gone(**later, operation.start))
                        });
                        if let Some(next) = next {
                            written.was_not_there(*next, operation.start, at);
                        }
                    }
                }
            }
        }
    }

    fn look(
        &self,
        by: usize,
        sight: Sight,
        next: u64,
        end: Option<u64>,
        written: &mut Line,
        durable: &mut Line,
    ) {
        let operation = &self.operations[by];
        // What is durable is written.
        written.was_there(next, operation.end, by);
        let line = match sight {
            Sight::Durable => {
                durable.was_there(next, operation.end, by);
                durable
            }
            Sight::Written => written,
        };
        let Some(end) = end else {
            return;
        };
        let first = line.sequences.partition_point(|sequence| *sequence < end);
        let behind = line.sequences.get(first..).unwrap_or_default().iter();
        let mut behind = behind.filter(|sequence| !self.may_be_gone(**sequence, operation.end));
        if let Some(&sequence) = behind.next() {
            line.was_not_there(sequence, operation.start, by);
        }
    }

    fn cursor_at(&mut self, by: usize, through: u64, durable: &mut Line) {
        let end = self.operations[by].end;
        match durable.at(through) {
            Some(index) => durable.not_after(index, end, by),
            None => {
                let what = format!("a cursor is at {through}, where nothing is");
                self.report(Rule::CursorAhead, &[by], what);
            }
        }
    }

    /// `lower` says that `sequence`, or one before it, was not there yet; `upper` that it was.
    fn report_order(&mut self, sequence: u64, lower: Option<usize>, upper: Option<usize>) {
        let own = self.places[&sequence].append;
        let lower = lower.unwrap_or(own);
        let upper = upper.unwrap_or(own);
        let is_append = |at: usize| matches!(&self.operations[at].what, What::Append(_));
        let is_conflict = |at: usize| {
            matches!(&self.operations[at].what, What::Append(append)
                if matches!(append.outcome, AppendOutcome::Conflict { .. }))
        };
        let is_cursor = |at: usize| {
            let what = &self.operations[at].what;
            matches!(what, What::Commit { .. } | What::Cursor { .. })
        };
        let (rule, what) = if is_conflict(lower) || is_conflict(upper) {
            let what = format!("refused because of a last sequence that {sequence} contradicts");
            (Rule::Expected, what)
        } else if is_cursor(upper) {
            let what = format!("a cursor was at {sequence} before that was durable");
            (Rule::CursorAhead, what)
        } else if upper == own && self.append(own).outcome == AppendOutcome::Unknown {
            let what = format!("{sequence} came into being after the life it was sent in");
            (Rule::Order, what)
        } else if is_append(lower) && is_append(upper) {
            let what = format!("{sequence} was stored before one below it had been sent");
            (Rule::Order, what)
        } else if is_append(lower) {
            let what = format!("{sequence} was seen before it, or one below it, had been sent");
            (Rule::Future, what)
        } else if self.is_seen_later(sequence, self.operations[lower].start) {
            let what = format!("{sequence} was known, then not, and then again");
            (Rule::Stale, what)
        } else {
            let what = format!("{sequence} was known and is gone");
            (Rule::Lost, what)
        };
        self.report(rule, &[own, upper, lower], what);
    }

    fn is_seen_later(&self, sequence: u64, tick: Tick) -> bool {
        let later = self.operations.iter().filter(|later| later.start > tick);
        later.into_iter().any(|operation| match &operation.what {
            What::Read(read) => read.next > sequence && read.next > read.from,
            What::Tail { end, .. } => *end > sequence,
            What::Append(_) | What::Commit { .. } | What::Cursor { .. } => false,
        })
    }
}
