//! Which module may import which: edge -> broker -> log, and the rest of that table.

use super::rust::{Blank, line_of, only_code};
use super::{Finding, Tree, assert_found, assert_none};

/// What a part of the source may name besides itself: a module, or one module of it, which must
/// then be named by its whole path. The crate roots may name everything; what is not listed here
/// may name nothing of ours.
const MAY_IMPORT: [(&str, &[&str]); 12] = [
    ("src/log", &[]),
    ("src/proto", &[]),
    ("src/config", &["log"]),
    ("src/data_dir", &["log"]),
    ("src/wall_clock", &["log"]),
    ("src/broker", &["log", "proto", "config"]),
    (
        "src/edge",
        &[
            "broker",
            "log",
            "proto",
            "config",
            "data_dir",
            "projections",
        ],
    ),
    ("src/projections", &["log", "proto", "config"]),
    ("src/client", &["proto"]),
    (
        "tools/arqon",
        &[
            "client",
            "data_dir",
            "edge::policy",
            "log",
            "proto",
            "wall_clock",
        ],
    ),
    ("tools/logdump", &["log", "proto", "broker::causality"]),
    ("examples", &["client", "config", "edge", "proto"]),
];

const OURS: [&str; 9] = [
    "wall_clock",
    "data_dir",
    "log",
    "proto",
    "config",
    "broker",
    "edge",
    "projections",
    "client",
];

fn wrong_imports(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        let Some((part, allowed)) = part_of(path) else {
            continue;
        };
        let own = part.strip_prefix("src/");
        let code = only_code(text, Blank::CommentsAndStrings);
        for (position, name) in named_modules(path, &code) {
            if OURS.contains(&name.as_str())
                && own != Some(&name)
                && !allowed.contains(&name.as_str())
                && !allowed.iter().any(|part| is_path(&code[position..], part))
            {
                findings.push(Finding::new(
                    path,
                    line_of(&code, position),
                    format!(
                        "{part} must not know {name} (it may know: {})",
                        allowed.join(", ")
                    ),
                ));
            }
        }
    }
    findings
}

/// Whether `code`, which begins with the root of a path, goes on with `part`, of two names.
fn is_path(code: &str, part: &str) -> bool {
    let rest = ["crate::", "arqonbus::"]
        .into_iter()
        .find_map(|root| code.strip_prefix(root))
        .unwrap_or_else(|| code.trim_start_matches("super::"));
    part.contains("::")
        && rest
            .strip_prefix(part)
            .is_some_and(|rest| rest.starts_with("::"))
}

fn part_of(path: &str) -> Option<(&'static str, &'static [&'static str])> {
    MAY_IMPORT.into_iter().find(|(part, _)| {
        path.strip_prefix(part)
            .is_some_and(|rest| rest.starts_with(['/', '.']))
    })
}

/// First names after `crate::`, `arqonbus::` and a chain of `super::` that leads to the root.
fn named_modules(path: &str, code: &str) -> Vec<(usize, String)> {
    let depth = path.matches('/').count() - usize::from(path.ends_with("/mod.rs"));
    let to_root = "super::".repeat(depth);
    let mut found = Vec::new();
    for root in ["crate::", "arqonbus::", to_root.as_str()] {
        if root.is_empty() || (root == "crate::" && !path.starts_with("src/")) {
            continue;
        }
        for (position, _) in code.match_indices(root) {
            let before = code[..position].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            for name in first_names(&code[position + root.len()..]) {
                found.push((position, name));
            }
        }
    }
    found
}

/// `a::b` gives `a`; `{a::{b, c}, d}` gives `a` and `d`.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let rest = rest.trim_start();
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name(rest)];
    };
    let mut depth = 1;
    let mut names = vec![name(group)];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(name(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

#[test]
fn imports_go_one_way() {
    assert_none(&wrong_imports(&Tree::of_repository()));
    let bad = [
        (
            "src/log/reader.rs",
            "use crate::proto::v1::Record;",
            "proto",
        ),
        ("src/log/mod.rs", "fn f() { super::config::x() }", "config"),
        (
            "src/log/deep/a.rs",
            "use super::super::super::edge::x;",
            "edge",
        ),
        (
            "src/broker/mod.rs",
            "use crate::{\n  log::{self, Log},\n  edge::Session,\n};",
            "edge",
        ),
        (
            "src/broker/a.rs",
            "type P = crate::projections::P;",
            "projections",
        ),
        ("src/projections/a.rs", "use crate::broker;", "broker"),
        ("src/client/mod.rs", "use crate::log::Sequence;", "log"),
        ("src/config.rs", "use crate::edge::Limits;", "edge"),
        (
            "tools/logdump/a.rs",
            "use arqonbus::client::Client;",
            "client",
        ),
        (
            "tools/logdump/b.rs",
            "use arqonbus::broker::causality_of::X;",
            "broker",
        ),
        (
            "tools/logdump/c.rs",
            "use arqonbus::broker::{causality, Broker};",
            "broker",
        ),
        (
            "tools/arqon/b.rs",
            "use arqonbus::broker::causality::History;",
            "broker",
        ),
        (
            "tools/arqon/main.rs",
            "use arqonbus::{client, broker::Broker};",
            "broker",
        ),
        ("examples/a.rs", "use arqonbus::log::Log;", "log"),
    ];
    for (path, text, name) in bad {
        assert_found(
            &wrong_imports(&Tree::of(&[(path, text)])),
            path,
            &format!("must not know {name}"),
        );
    }
    let good = Tree::of(&[
        (
            "src/log/a.rs",
            "//! Not `crate::broker`.\nuse super::super::log::b; use crate::log::c;",
        ),
        (
            "src/edge/a.rs",
            "use crate::broker::Broker; use std::{log, x};",
        ),
        ("src/main.rs", "use arqonbus::edge;"),
        (
            "tools/logdump/a.rs",
            "use arqonbus::broker::causality::{History, Inquiry};",
        ),
    ]);
    assert_none(&wrong_imports(&good));
}
