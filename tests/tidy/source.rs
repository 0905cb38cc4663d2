//! Rules about single source files: their names, their first line, statements that do nothing,
//! and files that no module declares.

use std::collections::BTreeSet;

use super::rust::{Blank, line_of, only_code};
use super::{Finding, Tree, assert_found, assert_none};

/// A name that says nothing about what is inside.
const BANNED_NAMES: [&str; 8] = [
    "util", "utils", "helper", "helpers", "common", "manager", "misc", "shared",
];

fn banned_names(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        for part in path.trim_end_matches(".rs").split('/') {
            if BANNED_NAMES.contains(&part) {
                findings.push(Finding::new(
                    path,
                    0,
                    format!("a module is named for a thing of the domain, never '{part}'"),
                ));
            }
        }
        for (position, name) in modules(&only_code(text, Blank::CommentsAndStrings), '{') {
            if BANNED_NAMES.contains(&name.as_str()) {
                findings.push(Finding::new(
                    path,
                    line_of(text, position),
                    format!("a module is named for a thing of the domain, never '{name}'"),
                ));
            }
        }
    }
    findings
}

/// `mod name` followed by `closing` (`;` for a file of its own, `{` for an inline one).
fn modules(code: &str, closing: char) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (position, _) in code.match_indices("mod ") {
        let before = code.as_bytes().get(position.wrapping_sub(1));
        if before.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_') {
            continue;
        }
        let rest = code[position + 4..].trim_start();
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        if end > 0 && rest[end..].trim_start().starts_with(closing) {
            found.push((position, rest[..end].to_owned()));
        }
    }
    found
}

fn missing_headers(tree: &Tree) -> Vec<Finding> {
    let has_header = |text: &str| {
        text.lines()
            .find(|line| !line.trim().is_empty())
            .is_some_and(|line| line.starts_with("//!"))
    };
    tree.rust()
        .filter(|(_, text)| !has_header(text))
        .map(|(path, _)| {
            Finding::new(
                path,
                1,
                "opens without `//!`: say what it owns and what it must not know",
            )
        })
        .collect()
}

/// `matches!(..);` alone is a check that checks nothing.
fn idle_matches(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        let code = only_code(text, Blank::CommentsAndStrings);
        for (position, _) in code.match_indices("matches!(") {
            let opens_statement = code[..position].trim_end().ends_with([';', '{', '}']);
            let after = code[position..].find('(').map(|open| position + open);
            let closes_statement = after
                .and_then(|open| closing_parenthesis(&code, open))
                .is_some_and(|close| code[close + 1..].trim_start().starts_with(';'));
            if opens_statement && closes_statement {
                findings.push(Finding::new(
                    path,
                    line_of(&code, position),
                    "a `matches!(..);` of its own checks nothing: assert it",
                ));
            }
        }
    }
    findings
}

fn closing_parenthesis(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code[open..].char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(open + at);
        }
    }
    None
}

/// Files that no `mod` of a crate root leads to: the compiler never sees them.
fn undeclared_files(tree: &Tree) -> Vec<Finding> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<String> = tree
        .rust()
        .map(|(path, _)| path.to_owned())
        .filter(|path| is_crate_root(path))
        .collect();
    while let Some(path) = waiting.pop() {
        let Some(text) = tree.get(&path) else {
            continue;
        };
        if !reached.insert(path.clone()) {
            continue;
        }
        let (dir, file) = path.rsplit_once('/').unwrap_or(("", &path));
        let stem = file.trim_end_matches(".rs");
        let children = if is_crate_root(&path) || stem == "mod" {
            dir.to_owned()
        } else {
            format!("{dir}/{stem}")
        };
        for (_, name) in modules(&only_code(text, Blank::CommentsAndStrings), ';') {
            waiting.push(format!("{children}/{name}.rs"));
            waiting.push(format!("{children}/{name}/mod.rs"));
        }
        for (position, _) in text.match_indices("#[path = \"") {
            let rest = &text[position + 10..];
            if let Some(end) = rest.find('"') {
                waiting.push(resolve(dir, &rest[..end]));
            }
        }
    }
    tree.rust()
        .filter(|(path, _)| !reached.contains(*path))
        .map(|(path, _)| Finding::new(path, 0, "no module declares this file"))
        .collect()
}

fn resolve(dir: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = dir.split('/').collect();
    for part in relative.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

fn is_crate_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(
        parts.as_slice(),
        ["build.rs"]
            | ["src", "lib.rs" | "main.rs"]
            | ["tests" | "benches" | "examples", _]
            | ["tests" | "benches" | "examples" | "tools", _, "main.rs"]
            | ["fuzz", "fuzz_targets", _]
    )
}

#[test]
fn modules_are_named_for_the_domain() {
    assert_none(&banned_names(&Tree::of_repository()));
    let text = "//! x\n";
    for bad in [
        "src/log/utils.rs",
        "tests/helpers/main.rs",
        "src/shared/mod.rs",
    ] {
        assert_found(&banned_names(&Tree::of(&[(bad, text)])), bad, "never");
    }
    let inline = Tree::of(&[("src/a.rs", "//! x\nmod common { }\n// mod util {}\n")]);
    assert_found(&banned_names(&inline), "src/a.rs", "common");
}

#[test]
fn every_source_file_says_what_it_owns() {
    assert_none(&missing_headers(&Tree::of_repository()));
    let bad = Tree::of(&[
        ("src/a.rs", "use x;\n//! late\n"),
        ("src/b.rs", "\n//! fine\n"),
    ]);
    assert_found(&missing_headers(&bad), "src/a.rs", "//!");
}

#[test]
fn no_statement_is_only_a_matches() {
    assert_none(&idle_matches(&Tree::of_repository()));
    let bad = Tree::of(&[(
        "tests/a.rs",
        "fn f() {\n    matches!(\n        x(),\n        Ok(_)\n    );\n}",
    )]);
    assert_found(&idle_matches(&bad), "tests/a.rs", "assert it");
    let good = "fn f() -> bool { assert!(matches!(x, 1)); let y = matches!(x, 2); matches!(y, z) }";
    assert_none(&idle_matches(&Tree::of(&[("tests/a.rs", good)])));
}

#[test]
fn every_source_file_is_declared() {
    assert_none(&undeclared_files(&Tree::of_repository()));
    let lost = Tree::of(&[
        ("src/lib.rs", "pub mod log;\n// mod lost;\n"),
        ("src/log/mod.rs", "mod reader;\n"),
        ("src/log/reader.rs", "mod deep;"),
        ("src/log/reader/deep.rs", ""),
        ("src/log/lost.rs", ""),
        ("tests/tidy.rs", "#[path = \"tidy/a.rs\"] mod a;"),
        ("tests/tidy/a.rs", ""),
    ]);
    assert_found(&undeclared_files(&lost), "src/log/lost.rs", "no module");
}
