//! What goes into a log, and what comes back.

use std::sync::Arc;

use bytes::Bytes;

use super::chunk::Chunk;
use super::error::AppendError;
use super::position::Sequence;

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
