//! Why an operator or a task is refused.

use crate::proto::ErrorCode;

/// A refusal, as it is told to the one who asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What it is called on the wire.
    pub code: ErrorCode,
    /// The part at fault; empty if it is none in particular.
    pub field: String,
    /// For a person.
    pub message: String,
    /// After so long the same may be tried again; 0 = it will not help.
    pub retry_after_ms: u64,
}

impl Refused {
    pub(super) fn new(code: ErrorCode, field: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            field: field.to_owned(),
            message: message.into(),
            retry_after_ms: 0,
        }
    }

    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ValidationError, field, message)
    }

    pub(super) fn stale(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Stale, "lease", message)
    }

    pub(super) fn retry(self, after_ms: u64) -> Self {
        Self {
            retry_after_ms: after_ms,
            ..self
        }
    }
}
