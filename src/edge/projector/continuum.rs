//! The commands of the older system, for the projection of the Continuum contract.

use super::shown;
use crate::broker::Role;
use crate::broker::verb::Command;
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::projections::continuum::{EPISODES, EVENTS, LETTERS, NAME};
use crate::proto::v1::Value;

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[Command {
    name: "op.continuum.projector.status",
    role: Role::Admin,
    arguments: &[],
    doc: "Counts the episodes, events and dead letters of the tenant, and shows how their projection stands in each sink.",
    handler: status,
}];

fn status(call: &Call<'_>) -> Result<Value, Fault> {
    let tenant = call.tenancy.tenant().as_str();
    let count = |table| Ok::<_, Fault>(call.projections.count(tenant, NAME, None, table)?);
    let (episodes, events, letters) = (count(EPISODES)?, count(EVENTS)?, count(LETTERS)?);
    let now = call.broker.now();
    let lanes = call.projections.status(Some(tenant));
    let sinks = lanes.iter().filter(|lane| lane.projection == NAME);
    Ok(Value::object([
        ("projection_count", Value::from(episodes)),
        ("seen_event_count", events.into()),
        ("dlq_count", letters.into()),
        ("event_log_count", events.into()),
        (
            "sinks",
            sinks.map(|lane| shown::standing(lane, now)).collect(),
        ),
    ]))
}
