//! Which payloads are well-formed: the schema registry (EDGE-13).

use crate::broker::journal::Event;
use crate::broker::verb::Command;
use crate::config::Config;
use crate::edge::shield::command::Handler;
use crate::edge::shield::{Blocked, Fault, Findings, Message};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[];

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Schemas {}

impl Schemas {
    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, _event: &Event<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

impl Schemas {
    /// What the node's settings put in force for every tenant.
    ///
    /// # Errors
    /// Everything in them that cannot be.
    pub fn of_node(_config: &Config) -> Result<Self, Vec<Fault>> {
        Ok(Self::default())
    }

    /// Whether there is nothing to check.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        true
    }

    /// Holds a payload against its schema.
    ///
    /// # Errors
    /// It does not fit, or there is none and one is needed.
    pub fn check(&self, _message: &Message<'_>, _findings: &mut Findings) -> Result<(), Blocked> {
        Ok(())
    }

    /// Holds a payload that another check has changed against its schema.
    ///
    /// # Errors
    /// It does not fit any more.
    pub fn check_changed(
        &self,
        _message: &Message<'_>,
        _findings: &Findings,
    ) -> Result<(), Blocked> {
        Ok(())
    }
}
