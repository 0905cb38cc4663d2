//! The commands in `docs/protocol.md` are those of the node's registry.

use arqonbus::edge::shield::command;

// BRK-11
#[test]
fn the_documented_commands_are_those_of_the_registry() {
    let document = include_str!("../../docs/protocol.md");
    let rows: Vec<String> = command::all()
        .iter()
        .map(|command| {
            let argument = |argument: &arqonbus::broker::verb::Argument| {
                let optional = if argument.required { "" } else { "?" };
                format!(" `{}`{optional}", argument.name)
            };
            let arguments: Vec<String> = command.arguments.iter().map(argument).collect();
            let (name, role) = (command.name, format!("{:?}", command.role).to_lowercase());
            format!(
                "| `{name}` | {role} |{} | {} |",
                arguments.join(","),
                command.doc
            )
        })
        .collect();
    let start = document
        .find("| command | role |")
        .expect("the table is there");
    let documented: Vec<&str> = document
        .get(start..)
        .unwrap_or_default()
        .lines()
        .skip(2)
        .collect();
    let documented: Vec<&str> = documented
        .into_iter()
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(documented, rows, "docs/protocol.md");
}
