//! A segmented local log.
//!
//! Synchronous; imports no other module of ours, and knows no tenant, topic rule, socket or
//! runtime. Time and file system are passed in.
//!
//! ```text
//!        sealed segments                     active segment        prepared ahead
//!  ┌──────────────┬──────────────┐   ┌─────────────────────────┐   ┌───────────┐
//!  │              │              │   │ batches ...... │0000000000   │00000000000│
//!  └──────────────┴──────────────┘   └────────┬───────┬────────┘   └───────────┘
//!  ▲                                          ▲       ▲
//!  first                             durable_end   written_end
//! ```
//!
//! - `first`: the oldest record still there (inclusive).
//! - `durable_end`: every record below it has been flushed to the disk (exclusive).
//! - `written_end`: every record below it has been handed to the operating system (exclusive).
//!
//! `first <= durable_end <= written_end`. An append is acknowledged `Synced` only when
//! `durable_end` has passed it.

pub mod error;
pub mod position;
pub mod storage;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use error::{AppendError, Damage, Error};
pub use position::{ByteOffset, Clock, Micros, Sequence};
pub use storage::{Access, Storage, StorageFile, StorageLock};

/// Sizes and intervals of one log.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a full-grown segment.
    pub segment_bytes: u64,
    /// Size of a log's first segment; each later one is four times as large, up to
    /// `segment_bytes`, so that a small log stays small.
    pub segment_bytes_first: u64,
    /// Appends are gathered into one write and one flush up to this size. A larger single append
    /// makes a group of its own.
    pub group_bytes_max: usize,
    /// Appends wait for the writer up to this size; beyond it they are refused as busy.
    pub waiting_bytes_max: usize,
    /// Encoded records kept in memory for live readers.
    pub tail_bytes: usize,
    /// Distance between two entries of the sparse index.
    pub index_interval_bytes: u32,
    /// A write that nobody waits to see flushed is flushed after this long.
    pub flush_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            segment_bytes_first: 1 << 20,
            group_bytes_max: 1 << 20,
            waiting_bytes_max: 64 << 20,
            tail_bytes: 16 << 20,
            index_interval_bytes: 16 << 10,
            flush_after: Duration::from_millis(25),
        }
    }
}

/// Who writes a log.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Number of the node, stored in every batch.
    pub node: u32,
    /// The log's own entry in the vector clock of each record: `node/reality`.
    pub clock_key: String,
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Durability {
    /// In the operating system: survives the death of the process.
    Written,
    /// On the disk: survives the loss of power.
    Synced,
}

/// One record to be appended. All parts are kept as they are.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Non-empty, at most 65,535 bytes of UTF-8 (the caller's duty); the log indexes by it.
    pub topic: Bytes,
    /// Encoded `VectorClock.entries` fields to stand beside the log's own entry, which must not be
    /// among them.
    pub clock_entries: Bytes,
    /// Encoded fields 5 to 7 of `arqon.v1.Record`.
    pub stamp: Bytes,
    /// The producer's bytes.
    pub envelope: Bytes,
}

/// A batch of records to be stored all or none.
#[derive(Debug)]
pub struct Append {
    /// Not empty.
    pub records: Vec<NewRecord>,
    /// When to acknowledge.
    pub durability: Durability,
    /// Acknowledge a second time when this is reached (graded acknowledgement).
    pub then: Option<Durability>,
    /// Who is told.
    pub sink: Arc<dyn AppendSink>,
    /// Passed back to the sink.
    pub token: u64,
}

/// Positions that a batch got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Sequence of its first record.
    pub first: Sequence,
    /// Sequence of its last record.
    pub last: Sequence,
    /// What now holds for all of it.
    pub durability: Durability,
}

/// Receives acknowledgements, on a commit thread: must be quick and must not block.
pub trait AppendSink: Send + Sync + std::fmt::Debug {
    /// Called once for [`Append::durability`], and once more for [`Append::then`]; after an error
    /// not again.
    fn appended(&self, token: u64, outcome: Result<Appended, AppendError>);
}

/// Told when a log has grown, on a commit thread: must be quick and must not block.
pub trait Observer: Send + Sync + std::fmt::Debug {
    /// `group` is written; `written_end` has moved past it.
    fn written(&self, group: &Chunk);
    /// `durable_end` has moved.
    fn durable(&self, durable_end: Sequence);
    /// The log takes no more writes until it is reopened.
    fn poisoned(&self, reason: &str);
}

/// How far a log reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Oldest record still there (equal to `written_end` when there is none).
    pub first: Sequence,
    /// Exclusive end of what is flushed.
    pub durable_end: Sequence,
    /// Exclusive end of what is written.
    pub written_end: Sequence,
}

/// Consecutive encoded records, shared, never copied.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Sequence of the first record.
    pub base: Sequence,
    /// Sequence of the last record.
    pub last: Sequence,
    /// The records as they are on disk, which is also the encoding of the `records` fields of
    /// `arqon.v1.Deliver`: tag, length, `Record`, again and again.
    pub records: Bytes,
}

/// One record of a [`Chunk`].
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Its position.
    pub sequence: Sequence,
    /// When the log took it.
    pub appended_at: Micros,
    /// What it is indexed by.
    pub topic: &'a str,
    /// The encoded `arqon.v1.Record`.
    pub record: &'a [u8],
    /// Tag, length and record: what `Deliver.records` wants.
    pub field: &'a [u8],
}

/// What a read found.
#[derive(Clone, Debug)]
pub enum Found {
    /// Records; the next read starts after the last of them.
    Records(Chunk),
    /// A damaged range lies here; the next read starts at `next`.
    Damaged {
        /// What is wrong.
        damage: Damage,
        /// First sequence that can be read again.
        next: Sequence,
    },
    /// Nothing below the end asked for.
    End,
}

/// Where a topic stands in one log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicSummary {
    /// Its name.
    pub topic: String,
    /// Records in the log.
    pub records: u64,
    /// Bytes of its encoded records.
    pub bytes: u64,
    /// Sequence of the first one.
    pub first: Sequence,
    /// Sequence of the last one.
    pub last: Sequence,
}

/// How the last session of a log ended and what was made of it (LOG-03).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LossStatement {
    /// Epoch that begins now.
    pub epoch: u32,
    /// Last sequence known to be on disk, 0 when the log is empty.
    pub durable_through: u64,
    /// Bytes cut off the end.
    pub discarded_bytes: u64,
    /// Sequences that were in them, as far as their headers tell.
    pub discarded: Option<(Sequence, Sequence)>,
    /// Whether a client can have been told that a discarded record was `Written`.
    pub possibly_acknowledged: bool,
    /// Sequences skipped so that none is used twice.
    pub skipped: Option<(Sequence, Sequence)>,
    /// Damaged places; any makes the log read-only.
    pub damages: Vec<Damage>,
    /// File that holds this statement.
    pub path: PathBuf,
}

/// State of a log, for people and metrics.
#[derive(Clone, Debug)]
pub struct Status {
    /// How far it reaches.
    pub bounds: Bounds,
    /// Segment files, the active one included.
    pub segments: usize,
    /// Bytes of records and their framing in all segments.
    pub used_bytes: u64,
    /// Bytes of memory in the tail ring.
    pub tail_bytes: usize,
    /// Bytes waiting to be written.
    pub waiting_bytes: usize,
    /// Why it takes no writes, if it does not.
    pub read_only: Option<String>,
    /// Flushes done since it was opened.
    pub flushes: u64,
    /// Epoch of this session.
    pub epoch: u32,
}

/// One open log. Cheap to clone; closed by [`Log::close`] or when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Log {}

/// Everything a log needs from outside.
#[derive(Clone, Debug)]
pub struct Environment {
    /// File system.
    pub storage: Arc<dyn Storage>,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// Commit threads, shared by all logs of the process.
    pub committer: Arc<Committer>,
}

/// Threads that write and flush for many logs, each log by one thread at a time, in turn.
#[derive(Debug)]
pub struct Committer {}

impl Committer {
    /// Starts `threads` threads, which end when the last handle is dropped.
    #[must_use]
    pub fn start(_threads: usize) -> Arc<Self> {
        unimplemented!()
    }
}

impl Log {
    /// Opens the log in `dir`, creating it if there is none, and recovers it.
    ///
    /// On `Ok` everything that was ever acknowledged `Synced` can be read. A log with damage below
    /// its durable mark opens read-only.
    ///
    /// # Errors
    /// Locked by another process, of another format version, or not readable at all.
    pub fn open(
        _environment: &Environment,
        _dir: &std::path::Path,
        _writer: &Writer,
        _options: &Options,
        _observer: Arc<dyn Observer>,
    ) -> Result<(Self, Option<LossStatement>), Error> {
        unimplemented!()
    }

    /// Queues a batch; `append.sink` hears of it. The order of calls is the order of sequences.
    ///
    /// # Errors
    /// At once, and then without a call of the sink: read-only, busy, too large.
    pub fn append(&self, _append: Append) -> Result<(), AppendError> {
        unimplemented!()
    }

    /// How far the log reaches now.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        unimplemented!()
    }

    /// Records from `from` on, all below `end` (use [`Bounds::durable_end`] or
    /// [`Bounds::written_end`]), at most about `bytes_max` of them but at least one. From memory
    /// if they are in the tail, else from the files, with checksums verified.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] before the first record; I/O errors.
    pub fn read(&self, _from: Sequence, _end: Sequence, _bytes_max: usize) -> Result<Found, Error> {
        unimplemented!()
    }

    /// Whether a read from `from` would be served from memory.
    #[must_use]
    pub fn in_tail(&self, _from: Sequence) -> bool {
        unimplemented!()
    }

    /// The first sequence at or after `from` and below `end` whose topic passes `wanted`, using
    /// the topic index to skip what does not; `None` if there is none.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn seek_topic(
        &self,
        _from: Sequence,
        _end: Sequence,
        _wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Option<Sequence>, Error> {
        unimplemented!()
    }

    /// The first record appended at or after `time`; `written_end` if there is none.
    ///
    /// # Errors
    /// I/O errors.
    pub fn seek_time(&self, _time: Micros) -> Result<Sequence, Error> {
        unimplemented!()
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// I/O errors.
    pub fn topics(&self) -> Result<Vec<TopicSummary>, Error> {
        unimplemented!()
    }

    /// State, for people and metrics.
    #[must_use]
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// Writes what is queued, flushes, marks the log as cleanly closed and releases its lock.
    /// Later appends are refused.
    ///
    /// # Errors
    /// I/O errors; what was acknowledged is safe nevertheless.
    pub fn close(&self) -> Result<(), Error> {
        unimplemented!()
    }
}

impl Chunk {
    /// Its records in order. The chunk must come from a [`Log`], which has verified it.
    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        std::iter::empty()
    }
}
