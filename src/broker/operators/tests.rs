//! The supervision of operators' tasks. The registry itself is proven by what its operators do.

use super::*;

// OPS-13
#[test]
fn operators_and_their_commands_have_names_of_their_own() {
    let mut names: Vec<_> = OPERATORS.iter().map(|operator| operator.name).collect();
    assert!(names.is_sorted(), "{names:?}");
    names.dedup();
    assert_eq!(names.len(), OPERATORS.len());
    let mut commands: Vec<_> = crate::broker::command::all().map(|one| one.name).collect();
    commands.sort_unstable();
    let all = commands.len();
    commands.dedup();
    assert_eq!(commands.len(), all, "a command is there twice");
}
