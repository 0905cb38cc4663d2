//! A group that is in use: its [`Work`] with the log that it reads, the disk that keeps what it has
//! done, and the members that it tells.
//!
//! What members answer is noted at once and gathered on its way to the disk: one write under way,
//! later ones replace each other. A letter is on disk before its record counts as done; which
//! letters are there is looked up when a group is opened, and after each write of one that failed.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use prost::Message as _;

use super::feeder::Feeder;
use super::member::{Answered, Leased, Worker};
use super::options::{Bounds, Options};
use super::work::{Dead, Failed, Leaving, MemberId, MemberSummary, Record, Stale, Window, Work};
use super::{Groups, Name, TOPIC_PREFIX};
use crate::broker::attendance::Attendance;
use crate::broker::error::Error;
use crate::broker::fanout::{Subscriber, Visibility, Wanted};
use crate::broker::filter::{Filter, Traits};
use crate::broker::letter::{self, Failure};
use crate::broker::reality::Reality;
use crate::broker::scan::{HistoryRead, Piece, Scanned, Selection, Source};
use crate::broker::system;
use crate::log::{self, AppendError, AppendSink, Appended, Found, Micros, NewRecord, Sequence};
use crate::proto::v1::{GroupOptions, GroupState};
use crate::proto::view::RecordView;

const SCHEMA: &str = "arqon.v1.GroupState";
/// How much is read ahead at a time.
const READ_BYTES: usize = 256 << 10;
/// Records that were open when the group was last used, read at a time.
const OWED_AT_A_TIME: usize = 256;
/// How long is waited after the log has refused something.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a change waits for the disk.
const STORED_WITHIN: Duration = Duration::from_secs(10);

/// A group in use.
#[derive(Debug)]
pub(in crate::broker) struct Group {
    id: u64,
    name: Name,
    filter: Filter,
    reality: Arc<Reality>,
    system: Arc<Reality>,
    groups: Weak<Groups>,
    feeder: Arc<Feeder>,
    bounds: Bounds,
    state: Mutex<State>,
    /// Somebody waits for the disk.
    settled: Condvar,
    reader: Mutex<Option<(u64, Source)>>,
    /// Held for reading while a state is handed to the log, so that none comes after the group's end.
    storing: RwLock<()>,
    attendance: OnceLock<Attendance>,
}

#[derive(Debug)]
struct State {
    work: Work,
    asked: GroupOptions,
    letters_from: Sequence,
    members: HashMap<MemberId, Told>,
    /// On disk.
    stored: u64,
    under_way: Option<u64>,
    /// How often storing has failed.
    refused: u64,
    retry_at: Option<Micros>,
    /// Letters may be there that were said not to be.
    letters_unsure: bool,
    letters_after: Option<Micros>,
    /// Reading has failed, and is not tried before.
    read_after: Option<Micros>,
    /// One more each time that all begins anew.
    turn: u64,
    /// Records that were damaged on disk.
    lost: u64,
    ended: bool,
}

#[derive(Debug)]
struct Told {
    key: u64,
    worker: Arc<dyn Worker>,
    /// The last version that it waits for.
    awaits: Option<u64>,
}

/// What is to be done once the lock is released: whoever is called may call back.
#[derive(Default)]
struct Then {
    store: Option<(u64, NewRecord)>,
    call: Vec<(u64, Arc<dyn Worker>)>,
    wake: bool,
    due: Option<Duration>,
}

/// A group, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Shown {
    pub(super) floor: Sequence,
    pub(super) open: usize,
    pub(super) in_flight: usize,
    pub(super) members: Vec<MemberSummary>,
    pub(super) paused: bool,
    pub(super) lost: u64,
    pub(super) options: Options,
}

impl Group {
    /// Goes on where `state` says. Blocks on the disk: letters are looked up.
    pub(super) fn open(
        groups: &Arc<Groups>,
        name: Name,
        filter: Filter,
        reality: Arc<Reality>,
        state: &GroupState,
    ) -> Result<Arc<Self>, Error> {
        let bounds = *groups.bounds();
        let asked = state.options.unwrap_or_default();
        let next = Sequence::at_least_first(state.next);
        let options = Options::within(&asked, &bounds);
        let mut work = Work::new(
            options,
            bounds,
            state.paused,
            next,
            state.open.iter().cloned(),
        );
        let letters_from = Sequence::at_least_first(state.letters_from);
        for sequence in letter::known(&reality, &name.1, work.floor().max(letters_from))? {
            work.has_letter(sequence);
        }
        let stored = work.version();
        let state = State {
            work,
            asked,
            letters_from,
            members: HashMap::new(),
            stored,
            under_way: None,
            refused: 0,
            retry_at: None,
            letters_unsure: false,
            letters_after: None,
            read_after: None,
            turn: 0,
            lost: 0,
            ended: false,
        };
        let feeder = Arc::clone(groups.feeder());
        let group = Arc::new(Self {
            id: feeder.number(),
            name,
            filter,
            system: Arc::clone(groups.system()),
            groups: Arc::downgrade(groups),
            feeder,
            bounds,
            state: Mutex::new(state),
            settled: Condvar::new(),
            reader: Mutex::new(None),
            storing: RwLock::new(()),
            attendance: OnceLock::new(),
            reality,
        });
        group.feeder.admit(group.id, Arc::downgrade(&group));
        let wakes = Arc::new(Wakes {
            feeder: Arc::clone(&group.feeder),
        });
        let attendance = group.reality.listen(
            &group.filter,
            Wanted::Matching,
            Visibility::Durable,
            wakes,
            group.id,
        );
        // Nobody else has the group yet.
        let _first = group.attendance.set(attendance);
        group.feeder.wake(group.id);
        Ok(group)
    }

    pub(super) fn name(&self) -> &str {
        &self.name.1
    }

    pub(super) const fn reality(&self) -> &Arc<Reality> {
        &self.reality
    }

    pub(super) const fn filter(&self) -> &Filter {
        &self.filter
    }

    pub(super) fn floor(&self) -> Sequence {
        self.lock().work.floor()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Micros {
        self.reality.now()
    }

    /// Somebody may have work from now on.
    pub(super) fn join(
        self: &Arc<Self>,
        name: &str,
        window: Window,
        key: u64,
        worker: Arc<dyn Worker>,
    ) -> Result<MemberId, Error> {
        let mut state = self.lock();
        self.check_there(&state)?;
        let limit = self.bounds.members_max;
        if state.work.members_len() >= limit {
            return Err(Error::MembersFull { limit });
        }
        let id = state.work.join(name, window);
        let told = Told {
            key,
            worker,
            awaits: None,
        };
        state.members.insert(id, told);
        self.settle(state);
        Ok(id)
    }

    fn check_there(&self, state: &State) -> Result<(), Error> {
        if state.ended {
            let group = self.name.1.to_string();
            return Err(Error::GroupEnded { group });
        }
        self.reality.check_there()
    }

    pub(super) fn leave(self: &Arc<Self>, member: MemberId, leaving: Leaving) {
        let mut state = self.lock();
        state.members.remove(&member);
        state.work.leave(member, leaving, self.now());
        let empty = state.members.is_empty();
        self.settle(state);
        if empty {
            self.rest();
        }
    }

    pub(super) fn widen(self: &Arc<Self>, member: MemberId, more: Window) {
        let mut state = self.lock();
        state.work.widen(member, more);
        self.settle(state);
    }

    pub(super) fn lease(
        self: &Arc<Self>,
        member: MemberId,
        bytes_max: usize,
    ) -> Result<Vec<Leased>, Error> {
        let mut state = self.lock();
        self.check_there(&state)?;
        let now = self.now();
        state.work.expire(now);
        let leases = state.work.lease(member, bytes_max, now);
        self.settle(state);
        let leased = leases.into_iter().map(|lease| Leased {
            sequence: lease.sequence,
            attempt: lease.attempt,
            deadline: lease.deadline,
            record: lease.record,
        });
        Ok(leased.collect())
    }

    pub(super) fn ack(
        self: &Arc<Self>,
        member: MemberId,
        sequence: Sequence,
        attempt: u32,
    ) -> Result<Answered, Error> {
        self.answer(member, sequence, |work, now| {
            work.expire(now);
            work.ack(member, sequence, attempt)
        })
    }

    pub(super) fn nack(
        self: &Arc<Self>,
        member: MemberId,
        sequence: Sequence,
        attempt: u32,
        failed: &Failed<'_>,
    ) -> Result<Answered, Error> {
        self.answer(member, sequence, |work, now| {
            work.expire(now);
            work.nack(member, sequence, attempt, failed, now)
        })
    }

    fn answer(
        self: &Arc<Self>,
        member: MemberId,
        sequence: Sequence,
        act: impl FnOnce(&mut Work, Micros) -> Result<u64, Stale>,
    ) -> Result<Answered, Error> {
        let mut state = self.lock();
        self.check_there(&state)?;
        let acted = act(&mut state.work, self.now());
        if let Ok(version) = acted
            && let Some(told) = state.members.get_mut(&member)
        {
            told.awaits = told.awaits.max(Some(version));
        }
        let stored = state.stored;
        self.settle(state);
        match acted {
            Ok(version) if version <= stored => Ok(Answered::Stored),
            Ok(version) => Ok(Answered::InVersion(version)),
            Err(Stale) => Err(Error::NotLeased { sequence }),
        }
    }

    pub(super) fn extend(
        self: &Arc<Self>,
        member: MemberId,
        sequence: Sequence,
        attempt: u32,
        by: Option<Duration>,
    ) -> Result<Micros, Error> {
        let mut state = self.lock();
        self.check_there(&state)?;
        let now = self.now();
        state.work.expire(now);
        let extended = state.work.extend(member, sequence, attempt, by, now);
        self.settle(state);
        extended.map_err(|Stale| Error::NotLeased { sequence })
    }

    /// Does whatever a change asks for: tells members, sends the state on its way, wakes the feeder.
    fn settle(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let now = self.now();
        let mut then = Then::default();
        if !state.ended {
            self.look(&mut state, now, &mut then);
        }
        drop(state);
        for (key, worker) in then.call {
            worker.ready(key);
        }
        if then.wake {
            self.feeder.wake(self.id);
        }
        if let Some(delay) = then.due {
            self.feeder.at(self.id, delay);
        }
        if let Some((version, record)) = then.store {
            self.store(version, record);
        }
    }

    fn look(&self, state: &mut State, now: Micros, then: &mut Then) {
        for member in state.work.call(now) {
            if let Some(told) = state.members.get(&member) {
                then.call.push((told.key, Arc::clone(&told.worker)));
            }
        }
        let retry = state.retry_at.is_none_or(|at| at <= now);
        if state.work.version() > state.stored && state.under_way.is_none() && retry {
            let version = state.work.version();
            state.under_way = Some(version);
            state.retry_at = None;
            then.store = Some((version, self.record(&self.snapshot(state))));
        }
        then.wake = self.wants_feeder(state, now);
        let letters = state.letters_after.filter(|_| state.work.has_dying());
        let due = state.work.next_due().into_iter();
        let due = due
            .chain(state.retry_at)
            .chain(letters)
            .chain(state.read_after);
        let due = due.min();
        then.due = due.map(|at| Duration::from_micros(at.0.saturating_sub(now.0)));
    }

    /// Whether there is something to read or to bury.
    fn wants_feeder(&self, state: &State, now: Micros) -> bool {
        let letters = state.work.has_dying() && state.letters_after.is_none_or(|at| at <= now);
        let behind = state.work.read_from() < self.reality.bounds().durable_end;
        let reads = state.work.owed().is_some() || (behind && state.work.is_low());
        letters || (reads && state.read_after.is_none_or(|at| at <= now))
    }

    fn snapshot(&self, state: &State) -> GroupState {
        let (next, open) = state.work.snapshot();
        GroupState {
            reality: self.name.0.as_str().into(),
            group: self.name.1.to_string(),
            filter: self.filter.as_str().into(),
            next: next.get(),
            open,
            paused: state.work.paused,
            options: Some(state.asked),
            letters_from: state.letters_from.get(),
        }
    }

    fn record(&self, state: &GroupState) -> NewRecord {
        record(&self.system, &self.name, state)
    }

    fn store(self: &Arc<Self>, version: u64, record: NewRecord) {
        let storing = self.storing.read().unwrap_or_else(PoisonError::into_inner);
        if self.lock().ended {
            return;
        }
        let sink = Arc::new(Stored {
            group: Arc::clone(self),
        });
        let refused = self.system.append_own(record, sink, version).err();
        drop(storing);
        if let Some(error) = refused {
            self.stored(version, &Err(error));
        }
    }

    /// How storing a state has ended.
    fn stored(self: &Arc<Self>, version: u64, outcome: &Result<u64, AppendError>) {
        let now = self.now();
        let mut state = self.lock();
        state.under_way = None;
        match outcome {
            Ok(version) => {
                state.stored = state.stored.max(*version);
                state.work.stored(*version);
            }
            Err(error) => {
                tracing::warn!(group = %self.name.1, %error, "what a group has done is not stored yet");
                state.refused += 1;
                state.retry_at = Some(after(now));
            }
        }
        let mut told = Vec::new();
        for member in state.members.values_mut() {
            if member
                .awaits
                .is_some_and(|awaits| awaits <= version || outcome.is_err())
            {
                member.awaits = None;
                told.push((member.key, Arc::clone(&member.worker)));
            } else if member.awaits.is_some() {
                told.push((member.key, Arc::clone(&member.worker)));
            }
        }
        self.settled.notify_all();
        let empty = state.members.is_empty();
        self.settle(state);
        for (key, worker) in told {
            worker.stored(key, outcome.clone());
        }
        if empty {
            self.rest();
        }
    }

    /// Goes, if nobody works for it any more and all it has done is on disk.
    fn rest(&self) {
        if let Some(groups) = self.groups.upgrade() {
            groups.unload(&self.name, self.id);
        }
    }

    /// What is to be remembered of it, if it is at rest.
    pub(super) fn at_rest(&self) -> Option<GroupState> {
        let state = self.lock();
        let clean = state.stored == state.work.version() && state.under_way.is_none();
        let letters = state.work.has_dying() || state.work.buried().next().is_some();
        let rests = state.members.is_empty() && clean && !letters;
        (rests && !state.ended).then(|| self.snapshot(&state))
    }

    /// Is looked after by nobody any more.
    pub(super) fn dismiss(&self) {
        self.feeder.forget(self.id);
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn shown(&self) -> Shown {
        let state = self.lock();
        Shown {
            floor: state.work.floor(),
            open: state.work.open(),
            in_flight: state.work.in_flight(),
            members: state.work.members().collect(),
            paused: state.work.paused,
            lost: state.lost,
            options: state.work.options,
        }
    }

    pub(super) fn asked(&self) -> GroupOptions {
        self.lock().asked
    }

    /// Changes it, and waits until that is on disk. Blocks.
    pub(super) fn alter(self: &Arc<Self>, change: &super::Change) -> Result<(), Error> {
        let mut state = self.lock();
        self.check_there(&state)?;
        match change {
            super::Change::Options(asked) => {
                state.asked = *asked;
                state.work.options = Options::within(asked, &self.bounds);
                state.work.changed();
            }
            super::Change::Paused(paused) => {
                state.work.paused = *paused;
                state.work.changed();
            }
            super::Change::Reset(next) => {
                state.turn += 1;
                state.letters_from = self.reality.bounds().durable_end;
                state.work.reset(*next);
            }
        }
        let (version, refused) = (state.work.version(), state.refused);
        self.settle(state);
        self.wait(version, refused)
    }

    fn wait(&self, version: u64, refused: u64) -> Result<(), Error> {
        let until = Instant::now() + STORED_WITHIN;
        let mut state = self.lock();
        while state.stored < version {
            let left = until.saturating_duration_since(Instant::now());
            if state.ended || state.refused > refused || left.is_zero() {
                drop(state);
                let read_only = AppendError::ReadOnly {
                    reason: "what the group has done is not stored yet".into(),
                };
                return Err(self.system.refusal(read_only));
            }
            let waited = self.settled.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Ends it: nothing of it is stored afterwards, and its members are told. Blocks for as long as
    /// a state is handed to the log.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        let told: Vec<_> = state
            .members
            .values()
            .map(|member| (member.key, Arc::clone(&member.worker)))
            .collect();
        drop(state);
        drop(self.storing.write().unwrap_or_else(PoisonError::into_inner));
        self.settled.notify_all();
        self.dismiss();
        for (key, worker) in told {
            worker.ended(key);
        }
    }

    /// One step of the feeder's: expires, reads, buries. Blocks on the disk.
    pub(in crate::broker) fn serve(self: &Arc<Self>) {
        if let Some(attendance) = self.attendance.get() {
            attendance.look();
        }
        let now = self.now();
        let mut state = self.lock();
        if state.ended || self.reality.is_gone() {
            return;
        }
        state.work.expire(now);
        let reads = state.read_after.is_none_or(|at| at <= now);
        drop(state);
        if reads && let Err(error) = self.read() {
            // The log says more, where it is met; readers of it are told.
            tracing::warn!(group = %self.name.1, reality = %self.name.0, %error, "a group cannot read ahead");
            self.lock().read_after = Some(after(now));
        } else if reads {
            self.lock().read_after = None;
        }
        self.bury(now);
        let state = self.lock();
        self.settle(state);
    }

    fn read(&self) -> Result<(), Error> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..OWED_AT_A_TIME {
            let (owed, turn) = {
                let state = self.lock();
                (state.work.owed(), state.turn)
            };
            match owed {
                Some(sequence) => self.read_owed(sequence, turn)?,
                None => return self.read_ahead(&mut reader),
            }
        }
        Ok(())
    }

    /// Reads a record that was open when the group was last used.
    fn read_owed(&self, sequence: Sequence, turn: u64) -> Result<(), Error> {
        let found = match self.reality.log().read(sequence, sequence.next(), 1) {
            // Retention has removed it.
            Err(log::Error::OutOfRange { .. }) => Found::End,
            found => found?,
        };
        let now = self.now();
        let mut state = self.lock();
        if state.turn != turn {
            return Ok(());
        }
        if let Found::Records(chunk) = &found
            && let Some(record) = chunk.iter().find(|record| record.sequence == sequence)
        {
            take_in(&mut state.work, &record, now);
        } else {
            if matches!(found, Found::Damaged { .. }) {
                state.lost += 1;
                tracing::error!(group = %self.name.1, reality = %self.name.0, %sequence, "a record of a group is damaged on disk and given up");
            }
            state.work.forgive(sequence);
        }
        Ok(())
    }

    fn read_ahead(&self, reader: &mut Option<(u64, Source)>) -> Result<(), Error> {
        let (from, turn) = {
            let state = self.lock();
            if !state.work.is_low() {
                return Ok(());
            }
            (state.work.read_from(), state.turn)
        };
        let bounds = self.reality.bounds();
        let (from, end) = (from.max(bounds.first), bounds.durable_end);
        if from >= end {
            return Ok(());
        }
        let scanned = self.scan(reader, from, end)?;
        let now = self.now();
        let mut state = self.lock();
        if state.turn != turn {
            return Ok(());
        }
        let own = letter::topic(&self.name.1);
        for piece in scanned.pieces {
            let records = match piece {
                Piece::Run { records, .. } => records,
                Piece::Lost(lost) => {
                    let count = lost.last.get() - lost.first.get() + 1;
                    state.lost += count;
                    tracing::error!(group = %self.name.1, reality = %self.name.0, first = %lost.first, last = %lost.last, reason = lost.reason, "records are damaged on disk and given up by a group");
                    continue;
                }
            };
            // A group that cannot deal with its own letters would write one of each of them.
            for record in records.iter().filter(|record| record.topic != own) {
                if !state.work.has_room() {
                    return Ok(());
                }
                take_in(&mut state.work, &record, now);
            }
        }
        state.work.passed(scanned.next);
        Ok(())
    }

    fn scan(
        &self,
        reader: &mut Option<(u64, Source)>,
        from: Sequence,
        end: Sequence,
    ) -> Result<Scanned, Error> {
        let (opened, log) = self.reality.opened_log();
        let selection = Selection {
            filter: self.filter.clone(),
            traits: Traits::default(),
            expiry: Arc::clone(self.reality.expiry()),
            current: None,
            stop_before: None,
            stop_time: None,
        };
        let encounters = self.reality.encounters();
        if log.in_tail(from) {
            let mut scanned = Scanned::at(from);
            let found = log.read(from, end, READ_BYTES)?;
            scanned.take(found, end, &selection, encounters);
            return Ok(scanned);
        }
        let kept = reader.take().filter(|(of, _)| *of == opened);
        let source = kept.map_or_else(|| Source::new(&log, &self.filter), |(_, source)| source);
        let read = HistoryRead {
            source,
            selection,
            from,
            end,
            bytes_max: READ_BYTES,
            encounters: Arc::clone(encounters),
        };
        let history = read.run();
        *reader = Some((opened, history.source));
        Ok(history.found?)
    }

    /// Writes the letters of those that have been given up.
    fn bury(self: &Arc<Self>, now: Micros) {
        let mut state = self.lock();
        if !state.work.has_dying() || state.letters_after.is_some_and(|at| at > now) {
            return;
        }
        if state.letters_unsure {
            let from = state.work.floor().max(state.letters_from);
            drop(state);
            let known = letter::known(&self.reality, &self.name.1, from);
            state = self.lock();
            match known {
                Ok(known) => {
                    state.letters_unsure = false;
                    known
                        .into_iter()
                        .for_each(|sequence| state.work.has_letter(sequence));
                }
                Err(error) => {
                    tracing::warn!(group = %self.name.1, %error, "letters of a group cannot be looked up");
                    self.letters_later(&mut state);
                    return;
                }
            }
        }
        while let Some(dead) = state.work.bury() {
            drop(state);
            let refused = self.write_letter(&dead).err();
            state = self.lock();
            if let Some(error) = refused {
                tracing::warn!(group = %self.name.1, %error, "a dead letter is not written yet");
                state.work.lettered(dead.sequence, false);
                self.letters_later(&mut state);
                return;
            }
        }
        state.letters_after = None;
    }

    fn letters_later(&self, state: &mut State) {
        state.letters_unsure = true;
        state.letters_after = Some(after(self.now()));
    }

    fn write_letter(self: &Arc<Self>, dead: &Dead) -> Result<(), AppendError> {
        let record = match RecordView::parse(dead.record.encoded()) {
            Ok(view) => {
                let failure = Failure {
                    reason: dead.reason,
                    error: &dead.failures.error,
                    attempts: dead.failures.count,
                    first_at: dead.failures.first_at,
                    last_at: dead.failures.last_at,
                    by: &dead.failures.by,
                };
                let letter = letter::of(&self.reality, &self.name.1, &view, &failure);
                letter::record(&self.reality, &letter)
            }
            Err(error) => {
                // Its checksum was right when it was read: nobody can read what it says.
                tracing::error!(group = %self.name.1, sequence = %dead.sequence, %error, "a record that nobody can read is given up");
                self.lettered(dead.sequence, true);
                return Ok(());
            }
        };
        let sink = Arc::new(Lettered {
            group: Arc::clone(self),
        });
        self.reality.append_own(record, sink, dead.sequence.get())
    }

    fn lettered(self: &Arc<Self>, sequence: Sequence, stored: bool) {
        let mut state = self.lock();
        state.work.lettered(sequence, stored);
        if !stored {
            self.letters_later(&mut state);
        }
        let empty = state.members.is_empty();
        self.settle(state);
        if empty {
            self.rest();
        }
    }
}

/// When something that has failed is tried again.
fn after(now: Micros) -> Micros {
    let wait = u64::try_from(RETRY_AFTER.as_micros()).unwrap_or(u64::MAX);
    Micros(now.0.saturating_add(wait))
}

fn take_in(work: &mut Work, record: &log::RecordRef<'_>, now: Micros) {
    let view = RecordView::parse(record.record).ok();
    let key = view.as_ref().map(|view| view.envelope.key);
    let kept = Record {
        // Copied: a slice would keep all that was read with it in memory.
        field: bytes::Bytes::copy_from_slice(record.field),
        start: record.field.len() - record.record.len(),
        expires_at: view.as_ref().and_then(|view| {
            let at = u64::try_from(view.envelope.expires_at).ok();
            at.filter(|at| *at > 0)
                .map(|at| Micros(at.saturating_mul(1_000)))
        }),
    };
    work.take_in(record.sequence, key, kept, now);
}

/// What is stored of a group.
pub(super) fn record(system: &Reality, name: &Name, state: &GroupState) -> NewRecord {
    let topic = format!("{TOPIC_PREFIX}{}.{}", name.0, name.1);
    let data = state.encode_to_vec().into();
    system::event(system, topic, "group.state", SCHEMA, data)
}

/// Tells the feeder of new records, on commit threads.
#[derive(Debug)]
struct Wakes {
    feeder: Arc<Feeder>,
}

impl Subscriber for Wakes {
    fn ready(&self, key: u64) {
        self.feeder.wake(key);
    }
}

/// A state on its way to the disk.
#[derive(Debug)]
struct Stored {
    group: Arc<Group>,
}

impl AppendSink for Stored {
    fn appended(&self, version: u64, outcome: Result<Appended, AppendError>) {
        self.group.stored(version, &outcome.map(|_| version));
    }
}

/// A letter on its way to the disk.
#[derive(Debug)]
struct Lettered {
    group: Arc<Group>,
}

impl AppendSink for Lettered {
    fn appended(&self, sequence: u64, outcome: Result<Appended, AppendError>) {
        if let Err(error) = &outcome {
            tracing::warn!(group = %self.group.name.1, %error, "a dead letter is not written yet");
        }
        let sequence = Sequence::at_least_first(sequence);
        self.group.lettered(sequence, outcome.is_ok());
    }
}
