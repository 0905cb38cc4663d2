//! Causal questions over the records of one log (MSG-07): what happened before a record, what is
//! concurrent with it, and how one record led to another.
//!
//! *Before.* Record `a` happened before record `b` if `a` stands earlier in the log and `b`'s clock
//! knows all that `a`'s knows. Since the node writes its own entry, the sequence, into every clock,
//! the second implies the first in every log that one node has written, and this is the order of
//! the clocks alone. Producers that send no clock are ordered by the log: their records follow
//! each other. Two records, neither of which happened before the other, are concurrent.
//!
//! *Direct cause.* `a` is a direct cause of `b` if it happened before `b` and nothing happened
//! between the two: the direct causes of a record are the maximal elements of its past, and all
//! of them together are the transitive reduction of the order. A path is a chain of direct causes.
//!
//! *Sight.* Whoever asks may not see every topic. The question is answered over the records that
//! they may see, and the others that would belong to the answer are counted.
//!
//! *Cost.* One pass over the records around the one asked about, outwards in blocks, within
//! [`Limits`]; of each record only the clock is decoded, up to the entry that decides. Memory is
//! bounded by the answers and by one block. To find the direct causes among `n` answers takes
//! `n²/2` comparisons of clocks.
//!
//! Knows no reality, session or file: the records come from a [`History`], which the broker has
//! for a log that is open and `logdump` for one on disk.

#[cfg(test)]
mod model;

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

use crate::log::{RecordRef, Sequence};
use crate::proto::causal::{CausalAnswer, CausalRecord, Question, Stop};
use crate::proto::clock::Causality;
use crate::proto::json::micros;
use crate::proto::view::{self, RecordView, UncheckedClock, clock_of};

/// Sequences of the first block; the next ones double, so that a near answer is cheap.
const BLOCK_FIRST: u64 = 256;
/// Most sequences of a block: bounds what is remembered of it.
const BLOCK_MAX: u64 = 64 << 10;
/// Bytes of records beyond which a block ends.
const BLOCK_BYTES: u64 = 64 << 20;

/// The records of one log, in any range and as often as wanted.
pub trait History {
    /// Why it cannot be read.
    type Error;

    /// The sequences that it may hold.
    fn bounds(&self) -> Range<Sequence>;

    /// Shows what stands in `range`, which lies within the bounds, in ascending order, until
    /// `each` breaks.
    ///
    /// # Errors
    /// It cannot be read. Damage is none: it is shown.
    fn read(
        &mut self,
        range: Range<Sequence>,
        each: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
    ) -> Result<(), Self::Error>;
}

/// What a [`History`] shows.
#[derive(Clone, Debug)]
pub enum Seen<'a> {
    /// A record.
    Record(RecordRef<'a>),
    /// Sequences that cannot be read.
    Lost(Range<Sequence>),
}

/// How much a question may cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most records in the answer; at least one.
    pub answers: usize,
    /// Most records to look at beside those asked about.
    pub records: u64,
    /// Most bytes of them. More by one block may be read.
    pub bytes: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// The history cannot be read.
    #[error(transparent)]
    History(E),
    /// The record asked about is not there.
    #[error("there is no record {sequence}")]
    Missing {
        /// Its sequence.
        sequence: Sequence,
    },
    /// The record asked about is damaged.
    #[error("record {sequence} is damaged")]
    Damaged {
        /// Its sequence.
        sequence: Sequence,
    },
    /// The record asked about is not for the one who asks.
    #[error("record {sequence} is on a topic that this token may not subscribe to")]
    Hidden {
        /// Its sequence.
        sequence: Sequence,
    },
    /// Its clock cannot be decoded.
    #[error("the clock of record {sequence} cannot be decoded")]
    Clock {
        /// Its sequence.
        sequence: Sequence,
        /// What is wrong with it.
        source: view::Error,
    },
}

/// Asks a history.
pub struct Inquiry<'a, H> {
    history: &'a mut H,
    visible: &'a dyn Fn(&str) -> bool,
    answers: usize,
    records: u64,
    bytes: u64,
    scanned: u64,
}

impl<H: std::fmt::Debug> std::fmt::Debug for Inquiry<'_, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inquiry")
            .field("history", &self.history)
            .field("scanned", &self.scanned)
            .finish_non_exhaustive()
    }
}

impl<'a, H: History> Inquiry<'a, H> {
    /// On behalf of somebody who may see the topics that `visible` accepts.
    pub fn new(history: &'a mut H, visible: &'a dyn Fn(&str) -> bool, limits: Limits) -> Self {
        Self {
            history,
            visible,
            answers: limits.answers.max(1),
            records: limits.records,
            bytes: limits.bytes,
            scanned: 0,
        }
    }

    /// What happened before `of`, nearest first: the order of the log backwards, so that every
    /// record stands before its causes.
    ///
    /// # Errors
    /// There is no such record, it is not for the one who asks, the history cannot be read.
    pub fn past(mut self, of: Sequence) -> Result<CausalAnswer, Error<H::Error>> {
        let asked = self.event(of)?;
        let first = self.history.bounds().start;
        let mut side = Side::starting(of);
        let mut block = BLOCK_FIRST;
        let mut found = Vec::new();
        let stopped = loop {
            if side.edge <= first {
                break None;
            }
            if found.len() >= self.answers {
                break Some(Stop::Limit);
            }
            if self.is_spent() {
                break Some(Stop::Window);
            }
            let room = self.answers - found.len();
            let before = side.edge;
            let overflowed = self.look_back(&mut side, first, block, room, &mut |clock| {
                asked.known.knows(clock)
            })?;
            block = next_block(before.since(side.edge));
            found.extend(side.found.drain(..));
            if overflowed {
                side.edge = found
                    .last()
                    .map_or(side.edge, |event: &Event| event.sequence);
                break Some(Stop::Limit);
            }
        };
        let covered = side.edge..of.next();
        let hidden = side.hidden_in(&covered);
        let damaged = side.lost_in(&covered);
        Ok(self.answer(
            Question::Past,
            None,
            vec![asked],
            found,
            Extent {
                stopped,
                covered,
                hidden,
                damaged,
            },
        ))
    }

    /// What is concurrent with `of`, nearest in the log first.
    ///
    /// # Errors
    /// There is no such record, it is not for the one who asks, the history cannot be read.
    pub fn concurrent(mut self, of: Sequence) -> Result<CausalAnswer, Error<H::Error>> {
        let asked = self.event(of)?;
        let bounds = self.history.bounds();
        let (mut back, mut ahead) = (Side::starting(of), Side::starting(of.next()));
        let (mut back_block, mut ahead_block) = (BLOCK_FIRST, BLOCK_FIRST);
        let mut found: Vec<Event> = Vec::new();
        let mut matched = Vec::new();
        let (mut hidden, mut overflowed) = (0, false);
        loop {
            let reach = |side: &Side, done: bool| if done { u64::MAX } else { side.reach(of) };
            let back_reach = reach(&back, back.edge <= bounds.start);
            let ahead_reach = reach(&ahead, ahead.edge >= bounds.end);
            let safe = back_reach.min(ahead_reach);
            let spent = self.is_spent();
            // At the end all that was found is shown, however uneven the two sides are.
            let emit = if spent { u64::MAX } else { safe };
            while found.len() < self.answers {
                let next = nearer(&mut back, &mut ahead, of, emit);
                let Some(event) = next else { break };
                found.push(event);
            }
            if found.len() >= self.answers || safe == u64::MAX || spent {
                break;
            }
            hidden += back.settle_hidden(of, safe) + ahead.settle_hidden(of, safe);
            let room = self.answers - found.len();
            if back_reach <= ahead_reach {
                let before = back.edge;
                overflowed |=
                    self.look_back(&mut back, bounds.start, back_block, room, &mut |clock| {
                        asked.known.knows(clock).map(|knows| !knows)
                    })?;
                back_block = next_block(before.since(back.edge));
            } else {
                let before = ahead.edge;
                self.look_ahead(&mut ahead, bounds.end, ahead_block, room, &mut |clock| {
                    let knows = asked.known.is_known_to(clock, &mut matched)?;
                    Ok(!knows)
                })?;
                ahead_block = next_block(ahead.edge.since(before));
            }
        }
        let exhausted = back.edge <= bounds.start && ahead.edge >= bounds.end;
        let left = overflowed || !back.found.is_empty() || !ahead.found.is_empty();
        let mut covered = back.edge..ahead.edge;
        let stopped = if found.len() >= self.answers && (left || !exhausted) {
            if let Some(last) = found.last() {
                covered = within_distance(covered, of, last.sequence);
            }
            Some(Stop::Limit)
        } else if exhausted {
            None
        } else {
            Some(Stop::Window)
        };
        hidden += back.hidden_in(&covered) + ahead.hidden_in(&covered);
        let damaged = back.lost_in(&covered) + ahead.lost_in(&covered);
        Ok(self.answer(
            Question::Concurrent,
            None,
            vec![asked],
            found,
            Extent {
                stopped,
                covered,
                hidden,
                damaged,
            },
        ))
    }

    /// How `from` led to `to`: a chain of direct causes from the one to the other, both included,
    /// which takes at each step the effect that stands next in the log. Empty if `from` did not
    /// happen before `to`; the relation of the two says how they stand instead. If it is cut
    /// short, the rest is the path from its last record.
    ///
    /// One pass finds it. The first record behind `from` that knows it, and that `to` knows, has
    /// nothing between it and `from`: that would stand before it in the log and be the first.
    ///
    /// # Errors
    /// There is no such record, it is not for the one who asks, the history cannot be read.
    pub fn path(mut self, from: Sequence, to: Sequence) -> Result<CausalAnswer, Error<H::Error>> {
        let start = self.event(from)?;
        let goal = self.event(to)?;
        let relation = if from == to {
            Causality::Equal
        } else if from < to && start.known.within(&goal.known) {
            Causality::Before
        } else if to < from && goal.known.within(&start.known) {
            Causality::After
        } else {
            Causality::Concurrent
        };
        let whole = Extent {
            stopped: None,
            covered: from.min(to)..from.max(to).next(),
            hidden: 0,
            damaged: 0,
        };
        let (steps, extent) = match relation {
            Causality::Before => self.steps(&start, &goal)?,
            Causality::Equal => (vec![start.clone()], whole),
            Causality::After | Causality::Concurrent => (Vec::new(), whole),
        };
        let asked = vec![start, goal];
        Ok(self.answer(Question::Path, Some(relation), asked, steps, extent))
    }

    fn steps(
        &mut self,
        start: &Event,
        goal: &Event,
    ) -> Result<(Vec<Event>, Extent), Error<H::Error>> {
        let mut steps = vec![start.clone()];
        let mut extent = Extent {
            stopped: None,
            covered: start.sequence..goal.sequence.next(),
            hidden: 0,
            damaged: 0,
        };
        let mut matched = Vec::new();
        let (visible, answers) = (self.visible, self.answers);
        let (records, bytes, scanned) = (&mut self.records, &mut self.bytes, &mut self.scanned);
        let between = start.sequence.next()..goal.sequence;
        let read = self.history.read(between, &mut |seen| {
            let record = match seen {
                Seen::Lost(range) => {
                    extent.damaged += range.end.since(range.start);
                    return ControlFlow::Continue(());
                }
                Seen::Record(record) => record,
            };
            let stop = if steps.len() >= answers {
                Some(Stop::Limit)
            } else if *records == 0 || *bytes < record.field.len() as u64 {
                Some(Stop::Window)
            } else {
                None
            };
            if stop.is_some() {
                extent.stopped = stop;
                extent.covered.end = record.sequence;
                return ControlFlow::Break(());
            }
            *records -= 1;
            *bytes -= record.field.len() as u64;
            *scanned += 1;
            let current = steps.last().map_or(&start.known, |step| &step.known);
            let on_the_way = clock_of(record.record).and_then(|clock| {
                Ok(goal.known.knows(clock)? && current.is_known_to(clock, &mut matched)?)
            });
            match on_the_way {
                Ok(false) => {}
                Ok(true) if !visible(record.topic) => extent.hidden += 1,
                Ok(true) => match Event::of(&record) {
                    Ok(event) => steps.push(event),
                    Err(_undecodable) => extent.damaged += 1,
                },
                Err(_undecodable) => extent.damaged += 1,
            }
            ControlFlow::Continue(())
        });
        read.map_err(Error::History)?;
        if extent.stopped.is_none() && steps.len() >= answers {
            extent.stopped = Some(Stop::Limit);
            extent.covered.end = goal.sequence;
        }
        if extent.stopped.is_none() {
            steps.push(goal.clone());
        }
        Ok((steps, extent))
    }

    fn is_spent(&self) -> bool {
        self.records == 0 || self.bytes == 0
    }

    /// The record asked about.
    fn event(&mut self, of: Sequence) -> Result<Event, Error<H::Error>> {
        let bounds = self.history.bounds();
        let missing = Error::Missing { sequence: of };
        if !bounds.contains(&of) {
            return Err(missing);
        }
        let visible = self.visible;
        let mut found = Err(missing);
        let read = self.history.read(of..of.next(), &mut |seen| {
            found = match seen {
                Seen::Lost(_) => Err(Error::Damaged { sequence: of }),
                Seen::Record(record) if !visible(record.topic) => {
                    Err(Error::Hidden { sequence: of })
                }
                Seen::Record(record) => Event::of(&record).map_err(|source| Error::Clock {
                    sequence: of,
                    source,
                }),
            };
            ControlFlow::Break(())
        });
        read.map_err(Error::History)?;
        found
    }

    /// Looks at up to `block` sequences before the edge of `side`, which it moves. Keeps the last
    /// `room` of what is wanted; `true` if there was more.
    fn look_back(
        &mut self,
        side: &mut Side,
        first: Sequence,
        block: u64,
        room: usize,
        wanted: &mut Wanted<'_>,
    ) -> Result<bool, Error<H::Error>> {
        let end = side.edge;
        let count = block.min(self.records).min(end.since(first)).max(1);
        let mut start = Sequence::at_least_first(end.get() - count).max(first);
        let visible = self.visible;
        let (bytes, scanned) = (&mut self.bytes, &mut self.scanned);
        let mut look = Look::default();
        let mut kept: VecDeque<Event> = VecDeque::new();
        let (mut overflowed, mut out_of_bytes) = (false, false);
        let read = self.history.read(start..end, &mut |seen| {
            let record = match seen {
                Seen::Lost(range) => {
                    look.lost.push(range);
                    return ControlFlow::Continue(());
                }
                Seen::Record(record) => record,
            };
            let len = record.field.len() as u64;
            if *bytes < len {
                out_of_bytes = true;
                return ControlFlow::Break(());
            }
            *bytes -= len;
            *scanned += 1;
            if look.bytes + len > BLOCK_BYTES && look.bytes > 0 {
                // Too much for one block: what lies nearer is a block of its own, and what was
                // gathered comes again with the next one.
                look = Look::default();
                kept.clear();
                overflowed = false;
                start = record.sequence;
            }
            look.bytes += len;
            if let Some(event) = look.judge(&record, wanted, visible) {
                kept.push_back(event);
                if kept.len() > room {
                    kept.pop_front();
                    overflowed = true;
                }
            }
            ControlFlow::Continue(())
        });
        read.map_err(Error::History)?;
        if out_of_bytes {
            // Half a block would be the far half: it says nothing about what is near.
            self.bytes = 0;
            return Ok(false);
        }
        self.records = self.records.saturating_sub(end.since(start));
        side.edge = start;
        side.hidden.extend(look.hidden);
        side.lost.extend(look.lost);
        side.found.extend(kept.into_iter().rev());
        Ok(overflowed)
    }

    /// Looks at up to `block` sequences from the edge of `side` on, which it moves, or as far as
    /// there is `room` for what is wanted.
    fn look_ahead(
        &mut self,
        side: &mut Side,
        end: Sequence,
        block: u64,
        room: usize,
        wanted: &mut Wanted<'_>,
    ) -> Result<(), Error<H::Error>> {
        let start = side.edge;
        let mut end = start.advance(block.min(self.records).max(1)).min(end);
        let visible = self.visible;
        let (bytes, scanned) = (&mut self.bytes, &mut self.scanned);
        let mut look = Look::default();
        let mut kept = 0;
        let read = self.history.read(start..end, &mut |seen| {
            let record = match seen {
                Seen::Lost(range) => {
                    look.lost.push(range);
                    return ControlFlow::Continue(());
                }
                Seen::Record(record) => record,
            };
            let len = record.field.len() as u64;
            let full = kept == room || (look.bytes + len > BLOCK_BYTES && look.bytes > 0);
            if full || *bytes < len {
                if !full {
                    *bytes = 0;
                }
                end = record.sequence;
                return ControlFlow::Break(());
            }
            *bytes -= len;
            *scanned += 1;
            look.bytes += len;
            if let Some(event) = look.judge(&record, wanted, visible) {
                side.found.push_back(event);
                kept += 1;
            }
            ControlFlow::Continue(())
        });
        read.map_err(Error::History)?;
        self.records = self.records.saturating_sub(end.since(start));
        side.edge = end;
        side.hidden.extend(look.hidden);
        side.lost.extend(look.lost);
        Ok(())
    }

    fn answer(
        &self,
        question: Question,
        relation: Option<Causality>,
        asked: Vec<Event>,
        found: Vec<Event>,
        extent: Extent,
    ) -> CausalAnswer {
        let mut events = found;
        let count = events.len();
        if question == Question::Path {
            // An end that the path does not reach is nobody's effect in it.
            link(&mut events);
            events.extend(asked);
        } else {
            events.extend(asked);
            link(&mut events);
        }
        let asked = events.split_off(count);
        let Extent {
            stopped,
            covered,
            hidden,
            damaged,
        } = extent;
        CausalAnswer {
            question,
            relation,
            asked: asked.into_iter().map(|event| event.record).collect(),
            records: events.into_iter().map(|event| event.record).collect(),
            complete: stopped.is_none() && damaged == 0,
            stopped,
            first: covered.start.get(),
            last: covered.end.previous().unwrap_or(covered.start).get(),
            scanned: self.scanned,
            hidden,
            damaged,
        }
    }
}

type Wanted<'a> = dyn FnMut(UncheckedClock<'_>) -> Result<bool, view::Error> + 'a;

fn next_block(looked_at: u64) -> u64 {
    looked_at.saturating_mul(2).clamp(BLOCK_FIRST, BLOCK_MAX)
}

/// How far an answer holds.
struct Extent {
    stopped: Option<Stop>,
    covered: Range<Sequence>,
    hidden: u64,
    damaged: u64,
}

/// What is remembered of one block.
#[derive(Default)]
struct Look {
    bytes: u64,
    hidden: Vec<Sequence>,
    lost: Vec<Range<Sequence>>,
}

impl Look {
    /// The record as an event, if it is wanted and may be seen.
    fn judge(
        &mut self,
        record: &RecordRef<'_>,
        wanted: &mut Wanted<'_>,
        visible: &dyn Fn(&str) -> bool,
    ) -> Option<Event> {
        let event = match clock_of(record.record).and_then(wanted) {
            Ok(false) => return None,
            Ok(true) if !visible(record.topic) => {
                self.hidden.push(record.sequence);
                return None;
            }
            Ok(true) => Event::of(record),
            Err(error) => Err(error),
        };
        match event {
            Ok(event) => Some(event),
            Err(_undecodable) => {
                self.lost.push(record.sequence..record.sequence.next());
                None
            }
        }
    }
}

/// What was found on one side of the record asked about, outwards.
struct Side {
    /// Everything between this and the record asked about has been looked at: the first of it, or
    /// the end of it.
    edge: Sequence,
    /// Nearest first.
    found: VecDeque<Event>,
    hidden: Vec<Sequence>,
    lost: Vec<Range<Sequence>>,
}

impl Side {
    const fn starting(edge: Sequence) -> Self {
        Self {
            edge,
            found: VecDeque::new(),
            hidden: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// How far from `of` everything has been looked at.
    fn reach(&self, of: Sequence) -> u64 {
        if self.edge <= of {
            of.since(self.edge)
        } else {
            self.edge.since(of) - 1
        }
    }

    fn hidden_in(&self, covered: &Range<Sequence>) -> u64 {
        let within = self.hidden.iter().filter(|at| covered.contains(*at));
        within.count() as u64
    }

    fn lost_in(&self, covered: &Range<Sequence>) -> u64 {
        let within = |range: &Range<Sequence>| {
            let start = range.start.max(covered.start);
            range.end.min(covered.end).since(start)
        };
        self.lost.iter().map(within).sum()
    }

    /// Counts and forgets the hidden ones that are no further from `of` than `distance`.
    fn settle_hidden(&mut self, of: Sequence, distance: u64) -> u64 {
        let before = self.hidden.len();
        self.hidden.retain(|at| away(*at, of) > distance);
        (before - self.hidden.len()) as u64
    }
}

fn away(at: Sequence, of: Sequence) -> u64 {
    at.get().abs_diff(of.get())
}

/// Takes the nearest event of both sides, if it is not further than `distance`; of two as near,
/// the earlier.
fn nearer(back: &mut Side, ahead: &mut Side, of: Sequence, distance: u64) -> Option<Event> {
    let front = |side: &Side| {
        let at = away(side.found.front()?.sequence, of);
        (at <= distance).then_some(at)
    };
    let side = match (front(back), front(ahead)) {
        (Some(before), Some(behind)) if behind < before => ahead,
        (Some(_), _) => back,
        (None, Some(_)) => ahead,
        (None, None) => return None,
    };
    side.found.pop_front()
}

/// The part of `covered` that is no further from `of` than `last`, the last one that was shown.
fn within_distance(covered: Range<Sequence>, of: Sequence, last: Sequence) -> Range<Sequence> {
    let distance = away(last, of);
    let start = Sequence::at_least_first(of.get().saturating_sub(distance));
    // As far behind `of` as the last one lies before it, another may have been left out.
    let behind = if last < of { distance } else { distance + 1 };
    let end = of.advance(behind).max(of.next());
    covered.start.max(start)..covered.end.min(end)
}

/// A record with its clock, for as long as it is compared.
#[derive(Clone, Debug)]
struct Event {
    sequence: Sequence,
    known: Known,
    record: CausalRecord,
}

impl Event {
    fn of(record: &RecordRef<'_>) -> Result<Self, view::Error> {
        let known = Known::of(clock_of(record.record)?)?;
        let view = RecordView::parse(record.record).ok();
        let (id, producer) = view.map_or_else(Default::default, |view| {
            (view.id().into_owned(), view.producer().to_owned())
        });
        let shown = CausalRecord {
            sequence: record.sequence.get(),
            appended_at: micros(record.appended_at.0),
            topic: record.topic.to_owned(),
            id,
            producer,
            causes: Vec::new(),
        };
        Ok(Self {
            sequence: record.sequence,
            known,
            record: shown,
        })
    }
}

/// Fills in the direct causes of each event among all of them.
///
/// With one bit for each event that lies before another: a direct cause is what no nearer one has
/// in its own past.
fn link(events: &mut [Event]) {
    let mut order: Vec<usize> = (0..events.len()).collect();
    order.sort_unstable_by_key(|&at| events[at].sequence);
    let words = order.len().div_ceil(64);
    let mut pasts: Vec<Vec<u64>> = Vec::with_capacity(order.len());
    let mut covered = vec![0; words];
    for (rank, &at) in order.iter().enumerate() {
        let mut past = vec![0_u64; words];
        covered.fill(0);
        let mut causes = Vec::new();
        for earlier in (0..rank).rev() {
            let (word, bit) = (earlier / 64, 1 << (earlier % 64));
            if covered[word] & bit != 0 {
                past[word] |= bit;
                continue;
            }
            let cause = &events[order[earlier]];
            if cause.known.within(&events[at].known) {
                past[word] |= bit;
                causes.push(cause.record.sequence);
                for (covered, word) in covered.iter_mut().zip(&pasts[earlier]) {
                    *covered |= word;
                }
            }
        }
        pasts.push(past);
        events[at].record.causes = causes;
    }
}

/// What a clock knows, ready to be held against many others. An entry of 0 is none; a name that
/// stands twice, which no node writes, counts with its larger counter.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Known {
    /// By name.
    entries: Vec<(Box<str>, u64)>,
    /// Where the entry is that was encoded first: a node's own, in the clocks of its other records
    /// too.
    first: usize,
}

impl Known {
    fn of(clock: UncheckedClock<'_>) -> Result<Self, view::Error> {
        let mut entries: Vec<(Box<str>, u64)> = Vec::new();
        for entry in clock.entries() {
            let (name, counter) = entry?;
            if counter > 0 {
                entries.push((name.into(), counter));
            }
        }
        let first = entries.first().map(|(name, _)| name.clone());
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        entries.dedup_by(|later, kept| later.0 == kept.0);
        let first = first.and_then(|name| entries.binary_search_by(|e| e.0.cmp(&name)).ok());
        Ok(Self {
            entries,
            first: first.unwrap_or(0),
        })
    }

    /// Where `name` is, looked for at `guess` first: clocks of one system have the same names in
    /// the same order.
    #[inline]
    fn find(&self, name: &str, guess: usize) -> Option<usize> {
        if self
            .entries
            .get(guess)
            .is_some_and(|(known, _)| **known == *name)
        {
            return Some(guess);
        }
        let found = self
            .entries
            .binary_search_by(|(known, _)| (**known).cmp(name));
        found.ok()
    }

    /// Where the entry that is encoded after the one at `at` should be.
    const fn after(&self, at: usize, count: usize) -> usize {
        let next = if count == 0 { 0 } else { at + 1 };
        if next == self.first { next + 1 } else { next }
    }

    /// Whether all that `clock` knows is known here. Looks no further than the first entry that
    /// is not.
    fn knows(&self, clock: UncheckedClock<'_>) -> Result<bool, view::Error> {
        let mut guess = self.first;
        for (count, entry) in clock.entries().enumerate() {
            let (name, counter) = entry?;
            if counter == 0 {
                continue;
            }
            match self.find(name, guess) {
                Some(at) if counter <= self.entries[at].1 => guess = self.after(at, count),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether all that is known here, `clock` knows too. `matched` is memory to be used again.
    fn is_known_to(
        &self,
        clock: UncheckedClock<'_>,
        matched: &mut Vec<bool>,
    ) -> Result<bool, view::Error> {
        let mut missing = self.entries.len();
        matched.clear();
        matched.resize(missing, false);
        let mut guess = self.first;
        let mut entries = clock.entries().enumerate();
        while missing > 0 {
            let Some((count, entry)) = entries.next() else {
                return Ok(false);
            };
            let (name, counter) = entry?;
            let Some(at) = self.find(name, guess) else {
                continue;
            };
            if counter >= self.entries[at].1 && !matched[at] {
                matched[at] = true;
                missing -= 1;
            }
            guess = self.after(at, count);
        }
        Ok(true)
    }

    /// Whether all that is known here is known to `other`.
    fn within(&self, other: &Self) -> bool {
        let mut rest = other.entries.iter();
        self.entries.iter().all(|(name, counter)| {
            rest.find(|(known, _)| known >= name)
                .is_some_and(|(known, reached)| known == name && counter <= reached)
        })
    }
}
