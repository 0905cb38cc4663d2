//! Which records of a group are out, with whom, and which may go out next (BRK-04).
//!
//! Owns the rules: one member at a time for a record, one record at a time for a key, a deadline,
//! back-off, a bounded number of tries. A pure state machine: it is told the time, reads no log and
//! calls nobody. What it holds in memory is bounded by [`Bounds`]; what must survive is
//! [`Work::snapshot`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::options::{Bounds, Options};
use crate::broker::letter::{MAX_DELIVERIES, REJECTED};
use crate::log::{Micros, Sequence};
use crate::proto::v1::OpenRecord;

/// Most bytes of the text of a failure that are kept.
const ERROR_BYTES_MAX: usize = 512;
/// Whoever was told that there is work and has not come for it after so long is passed over.
const COME_WITHIN: Duration = Duration::from_millis(50);

/// A member of a group, never used again.
pub(super) type MemberId = u64;

/// The record is not, or no longer, in the hands of the member that speaks of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stale;

/// How a record has failed so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Failures {
    pub(super) count: u32,
    pub(super) first_at: Micros,
    pub(super) last_at: Micros,
    pub(super) error: Box<str>,
    pub(super) by: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Stage {
    /// May go out now.
    Ready,
    /// Not before this time.
    Waiting(Micros),
    /// With a member.
    Leased { member: MemberId, deadline: Micros },
    /// Another record of its key is to be done first.
    Behind,
    /// It is to become a dead letter, for this reason.
    Dying(&'static str),
    /// The letter is on its way.
    Buried(&'static str),
}

#[derive(Debug)]
struct Item {
    key: Option<Arc<str>>,
    record: Record,
    failures: Failures,
    stage: Stage,
}

/// A record as the log holds it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Record {
    /// As a field of a frame.
    pub(super) field: Bytes,
    /// Where in it the record begins.
    pub(super) start: usize,
    /// It is of no use to anybody from then on.
    pub(super) expires_at: Option<Micros>,
}

impl Record {
    /// The record itself.
    pub(super) fn encoded(&self) -> &[u8] {
        self.field.get(self.start..).unwrap_or_default()
    }
}

/// A record given to a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Lease {
    pub(super) sequence: Sequence,
    pub(super) attempt: u32,
    pub(super) deadline: Micros,
    pub(super) record: Record,
}

/// How much a member may have at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Records.
    pub records: u64,
    /// Bytes of encoded records; one record may be larger.
    pub bytes: u64,
}

#[derive(Debug)]
struct Member {
    name: Arc<str>,
    window: Window,
    leased: BTreeSet<Sequence>,
    bytes: u64,
    /// It stands in the queue of those who want work.
    hungry: bool,
    /// It has been told that there is some, and has not come yet.
    called: Option<Micros>,
}

impl Member {
    fn has_room(&self) -> bool {
        (self.leased.len() as u64) < self.window.records && self.bytes < self.window.bytes
    }
}

/// Why a member goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// It gives back what it has not begun with: that is no failure.
    InOrder,
    /// It is gone with what it had.
    Lost,
}

/// What a member failed with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Failed<'a> {
    /// For people.
    pub error: &'a str,
    /// Not to be tried again before; `None`: as the group backs off.
    pub delay: Option<Duration>,
    /// Trying again is of no use.
    pub for_good: bool,
}

/// A record that is to become a dead letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dead {
    pub(super) sequence: Sequence,
    pub(super) record: Record,
    pub(super) reason: &'static str,
    pub(super) failures: Failures,
}

/// A member, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberSummary {
    /// Its name.
    pub name: String,
    /// Records that it has.
    pub in_flight: u64,
}

/// What is out and what is next.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) options: Options,
    bounds: Bounds,
    pub(super) paused: bool,
    /// Not done, by sequence; everything else below `read` is.
    items: BTreeMap<Sequence, Item>,
    bytes: usize,
    /// Of the items with a key, in their order.
    keys: HashMap<Arc<str>, BTreeSet<Sequence>>,
    ready: BTreeSet<Sequence>,
    /// When what waits or is leased is to be looked at again.
    due: BTreeSet<(Micros, Sequence)>,
    dying: BTreeSet<Sequence>,
    /// Still to be read: not done when the group was last used.
    owed: BTreeMap<Sequence, OpenRecord>,
    /// Everything below has been taken in.
    read: Sequence,
    /// Everything at or above that was ever touched is below.
    touched: Sequence,
    in_flight: usize,
    members: HashMap<MemberId, Member>,
    hungry: VecDeque<MemberId>,
    /// Who has been told that there is work and has not come yet, and since when.
    called: BTreeSet<(Micros, MemberId)>,
    next_member: MemberId,
    /// One more for each change that must survive.
    version: u64,
    /// Who acknowledged what is not on disk yet, and in which version it will be.
    fresh: HashMap<Sequence, (MemberId, u64)>,
}

impl Work {
    /// Goes on where a group was: everything below `next` is done but for `open`.
    pub(super) fn new(
        options: Options,
        bounds: Bounds,
        paused: bool,
        next: Sequence,
        open: impl IntoIterator<Item = OpenRecord>,
    ) -> Self {
        let owed = open
            .into_iter()
            .filter_map(|one| Some((Sequence::new(one.sequence)?, one)));
        Self {
            options,
            bounds,
            paused,
            items: BTreeMap::new(),
            bytes: 0,
            keys: HashMap::new(),
            ready: BTreeSet::new(),
            due: BTreeSet::new(),
            dying: BTreeSet::new(),
            owed: owed.filter(|(sequence, _)| *sequence < next).collect(),
            read: next,
            touched: next,
            in_flight: 0,
            members: HashMap::new(),
            hungry: VecDeque::new(),
            called: BTreeSet::new(),
            next_member: 1,
            version: 0,
            fresh: HashMap::new(),
        }
    }

    /// Everything below is done.
    pub(super) fn floor(&self) -> Sequence {
        let item = self.items.keys().next().copied();
        let owed = self.owed.keys().next().copied();
        item.into_iter().chain(owed).min().unwrap_or(self.read)
    }

    /// Where reading goes on.
    pub(super) const fn read_from(&self) -> Sequence {
        self.read
    }

    /// A record that is to be read before anything else.
    pub(super) fn owed(&self) -> Option<Sequence> {
        self.owed.keys().next().copied()
    }

    /// Whether more may be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.items.len() < self.items_max() && self.bytes < self.bounds.bytes_max
    }

    /// Whether it is time to read more: not for each single record that is done.
    pub(super) fn is_low(&self) -> bool {
        self.items.len() * 2 <= self.items_max() && self.bytes * 2 <= self.bounds.bytes_max
    }

    const fn items_max(&self) -> usize {
        self.bounds.ahead_max + self.options.in_flight_max as usize
    }

    /// Version of what must survive.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Records taken in and not done.
    pub(super) fn open(&self) -> usize {
        self.items.len() + self.owed.len()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = MemberSummary> {
        let mut sorted: Vec<_> = self.members.iter().collect();
        sorted.sort_unstable_by_key(|(id, _)| **id);
        sorted.into_iter().map(|(_, member)| MemberSummary {
            name: member.name.to_string(),
            in_flight: member.leased.len() as u64,
        })
    }

    pub(super) fn members_len(&self) -> usize {
        self.members.len()
    }

    /// Takes a record in. Those that are owed come first, the others in their order.
    pub(super) fn take_in(
        &mut self,
        sequence: Sequence,
        key: Option<&str>,
        record: Record,
        now: Micros,
    ) {
        let owed = self.owed.remove(&sequence);
        if owed.is_none() {
            if sequence < self.read {
                // Done already: read once more on the way to what is not.
                return;
            }
            self.read = sequence.next();
        }
        let key = key.filter(|key| !key.is_empty()).map(|key| {
            let known = self.keys.get_key_value(key);
            known.map_or_else(|| Arc::from(key), |(known, _)| Arc::clone(known))
        });
        let owed = owed.unwrap_or_default();
        let stage = match owed.dead.as_str() {
            "" if Micros(owed.due_at) > now => Stage::Waiting(Micros(owed.due_at)),
            "" => Stage::Ready,
            REJECTED => Stage::Dying(REJECTED),
            _ => Stage::Dying(MAX_DELIVERIES),
        };
        let failures = Failures {
            count: owed.failures,
            first_at: Micros(owed.first_at),
            last_at: Micros(owed.last_at),
            error: owed.error.into(),
            by: owed.by.into(),
        };
        self.bytes += record.field.len();
        if let Some(key) = &key {
            let of_key = self.keys.entry(Arc::clone(key)).or_default();
            of_key.insert(sequence);
        }
        let item = Item {
            key,
            record,
            failures,
            stage: Stage::Behind,
        };
        self.items.insert(sequence, item);
        if self.is_first_of_key(sequence) {
            self.enter(sequence, stage);
        }
    }

    /// Everything below `next` that is wanted has been taken in.
    pub(super) fn passed(&mut self, next: Sequence) {
        self.read = self.read.max(next);
    }

    /// A record that is owed is no longer there.
    pub(super) fn forgive(&mut self, sequence: Sequence) {
        if self.owed.remove(&sequence).is_some() {
            self.version += 1;
        }
    }

    fn is_first_of_key(&self, sequence: Sequence) -> bool {
        let key = self.items.get(&sequence).and_then(|item| item.key.as_ref());
        key.is_none_or(|key| {
            let of_key = self.keys.get(key);
            of_key.and_then(BTreeSet::first) == Some(&sequence)
        })
    }

    /// Moves a record to another stage.
    fn enter(&mut self, sequence: Sequence, stage: Stage) {
        let Some(item) = self.items.get_mut(&sequence) else {
            return;
        };
        match std::mem::replace(&mut item.stage, stage) {
            Stage::Ready => {
                self.ready.remove(&sequence);
            }
            Stage::Waiting(at) => {
                self.due.remove(&(at, sequence));
            }
            Stage::Leased { member, deadline } => {
                self.due.remove(&(deadline, sequence));
                self.in_flight -= 1;
                if let Some(member) = self.members.get_mut(&member) {
                    member.leased.remove(&sequence);
                    member.bytes -= item.record.field.len() as u64;
                }
                self.feel_hunger(member);
            }
            Stage::Dying(_) => {
                self.dying.remove(&sequence);
            }
            Stage::Behind | Stage::Buried(_) => {}
        }
        let Some(item) = self.items.get_mut(&sequence) else {
            return;
        };
        match item.stage {
            Stage::Ready => {
                self.ready.insert(sequence);
            }
            Stage::Waiting(at) => {
                self.due.insert((at, sequence));
            }
            Stage::Leased { member, deadline } => {
                self.due.insert((deadline, sequence));
                self.in_flight += 1;
                if let Some(member) = self.members.get_mut(&member) {
                    member.leased.insert(sequence);
                    member.bytes += item.record.field.len() as u64;
                }
            }
            Stage::Dying(_) => {
                self.dying.insert(sequence);
            }
            Stage::Behind | Stage::Buried(_) => {}
        }
    }

    /// A record is done: what waited behind it comes next.
    fn done(&mut self, sequence: Sequence) {
        self.enter(sequence, Stage::Behind);
        let Some(item) = self.items.remove(&sequence) else {
            return;
        };
        self.bytes -= item.record.field.len();
        self.touch(sequence);
        let Some(key) = item.key else {
            return;
        };
        let Some(of_key) = self.keys.get_mut(&key) else {
            return;
        };
        of_key.remove(&sequence);
        match of_key.first().copied() {
            Some(next) => self.enter(next, Stage::Ready),
            None => drop(self.keys.remove(&key)),
        }
    }

    fn touch(&mut self, sequence: Sequence) {
        self.touched = self.touched.max(sequence.next());
        self.version += 1;
    }

    /// Somebody may have work from now on.
    pub(super) fn join(&mut self, name: &str, window: Window) -> MemberId {
        let id = self.next_member;
        self.next_member += 1;
        let member = Member {
            name: name.into(),
            window,
            leased: BTreeSet::new(),
            bytes: 0,
            hungry: false,
            called: None,
        };
        self.members.insert(id, member);
        self.feel_hunger(id);
        id
    }

    /// A member may have more at a time.
    pub(super) fn widen(&mut self, member: MemberId, more: Window) {
        if let Some(member) = self.members.get_mut(&member) {
            member.window.records = member.window.records.saturating_add(more.records);
            member.window.bytes = member.window.bytes.saturating_add(more.bytes);
        }
        self.feel_hunger(member);
    }

    /// Somebody goes; what it had is for others at once.
    pub(super) fn leave(&mut self, member: MemberId, leaving: Leaving, now: Micros) {
        let leased = self.members.get(&member).map(|one| one.leased.clone());
        for sequence in leased.unwrap_or_default() {
            match leaving {
                Leaving::InOrder => self.enter(sequence, Stage::Ready),
                Leaving::Lost => {
                    let lost = Failed {
                        error: "the member was gone before it answered",
                        delay: Some(Duration::ZERO),
                        for_good: false,
                    };
                    self.fail(sequence, member, &lost, now);
                }
            }
        }
        self.answered(member);
        self.members.remove(&member);
        self.hungry.retain(|one| *one != member);
    }

    fn feel_hunger(&mut self, id: MemberId) {
        if let Some(member) = self.members.get_mut(&id)
            && !member.hungry
            && member.called.is_none()
            && member.has_room()
        {
            member.hungry = true;
            self.hungry.push_back(id);
        }
    }

    /// A member that was called has come, or is not waited for any longer.
    fn answered(&mut self, id: MemberId) {
        let called = self.members.get_mut(&id).and_then(|one| one.called.take());
        if let Some(since) = called {
            self.called.remove(&(since, id));
        }
    }

    fn leasable(&self) -> usize {
        if self.paused {
            return 0;
        }
        let room = (self.options.in_flight_max as usize).saturating_sub(self.in_flight);
        self.ready.len().min(room)
    }

    /// Who is to be told that there is work: as many as there are records, those who have waited
    /// longest.
    pub(super) fn call(&mut self, now: Micros) -> Vec<MemberId> {
        let mut called = Vec::new();
        let wanted = self.leasable().saturating_sub(self.called.len());
        while called.len() < wanted {
            let Some(id) = self.hungry.pop_front() else {
                break;
            };
            if let Some(member) = self.members.get_mut(&id) {
                member.hungry = false;
                member.called = Some(now);
                self.called.insert((now, id));
                called.push(id);
            }
        }
        called
    }

    /// Gives a member what it may have: no more than its share of what there is, so that others get
    /// some too, no more than `bytes_max` bytes, but at least one record.
    pub(super) fn lease(&mut self, id: MemberId, bytes_max: usize, now: Micros) -> Vec<Lease> {
        let mut leases = Vec::new();
        let leasable = self.leasable();
        let share = leasable.div_ceil(self.members.len().max(1));
        self.answered(id);
        let deadline = later(now, self.options.ack_deadline);
        let mut bytes = 0;
        while leases.len() < share {
            let Some(sequence) = self.ready.first().copied() else {
                break;
            };
            let room = self.members.get(&id).is_some_and(Member::has_room);
            let Some(item) = self.items.get_mut(&sequence).filter(|_| room) else {
                break;
            };
            if item.record.expires_at.is_some_and(|at| at <= now) {
                self.done(sequence);
                continue;
            }
            let size = item.record.field.len();
            if !leases.is_empty() && bytes + size > bytes_max {
                break;
            }
            bytes += size;
            if item.failures.first_at == Micros(0) {
                item.failures.first_at = now;
            }
            item.failures.last_at = now;
            leases.push(Lease {
                sequence,
                attempt: item.failures.count + 1,
                deadline,
                record: item.record.clone(),
            });
            let member = id;
            self.enter(sequence, Stage::Leased { member, deadline });
        }
        self.feel_hunger(id);
        leases
    }

    /// Whether `member` has `sequence` now, in that delivery (0: in whichever).
    fn check(&self, member: MemberId, sequence: Sequence, attempt: u32) -> Result<(), Stale> {
        let item = self.items.get(&sequence).ok_or(Stale)?;
        let has = matches!(item.stage, Stage::Leased { member: with, .. } if with == member);
        let meant = attempt == 0 || attempt == item.failures.count + 1;
        if has && meant { Ok(()) } else { Err(Stale) }
    }

    /// A record is done. The version with which that is on disk.
    pub(super) fn ack(
        &mut self,
        member: MemberId,
        sequence: Sequence,
        attempt: u32,
    ) -> Result<u64, Stale> {
        if let Some((by, version)) = self.fresh.get(&sequence)
            && *by == member
        {
            // Said twice: the first time counts.
            return Ok(*version);
        }
        self.check(member, sequence, attempt)?;
        self.done(sequence);
        self.fresh.insert(sequence, (member, self.version));
        Ok(self.version)
    }

    /// A member has failed. The version with which that is on disk.
    pub(super) fn nack(
        &mut self,
        member: MemberId,
        sequence: Sequence,
        attempt: u32,
        failed: &Failed<'_>,
        now: Micros,
    ) -> Result<u64, Stale> {
        self.check(member, sequence, attempt)?;
        self.fail(sequence, member, failed, now);
        Ok(self.version)
    }

    /// A member needs longer. Its new deadline.
    pub(super) fn extend(
        &mut self,
        member: MemberId,
        sequence: Sequence,
        attempt: u32,
        by: Option<Duration>,
        now: Micros,
    ) -> Result<Micros, Stale> {
        self.check(member, sequence, attempt)?;
        let by = by.unwrap_or(self.options.ack_deadline);
        let deadline = later(now, by.min(self.bounds.wait_max));
        self.enter(sequence, Stage::Leased { member, deadline });
        Ok(deadline)
    }

    fn fail(&mut self, sequence: Sequence, member: MemberId, failed: &Failed<'_>, now: Micros) {
        let by = self.members.get(&member).map(|one| Arc::clone(&one.name));
        let options = self.options;
        let Some(item) = self.items.get_mut(&sequence) else {
            return;
        };
        let failures = &mut item.failures;
        failures.count = failures.count.saturating_add(1);
        let cut = failed.error.floor_char_boundary(ERROR_BYTES_MAX);
        failures.error = failed.error.get(..cut).unwrap_or_default().into();
        failures.by = by.unwrap_or_default();
        let count = failures.count;
        let stage = if failed.for_good {
            Stage::Dying(REJECTED)
        } else if count >= options.max_deliveries {
            Stage::Dying(MAX_DELIVERIES)
        } else {
            let delay = failed.delay.unwrap_or_else(|| options.backoff(count));
            match delay.min(self.bounds.wait_max) {
                Duration::ZERO => Stage::Ready,
                delay => Stage::Waiting(later(now, delay)),
            }
        };
        self.enter(sequence, stage);
        self.touch(sequence);
    }

    /// Takes back what is overdue, and lets out what has waited long enough.
    pub(super) fn expire(&mut self, now: Micros) {
        while let Some((at, sequence)) = self.due.first().copied() {
            if at > now {
                break;
            }
            let stage = self.items.get(&sequence).map(|item| item.stage.clone());
            match stage {
                Some(Stage::Leased { member, .. }) => {
                    let expired = Failed {
                        error: "the deadline passed without an answer",
                        ..Failed::default()
                    };
                    self.fail(sequence, member, &expired, now);
                }
                Some(Stage::Waiting(_)) => self.enter(sequence, Stage::Ready),
                Some(Stage::Ready | Stage::Behind | Stage::Dying(_) | Stage::Buried(_)) | None => {
                    self.due.remove(&(at, sequence));
                }
            }
        }
        while let Some((since, id)) = self.called.first().copied() {
            if later(since, COME_WITHIN) > now {
                break;
            }
            self.answered(id);
            // To the end of the queue.
            self.feel_hunger(id);
        }
    }

    /// When [`Work::expire`] has something to do.
    pub(super) fn next_due(&self) -> Option<Micros> {
        let due = self.due.first().map(|(at, _)| *at);
        let called = self.called.first();
        let called = called.map(|(since, _)| later(*since, COME_WITHIN));
        due.into_iter().chain(called).min()
    }

    /// The next record to become a dead letter; its letter is on its way from now on.
    pub(super) fn bury(&mut self) -> Option<Dead> {
        let sequence = self.dying.first().copied()?;
        let item = self.items.get(&sequence)?;
        let Stage::Dying(reason) = item.stage else {
            return None;
        };
        let dead = Dead {
            sequence,
            record: item.record.clone(),
            reason,
            failures: item.failures.clone(),
        };
        self.enter(sequence, Stage::Buried(reason));
        Some(dead)
    }

    pub(super) fn has_dying(&self) -> bool {
        !self.dying.is_empty()
    }

    /// Letters on their way.
    pub(super) fn buried(&self) -> impl Iterator<Item = Sequence> {
        let buried = |item: &Item| matches!(item.stage, Stage::Buried(_));
        let items = self.items.iter();
        items
            .filter(move |(_, item)| buried(item))
            .map(|(sequence, _)| *sequence)
    }

    /// The letter of a record is on disk, or not: then it is to be written again.
    pub(super) fn lettered(&mut self, sequence: Sequence, stored: bool) {
        let Some(Stage::Buried(reason)) = self.items.get(&sequence).map(|item| &item.stage) else {
            return;
        };
        let reason = *reason;
        if stored {
            self.done(sequence);
        } else {
            self.enter(sequence, Stage::Dying(reason));
        }
    }

    /// There is a letter of this record already: it is done.
    pub(super) fn has_letter(&mut self, sequence: Sequence) {
        if self.owed.remove(&sequence).is_some() {
            self.version += 1;
        }
        if self.items.contains_key(&sequence) {
            self.done(sequence);
        }
    }

    /// Begins anew at `next`: nobody has anything, and nothing below is open.
    pub(super) fn reset(&mut self, next: Sequence) {
        for member in self.members.values_mut() {
            member.leased.clear();
            member.bytes = 0;
        }
        self.items.clear();
        self.keys.clear();
        self.ready.clear();
        self.due.clear();
        self.dying.clear();
        self.owed.clear();
        self.fresh.clear();
        self.bytes = 0;
        self.in_flight = 0;
        self.read = next;
        self.touched = next;
        self.version += 1;
        let members: Vec<MemberId> = self.members.keys().copied().collect();
        for id in members {
            self.feel_hunger(id);
        }
    }

    /// Something else that must survive has changed.
    pub(super) const fn changed(&mut self) {
        self.version += 1;
    }

    /// Everything up to this version is on disk.
    pub(super) fn stored(&mut self, version: u64) {
        self.fresh.retain(|_, (_, needed)| *needed > version);
    }

    /// What must survive: everything below the first is done, but for the second.
    pub(super) fn snapshot(&self) -> (Sequence, Vec<OpenRecord>) {
        let next = match (self.items.is_empty(), self.owed.is_empty()) {
            (true, true) => self.read,
            _ => self.touched.max(self.floor()),
        };
        let mut open: Vec<OpenRecord> = self.owed.values().cloned().collect();
        open.extend(self.items.range(..next).map(|(sequence, item)| OpenRecord {
            sequence: sequence.get(),
            failures: item.failures.count,
            // What has not failed needs no more than its number.
            first_at: if item.failures.count == 0 {
                0
            } else {
                item.failures.first_at.0
            },
            last_at: if item.failures.count == 0 {
                0
            } else {
                item.failures.last_at.0
            },
            error: item.failures.error.to_string(),
            by: item.failures.by.to_string(),
            due_at: match item.stage {
                Stage::Waiting(at) => at.0,
                _ => 0,
            },
            dead: match item.stage {
                Stage::Dying(reason) | Stage::Buried(reason) => reason.to_owned(),
                _ => String::new(),
            },
        }));
        open.sort_unstable_by_key(|one| one.sequence);
        (next, open)
    }
}

fn later(now: Micros, by: Duration) -> Micros {
    let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
    Micros(now.0.saturating_add(by))
}

#[cfg(test)]
mod tests;
