//! The logs of the node, as far as projections need them. Whoever starts the projections hands it
//! over; this module knows neither the broker nor the edge.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::projection::Payloads;
use crate::log::{Log, Micros, Sequence};

/// Why a log cannot be had, or does not take a record.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct LogsError {
    /// What is wrong.
    pub reason: String,
    /// Whether it can be otherwise later.
    pub passing: bool,
}

impl From<crate::log::Error> for LogsError {
    fn from(error: crate::log::Error) -> Self {
        Self {
            reason: crate::log::with_source(&error),
            passing: true,
        }
    }
}

/// An event of the node on its way into a log.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Where it goes.
    pub topic: String,
    /// Its name.
    pub kind: &'static str,
    /// Full message name of `data`.
    pub schema: &'static str,
    /// What it says.
    pub data: Bytes,
    /// What it is about.
    pub key: String,
}

/// All logs.
pub trait Logs: Send + Sync + Debug {
    /// Name of the node whose logs they are; no other node has it.
    fn node(&self) -> &str;

    /// Tenants that have a log called `reality`, open or not. Blocks.
    fn tenants(&self, reality: &str) -> Vec<String>;

    /// Opens a log for whoever uses it, and keeps it open as long as that is held. Blocks.
    ///
    /// # Errors
    /// It cannot be opened, or there is none.
    fn open(&self, tenant: &str, reality: &str) -> Result<Arc<dyn Feed>, LogsError>;

    /// Waits until logs were opened, by whomever, and says which: tenants and realities. Each
    /// opening is told once, also one before the first call.
    fn opened(&self) -> BoxFuture<'_, Vec<(String, String)>>;

    /// How payloads are read.
    fn payloads(&self) -> &dyn Payloads;
}

/// An event of the node that was read back.
#[derive(Clone, Debug)]
pub struct Note {
    /// Its name.
    pub kind: String,
    /// What it says.
    pub data: Bytes,
    /// When it was written.
    pub at: Micros,
}

/// Hears of records until it is dropped. Does not keep the log open.
pub trait Listening: Send + Sync + Debug {
    /// To be called before looking at the end of the log: from now on it is told again.
    fn look(&self);
}

/// What is called when there is something to read.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// One log that is open.
pub trait Feed: Send + Sync + Debug {
    /// The log as it is now; a repair puts another in its place.
    fn log(&self) -> Log;

    /// Calls `wake` when records on topics of `patterns` are on disk, or may be, until the answer is
    /// dropped. On a thread that must not wait. Called once until the next look.
    ///
    /// # Errors
    /// One is no pattern.
    fn listen(&self, patterns: &[String], wake: Wake) -> Result<Box<dyn Listening>, LogsError>;

    /// Appends an event of the node to this log, and returns when it is on disk. Blocks.
    ///
    /// # Errors
    /// The log takes none.
    fn append(&self, event: NewEvent) -> Result<Sequence, LogsError>;

    /// Appends an envelope again on `topic`, with one more header, and returns when it is on disk.
    /// Blocks.
    ///
    /// # Errors
    /// The log takes none; it is no envelope.
    fn append_again(
        &self,
        topic: &str,
        envelope: &[u8],
        header: (&str, &str),
    ) -> Result<Sequence, LogsError>;

    /// Appends an event to the tenant's reality `_system`, without waiting.
    fn note(&self, event: NewEvent);

    /// Appends an event to the tenant's reality `_system`, and returns when it is on disk. Blocks.
    ///
    /// # Errors
    /// The log takes none.
    fn record(&self, event: NewEvent) -> Result<(), LogsError>;

    /// The events on a topic of the tenant's reality `_system`, in order. Blocks.
    ///
    /// # Errors
    /// They cannot be read.
    fn notes(&self, topic: &str) -> Result<Vec<Note>, LogsError>;
}

/// Whether `pattern` (`*` one token, `>` the rest) matches `topic`.
#[must_use]
pub fn matches(pattern: &str, topic: &str) -> bool {
    let mut tokens = topic.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}
