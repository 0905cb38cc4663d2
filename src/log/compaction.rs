//! Keeps the newest record per key, and removes what has expired.
//!
//! Owns which record may go and in which order. What the key of a record is, when it expires and
//! which topics are compacted is passed in; the log knows no envelope.
//!
//! A record goes when
//!
//! - a newer, flushed one has the same topic and key: it is *superseded*;
//! - it is the newest of its key, a tombstone, and its grace has passed: it is *spent*;
//! - it has expired. The newest of a key that has expired counts as spent, too: were it to go
//!   before the older ones do, one of those would be the newest again.
//!
//! Spent records go only with or after every older record of their key: segments are written again
//! from the oldest on, each durable before the next, and none that is spent goes behind the point
//! up to which all that is superseded goes. So whatever a crash leaves, no old value is back.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use super::Log;
use super::chunk::RecordRef;
use super::error::Error;
use super::index::Place;
use super::pass::{Ended, Outcome, Pass, Rewrites, as_before, worth_until};
use super::position::{Micros, Sequence};
use super::reader::Segment;
use super::record;
use super::rewrite::Throttle;
use super::scan::Scanned;
use super::topic_reader::Source;

/// Times that are kept apart per segment.
const EXPIRIES_MAX: usize = 64;
/// Read between two looks at the throttle.
const TAKEN_BYTES: u64 = 64 << 10;
/// Topics whose rule is remembered during a pass.
const TOPICS_MAX: usize = 10_000;

/// How a compacted topic is compacted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyRule {
    /// How long a tombstone stays after it was appended, so that those who follow the topic hear
    /// of it.
    pub tombstone_grace_micros: u64,
}

/// What the log cannot know of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts<'a> {
    /// What it is the newest value of; all records of a topic without one have the same key, so
    /// that the topic itself is the key.
    pub key: Option<&'a [u8]>,
    /// It says that its key has no value any more.
    pub tombstone: bool,
    /// When it is of no use any more.
    pub expires_at: Option<Micros>,
}

/// The rules of one pass.
pub struct Compaction<'a> {
    /// How a topic is compacted; `None` if it is not.
    pub rule: &'a dyn Fn(&str) -> Option<KeyRule>,
    /// What is to be known of a record.
    pub facts: &'a dyn for<'r> Fn(&RecordRef<'r>) -> Facts<'r>,
    /// Changes whenever one of these rules does: what an earlier pass has found out holds for its
    /// own edition.
    pub edition: u64,
    /// So many keys are told apart (about 60 bytes of memory each); records of those beyond are
    /// kept.
    pub keys_max: usize,
    /// Segments are written again as far as so much of them, in percent, is to go.
    pub dead_percent: u8,
    /// What has expired, and tombstones whose grace has passed, go after this long even where they
    /// are few.
    pub overdue_micros: u64,
    /// Level for segments that are compressed already.
    pub compression_level: i32,
}

impl fmt::Debug for Compaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compaction")
            .field("edition", &self.edition)
            .field("keys_max", &self.keys_max)
            .field("dead_percent", &self.dead_percent)
            .field("overdue_micros", &self.overdue_micros)
            .finish_non_exhaustive()
    }
}

/// What a pass of compaction did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CompactionReport {
    /// Segments that were written again.
    pub rewrites: Rewrites,
    /// Keys of compacted topics.
    pub keys: usize,
    /// Records of compacted topics that were kept whatever they are, because there are too many
    /// keys.
    pub records_beyond_keys: u64,
    /// Bytes of records to be removed that share segments with too many that are not.
    pub dead_bytes_left: u64,
    /// Nothing had changed since the last pass.
    pub skipped: bool,
}

/// Where the last complete pass has found the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LastCompaction {
    found: Findings,
    /// Before this, time alone changes nothing.
    next_due: Option<Micros>,
}

/// What a pass depends on, time apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Findings {
    edition: u64,
    durable_end: Sequence,
    first: Sequence,
    segments: usize,
}

/// When records of one segment expire: bytes by time. Of bounded size: times that lie close
/// together become one, the later.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Expiries(BTreeMap<u64, u64>);

impl Expiries {
    fn add(&mut self, at: Micros, bytes: u64) {
        *self.0.entry(at.0).or_default() += bytes;
        if self.0.len() <= EXPIRIES_MAX {
            return;
        }
        let pairs = self.0.keys().zip(self.0.keys().skip(1));
        let closest = pairs.min_by_key(|(a, b)| *b - *a).map(|(a, b)| (*a, *b));
        if let Some((earlier, later)) = closest
            && let Some(bytes) = self.0.remove(&earlier)
        {
            *self.0.entry(later).or_default() += bytes;
        }
    }

    /// Bytes that have expired at `now`.
    fn until(&self, now: Micros) -> u64 {
        self.0.range(..=now.0).map(|(_, bytes)| bytes).sum()
    }

    fn times(&self) -> impl Iterator<Item = Micros> {
        self.0.keys().copied().map(Micros)
    }
}

/// The newest records of all keys.
struct Keys {
    newest: HashMap<[u64; 2], Sequence>,
    /// New in each pass, so that nobody can make up keys that meet.
    hashers: [RandomState; 2],
    keys_max: usize,
}

impl Keys {
    fn hash(&self, topic: &str, key: &[u8]) -> [u64; 2] {
        [
            self.hashers[0].hash_one((topic, key)),
            self.hashers[1].hash_one((topic, key)),
        ]
    }
}

/// Rules by topic, asked once per topic.
struct Rules<'a> {
    compaction: &'a Compaction<'a>,
    by_topic: RefCell<HashMap<Box<str>, Option<KeyRule>>>,
}

impl Rules<'_> {
    fn of(&self, topic: &str) -> Option<KeyRule> {
        let mut by_topic = self.by_topic.borrow_mut();
        if let Some(rule) = by_topic.get(topic) {
            return *rule;
        }
        if by_topic.len() >= TOPICS_MAX {
            by_topic.clear();
        }
        let rule = (self.compaction.rule)(topic);
        by_topic.insert(topic.into(), rule);
        rule
    }
}

/// What is to go from one sealed segment.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    bytes: u64,
    /// May go at any time.
    free: u64,
    /// May go only after everything older of its key.
    spent: u64,
    /// Some of each must go now.
    free_overdue: bool,
    spent_overdue: bool,
}

/// The earliest of all times after now at which something is due.
struct Agenda {
    now: Micros,
    overdue_micros: u64,
    next: Option<Micros>,
}

impl Agenda {
    /// Whether `at` has come; if not, it is noted.
    fn is_due(&mut self, at: Micros) -> bool {
        if at <= self.now {
            return true;
        }
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
        false
    }

    /// Whether what was due at `at` is overdue.
    fn is_overdue(&mut self, at: Micros) -> bool {
        self.is_due(Micros(at.0.saturating_add(self.overdue_micros)))
    }
}

/// What a record is at some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Stays,
    Superseded,
    /// Of a topic that is not compacted.
    Expired(Micros),
    /// Since then.
    Spent(Micros),
}

/// One pass, while it finds out.
struct Survey<'a> {
    log: &'a Log,
    rules: Rules<'a>,
    /// All but the one that is written to.
    sealed: Vec<Arc<Segment>>,
    active: Arc<Segment>,
    durable_end: Sequence,
    keys: Keys,
    agenda: RefCell<Agenda>,
}

impl Log {
    /// Removes from sealed segments what newer records have superseded, and what has expired.
    /// Sequences do not change. Neither appends nor readers wait for it.
    ///
    /// # Errors
    /// I/O errors; what was removed until then stays removed.
    pub fn compact(
        &self,
        compaction: &Compaction<'_>,
        throttle: &dyn Throttle,
    ) -> Result<CompactionReport, Error> {
        let state = self.state();
        let mut report = CompactionReport::default();
        let mut pass = match Pass::begin(state, throttle) {
            Ok(pass) => pass,
            Err(reason) => {
                report.rewrites = Rewrites::refused(reason);
                return Ok(report);
            }
        };
        let mut sealed = state.segments();
        let Some(active) = sealed.pop() else {
            return Ok(report);
        };
        let now = state.clock.now();
        let found = Findings {
            edition: compaction.edition,
            // After the segments, so that all that is sealed is below it.
            durable_end: state.durable_end(),
            first: state.first(),
            segments: sealed.len(),
        };
        let idle = |last: &LastCompaction| {
            last.found == found && last.next_due.is_none_or(|due| now < due)
        };
        if pass.last_compaction.as_ref().is_some_and(idle) {
            report.skipped = true;
            return Ok(report);
        }
        *pass.last_compaction = None;
        let mut survey = Survey {
            log: self,
            rules: Rules {
                compaction,
                by_topic: RefCell::default(),
            },
            sealed,
            active,
            durable_end: found.durable_end,
            keys: Keys {
                newest: HashMap::new(),
                hashers: [RandomState::new(), RandomState::new()],
                keys_max: compaction.keys_max,
            },
            agenda: RefCell::new(Agenda {
                now,
                overdue_micros: compaction.overdue_micros,
                next: None,
            }),
        };
        if !survey.run(&pass, &mut report)? {
            report.rewrites.ended = Ended::Stopped;
            return Ok(report);
        }
        *pass.last_compaction = Some(LastCompaction {
            found,
            next_due: survey.agenda.borrow().next,
        });
        Ok(report)
    }
}

impl Survey<'_> {
    /// `false`: it was ended before it was done.
    fn run(&mut self, pass: &Pass<'_>, report: &mut CompactionReport) -> Result<bool, Error> {
        for segment in &self.sealed {
            if !self.look_for_expiries(pass, segment)? {
                return Ok(false);
            }
        }
        let mut shares = vec![Share::default(); self.sealed.len()];
        if !self.find_newest(pass, &mut shares, report)? {
            return Ok(false);
        }
        report.keys = self.keys.newest.len();
        // What is unreadable in a damaged segment, and what stays in it, may be an older value.
        let damaged = |segment: &Arc<Segment>| segment.lock_seen().damage.is_some();
        let mut spent_end = self
            .sealed
            .iter()
            .position(damaged)
            .unwrap_or(self.sealed.len());
        self.add_expired(&mut shares)?;
        let dead = |at: usize, share: &Share| match at < spent_end {
            true => share.free + share.spent,
            false => share.free,
        };
        let weights: Vec<_> = shares
            .iter()
            .enumerate()
            .map(|(at, share)| (dead(at, share), share.bytes))
            .collect();
        let overdue = shares[..spent_end].iter().rposition(|s| s.spent_overdue);
        let worth = worth_until(&weights, self.rules.compaction.dead_percent);
        let until = worth.max(overdue.map_or(0, |at| at + 1));
        spent_end = spent_end.min(until);
        for (at, share) in shares.iter().enumerate() {
            if damaged(&self.sealed[at]) {
                report
                    .rewrites
                    .damaged
                    .extend(self.sealed[at].lock_seen().damage.clone());
                continue;
            }
            let goes = weights[at].0 > 0 && (at < until || share.free_overdue);
            if !goes {
                report.dead_bytes_left += share.free + share.spent;
                continue;
            }
            match self.rewrite(pass, at, at < spent_end, report)? {
                Outcome::Replaced { .. } | Outcome::Kept | Outcome::Gone => {}
                Outcome::Damaged(damage) => {
                    report.rewrites.damaged.push(damage);
                    spent_end = spent_end.min(at);
                }
                Outcome::Stopped => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Finds out once when the records of a segment expire, and whether it is damaged.
    fn look_for_expiries(&self, pass: &Pass<'_>, segment: &Segment) -> Result<bool, Error> {
        let edition = self.rules.compaction.edition;
        {
            let seen = segment.lock_seen();
            let known = seen.expiries.as_ref().is_some_and(|(of, _)| *of == edition);
            if known || seen.damage.is_some() {
                return Ok(true);
            }
        }
        let mut expiries = Expiries::default();
        for scanned in segment.scan()? {
            match scanned {
                Scanned::Batch(batch) => {
                    if !pass.brake.take(batch.header.file_len()) {
                        return Ok(false);
                    }
                    for record in batch.records() {
                        self.note_expiry(&mut expiries, &record);
                    }
                }
                Scanned::Damaged(region) => {
                    tracing::error!(damage = %region.damage, "a segment is damaged; it is not compacted");
                    segment.lock_seen().damage = Some(region.damage);
                    return Ok(true);
                }
                Scanned::End(_) => break,
            }
        }
        segment.lock_seen().expiries = Some((edition, expiries));
        Ok(true)
    }

    /// Compacted topics are left out: every pass looks at all of their records.
    fn note_expiry(&self, expiries: &mut Expiries, record: &RecordRef<'_>) {
        if self.rules.of(record.topic).is_none()
            && let Some(at) = (self.rules.compaction.facts)(record).expires_at
        {
            expiries.add(at, record.field.len() as u64);
        }
    }

    /// Looks at the records of all compacted topics, the newest first, so that the first one of a
    /// key is its newest.
    fn find_newest(
        &mut self,
        pass: &Pass<'_>,
        shares: &mut [Share],
        report: &mut CompactionReport,
    ) -> Result<bool, Error> {
        let active = Arc::clone(&self.active);
        let mut ignored = Share::default();
        if !self.find_newest_in(pass, &active, &mut ignored, report)? {
            return Ok(false);
        }
        for (at, share) in shares.iter_mut().enumerate().rev() {
            let segment = Arc::clone(&self.sealed[at]);
            if !self.find_newest_in(pass, &segment, share, report)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn find_newest_in(
        &mut self,
        pass: &Pass<'_>,
        segment: &Arc<Segment>,
        share: &mut Share,
        report: &mut CompactionReport,
    ) -> Result<bool, Error> {
        let state = self.log.state();
        let (places, bytes): (Vec<Place>, u64) = segment.with_index(&*state.storage, |index| {
            let bytes = index.topics.values().map(|topic| topic.bytes).sum();
            (index.places(&|topic| self.rules.of(topic).is_some()), bytes)
        })?;
        state.keep_index(segment);
        share.bytes = bytes;
        if places.is_empty() {
            return Ok(true);
        }
        let mut source = Source::of(segment)?;
        let mut untaken = 0;
        for place in places.into_iter().rev() {
            let Some(found) = source.record_at(place).filter(|found| found.intact) else {
                continue;
            };
            if found.sequence >= self.durable_end {
                continue;
            }
            let len = found.range.len() as u64;
            untaken += len;
            if untaken >= TAKEN_BYTES && !pass.brake.take(std::mem::take(&mut untaken)) {
                return Ok(false);
            }
            let Some((record, _)) = record::parse(&source.bytes()[found.range]) else {
                continue;
            };
            self.enter_key(&record, report);
            match self.standing(&record) {
                Standing::Stays | Standing::Expired(_) => {}
                Standing::Superseded => share.free += len,
                Standing::Spent(since) => {
                    share.spent += len;
                    share.spent_overdue |= self.agenda.borrow_mut().is_overdue(since);
                }
            }
        }
        Ok(true)
    }

    fn enter_key(&mut self, record: &RecordRef<'_>, report: &mut CompactionReport) {
        let key = (self.rules.compaction.facts)(record)
            .key
            .unwrap_or_default();
        let hash = self.keys.hash(record.topic, key);
        let full = self.keys.newest.len() >= self.keys.keys_max;
        match self.keys.newest.entry(hash) {
            std::collections::hash_map::Entry::Occupied(_) => {}
            std::collections::hash_map::Entry::Vacant(_) if full => {
                report.records_beyond_keys += 1;
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(record.sequence);
            }
        }
    }

    /// What `record` is now.
    fn standing(&self, record: &RecordRef<'_>) -> Standing {
        let facts = (self.rules.compaction.facts)(record);
        let mut agenda = self.agenda.borrow_mut();
        let Some(rule) = self.rules.of(record.topic) else {
            return match facts.expires_at {
                Some(at) if agenda.is_due(at) => Standing::Expired(at),
                _ => Standing::Stays,
            };
        };
        let hash = self.keys.hash(record.topic, facts.key.unwrap_or_default());
        match self.keys.newest.get(&hash) {
            None => return Standing::Stays,
            Some(&newest) if newest > record.sequence => return Standing::Superseded,
            Some(_) => {}
        }
        let grace_end = record
            .appended_at
            .0
            .saturating_add(rule.tombstone_grace_micros);
        let spent_at = facts.tombstone.then_some(Micros(grace_end));
        let ends = [spent_at, facts.expires_at];
        match ends.into_iter().flatten().min() {
            Some(at) if agenda.is_due(at) => Standing::Spent(at),
            _ => Standing::Stays,
        }
    }

    /// Adds what has expired in topics that are not compacted.
    fn add_expired(&self, shares: &mut [Share]) -> Result<(), Error> {
        let mut agenda = self.agenda.borrow_mut();
        for (segment, share) in self.sealed.iter().zip(shares) {
            let seen = segment.lock_seen();
            let Some((_, expiries)) = &seen.expiries else {
                continue;
            };
            share.free += expiries.until(agenda.now);
            for at in expiries.times() {
                if agenda.is_due(at) {
                    share.free_overdue |= agenda.is_overdue(at);
                }
            }
        }
        Ok(())
    }

    fn rewrite(
        &self,
        pass: &Pass<'_>,
        at: usize,
        spent_goes: bool,
        report: &mut CompactionReport,
    ) -> Result<Outcome, Error> {
        let mut expiries = Expiries::default();
        let mut stays = |record: &RecordRef<'_>| {
            let stays = match self.standing(record) {
                Standing::Stays => true,
                Standing::Superseded | Standing::Expired(_) => false,
                Standing::Spent(_) => !spent_goes,
            };
            if stays {
                self.note_expiry(&mut expiries, record);
            }
            stays
        };
        let outcome = pass.rewrite(
            self.sealed[at].base,
            &as_before(self.rules.compaction.compression_level),
            &mut stays,
            &|new, _| new.removed > 0,
        )?;
        let left = match &outcome {
            Outcome::Replaced {
                segment,
                removed,
                bytes_before,
                bytes_after,
            } => {
                report.rewrites.segments += 1;
                report.rewrites.records_removed += removed;
                report.rewrites.bytes_before += bytes_before;
                report.rewrites.bytes_after += bytes_after;
                segment
            }
            Outcome::Kept => &self.sealed[at],
            Outcome::Gone | Outcome::Stopped | Outcome::Damaged(_) => return Ok(outcome),
        };
        left.lock_seen().expiries = Some((self.rules.compaction.edition, expiries));
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // LOG-11: whatever records say, what is remembered of a segment is small, and nothing counts
    // as expired before it is.
    #[test]
    fn expiries_are_bounded_and_never_early() {
        let mut expiries = Expiries::default();
        for number in 0..10_000_u64 {
            expiries.add(Micros(number * number % 7919), 1);
        }
        assert!(expiries.0.len() <= EXPIRIES_MAX);
        assert_eq!(expiries.until(Micros(u64::MAX)), 10_000);
        for now in (0..7919).step_by(100) {
            let expired = (0..10_000_u64).filter(|n| n * n % 7919 <= now).count() as u64;
            assert!(expiries.until(Micros(now)) <= expired, "at {now}");
        }
    }
}
