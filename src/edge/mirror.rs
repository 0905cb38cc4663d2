//! What is copied where (EDGE-19).

use crate::broker::journal::Event;
use crate::broker::verb::Command;
use crate::edge::shield::Fault;
use crate::edge::shield::command::Handler;

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[];

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Mirrors {}

impl Mirrors {
    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, _event: &Event<'_>) -> Result<(), Fault> {
        Ok(())
    }
}
