//! What cannot be decrypted, and why.

use std::fmt;

use arqonbus::log::offline::SegmentFile;
use arqonbus::log::{self, Damage, KeyProblem};

use crate::source::Source;
use crate::table::{counted, hex};

/// Why a log's segments, or some of them, cannot be decrypted.
#[derive(Debug)]
pub(crate) enum Lock {
    /// The first data key that cannot be had.
    Key { id: [u8; 16], problem: KeyProblem },
    /// Its file of keys cannot be read.
    Damaged(Damage),
}

impl Lock {
    /// Of what unlocking a log has answered; any other error is handed back.
    pub(crate) fn of(error: log::Error) -> Result<Self, log::Error> {
        match error {
            log::Error::Key {
                key_id, problem, ..
            } => Ok(Self::Key {
                id: key_id,
                problem,
            }),
            log::Error::Damaged(damage) => Ok(Self::Damaged(damage)),
            error => Err(error),
        }
    }

    /// What is wrong with the file of keys.
    pub(crate) fn damage(&self) -> Option<&Damage> {
        match self {
            Self::Key { .. } => None,
            Self::Damaged(damage) => Some(damage),
        }
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { id, problem } => {
                write!(f, "data key {}, {}", hex(id), said(problem))
            }
            Self::Damaged(damage) => damage.fmt(f),
        }
    }
}

/// The problem, with what to give to this program where that is what is missing.
fn said(problem: &KeyProblem) -> String {
    match problem {
        KeyProblem::NoMaster {
            wanted,
            given: None,
        } => format!("which is wrapped by master key {wanted}; give --key-file with that key"),
        KeyProblem::NoMaster {
            wanted,
            given: Some(given),
        } => format!(
            "which is wrapped by master key {wanted}; given: {given}; give --key-file with {wanted}"
        ),
        KeyProblem::NoKeyFile
        | KeyProblem::Unlisted
        | KeyProblem::Altered { .. }
        | KeyProblem::Destroyed { .. } => problem.to_string(),
    }
}

/// With what `keys` are encrypted, and why they are not at hand.
fn reason(source: &Source, keys: &[[u8; 16]]) -> String {
    let named = match keys {
        [] => "a data key whose name is damaged".to_owned(),
        [key] => format!("data key {}", hex(key)),
        keys => format!("{} data keys", keys.len()),
    };
    match &source.lock {
        // Its words begin with the name of the key.
        Some(lock @ Lock::Key { id, .. }) if keys == [*id] => lock.to_string(),
        Some(lock @ Lock::Key { .. }) => {
            format!("{named}; the first of the log that cannot be had is {lock}")
        }
        Some(lock @ Lock::Damaged(_)) => format!("{named}; {lock}"),
        None => format!("{named}, which is not at hand; give --key-file"),
    }
}

/// What was met that no key is at hand for.
#[derive(Debug, Default)]
pub(crate) struct Locked {
    sequences: u64,
    segments: u64,
    keys: Vec<[u8; 16]>,
    last: Option<Met>,
}

/// A segment.
#[derive(Debug, PartialEq, Eq)]
struct Met {
    path: std::path::PathBuf,
    is_rewritten: bool,
}

impl Locked {
    /// Counts so many sequences of `segment`; segments come one after the other.
    pub(crate) fn add(&mut self, segment: &SegmentFile, sequences: u64) {
        self.sequences += sequences;
        if self
            .last
            .as_ref()
            .is_some_and(|met| met.path == segment.path)
        {
            return;
        }
        let header = segment.header.as_ref();
        self.segments += 1;
        self.last = Some(Met {
            path: segment.path.clone(),
            is_rewritten: header.is_some_and(|header| header.is_rewritten()),
        });
        if let Some(header) = header.filter(|header| !self.keys.contains(&header.key_id)) {
            self.keys.push(header.key_id);
        }
    }

    pub(crate) fn sequences(&self) -> u64 {
        self.sequences
    }

    /// The key that is wanted, and why it is not at hand.
    pub(crate) fn key(&self, source: &Source) -> String {
        reason(source, &self.keys)
    }

    /// `3 sequences in 1 segment are encrypted with ...`; `None` if nothing is.
    pub(crate) fn words(&self, source: &Source) -> Option<String> {
        let are = if self.sequences == 1 { "is" } else { "are" };
        (self.sequences > 0).then(|| {
            format!(
                "{} in {} {are} encrypted with {}",
                counted(self.sequences, "sequence", "sequences"),
                counted(self.segments, "segment", "segments"),
                reason(source, &self.keys)
            )
        })
    }

    /// The same with the place of the log.
    pub(crate) fn notice(&self, source: &Source) -> Option<String> {
        let words = self.words(source)?;
        Some(format!("{}: {words}", source.log.path.display()))
    }

    /// Where `sequence` is, if that alone was asked for and its batch is locked.
    pub(crate) fn notice_of(&self, source: &Source, sequence: u64) -> Option<String> {
        let met = self.last.as_ref()?;
        // Nobody can tell without the key what a rewritten batch has kept.
        let unless = if met.is_rewritten {
            ", unless it was removed,"
        } else {
            ""
        };
        Some(format!(
            "sequence {sequence}{unless} is in {}, encrypted with {}",
            met.path.display(),
            reason(source, &self.keys)
        ))
    }
}
