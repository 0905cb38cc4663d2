//! Projections as they are asked and operated (PRJ-03, PRJ-09, BRK-15): commands over them, and
//! what those answer.
//!
//! - [`continuum`]: commands of the older system, for the projection of the Continuum contract.
//! - [`general`]: commands of every projection.
//! - [`jobs`]: backfills, rebuilds and verifications; [`letters`]: dead letters dealt with.
//! - `entry`: how a command appends a message, past the same checks as everybody's.
//! - [`measured`]: what is counted of them.
//! - `key`: keys of rows as texts.
//! - `shown`: rows and standings as values of commands.
//!
//! A caller sees and changes what is kept of its own tenant's logs, and nothing else (EDGE-06). Must
//! not know how a sink keeps what it keeps.

pub mod continuum;
mod entry;
pub mod general;
pub mod jobs;
mod key;
pub mod letters;
pub mod measured;
mod shown;

use crate::edge::shield::Fault;
use crate::projections::jobs::Refusal;
use crate::projections::node::Error;
use crate::projections::sink::SinkError;
use crate::proto::ErrorCode;

/// After this a sink that was away may be asked again, in milliseconds.
const SINK_RETRY_MS: u64 = 1_000;

/// The argument that an error is about.
const fn field(error: &Error) -> &'static str {
    match error {
        Error::NoSuchProjection { .. } => "arguments.name",
        Error::NoSuchSink { .. } => "arguments.sink",
        Error::NotYet { .. } => "arguments.sequence",
        Error::Job(Refusal::Unknown { .. } | Refusal::Ended { .. }) => "arguments.job",
        Error::Closing | Error::Sink(_) | Error::Log(_) | Error::Job(_) => "",
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let (code, retry_after_ms) = match &error {
            Error::NoSuchProjection { .. } | Error::NoSuchSink { .. } => (ErrorCode::NotFound, 0),
            Error::NotYet { .. } => (ErrorCode::NotYet, SINK_RETRY_MS),
            Error::Closing => (ErrorCode::ShuttingDown, SINK_RETRY_MS),
            Error::Sink(SinkError::Unavailable { .. } | SinkError::Fenced { .. }) => {
                (ErrorCode::StorageFailure, SINK_RETRY_MS)
            }
            Error::Sink(SinkError::Rejected { .. } | SinkError::Unfit { .. }) => {
                (ErrorCode::StorageFailure, 0)
            }
            Error::Log(error) if error.passing => (ErrorCode::StorageFailure, SINK_RETRY_MS),
            Error::Log(_) => (ErrorCode::NotFound, 0),
            Error::Job(Refusal::Unknown { .. }) => (ErrorCode::NotFound, 0),
            Error::Job(Refusal::Ended { .. }) => (ErrorCode::ValidationError, 0),
            Error::Job(Refusal::Runs { .. } | Refusal::TooMany { .. } | Refusal::Closing) => {
                (ErrorCode::RateLimited, SINK_RETRY_MS)
            }
            Error::Job(Refusal::NoThread { .. }) => (ErrorCode::Internal, SINK_RETRY_MS),
        };
        Self {
            code,
            field: field(&error).to_owned(),
            message: error.to_string(),
            retry_after_ms,
        }
    }
}
