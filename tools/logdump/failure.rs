//! How a run ends, as the shell sees it.

use std::io;

use arqonbus::log;

pub(crate) const HELP: &str = "\
Exit codes:
  0  all is well
  1  damage was found, or the two logs of diff differ, or what show, grep or hexdump look for is
     not there, or a file could not be read or is no segment, or records that were asked for are
     encrypted and their key is not at hand. Records that a repair has put aside are named, but
     they are not damage
  2  wrong usage

Environment: LOGDUMP_OUTPUT, LOGDUMP_KEY_FILE, ARQONBUS_MASTER_KEYS, NO_COLOR.";

/// How a verb ended that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Well,
    /// Some of what was looked at is damaged.
    Damaged,
    /// What was looked for is not there.
    Nothing,
    /// What was compared is not the same.
    Different,
    /// Some of what was looked at is encrypted, and the key is not at hand.
    Locked,
}

/// A request that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Usage>() {
            return 2;
        }
        if cause.is::<log::Error>() {
            return 1;
        }
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            // Whoever read our output has seen enough, as with `| head`.
            return 0;
        }
    }
    1
}
