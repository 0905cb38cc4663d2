//! What a batch must meet at the moment its sequences are given (MSG-04, MSG-05, BRK-07).
//!
//! An append carries a gate only if its producer asked for something: an expected last sequence, ids
//! of its own, numbers of its own. The log asks the gate when everything before the batch has its
//! place, so that of two writers who have seen the same state one is refused, and a batch that is
//! sent again is found even while the first is under way. In this order: what is there already is
//! taken out; if nothing is left, the batch is answered as it was the first time, whatever it
//! expects; then what it expects is held against the log; then its numbers.
//!
//! Knows no session. What it has to say beyond what the log passes on goes into the [`Receipt`].

mod ids;
mod memory;

use std::sync::{Arc, OnceLock};

use self::ids::Key;
pub(super) use self::ids::Reach;
pub(super) use self::memory::Memory;
use self::memory::Window;
use super::delta::{self, Chains, Change, Mark as DeltaMark, Said, Stand};
use super::own::Expected;
use super::producers::Producer;
use super::stored::Room;
use crate::log::{Condition, Judgement, NewRecord, Sequence, Standing};
use crate::proto::code::ErrorCode;
use crate::proto::view::EnvelopeView;

/// Why a batch does not pass. Nothing of it is stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// Somebody else has written to the topic.
    #[error(
        "expected.last is {expected} for topic {topic}, but its last sequence is {found}{}; read what is new, then decide again",
        empty(*found)
    )]
    Last {
        /// The topic.
        topic: String,
        /// What the producer has seen.
        expected: u64,
        /// What there is; 0: nothing.
        found: u64,
    },
    /// A number of the producer's has been used, and not for this envelope.
    #[error(
        "envelopes[{index}].producer_sequence is {found}, but {producer:?} had reached {reached}; send what follows that"
    )]
    NumberBack {
        /// Which envelope of the batch.
        index: usize,
        /// Its producer.
        producer: String,
        /// What it says.
        found: u64,
        /// The last number that was taken.
        reached: u64,
    },
    /// An envelope of the producer's is missing.
    #[error(
        "envelopes[{index}].producer_sequence is {found}, but {producer:?} was expected to send {expected}; send what is missing first"
    )]
    NumberGap {
        /// Which envelope of the batch.
        index: usize,
        /// Its producer.
        producer: String,
        /// What it says.
        found: u64,
        /// The number that would be taken.
        expected: u64,
    },
    /// What a delta is against is not the last record of its key.
    #[error(
        "envelopes[{index}].headers.arqon-delta says on={on}, but {}",
        last_of_key(*found)
    )]
    Delta {
        /// Which envelope of the batch.
        index: usize,
        /// What it is against.
        on: u64,
        /// The last record of its key; 0 where no base is held.
        found: u64,
    },
    /// What is known of delta topics is not what it was when the batch came.
    #[error(
        "topics were declared, or records removed, meanwhile; nothing was stored; send the batch again"
    )]
    DeclaredMeanwhile,
    /// The log was opened again after the batch had come.
    #[error(
        "the reality's log was opened again meanwhile; nothing was stored; send the batch again"
    )]
    OpenedAgain,
    /// What is needed to decide cannot be read.
    #[error("the last sequence of topic {topic} cannot be read; nothing was stored")]
    Unreadable {
        /// The topic.
        topic: String,
    },
}

const fn empty(found: u64) -> &'static str {
    if found == 0 {
        " (it has no records)"
    } else {
        ""
    }
}

fn last_of_key(found: u64) -> String {
    match found {
        0 => "there is no base of its key; send one".into(),
        _ => format!("the last record of its key is {found}; read what is new, then decide again"),
    }
}

impl Unmet {
    /// What it is called on the wire.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Last { .. } | Self::NumberGap { .. } | Self::Delta { .. } => {
                ErrorCode::SequenceConflict
            }
            Self::NumberBack { .. } => ErrorCode::Stale,
            Self::OpenedAgain | Self::DeclaredMeanwhile | Self::Unreadable { .. } => {
                ErrorCode::StorageFailure
            }
        }
    }

    /// The part of the request at fault, as a path; empty if it is none in particular.
    #[must_use]
    pub fn field(&self) -> String {
        match self {
            Self::Last { .. } => "expected.last".into(),
            Self::NumberBack { index, .. } | Self::NumberGap { index, .. } => {
                format!("envelopes[{index}].producer_sequence")
            }
            Self::Delta { index, .. } => format!("envelopes[{index}].{}", delta::FIELD),
            Self::OpenedAgain | Self::DeclaredMeanwhile => String::new(),
            Self::Unreadable { .. } => "expected.topic".into(),
        }
    }

    /// What would have been right, for programs: the topic's last sequence, the number to be sent
    /// next. 0 where there is none.
    #[must_use]
    pub const fn actual(&self) -> u64 {
        match self {
            Self::Last { found, .. } | Self::Delta { found, .. } => *found,
            Self::NumberBack { reached, .. } => reached.saturating_add(1),
            Self::NumberGap { expected, .. } => *expected,
            Self::OpenedAgain | Self::DeclaredMeanwhile | Self::Unreadable { .. } => 0,
        }
    }

    /// The same in the log's words.
    const fn judgement(&self) -> Judgement {
        let (expected, found) = match self {
            Self::Last {
                expected, found, ..
            }
            | Self::NumberGap {
                expected, found, ..
            } => (*expected, *found),
            Self::NumberBack { reached, found, .. } => (reached.saturating_add(1), *found),
            Self::Delta { on, found, .. } => (*on, *found),
            Self::OpenedAgain | Self::DeclaredMeanwhile | Self::Unreadable { .. } => (0, 0),
        };
        Judgement::Refuse { expected, found }
    }
}

/// An envelope that was in the log already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Duplicate {
    /// Which of its batch, from 0.
    pub index: usize,
    /// Where it stands.
    pub sequence: u64,
}

/// What a gate has to say; written before the sink hears of the append.
#[derive(Debug, Default)]
pub struct Receipt(OnceLock<Result<Found, Unmet>>);

#[derive(Debug)]
struct Found {
    duplicates: Vec<Duplicate>,
    all: bool,
}

impl Receipt {
    /// Envelopes that were in the log already, by their place in the batch.
    #[must_use]
    pub fn duplicates(&self) -> &[Duplicate] {
        match self.0.get() {
            Some(Ok(found)) => &found.duplicates,
            Some(Err(_)) | None => &[],
        }
    }

    /// Why nothing was stored, if that is the gate's doing.
    #[must_use]
    pub fn unmet(&self) -> Option<&Unmet> {
        self.0.get()?.as_ref().err()
    }

    /// Whether all of the batch was in the log already.
    #[must_use]
    pub fn is_repetition(&self) -> bool {
        matches!(self.0.get(), Some(Ok(Found { all: true, .. })))
    }

    fn tell(&self, outcome: Result<Found, Unmet>) {
        // A gate is asked once.
        self.0.get_or_init(|| outcome);
    }
}

/// What of an envelope its gate remembers.
#[derive(Debug)]
struct Mark {
    index: usize,
    id: Option<Key>,
    number: Option<(Producer, u64)>,
}

/// A record for a delta topic.
#[derive(Debug)]
struct Step {
    index: usize,
    key: delta::Key,
    said: Said,
    /// Whether it is refused if it does not follow: what the node has to say itself is not.
    must_follow: bool,
}

/// The gate of one batch, in the making.
#[derive(Debug, Default)]
pub(super) struct Claims {
    expected: Option<Expected>,
    marks: Vec<Mark>,
    steps: Vec<Step>,
    receipt: Option<Arc<Receipt>>,
}

impl Claims {
    pub(super) fn expect(&mut self, expected: Expected) {
        self.expected = Some(expected);
    }

    /// Notes what `view`, the envelope at `index`, says of itself. `producer` is whom its number
    /// counts for.
    pub(super) fn note(
        &mut self,
        index: usize,
        topic: &str,
        view: &EnvelopeView<'_>,
        producer: impl FnOnce() -> Producer,
    ) {
        let number = (view.producer_sequence > 0).then(|| (producer(), view.producer_sequence));
        if view.id.is_empty() && number.is_none() {
            return;
        }
        let id = (!view.id.is_empty()).then(|| Key::of(topic, view.id));
        self.marks.push(Mark { index, id, number });
    }

    /// Notes that the record at `index` is one of `key` on a delta topic. One that `must_follow` is
    /// refused if what it is against is not the last of its key.
    pub(super) fn step(
        &mut self,
        index: usize,
        topic: &str,
        key: &str,
        said: Said,
        must_follow: bool,
    ) {
        let key = delta::Key::of(topic, key);
        self.steps.push(Step {
            index,
            key,
            said,
            must_follow,
        });
    }

    /// Whether there is anything to be met, or to be noted.
    pub(super) const fn is_empty(&self) -> bool {
        self.expected.is_none() && self.marks.is_empty() && self.steps.is_empty()
    }

    /// Whether any of it is for a delta topic.
    pub(super) const fn has_steps(&self) -> bool {
        !self.steps.is_empty()
    }

    pub(super) const fn expects(&self) -> bool {
        self.expected.is_some()
    }

    /// Whether what came before has to be known.
    pub(super) const fn remembers(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Where the gate will say what it has to say; `None` if there will be none.
    pub(super) fn receipt(&mut self) -> Option<Arc<Receipt>> {
        (!self.is_empty()).then(|| Arc::clone(self.receipt.get_or_insert_default()))
    }

    /// The gate, for a log and delta topics as they `stand`.
    pub(super) fn into_gate(
        self,
        memory: &Arc<Memory>,
        chains: &Arc<Chains>,
        stand: Stand,
        room: Room,
    ) -> Box<dyn Condition> {
        Box::new(Gate {
            expected: self.expected,
            marks: self.marks,
            steps: self.steps,
            chains: Arc::clone(chains),
            stand,
            changes: Vec::new(),
            receipt: self.receipt.unwrap_or_default(),
            memory: Arc::clone(memory),
            room,
            noted: Noted::default(),
        })
    }
}

/// The condition of an append.
#[derive(Debug)]
struct Gate {
    expected: Option<Expected>,
    marks: Vec<Mark>,
    steps: Vec<Step>,
    receipt: Arc<Receipt>,
    memory: Arc<Memory>,
    chains: Arc<Chains>,
    stand: Stand,
    room: Room,
    noted: Noted,
    /// What it has changed in the chains, to be taken back if nothing is stored.
    changes: Vec<Change>,
}

/// What a gate has changed in the memory, to be taken back if nothing is stored.
#[derive(Debug, Default)]
struct Noted {
    ids: Vec<Key>,
    /// Producers with what they had reached before.
    numbers: Vec<(Producer, Option<u64>)>,
}

impl Noted {
    fn take_back(&mut self, window: &mut Window) {
        for id in self.ids.drain(..) {
            window.ids.forget(id);
        }
        for (producer, before) in self.numbers.drain(..).rev() {
            window.numbers.put_back(&producer, before);
        }
    }
}

impl Gate {
    /// Which records of the batch are there already; the others are noted as from `next` on.
    fn known(&mut self, window: &mut Window, next: Sequence, records: usize) -> Vec<Duplicate> {
        let mut duplicates = Vec::new();
        let mut marks = self.marks.iter().peekable();
        for index in 0..records {
            let Some(mark) = marks.next_if(|mark| mark.index == index) else {
                continue;
            };
            let Some(id) = mark.id else { continue };
            if let Some(sequence) = window.ids.find(id) {
                duplicates.push(Duplicate { index, sequence });
            } else if window.ids.is_on() {
                let kept = index - duplicates.len();
                window.ids.note(id, next.advance(kept as u64).get());
                self.noted.ids.push(id);
            }
        }
        duplicates
    }

    /// Holds the numbers of the records that are to be stored against what their producers have
    /// reached.
    fn count(&mut self, window: &mut Window, duplicates: &[Duplicate]) -> Result<(), Unmet> {
        let mut known = duplicates.iter().map(|one| one.index).peekable();
        for mark in &self.marks {
            let Some((producer, found)) = &mark.number else {
                continue;
            };
            while known.next_if(|index| *index < mark.index).is_some() {}
            if known.peek() == Some(&mark.index) {
                continue;
            }
            let (index, found) = (mark.index, *found);
            let reached = window.numbers.reached(producer);
            let name = || producer.name.to_string();
            match reached {
                Some(reached) if found <= reached => {
                    let producer = name();
                    return Err(Unmet::NumberBack {
                        index,
                        producer,
                        found,
                        reached,
                    });
                }
                Some(reached) if found > reached + 1 => {
                    let (producer, expected) = (name(), reached + 1);
                    return Err(Unmet::NumberGap {
                        index,
                        producer,
                        found,
                        expected,
                    });
                }
                // Where nothing is known of a producer, it may begin anywhere.
                Some(_) | None => {
                    let before = window.numbers.own(producer);
                    self.noted.numbers.push((producer.clone(), before));
                    window.numbers.observe(producer, found);
                }
            }
        }
        Ok(())
    }

    /// Has the records for delta topics that are to be stored, from `next` on, follow what stands
    /// there.
    fn follow(&mut self, next: Sequence, duplicates: &[Duplicate]) -> Result<(), Unmet> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let Self {
            steps,
            chains,
            changes,
            ..
        } = self;
        let followed = chains.with(self.stand, |book| {
            let mut known = duplicates.iter().map(|one| one.index).peekable();
            let mut left_out = 0;
            for step in steps.iter() {
                while known.next_if(|index| *index < step.index).is_some() {
                    left_out += 1;
                }
                if known.peek() == Some(&step.index) {
                    continue;
                }
                let found = book.last_of(step.key);
                if let (true, Some(DeltaMark::On(on))) = (step.must_follow, step.said.mark)
                    && on != found
                {
                    book.take_back(changes);
                    let index = step.index;
                    return Err(Unmet::Delta { index, on, found });
                }
                let sequence = next.advance((step.index - left_out) as u64);
                book.note(step.key, step.said, sequence.get(), changes);
            }
            Ok(())
        });
        followed.unwrap_or(Err(Unmet::DeclaredMeanwhile))
    }

    fn expectation(&self, standing: &mut Standing<'_>) -> Result<(), Unmet> {
        let Some(Expected { topic, last }) = &self.expected else {
            return Ok(());
        };
        let found = standing.last_of(topic).map_err(|error| {
            tracing::error!(topic, %error, "no last sequence of a topic");
            let topic = topic.clone();
            Unmet::Unreadable { topic }
        })?;
        let found = found.map_or(0, Sequence::get);
        if found == *last {
            return Ok(());
        }
        Err(Unmet::Last {
            topic: topic.clone(),
            expected: *last,
            found,
        })
    }

    fn decide(
        &mut self,
        standing: &mut Standing<'_>,
        records: &mut Vec<NewRecord>,
    ) -> Result<(Judgement, Vec<Duplicate>), Unmet> {
        if self.marks.is_empty() {
            self.expectation(standing)?;
            self.follow(standing.next(), &[])?;
            return Ok((Judgement::Store, Vec::new()));
        }
        let memory = Arc::clone(&self.memory);
        let mut memory = memory.lock();
        let now = standing.now();
        let window = memory
            .window(self.stand.generation)
            .ok_or(Unmet::OpenedAgain)?;
        window.ids.turn(now);
        let duplicates = self.known(window, standing.next(), records.len());
        if duplicates.len() == records.len() {
            let sequences = || {
                duplicates
                    .iter()
                    .filter_map(|one| Sequence::new(one.sequence))
            };
            if let (Some(first), Some(last)) = (sequences().min(), sequences().max()) {
                return Ok((Judgement::Duplicate { first, last }, duplicates));
            }
        }
        let passed = self
            .expectation(standing)
            .and_then(|()| self.count(window, &duplicates))
            .and_then(|()| self.follow(standing.next(), &duplicates));
        if let Err(unmet) = passed {
            self.noted.take_back(window);
            return Err(unmet);
        }
        if !duplicates.is_empty() {
            let mut known = duplicates.iter().map(|one| one.index).peekable();
            let mut index = 0;
            records.retain(|_| {
                let keep = known.next_if_eq(&index).is_none();
                index += 1;
                keep
            });
        }
        Ok((Judgement::Store, duplicates))
    }
}

impl Condition for Gate {
    fn judge(&mut self, standing: &mut Standing<'_>, records: &mut Vec<NewRecord>) -> Judgement {
        match self.decide(standing, records) {
            Ok((judgement, duplicates)) => {
                let all = judgement != Judgement::Store;
                if all {
                    self.room.give_back();
                }
                if !duplicates.is_empty() {
                    self.receipt.tell(Ok(Found { duplicates, all }));
                }
                judgement
            }
            Err(unmet) => {
                self.room.give_back();
                let judgement = unmet.judgement();
                self.receipt.tell(Err(unmet));
                judgement
            }
        }
    }

    fn settled(&mut self, first: Option<Sequence>) {
        if first.is_some() {
            return;
        }
        self.room.give_back();
        let Self {
            chains, changes, ..
        } = self;
        // Others than these have been read anew.
        chains
            .with(self.stand, |book| book.take_back(changes))
            .unwrap_or_default();
        if !self.marks.is_empty() {
            let mut memory = self.memory.lock();
            if let Some(window) = memory.window(self.stand.generation) {
                self.noted.take_back(window);
            }
        }
    }
}
