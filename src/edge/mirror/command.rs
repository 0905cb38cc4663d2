//! The commands that change what is copied where.

use prost::Message as _;

use super::{Mirrors, TOPIC_PREFIX, check_name};
use crate::broker::journal::NewEvent;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{RealityName, Role};
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::proto::ErrorCode;
use crate::proto::v1::{MirrorRule, Value};

const NAME: Argument = Argument {
    name: "name",
    kind: Kind::Text,
    required: true,
    doc: "name of the rule",
};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "edge.mirror.list",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the rules by which messages are copied.",
        handler: |call| Ok(list(&call.guard.rules().mirrors)),
    },
    Command {
        name: "edge.mirror.remove",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[NAME],
        doc: "Takes a mirroring rule back.",
        handler: remove,
    },
    Command {
        name: "edge.mirror.set",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            NAME,
            Argument {
                name: "topics",
                kind: Kind::Text,
                required: true,
                doc: "topic pattern: which messages are copied",
            },
            Argument {
                name: "percent",
                kind: Kind::Integer,
                required: false,
                doc: "how many of a hundred traces, 1 to 100; all if left out",
            },
            Argument {
                name: "target_topic",
                kind: Kind::Text,
                required: false,
                doc: "where the copies go; {topic} stands for the original's, and is meant if left out",
            },
            Argument {
                name: "target_reality",
                kind: Kind::Text,
                required: false,
                doc: "the reality they go to; the original's if left out",
            },
        ],
        doc: "Has messages on some topics copied to another topic or reality.",
        handler: set,
    },
];

fn set(call: &Call<'_>) -> Result<Value, Fault> {
    let text = |name| call.arguments.text(name).unwrap_or_default().to_owned();
    let percent = call.arguments.integer("percent").unwrap_or(100);
    let rule = MirrorRule {
        name: text("name"),
        topics: text("topics"),
        // What does not fit is out of bounds, and is named so.
        percent: u32::try_from(percent).unwrap_or(u32::MAX),
        target_topic: text("target_topic"),
        target_reality: text("target_reality"),
        removed: false,
        by: call.caller.subject.clone(),
    };
    let field = "arguments.target_reality";
    if let Ok(name) = RealityName::new(&rule.target_reality)
        && !rule.target_reality.is_empty()
        && !name.is_system()
        && !call.tenancy.names().contains(&name)
    {
        let text = format!("there is no reality {name}; make it with reality.create");
        return Err(Fault::new(ErrorCode::NotFound, field, text));
    }
    put(call, &rule)?;
    Ok(describe(&rule))
}

fn remove(call: &Call<'_>) -> Result<Value, Fault> {
    let name = check_name(call.arguments.text("name").unwrap_or_default())?;
    let known = call.guard.rules().mirrors.rules.contains_key(name);
    // One that could not be put in force is not among the rules, and blocks everything until it is
    // taken back.
    let unfit = call.guard.rules().unfit().is_some();
    if !known && !unfit {
        let text = format!("there is no mirroring rule {name}");
        return Err(Fault::new(ErrorCode::NotFound, "arguments.name", text));
    }
    let rule = MirrorRule {
        name: name.to_owned(),
        removed: true,
        by: call.caller.subject.clone(),
        ..MirrorRule::default()
    };
    put(call, &rule)?;
    Ok(Value::object([("removed", name.into())]))
}

fn put(call: &Call<'_>, rule: &MirrorRule) -> Result<(), Fault> {
    let name = check_name(&rule.name)?;
    let event = NewEvent {
        topic: format!("{TOPIC_PREFIX}{name}"),
        kind: "edge.mirror",
        schema: "arqon.v1.MirrorRule",
        data: rule.encode_to_vec().into(),
    };
    call.guard.change(call.tenancy, event)?;
    Ok(())
}

fn list(mirrors: &Mirrors) -> Value {
    mirrors.rules().map(describe).collect()
}

fn describe(rule: &MirrorRule) -> Value {
    let target = match rule.target_topic.as_str() {
        "" => super::TOPIC,
        given => given,
    };
    Value::object([
        ("name", rule.name.as_str().into()),
        ("topics", rule.topics.as_str().into()),
        ("percent", u64::from(rule.percent).into()),
        ("target_topic", target.into()),
        ("target_reality", rule.target_reality.as_str().into()),
        ("by", rule.by.as_str().into()),
    ])
}
