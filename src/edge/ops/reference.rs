//! The commands as a document (BRK-11): docs/commands.md is made of the registry, and nothing of it
//! is written by hand.

use std::fmt::Write as _;

use super::openapi::type_name;
use super::routes::{COMMAND, views};
use crate::broker::verb::Argument;
use crate::edge::json::commands::BUILTIN;
use crate::edge::shield::command::{self, Listed};

const PREAMBLE: &str = "\
# Commands

Written by `arqonbus commands --markdown`; edit the commands themselves instead, in `src/broker/`
and `src/edge/`.

A command is given in a `Command` frame, in a JSON message of the type `command`, or over HTTP by
`POST /v1/commands/{name}` with its arguments as a JSON object; those that have a path of their own
also answer a GET there. The role is the least that may give it: `user` is everybody with a token,
`controller` and `operator` are apart, `admin` includes them all. Commands that change something are
written down in the audit before they are carried out and after, those that write or show something
only when the caller has no right to it, see [audit.md](audit.md). What writes appends data of the
caller's, as publishing does.

A command that does not exist is answered with `UNKNOWN_COMMAND` (in JSON, one of the older system
that this node does not serve with `FEATURE_DISABLED`), a missing role with `FORBIDDEN`, an argument
that is missing, not among those of the command or of the wrong type with `VALIDATION_ERROR`; each
names what is wrong. In JSON an argument of the type `object` is an object or its text, `bytes` are
base64.
";

const OF_THE_ADAPTER: &str = "
## In JSON alone

The adapter for clients of the older system carries these out itself, for every role. Arguments that
may be left out end with `?`.

| command | arguments | what it does |
| --- | --- | --- |
";

/// docs/commands.md.
///
/// # Errors
/// Never in practice: a text can always be made longer.
pub fn markdown() -> Result<String, std::fmt::Error> {
    let mut text = PREAMBLE.to_owned();
    let paths: Vec<_> = views().collect();
    let mut part = "";
    for command in &command::all() {
        let own = part_of(command.name);
        if own != part {
            part = own;
            write!(text, "\n## {part}\n")?;
        }
        let path = paths
            .iter()
            .find(|(_, shown)| shown.name == command.name)
            .map(|(view, _)| view.path);
        one(&mut text, command, path)?;
    }
    text.push_str(OF_THE_ADAPTER);
    for builtin in BUILTIN {
        let arguments: Vec<_> = builtin
            .arguments
            .iter()
            .map(|one| format!("`{one}`"))
            .collect();
        let (name, doc) = (builtin.name, builtin.doc);
        writeln!(text, "| `{name}` | {} | {doc} |", arguments.join(", "))?;
    }
    Ok(text)
}

/// What a name begins with, up to its last dot.
fn part_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(part, _)| part)
}

fn one(text: &mut String, command: &Listed, path: Option<&str>) -> std::fmt::Result {
    let (name, role) = (command.name, command.role.as_str());
    let effect = command.effect.as_str();
    write!(text, "\n### `{name}`\n\n{}\n\n", command.doc)?;
    let http = COMMAND.replace("{name}", name);
    write!(text, "Role `{role}`; {effect} something; `POST {http}`")?;
    if let Some(path) = path {
        write!(text, "; `GET {path}`")?;
    }
    text.push_str(".\n");
    if !command.arguments.is_empty() {
        text.push_str(
            "\n| argument | type | needed | what it means |\n| --- | --- | --- | --- |\n",
        );
    }
    for argument in command.arguments {
        let Argument {
            name,
            kind,
            required,
            doc,
        } = argument;
        let needed = if *required { "yes" } else { "no" };
        let kind = type_name(*kind);
        writeln!(text, "| `{name}` | {kind} | {needed} | {doc} |")?;
    }
    write!(text, "\n```json\n{}\n```\n", json_form(command))
}

/// A message of the adapter that gives the command with all that it needs.
fn json_form(command: &Listed) -> String {
    use crate::broker::verb::Kind;
    let value = |argument: &Argument| match argument.kind {
        Kind::Text | Kind::Any => serde_json::json!("…"),
        Kind::Bytes => serde_json::json!("YmFzZTY0"),
        Kind::Integer => serde_json::json!(1),
        Kind::Number => serde_json::json!(0.5),
        Kind::Boolean => serde_json::json!(true),
        Kind::Texts => serde_json::json!(["…"]),
        Kind::Object => serde_json::json!({}),
    };
    let needed = command.arguments.iter().filter(|one| one.required);
    let arguments: serde_json::Map<_, _> = needed
        .map(|one| (one.name.to_owned(), value(one)))
        .collect();
    serde_json::json!({ "type": "command", "command": command.name, "args": arguments }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    // BRK-11
    #[test]
    fn the_document_is_what_the_registry_says() {
        let committed = std::fs::read_to_string("docs/commands.md").unwrap();
        assert!(
            committed == markdown().unwrap(),
            "run `cargo run -- commands --markdown > docs/commands.md`"
        );
    }

    // BRK-11: nobody has two commands to choose from.
    #[test]
    fn every_command_has_one_name_and_says_what_it_does() {
        let all = command::all();
        for pair in all.windows(2) {
            assert_ne!(pair[0].name, pair[1].name);
        }
        for command in &all {
            assert!(command.doc.ends_with('.'), "{}", command.name);
            assert!(!BUILTIN.iter().any(|one| one.name == command.name));
            for argument in command.arguments {
                assert!(
                    !argument.doc.is_empty(),
                    "{} {}",
                    command.name,
                    argument.name
                );
            }
        }
    }
}
