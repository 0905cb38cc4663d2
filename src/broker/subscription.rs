//! A cursor over the records of one reality that a filter wants.
//!
//! Owns the position, the credit and the stop conditions. It has no queue: it reads the log, from
//! the tail in memory at once, or, when it has fallen behind, by a [`HistoryRead`] that its holder
//! runs where blocking is allowed, and comes back to the tail when it has caught up. Nothing is
//! lost on the way because both read the same sequences. Knows no frame beyond the records in it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use super::consumer::Lease;
use super::delta::Current;
use super::error::Error;
use super::fanout::{Interest, NOTHING, Subscriber, Visibility, Wanted};
use super::filter::{Filter, Traits};
use super::reality::Reality;
use super::scan::{History, HistoryRead, Lost, Piece, Scanned, Selection, Source};
use crate::log::{Bounds, Chunk, Micros, Sequence};

/// Where a subscription starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// The first record there is.
    Earliest,
    /// Only what comes from now on.
    Latest,
    /// This one, and an error if it is gone; the end if it is still to come.
    Sequence(Sequence),
    /// The first appended at or after this time. Needs a look at the disk.
    Time(Micros),
    /// What there is to know now: of each key its last record, on delta topics its last base and
    /// what came since; then what comes. Needs a look at the disk. Whoever keeps a cursor begins at
    /// the first record there is.
    Current,
}

/// Where a subscription ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stop {
    /// The last sequence wanted.
    pub sequence: Option<Sequence>,
    /// The last `appended_at` wanted.
    pub time: Option<Micros>,
    /// What is the end of the log when the subscription starts.
    pub at_end: bool,
}

/// How much may be delivered before more credit is given; `None` is not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credit {
    /// Records.
    pub records: Option<u64>,
    /// Bytes of encoded records. A record is delivered while any are left, and one that is larger
    /// leaves a debt, so that a small credit cannot block a large record for ever.
    pub bytes: Option<i64>,
}

/// What becomes of a subscription that was near the end of the log and has fallen too far behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnLag {
    /// It reads on from the log and loses nothing.
    #[default]
    CatchUp,
    /// When it goes on, it goes on nearer to the end, and is told what it has missed.
    DropOldest,
    /// It ends.
    End,
}

/// When a subscription is too far behind, and what then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LagRule {
    /// What then.
    pub on_lag: OnLag,
    /// Records between it and the end of the log, beyond which it is too far behind.
    pub records_max: u64,
}

impl LagRule {
    /// However far behind, it reads on.
    pub const NONE: Self = Self {
        on_lag: OnLag::CatchUp,
        records_max: u64::MAX,
    };
}

/// What a subscription is to be.
#[derive(Debug)]
pub struct Request {
    /// Topics wanted.
    pub filter: Filter,
    /// What else the records must have.
    pub traits: Traits,
    /// Where it starts, unless a stored cursor decides.
    pub start: Start,
    /// Where it ends.
    pub stop: Stop,
    /// Which records it may see.
    pub visibility: Visibility,
    /// What may be delivered at first.
    pub credit: Credit,
    /// When it is too far behind, and what then.
    pub lag: LagRule,
    /// The named consumer whose cursor it moves.
    pub lease: Option<Lease>,
    /// Who is told when there is something to read, and under which key.
    pub subscriber: Arc<dyn Subscriber>,
    /// The key.
    pub key: u64,
}

/// Where a new subscription stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Started {
    /// The first sequence that may be delivered.
    pub next: Sequence,
    /// How far the log reaches.
    pub bounds: Bounds,
    /// Whether a stored cursor decided.
    pub resumed: bool,
}

/// What one call of [`Subscription::fill`] came to.
#[derive(Debug)]
pub struct Filled {
    /// Records added.
    pub records: u64,
    /// A range that could not be, after them.
    pub lost: Option<Lost>,
    /// Everything below has been delivered or does not match.
    pub next: Sequence,
    /// This is all there is now, and the reader has not been told so since the last record.
    pub end_of_log: bool,
    /// What to do now.
    pub then: Then,
}

/// What the holder of a subscription does after a fill.
#[derive(Debug)]
pub enum Then {
    /// Ask again: there may be more.
    Again,
    /// Wait until the subscriber is told.
    Wait,
    /// Wait for credit.
    Credit,
    /// Run this where blocking is allowed and hand the result to [`Subscription::supply`].
    Read(HistoryRead),
    /// Such a read is under way.
    Reading,
    /// A stop condition is met.
    Finished,
    /// The log cannot be read.
    Failed(Error),
}

/// A cursor over one reality.
#[derive(Debug)]
pub struct Subscription {
    reality: Arc<Reality>,
    interest: Interest,
    lease: Option<Lease>,
    selection: Selection,
    credit: Credit,
    lag: LagRule,
    /// It has been near the end of the log: whoever begins far behind is catching up, not lagging.
    was_near: bool,
    /// Found and not delivered; everything up to `scanned` that is not in it does not match.
    ahead: VecDeque<Piece>,
    /// Ends of the reads of history that pieces in `ahead` are from: each keeps the memory of one
    /// read, however little of it matches.
    reads: VecDeque<Sequence>,
    /// Where the next read starts.
    scanned: Sequence,
    /// Everything below has been delivered or does not match.
    next: Sequence,
    /// No visible record from `scanned` up to here matches.
    pending: u64,
    reading: bool,
    /// What the last read of history was from, kept for the next.
    source: Option<Source>,
    /// Which opening of the log that was.
    source_of: u64,
    stopped: bool,
    told_end: bool,
    failure: Option<Error>,
}

/// What [`Subscription::look_at_lag`] finds.
enum Lag {
    None,
    Dropped(Lost),
    End { behind: u64 },
}

/// Why records are missing that a reader with [`OnLag::DropOldest`] was too slow for.
pub const DROPPED: &str = "dropped: the reader was too far behind";

/// Bytes that a read of history gathers.
const HISTORY_BYTES: usize = 1 << 20;

impl Subscription {
    /// Starts a subscription. Blocks on the disk if the start or the stop is a time.
    ///
    /// # Errors
    /// The start is no longer in the log; the consumer's cursor is beyond its end; the log cannot
    /// be read.
    pub fn start(reality: &Arc<Reality>, request: Request) -> Result<(Self, Started), Error> {
        let Request {
            filter,
            traits,
            start,
            stop,
            visibility,
            credit,
            lag,
            lease,
            subscriber,
            key,
        } = request;
        // A place in the log that may hold no matching record ends the subscription, so it has to
        // hear of every record.
        let wanted = if stop.sequence.is_some() || stop.time.is_some() {
            Wanted::All
        } else {
            Wanted::Matching
        };
        // First listen, then look: what is written in between is seen twice rather than never.
        if visibility == Visibility::WrittenToo {
            reality.show_written();
        }
        let fanout = reality.fanout();
        let interest = fanout.listen(&filter, wanted, visibility, subscriber, key);
        let bounds = reality.bounds();
        let end = visible_end(bounds, visibility);
        let resumed = lease.as_ref().and_then(Lease::cursor);
        let from = lease.as_ref().and_then(Lease::from);
        let set = resumed.is_none() && from.is_some();
        let current = if start == Start::Current && resumed.is_none() && from.is_none() {
            let declared = reality.declarations().now();
            let log = reality.log();
            Some(Arc::new(Current::of(&log, &declared, &filter, end)?))
        } else {
            None
        };
        let next = match resumed {
            // Going on from the end would pass over what is written there now.
            Some(done) if done >= bounds.durable_end => {
                return Err(Error::CursorBeyondEnd {
                    cursor: done,
                    last: bounds.durable_end.get() - 1,
                });
            }
            Some(done) => done.next().max(bounds.first),
            None => match from {
                Some(set) => set.max(bounds.first),
                None => match &current {
                    Some(current) => current.first(),
                    None => first_wanted(reality, start, bounds, end)?,
                },
            },
        };
        let at_end = stop.at_end.then_some(end);
        let by_sequence = stop.sequence.map(Sequence::next);
        let subscription = Self {
            reality: Arc::clone(reality),
            interest,
            lease,
            selection: Selection {
                filter,
                traits,
                expiry: Arc::clone(reality.expiry()),
                current,
                stop_before: at_end.into_iter().chain(by_sequence).min(),
                stop_time: stop.time,
            },
            credit,
            lag,
            was_near: end.get().saturating_sub(next.get()) <= lag.records_max,
            ahead: VecDeque::new(),
            reads: VecDeque::new(),
            scanned: next,
            next,
            pending: 0,
            reading: false,
            source: None,
            source_of: 0,
            stopped: false,
            told_end: false,
            failure: None,
        };
        let started = Started {
            next,
            bounds,
            resumed: resumed.is_some() || set,
        };
        Ok((subscription, started))
    }

    /// The reality it reads.
    #[must_use]
    pub const fn reality(&self) -> &Arc<Reality> {
        &self.reality
    }

    /// What it wants.
    #[must_use]
    pub const fn filter(&self) -> &Filter {
        &self.selection.filter
    }

    /// The named consumer whose cursor it moves.
    #[must_use]
    pub const fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Everything below has been delivered or does not match.
    #[must_use]
    pub const fn next(&self) -> Sequence {
        self.next
    }

    /// Adds credit; what is not counted stays so. Bytes stop at `bytes_max`.
    pub fn add_credit(&mut self, records: u64, bytes: u64, bytes_max: u64) {
        if let Some(left) = &mut self.credit.records {
            *left = left.saturating_add(records);
        }
        if let Some(left) = &mut self.credit.bytes {
            let limit = i64::try_from(bytes_max).unwrap_or(i64::MAX);
            let more = i64::try_from(bytes).unwrap_or(i64::MAX);
            *left = left.saturating_add(more).min(limit);
        }
    }

    /// Hands over what a [`HistoryRead`] of this subscription found.
    pub fn supply(&mut self, history: History) {
        self.reading = false;
        self.source = Some(history.source);
        match history.found {
            Ok(scanned) => {
                if !scanned.pieces.is_empty() {
                    self.reads.push_back(scanned.next);
                }
                self.absorb(scanned);
            }
            Err(error) => self.failure = Some(error.into()),
        }
    }

    /// The read of history has come to nothing, by a bug.
    pub fn supply_nothing(&mut self) {
        self.reading = false;
        self.failure = Some(Error::Internal);
    }

    /// The next read of history, if one will be needed, so that it can go on while what is there
    /// is being sent. Whoever does not take what is there gets no more: at most one read waits to
    /// be sent while another is under way.
    pub fn read_ahead(&mut self) -> Option<HistoryRead> {
        let end = self.end();
        let needed = !self.reading
            && !self.stopped
            && self.failure.is_none()
            && self.has_credit()
            && self.scanned < end
            && !self.reality.log().in_tail(self.scanned)
            && self.has_room_ahead();
        needed.then(|| self.history(end))
    }

    /// Whether what waits to be sent is little enough, and will leave credit for more.
    fn has_room_ahead(&mut self) -> bool {
        let front = self.ahead.front().map(|piece| match piece {
            Piece::Run { records, .. } => records.base,
            Piece::Lost(range) => range.first,
        });
        while let Some(end) = self.reads.front()
            && front.is_none_or(|front| *end <= front)
        {
            self.reads.pop_front();
        }
        let (mut records, mut bytes) = (0, 0);
        for piece in &self.ahead {
            if let Piece::Run {
                records: run,
                count,
            } = piece
            {
                records += count;
                bytes += run.records.len();
            }
        }
        let within = |left: i64| i64::try_from(bytes).is_ok_and(|bytes| bytes < left);
        self.reads.len() <= 1
            && self.credit.records.is_none_or(|left| records < left)
            && self.credit.bytes.is_none_or(within)
    }

    /// Appends encoded `Deliver.records` fields to `out` until it would have more than `bytes_max`
    /// (one record is always taken), the
    /// credit is used up, or there is nothing more to be had without blocking.
    pub fn fill(&mut self, out: &mut BytesMut, bytes_max: usize) -> Filled {
        self.fill_after(0, out, bytes_max)
    }

    /// The same, into what holds `before` records already.
    fn fill_after(&mut self, before: u64, out: &mut BytesMut, bytes_max: usize) -> Filled {
        if let Err(deleted) = self.reality.check_there() {
            return Filled {
                records: 0,
                lost: None,
                next: self.next,
                end_of_log: false,
                then: Then::Failed(deleted),
            };
        }
        if self.lease.as_ref().is_some_and(Lease::is_paused) {
            // Its holder is told when it goes on.
            return Filled {
                records: 0,
                lost: None,
                next: self.next,
                end_of_log: false,
                then: Then::Wait,
            };
        }
        match self.look_at_lag() {
            Lag::None => {}
            Lag::Dropped(range) => {
                return Filled {
                    records: 0,
                    lost: Some(range),
                    next: self.next,
                    end_of_log: false,
                    then: Then::Again,
                };
            }
            Lag::End { behind } => {
                let limit = self.lag.records_max;
                return Filled {
                    records: 0,
                    lost: None,
                    next: self.next,
                    end_of_log: false,
                    then: Then::Failed(Error::SlowConsumer { behind, limit }),
                };
            }
        }
        let mut records = before;
        let mut lost = None;
        let then = loop {
            if let Some(then) = self.drain(out, bytes_max, &mut records, &mut lost) {
                break then;
            }
            self.next = self.scanned;
            if let Some(then) = self.look(bytes_max.saturating_sub(out.len())) {
                break then;
            }
        };
        records -= before;
        let caught_up = matches!(then, Then::Wait | Then::Finished);
        let end_of_log = caught_up && (records > 0 || !self.told_end);
        self.told_end = caught_up || (self.told_end && records == 0);
        Filled {
            records,
            lost,
            next: self.next,
            end_of_log,
            then,
        }
    }

    /// Holds how far it is behind against its rule.
    fn look_at_lag(&mut self) -> Lag {
        let LagRule {
            on_lag,
            records_max,
        } = self.lag;
        // A read under way would come back with what has been dropped. And whoever takes nothing
        // now is told once, when it does: nothing is held for it meanwhile.
        let later = on_lag == OnLag::DropOldest && (self.reading || !self.has_credit());
        if on_lag == OnLag::CatchUp || later {
            return Lag::None;
        }
        let end = self.end();
        let behind = end.get().saturating_sub(self.first_missing(end));
        if behind <= records_max {
            self.was_near = true;
            return Lag::None;
        }
        match on_lag {
            OnLag::DropOldest if self.was_near => {
                // Not to the brink, where each further record would drop another.
                let first = self.next;
                let after = Sequence::at_least_first(end.get() - records_max / 2);
                self.ahead.clear();
                self.reads.clear();
                self.scanned = after;
                self.next = after;
                self.stopped = false;
                Lag::Dropped(Lost {
                    first,
                    last: after.previous().unwrap_or(first).max(first),
                    reason: DROPPED.to_owned(),
                })
            }
            OnLag::End if self.was_near => Lag::End { behind },
            OnLag::CatchUp | OnLag::DropOldest | OnLag::End => Lag::None,
        }
    }

    /// The first record that it may want and has not been sent, or `end`: what does not match puts
    /// nobody behind.
    fn first_missing(&mut self, end: Sequence) -> u64 {
        let next = self.next.get();
        if self.interest.wanted() == Wanted::All || !self.ahead.is_empty() {
            return next;
        }
        self.pending = self.pending.min(self.interest.take());
        next.max(self.pending.min(end.get()))
    }

    /// Copies what has been found; `None` when all of it is.
    fn drain(
        &mut self,
        out: &mut BytesMut,
        bytes_max: usize,
        records: &mut u64,
        lost: &mut Option<Lost>,
    ) -> Option<Then> {
        while let Some(piece) = self.ahead.pop_front() {
            let (run, count) = match piece {
                Piece::Run { records, count } => (records, count),
                Piece::Lost(range) => {
                    self.next = range.last.next();
                    *lost = Some(range);
                    return Some(Then::Again);
                }
            };
            if !self.has_credit() {
                self.put_back(run, count);
                return Some(Then::Credit);
            }
            let room = bytes_max.saturating_sub(out.len());
            let first = run.iter().next().map_or(0, |record| record.field.len());
            if *records > 0 && first > room {
                self.ahead.push_front(Piece::Run {
                    records: run,
                    count,
                });
                return Some(Then::Again);
            }
            if run.records.len() <= room && self.covers(count, run.records.len()) {
                out.extend_from_slice(&run.records);
                self.spend(count, run.records.len());
                *records += count;
                self.next = run.last.next();
            } else {
                self.copy_part(&run, count, room, out, records);
            }
        }
        None
    }

    /// Keeps a run for later, or forgets what has been found if it can be found again: holding it
    /// would pin memory for a reader that may never come back.
    fn put_back(&mut self, run: Chunk, count: u64) {
        if self.reading {
            let records = run;
            self.ahead.push_front(Piece::Run { records, count });
        } else {
            self.ahead.clear();
            self.reads.clear();
            self.scanned = run.base;
            self.stopped = false;
        }
    }

    /// Copies the first records of a run, at least one, and puts the rest back.
    fn copy_part(
        &mut self,
        run: &Chunk,
        count: u64,
        room: usize,
        out: &mut BytesMut,
        records: &mut u64,
    ) {
        let mut bytes = 0;
        let mut taken = 0;
        let mut rest = None;
        for record in run.iter() {
            let full = taken > 0 && bytes + record.field.len() > room;
            if full || !self.has_credit() {
                rest = Some(record.sequence);
                break;
            }
            self.spend(1, record.field.len());
            bytes += record.field.len();
            taken += 1;
            self.next = record.sequence.next();
        }
        out.extend_from_slice(&run.records[..bytes]);
        *records += taken;
        if let Some(base) = rest {
            self.ahead.push_front(Piece::Run {
                records: Chunk {
                    base,
                    last: run.last,
                    records: run.records.slice(bytes..),
                },
                count: count - taken,
            });
        }
    }

    /// Finds more, from the tail; `None` when there is something to drain or to look at again.
    fn look(&mut self, bytes_max: usize) -> Option<Then> {
        if let Some(failure) = self.failure.take() {
            return Some(Then::Failed(failure));
        }
        if self.reading {
            return Some(Then::Reading);
        }
        let end = self.end();
        if self.waits_for_credit_alone(end) {
            return Some(Then::Credit);
        }
        // The mark first, then the end: a match below the end is then either in the mark or still
        // to be marked.
        self.pending = self.pending.min(self.interest.take());
        let end = self.end();
        let limit = self.selection.stop_before;
        if self.stopped || limit.is_some_and(|limit| self.scanned >= limit) {
            return Some(Then::Finished);
        }
        if self.interest.wanted() == Wanted::Matching && self.pending != NOTHING {
            let skip = Sequence::at_least_first(self.pending).min(end);
            self.scanned = self.scanned.max(skip);
            self.next = self.scanned;
        }
        let nothing = self.interest.wanted() == Wanted::Matching && self.pending == NOTHING;
        if self.scanned >= end || (nothing && limit.is_none()) {
            return Some(self.caught_up(end));
        }
        if !self.has_credit() {
            return Some(Then::Credit);
        }
        let log = self.reality.log();
        if !log.in_tail(self.scanned) {
            return Some(Then::Read(self.history(end)));
        }
        if bytes_max == 0 {
            return Some(Then::Again);
        }
        let mut scanned = Scanned::at(self.scanned);
        match log.read(self.scanned, end, bytes_max) {
            Ok(found) => {
                scanned.take(found, end, &self.selection, self.reality.encounters());
                self.absorb(scanned);
                None
            }
            Err(error) => Some(Then::Failed(error.into())),
        }
    }

    /// Whether nothing but credit is missing. The mark is then left where it is, so that a reader
    /// who takes nothing is not told of every record that comes.
    fn waits_for_credit_alone(&self, end: Sequence) -> bool {
        self.lag.on_lag != OnLag::End
            && self.interest.wanted() == Wanted::Matching
            && self.pending < end.get()
            && self.scanned < end
            && !self.stopped
            && !self.has_credit()
    }

    fn caught_up(&mut self, end: Sequence) -> Then {
        if self.scanned >= end {
            self.pending = NOTHING;
        }
        let limit = self.selection.stop_before;
        let past = self
            .selection
            .stop_time
            .is_some_and(|stop| stop < self.reality.now());
        if past || limit.is_some_and(|limit| self.scanned >= limit) {
            Then::Finished
        } else {
            Then::Wait
        }
    }

    fn history(&mut self, end: Sequence) -> HistoryRead {
        self.reading = true;
        let (opened, log) = self.reality.opened_log();
        // What reads a log that has been reopened since does not see it grow.
        let kept = self.source.take().filter(|_| self.source_of == opened);
        let source = kept.unwrap_or_else(|| Source::new(&log, &self.selection.filter));
        self.source_of = opened;
        HistoryRead {
            source,
            selection: self.selection.clone(),
            from: self.scanned,
            end,
            bytes_max: HISTORY_BYTES,
            encounters: Arc::clone(self.reality.encounters()),
        }
    }

    fn absorb(&mut self, found: Scanned) {
        assert!(
            found.next >= self.scanned,
            "a read went back from {} to {}",
            self.scanned,
            found.next
        );
        self.ahead.extend(found.pieces);
        let current = &mut self.selection.current;
        if current
            .as_ref()
            .is_some_and(|current| current.is_over(self.next))
        {
            *current = None;
        }
        self.scanned = found.next;
        self.stopped = found.stopped;
    }

    /// Exclusive end of what may be delivered now.
    fn end(&self) -> Sequence {
        let end = visible_end(self.reality.bounds(), self.interest.visibility());
        self.selection
            .stop_before
            .map_or(end, |limit| limit.min(end))
    }

    fn has_credit(&self) -> bool {
        self.credit.records.is_none_or(|left| left > 0)
            && self.credit.bytes.is_none_or(|left| left > 0)
    }

    fn covers(&self, records: u64, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.credit.records.is_none_or(|left| left >= records)
            && self.credit.bytes.is_none_or(|left| left >= bytes)
    }

    fn spend(&mut self, records: u64, bytes: usize) {
        if let Some(left) = &mut self.credit.records {
            *left = left.saturating_sub(records);
        }
        if let Some(left) = &mut self.credit.bytes {
            *left = left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

fn visible_end(bounds: Bounds, visibility: Visibility) -> Sequence {
    match visibility {
        Visibility::Durable => bounds.durable_end,
        Visibility::WrittenToo => bounds.written_end,
    }
}

/// The first record that whoever starts there wants of what is on disk. Blocks on the disk if the
/// start is a time.
pub(super) fn first_of(reality: &Reality, start: Start) -> Result<Sequence, Error> {
    let bounds = reality.bounds();
    first_wanted(reality, start, bounds, bounds.durable_end)
}

fn first_wanted(
    reality: &Reality,
    start: Start,
    bounds: Bounds,
    end: Sequence,
) -> Result<Sequence, Error> {
    match start {
        Start::Earliest | Start::Current => Ok(bounds.first),
        Start::Latest => Ok(end),
        Start::Sequence(asked) if asked < bounds.first => Err(Error::OutOfRange {
            asked,
            first: bounds.first,
        }),
        Start::Sequence(asked) => Ok(asked.min(end)),
        Start::Time(time) => Ok(reality.log().seek_time(time)?),
    }
}

/// Reads up to `records`, and not more than until `out` has `bytes` (but at least one), from `from` on, without a subscription. Blocks on the
/// disk.
///
/// # Errors
/// `from` is no longer in the log; the log cannot be read.
pub fn fetch(
    reality: &Arc<Reality>,
    filter: Filter,
    traits: Traits,
    from: Sequence,
    records: u64,
    bytes: usize,
    out: &mut BytesMut,
) -> Result<Filled, Error> {
    #[derive(Debug)]
    struct Nobody;
    impl Subscriber for Nobody {
        fn ready(&self, _key: u64) {}
    }
    let request = Request {
        filter,
        traits,
        start: Start::Sequence(from),
        stop: Stop {
            at_end: true,
            ..Stop::default()
        },
        visibility: Visibility::Durable,
        credit: Credit {
            records: Some(records),
            bytes: None,
        },
        lag: LagRule::NONE,
        lease: None,
        subscriber: Arc::new(Nobody),
        key: 0,
    };
    let (mut subscription, _) = Subscription::start(reality, request)?;
    let mut total = 0;
    loop {
        let filled = subscription.fill_after(total, out, bytes);
        let full = filled.records == 0;
        total += filled.records;
        let done = Filled {
            records: total,
            ..filled
        };
        match done.then {
            Then::Read(read) => subscription.supply(read.run()),
            Then::Failed(error) => return Err(error),
            Then::Again if done.lost.is_none() && !full && out.len() < bytes => {}
            Then::Again | Then::Wait | Then::Credit | Then::Reading | Then::Finished => {
                return Ok(done);
            }
        }
    }
}
