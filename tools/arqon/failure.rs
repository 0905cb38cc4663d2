//! What an error means to the shell: its exit code, from the conventions of sysexits.

use std::io;

use arqonbus::client::{self, TlsProblem};
use arqonbus::proto::ErrorCode;

pub(crate) const HELP: &str = "\
Exit codes:
  0    done
  1    failed
  2    wrong usage
  65   the input is not what it should be, or records read are damaged on the node's disk
  66   an input file cannot be read
  69   no node can be reached
  74   an output cannot be written
  75   failed for now: the same may succeed later
  77   not permitted: the token is missing, wrong, expired, or does not allow it
  78   the configuration cannot be used
  130  interrupted before it was done

Environment: ARQON_URL, ARQON_TOKEN, ARQON_REALITY, ARQON_CONTEXT, ARQON_OUTPUT, ARQON_CA,
ARQON_CERT, ARQON_CERT_KEY, ARQON_WEBHOOK_SECRET, ARQON_LOG (filter of the log on stderr, like
`debug`), NO_COLOR.";

/// A failure that knows its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: 2,
            message: message.into(),
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self {
            code: 1,
            message: message.into(),
        }
    }

    pub(crate) fn data(message: impl Into<String>) -> Self {
        Self {
            code: 65,
            message: message.into(),
        }
    }

    pub(crate) fn no_input(message: impl Into<String>) -> Self {
        Self {
            code: 66,
            message: message.into(),
        }
    }

    pub(crate) fn for_now(message: impl Into<String>) -> Self {
        Self {
            code: 75,
            message: message.into(),
        }
    }

    pub(crate) fn not_permitted(message: impl Into<String>) -> Self {
        Self {
            code: 77,
            message: message.into(),
        }
    }

    pub(crate) fn configuration(message: impl Into<String>) -> Self {
        Self {
            code: 78,
            message: message.into(),
        }
    }

    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self {
            code: 130,
            message: message.into(),
        }
    }
}

/// What to try, where the error itself cannot know.
pub(crate) fn advice(error: &anyhow::Error) -> Option<&'static str> {
    match error
        .chain()
        .find_map(|cause| cause.downcast_ref::<client::Error>())?
    {
        client::Error::Unreachable { .. } => {
            Some("is the node running, and is the URL the one in its `ready` line?")
        }
        client::Error::Tls { problem, .. } => of_tls(problem),
        client::Error::Refused { status: 401, .. } => Some(
            "the node's log says why; look into the token with `arqon token inspect`, or make one \
             with `arqon token mint`",
        ),
        client::Error::Refused { status: 404, .. } => Some("the URL of a node ends in /v1/ws"),
        _ => None,
    }
}

fn of_tls(problem: &TlsProblem) -> Option<&'static str> {
    match problem {
        TlsProblem::UnknownIssuer => Some(
            "if it is the right node, name its authority's certificate with --ca FILE (or ARQON_CA)",
        ),
        TlsProblem::NotInForce => {
            Some("the node's operator must renew it; or is the clock of this machine wrong?")
        }
        TlsProblem::OtherName { .. } => {
            Some("use the name in the certificate; `openssl s_client -connect HOST:PORT` shows it")
        }
        TlsProblem::NotTls => Some("is it a node without TLS? its URL begins with ws://"),
        TlsProblem::CertificateWanted => {
            Some("show one with --cert FILE --cert-key FILE (or ARQON_CERT and ARQON_CERT_KEY)")
        }
        TlsProblem::CertificateRefused => Some(
            "is it in force, and from an authority that the node knows? the node's log says why",
        ),
        _ => None,
    }
}

/// A short name for machines: the node's own code if it gave one.
pub(crate) fn name(error: &anyhow::Error) -> &'static str {
    let of_node = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<client::Error>()?.code());
    if let Some(code) = of_node {
        return code.as_str();
    }
    match exit_code(error) {
        65 => "BAD_INPUT",
        66 => "NO_INPUT",
        69 => "NODE_UNREACHABLE",
        75 => "TRY_AGAIN",
        77 => "NOT_PERMITTED",
        130 => "INTERRUPTED",
        _ => "FAILED",
    }
}

pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.code;
        }
        if let Some(error) = cause.downcast_ref::<client::Error>() {
            return of_client(error);
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            // Whoever read our output has seen enough, as with `| head`.
            return if error.kind() == io::ErrorKind::BrokenPipe {
                0
            } else {
                74
            };
        }
    }
    1
}

fn of_client(error: &client::Error) -> u8 {
    let refused = matches!(
        error,
        client::Error::Refused {
            status: 401 | 403,
            ..
        }
    );
    let refused = refused
        || matches!(
            error,
            client::Error::Tls {
                problem: TlsProblem::CertificateWanted | TlsProblem::CertificateRefused,
                ..
            }
        );
    let forbidden = matches!(
        error.code(),
        Some(
            ErrorCode::Unauthenticated
                | ErrorCode::Forbidden
                | ErrorCode::TenantMismatch
                | ErrorCode::NotMember
        )
    );
    if refused || forbidden {
        return 77;
    }
    match error {
        client::Error::Address { .. } => 78,
        client::Error::Unreachable { .. }
        | client::Error::Tls { .. }
        | client::Error::ConnectionLost { .. }
        | client::Error::Closed => 69,
        _ if error.retryable() => 75,
        _ => 1,
    }
}
