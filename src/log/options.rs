//! What a log is told when it is opened.

use std::sync::Arc;
use std::time::Duration;

use super::committer::Committer;
use super::keyring::Entropy;
use super::master::MasterKeys;
use super::position::Clock;
use super::storage::Storage;

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
    /// Keys for logs that are encrypted, or are to be; without them encrypted logs do not open.
    pub encryption: Option<Encryption>,
}

/// Whether new segments are encrypted. Those that are there stay as they are, and readable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewSegments {
    /// With the log's current data key.
    Encrypted,
    /// From the next one on no more.
    Plain,
}

/// What encryption at rest needs.
#[derive(Clone, Debug)]
pub struct Encryption {
    /// They wrap the data keys.
    pub masters: Arc<MasterKeys>,
    /// What becomes of new segments.
    pub new_segments: NewSegments,
    /// Where keys, salts and nonces come from.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            segment_bytes_first: 256 << 10,
            group_bytes_max: 1 << 20,
            waiting_bytes_max: 64 << 20,
            tail_bytes: 16 << 20,
            index_interval_bytes: 16 << 10,
            flush_after: Duration::from_millis(25),
            encryption: None,
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
