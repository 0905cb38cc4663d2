//! `op.omega`: a laboratory apart from production: substrates, their signals, and virtual machines
//! (OPS-09, OPS-10). Off unless it is turned on.
//!
//! - `command`: what it does when it is asked.
//! - `lane`: substrates, machines and what was cleared, a fold of the log.
//! - `lab`: signals, in a reality of their own. Nothing of this operator holds any other: all that it
//!   stores goes through [`Reality::store_signal`](crate::broker::Reality), which stores nowhere else.
//! - `firecracker`: one virtual machine; knows no tenant and no log.
//! - `duty`: looks after the machines of a tenant; `orphan`: after those of a node that crashed.
//! - `probe`: what is missing for machines.
//! - [`Desk`]: what the laboratories of all tenants share.

mod command;
mod desk;
mod duty;
mod firecracker;
mod lab;
mod lane;
mod orphan;
mod probe;
mod settings;
#[cfg(test)]
mod tests;

pub use self::desk::Desk;
pub use self::settings::{Settings, Unusable};

use super::sam::Refused;
use super::{BuiltIn, Duty};
use crate::broker::error::Error;
use crate::proto::ErrorCode;

const NAME: &str = "omega";

/// The operator.
pub(super) const OPERATOR: BuiltIn = BuiltIn {
    name: NAME,
    doc: "Keeps a laboratory apart from production: substrates, their signals, virtual machines.",
    commands: command::COMMANDS,
    duty: Some(Duty {
        is_due: duty::is_due,
        run: duty::run,
    }),
};

fn refused(code: ErrorCode, field: &str, message: impl Into<String>) -> Error {
    Error::Refused(Refused {
        code,
        field: field.to_owned(),
        message: message.into(),
        retry_after_ms: 0,
    })
}
