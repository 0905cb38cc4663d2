//! Projections as they are asked and operated (PRJ-03, PRJ-09, BRK-15): commands over them, and
//! what those answer.
//!
//! - [`continuum`]: commands of the older system, for the projection of the Continuum contract.
//! - `shown`: rows and standings as values of commands.
//!
//! A caller sees and changes what is kept of its own tenant's logs, and nothing else (EDGE-06). Must
//! not know how a sink keeps what it keeps.

pub mod continuum;
mod shown;

use crate::edge::shield::Fault;
use crate::projections::node::Error;
use crate::projections::sink::SinkError;
use crate::proto::ErrorCode;

/// After this a sink that was away may be asked again, in milliseconds.
const SINK_RETRY_MS: u64 = 1_000;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let (code, field, retry_after_ms) = match &error {
            Error::NoSuchProjection { .. } => (ErrorCode::NotFound, "arguments.name", 0),
            Error::NoSuchSink { .. } => (ErrorCode::NotFound, "arguments.sink", 0),
            Error::NotYet { .. } => (ErrorCode::NotYet, "arguments.sequence", SINK_RETRY_MS),
            Error::Sink(SinkError::Unavailable { .. } | SinkError::Fenced { .. }) => {
                (ErrorCode::StorageFailure, "", SINK_RETRY_MS)
            }
            Error::Sink(SinkError::Rejected { .. } | SinkError::Unfit { .. }) => {
                (ErrorCode::StorageFailure, "", 0)
            }
            Error::Log(error) if error.passing => (ErrorCode::StorageFailure, "", SINK_RETRY_MS),
            Error::Log(_) => (ErrorCode::NotFound, "", 0),
        };
        Self {
            code,
            field: field.to_owned(),
            message: error.to_string(),
            retry_after_ms,
        }
    }
}
