//! An open log, asked everything that it can be asked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arqonbus::log::{
    Append, AppendError, AppendSink, Appended, Chunk, Clock, Committer, Durability, Environment,
    Error, Found, Log, LossStatement, Micros, NewRecord, Observer, Options, RecordRef, Sequence,
    Writer,
};
use bytes::Bytes;

use super::archive::DIR;
use super::disk::Disk;

/// What the wall clock shows.
const NOW: Micros = Micros(1_700_000_000_000_000);

/// Sizes for inputs of some kilobytes.
#[must_use]
pub fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
        segment_bytes_first: 8 << 10,
        group_bytes_max: 4 << 10,
        waiting_bytes_max: 64 << 10,
        tail_bytes: 4 << 10,
        index_interval_bytes: 512,
        flush_after: Duration::from_millis(25),
        encryption: None,
    }
}

/// `disk` as the log sees it, with its commits in the caller's hands.
#[must_use]
pub fn environment(disk: &Disk) -> Environment {
    Environment {
        storage: Arc::new(disk.clone()),
        clock: Arc::new(Stopped),
        committer: Committer::manual(),
    }
}

/// Who writes.
#[must_use]
pub fn writer() -> Writer {
    Writer {
        node: 1,
        clock_key: "node/main".to_owned(),
    }
}

#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Micros {
        NOW
    }
}

/// Keeps the answers to appends.
#[derive(Debug, Default)]
struct Scribe(Mutex<Vec<Result<Appended, AppendError>>>);

impl AppendSink for Scribe {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(outcome);
    }
}

impl Observer for Scribe {
    fn written(&self, _group: &Chunk) {}
    fn durable(&self, _durable_end: Sequence) {}
    fn poisoned(&self, reason: &str) {
        panic!("poisoned on a sound disk: {reason}");
    }
}

/// A log opened from the files on a [`Disk`], with its commits in the caller's hands.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: Log,
    /// What recovery said.
    pub statement: Option<LossStatement>,
    committer: Arc<Committer>,
    scribe: Arc<Scribe>,
}

impl Opened {
    /// Opens the log as a new process does.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn new(disk: &Disk) -> Result<Self, Error> {
        let environment = environment(disk);
        let committer = Arc::clone(&environment.committer);
        let scribe = Arc::new(Scribe::default());
        let observer: Arc<dyn Observer> = Arc::<Scribe>::clone(&scribe);
        let (log, statement) = Log::open(
            &environment,
            Path::new(DIR),
            &writer(),
            &options(),
            observer,
        )?;
        Ok(Self {
            log,
            statement,
            committer,
            scribe,
        })
    }

    /// Appends one record and returns its sequence.
    ///
    /// # Panics
    /// It is not acknowledged, or not where it should be.
    pub fn append(&self, topic: &'static str, envelope: &'static [u8]) -> Sequence {
        let appended = self.try_append(topic, envelope);
        appended.expect("a log that takes writes")
    }

    /// The same for a log that may have used up its sequences; `None` if it says so.
    ///
    /// # Panics
    /// Any other refusal, or a record that is not where it should be.
    pub fn try_append(&self, topic: &'static str, envelope: &'static [u8]) -> Option<Sequence> {
        let end = self.log.bounds().written_end;
        let record = NewRecord {
            topic: Bytes::from_static(topic.as_bytes()),
            clock_entries: Bytes::new(),
            stamp: Bytes::new(),
            envelope: Bytes::from_static(envelope),
        };
        let queued = self.log.append(Append {
            records: vec![record],
            durability: Durability::Synced,
            then: None,
            sink: Arc::<Scribe>::clone(&self.scribe),
            token: 0,
        });
        queued.expect("a log that takes writes");
        self.committer.run_until_idle();
        let mut answers = self.scribe.0.lock().unwrap_or_else(PoisonError::into_inner);
        let appended = match answers.pop().expect("an append is answered") {
            Err(AppendError::ReadOnly { reason }) if reason.contains("used up") => return None,
            answer => answer.expect("an append on a sound disk"),
        };
        assert!(appended.first >= end, "{appended:?} lies before {end}");
        assert_eq!(appended.first, appended.last, "one record was appended");
        Some(appended.first)
    }

    /// Does what nobody waits for, and closes the log.
    ///
    /// # Panics
    /// A sound disk refuses.
    pub fn close(self) {
        self.committer.run_chores();
        self.log.close().expect("a sound disk");
    }

    /// Reads everything in pieces of about `bytes_max`, and returns the intact records. Where batches
    /// announce other records than they hold, `is_sound` is false, and the order is theirs.
    ///
    /// # Panics
    /// Records outside of what was asked for, in the wrong order, damaged ones, or no progress.
    #[must_use]
    pub fn read_all(&self, bytes_max: usize, is_sound: bool) -> BTreeMap<Sequence, Bytes> {
        let bounds = self.log.bounds();
        let mut all = BTreeMap::new();
        let mut at = bounds.first;
        loop {
            let found = self.log.read(at, bounds.written_end, bytes_max);
            match found.expect("a sound disk") {
                Found::Records(chunk) => {
                    let is_within = at <= chunk.base
                        && chunk.base <= chunk.last
                        && chunk.last < bounds.written_end;
                    assert!(is_within || !is_sound, "{chunk:?} at {at} of {bounds:?}");
                    if chunk.last < at {
                        return all;
                    }
                    take(&chunk, &mut all);
                    at = chunk.last.next();
                }
                Found::Damaged { next, .. } => {
                    assert!(next > at, "damage at {at} leads back to {next}");
                    at = next;
                }
                Found::End => return all,
            }
        }
    }

    /// The record at `sequence`.
    ///
    /// # Panics
    /// It cannot be read.
    #[must_use]
    pub fn read_at(&self, sequence: Sequence) -> Bytes {
        match self.log.read(sequence, sequence.next(), 1) {
            Ok(Found::Records(chunk)) => {
                let record = chunk.iter().next().expect("a chunk has records");
                assert_eq!(record.sequence, sequence);
                assert!(record.is_intact(), "{record:?}");
                chunk.records.slice_ref(record.field)
            }
            other => panic!("{sequence} is not there: {other:?}"),
        }
    }

    /// Reads everything through the index by topic; `is_sound` as for [`Opened::read_all`].
    ///
    /// # Panics
    /// As [`Opened::read_all`].
    #[must_use]
    pub fn read_by_topic(&self, is_sound: bool) -> BTreeMap<Sequence, Bytes> {
        let bounds = self.log.bounds();
        let mut reader = self.log.topic_reader(Box::new(|_| true));
        let mut all = BTreeMap::new();
        let mut at = bounds.first;
        loop {
            let found = reader.read(at, bounds.written_end, 1000);
            match found.expect("a sound disk") {
                Found::Records(chunk) if chunk.last < at => {
                    assert!(!is_sound, "{chunk:?} lies before {at}");
                    return all;
                }
                Found::Records(chunk) => {
                    assert!(chunk.base >= at || !is_sound, "{chunk:?} lies before {at}");
                    take(&chunk, &mut all);
                    at = chunk.last.next();
                }
                Found::Damaged { next, .. } => {
                    assert!(next > at, "damage at {at} leads back to {next}");
                    at = next;
                }
                Found::End => return all,
            }
        }
    }

    /// Asks for topics, times and state. What is answered must lie within the log.
    ///
    /// # Panics
    /// It does not.
    pub fn ask(&self) {
        let bounds = self.log.bounds();
        assert!(
            bounds.first <= bounds.written_end && bounds.durable_end <= bounds.written_end,
            "{bounds:?}"
        );
        let within = |sequence: Sequence| sequence >= bounds.first;
        for time in [0, NOW.0 - 1, NOW.0, u64::MAX] {
            let found = self.log.seek_time(Micros(time)).expect("a sound disk");
            assert!(
                within(found),
                "time {time} is {found}, outside of {bounds:?}"
            );
        }
        for topic in self.log.topics().expect("a sound disk") {
            let name = topic.topic.clone();
            let mut reader = self.log.topic_reader(Box::new(move |topic| topic == name));
            let read = reader.read(bounds.first, bounds.written_end, 1);
            if let Found::Records(chunk) = read.expect("a sound disk") {
                assert!(
                    within(chunk.base) && chunk.last < bounds.written_end,
                    "{topic:?} is at {}, outside of {bounds:?}",
                    chunk.base
                );
            }
        }
        let status = self.log.status();
        assert!(status.tail_bytes <= options().tail_bytes, "{status:?}");
        if let Some(statement) = &self.statement {
            assert!(statement.to_json().is_object());
        }
    }
}

fn take(chunk: &Chunk, all: &mut BTreeMap<Sequence, Bytes>) {
    for record in chunk.iter().filter(RecordRef::is_intact) {
        all.insert(record.sequence, chunk.records.slice_ref(record.field));
    }
}
