//! Operators that tenants bring themselves: WebAssembly modules that make records of records
//! (OPS-11).
//!
//! - [`host`]: runs a module on one record, the same everywhere.
//! - [`manifest`]: what it may read and write.
//! - [`register`]: which operators there are, a fold of `sys.op.wasm.<name>`.
//! - [`run`]: one of them at work, exactly once.
//! - `duty`: all of a tenant, as long as there is something to do.
//! - `command`: how they are changed and shown.

mod command;
mod duty;
pub mod host;
pub mod manifest;
pub mod register;
pub mod run;
#[cfg(test)]
mod tests;

use super::{BuiltIn, Duty};

/// The name under which it is registered.
const NAME: &str = "wasm";

/// The operator of operators.
pub const OPERATOR: BuiltIn = BuiltIn {
    name: NAME,
    doc: "Runs WebAssembly modules that make records of records.",
    commands: command::COMMANDS,
    duty: Some(Duty {
        is_due: duty::is_due,
        run: duty::run,
    }),
};
