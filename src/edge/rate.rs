//! How much may come in, by session, tenant and topic (EDGE-10).

use crate::broker::journal::Event;
use crate::broker::verb::Command;
use crate::edge::shield::command::Handler;
use crate::edge::shield::{Blocked, Fault, Message};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[];

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct TopicRates {}

impl TopicRates {
    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, _event: &Event<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

impl TopicRates {
    /// Takes a message's share.
    ///
    /// # Errors
    /// There is none left now.
    pub fn check(&self, _message: &Message<'_>) -> Result<(), Blocked> {
        Ok(())
    }
}
