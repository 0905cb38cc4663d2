//! The logs of the node, as far as projections need them. Whoever starts the projections hands it
//! over; this module knows neither the broker nor the edge.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::projection::Payloads;
use crate::log::{Log, Sequence};

/// Why a log cannot be had, or does not take a record.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct LogsError {
    /// What is wrong.
    pub reason: String,
    /// Whether it can be otherwise later.
    pub passing: bool,
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
    /// Tenants that have logs, open or not. Blocks.
    fn tenants(&self) -> Vec<String>;

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

/// One log that is open.
pub trait Feed: Send + Sync + Debug {
    /// The log as it is now; a repair puts another in its place.
    fn log(&self) -> Log;

    /// Calls `wake` whenever records on topics of `patterns` are on disk, until the answer is
    /// dropped; also when there may be some and it is not known. On a thread that must not wait.
    /// Does not keep the log open.
    fn listen(
        &self,
        patterns: &[String],
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> Box<dyn Any + Send + Sync>;

    /// Appends an event of the node to this log, and returns when it is on disk. Blocks.
    ///
    /// # Errors
    /// The log takes none.
    fn append(&self, event: NewEvent) -> Result<Sequence, LogsError>;

    /// Appends an envelope again, as it is, with a header that says where it comes from, and returns
    /// when it is on disk. Blocks.
    ///
    /// # Errors
    /// The log takes none; it is no envelope.
    fn append_again(
        &self,
        topic: &str,
        envelope: &[u8],
        origin: (&str, &str),
    ) -> Result<Sequence, LogsError>;

    /// Appends an event to the tenant's reality `_system`, without waiting.
    fn note(&self, event: NewEvent);
}
