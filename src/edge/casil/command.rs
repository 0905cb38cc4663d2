//! The commands: what is in force, and putting something else in force.

use prost::Message as _;

use super::{KIND, SCHEMA, TOPIC, configuration};
use crate::broker::Role;
use crate::broker::journal::NewEvent;
use crate::broker::verb::{Command, Effect};
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::proto::v1::Value;

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "op.casil.get",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Shows whether content is inspected and, to an admin, by what rules.",
        handler: get,
    },
    Command {
        name: "op.casil.reload",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: configuration::ARGUMENTS,
        doc: "Changes what content is inspected for, all of it or nothing.",
        handler: reload,
    },
];

fn get(call: &Call<'_>) -> Result<Value, Fault> {
    Ok(shown(call))
}

fn reload(call: &Call<'_>) -> Result<Value, Fault> {
    call.guard.change_from(call.tenancy, |rules| {
        let policy = configuration::amended(rules.casil.policy().clone(), &call.arguments);
        Ok(NewEvent {
            topic: TOPIC.to_owned(),
            kind: KIND,
            schema: SCHEMA,
            data: policy.encode_to_vec().into(),
        })
    })?;
    let (tenant, by) = (call.tenancy.tenant(), &call.caller.subject);
    tracing::info!(%tenant, by, "CASIL reloaded");
    Ok(shown(call))
}

fn shown(call: &Call<'_>) -> Value {
    let rules = call.guard.rules();
    let policy = rules.casil.policy();
    if !call.caller.role.includes(Role::Admin) {
        return Value::object([("enabled", Value::from(policy.enabled))]);
    }
    let revision = ("revision", Value::from(rules.casil.revision()));
    Value::object(configuration::shown(policy).into_iter().chain([revision]))
}
