//! What can go wrong in a log, with enough said to act on it.

use std::io;
use std::path::PathBuf;

use super::position::{ByteOffset, Sequence};

/// Bytes on disk that are not what was written there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damage in {path} at byte {offset}: {what}: expected {expected}, found {found}", path = path.display())]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in the file.
    pub offset: ByteOffset,
    /// Which check failed.
    pub what: &'static str,
    /// What the check wanted.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// What the damage of records is called that a repair has put aside.
const PUT_ASIDE: &str = "records put aside by a repair";

impl Damage {
    /// Records that are known to be lost, because a repair has put them aside.
    pub(super) fn put_aside(
        path: PathBuf,
        offset: ByteOffset,
        expected: String,
        found: String,
    ) -> Self {
        Self {
            path,
            offset,
            what: PUT_ASIDE,
            expected,
            found,
        }
    }

    /// Whether it was repaired: the bytes are good, the records are lost.
    #[must_use]
    pub fn is_put_aside(&self) -> bool {
        self.what == PUT_ASIDE
    }
}

/// Why a log cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation.
    #[error("{operation} {path}", path = path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// Another process has the log open.
    #[error("{path} is locked by {owner}", path = path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What the owner wrote into it.
        owner: String,
    },
    /// Written by a version of the format that this program does not know.
    #[error("{path} has log format version {found}; this program reads version {supported}", path = path.display())]
    Version {
        /// The segment file.
        path: PathBuf,
        /// Version found.
        found: u16,
        /// Version that this program reads and writes.
        supported: u16,
    },
    /// A segment is encrypted with a key that is not at hand.
    #[error("{path} is encrypted with key {id}, which is not among the keys at hand", path = path.display(), id = hex(key_id))]
    Key {
        /// The segment file.
        path: PathBuf,
        /// Name of the key.
        key_id: [u8; 16],
    },
    /// Bytes on disk are damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The position lies before the first record that is still there.
    #[error("sequence {asked} is no longer in the log; the first available is {first}")]
    OutOfRange {
        /// What was asked for.
        asked: Sequence,
        /// What could be had.
        first: Sequence,
    },
}

/// Why an append was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Nothing of the batch is stored, and it may be sent again: there is no room on the disk.
    #[error("no room for another segment: {reason}")]
    NoSpace {
        /// What the operating system said.
        reason: String,
    },
    /// Nothing of the batch is stored: the log takes no writes until it is reopened.
    #[error("the log takes no writes: {reason}")]
    ReadOnly {
        /// What made it so.
        reason: String,
    },
    /// Nothing of the batch is stored, and it may be sent again: too much is waiting.
    #[error("{waiting_bytes} bytes are waiting to be written")]
    Busy {
        /// How much.
        waiting_bytes: usize,
    },
    /// A write or flush failed while the batch was under way: it may or may not be found after
    /// recovery.
    #[error("outcome unknown: {reason}")]
    Indeterminate {
        /// What the operating system said.
        reason: String,
    },
    /// Nothing of the batch is stored: it is larger than a segment can hold.
    #[error("a batch of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The largest that fits.
        limit: usize,
    },
}

/// Bytes as people compare them.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
