//! Commands that the edge carries out, and the way from a name to whoever carries it out, the
//! broker's own commands included (BRK-11).
//!
//! Adding a command adds one entry to the list of the part that it belongs to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::audited::Audited;
use super::rules::Fault;
use super::{Guard, Shield, status};
use crate::broker::command as broker_command;
use crate::broker::verb::{Arguments, Command, Effect};
use crate::broker::{self, Broker, Identity, Tenancy};
use crate::edge::{
    audit, casil, history, mirror, policy, projector, rate, reload, revocation, schema, session,
    signature, topics,
};
use crate::projections::Projections;
use crate::proto::ErrorCode;
use crate::proto::v1::Value;

/// What the edge does for a command.
pub type Handler = fn(&Call<'_>) -> Result<Value, Fault>;

/// The edge's commands, by the part that they belong to.
const PARTS: &[&[Command<Handler>]] = &[
    audit::COMMANDS,
    casil::COMMANDS,
    history::COMMANDS,
    mirror::COMMANDS,
    policy::COMMANDS,
    projector::continuum::COMMANDS,
    projector::general::COMMANDS,
    projector::jobs::COMMANDS,
    projector::letters::COMMANDS,
    rate::COMMANDS,
    reload::COMMANDS,
    revocation::COMMANDS,
    schema::COMMANDS,
    session::rooms::COMMANDS,
    signature::COMMANDS,
    status::COMMANDS,
    topics::COMMANDS,
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
pub type Listed = Command<()>;

const fn listed<H>(command: &Command<H>) -> Listed {
    Command {
        name: command.name,
        role: command.role,
        effect: command.effect,
        arguments: command.arguments,
        doc: command.doc,
        handler: (),
    }
}

fn unsorted() -> impl Iterator<Item = Listed> {
    let edge = PARTS.iter().flat_map(|part| part.iter()).map(listed);
    edge.chain(broker_command::all().map(listed))
}

/// The command called so.
#[must_use]
pub fn find(name: &str) -> Option<Listed> {
    unsorted().find(|command| command.name == name)
}

/// All commands of the node, by name.
#[must_use]
pub fn all() -> Vec<Listed> {
    let mut all: Vec<Listed> = unsorted().collect();
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
    /// The address that the caller asks from, or `local`.
    pub from: Arc<str>,
}

impl Desk {
    /// Carries out a command. One that changes something is written down in the tenant's audit
    /// before and after, and so is whoever has no right to what is asked for (BRK-13). Blocks on
    /// the disk.
    ///
    /// # Errors
    /// There is no such command; the caller may not give it; an argument is missing, unknown or of
    /// the wrong type; it cannot be written down; the command itself failed.
    pub fn run(
        &self,
        caller: &Identity,
        name: &str,
        arguments: &BTreeMap<String, Value>,
    ) -> Result<Value, Fault> {
        let Some(command) = find(name) else {
            return self.carry_out(caller, name, arguments);
        };
        if let Err(error) = command.admit(caller, arguments) {
            let fault = Fault::from(error);
            if fault.code == ErrorCode::Forbidden || command.effect == Effect::Changes {
                self.audit_refusal(caller, command.name, arguments, &fault);
            }
            return Err(fault);
        }
        match command.effect {
            Effect::Shows => self.carry_out(caller, name, arguments),
            Effect::Writes => {
                let result = self.carry_out(caller, name, arguments);
                if let Err(fault) = &result
                    && fault.code == ErrorCode::Forbidden
                {
                    self.audit_refusal(caller, command.name, arguments, fault);
                }
                result
            }
            Effect::Changes => {
                let audited = Audited::begin(self, caller, command.name, arguments)?;
                let result = self.carry_out(caller, name, arguments);
                audited.end(&result);
                result
            }
        }
    }

    pub(super) fn carry_out(
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
