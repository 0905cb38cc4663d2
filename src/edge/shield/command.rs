//! Commands that the edge carries out, and the way from a name to whoever carries it out, the
//! broker's own commands included (BRK-11).
//!
//! Adding a command adds one entry to the list of the part that it belongs to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::rules::Fault;
use super::{Guard, Shield, status};
use crate::broker::command as broker_command;
use crate::broker::verb::{Argument, Arguments, Command, Effect};
use crate::broker::{self, Broker, Identity, Role, Tenancy};
use crate::edge::{casil, mirror, policy, projector, rate, revocation, schema, signature};
use crate::projections::Projections;
use crate::proto::v1::Value;

/// What the edge does for a command.
pub type Handler = fn(&Call<'_>) -> Result<Value, Fault>;

/// The edge's commands, by the part that they belong to.
const PARTS: &[&[Command<Handler>]] = &[
    casil::COMMANDS,
    mirror::COMMANDS,
    policy::COMMANDS,
    projector::continuum::COMMANDS,
    projector::general::COMMANDS,
    projector::jobs::COMMANDS,
    projector::letters::COMMANDS,
    rate::COMMANDS,
    revocation::COMMANDS,
    schema::COMMANDS,
    signature::COMMANDS,
    status::COMMANDS,
];

/// A command that may be given, and all that it works on.
#[derive(Debug)]
pub struct Call<'a> {
    /// All guards.
    pub shield: &'a Shield,
    /// The guard of the caller's tenant.
    pub guard: &'a Arc<Guard>,
    /// The node's logs.
    pub broker: &'a Broker,
    /// What is kept of them elsewhere.
    pub projections: &'a Arc<Projections>,
    /// The caller's tenant.
    pub tenancy: &'a Arc<Tenancy>,
    /// How long it may wait for something at most.
    pub wait_max: Duration,
    /// Who asks.
    pub caller: &'a Identity,
    /// What was given.
    pub arguments: Arguments,
}

/// A command of the node, whoever carries it out.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// Its name.
    pub name: &'static str,
    /// Who may give it.
    pub role: Role,
    /// Whether it changes anything.
    pub effect: Effect,
    /// What it takes.
    pub arguments: &'static [Argument],
    /// What it does, in a sentence.
    pub doc: &'static str,
}

/// All commands of the node, by name.
#[must_use]
pub fn all() -> Vec<Listed> {
    fn listed<H>(command: &Command<H>) -> Listed {
        Listed {
            name: command.name,
            role: command.role,
            effect: command.effect,
            arguments: command.arguments,
            doc: command.doc,
        }
    }
    let edge = PARTS.iter().flat_map(|part| part.iter()).map(listed);
    let broker = broker_command::all().map(listed);
    let mut all: Vec<Listed> = edge.chain(broker).collect();
    all.sort_by_key(|command| command.name);
    all
}

/// What commands work on, for one caller.
#[derive(Clone, Debug)]
pub struct Desk {
    /// All guards.
    pub shield: Arc<Shield>,
    /// The node's logs.
    pub broker: Arc<Broker>,
    /// What is kept of them elsewhere.
    pub projections: Arc<Projections>,
    /// How long a command may wait for something at most.
    pub wait_max: Duration,
    /// The caller's tenant.
    pub tenancy: Arc<Tenancy>,
    /// Its guard.
    pub guard: Arc<Guard>,
}

impl Desk {
    /// Carries out a command. Blocks on the disk.
    ///
    /// # Errors
    /// There is no such command; the caller may not give it; an argument is missing, unknown or of
    /// the wrong type; the command itself failed.
    pub fn run(
        &self,
        caller: &Identity,
        name: &str,
        arguments: &BTreeMap<String, Value>,
    ) -> Result<Value, Fault> {
        let mut ours = PARTS.iter().flat_map(|part| part.iter());
        if let Some(command) = ours.find(|command| command.name == name) {
            let arguments = command.admit(caller, arguments)?;
            return (command.handler)(&Call {
                shield: &self.shield,
                guard: &self.guard,
                broker: &self.broker,
                projections: &self.projections,
                wait_max: self.wait_max,
                tenancy: &self.tenancy,
                caller,
                arguments,
            });
        }
        let done = broker_command::run(
            &self.broker,
            &self.tenancy,
            self.wait_max,
            caller,
            name,
            arguments,
        );
        done.map_err(|error| match error {
            broker::Error::UnknownCommand { name, .. } => {
                let known: Vec<_> = all().iter().map(|command| command.name).collect();
                let known = known.join(", ");
                Fault::from(broker::Error::UnknownCommand { name, known })
            }
            other => Fault::from(other),
        })
    }
}
