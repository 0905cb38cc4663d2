//! Reads a part of a reality's history for one answer: the newest of it, or in order, and what of
//! it cannot be read (MSG-08). And the hash of a part (MSG-10).
//!
//! Every read is bounded in records, in bytes and in how much is looked at; what is left is told by
//! where to go on. Blocks on the disk. Knows no caller: what may be seen was decided before.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::damage::Encounters;
use super::error::Error;
use super::filter::Filter;
use super::reality::Reality;
use super::scan::{Lost, Source};
use crate::log::{Found, Micros, Sequence};
use crate::proto::determinism::HistoryHash;
use crate::proto::view::RecordView;

/// Bytes of records that one answer holds: as text they take more.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Bytes that one answer costs at most to look at.
const LOOKED_BYTES_MAX: usize = 256 << 20;
/// Bytes to read from the log at a time.
const READ_BYTES: usize = 1 << 20;
/// Damaged or missing ranges that are told one by one.
const RANGES_MAX: usize = 100;
/// How far the first look for the newest goes back; each further one goes back four times as far.
const LOOK_BACK: u64 = 1 << 10;
/// The furthest that one look goes.
const LOOK_BACK_MAX: u64 = 1 << 18;

/// One end of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    /// A sequence.
    Sequence(Sequence),
    /// When the log took a record.
    Time(Micros),
}

/// What is asked for, both ends included; without an end, as far as there is anything.
#[derive(Clone, Debug)]
pub struct Window {
    /// Topics.
    pub filter: Filter,
    /// Where it begins.
    pub from: Option<Edge>,
    /// Where it ends.
    pub to: Option<Edge>,
}

/// Whether sequences that are missing are of interest, which costs reading every topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// Only what is damaged is told.
    Damage,
    /// Every sequence of the window must be there.
    Sequences,
}

/// A part of a history.
#[derive(Debug)]
pub struct Part {
    /// Encoded records, in the order that was asked for.
    pub records: Vec<Bytes>,
    /// Where to go on: in order, the first sequence not looked at; for the newest, the first that
    /// was. None = the window has no more.
    pub next: Option<Sequence>,
    /// Ranges that are damaged.
    pub lost: Vec<Lost>,
    /// Ranges without records, as far as they were looked for.
    pub missing: Vec<Lost>,
}

/// The hash of a part of a history.
#[derive(Debug)]
pub struct Hashed {
    /// Of the records that it covers.
    pub hash: HistoryHash,
    /// The sequences that were looked at.
    pub range: Range<Sequence>,
    /// Ranges that are damaged, so that the hash says nothing of them.
    pub lost: Vec<Lost>,
}

impl Reality {
    /// The sequences of a window that are on disk.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn window(&self, window: &Window) -> Result<Range<Sequence>, Error> {
        let log = self.log();
        let bounds = log.bounds();
        let start = match window.from {
            None => bounds.first,
            Some(Edge::Sequence(sequence)) => sequence.max(bounds.first),
            Some(Edge::Time(time)) => log.seek_time(time)?,
        };
        let end = match window.to {
            None => bounds.durable_end,
            Some(Edge::Sequence(sequence)) => sequence.next(),
            Some(Edge::Time(time)) => log.seek_time(Micros(time.0.saturating_add(1)))?,
        };
        let end = end.min(bounds.durable_end);
        Ok(start.min(end)..end)
    }

    /// The newest `limit` records of a window, newest first, all below `before` if that is given.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn newest(
        &self,
        window: &Window,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Part, Error> {
        let Range { start, end } = self.window(window)?;
        let mut end = before.map_or(end, |before| end.min(before));
        let mut walk = Walk::new(self, &window.filter, Check::Damage);
        // A look back that ends early would answer the older ones of what it looked at.
        walk.looked_max = usize::MAX;
        let (mut records, mut bytes, mut back) = (Vec::new(), 0, LOOK_BACK);
        while end > start {
            let from = Sequence::at_least_first(end.get().saturating_sub(back)).max(start);
            let (mut kept, mut kept_bytes) = (VecDeque::new(), 0);
            let mut cut = None;
            let room = limit - records.len();
            walk.over(from..end, |sequence, record| {
                kept_bytes += record.len();
                kept.push_back((sequence, record));
                while kept.len() > room || (bytes + kept_bytes > ANSWER_BYTES_MAX && kept.len() > 1)
                {
                    kept_bytes -= kept.pop_front().map_or(0, |(_, record)| record.len());
                    cut = kept.front().map(|(sequence, _)| *sequence);
                }
                true
            })?;
            bytes += kept_bytes;
            records.extend(kept.into_iter().rev().map(|(_, record)| record));
            end = cut.unwrap_or(from);
            let full = records.len() >= limit || bytes >= ANSWER_BYTES_MAX;
            if cut.is_some() || full || walk.looked >= LOOKED_BYTES_MAX {
                break;
            }
            back = (back * 4).min(LOOK_BACK_MAX);
        }
        // What stands before what is answered is for whoever goes on.
        walk.lost.retain(|lost| lost.last >= end);
        walk.lost.sort_by_key(|lost| lost.first);
        Ok(Part {
            records,
            next: (end > start).then_some(end),
            lost: walk.lost,
            missing: Vec::new(),
        })
    }

    /// Up to `limit` records of a window in order, from `from` on if that is given.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn onwards(
        &self,
        window: &Window,
        from: Option<Sequence>,
        limit: usize,
        check: Check,
    ) -> Result<Part, Error> {
        let Range { start, end } = self.window(window)?;
        let start = from.map_or(start, |from| start.max(from)).min(end);
        let mut walk = Walk::new(self, &window.filter, check);
        let (mut records, mut bytes) = (Vec::new(), 0);
        let next = walk.over(start..end, |_, record| {
            if records.len() >= limit || (bytes + record.len() > ANSWER_BYTES_MAX && bytes > 0) {
                return false;
            }
            bytes += record.len();
            records.push(record);
            true
        })?;
        Ok(Part {
            records,
            next: (next < end).then_some(next),
            lost: walk.lost,
            missing: walk.missing,
        })
    }

    /// The hash of a window, all of which is read.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn hash(&self, window: &Window) -> Result<Hashed, Error> {
        let range = self.window(window)?;
        let mut walk = Walk::new(self, &window.filter, Check::Damage);
        walk.looked_max = usize::MAX;
        let (mut hash, mut undecodable) = (HistoryHash::default(), Vec::new());
        walk.over(range.clone(), |sequence, record| {
            match RecordView::parse(&record) {
                Ok(view) => hash.add(&view),
                Err(error) => push(
                    &mut undecodable,
                    sequence..sequence.next(),
                    error.to_string(),
                ),
            }
            true
        })?;
        let mut lost = walk.lost;
        lost.extend(undecodable);
        Ok(Hashed { hash, range, lost })
    }
}

/// Goes over records in order, and keeps what it finds of damage.
struct Walk<'a> {
    source: Source,
    filter: &'a Filter,
    check: Check,
    encounters: &'a Encounters,
    lost: Vec<Lost>,
    missing: Vec<Lost>,
    looked: usize,
    looked_max: usize,
}

impl<'a> Walk<'a> {
    fn new(reality: &'a Reality, filter: &'a Filter, check: Check) -> Self {
        let log = reality.log();
        let source = match check {
            Check::Damage => Source::new(&log, filter),
            Check::Sequences => Source::Everything(log),
        };
        Self {
            source,
            filter,
            check,
            encounters: reality.encounters(),
            lost: Vec::new(),
            missing: Vec::new(),
            looked: 0,
            looked_max: LOOKED_BYTES_MAX,
        }
    }

    /// Shows the wanted records of `range` to `each` until that wants no more, or enough was looked
    /// at. Answers the first sequence that it has not got to.
    fn over(
        &mut self,
        range: Range<Sequence>,
        mut each: impl FnMut(Sequence, Bytes) -> bool,
    ) -> Result<Sequence, Error> {
        let mut at = range.start;
        while at < range.end && self.looked < self.looked_max {
            match self.source.read(at, range.end, READ_BYTES)? {
                Found::Records(chunk) => {
                    for record in chunk.iter() {
                        self.expect(at, record.sequence);
                        let wanted = self.filter.matches(record.topic);
                        if wanted && !each(record.sequence, Bytes::copy_from_slice(record.record)) {
                            return Ok(record.sequence);
                        }
                        at = record.sequence.next();
                    }
                    self.looked = self.looked.saturating_add(chunk.records.len());
                    at = chunk.last.next();
                }
                Found::Damaged { damage, next } => {
                    self.encounters.note(&damage, at, next);
                    let next = next.max(at.next()).min(range.end);
                    let reason = format!("damaged on disk: {}", damage.what);
                    push(&mut self.lost, at..next, reason);
                    at = next;
                }
                Found::End => {
                    self.expect(at, range.end);
                    at = range.end;
                }
            }
        }
        Ok(at)
    }

    fn expect(&mut self, at: Sequence, found: Sequence) {
        if self.check == Check::Sequences && found != at {
            let reason = if found > at {
                "no longer or never in the log"
            } else {
                "goes back"
            };
            push(
                &mut self.missing,
                at.min(found)..at.max(found),
                reason.to_owned(),
            );
        }
    }
}

/// Adds a range; one that follows another for the same reason extends it, and so do those beyond
/// what is told one by one.
fn push(ranges: &mut Vec<Lost>, range: Range<Sequence>, reason: String) {
    let last = range.end.previous().unwrap_or(range.start);
    let full = ranges.len() >= RANGES_MAX;
    if let Some(before) = ranges.last_mut() {
        let follows = before.last.next() == range.start && before.reason == reason;
        if follows || full {
            before.last = before.last.max(last);
            return;
        }
    }
    ranges.push(Lost {
        first: range.start,
        last,
        reason,
    });
}
