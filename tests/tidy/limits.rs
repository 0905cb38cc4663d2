//! What lives on in the node and grows is bounded, and the bound is written down: `docs/limits.md`
//! (BRK-18).
//!
//! Fields of structs that are maps and queues are looked for in the code, so that one which nobody
//! has thought of a bound for is found. Whether the code keeps to the bound is for other tests.

use super::rust::{Blank, only_code};
use super::{Finding, Tree, assert_found, assert_none};

const DOCUMENT: &str = "docs/limits.md";
const SETTINGS: &str = "docs/configuration.md";
const PARTS: [&str; 4] = ["src/broker/", "src/edge/", "src/log/", "src/projections/"];
const GROWING: [&str; 5] = [
    "VecDeque<",
    "HashMap<",
    "BTreeMap<",
    "HashSet<",
    "BTreeSet<",
];
/// Code of tests that stands in files of its own.
const OF_TESTS: [&str; 6] = [
    "tests.rs",
    "/tests/",
    "scenarios",
    "_tests.rs",
    "model.rs",
    "testing.rs",
];

/// `Struct.field` of every field that can grow.
fn growing(code: &str) -> Vec<String> {
    let code = only_code(code, Blank::Comments);
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let (mut of, mut found) = (None, Vec::new());
    for line in code.lines() {
        let words = line.trim_start_matches("pub(crate) ");
        let words = words
            .trim_start_matches("pub(super) ")
            .trim_start_matches("pub ");
        if let Some(rest) = words.strip_prefix("struct ") {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            of = line.trim_end().ends_with('{').then_some(name);
        } else if line.starts_with('}') {
            of = None;
        }
        let Some((before, kind)) = line.split_once(": ") else {
            continue;
        };
        let name = before.split_whitespace().last().unwrap_or_default();
        if let Some(of) = &of
            && GROWING.iter().any(|one| kind.contains(one))
        {
            found.push(format!("{of}.{name}"));
        }
    }
    found
}

fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Whether the reference of settings has `section.name`.
fn is_setting(reference: &str, bound: &str) -> bool {
    let Some((section, name)) = bound.split_once('.') else {
        return false;
    };
    let heading = format!("\n## [{section}]\n");
    let Some((_, rest)) = reference.split_once(&heading) else {
        return false;
    };
    let own = rest.split("\n## [").next().unwrap_or_default();
    own.contains(&format!("\n| `{name}` |"))
}

/// What is wrong with what a cell names as a bound, in a row about `file`.
fn wrong_bound(tree: &Tree, file: &str, cell: &str) -> Option<String> {
    let named = quoted(cell);
    let file = named
        .iter()
        .find(|one| one.starts_with("src/"))
        .copied()
        .unwrap_or(file);
    let bounds: Vec<_> = named
        .iter()
        .filter(|one| !one.starts_with("src/"))
        .collect();
    if bounds.is_empty() {
        return Some("no bound is named".to_owned());
    }
    let reference = tree.get(SETTINGS).unwrap_or_default();
    let code = tree.get(file).unwrap_or_default();
    let unknown = bounds.into_iter().find(|bound| {
        let is_constant = code.contains(&format!("const {bound}: "));
        !is_constant && !is_setting(reference, bound)
    })?;
    Some(format!(
        "{unknown} is neither a setting nor a constant in {file}"
    ))
}

fn unbounded(tree: &Tree) -> Vec<Finding> {
    let document = tree.get(DOCUMENT).unwrap_or_default();
    let mut findings = Vec::new();
    let mut known = Vec::new();
    for (line, text) in (1..).zip(document.lines()) {
        let cells: Vec<&str> = text.split('|').map(str::trim).collect();
        let (file, bound) = match cells[..] {
            ["", field, file, _, bound, ""] if file.starts_with('`') => {
                let (field, file) = (field.trim_matches('`'), file.trim_matches('`'));
                known.push((file.to_owned(), field.to_owned()));
                let has = tree
                    .get(file)
                    .is_some_and(|code| growing(code).iter().any(|one| one == field));
                if !has {
                    let text =
                        format!("{file} has no field {field} that can grow: take the row out");
                    findings.push(Finding::new(DOCUMENT, line, text));
                }
                (file, bound)
            }
            ["", _, bound, ""] if bound.starts_with('`') => ("", bound),
            _ => continue,
        };
        if let Some(wrong) = wrong_bound(tree, file, bound) {
            findings.push(Finding::new(DOCUMENT, line, wrong));
        }
    }
    for (path, code) in &tree.files {
        let is_ours = PARTS.iter().any(|part| path.starts_with(part));
        if !is_ours || OF_TESTS.iter().any(|part| path.contains(part)) {
            continue;
        }
        for field in growing(code) {
            if !known.contains(&(path.clone(), field.clone())) {
                findings.push(Finding::new(
                    path,
                    0,
                    format!("{field} can grow: say in {DOCUMENT} what is in it and what bounds it\n    | `{field}` | `{path}` | what | `section.setting` or `CONSTANT` |"),
                ));
            }
        }
    }
    findings
}

// BRK-18
#[test]
fn everything_that_can_grow_has_a_bound_that_is_written_down() {
    assert_none(&unbounded(&Tree::of_repository()));
}

// BRK-18
#[test]
fn a_field_without_a_bound_is_found_and_so_is_a_bound_that_is_none() {
    let code = "struct Room {\n    members: Mutex<HashMap<u64, Member>>,\n}\nconst MEMBERS_MAX: usize = 3;\n";
    let reference = "\n## [limits]\n\n| `rooms_max` | `3` |\n";
    let find = |row: &str| {
        unbounded(&Tree::of(&[
            ("src/broker/room.rs", code),
            (DOCUMENT, row),
            (SETTINGS, reference),
        ]))
    };
    assert_found(&find(""), "src/broker/room.rs", "Room.members can grow");
    let row =
        |bound: &str| format!("| `Room.members` | `src/broker/room.rs` | members | {bound} |\n");
    assert_none(&find(&row("`MEMBERS_MAX`")));
    assert_none(&find(&row("`limits.rooms_max`")));
    for bound in [
        "`ROOMS_MAX`",
        "`limits.members_max`",
        "`other.rooms_max`",
        "enough",
    ] {
        let findings = find(&row(bound));
        assert!(!findings.is_empty(), "{bound}");
    }
    let gone = "| `Room.guests` | `src/broker/room.rs` | guests | `MEMBERS_MAX` |\n";
    assert_found(
        &find(&(row("`MEMBERS_MAX`") + gone)),
        DOCUMENT,
        "no field Room.guests",
    );
}
