//! Control parameters: values that a controller gives to every subscriber of a reality (MSG-13).
//!
//! Each is the last record on `sys.control.set.<name>` of the reality that it is for, so that
//! subscribers get it in order with everything else; whoever comes later begins at the earliest
//! record, of which upkeep leaves one for each name. One without data says that it is gone.

use bytes::Bytes;
use serde_json::json;

use super::access::Role;
use super::command::{Call, Handler, REALITY};
use super::error::{ArgumentFault, Error};
use super::journal::NewEvent;
use super::name::check_token;
use super::reality::Reality;
use super::verb::{Argument, Command, Effect, Kind};
use crate::log::{Found, Sequence};
use crate::proto::json::micros;
use crate::proto::v1::Value;
use crate::proto::view::RecordView;

/// First tokens of the topics of control parameters.
pub(super) const TOPIC_PREFIX: &str = "sys.control.set.";
/// Parameters of one reality.
const PARAMETERS_MAX: usize = 1_000;
/// Bytes of a value.
const VALUE_BYTES_MAX: usize = 16 << 10;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 128;

const NAME: Argument = Argument {
    name: "name",
    kind: Kind::Text,
    required: true,
    doc: "the parameter, one token of a topic",
};

/// The commands of this part.
pub(super) const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "control.clear",
        role: Role::Controller,
        effect: Effect::Changes,
        arguments: &[NAME, REALITY],
        doc: "Takes a control parameter back, and tells every subscriber of sys.control.> so.",
        handler: clear,
    },
    Command {
        name: "control.list",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[REALITY],
        doc: "Lists the control parameters of a reality that the caller may subscribe to, with their values.",
        handler: list,
    },
    Command {
        name: "control.set",
        role: Role::Controller,
        effect: Effect::Changes,
        arguments: &[
            NAME,
            Argument {
                name: "value",
                kind: Kind::Text,
                required: true,
                doc: "its value: JSON as it is, anything else as a text; up to 16 KiB",
            },
            REALITY,
        ],
        doc: "Sets a control parameter, and gives it to every subscriber of sys.control.>, in order.",
        handler: set,
    },
];

/// A parameter as it stands in the log.
struct Parameter {
    name: String,
    sequence: Sequence,
    /// Nothing where it was taken back.
    said: Option<serde_json::Value>,
    at: u64,
}

fn set(call: &Call<'_>) -> Result<Value, Error> {
    let (reality, name) = (call.reality()?, name(call)?);
    let given = call.arguments.text("value").unwrap_or_default();
    if given.len() > VALUE_BYTES_MAX {
        return Err(wrong(call, "value", "a value of at most 16 KiB"));
    }
    let known = parameters(&reality)?;
    let is_new = !known.iter().any(|one| one.name == name);
    if is_new && known.len() >= PARAMETERS_MAX {
        return Err(wrong(
            call,
            "name",
            "one of the 1,000 parameters that there are, which is as many as there may be",
        ));
    }
    let value: serde_json::Value = serde_json::from_str(given).unwrap_or_else(|_| given.into());
    let by = &call.caller.subject;
    let said = json!({ "name": name, "value": value, "by": by });
    let sequence = record(&reality, &name, "control.set", said.to_string())?;
    Ok(Value::object([
        ("reality", Value::from(reality.name().as_str())),
        ("name", name.into()),
        ("value", value.into()),
        ("sequence", sequence.get().into()),
    ]))
}

fn clear(call: &Call<'_>) -> Result<Value, Error> {
    let (reality, name) = (call.reality()?, name(call)?);
    let known = parameters(&reality)?;
    let is_set = known
        .iter()
        .any(|one| one.name == name && one.said.is_some());
    let sequence = if is_set {
        record(&reality, &name, "control.clear", String::new())?.get()
    } else {
        0
    };
    Ok(Value::object([
        ("reality", Value::from(reality.name().as_str())),
        ("name", name.into()),
        ("cleared", is_set.into()),
        ("sequence", sequence.into()),
    ]))
}

fn list(call: &Call<'_>) -> Result<Value, Error> {
    let reality = call.reality()?;
    let known = parameters(&reality)?;
    let shown = known.into_iter().filter_map(|one| {
        let said = one.said?;
        let topic = format!("{TOPIC_PREFIX}{}", one.name);
        call.caller.may_see(&topic).then(|| {
            Value::object([
                ("name", Value::from(one.name)),
                ("value", said["value"].clone().into()),
                ("sequence", one.sequence.get().into()),
                ("at", micros(one.at).into()),
                ("by", said["by"].as_str().unwrap_or_default().into()),
            ])
        })
    });
    Ok(shown.collect())
}

fn record(reality: &Reality, name: &str, kind: &str, data: String) -> Result<Sequence, Error> {
    let event = NewEvent {
        topic: format!("{TOPIC_PREFIX}{name}"),
        kind,
        schema: "",
        data: Bytes::from(data),
    };
    reality.record(event, name)
}

/// All parameters of a reality, those that were taken back too, as far as the log knows of them.
fn parameters(reality: &Reality) -> Result<Vec<Parameter>, Error> {
    let log = reality.log();
    let mut all = Vec::new();
    for topic in log.topics()? {
        let Some(name) = topic.topic.strip_prefix(TOPIC_PREFIX) else {
            continue;
        };
        log.await_readable(topic.last);
        let found = log.read(topic.last, topic.last.next(), 1)?;
        let Found::Records(chunk) = found else {
            return Err(Error::RecordDamaged {
                sequence: topic.last,
            });
        };
        let Some(record) = chunk.iter().next() else {
            continue;
        };
        let view = RecordView::parse(record.record).or(Err(Error::Internal))?;
        let data = view.envelope.payload.data();
        all.push(Parameter {
            name: name.to_owned(),
            sequence: topic.last,
            said: serde_json::from_slice(data).ok(),
            at: record.appended_at.0,
        });
    }
    Ok(all)
}

fn name(call: &Call<'_>) -> Result<String, Error> {
    let name = call.arguments.text("name").unwrap_or_default();
    let field = "arguments.name";
    check_token(name).map_err(|fault| Error::Name { field, fault })?;
    if name.len() > NAME_BYTES_MAX {
        let (found, limit) = (name.len(), NAME_BYTES_MAX);
        let fault = super::name::NameError::TooLong { found, limit };
        return Err(Error::Name { field, fault });
    }
    Ok(name.to_owned())
}

fn wrong(call: &Call<'_>, argument: &str, wanted: &'static str) -> Error {
    Error::Argument {
        command: call.command,
        argument: argument.to_owned(),
        fault: ArgumentFault::Kind { wanted },
    }
}
