//! One reality: a log, and whoever reads and writes it.
//!
//! Owns the current log behind a lock, so that a poisoned one can be replaced by its reopened
//! successor while subscriptions go on. Appends do not wait; acknowledgements come through the
//! sink. Whoever holds an `Arc` of it uses it: it is closed only when nobody does. Knows no
//! session.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use uuid::Uuid;

use super::accept::{Batch, Fault, Rejection};
use super::attendance::Attendance;
use super::damage::Encounters;
use super::delta::{Chains, Declarations, Declared, Said, Stand};
use super::error::Error;
use super::expiry::Expiry;
use super::fanout::{Fanout, Subscriber, Visibility, Wanted};
use super::filter::Filter;
use super::gate::{Claims, Memory, Reach, Unmet};
use super::group::feeder::Feeder;
use super::ledger::Cache;
use super::name::{RealityName, Tenant};
use super::openings::Openings;
use super::operators::{Settings, delayed, store};
use super::producers::{Producer, ProducerClocks};
use super::repair::Repairs;
use super::stamp::IdSource;
use super::stored::{RealityBytes, Room};
use super::system;
use crate::log::{
    self, Append, AppendError, AppendSink, Bounds, Chunk, Durability, Environment, Found, Log,
    LossStatement, Micros, NewRecord, Observer, Sequence, Writer,
};
use crate::proto::view::{EnvelopeView, RecordView};

/// How far back the producers' clocks are read when a reality opens.
const CLOCKS_READ_RECORDS: u64 = 4_096;
const CLOCKS_READ_BYTES: usize = 1 << 20;

/// What all realities of a node share.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) environment: Environment,
    pub(super) options: log::Options,
    pub(super) node: u32,
    pub(super) node_name: String,
    pub(super) producers_max: usize,
    pub(super) reach: Reach,
    pub(super) ids: IdSource,
    pub(super) repairs: Repairs,
    pub(super) past: Past,
    pub(super) openings: Openings,
    pub(super) feeder: Arc<Feeder>,
    pub(super) cache: Option<Cache>,
    pub(super) settings: Settings,
}

/// What logs had counted that are closed now.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) flushes: AtomicU64,
    pub(super) damaged_reads: AtomicU64,
}

impl Ground {
    fn writer(&self, clock_key: &str) -> Writer {
        Writer {
            node: self.node,
            clock_key: clock_key.to_owned(),
        }
    }
}

/// Why a reality takes no writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOnly {
    /// What happened, for the operator.
    pub reason: String,
    /// Whether the node is trying to bring it back.
    pub repairing: bool,
}

/// A log with its readers and writers.
#[derive(Debug)]
pub struct Reality {
    ground: Arc<Ground>,
    tenant: Tenant,
    name: RealityName,
    directory: PathBuf,
    clock_key: String,
    log: RwLock<(u64, Log)>,
    shows_written: AtomicBool,
    /// It has been deleted.
    gone: AtomicBool,
    watch: Arc<Watch>,
    producers: Mutex<ProducerClocks>,
    memory: Arc<Memory>,
    declarations: Arc<Declarations>,
    chains: Arc<Chains>,
    encounters: Arc<Encounters>,
    bytes: Arc<RealityBytes>,
    expiry: Arc<Expiry>,
    keys: Mutex<store::Names>,
    later: delayed::Later,
    /// Of the node's own that are told of records.
    attending: Arc<AtomicUsize>,
}

/// What the log tells, on commit threads.
#[derive(Debug)]
struct Watch {
    fanout: Arc<Fanout>,
    read_only: Mutex<Option<ReadOnly>>,
    ground: Arc<Ground>,
    tenant: Tenant,
    name: RealityName,
}

impl Ground {
    /// Entry of the reality called `name` in vector clocks.
    pub(super) fn clock_key(&self, name: &RealityName) -> String {
        format!("{}/{name}", self.node_name)
    }
}

impl Observer for Watch {
    fn written(&self, group: &Chunk) {
        self.fanout.written(group);
    }

    fn durable(&self, durable_end: Sequence) {
        self.fanout.durable(durable_end);
    }

    fn poisoned(&self, reason: &str) {
        tracing::error!(tenant = %self.tenant, reality = %self.name, reason, "log poisoned");
        let state = ReadOnly {
            reason: reason.to_owned(),
            repairing: true,
        };
        *self
            .read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(state);
        self.ground.repairs.wanted(&self.tenant, &self.name);
    }
}

impl Reality {
    /// Opens or creates the log in `directory` and recovers it. Blocks.
    pub(super) fn open(
        ground: &Arc<Ground>,
        tenant: &Tenant,
        name: &RealityName,
        directory: PathBuf,
        bytes: Arc<RealityBytes>,
        declarations: Arc<Declarations>,
    ) -> Result<(Arc<Self>, Option<LossStatement>), Error> {
        let watch = Arc::new(Watch {
            fanout: Arc::default(),
            read_only: Mutex::new(None),
            ground: Arc::clone(ground),
            tenant: tenant.clone(),
            name: name.clone(),
        });
        let clock_key = ground.clock_key(name);
        let (log, loss) = open_log(ground, &directory, &clock_key, &watch)?;
        let clock = Arc::clone(&ground.environment.clock);
        let end = log.bounds().written_end;
        let expiry = Arc::new(Expiry::new(clock, end));
        let later = delayed::Later::new(ground.settings.delayed, end);
        let reality = Self {
            ground: Arc::clone(ground),
            tenant: tenant.clone(),
            name: name.clone(),
            directory,
            clock_key,
            log: RwLock::new((0, log)),
            shows_written: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            watch,
            producers: Mutex::new(ProducerClocks::new(ground.producers_max)),
            memory: Arc::new(Memory::new(ground.reach, ground.producers_max)),
            declarations,
            chains: Arc::default(),
            encounters: Arc::new(Encounters::new(tenant.clone(), name.clone())),
            bytes,
            expiry,
            keys: Mutex::default(),
            later,
            attending: Arc::default(),
        };
        reality.measure();
        reality.note_damage();
        reality.remember_producers();
        Ok((Arc::new(reality), loss))
    }

    /// Whose it is.
    #[must_use]
    pub const fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &RealityName {
        &self.name
    }

    /// Its own entry in the vector clock of each record.
    #[must_use]
    pub fn clock_key(&self) -> &str {
        &self.clock_key
    }

    /// The log as it is now; after a failure another takes its place.
    #[must_use]
    pub fn log(&self) -> Log {
        self.opened_log().1
    }

    /// The log as it is now, and how often it has been reopened.
    pub(super) fn opened_log(&self) -> (u64, Log) {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }

    /// Lets records be read before they are on disk, by whoever asks for it.
    pub(super) fn show_written(&self) {
        self.shows_written.store(true, Ordering::SeqCst);
        self.log().show_written();
    }

    /// How far the log reaches now.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        log.1.bounds()
    }

    /// The last sequence written, 0 when there is none.
    #[must_use]
    pub fn last_written(&self) -> u64 {
        self.bounds().written_end.get() - 1
    }

    /// Why it takes no writes, if it does not.
    #[must_use]
    pub fn read_only(&self) -> Option<ReadOnly> {
        let state = &self.watch.read_only;
        let state = state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()?;
        // Where the data directory is concerns nobody who asks over the network.
        let directory = format!("{}/", self.directory.display());
        Some(ReadOnly {
            reason: state.reason.replace(&directory, ""),
            ..state
        })
    }

    /// The damage that reading has met.
    #[must_use]
    pub const fn encounters(&self) -> &Arc<Encounters> {
        &self.encounters
    }

    /// The wall clock.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.ground.environment.clock.now()
    }

    pub(super) fn next_id(&self, now: Micros) -> Uuid {
        self.ground.ids.next(now)
    }

    /// The delta topics of its tenant.
    pub(super) const fn declarations(&self) -> &Arc<Declarations> {
        &self.declarations
    }

    /// Which of its records are of no use any more.
    pub(super) const fn expiry(&self) -> &Arc<Expiry> {
        &self.expiry
    }

    /// What waits in it for the time of its delivery.
    pub(super) const fn later(&self) -> &delayed::Later {
        &self.later
    }

    /// The keys of its store, as far as they have been asked for.
    pub(super) fn keys(&self) -> MutexGuard<'_, store::Names> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fanout(&self) -> &Arc<Fanout> {
        &self.watch.fanout
    }

    /// Tells `subscriber`, one of the node's own, of records on topics that `filter` matches, as long
    /// as the answer is held, which does not keep the log open.
    #[must_use]
    pub fn listen(
        &self,
        filter: &Filter,
        wanted: Wanted,
        visibility: Visibility,
        subscriber: Arc<dyn Subscriber>,
        key: u64,
    ) -> Attendance {
        let fanout = self.fanout();
        let interest = fanout.listen(filter, wanted, visibility, subscriber, key);
        Attendance::new(interest, &self.attending)
    }

    /// Number of subscriptions.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        let own = self.attending.load(Ordering::SeqCst);
        self.watch.fanout.len().saturating_sub(own)
    }

    /// Queues accepted envelopes, all or none; `sink` hears of them with `token`. Calls of one
    /// thread get sequences in their order.
    ///
    /// # Errors
    /// A producer's own clock went back; the log refused. The sink is then not called.
    pub fn append(
        &self,
        batch: Batch<'_>,
        durability: Durability,
        then: Option<Durability>,
        sink: Arc<dyn AppendSink>,
        token: u64,
    ) -> Result<(), Error> {
        let Batch {
            records,
            own,
            expires,
            claims,
            declared,
            ..
        } = batch;
        self.check_open()?;
        if expires {
            self.expiry.note();
        }
        let reserved = self.reserve(&records)?;
        if let Err(error) = self.bytes.admit(&records) {
            self.bytes.give_back(reserved);
            return Err(error);
        }
        let append = Append {
            records,
            durability,
            then,
            sink,
            token,
        };
        let queued = self.queue(append, own, claims, reserved, &declared);
        if queued.is_err() {
            self.bytes.give_back(reserved);
        }
        queued
    }

    /// Whether appending `batch` has to read the log first, and so may block.
    #[must_use]
    pub fn must_read_for(&self, batch: &Batch<'_>) -> bool {
        let (generation, log) = self.opened_log();
        let stand = stand(generation, &log, &batch.declared);
        batch.claims.has_steps() && !self.chains.know(stand)
            || batch.claims.remembers() && !self.memory.knows(generation)
            || batch.claims.expects() && !log.knows_lasts()
    }

    /// Queues what was made by what is `declared`.
    fn queue(
        &self,
        append: Append,
        own: Vec<super::accept::OwnEntry>,
        claims: Claims,
        reserved: u64,
        declared: &Declared,
    ) -> Result<(), Error> {
        // Until it is queued nothing is declared.
        let held = self.declarations.hold();
        if held.edition != declared.edition {
            return Err(Unmet::DeclaredMeanwhile.into());
        }
        self.queue_held(append, own, claims, reserved, &held)
    }

    fn queue_held(
        &self,
        append: Append,
        own: Vec<super::accept::OwnEntry>,
        claims: Claims,
        reserved: u64,
        declared: &Arc<Declared>,
    ) -> Result<(), Error> {
        let (generation, log) = self.opened_log();
        let stand = stand(generation, &log, declared);
        if claims.has_steps() {
            self.chains.recall(stand, &log, declared)?;
        }
        if claims.remembers() {
            self.memory.recall(generation, &log)?;
        }
        if claims.expects() {
            log.know_lasts()?;
        }
        let put = |append| {
            let queued = if claims.is_empty() {
                log.queue(append)
            } else {
                let room = Room {
                    bytes: Arc::clone(&self.bytes),
                    taken: reserved,
                };
                log.queue_if(
                    append,
                    claims.into_gate(&self.memory, &self.chains, stand, room),
                )
            };
            queued.map_err(|error| self.refusal(error))
        };
        if own.is_empty() {
            return put(append);
        }
        // Held across the append, so that two sessions of one producer cannot pass each other
        // between the check and their place in the log.
        let mut producers = self
            .producers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        check_own(&own, |producer| producers.reached(producer))?;
        put(append)?;
        for entry in own {
            producers.observe(&entry.producer, entry.counter);
        }
        Ok(())
    }

    /// Nobody writes into the laboratory but its operator, which has a way of its own
    /// ([`Reality::store_signal`]).
    pub(super) fn check_open(&self) -> Result<(), Error> {
        if self.name.is_lab() {
            let reality = self.name.clone();
            return Err(Error::RealityClosed { reality });
        }
        Ok(())
    }

    /// Takes room for `records` in what the tenant may store.
    fn reserve(&self, records: &[NewRecord]) -> Result<u64, Error> {
        if !self.bytes.counts() {
            return Ok(0);
        }
        let size = |record: &NewRecord| {
            record.topic.len()
                + record.clock_entries.len()
                + record.stamp.len()
                + record.envelope.len()
        };
        let bytes = records.iter().map(size).sum();
        self.bytes.reserve(records.len(), bytes)
    }

    /// Replaces what was counted of its bytes by what the log says. May wait for a flush.
    pub(super) fn measure(&self) {
        // Those of the node itself are no tenant's doing.
        if self.bytes.counts_topics() && !self.name.is_system() {
            match self.log().topics() {
                Ok(topics) => self.bytes.set_topics(&topics),
                Err(error) => {
                    tracing::warn!(tenant = %self.tenant, reality = %self.name, %error, "topics not counted");
                }
            }
        }
        if self.bytes.counts() {
            let log = self.log();
            let waiting = log.waiting_bytes();
            self.bytes.set(log.used_bytes() + waiting as u64);
        }
    }

    /// Gets written what [`Reality::append`] has queued. Called when no more is at hand, so that
    /// what comes together is written together.
    pub fn start(&self) {
        self.log().start();
    }

    /// Why an append was refused, with the reason that the log has for taking none.
    #[must_use]
    pub fn refusal(&self, error: AppendError) -> Error {
        match error {
            AppendError::ReadOnly { .. } if self.is_gone() => Error::RealityDeleted {
                reality: self.name.clone(),
            },
            AppendError::ReadOnly { .. } => self.read_only().map_or_else(
                // Reopened meanwhile: sending again will do.
                || Error::Append(error),
                |state| Error::ReadOnly {
                    tenant: self.tenant.clone(),
                    reality: self.name.clone(),
                    state,
                },
            ),
            AppendError::NoSpace { .. }
            | AppendError::Busy { .. }
            | AppendError::Indeterminate { .. }
            | AppendError::ConditionNotMet { .. }
            | AppendError::TooLarge { .. } => Error::Append(error),
        }
    }

    /// Queues a record of the broker's own, on a topic that the node alone appends to; `sink` hears
    /// of it when it is on disk.
    pub(super) fn append_own(
        &self,
        record: NewRecord,
        sink: Arc<dyn AppendSink>,
        token: u64,
    ) -> Result<(), AppendError> {
        self.expiry.note_envelope(&record.envelope);
        self.log().append(Append {
            records: vec![record],
            durability: system::DURABILITY,
            then: None,
            sink,
            token,
        })
    }

    /// The same for several records on any topics, all or none. May block on the disk.
    pub(super) fn append_all_own(
        &self,
        records: Vec<NewRecord>,
        sink: Arc<dyn AppendSink>,
        token: u64,
    ) -> Result<(), Error> {
        let append = Append {
            records,
            durability: system::DURABILITY,
            then: None,
            sink,
            token,
        };
        self.append_own_if(append, Claims::default())
    }

    /// Appends what the node has to say itself: on delta topics too, where it may end a chain.
    fn append_own_if(&self, append: Append, mut claims: Claims) -> Result<(), Error> {
        let declared = self.declarations.hold();
        for (index, record) in append.records.iter().enumerate() {
            self.expiry.note_envelope(&record.envelope);
            let topic = std::str::from_utf8(&record.topic).unwrap_or_default();
            if declared.is_delta(topic)
                && let Ok(view) = EnvelopeView::parse(&record.envelope)
                && !view.key.is_empty()
            {
                claims.step(index, topic, view.key, Said::of(&view), false);
            }
        }
        self.queue_held(append, Vec::new(), claims, 0, &declared)?;
        drop(declared);
        self.start();
        Ok(())
    }

    /// The same under a condition. May block on the disk.
    pub(super) fn append_all_if(
        &self,
        records: Vec<NewRecord>,
        claims: Claims,
        sink: Arc<dyn AppendSink>,
    ) -> Result<(), Error> {
        let append = Append {
            records,
            durability: system::DURABILITY,
            then: None,
            sink,
            token: 0,
        };
        self.append_own_if(append, claims)
    }

    /// Replaces a poisoned log by its reopened successor. Blocks.
    pub(super) fn reopen(&self) -> Result<Option<LossStatement>, Error> {
        // What could not be flushed at the first failure need not be flushable now: only what
        // recovery finds counts.
        if let Err(error) = self.log().close() {
            tracing::warn!(tenant = %self.tenant, reality = %self.name, %error, "poisoned log closed");
        }
        self.remember_flushes();
        self.open_again()
    }

    /// Repairs a damaged log and goes on with it; `None` if nothing was damaged. Blocks for as long
    /// as it takes to read all of it.
    pub(super) fn mend(&self) -> Result<Option<LossStatement>, Error> {
        if let Err(error) = self.log().close() {
            tracing::warn!(tenant = %self.tenant, reality = %self.name, %error, "log closed for its repair");
        }
        self.remember_flushes();
        let writer = self.ground.writer(&self.clock_key);
        let repaired = Log::repair(
            &self.ground.environment,
            &self.directory,
            &writer,
            &self.ground.options,
            &log::Unthrottled,
        );
        // Whatever came of it, the reality goes on with the log that is there.
        let reopened = self.open_again()?;
        let repaired = repaired?;
        if repaired.is_some() {
            self.encounters.forget();
        }
        Ok(repaired.or(reopened.filter(|loss| !loss.damages.is_empty())))
    }

    fn open_again(&self) -> Result<Option<LossStatement>, Error> {
        let (log, loss) = open_log(&self.ground, &self.directory, &self.clock_key, &self.watch)?;
        {
            let mut current = self.log.write().unwrap_or_else(PoisonError::into_inner);
            *current = (current.0 + 1, log.clone());
        }
        if self.shows_written.load(Ordering::SeqCst) {
            log.show_written();
        }
        *self
            .watch
            .read_only
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        self.note_damage();
        self.measure();
        self.watch.fanout.look_again();
        Ok(loss)
    }

    /// Refuses if the log has no keys that could be destroyed.
    pub(super) fn check_keys(&self) -> Result<(), Error> {
        if self.log().has_keys()? {
            return Ok(());
        }
        Err(Error::Log(log::Error::NotEncrypted {
            path: self.directory.clone(),
        }))
    }

    /// Whether it has been deleted: then another of its name is another.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// That it has been deleted, if it has.
    ///
    /// # Errors
    /// It has.
    pub fn check_there(&self) -> Result<(), Error> {
        if self.is_gone() {
            let reality = self.name.clone();
            return Err(Error::RealityDeleted { reality });
        }
        Ok(())
    }

    /// Takes no more writes, for good, and tells everybody who reads. Blocks.
    pub(super) fn end(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.close();
        self.watch.fanout.look_again();
    }

    /// Closes the log and destroys its keys for good, in memory too: whoever still reads it is told
    /// that its records are lost. Blocks.
    pub(super) fn shred_keys(&self) -> Result<(), Error> {
        let state = ReadOnly {
            reason: "its keys were destroyed on purpose".to_owned(),
            repairing: false,
        };
        let slot = &self.watch.read_only;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        self.log().shred(&self.ground.environment)?;
        self.watch.fanout.look_again();
        Ok(())
    }

    /// The same for a log that is not open, which may be because its keys are not at hand.
    pub(super) fn shred_closed(
        ground: &Ground,
        name: &RealityName,
        directory: &std::path::Path,
    ) -> Result<(), Error> {
        let writer = Writer {
            node: ground.node,
            clock_key: format!("{}/{name}", ground.node_name),
        };
        Ok(log::shred(&ground.environment, directory, &writer)?)
    }

    /// Flushes and closes the log. Blocks.
    pub(super) fn close(&self) {
        if let Err(error) = self.log().close() {
            tracing::error!(tenant = %self.tenant, reality = %self.name, %error, "log not closed cleanly");
        }
        self.measure();
        self.remember_flushes();
        let reads = self.encounters.reads();
        let past = &self.ground.past.damaged_reads;
        past.fetch_add(reads, Ordering::Relaxed);
    }

    /// Keeps what a log that goes has counted.
    fn remember_flushes(&self) {
        let flushes = self.log().flushes();
        let past = &self.ground.past.flushes;
        past.fetch_add(flushes, Ordering::Relaxed);
    }

    /// Whether nothing is lost to the node's operators if it is closed: one that takes no writes,
    /// or in which reading or scrubbing has met damage, stays open to say so.
    pub(super) fn is_healthy(&self) -> bool {
        self.read_only().is_none()
            && self.encounters.reads() == 0
            && self.log().scrub_status().damages.is_empty()
    }

    /// A log with damage opens read-only, and opening it again would not help.
    fn note_damage(&self) {
        let Some(reason) = self.log().status().read_only else {
            return;
        };
        tracing::error!(tenant = %self.tenant, reality = %self.name, reason, "log opened read-only");
        let state = ReadOnly {
            reason,
            repairing: false,
        };
        let slot = &self.watch.read_only;
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    /// Rebuilds what producers' own clocks had reached from the end of the log (MSG-06).
    fn remember_producers(&self) {
        let log = self.log();
        let Bounds {
            first, written_end, ..
        } = log.bounds();
        let mut from =
            Sequence::at_least_first(written_end.get().saturating_sub(CLOCKS_READ_RECORDS))
                .max(first);
        let mut producers = self
            .producers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while from < written_end {
            match log.read(from, written_end, CLOCKS_READ_BYTES) {
                Ok(Found::Records(chunk)) => {
                    for record in chunk.iter() {
                        remember(&mut producers, record.record);
                    }
                    from = chunk.last.next();
                }
                Ok(Found::Damaged { damage, next }) => {
                    self.encounters.note(&damage, from, next);
                    from = next;
                }
                Ok(Found::End) => break,
                Err(error) => {
                    tracing::error!(tenant = %self.tenant, reality = %self.name, %error, "producers' clocks not rebuilt");
                    break;
                }
            }
        }
    }
}

/// What the chains of deltas must have been read of.
fn stand(generation: u64, log: &Log, declared: &Declared) -> Stand {
    Stand {
        generation,
        edition: declared.edition,
        removals: log.removals(),
    }
}

fn remember(producers: &mut ProducerClocks, record: &[u8]) {
    let Ok(view) = RecordView::parse(record) else {
        return;
    };
    let producer = view.producer();
    let own = view.clock.entries().find(|(name, _)| *name == producer);
    if let Some((_, counter)) = own {
        producers.restore(producer, counter);
    }
}

/// Checks that no producer's own entry goes back, neither against `reached` nor within the batch.
fn check_own(
    own: &[super::accept::OwnEntry],
    reached: impl Fn(&Producer) -> Option<u64>,
) -> Result<(), Rejection> {
    let mut within = std::collections::HashMap::new();
    for entry in own {
        let known = within
            .get(&entry.producer)
            .copied()
            .or_else(|| reached(&entry.producer));
        if let Some(reached) = known.filter(|reached| entry.counter < *reached) {
            return Err(Rejection {
                index: Some(entry.index),
                field: "clock",
                fault: Fault::ClockBack {
                    found: entry.counter,
                    reached,
                },
            });
        }
        within.insert(&entry.producer, entry.counter);
    }
    Ok(())
}

fn open_log(
    ground: &Ground,
    directory: &std::path::Path,
    clock_key: &str,
    watch: &Arc<Watch>,
) -> Result<(Log, Option<LossStatement>), Error> {
    let writer = ground.writer(clock_key);
    let observer = Arc::clone(watch) as Arc<dyn Observer>;
    let opened = Log::open(
        &ground.environment,
        directory,
        &writer,
        &ground.options,
        observer,
    );
    opened.map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        tracing::error!(%error, source, "log not opened");
        error.into()
    })
}
