//! Messages that are delivered later (BRK-08).
//!
//! What is produced with a `deliver_at` to come is stored on `sys.later.<topic>`, and on its own topic
//! when its time has come; both in the same reality, so that nothing of it is anywhere else.

mod admission;
mod delivery;
mod places;
#[cfg(test)]
mod tests;
mod waiting;

use crate::broker::Role;
use crate::broker::command::{Call, Handler, REALITY};
use crate::broker::error::{ArgumentFault, Error};
use crate::broker::operators::BuiltIn;
use crate::broker::own::Piece;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::log::Sequence;
use crate::proto::json::micros;
use crate::proto::v1::Value;

pub(in crate::broker) use admission::{Later, Refusal};
pub use admission::{Limits, announce, is_announced, retract};
pub(in crate::broker) use delivery::MARKER;
pub(in crate::broker) use waiting::{TOPIC_PREFIX, kept, topic_of};

/// Its line in the registry.
pub const DELAYED: BuiltIn = BuiltIn {
    name: NAME,
    doc: "Delivers messages later.",
    commands: COMMANDS,
    duty: Some(delivery::DUTY),
};

const NAME: &str = "delayed";
/// Entries of an answer, unless the caller says otherwise,
const LISTED: u64 = 1_000;
/// and at most.
const LISTED_MAX: u64 = 10_000;

const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "delayed.cancel",
        role: Role::User,
        effect: Effect::Changes,
        arguments: &[
            REALITY,
            Argument {
                name: "sequence",
                kind: Kind::Integer,
                required: true,
                doc: "the sequence that the message was stored under",
            },
        ],
        doc: "Has a message of one's own that waits never be delivered; an operator, any.",
        handler: cancel,
    },
    Command {
        name: "delayed.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[
            REALITY,
            Argument {
                name: "topic",
                kind: Kind::Text,
                required: false,
                doc: "only messages for this topic",
            },
            Argument {
                name: "limit",
                kind: Kind::Integer,
                required: false,
                doc: "so many at most; 1000 if left out, 10000 at most",
            },
        ],
        doc: "Lists the messages that wait for topics that the caller may subscribe to, the next due first.",
        handler: list,
    },
];

fn list(call: &Call<'_>) -> Result<Value, Error> {
    let limit = call.arguments.integer("limit").unwrap_or(LISTED);
    if !(1..=LISTED_MAX).contains(&limit) {
        let (found, max) = (limit.to_string(), LISTED_MAX);
        return Err(Error::Argument {
            command: call.command,
            argument: "limit".to_owned(),
            fault: ArgumentFault::Number { found, max },
        });
    }
    let topic = call
        .arguments
        .text("topic")
        .filter(|topic| !topic.is_empty());
    let reality = call.reality()?;
    let mut waiting = reality.later().waiting();
    waiting.follow(&reality.log())?;
    let visible = waiting.in_order().filter(|(_, entry)| {
        call.caller.may_see(&entry.topic) && topic.is_none_or(|topic| *entry.topic == *topic)
    });
    let entries: Vec<Value> = visible
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
        .map(|(sequence, entry)| {
            let mut fields = vec![
                ("sequence", Value::from(sequence.get())),
                ("topic", (*entry.topic).into()),
                ("deliver_at", time(entry.deliver_at)),
            ];
            if entry.expires_at > 0 {
                fields.push(("expires_at", time(entry.expires_at)));
            }
            Value::object(fields)
        })
        .collect();
    let all = waiting.len() as u64;
    drop(waiting);
    Ok(Value::object([
        ("reality", Value::from(reality.name().as_str())),
        ("count", (entries.len() as u64).into()),
        ("waiting_in_all", all.into()),
        ("waiting", entries.into_iter().collect()),
    ]))
}

fn cancel(call: &Call<'_>) -> Result<Value, Error> {
    let asked = call.arguments.integer("sequence").unwrap_or_default();
    let reality = call.reality()?;
    // Held until it is stored, so that it is not delivered meanwhile.
    let mut waiting = reality.later().waiting();
    waiting.follow(&reality.log())?;
    let nothing = || Error::NothingWaits { sequence: asked };
    let sequence = Sequence::new(asked).ok_or_else(nothing)?;
    let entry = waiting.get(sequence).ok_or_else(nothing)?;
    if !call.caller.role.includes(Role::Operator) {
        let message = waiting::message(&reality, sequence)?;
        // Whose it is is nobody else's business.
        if message.sender != call.caller.subject {
            return Err(nothing());
        }
    }
    let end = waiting::end(entry, "later.cancelled", &call.caller.subject);
    let topic = entry.topic.to_string();
    delivery::conclude(&reality, vec![Piece::Own(end)], "later.cancelled", 1)?;
    Ok(Value::object([
        ("sequence", Value::from(asked)),
        ("topic", topic.into()),
        ("cancelled", true.into()),
    ]))
}

fn time(ms: u64) -> Value {
    micros(ms.saturating_mul(1_000)).into()
}
