//! Removes what is too old or too much, by topic.
//!
//! Owns the arithmetic: which records of a topic are past its limits (its *cutoff*, from the
//! counts in the indexes and at most one segment looked into per topic), which of them somebody
//! still holds, and where removing them is worth a rewrite. Which topic has which limits, and who
//! holds what, is passed in.
//!
//! Age is measured by the log's clock against `appended_at`, which never decreases. A wall clock
//! that jumps back only delays removal; one that jumps forward makes records look old, and what a
//! pass has removed by then stays removed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError};

use super::Log;
use super::chunk::Found;
use super::error::Error;
use super::index::{Index, Place};
use super::pass::{Ended, Outcome, Pass, Rewrites, as_before, worth_until};
use super::position::{Micros, Sequence};
use super::reader::{Segment, SegmentRead};
use super::rewrite::Throttle;
use super::state::State;
use super::topic_reader::Source;

/// What is kept of a topic. `None` is no limit; records beyond any of them go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Records appended longer ago than this, in microseconds, go.
    pub age_micros: Option<u64>,
    /// The newest records stay as long as they take no more bytes than this, encoded.
    pub bytes: Option<u64>,
    /// So many of the newest records stay.
    pub records: Option<u64>,
}

impl Limits {
    const fn is_none(&self) -> bool {
        self.age_micros.is_none() && self.bytes.is_none() && self.records.is_none()
    }
}

/// Somebody who still needs records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// For people.
    pub name: String,
    /// Everything from here on is held.
    pub needs_from: Sequence,
}

/// The rules of one pass.
pub struct Retention<'a> {
    /// The limits of a topic.
    pub limits: &'a dyn Fn(&str) -> Limits,
    /// Who holds records back.
    pub holders: &'a [Holder],
    /// All holders together hold back so many bytes of records at most; the oldest go first.
    pub hold_bytes_max: u64,
    /// Segments whose records do not all go are written again as far as so much of them, in
    /// percent, is to go.
    pub dead_percent: u8,
    /// Records past the age of their topic for this long go even where they are few.
    pub overdue_micros: u64,
    /// Level for segments that are compressed already.
    pub compression_level: i32,
}

impl fmt::Debug for Retention<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retention")
            .field("holders", &self.holders)
            .field("hold_bytes_max", &self.hold_bytes_max)
            .field("dead_percent", &self.dead_percent)
            .field("overdue_micros", &self.overdue_micros)
            .finish_non_exhaustive()
    }
}

/// What one holder holds back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The holder.
    pub name: String,
    /// Records from here on are held; later than asked for if that is too much.
    pub from: Sequence,
    /// Where the holder stands.
    pub needs_from: Sequence,
    /// Bytes of records that would go without it.
    pub bytes: u64,
}

impl Held {
    /// Whether the holder was denied a part of what it needs.
    #[must_use]
    pub fn is_cut_short(&self) -> bool {
        self.from > self.needs_from
    }
}

/// What a pass of retention did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RetentionReport {
    /// Whole segments that were removed from the front.
    pub removed_segments: usize,
    /// Records in them.
    pub removed_records: u64,
    /// Bytes of their files.
    pub removed_bytes: u64,
    /// Segments that were written again.
    pub rewrites: Rewrites,
    /// Bytes of records past their limits that share segments with too many that are not.
    pub dead_bytes_left: u64,
    /// What is held back by whom.
    pub held: Vec<Held>,
}

impl RetentionReport {
    /// Bytes of files that are no longer needed.
    #[must_use]
    pub const fn bytes_reclaimed(&self) -> u64 {
        self.removed_bytes + self.rewrites.bytes_reclaimed()
    }
}

/// What an index says of one topic.
#[derive(Clone, Debug)]
struct Stat {
    topic: Box<str>,
    records: u64,
    bytes: u64,
    first: Sequence,
    last: Sequence,
}

/// Where a topic's records end to be kept.
#[derive(Debug)]
struct Cut {
    limits: Limits,
    /// What the newest records have left of the limits.
    records_left: u64,
    bytes_left: u64,
    /// The limit of bytes or records is reached.
    reached: bool,
    /// Records below are past a limit.
    cutoff: Sequence,
    /// Records below are past their age for long.
    overdue_end: Sequence,
}

/// What is to go from one segment.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    records: u64,
    bytes: u64,
    dead_records: u64,
    dead_bytes: u64,
    overdue: bool,
}

/// One pass, while it finds out.
struct Survey<'a> {
    state: &'a Arc<State>,
    segments: Vec<Arc<Segment>>,
    /// Nothing from here on is counted.
    durable_end: Sequence,
    rules: &'a Retention<'a>,
    cuts: HashMap<Box<str>, Cut>,
    /// First records that are young enough, by age.
    ages: HashMap<u64, Sequence>,
    now: Micros,
}

impl Log {
    /// Removes the records that are past the limits of their topics: whole segments from the front
    /// where all their records are, by rewriting where that is worth it. Neither appends nor
    /// readers wait for it; the segment being written is never touched.
    ///
    /// # Errors
    /// I/O errors; what was removed until then stays removed.
    pub fn retain(
        &self,
        retention: &Retention<'_>,
        throttle: &dyn Throttle,
    ) -> Result<RetentionReport, Error> {
        let state = self.state();
        let mut report = RetentionReport::default();
        let pass = match Pass::begin(state, throttle) {
            Ok(pass) => pass,
            Err(reason) => {
                report.rewrites = Rewrites::refused(reason);
                return Ok(report);
            }
        };
        let segments = state.segments();
        let mut survey = Survey {
            state,
            segments,
            durable_end: state.durable_end(),
            rules: retention,
            cuts: HashMap::new(),
            ages: HashMap::new(),
            now: state.clock.now(),
        };
        survey.find_cuts(self)?;
        let hold = survey.hold(&mut report)?;
        let shares = survey.shares(hold)?;
        let front = front_of(&shares);
        for share in &shares[..front] {
            report.removed_records += share.records;
        }
        if !pass.brake.goes_on() {
            report.rewrites.ended = Ended::Stopped;
            return Ok(report);
        }
        if let Some(first_left) = survey.segments.get(front).filter(|_| front > 0) {
            (report.removed_segments, report.removed_bytes) = state.trim_to(first_left.base)?;
        }
        let until = shares.iter().rposition(|share| share.overdue);
        let weights: Vec<_> = shares[front..]
            .iter()
            .map(|share| (share.dead_bytes, share.bytes))
            .collect();
        let worth = front + worth_until(&weights, retention.dead_percent);
        let until = worth.max(until.map_or(0, |at| at + 1));
        for (at, share) in shares.iter().enumerate().skip(front) {
            let goes = at < until && report.rewrites.ended == Ended::Complete;
            if share.dead_records > 0 && !(goes && survey.rewrite(&pass, at, hold, &mut report)?) {
                report.dead_bytes_left += share.dead_bytes;
            }
        }
        Ok(report)
    }
}

/// Segments at the front of which nothing stays. Empty ones go with what goes before or after
/// them, not by themselves: sequences that compaction has emptied can still be asked for.
fn front_of(shares: &[Share]) -> usize {
    let dead = |share: &&Share| share.dead_records == share.records;
    let front = shares.iter().take_while(dead).count();
    if shares[..front].iter().any(|share| share.records > 0) {
        front
    } else {
        0
    }
}

impl Survey<'_> {
    /// All sealed segments.
    fn sealed(&self) -> &[Arc<Segment>] {
        self.segments
            .split_last()
            .map_or(&[][..], |(_, sealed)| sealed)
    }

    /// From the newest segment to the oldest, until every limit is reached.
    fn find_cuts(&mut self, log: &Log) -> Result<(), Error> {
        for at in (0..self.segments.len()).rev() {
            let segment = Arc::clone(&self.segments[at]);
            let mut stats = self.stats(&segment, &|_| true)?;
            let active = at + 1 == self.segments.len();
            if active {
                self.leave_out_unflushed(&segment, &mut stats)?;
            }
            for stat in stats {
                if !self.cuts.contains_key(&stat.topic) {
                    let cut = self.new_cut(log, &stat.topic)?;
                    self.cuts.insert(stat.topic.clone(), cut);
                }
                self.count(&segment, &stat)?;
            }
        }
        self.cuts.retain(|_, cut| !cut.limits.is_none());
        Ok(())
    }

    fn stats(
        &self,
        segment: &Arc<Segment>,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Stat>, Error> {
        let look = |index: &Index| {
            let topics = index.topics.iter().filter(|(name, _)| wanted(name));
            topics
                .map(|(name, topic)| Stat {
                    topic: name.clone(),
                    records: topic.records,
                    bytes: topic.bytes,
                    first: topic.first,
                    last: topic.last,
                })
                .collect()
        };
        let stats = segment.with_index(&*self.state.storage, look)?;
        self.state.keep_index(segment);
        Ok(stats)
    }

    /// What a power cut may still take does not count as kept.
    fn leave_out_unflushed(&self, active: &Segment, stats: &mut [Stat]) -> Result<(), Error> {
        let mut at = self.durable_end;
        let end = active.with_index(&*self.state.storage, |index| index.end)?;
        while at < end {
            let read = active.read(&*self.state.storage, at, end, 1 << 20)?;
            let SegmentRead::Found(Found::Records(chunk)) = read else {
                break;
            };
            for record in chunk.iter() {
                if let Some(stat) = stats.iter_mut().find(|stat| *stat.topic == *record.topic) {
                    stat.records = stat.records.saturating_sub(1);
                    stat.bytes = stat.bytes.saturating_sub(record.field.len() as u64);
                }
            }
            at = chunk.last.next();
        }
        Ok(())
    }

    fn new_cut(&mut self, log: &Log, topic: &str) -> Result<Cut, Error> {
        let limits = (self.rules.limits)(topic);
        let mut cut = Cut {
            limits,
            records_left: limits.records.unwrap_or(u64::MAX),
            bytes_left: limits.bytes.unwrap_or(u64::MAX),
            reached: limits.records.is_none() && limits.bytes.is_none(),
            cutoff: Sequence::FIRST,
            overdue_end: Sequence::FIRST,
        };
        if let Some(age) = limits.age_micros {
            cut.cutoff = self.first_younger_than(log, age)?;
            let overdue = age.saturating_add(self.rules.overdue_micros);
            cut.overdue_end = self.first_younger_than(log, overdue)?;
        }
        Ok(cut)
    }

    fn first_younger_than(&mut self, log: &Log, age_micros: u64) -> Result<Sequence, Error> {
        if let Some(&found) = self.ages.get(&age_micros) {
            return Ok(found);
        }
        let found = match self.now.0.checked_sub(age_micros) {
            Some(since) => log.seek_time(Micros(since))?,
            None => Sequence::FIRST,
        };
        let found = found.min(self.durable_end);
        self.ages.insert(age_micros, found);
        Ok(found)
    }

    /// Takes the records of `stat` off the limits of their topic.
    fn count(&mut self, segment: &Arc<Segment>, stat: &Stat) -> Result<(), Error> {
        let Some(cut) = self.cuts.get(&stat.topic) else {
            return Ok(());
        };
        if cut.reached || stat.records == 0 {
            return Ok(());
        }
        let fits = stat.records <= cut.records_left && stat.bytes <= cut.bytes_left;
        let (mut records, mut bytes) = (cut.records_left, cut.bytes_left);
        let mut reached = None;
        if fits {
            records -= stat.records;
            bytes -= stat.bytes;
        } else {
            let durable_end = self.durable_end;
            for_each_backwards(
                segment,
                &*self.state.storage,
                &stat.topic,
                |sequence, len| {
                    if sequence >= durable_end {
                        return true;
                    }
                    if records == 0 || len > bytes {
                        reached = Some(sequence.next());
                        return false;
                    }
                    records -= 1;
                    bytes -= len;
                    true
                },
            )?;
        }
        if let Some(cut) = self.cuts.get_mut(&stat.topic) {
            (cut.records_left, cut.bytes_left) = (records, bytes);
            if let Some(cutoff) = reached {
                cut.cutoff = cut.cutoff.max(cutoff);
                cut.reached = true;
            }
        }
        Ok(())
    }

    /// From which sequence on nothing is removed, and who sees to that.
    fn hold(&self, report: &mut RetentionReport) -> Result<Sequence, Error> {
        let last_cutoff = self.cuts.values().map(|cut| cut.cutoff).max();
        let all = last_cutoff.unwrap_or(Sequence::FIRST);
        let holders = self.rules.holders.iter();
        let holders: Vec<_> = holders.filter(|h| h.needs_from < all).collect();
        let Some(asked) = holders.iter().map(|holder| holder.needs_from).min() else {
            return Ok(Sequence::MAX);
        };
        let mut bytes_by_holder = vec![0_u64; holders.len()];
        let mut held_bytes = 0_u64;
        let mut from = asked;
        for (at, segment) in self.sealed().iter().enumerate().rev() {
            let end = self.segments[at + 1].base;
            if end <= asked {
                break;
            }
            let stats = self.stats(segment, &|topic| self.cuts.contains_key(topic))?;
            let past_limits = |from| self.past_limits(segment, &stats, from);
            let here = past_limits(asked)?;
            if held_bytes.saturating_add(here) > self.rules.hold_bytes_max {
                from = end;
                break;
            }
            held_bytes += here;
            for (holder, bytes) in holders.iter().zip(&mut bytes_by_holder) {
                *bytes += if holder.needs_from <= asked.max(segment.base) {
                    here
                } else {
                    past_limits(holder.needs_from)?
                };
            }
        }
        let held = holders.iter().zip(bytes_by_holder);
        let held = held.map(|(holder, bytes)| Held {
            name: holder.name.clone(),
            from: holder.needs_from.max(from),
            needs_from: holder.needs_from,
            bytes,
        });
        report.held = held
            .filter(|held| held.bytes > 0 || held.is_cut_short())
            .collect();
        Ok(from)
    }

    /// Bytes of records from `from` on that are past their limits.
    fn past_limits(
        &self,
        segment: &Arc<Segment>,
        stats: &[Stat],
        from: Sequence,
    ) -> Result<u64, Error> {
        let mut bytes = 0;
        for stat in stats {
            if let Some(cut) = self.cuts.get(&stat.topic) {
                bytes += self.between(segment, stat, from, cut.cutoff)?.1;
            }
        }
        Ok(bytes)
    }

    /// Records and bytes of a topic from `from` on and below `end`. Looks into the segment only if
    /// the index does not tell.
    fn between(
        &self,
        segment: &Arc<Segment>,
        stat: &Stat,
        from: Sequence,
        end: Sequence,
    ) -> Result<(u64, u64), Error> {
        if stat.last < from || stat.first >= end {
            return Ok((0, 0));
        }
        if stat.first >= from && stat.last < end {
            return Ok((stat.records, stat.bytes));
        }
        let (mut records, mut bytes) = (0, 0);
        for_each_backwards(
            segment,
            &*self.state.storage,
            &stat.topic,
            |sequence, len| {
                if sequence < from {
                    return false;
                }
                if sequence < end {
                    records += 1;
                    bytes += len;
                }
                true
            },
        )?;
        Ok((records, bytes))
    }

    /// What is to go from each sealed segment if nothing from `hold` on goes.
    fn shares(&self, hold: Sequence) -> Result<Vec<Share>, Error> {
        let share = |segment| {
            let mut share = Share::default();
            for stat in self.stats(segment, &|_| true)? {
                share.records += stat.records;
                share.bytes += stat.bytes;
                let Some(cut) = self.cuts.get(&stat.topic) else {
                    continue;
                };
                let end = cut.cutoff.min(hold);
                let (records, bytes) = self.between(segment, &stat, Sequence::FIRST, end)?;
                share.dead_records += records;
                share.dead_bytes += bytes;
                share.overdue |= stat.first < cut.overdue_end.min(hold);
            }
            Ok(share)
        };
        self.sealed().iter().map(share).collect()
    }

    /// Writes one segment again; `false` if its dead records are still there.
    fn rewrite(
        &self,
        pass: &Pass<'_>,
        at: usize,
        hold: Sequence,
        report: &mut RetentionReport,
    ) -> Result<bool, Error> {
        let stays = |topic: &str, sequence| {
            let cut = self.cuts.get(topic);
            cut.is_none_or(|cut| sequence >= cut.cutoff.min(hold))
        };
        let outcome = pass.rewrite(
            self.segments[at].base,
            &as_before(self.rules.compression_level),
            &mut |record| stays(record.topic, record.sequence),
            &|new, _| new.removed > 0,
        )?;
        match outcome {
            Outcome::Replaced {
                removed,
                bytes_before,
                bytes_after,
                ..
            } => {
                report.rewrites.segments += 1;
                report.rewrites.records_removed += removed;
                report.rewrites.bytes_before += bytes_before;
                report.rewrites.bytes_after += bytes_after;
                return Ok(true);
            }
            Outcome::Gone | Outcome::Kept => return Ok(true),
            Outcome::Damaged(damage) => report.rewrites.damaged.push(damage),
            Outcome::Stopped => report.rewrites.ended = Ended::Stopped,
        }
        Ok(false)
    }
}

/// Sequence and length of the intact records of `topic` in `segment`, the newest first, as long as
/// `look` says `true`.
fn for_each_backwards(
    segment: &Arc<Segment>,
    storage: &dyn super::storage::Storage,
    topic: &str,
    mut look: impl FnMut(Sequence, u64) -> bool,
) -> Result<(), Error> {
    let places: Vec<Place> = segment.with_index(storage, |index| index.places_of(topic))?;
    let mut source = Source::of(segment)?;
    for place in places.into_iter().rev() {
        let Some(found) = source.record_at(place).filter(|found| found.intact) else {
            continue;
        };
        if !look(found.sequence, found.range.len() as u64) {
            break;
        }
    }
    Ok(())
}

impl State {
    /// Removes the sealed segments before the one that begins at `base`; how many, and the bytes
    /// of their files.
    fn trim_to(self: &Arc<Self>, base: Sequence) -> Result<(usize, u64), Error> {
        let before: Vec<_> = {
            let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
            let before = segments.iter().take_while(|segment| segment.base < base);
            before
                .map(|segment| segment.file.len().unwrap_or(0))
                .collect()
        };
        self.trim(base)?;
        Ok((before.len(), before.iter().sum()))
    }
}
