//! What the node does by itself: the built-in operators (OPS-13).
//!
//! - [`OPERATORS`]: one line each; its commands, its state and its tests are in a file of its own.
//! - [`Duties`]: which tenants have something to be done, told by whoever changes that.
//! - [`supervise`]: one task for each tenant and operator with something to do.
//!
//! An operator is a consumer with a job: what it knows is a fold of the log, what it has done stands
//! there, and a task that ends anyhow begins again from that.

mod duty;
mod office;
#[cfg(test)]
mod tests;

pub use duty::{Duties, Duty, supervise};
pub use office::Office;

use super::command::Handler;
use super::verb::Command;

/// A built-in operator.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// Its name: `store`.
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub doc: &'static str,
    /// What it does when it is asked.
    pub commands: &'static [Command<Handler>],
    /// What it does unasked, if anything.
    pub duty: Option<Duty>,
}

/// All of them, by name.
pub const OPERATORS: &[BuiltIn] = &[];

/// The one called `name`.
#[must_use]
pub fn called(name: &str) -> Option<&'static BuiltIn> {
    OPERATORS.iter().find(|operator| operator.name == name)
}
