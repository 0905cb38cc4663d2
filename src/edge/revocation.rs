//! Who may no longer come in (EDGE-05).

use crate::broker::Identity;
use crate::broker::journal::Event;
use crate::broker::verb::Command;
use crate::edge::shield::Fault;
use crate::edge::shield::command::Handler;

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[];

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Revocations {}

impl Revocations {
    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, _event: &Event<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

impl Revocations {
    /// Whether nobody is revoked.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        true
    }

    /// Why the bearer may not come in, if it may not.
    #[must_use]
    pub fn revoked(&self, _identity: &Identity) -> Option<&'static str> {
        None
    }
}
