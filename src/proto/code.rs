//! Error codes: one list for WebSocket, HTTP, command line and JSON adapter.

/// What went wrong, for programs. Texts for people travel beside it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorCode {
    /// No token, or one that is not valid.
    Unauthenticated,
    /// The token does not allow it.
    Forbidden,
    /// An envelope names another tenant than the token.
    TenantMismatch,
    /// A field of the request is missing, malformed or out of bounds.
    ValidationError,
    /// The payload does not fit its schema.
    SchemaViolation,
    /// A policy refused it.
    PolicyBlocked,
    /// A policy failed to decide, which refuses too.
    PolicyFailure,
    /// The payload holds what looks like a secret.
    CasilPolicyBlockedSecret,
    /// The payload is too large to be inspected.
    CasilPolicyOversize,
    /// Too many requests or bytes.
    RateLimited,
    /// A message, envelope or batch over its limit.
    TooLarge,
    /// A producer's own counter or clock went back.
    Stale,
    /// The topic's last sequence is not the expected one.
    SequenceConflict,
    /// The reality, subscription or consumer named does not exist.
    NotFound,
    /// The command named does not exist.
    UnknownCommand,
    /// The sender is not a member of the room it speaks to.
    NotMember,
    /// Known to the protocol, not served by this node.
    FeatureDisabled,
    /// The bytes are not a frame of this protocol.
    InfraProtocolError,
    /// The sequence asked for is no longer in the log.
    OffsetOutOfRange,
    /// A consumer did not read what it had asked for.
    SlowConsumer,
    /// The log could not store or read.
    StorageFailure,
    /// What was waited for has not come within the time that was given.
    NotYet,
    /// The node is going down.
    ShuttingDown,
    /// A bug.
    Internal,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::Unauthenticated,
        Self::Forbidden,
        Self::TenantMismatch,
        Self::ValidationError,
        Self::SchemaViolation,
        Self::PolicyBlocked,
        Self::PolicyFailure,
        Self::CasilPolicyBlockedSecret,
        Self::CasilPolicyOversize,
        Self::RateLimited,
        Self::TooLarge,
        Self::Stale,
        Self::SequenceConflict,
        Self::NotFound,
        Self::UnknownCommand,
        Self::NotMember,
        Self::FeatureDisabled,
        Self::InfraProtocolError,
        Self::OffsetOutOfRange,
        Self::SlowConsumer,
        Self::StorageFailure,
        Self::NotYet,
        Self::ShuttingDown,
        Self::Internal,
    ];

    /// The code as it travels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::TenantMismatch => "TENANT_MISMATCH",
            Self::ValidationError => "VALIDATION_ERROR",
            Self::SchemaViolation => "SCHEMA_VIOLATION",
            Self::PolicyBlocked => "POLICY_BLOCKED",
            Self::PolicyFailure => "POLICY_FAILURE",
            Self::CasilPolicyBlockedSecret => "CASIL_POLICY_BLOCKED_SECRET",
            Self::CasilPolicyOversize => "CASIL_POLICY_OVERSIZE",
            Self::RateLimited => "RATE_LIMITED",
            Self::TooLarge => "TOO_LARGE",
            Self::Stale => "STALE",
            Self::SequenceConflict => "SEQUENCE_CONFLICT",
            Self::NotFound => "NOT_FOUND",
            Self::UnknownCommand => "UNKNOWN_COMMAND",
            Self::NotMember => "NOT_MEMBER",
            Self::FeatureDisabled => "FEATURE_DISABLED",
            Self::InfraProtocolError => "INFRA_PROTOCOL_ERROR",
            Self::OffsetOutOfRange => "OFFSET_OUT_OF_RANGE",
            Self::SlowConsumer => "SLOW_CONSUMER",
            Self::StorageFailure => "STORAGE_FAILURE",
            Self::NotYet => "NOT_YET",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Internal => "INTERNAL",
        }
    }

    /// What clients of the older system's JSON protocol know it as.
    #[must_use]
    pub fn to_older(self) -> &'static str {
        if self == Self::Internal {
            "INTERNAL_ERROR"
        } else {
            self.as_str()
        }
    }

    /// The same in the answer to a command.
    #[must_use]
    pub fn to_older_command(self) -> &'static str {
        if self == Self::Forbidden {
            "AUTHORIZATION_ERROR"
        } else {
            self.to_older()
        }
    }

    /// The code named so; `None` for one of a newer node.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// HTTP status of an answer with this code.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Unauthenticated => 401,
            Self::Forbidden | Self::TenantMismatch | Self::NotMember => 403,
            Self::NotFound | Self::UnknownCommand => 404,
            Self::Stale | Self::SequenceConflict => 409,
            Self::OffsetOutOfRange => 416,
            Self::TooLarge | Self::CasilPolicyOversize => 413,
            Self::SchemaViolation | Self::PolicyBlocked | Self::CasilPolicyBlockedSecret => 422,
            Self::RateLimited => 429,
            Self::ValidationError | Self::InfraProtocolError => 400,
            Self::FeatureDisabled => 501,
            Self::PolicyFailure | Self::Internal => 500,
            Self::SlowConsumer | Self::ShuttingDown => 503,
            Self::NotYet => 504,
            Self::StorageFailure => 507,
        }
    }

    /// RFC 6455 close code of a connection that ends for this reason.
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::ShuttingDown => 1001,
            Self::InfraProtocolError => 1002,
            Self::ValidationError | Self::SchemaViolation => 1007,
            Self::Unauthenticated
            | Self::Forbidden
            | Self::TenantMismatch
            | Self::PolicyBlocked
            | Self::CasilPolicyBlockedSecret
            | Self::Stale
            | Self::SequenceConflict
            | Self::NotFound
            | Self::UnknownCommand
            | Self::NotMember
            | Self::FeatureDisabled
            | Self::OffsetOutOfRange => 1008,
            Self::TooLarge | Self::CasilPolicyOversize => 1009,
            Self::PolicyFailure | Self::StorageFailure | Self::Internal => 1011,
            Self::RateLimited | Self::SlowConsumer | Self::NotYet => 1013,
        }
    }

    /// Whether the same request may succeed later, unchanged, because nothing of it was done. An
    /// `Error` frame may say otherwise for one occasion: a storage failure whose outcome is
    /// unknown is not to be repeated blindly.
    #[must_use]
    pub const fn retryable(self) -> bool {
        match self {
            Self::RateLimited
            | Self::StorageFailure
            | Self::ShuttingDown
            | Self::SlowConsumer
            | Self::NotYet => true,
            Self::Unauthenticated
            | Self::Forbidden
            | Self::TenantMismatch
            | Self::ValidationError
            | Self::SchemaViolation
            | Self::PolicyBlocked
            | Self::PolicyFailure
            | Self::CasilPolicyBlockedSecret
            | Self::CasilPolicyOversize
            | Self::TooLarge
            | Self::Stale
            | Self::SequenceConflict
            | Self::NotFound
            | Self::UnknownCommand
            | Self::NotMember
            | Self::FeatureDisabled
            | Self::InfraProtocolError
            | Self::OffsetOutOfRange
            | Self::Internal => false,
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_as_it_is_written() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(code));
            assert!((400..600).contains(&code.http_status()), "{code}");
            assert!((1001..=1013).contains(&code.close_code()), "{code}");
        }
        assert_eq!(ErrorCode::parse("LATER"), None);
    }
}
