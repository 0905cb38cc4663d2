//! What may not be in a payload: content-aware inspection (EDGE-17).

use crate::broker::journal::Event;
use crate::broker::verb::Command;
use crate::config::Config;
use crate::edge::shield::command::Handler;
use crate::edge::shield::{Blocked, Fault, Findings, Message};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[];

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Casil {}

impl Casil {
    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, _event: &Event<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

impl Casil {
    /// What the node's settings put in force for every tenant.
    ///
    /// # Errors
    /// Everything in them that cannot be.
    pub fn of_node(_config: &Config) -> Result<Self, Vec<Fault>> {
        Ok(Self::default())
    }

    /// Whether nothing is inspected.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        true
    }

    /// Inspects a payload.
    ///
    /// # Errors
    /// It must not be stored.
    pub fn inspect(&self, _message: &Message<'_>, _findings: &mut Findings) -> Result<(), Blocked> {
        Ok(())
    }
}
