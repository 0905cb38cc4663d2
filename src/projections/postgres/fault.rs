//! What an error of the server or of the way to it means to a projection. The only place that
//! decides it.
//!
//! What is said of an error is the server's own message, without the detail that can hold values of
//! rows; a password is in neither.

use std::error::Error as _;
use std::io;

use deadpool_postgres::{HookError, PoolError, TimeoutType};
use tokio_postgres::Error;
use tokio_postgres::error::DbError;
use tokio_rustls::rustls;

use crate::projections::sink::{SinkError, SinkKind};

/// What can be done about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Remedy {
    /// Wait, and try again.
    Wait,
    /// Leave the row out.
    LeaveOut,
    /// Somebody has to look at it.
    Look,
}

pub(super) fn unavailable(reason: impl Into<String>) -> SinkError {
    SinkError::Unavailable {
        sink: SinkKind::Postgres,
        reason: reason.into(),
    }
}

pub(super) fn rejected(reason: impl Into<String>) -> SinkError {
    SinkError::Rejected {
        sink: SinkKind::Postgres,
        reason: reason.into(),
    }
}

pub(super) fn unfit(reason: impl Into<String>) -> SinkError {
    SinkError::Unfit {
        sink: SinkKind::Postgres,
        reason: reason.into(),
    }
}

pub(super) fn fenced() -> SinkError {
    SinkError::Fenced {
        sink: SinkKind::Postgres,
    }
}

/// What an error of a connection or statement means.
pub(super) fn of(error: &Error) -> SinkError {
    let reason = told(error);
    match error.as_db_error() {
        // Cut, refused, timed out, no TLS: nothing that the rows have to do with.
        None => unavailable(reason),
        Some(said) => match remedy(said.code().code()) {
            Remedy::Wait => unavailable(reason),
            Remedy::LeaveOut => rejected(reason),
            Remedy::Look => unfit(reason),
        },
    }
}

/// What it means that no connection could be had.
pub(super) fn of_pool(error: &PoolError) -> SinkError {
    match error {
        PoolError::Timeout(TimeoutType::Wait) => {
            unavailable("all connections are in use for longer than one is waited for")
        }
        PoolError::Timeout(TimeoutType::Create) => {
            unavailable("the server does not answer in the time given to connect")
        }
        PoolError::Timeout(TimeoutType::Recycle) => unavailable("a connection does not answer"),
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            of(error)
        }
        PoolError::Closed => unavailable("it is being stopped"),
        PoolError::PostCreateHook(HookError::Message(said)) => unavailable(said.as_ref()),
        PoolError::NoRuntimeSpecified => unavailable("there is no runtime"),
    }
}

/// What the server said, or what went wrong on the way to it.
pub(super) fn told(error: &Error) -> String {
    if let Some(said) = error.as_db_error() {
        return quoted(said);
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let mut said = error.to_string();
        if is_of_certificate(error) {
            said.push_str("; name the authority that it comes from, or turn TLS off with sslmode=disable where nobody else reads the network");
        }
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

fn is_of_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}

fn quoted(said: &DbError) -> String {
    let (code, message) = (said.code().code(), said.message());
    match said.hint() {
        Some(hint) => format!("{message} (SQLSTATE {code}; {hint})"),
        None => format!("{message} (SQLSTATE {code})"),
    }
}

/// By the code's class, its first two characters, but where a code says more.
fn remedy(code: &str) -> Remedy {
    match code {
        // Corrupt data or index.
        "XX001" | "XX002" => return Remedy::Look,
        // The plan of a statement is older than its table; a new connection makes a new one.
        "0A000" | "26000" => return Remedy::Wait,
        _ => {}
    }
    match code.get(..2).unwrap_or_default() {
        // Connection; transaction in a wrong state, a standby among them; a password that is being
        // changed; rolled back by a conflict; no room or memory; in use or locked; stopped by
        // somebody or by a limit of time; failed system call; internal.
        "08" | "25" | "28" | "40" | "53" | "55" | "57" | "58" | "F0" | "HV" | "XX" => Remedy::Wait,
        // A value that its column does not take; a constraint; a trigger; larger than an index
        // takes.
        "22" | "23" | "54" | "P0" => Remedy::LeaveOut,
        // Tables, columns, privileges, databases: not what the node keeps. And whatever else there
        // is, for somebody has to know what it means.
        _ => Remedy::Look,
    }
}

#[cfg(test)]
mod tests {
    use super::{Remedy, remedy};

    // PRJ-04, PRJ-13: an outage is no poison, and poison no outage.
    #[test]
    fn every_code_has_its_remedy() {
        for (codes, wanted) in [
            (
                &[
                    "08006", "25006", "28P01", "28000", "40001", "40P01", "53100", "53200",
                    "53300", "55P03", "57014", "57P01", "57P03", "58030", "XX000", "0A000",
                ][..],
                Remedy::Wait,
            ),
            (
                &[
                    "22001", "22021", "22P05", "23502", "23505", "23514", "54000", "P0001",
                ],
                Remedy::LeaveOut,
            ),
            (
                &[
                    "3D000", "3F000", "42501", "42703", "42P01", "XX001", "99999", "",
                ],
                Remedy::Look,
            ),
        ] {
            for code in codes {
                assert_eq!(remedy(code), wanted, "{code}");
            }
        }
    }
}
