//! Whose payloads must be signed (EDGE-20).

use crate::broker::journal::Event;
use crate::broker::verb::Command;
use crate::edge::shield::command::Handler;
use crate::edge::shield::{Blocked, Fault, Findings, Message};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[];

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Signatures {}

impl Signatures {
    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, _event: &Event<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

impl Signatures {
    /// Whether there is nothing to check.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        true
    }

    /// Checks a message's signature.
    ///
    /// # Errors
    /// It is missing or wrong.
    pub fn check(&self, _message: &Message<'_>, _findings: &mut Findings) -> Result<(), Blocked> {
        Ok(())
    }
}
