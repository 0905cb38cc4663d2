//! One projection of one log into one sink: reads, decides, commits, and says how far it is.
//!
//! ```text
//! log ─► records of its topics ─► projection.read ─┬─► poison ─► dead letter, on disk ──┐
//!                                                  └─► sink.look_up ─► fold ─► commit ◄──┘
//! ```
//!
//! Worked on by one thread of its sink at a time ([`super::schedule`]), a slice of batches each
//! turn. A commit moves the position from where it was read from: after any error the lane takes
//! its place anew and goes on from what the sink says, so that every record has its effect once
//! (PRJ-01).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::batch::{Batch, Limits, Pending, Reading, chained, decide};
use super::fold::{Chain, Known, Outcome, Repeats};
use super::letters::Letters;
use super::logs::{Feed, Listening, Logs, LogsError, NewEvent};
use super::notes;
use super::options::Options;
use super::projection::{Change, Poison, Projection};
use super::sink::{Commit, Place, Position, Sink, SinkError, SinkKind};
use super::standing::{Standing, State};
use crate::log::{Clock, Log, Micros, Sequence};
use crate::proto::view::RecordView;

/// Batches of one lane before others have their turn.
const BATCHES_A_TURN: usize = 16;
/// Records behind the end that are read through the memory of the log; more are looked up by topic.
const NEAR_RECORDS: u64 = 10_000;
/// Records of other topics that are passed before the position is stored for them alone.
const PASSED_UNSTORED_MAX: u64 = 50_000;

/// What all lanes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) logs: Arc<dyn Logs>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: Options,
    pub(super) runtime: Handle,
    /// Turns true when nothing is waited for any more.
    pub(super) closed: watch::Sender<bool>,
}

impl Shared {
    /// Returns when nothing is waited for any more.
    pub(super) async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        // The sender is held here, so that there is no error.
        drop(closed.wait_for(|closed| *closed).await);
    }
}

/// A lane.
#[derive(Debug)]
pub(super) struct Lane {
    shared: Arc<Shared>,
    projection: Arc<dyn Projection>,
    sink: Arc<dyn Sink>,
    place: Place,
    letters: Arc<Letters>,
    /// Of [`super::schedule`], changed under its lock alone.
    pub(super) slot: AtomicU8,
    run: Mutex<Run>,
    listening: Mutex<Option<Box<dyn Listening>>>,
    standing: Mutex<Standing>,
    /// The log, as long as it is read.
    reading: Mutex<Option<Log>>,
    paused: AtomicBool,
    /// Go on although records were removed before they were projected.
    skip_removed: AtomicBool,
    next: watch::Sender<Sequence>,
    asked: Mutex<HashMap<Sequence, oneshot::Sender<Outcome>>>,
}

/// What only the one who works on a lane touches.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Held as long as there is something to read, so that an unused log can be closed.
    feed: Option<Arc<dyn Feed>>,
    /// `None`: to be asked of the sink.
    held: Option<Held>,
    prepared: bool,
    failures: u32,
    poison: PoisonRate,
}

/// A place that is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// As the sink has it; `None` as long as nothing was found to project.
    stored: Option<Position>,
    /// All before is done, or of no interest.
    next: Sequence,
    chain: Chain,
    /// Since the last one that the log was told of.
    unrecorded: u64,
    recorded_at: Instant,
}

#[derive(Debug, Default)]
struct PoisonRate {
    since: Option<Instant>,
    count: u64,
}

/// When a lane is to be worked on again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// When it is told of records.
    OnWake,
    /// After others.
    Soon,
    /// Not before this has passed.
    After(Duration),
}

/// Why a lane cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("the log cannot be read or written: {0}")]
    Log(#[from] LogsError),
    #[error(
        "records {from} to {before} were removed from the log before they were projected; resume with skip to go on without them, or rebuild"
    )]
    Removed { from: Sequence, before: Sequence },
    #[error(
        "the log ends at {end}, before the position {next}: it is not the log that was projected; rebuild"
    )]
    Regressed { next: Sequence, end: Sequence },
    #[error(
        "{count} dead letters within a minute, more than projections.poison_per_minute_max; look at them, then resume"
    )]
    PoisonRate { count: u64 },
}

impl Trouble {
    /// Whether trying again can help.
    const fn passes(&self) -> bool {
        match self {
            Self::Sink(error) => matches!(
                error,
                // Fenced: whoever took the place may be gone again.
                SinkError::Unavailable { .. }
                    | SinkError::Fenced { .. }
                    | SinkError::Rejected { .. }
                    | SinkError::Unfit { .. }
            ),
            Self::Log(error) => error.passing,
            Self::Removed { .. } | Self::Regressed { .. } | Self::PoisonRate { .. } => false,
        }
    }
}

impl Lane {
    pub(super) fn new(
        shared: Arc<Shared>,
        projection: Arc<dyn Projection>,
        sink: Arc<dyn Sink>,
        place: Place,
        letters: Arc<Letters>,
    ) -> Self {
        Self {
            shared,
            projection,
            sink,
            place,
            letters,
            slot: AtomicU8::new(0),
            run: Mutex::default(),
            listening: Mutex::default(),
            standing: Mutex::default(),
            reading: Mutex::default(),
            paused: AtomicBool::new(false),
            skip_removed: AtomicBool::new(false),
            next: watch::channel(Sequence::FIRST).0,
            asked: Mutex::default(),
        }
    }

    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    pub(super) const fn projection(&self) -> &Arc<dyn Projection> {
        &self.projection
    }

    pub(super) const fn sink(&self) -> &Arc<dyn Sink> {
        &self.sink
    }

    pub(super) fn kind(&self) -> SinkKind {
        self.sink.kind()
    }

    /// Hears of records from now on through `listening`.
    pub(super) fn listen(&self, listening: Box<dyn Listening>) {
        *lock(&self.listening) = Some(listening);
    }

    pub(super) fn standing(&self) -> Standing {
        let mut standing = lock(&self.standing);
        self.look_at_the_end(&mut standing);
        standing.clone()
    }

    /// Shows how it stands; `see` must be quick.
    pub(super) fn with_standing(&self, see: impl FnOnce(&Standing)) {
        let mut standing = lock(&self.standing);
        self.look_at_the_end(&mut standing);
        see(&standing);
    }

    /// A batch can take long, and the log grows meanwhile.
    fn look_at_the_end(&self, standing: &mut Standing) {
        if let Some(log) = &*lock(&self.reading) {
            standing.lag_records = log.bounds().durable_end.since(*self.next.borrow());
        }
    }

    /// Nothing is to be read for now, so that the log can be closed.
    fn let_go(&self, run: &mut Run) {
        run.feed = None;
        *lock(&self.reading) = None;
    }

    /// Whether it was paused by somebody.
    pub(super) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
        self.mark(if paused {
            State::Paused
        } else {
            State::Running
        });
    }

    /// Lets it go on without what was removed from the log.
    pub(super) fn skip_removed(&self) {
        self.skip_removed.store(true, Ordering::SeqCst);
    }

    fn mark(&self, state: State) {
        lock(&self.standing).state = state;
    }

    /// Where it is, for those who wait for it.
    pub(super) fn watch(&self) -> watch::Receiver<Sequence> {
        self.next.subscribe()
    }

    /// Tells what becomes of a record that was just appended. Must be asked before the lane has
    /// passed it; one that nobody projects is never answered.
    pub(super) fn ask(&self, sequence: Sequence) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        let mut asked = lock(&self.asked);
        asked.retain(|_, sender| !sender.is_closed());
        asked.insert(sequence, sender);
        receiver
    }

    /// Keeps the lane from moving as long as the guard lives: for those who change the same rows.
    pub(super) fn hold(&self) -> MutexGuard<'_, Run> {
        lock(&self.run)
    }

    /// Where it stands, if it knows: the first record that it has not passed, and what the sink has
    /// stored of it.
    pub(super) fn held(run: &Run) -> Option<(Sequence, Option<Position>)> {
        run.held.map(|held| (held.next, held.stored))
    }

    /// Whatever it knows of its place is asked anew.
    pub(super) fn release(run: &mut Run) {
        run.held = None;
    }

    /// Where it left its place, if it is at rest and holds it.
    fn left_at(&self) -> Option<Position> {
        self.run.try_lock().ok()?.held?.stored
    }

    /// Whether the sink still stands where the lane left it. A database that was restored from a
    /// backup does not; the lane then begins anew from what is there.
    ///
    /// # Errors
    /// The sink does not answer.
    pub(super) async fn is_where_it_was_left(&self) -> Result<bool, SinkError> {
        let Some(left) = self.left_at() else {
            return Ok(true);
        };
        let there = self.sink.position(&self.place).await?;
        if there == Some(left) || self.left_at() != Some(left) {
            return Ok(true);
        }
        Self::release(&mut lock(&self.run));
        Ok(false)
    }

    /// Works for a while.
    pub(super) fn turn(&self) -> Due {
        let mut run = lock(&self.run);
        if self.paused.load(Ordering::SeqCst) {
            self.let_go(&mut run);
            self.measure(&run);
            lock(&self.standing).is_paused();
            return Due::OnWake;
        }
        match self.advance(&mut run) {
            Ok(due) => {
                run.failures = 0;
                if due == Due::OnWake {
                    self.let_go(&mut run);
                }
                lock(&self.standing).works();
                due
            }
            Err(trouble) => {
                run.held = None;
                self.let_go(&mut run);
                self.measure(&run);
                let now = self.shared.clock.now();
                let passes = trouble.passes();
                lock(&self.standing).fails(&trouble.to_string(), now, passes);
                let Place {
                    projection, tenant, ..
                } = &self.place;
                tracing::warn!(projection, tenant, sink = %self.kind(), error = %trouble, "projection waits");
                if !passes {
                    self.paused.store(true, Ordering::SeqCst);
                    return Due::OnWake;
                }
                run.failures = run.failures.saturating_add(1);
                Due::After(self.shared.options.retry_after(run.failures))
            }
        }
    }

    /// How far behind it is while it does not work: its lag grows on.
    fn measure(&self, run: &Run) {
        let Ok(feed) = self
            .shared
            .logs
            .open(&self.place.tenant, &self.place.reality)
        else {
            return;
        };
        if let Some(listening) = &*lock(&self.listening) {
            listening.look();
        }
        let reached = *self.next.borrow();
        let next = match run.held {
            Some(held) => held.next,
            // It was paused when the node started; a sink that is away says nothing.
            None if reached == Sequence::FIRST && self.paused.load(Ordering::SeqCst) => {
                match self.block_on(self.sink.position(&self.place)) {
                    Ok(Some(stored)) => stored.next,
                    Ok(None) | Err(_) => reached,
                }
            }
            None => reached,
        };
        self.next.send_if_modified(|known| {
            let moved = next > *known;
            *known = next.max(*known);
            moved
        });
        let end = feed.log().bounds().durable_end;
        let behind = end.get().saturating_sub(next.get());
        lock(&self.standing).waits(behind, self.shared.clock.now());
    }

    /// A turn panicked.
    pub(super) fn broke(&self) -> Due {
        let mut run = lock(&self.run);
        *run = Run::default();
        let now = self.shared.clock.now();
        lock(&self.standing).fails("a defect of the node; its log says more", now, true);
        Due::After(self.shared.options.retry_max)
    }

    /// Waits for the sink; not once the node closes: what is under way is not committed then, or its
    /// answer is lost, and the next start goes on from what the sink says.
    fn block_on<T>(
        &self,
        future: impl Future<Output = Result<T, SinkError>>,
    ) -> Result<T, SinkError> {
        self.shared.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.shared.closed() => Err(SinkError::Unavailable {
                    sink: self.kind(),
                    reason: "the node is shutting down".to_owned(),
                }),
                done = future => done,
            }
        })
    }

    fn advance(&self, run: &mut Run) -> Result<Due, Trouble> {
        if !run.prepared {
            self.block_on(self.sink.prepare(&*self.projection))?;
            run.prepared = true;
        }
        let feed = match &run.feed {
            Some(feed) => Arc::clone(feed),
            None => {
                let opened = self
                    .shared
                    .logs
                    .open(&self.place.tenant, &self.place.reality)?;
                *lock(&self.reading) = Some(opened.log());
                Arc::clone(run.feed.insert(opened))
            }
        };
        let payloads = self.shared.logs.payloads();
        if self.projection.needs_schemas() && !payloads.are_known(&self.place.tenant) {
            return Err(LogsError {
                reason: "the schemas of the tenant cannot be read".to_owned(),
                passing: true,
            }
            .into());
        }
        let mut held = match run.held {
            Some(held) => held,
            None => self.begin(&*feed)?,
        };
        for _ in 0..BATCHES_A_TURN {
            if let Some(listening) = &*lock(&self.listening) {
                listening.look();
            }
            let bounds = feed.log().bounds();
            self.check_there(&mut held, bounds.first, bounds.durable_end)?;
            if held.next >= bounds.durable_end {
                self.rest(&*feed, &mut held)?;
                run.held = Some(held);
                return Ok(Due::OnWake);
            }
            let Batch { pending, upto, .. } = self.read(&*feed, held.next, bounds.durable_end)?;
            if let Some(first) = pending.first() {
                lock(&self.standing)
                    .working_on(first.appended_at, bounds.durable_end.since(held.next));
            }
            let dead = pending.iter().filter(|one| one.meaning.is_err()).count();
            self.project(&*feed, &mut held, pending, upto)?;
            run.held = Some(held);
            self.check_poison(&mut run.poison, dead)?;
        }
        Ok(Due::Soon)
    }

    /// Takes the place, if it was ever taken, or begins to look for something to project.
    fn begin(&self, feed: &dyn Feed) -> Result<Held, Trouble> {
        let known = self.block_on(self.sink.position(&self.place))?;
        let stored = match known {
            Some(_) => Some(self.block_on(self.sink.take(&self.place))?),
            None => None,
        };
        let log = feed.log();
        let next = match (stored, self.sink.horizon(&*self.projection)) {
            (Some(stored), _) => stored.next,
            (None, None) => log.bounds().first,
            (None, Some(horizon)) => {
                let micros = u64::try_from(horizon.as_micros()).unwrap_or(u64::MAX);
                let time = self.shared.clock.now().0.saturating_sub(micros);
                log.seek_time(Micros(time)).map_err(LogsError::from)?
            }
        };
        let topic = &self.projection.dead_letters().topic;
        self.letters.recover(feed, topic, self.kind(), next)?;
        self.next.send_replace(next);
        Ok(Held {
            stored,
            next,
            chain: Chain(stored.map_or([0; 32], |stored| stored.hash)),
            unrecorded: 0,
            recorded_at: Instant::now(),
        })
    }

    fn check_there(&self, held: &mut Held, first: Sequence, end: Sequence) -> Result<(), Trouble> {
        if held.next > end {
            let next = held.next;
            return Err(Trouble::Regressed { next, end });
        }
        if held.next >= first {
            return Ok(());
        }
        if held
            .stored
            .is_some_and(|stored| stored.next > Sequence::FIRST)
            && !self.skip_removed.swap(false, Ordering::SeqCst)
        {
            let (from, before) = (held.next, Sequence::at_least_first(first.get() - 1));
            return Err(Trouble::Removed { from, before });
        }
        held.next = first;
        Ok(())
    }

    fn reading(&self) -> Reading<'_> {
        Reading {
            projection: &*self.projection,
            place: &self.place,
            payloads: self.shared.logs.payloads(),
        }
    }

    /// Records of the topics from `next` on, and where to go on behind them.
    fn read(&self, feed: &dyn Feed, next: Sequence, end: Sequence) -> Result<Batch, Trouble> {
        let (reading, log) = (self.reading(), feed.log());
        let limits = Limits {
            records: self.shared.options.batch_records_max,
            bytes: self.shared.options.batch_bytes_max,
        };
        let mut by_topic = (end.since(next) > NEAR_RECORDS).then(|| reading.by_topic(&log));
        let batch = reading.read(&log, by_topic.as_mut(), next, end, limits)?;
        let lost = batch.lost.iter().map(|lost| lost.end.since(lost.start));
        lock(&self.standing).lost += lost.sum::<u64>();
        Ok(batch)
    }

    /// Makes the dead letter of a record, unless there is one.
    fn bury(&self, feed: &dyn Feed, pending: &Pending, poison: &Poison) -> Result<(), Trouble> {
        // It was decoded when it was read.
        let Ok(view) = RecordView::parse(&pending.record) else {
            return Ok(());
        };
        let reading = self.reading();
        let source = reading.source(&view, pending.sequence, pending.appended_at);
        self.letters
            .ensure(feed, &*self.projection, &source, poison)?;
        Ok(())
    }

    /// Decides and commits `pending`, and moves to `upto`. What a sink refuses is found by halves,
    /// and becomes a dead letter.
    fn project(
        &self,
        feed: &dyn Feed,
        held: &mut Held,
        mut pending: Vec<Pending>,
        upto: Sequence,
    ) -> Result<(), Trouble> {
        if pending.is_empty() {
            return self.pass(held, upto);
        }
        for one in &pending {
            if let Err(poison) = &one.meaning {
                self.bury(feed, one, poison)?;
            }
        }
        let started = Instant::now();
        match self.commit(held, &pending, upto) {
            Ok(outcomes) => {
                let newest = pending.last().map(|one| one.appended_at);
                self.tell(&pending, &outcomes);
                self.note_stale(&outcomes);
                lock(&self.standing).took(
                    &outcomes,
                    newest,
                    started.elapsed(),
                    self.shared.clock.now(),
                );
                self.next.send_replace(upto);
                self.letters.passed(self.kind(), upto);
                held.unrecorded += pending.len() as u64;
                self.record(feed, held);
                Ok(())
            }
            // What is refused without a record in it is no fault of any record.
            Err(error @ SinkError::Rejected { .. })
                if pending.iter().all(|one| one.meaning.is_err()) =>
            {
                Err(error.into())
            }
            Err(SinkError::Rejected { reason, .. }) if pending.len() == 1 => {
                let poison = Poison::refused(self.kind(), reason);
                self.bury(feed, &pending[0], &poison)?;
                pending[0].meaning = Err(poison);
                self.project(feed, held, pending, upto)
            }
            Err(SinkError::Rejected { .. }) => {
                let second = pending.split_off(pending.len() / 2);
                let between = second[0].sequence;
                self.project(feed, held, pending, between)?;
                self.project(feed, held, second, upto)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn commit(
        &self,
        held: &mut Held,
        pending: &[Pending],
        upto: Sequence,
    ) -> Result<Vec<Outcome>, SinkError> {
        let stored = match held.stored {
            Some(stored) => stored,
            None => {
                let taken = self.block_on(self.sink.take(&self.place))?;
                held.stored = Some(taken);
                taken
            }
        };
        let decided = self.block_on(decide(
            &mut Known::default(),
            &*self.sink,
            &*self.projection,
            &self.place,
            pending,
            Repeats::AreDone,
        ))?;
        let outcomes = decided.outcomes;
        let chain = chained(held.chain, pending, &outcomes);
        let to = Position {
            next: upto,
            epoch: stored.epoch,
            hash: chain.0,
        };
        let commit = Commit {
            writes: decided.writes,
            moves: Some((stored, to)),
            epoch: stored.epoch,
        };
        self.block_on(self.sink.commit(&*self.projection, &self.place, &commit))?;
        held.stored = Some(to);
        held.next = upto;
        held.chain = chain;
        Ok(self.told(pending, outcomes))
    }

    /// Outcomes as they are counted and told: a dead letter's own record is a row, but no event of
    /// the projection.
    fn told(&self, pending: &[Pending], mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
        let letters = self.projection.dead_letters().table;
        let of_letters = |change: &Change| {
            let (Change::Put { table, .. } | Change::Remove { table, .. }) = change;
            *table == letters
        };
        for (one, outcome) in pending.iter().zip(&mut outcomes) {
            if matches!(&one.meaning, Ok(changes) if changes.iter().any(of_letters)) {
                *outcome = Outcome::Ignored;
            }
        }
        outcomes
    }

    /// Moves past records that are of no interest; stores it once they are many.
    fn pass(&self, held: &mut Held, upto: Sequence) -> Result<(), Trouble> {
        if let Some(stored) = held.stored
            && upto.since(stored.next) > PASSED_UNSTORED_MAX
        {
            let to = Position {
                next: upto,
                ..stored
            };
            let commit = Commit {
                writes: Vec::new(),
                moves: Some((stored, to)),
                epoch: stored.epoch,
            };
            self.block_on(self.sink.commit(&*self.projection, &self.place, &commit))?;
            held.stored = Some(to);
        }
        held.next = upto;
        self.next.send_replace(upto);
        Ok(())
    }

    fn tell(&self, pending: &[Pending], outcomes: &[Outcome]) {
        let mut asked = lock(&self.asked);
        if asked.is_empty() {
            return;
        }
        for (one, outcome) in pending.iter().zip(outcomes) {
            if let Some(sender) = asked.remove(&one.sequence) {
                // An error means that whoever asked has gone.
                if sender.send(*outcome).is_err() {
                    continue;
                }
            }
        }
    }

    /// Says that events were older than what is known (PRJ-03). The table of events has which.
    fn note_stale(&self, outcomes: &[Outcome]) {
        let stale = outcomes.iter().filter(|one| **one == Outcome::Stale);
        let count = lock(&self.standing).stale_to_tell(stale.count() as u64);
        if count > 0 {
            let Place {
                projection, tenant, ..
            } = &self.place;
            tracing::info!(projection, tenant, sink = %self.kind(), count, "stale events were rejected");
        }
    }

    /// Nothing is left to do.
    fn rest(&self, feed: &dyn Feed, held: &mut Held) -> Result<(), Trouble> {
        lock(&self.standing).rests();
        if held.unrecorded > 0
            && held.recorded_at.elapsed() >= self.shared.options.checkpoint_interval
        {
            self.record_now(feed, held);
        }
        Ok(())
    }

    fn record(&self, feed: &dyn Feed, held: &mut Held) {
        if held.unrecorded >= self.shared.options.checkpoint_records {
            self.record_now(feed, held);
        }
    }

    /// Tells the log where the lane stands, and the hash over what was projected (PRJ-18).
    fn record_now(&self, feed: &dyn Feed, held: &mut Held) {
        if let Some(stored) = held.stored {
            let event: NewEvent = notes::checkpoint(&self.place.projection, self.kind(), stored);
            feed.note(event);
            held.unrecorded = 0;
            held.recorded_at = Instant::now();
        }
    }

    fn check_poison(&self, rate: &mut PoisonRate, dead: usize) -> Result<(), Trouble> {
        let limit = self.shared.options.poison_per_minute_max;
        if limit == 0 || dead == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let fresh = rate
            .since
            .is_some_and(|since| now.duration_since(since) < Duration::from_secs(60));
        if !fresh {
            (rate.since, rate.count) = (Some(now), 0);
        }
        rate.count += dead as u64;
        if rate.count > limit {
            let count = rate.count;
            rate.since = None;
            return Err(Trouble::PoisonRate { count });
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
