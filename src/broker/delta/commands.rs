//! Commands that declare topics.

use super::declared::{Register, event};
use crate::broker::access::Role;
use crate::broker::command::{Call, Handler};
use crate::broker::error::{ArgumentFault, Error};
use crate::broker::filter::Filter;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::proto::v1::Value;

/// Patterns of one tenant.
const PATTERNS_MAX: usize = 100;
/// What topics can be declared as.
const DELTA_ONLY: &str = "delta_only";

const PATTERN: Argument = Argument {
    name: "pattern",
    kind: Kind::Text,
    required: true,
    doc: "which topics, as a filter",
};

/// The commands of this part.
pub(in crate::broker) const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "topic.declarations",
        role: Role::User,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the topic patterns that are declared, and as what.",
        handler: declarations,
    },
    Command {
        name: "topic.declare",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[
            PATTERN,
            Argument {
                name: "as",
                kind: Kind::Text,
                required: false,
                doc: "delta_only, which is all there is: bases, and deltas that follow each other",
            },
        ],
        doc: "Declares topics, in all realities of the tenant.",
        handler: declare,
    },
    Command {
        name: "topic.undeclare",
        role: Role::Operator,
        effect: Effect::Changes,
        arguments: &[PATTERN],
        doc: "Takes a declaration of topics back: they are topics like all others again.",
        handler: undeclare,
    },
];

fn declarations(call: &Call<'_>) -> Result<Value, Error> {
    let listed = call.tenancy.ledger::<Register>().read(|register| {
        let all = register.all().map(|(pattern, by)| {
            Value::object([
                ("pattern", Value::from(pattern)),
                ("as", DELTA_ONLY.into()),
                ("by", by.into()),
            ])
        });
        all.collect::<Value>()
    })?;
    Ok(Value::object([("declarations", listed)]))
}

fn declare(call: &Call<'_>) -> Result<Value, Error> {
    if call
        .arguments
        .text("as")
        .is_some_and(|kind| kind != DELTA_ONLY)
    {
        return Err(call.wrong("as", "delta_only"));
    }
    change(call, true)
}

fn undeclare(call: &Call<'_>) -> Result<Value, Error> {
    change(call, false)
}

fn change(call: &Call<'_>, is_declared: bool) -> Result<Value, Error> {
    let given = call.arguments.text("pattern").unwrap_or_default();
    let fault = |fault| Error::Argument {
        command: call.command,
        argument: PATTERN.name.to_owned(),
        fault,
    };
    let pattern = Filter::new(given).map_err(|bad| fault(ArgumentFault::Name(bad)))?;
    let by = &call.caller.subject;
    let ledger = call.tenancy.ledger::<Register>();
    let changed = ledger.change(|register| {
        let holds = register.holds(pattern.as_str());
        if holds == is_declared {
            return Ok((false, Vec::new()));
        }
        if is_declared && register.len() >= PATTERNS_MAX {
            let what = format!(
                "there are {PATTERNS_MAX} declarations already, which is as many as there may be"
            );
            return Err(fault(ArgumentFault::Wrong { what }));
        }
        Ok((true, vec![event(pattern.as_str(), by, is_declared)?]))
    })?;
    // Whether it was this that changed it or another: what is appended from here on obeys.
    call.tenancy.declarations().read(call.tenancy)?;
    Ok(Value::object([
        ("pattern", Value::from(pattern.as_str())),
        ("as", if is_declared { DELTA_ONLY } else { "" }.into()),
        ("changed", changed.into()),
    ]))
}
