//! The commands of the older system that the adapter carries out itself, and those that nobody
//! does yet. All others are the node's.

use serde_json::{Value as Json, json};

use crate::edge::shield::command::{self, Listed};

/// A command of the adapter: its name, what it takes, what it does.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// Names of its arguments; those that may be left out end with `?`.
    pub arguments: &'static [&'static str],
    /// What it does, in a sentence.
    pub doc: &'static str,
}

const fn builtin(
    name: &'static str,
    arguments: &'static [&'static str],
    doc: &'static str,
) -> Builtin {
    Builtin {
        name,
        arguments,
        doc,
    }
}

/// What the adapter carries out itself.
pub const BUILTIN: &[Builtin] = &[
    builtin(
        "auth.refresh",
        &["token"],
        "Goes on with a new token of the same tenant and subject.",
    ),
    builtin(
        "channel_info",
        &["room", "channel"],
        "Shows who has created a channel, who is in it, what is stored of it, and whether this session hears it.",
    ),
    builtin("help", &["command?"], "Lists the commands, or shows one."),
    builtin(
        "history",
        &["room?", "channel?", "with?", "limit?", "since?"],
        "Reads what was said in a channel, or with somebody in private: the newest, or from a time or sequence on.",
    ),
    builtin(
        "join_channel",
        &["room", "channel"],
        "Is a member of a channel from now on, and hears it.",
    ),
    builtin(
        "leave_channel",
        &["room", "channel"],
        "Is a member no more, and hears it no more.",
    ),
    builtin(
        "list_channels",
        &["room"],
        "Lists the channels of a room that were created, have members or hold records.",
    ),
    builtin("ping", &[], "Answers."),
];

/// What commands of the older system begin with that this node does not carry out, unless it lists
/// them among its own.
const NOT_SERVED_BELOW: &str = "op.";

/// Whether the older system has the command.
#[must_use]
pub fn is_of_older_system(name: &str) -> bool {
    name.starts_with(NOT_SERVED_BELOW)
}

/// The node's command called so.
#[must_use]
pub fn of_node(name: &str) -> Option<Listed> {
    command::all()
        .into_iter()
        .find(|listed| listed.name == name)
}

/// What `help` answers: all commands, or the one called `name` if there is one.
#[must_use]
pub fn help(name: Option<&str>) -> Option<Json> {
    let shown = |name: &str, role: &str, arguments: Vec<String>, doc: &str| json!({"command": name, "role": role, "args": arguments, "description": doc});
    let ours = BUILTIN.iter().map(|one| {
        let arguments = one.arguments.iter().map(ToString::to_string);
        shown(one.name, "user", arguments.collect(), one.doc)
    });
    let nodes = command::all().into_iter().map(|one| {
        let arguments = one.arguments.iter().map(|argument| {
            let optional = if argument.required { "" } else { "?" };
            format!("{}{optional}", argument.name)
        });
        shown(one.name, one.role.as_str(), arguments.collect(), one.doc)
    });
    let mut all: Vec<Json> = ours.chain(nodes).collect();
    match name {
        Some(name) => all.into_iter().find(|one| one["command"] == name),
        None => {
            all.sort_by(|a, b| a["command"].as_str().cmp(&b["command"].as_str()));
            Some(json!({"total": all.len(), "commands": all}))
        }
    }
}
