//! What can go wrong in a log, with enough said to act on it.

use std::io;
use std::path::PathBuf;

use super::master::MasterName;
use super::position::{ByteOffset, Micros, Sequence};

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
    /// A segment is encrypted with a data key that cannot be had.
    #[error("{path} is encrypted with data key {id}, {problem}", path = path.display(), id = hex(key_id))]
    Key {
        /// The segment file.
        path: PathBuf,
        /// Name of the data key.
        key_id: [u8; 16],
        /// Why it cannot be had.
        problem: KeyProblem,
    },
    /// The log has no keys, or new segments are not to be encrypted.
    #[error("{path}: the log is not encrypted; log.encrypt = true with master keys encrypts it from its next segment on", path = path.display())]
    NotEncrypted {
        /// The log's directory or its file of keys.
        path: PathBuf,
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
    /// The position lies behind the last record on disk.
    #[error("sequence {asked} is not on disk; the last that is, is {last}")]
    BeyondEnd {
        /// What was asked for.
        asked: Sequence,
        /// The last durable sequence; 0 = none.
        last: u64,
    },
    /// Something is where a new log was to be.
    #[error("{path} has files in it already; choose another directory", path = path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds a fork that was never finished, or what is left of a deleted log.
    #[error("{path} is no log: a fork or a deletion was not finished there; remove the directory", path = path.display())]
    Unfinished {
        /// The directory.
        path: PathBuf,
    },
}

/// Why a data key cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// The file of keys is gone.
    #[error(
        "but the file `keys` beside it, which holds that key, is missing; restore it from a backup"
    )]
    NoKeyFile,
    /// The file of keys holds others.
    #[error(
        "which the file `keys` beside it does not hold; restore that file from a backup that is as old as the segment or younger"
    )]
    Unlisted,
    /// The master key that it is wrapped by was not given.
    #[error("which is wrapped by master key {wanted}; given: {}; add that key to log.master_key_file or ARQONBUS_MASTER_KEYS (`arqon restore` and `logdump`: --key-file FILE)", given.as_deref().unwrap_or("none"))]
    NoMaster {
        /// The one that is needed.
        wanted: MasterName,
        /// Those at hand.
        given: Option<String>,
    },
    /// The wrapped key is not what the master key has made.
    #[error(
        "whose wrapped form in the file `keys` is not what master key {wanted} has made; restore that file from a backup"
    )]
    Altered {
        /// The master key.
        wanted: MasterName,
    },
    /// The keys were destroyed on purpose.
    #[error(
        "which was destroyed on purpose, with all keys of this log, at {}: nobody can read it again; delete the reality",
        time(*at)
    )]
    Destroyed {
        /// When.
        at: Micros,
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
    /// Nothing of the batch is stored: its condition does not hold.
    #[error("the condition does not hold: expected {expected}, found {found}")]
    ConditionNotMet {
        /// What the condition wanted.
        expected: u64,
        /// What there is.
        found: u64,
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

fn time(at: Micros) -> String {
    let time = i64::try_from(at.0).ok();
    let time = time.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    time.map_or_else(|| format!("{} µs", at.0), |time| time.to_string())
}
