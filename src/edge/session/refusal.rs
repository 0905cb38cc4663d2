//! Why a request is refused, as it is told to the client.

use crate::broker;
use crate::edge::shield::{Blocked, Fault};
use crate::proto::code::ErrorCode;
use crate::proto::v1;

/// An error on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) message: String,
    pub(super) field: String,
    pub(super) retryable: bool,
    pub(super) retry_after_ms: u64,
    /// What a count would have had to be.
    pub(super) actual: u64,
}

impl Refusal {
    /// Nothing was done, and the same request will be refused again.
    pub(super) fn new(code: ErrorCode, field: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: field.to_owned(),
            retryable: false,
            retry_after_ms: 0,
            actual: 0,
        }
    }

    /// A value that breaks a rule.
    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ValidationError, field, message)
    }

    /// Known to the protocol, not served by this node.
    pub(super) fn not_served(field: &str) -> Self {
        let message = format!("{field} is not served by this node; leave it out");
        Self::new(ErrorCode::FeatureDisabled, field, message)
    }

    /// Over a limit.
    pub(super) fn too_large(field: &str, found: usize, unit: &str, limit: usize) -> Self {
        let message = format!("{field} has {found} {unit}, more than the limit of {limit}");
        Self::new(ErrorCode::TooLarge, field, message)
    }

    /// What would be answered does not fit into a message.
    pub(super) fn answer_too_large(found: usize, limit: usize) -> Self {
        let message = format!(
            "the answer has {found} bytes, more than limits.message_bytes_max = {limit}; ask for less at a time"
        );
        Self::new(ErrorCode::TooLarge, "", message)
    }

    /// The node is going down.
    pub(super) fn shutting_down() -> Self {
        Self::from(&broker::Error::ShuttingDown)
    }

    /// As a frame's body; `subscription` is the one that ended with it, or 0.
    pub(super) fn into_error(self, subscription: u64) -> v1::Error {
        v1::Error {
            code: self.code.as_str().to_owned(),
            message: self.message,
            retryable: self.retryable,
            retry_after_ms: self.retry_after_ms,
            field: self.field,
            subscription,
            actual: self.actual,
        }
    }
}

impl From<&broker::Error> for Refusal {
    fn from(error: &broker::Error) -> Self {
        let code = error.code();
        if matches!(code, ErrorCode::StorageFailure | ErrorCode::Internal) {
            let source = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, source, "request failed");
        }
        Self {
            code,
            message: error.to_string(),
            field: error.field(),
            retryable: error.retryable(),
            retry_after_ms: error.retry_after_ms(),
            actual: error.actual(),
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        if matches!(fault.code, ErrorCode::StorageFailure | ErrorCode::Internal) {
            tracing::error!(%fault, "command failed");
        }
        Self {
            retryable: fault.retry_after_ms > 0,
            code: fault.code,
            message: fault.message,
            field: fault.field,
            retry_after_ms: fault.retry_after_ms,
            actual: 0,
        }
    }
}

impl Refusal {
    /// A message that the edge blocks; `index` is its place in its batch.
    pub(super) fn blocked(blocked: Blocked, index: Option<usize>) -> Self {
        let field = match (index, blocked.field.as_ref()) {
            (None, field) => field.to_owned(),
            (Some(index), "") => format!("envelopes[{index}]"),
            (Some(index), field) => format!("envelopes[{index}].{field}"),
        };
        Self {
            code: blocked.code,
            message: blocked.message,
            field,
            retryable: blocked.retry_after_ms > 0,
            retry_after_ms: blocked.retry_after_ms,
            actual: 0,
        }
    }
}

impl From<broker::Error> for Refusal {
    fn from(error: broker::Error) -> Self {
        Self::from(&error)
    }
}
