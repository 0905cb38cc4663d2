//! What can go wrong on the client's side, and what is known of the request then.

use std::time::Duration;

use super::TlsProblem;
use crate::proto::ErrorCode;
use crate::proto::v1;

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL or the token cannot be used as they are.
    #[error("cannot connect to `{url}`: {reason}")]
    Address {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answered, or not as a node does.
    #[error("cannot connect to {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// What was met.
        reason: String,
    },
    /// There is no TLS with what answered.
    #[error("no TLS with {url}: {problem}")]
    Tls {
        /// Where.
        url: String,
        /// Why.
        problem: TlsProblem,
    },
    /// The node refused the connection.
    #[error("{url} refused the connection with status {status}: {message}")]
    Refused {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
        /// Machine code in the answer.
        code: Option<ErrorCode>,
        /// Text in the answer.
        message: String,
    },
    /// The node answered a request with an error.
    #[error("{}{message}{}", Prefix(code), Field(field))]
    Answered {
        /// Machine code, as sent; [`Error::code`] gives it as a value.
        code: String,
        /// For a person.
        message: String,
        /// Whether the same request may be sent again unchanged.
        retryable: bool,
        /// How long to wait before that.
        retry_after: Duration,
        /// The part of the request at fault, or empty.
        field: String,
        /// What a count in the request would have had to be; 0 where it was not about one.
        actual: u64,
    },
    /// The connection ended before the answer came: the request may or may not have been done.
    #[error("the connection ended before the answer came: {reason}")]
    ConnectionLost {
        /// How it ended.
        reason: String,
    },
    /// The node sent what this version of the protocol does not allow.
    #[error("the node broke the protocol: {reason}")]
    Protocol {
        /// How.
        reason: String,
    },
    /// A batch or another argument is over its limit; nothing was sent.
    #[error("{what} is {found}, the limit is {limit}")]
    TooLarge {
        /// Of what there is too much.
        what: &'static str,
        /// How much.
        found: usize,
        /// How much may be.
        limit: usize,
    },
    /// The client was closed, or its connection has ended for good; nothing was sent.
    #[error("the connection to the node had already ended, so nothing was sent")]
    Closed,
}

struct Prefix<'a>(&'a str);

impl std::fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, "{}: ", self.0)
        }
    }
}

struct Field<'a>(&'a str);

impl std::fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, " (field `{}`)", self.0)
        }
    }
}

/// What is known of a request that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was not done, and would fail again unchanged.
    Rejected,
    /// It was not done, and may be sent again unchanged.
    NotApplied,
    /// It may or may not have been done.
    Unknown,
}

impl Error {
    /// The node's machine code, if it gave one that this version knows.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Answered { code, .. } => ErrorCode::parse(code),
            Self::Address { .. }
            | Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::ConnectionLost { .. }
            | Self::Protocol { .. }
            | Self::TooLarge { .. }
            | Self::Closed => None,
        }
    }

    /// What is known of the request.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Address { .. } | Self::TooLarge { .. } | Self::Closed => Outcome::Rejected,
            // A handshake that breaks off can go better the next time, what is wrong with a
            // certificate cannot.
            Self::Tls {
                problem: TlsProblem::Other(_),
                ..
            } => Outcome::NotApplied,
            Self::Tls { .. } => Outcome::Rejected,
            Self::Unreachable { .. } => Outcome::NotApplied,
            Self::Refused { status, .. } if *status >= 500 || *status == 429 => Outcome::NotApplied,
            Self::Refused { .. } => Outcome::Rejected,
            Self::Answered {
                retryable: true, ..
            } => Outcome::NotApplied,
            // The part of a request that is at fault is found before anything of it is done.
            Self::Answered { field, .. } if !field.is_empty() => Outcome::Rejected,
            Self::Answered { code, .. } => match ErrorCode::parse(code) {
                // Of these a node marks those that can be repeated.
                Some(ErrorCode::StorageFailure | ErrorCode::Internal) => Outcome::Unknown,
                _ => Outcome::Rejected,
            },
            Self::ConnectionLost { .. } | Self::Protocol { .. } => Outcome::Unknown,
        }
    }

    /// Whether the same request may be sent again unchanged: nothing of it was done.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.outcome() == Outcome::NotApplied
    }

    /// The part of the request at fault.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Answered { field, .. } if !field.is_empty() => Some(field),
            _ => None,
        }
    }

    /// Where the request expected a count, what it would have had to be: the last sequence of the
    /// topic (0: it has no records), or the next `producer_sequence`.
    #[must_use]
    pub fn actual(&self) -> Option<u64> {
        match (self, self.code()) {
            (
                Self::Answered { actual, .. },
                Some(ErrorCode::SequenceConflict | ErrorCode::Stale),
            ) => Some(*actual),
            _ => None,
        }
    }

    pub(super) fn unexpected(wanted: &str) -> Self {
        Self::Protocol {
            reason: format!("it answered with something else than {wanted}"),
        }
    }
}

impl From<v1::Error> for Error {
    fn from(error: v1::Error) -> Self {
        Self::Answered {
            code: error.code,
            message: error.message,
            retryable: error.retryable,
            retry_after: Duration::from_millis(error.retry_after_ms),
            field: error.field,
            actual: error.actual,
        }
    }
}
