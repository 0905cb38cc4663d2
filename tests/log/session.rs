//! One opening of a log, with somebody who writes down all that it says.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arqonbus::log::{
    Append, AppendError, AppendSink, Appended, Chunk, Clock, Committer, Durability, Environment,
    Error, Log, LossStatement, Micros, NewRecord, Observer, Options, Sequence, Writer,
};
use bytes::Bytes;

use crate::history::{CLOCK_KEY, History};
use crate::sim_storage::SimStorage;

pub(crate) const DIR: &str = "/data/dev/main";
/// When time begins.
pub(crate) const START: u64 = 1_700_000_000_000_000;

/// A wall clock that tests move.
#[derive(Debug)]
pub(crate) struct SimClock(AtomicU64);

impl SimClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(START)))
    }

    pub(crate) fn set(&self, now: Micros) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    pub(crate) fn shift(&self, micros: i64) {
        self.0.fetch_add(micros.cast_unsigned(), Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Micros {
        Micros(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Answered(u64, Result<Appended, AppendError>),
    Written(Chunk),
    Durable(Sequence),
    Poisoned(String),
}

/// Sink and observer.
#[derive(Debug, Default)]
pub(crate) struct Scribe {
    events: Mutex<Vec<Event>>,
}

impl Scribe {
    fn note(&self, event: Event) {
        self.events
            .lock()
            .expect("notes are taken without panic")
            .push(event);
    }

    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().expect("notes are taken without panic"))
    }
}

impl AppendSink for Scribe {
    fn appended(&self, token: u64, outcome: Result<Appended, AppendError>) {
        self.note(Event::Answered(token, outcome));
    }
}

impl Observer for Scribe {
    fn written(&self, group: &Chunk) {
        self.note(Event::Written(group.clone()));
    }

    fn durable(&self, durable_end: Sequence) {
        self.note(Event::Durable(durable_end));
    }

    fn poisoned(&self, reason: &str) {
        self.note(Event::Poisoned(reason.to_owned()));
    }
}

/// Sizes that make segments turn over within a few appends.
pub(crate) fn small_options() -> Options {
    Options {
        segment_bytes: 32 << 10,
        segment_bytes_first: 16 << 10,
        group_bytes_max: 8 << 10,
        waiting_bytes_max: 256 << 10,
        tail_bytes: 12 << 10,
        index_interval_bytes: 1 << 10,
        flush_after: Duration::from_millis(25),
        encryption: None,
    }
}

pub(crate) fn writer() -> Writer {
    Writer {
        node: 1,
        clock_key: CLOCK_KEY.to_owned(),
    }
}

/// An open log whose commits run when the test says so.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) log: Log,
    pub(crate) statement: Option<LossStatement>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) scribe: Arc<Scribe>,
}

impl Session {
    /// Opens the log as a new process does.
    pub(crate) fn open(
        storage: &SimStorage,
        clock: &Arc<SimClock>,
        options: &Options,
    ) -> Result<Self, Error> {
        Self::open_in(Committer::manual(), storage, clock, options)
    }

    /// Opens the log in the process that `committer` stands for.
    pub(crate) fn open_in(
        committer: Arc<Committer>,
        storage: &SimStorage,
        clock: &Arc<SimClock>,
        options: &Options,
    ) -> Result<Self, Error> {
        let scribe = Arc::new(Scribe::default());
        let environment = Environment {
            storage: Arc::new(storage.clone()),
            clock: Arc::<SimClock>::clone(clock),
            committer: Arc::clone(&committer),
        };
        let observer: Arc<dyn Observer> = Arc::<Scribe>::clone(&scribe);
        let (log, statement) =
            Log::open(&environment, Path::new(DIR), &writer(), options, observer)?;
        Ok(Self {
            log,
            statement,
            committer,
            scribe,
        })
    }

    pub(crate) fn append(
        &self,
        token: u64,
        records: Vec<NewRecord>,
        durability: Durability,
        then: Option<Durability>,
    ) -> Result<(), AppendError> {
        self.log.append(Append {
            records,
            durability,
            then,
            sink: Arc::<Scribe>::clone(&self.scribe),
            token,
        })
    }

    /// Appends made-up records and enters them in `history`.
    pub(crate) fn submit(
        &self,
        history: &mut History,
        shapes: &[(String, usize)],
        durability: Durability,
        then: Option<Durability>,
    ) -> Result<u64, AppendError> {
        let (token, records) = history.make(shapes, durability, then);
        match self.append(token, records, durability, then) {
            Ok(()) => Ok(token),
            Err(error) => {
                history.refused(token);
                Err(error)
            }
        }
    }

    /// Runs what is queued and enters all answers in `history`.
    pub(crate) fn commit(&self, history: &mut History) -> Vec<Event> {
        self.committer.run_until_idle();
        self.note(history)
    }

    /// Does all that nobody waits for: late flushes, marks, the next segment, indexes.
    pub(crate) fn do_chores(&self, history: &mut History) -> Vec<Event> {
        self.committer.run_chores();
        self.note(history)
    }

    /// Enters what was heard so far.
    pub(crate) fn note(&self, history: &mut History) -> Vec<Event> {
        let events = self.scribe.take();
        for event in &events {
            match event {
                Event::Answered(token, outcome) => history.answered(*token, outcome),
                Event::Written(chunk) => {
                    history.shown(chunk, Sequence::FIRST);
                }
                Event::Durable(end) => history.flushed(*end),
                Event::Poisoned(reason) => assert!(!reason.is_empty(), "poisoned without reason"),
            }
        }
        events
    }
}

/// A record outside any history.
pub(crate) fn record(topic: &str, envelope: &[u8]) -> NewRecord {
    NewRecord {
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        clock_entries: Bytes::new(),
        stamp: Bytes::new(),
        envelope: Bytes::copy_from_slice(envelope),
    }
}
