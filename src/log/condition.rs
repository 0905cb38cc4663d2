//! What an append may depend on, judged at the point where sequences are given.
//!
//! The log knows no ids and no rules of topics: whoever appends brings a [`Condition`], which is
//! asked once, when everything before the batch has its sequences and nothing after it has.

use std::collections::HashMap;

use bytes::Bytes;

use super::append::{Append, NewRecord};
use super::error::{AppendError, Error};
use super::position::{Micros, Sequence};
use super::state::State;

/// Decides whether a batch is stored. Asked by whoever has the log's turn: must be quick and must
/// not block. Whatever it holds can be dropped without having been asked, if the log fails first.
pub trait Condition: Send + std::fmt::Debug {
    /// Judges the batch, from which it may take records that are stored already; taking all of
    /// them is [`Judgement::Duplicate`].
    fn judge(&mut self, standing: &mut Standing<'_>, records: &mut Vec<NewRecord>) -> Judgement;

    /// Told after [`Judgement::Store`], before any batch of a later group is judged: where the records
    /// that were left begin; `None` if they could not be written. Within a group the last batch is
    /// told first, so that each can take back what it has changed when it judged.
    fn settled(&mut self, first: Option<Sequence>);
}

/// What a [`Condition`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// The records are appended.
    Store,
    /// All of them are stored already, the last at `last`: acknowledged when that is as durable as
    /// was asked for, with these sequences.
    Duplicate {
        /// The lowest of their sequences.
        first: Sequence,
        /// The highest.
        last: Sequence,
    },
    /// Nothing is stored.
    Refuse {
        /// What the condition wanted.
        expected: u64,
        /// What there is.
        found: u64,
    },
}

/// Where the log stands for one batch: after all that was appended before it, what is in the same
/// group included.
#[derive(Debug)]
pub struct Standing<'a> {
    state: &'a State,
    next: Sequence,
    last_appended_at: Micros,
    earlier: &'a [Waiting],
    group: &'a mut Earlier,
}

/// The last sequences of topics in the part of a group that is judged.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    lasts: HashMap<Bytes, Sequence>,
    /// How many batches of the group are in it.
    noted: usize,
}

impl Standing<'_> {
    /// The sequence that the batch's first record would get.
    #[must_use]
    pub const fn next(&self) -> Sequence {
        self.next
    }

    /// The log's time, which the batch will not be older than.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.last_appended_at.max(self.state.clock.now())
    }

    /// The last sequence on `topic`; `None` if no record of it is in the log.
    ///
    /// # Errors
    /// An index that is not in memory cannot be read.
    pub fn last_of(&mut self, topic: &str) -> Result<Option<Sequence>, Error> {
        for waiting in &self.earlier[self.group.noted..] {
            self.group.note(waiting);
        }
        self.group.noted = self.earlier.len();
        if let Some(last) = self.group.lasts.get(topic.as_bytes()) {
            return Ok(Some(*last));
        }
        self.state.last_of(topic)
    }
}

impl Earlier {
    fn note(&mut self, waiting: &Waiting) {
        let Place::Stored(mut sequence) = waiting.place else {
            return;
        };
        for record in &waiting.append.records {
            self.lasts.insert(record.topic.clone(), sequence);
            sequence = sequence.next();
        }
    }
}

/// A batch that waits for its turn.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) append: Append,
    /// Most bytes that it can take.
    pub(super) bytes: usize,
    condition: Option<Box<dyn Condition>>,
    pub(super) place: Place,
}

/// What becomes of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Not known yet.
    Open,
    /// It is stored from here on.
    Stored(Sequence),
    /// All of it is stored already.
    Already(Sequence, Sequence),
    /// It is not.
    Refused(u64, u64),
}

impl Waiting {
    pub(super) fn new(append: Append, bytes: usize, condition: Option<Box<dyn Condition>>) -> Self {
        Self {
            append,
            bytes,
            condition,
            place: Place::Open,
        }
    }

    pub(super) const fn is_stored(&self) -> bool {
        matches!(self.place, Place::Stored(_))
    }

    /// Tells the condition what has become of it.
    pub(super) fn settle(&mut self, stored: bool) {
        if let (Some(condition), Place::Stored(first)) = (&mut self.condition, self.place) {
            condition.settled(stored.then_some(first));
        }
    }
}

impl State {
    /// Gives every batch of `group` its place, the first record at `next`, and returns the sequence
    /// after the last. Nothing stored is younger than `last_appended_at`.
    ///
    /// # Errors
    /// There are not so many sequences. Nothing has its place then.
    pub(super) fn judge(
        &self,
        group: &mut [Waiting],
        next: Sequence,
        last_appended_at: Micros,
    ) -> Result<Sequence, AppendError> {
        let mut earlier = Earlier::default();
        let mut end = next;
        for at in 0..group.len() {
            let (before, rest) = group.split_at_mut(at);
            let Some(waiting) = rest.first_mut() else {
                break;
            };
            let judgement = match &mut waiting.condition {
                None => Judgement::Store,
                Some(condition) => {
                    let mut standing = Standing {
                        state: self,
                        next: end,
                        last_appended_at,
                        earlier: before,
                        group: &mut earlier,
                    };
                    condition.judge(&mut standing, &mut waiting.append.records)
                }
            };
            waiting.place = match judgement {
                Judgement::Store => Place::Stored(end),
                Judgement::Duplicate { first, last } => Place::Already(first, last),
                Judgement::Refuse { expected, found } => Place::Refused(expected, found),
            };
            if waiting.is_stored() {
                let count = waiting.append.records.len() as u64;
                assert!(count > 0, "a batch without records is stored");
                end = match end.get().checked_add(count).and_then(Sequence::new) {
                    Some(end) => end,
                    None => {
                        return Err(AppendError::ReadOnly {
                            reason: format!(
                                "its sequences are used up: the next one is {next}, and there is none above {}; go on in another log",
                                Sequence::MAX
                            ),
                        });
                    }
                };
            }
        }
        Ok(end)
    }
}
