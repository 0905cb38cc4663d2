//! Wasm modules that judge payloads (EDGE-14 to EDGE-16).

use crate::broker::journal::Event;
use crate::broker::verb::Command;
use crate::config::Config;
use crate::edge::shield::command::Handler;
use crate::edge::shield::{Blocked, Fault, Findings, Message, Workshop};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[];

/// Compiles modules, each once.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Makes ready what compiles and runs modules.
    ///
    /// # Errors
    /// What does not work on this machine.
    pub fn new(_config: &Config) -> Result<Self, Fault> {
        Ok(Self {})
    }
}

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Policies {}

impl Policies {
    /// What the node's settings put in force for every tenant.
    ///
    /// # Errors
    /// Everything in them that cannot be.
    pub fn of_node(_config: &Config, _workshop: &Workshop) -> Result<Self, Vec<Fault>> {
        Ok(Self::default())
    }

    /// Whether nothing is judged.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        true
    }

    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, _event: &Event<'_>, _workshop: &Workshop) -> Result<(), Fault> {
        Ok(())
    }

    /// Has the chain of the message's topic judge it.
    ///
    /// # Errors
    /// A policy refused it, or could not decide.
    pub fn judge(&self, _message: &Message<'_>, _findings: &mut Findings) -> Result<(), Blocked> {
        Ok(())
    }
}
