//! What a log says about itself.

use std::path::PathBuf;

use super::error::Damage;
use super::position::{Micros, Sequence};

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
    /// Damaged places; any makes the log read-only until it is repaired.
    pub damages: Vec<Damage>,
    /// What a repair has put aside.
    pub quarantined: Vec<Quarantined>,
    /// File that holds this statement.
    pub path: PathBuf,
}

/// A damaged range that a repair has copied aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// The segment it stood in.
    pub path: PathBuf,
    /// Where in the file.
    pub range: std::ops::Range<u64>,
    /// The file that has its bytes now.
    pub copy: PathBuf,
}

/// What the last look at all sealed segments has found (LOG-08).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ScrubStatus {
    /// When it was done; `None`: never since the log was opened.
    pub finished_at: Option<Micros>,
    /// Segments that were looked at.
    pub segments: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// What is damaged, at most [`super::scrub::DAMAGES_MAX`] places.
    pub damages: Vec<Damage>,
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
    /// About how many bytes of memory the indexes take that are in memory.
    pub index_bytes: u64,
    /// Files held open.
    pub file_handles: usize,
    /// Bytes waiting to be written.
    pub waiting_bytes: usize,
    /// Why it takes no writes, if it does not.
    pub read_only: Option<String>,
    /// Flushes done since it was opened.
    pub flushes: u64,
    /// Epoch of this session.
    pub epoch: u32,
    /// The last scrub.
    pub scrub: ScrubStatus,
}
