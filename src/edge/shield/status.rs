//! What is in force for a tenant, for those who want to know why a message passes or does not.

use prost::Message as _;

use super::command::{Call, Handler};
use super::rules::{Fault, LOSS_PREFIX};
use crate::broker::Role;
use crate::broker::journal::NewEvent;
use crate::broker::verb::{Command, Effect};
use crate::proto::v1::{LossAccepted, Value};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "edge.accept_loss",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[],
        doc: "Goes on without events of the edge that are lost in a damaged system log; what they put in force is not in force.",
        handler: accept_loss,
    },
    Command {
        name: "edge.status",
        role: Role::Operator,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Shows what the edge has in force for the tenant, and why it blocks everything if it does.",
        handler: status,
    },
];

fn accept_loss(call: &Call<'_>) -> Result<Value, Fault> {
    let missing: Vec<(u64, u64)> = call.guard.rules().missing().collect();
    for (first, last) in &missing {
        let by = call.caller.subject.clone();
        let accepted = LossAccepted {
            first: *first,
            last: *last,
            by,
        };
        call.guard.change(
            call.tenancy,
            NewEvent {
                topic: format!("{LOSS_PREFIX}{first}"),
                kind: "edge.loss.accepted",
                schema: "arqon.v1.LossAccepted",
                data: accepted.encode_to_vec().into(),
            },
        )?;
    }
    let ranges = missing.iter().map(|(first, last)| {
        Value::object([("first", Value::from(*first)), ("last", (*last).into())])
    });
    Ok(Value::object([
        ("accepted", ranges.collect::<Value>()),
        ("fit", call.guard.rules().unfit().is_none().into()),
    ]))
}

fn status(call: &Call<'_>) -> Result<Value, Fault> {
    let rules = call.guard.rules();
    let unfit = rules.unfit_topics().map(|(topic, reason)| {
        Value::object([("topic", topic.into()), ("reason", Value::from(reason))])
    });
    let parts = rules.parts().map(|(part, folded)| {
        Value::object([
            ("part", Value::from(part)),
            ("events", folded.events.into()),
            ("last", folded.last.into()),
        ])
    });
    let count = |count: usize| Value::from(count as u64);
    Ok(Value::object([
        ("tenant", Value::from(call.tenancy.tenant().as_str())),
        ("fit", rules.unfit().is_none().into()),
        ("unfit", unfit.collect::<Value>()),
        ("revision", rules.revision.into()),
        ("judging", (!rules.is_idle()).into()),
        ("changes", parts.collect::<Value>()),
        ("mirror_rules", count(rules.mirrors.len())),
        ("signature_keys", count(rules.signatures.keys())),
        (
            "signature_requirements",
            count(rules.signatures.requirements()),
        ),
        ("sessions", count(call.guard.roll().len())),
    ]))
}
