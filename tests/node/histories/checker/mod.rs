//! Decides whether a history can be that of one log that keeps its promises.
//!
//! Knows the promises and nothing of how they are kept. [`check`] looks at
//!
//! - **content**: a sequence has one content, a record one sequence; nothing is there that was not
//!   sent or was refused; a batch is there whole or not at all, also when its outcome is unknown;
//! - **reads**: no gap, nothing twice, no way back in a stream, nothing missing that was
//!   acknowledged or seen, after whatever ending;
//! - **conditional appends**: stored exactly if the topic's last sequence was the expected one;
//! - **order**: linearizable appends, reads, looks at the end;
//! - **keys**: one producer's records of one topic and key in the order of its calls;
//! - **cursors**: never back, never ahead of what is durable, never where nobody put them.
//!
//! # Why it is fast, and why that is sound
//!
//! To check whether a history is linearizable is NP-complete in general, because any order of the
//! operations could be the one. Here every append that took effect has a sequence, and sequences
//! are the order: only the moments `t(1) < t(2) < ..` are open, at which the records came into
//! being. An answer says of them no more than this:
//!
//! - a batch exists from a moment between its call and its answer (or the end of the node's life,
//!   if there was no answer): `start <= t(i) <= end` for each of its records;
//! - a look `[start, end]` that found `a` to be the last record and `b` not yet there happened at
//!   some `p` with `t(a) <= p <= t(b)`. Such a `p` exists if and only if `t(a) <= end`,
//!   `start <= t(b)` and `t(a) <= t(b)`, and the last holds by the order.
//!
//! So each record has one lower bound (the largest) and one upper bound (the smallest), and all
//! moments must be in order. The smallest solution of the lower bounds is the running maximum over
//! the sequences; if it passes an upper bound, so does every solution, because every solution is
//! at least as large everywhere. Hence: the history is linearizable if and only if the running
//! maximum of the lower bounds stays within the upper ones. That costs one sort and one pass.
//!
//! "Durable" is a second such line: `d(i)`, the moment at which record `i` was safe, with
//! `t(i) <= d(i)`, `d(i) <= end` of a `SYNCED` answer or else of the node's life (recovery flushes
//! what it keeps before anybody looks), and the looks that see durable records only.
//! The smallest `t` is also the best for the smallest `d`, so one line is solved after the other.
//! An append that was never seen and never answered binds nothing and is left out, which is the
//! choice "it never took effect".
//!
//! A cursor is a register that only grows. The same argument holds with its values in place of the
//! sequences; see [`cursors`].
//!
//! Each step stands on the ones before it (without one content per sequence there is no log to
//! put in order), so the first that finds something is the last that is run.

mod conditions;
mod content;
mod order;
mod reads;

use std::collections::{BTreeMap, HashMap};

use super::cursors;
use super::event::{
    Append, AppendOutcome, CommitOutcome, Ending, History, Operation, Read, Tick, Value, What,
};
use super::violation::{Rule, Violation};

/// What a history that is accepted consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) operations: usize,
    pub(crate) appends: usize,
    pub(crate) appends_stored: usize,
    pub(crate) appends_refused: usize,
    /// Outcome unknown, and found to be stored.
    pub(crate) appends_unknown_stored: usize,
    /// Outcome unknown, and never seen.
    pub(crate) appends_unknown_unseen: usize,
    pub(crate) records_acknowledged: usize,
    /// Records whose sequence is known, acknowledged or not.
    pub(crate) records: usize,
    pub(crate) reads: usize,
    pub(crate) records_read: usize,
    pub(crate) tails: usize,
    pub(crate) commits: usize,
    pub(crate) commits_stored: usize,
    pub(crate) cursors: usize,
}

impl Summary {
    /// Both together.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            operations: self.operations + other.operations,
            appends: self.appends + other.appends,
            appends_stored: self.appends_stored + other.appends_stored,
            appends_refused: self.appends_refused + other.appends_refused,
            appends_unknown_stored: self.appends_unknown_stored + other.appends_unknown_stored,
            appends_unknown_unseen: self.appends_unknown_unseen + other.appends_unknown_unseen,
            records_acknowledged: self.records_acknowledged + other.records_acknowledged,
            records: self.records + other.records,
            reads: self.reads + other.reads,
            records_read: self.records_read + other.records_read,
            tails: self.tails + other.tails,
            commits: self.commits + other.commits,
            commits_stored: self.commits_stored + other.commits_stored,
            cursors: self.cursors + other.cursors,
        }
    }
}
/// One sequence of the log that all answers together describe.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    /// The append that made it.
    append: usize,
    /// The first operation found to tell of it.
    told_by: usize,
}

/// Where the search of a proof has got to: what is known of each sequence.
#[derive(Debug)]
struct World<'a> {
    operations: &'a [Operation],
    history: &'a History,
    /// Who sent a record, and which of its batch it is.
    made: HashMap<u64, (usize, u64)>,
    places: BTreeMap<u64, Place>,
    sequences: HashMap<u64, u64>,
    topics: HashMap<&'a str, Vec<u64>>,
    violations: Vec<Violation>,
}

/// Checks a history.
///
/// What nobody has read is not missed: end a history with a read of everything.
///
/// # Errors
/// All violations that the first failing step finds; see the module.
pub(crate) fn check<'a>(history: &'a History) -> Result<Summary, Vec<Violation>> {
    let mut world = World {
        operations: &history.operations,
        history,
        made: HashMap::new(),
        places: BTreeMap::new(),
        sequences: HashMap::new(),
        topics: HashMap::new(),
        violations: Vec::new(),
    };
    let steps: [fn(&mut World<'a>); 7] = [
        World::check_form,
        World::check_content,
        World::check_reads,
        World::check_expectations,
        World::check_order,
        World::check_keys,
        World::check_cursors,
    ];
    for step in steps {
        step(&mut world);
        if !world.violations.is_empty() {
            return Err(world.violations);
        }
    }
    Ok(world.summary())
}

impl<'a> World<'a> {
    fn report(&mut self, rule: Rule, operations: &[usize], what: impl Into<String>) {
        let mut named: Vec<usize> = Vec::new();
        for &operation in operations {
            if !named.contains(&operation) {
                named.push(operation);
            }
        }
        self.violations.push(Violation {
            rule,
            operations: named,
            what: what.into(),
        });
    }

    fn append(&self, operation: usize) -> &'a Append {
        match &self.operations[operation].what {
            What::Append(append) => append,
            other => panic!("operation {operation} is no append: {other:?}"),
        }
    }

    fn appends(&self) -> impl Iterator<Item = (usize, &'a Operation, &'a Append)> + use<'a> {
        let numbered = self.operations.iter().enumerate();
        numbered.filter_map(|(at, operation)| match &operation.what {
            What::Append(append) => Some((at, operation, append)),
            What::Read(_) | What::Tail { .. } | What::Commit { .. } | What::Cursor { .. } => None,
        })
    }

    fn reads(&self) -> impl Iterator<Item = (usize, &'a Operation, &'a Read)> + use<'a> {
        let numbered = self.operations.iter().enumerate();
        numbered.filter_map(|(at, operation)| match &operation.what {
            What::Read(read) => Some((at, operation, read)),
            What::Append(_) | What::Tail { .. } | What::Commit { .. } | What::Cursor { .. } => None,
        })
    }

    fn value(&self, place: &Place) -> &'a Value {
        let (_, index) = self.made[&place.number];
        &self.append(place.append).values[usize::try_from(index).expect("an index")]
    }

    /// When the last life ended in which a sequence was given up, with the record that is known to
    /// have had it: a number that nobody had been told may be given again.
    fn given_up(&self, sequence: u64) -> Option<Tick> {
        let place = self.places.get(&sequence);
        let since = place.map_or(0, |place| self.operations[place.append].life);
        let mut lives = self.history.lives.iter().skip(since).rev();
        let last = lives.find(|life| match &life.ending {
            Ending::Power { given_up } => given_up.iter().any(|part| part.contains(&sequence)),
            Ending::Process => false,
        });
        last.map(|life| life.end)
    }

    /// Whether an operation that ended at `end` need not know of a sequence, because it may
    /// already have been given up.
    fn may_be_gone(&self, sequence: u64, end: Tick) -> bool {
        self.given_up(sequence).is_some_and(|cut| cut < end)
    }

    fn check_form(&mut self) {
        for (at, operation) in self.operations.iter().enumerate() {
            if operation.start >= operation.end {
                self.report(Rule::Malformed, &[at], "it ended before it began");
            }
            if operation.life >= self.history.lives.len() {
                self.report(Rule::Malformed, &[at], "its node never lived");
            }
            if matches!(operation.what, What::Tail { end: 0, .. }) {
                self.report(Rule::Malformed, &[at], "sequences begin with 1");
            }
        }
        for (at, _, append) in self.appends() {
            for (index, value) in (0..).zip(&append.values) {
                if let Some((other, _)) = self.made.insert(value.number, (at, index)) {
                    let what = format!("record {} was sent twice", value.number);
                    self.report(Rule::Malformed, &[other, at], what);
                }
            }
        }
    }

    /// Whether there may have been a record that was given up before anybody read it.
    fn is_unseen(&self, sequence: u64) -> bool {
        !self.places.contains_key(&sequence) && self.given_up(sequence).is_some()
    }

    fn check_cursors(&mut self) {
        let violations = cursors::check(self.history);
        self.violations.extend(violations);
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary {
            operations: self.operations.len(),
            records: self.places.len(),
            ..Summary::default()
        };
        for operation in self.operations {
            match &operation.what {
                What::Append(append) => self.count_append(append, &mut summary),
                What::Read(read) => {
                    summary.reads += 1;
                    summary.records_read += read.records.len();
                }
                What::Tail { .. } => summary.tails += 1,
                What::Commit { outcome, .. } => {
                    summary.commits += 1;
                    let stored = *outcome == CommitOutcome::Stored;
                    summary.commits_stored += usize::from(stored);
                }
                What::Cursor { .. } => summary.cursors += 1,
            }
        }
        summary
    }

    fn count_append(&self, append: &Append, summary: &mut Summary) {
        summary.appends += 1;
        match append.outcome {
            AppendOutcome::Stored { .. } => {
                summary.appends_stored += 1;
                summary.records_acknowledged += append.values.len();
            }
            AppendOutcome::Refused | AppendOutcome::Conflict { .. } => summary.appends_refused += 1,
            AppendOutcome::Unknown => {
                let mut values = append.values.iter();
                if values.any(|value| self.sequences.contains_key(&value.number)) {
                    summary.appends_unknown_stored += 1;
                } else {
                    summary.appends_unknown_unseen += 1;
                }
            }
        }
    }
}
