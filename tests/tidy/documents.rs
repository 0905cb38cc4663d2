//! Documents that must follow the code: links lead somewhere, every dependency is accounted for.

use super::{Finding, Tree, assert_found, assert_none};

const ARCHITECTURE: &str = "docs/architecture.md";

/// The rows of the Markdown tables in `text`, without their heads: line number and cells.
pub(crate) fn table_rows(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut rows = Vec::new();
    let mut in_body = false;
    for (number, line) in text.lines().enumerate() {
        let Some(inside) = line.trim().strip_prefix('|') else {
            in_body = false;
            continue;
        };
        let inside = inside.strip_suffix('|').unwrap_or(inside);
        let cells: Vec<String> = inside
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect();
        let is_rule = cells
            .iter()
            .all(|cell| !cell.is_empty() && cell.chars().all(|c| "-: ".contains(c)));
        if in_body {
            rows.push((number + 1, cells));
        } else {
            in_body = is_rule;
        }
    }
    rows
}

fn broken_links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".md")) {
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        for (number, line) in text.lines().enumerate() {
            for target in line
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next())
            {
                let target = target.split('#').next().unwrap_or_default();
                if target.is_empty() || target.contains("://") || exists(tree, dir, target) {
                    continue;
                }
                findings.push(Finding::new(
                    path,
                    number + 1,
                    format!("links to {target}, which is not there"),
                ));
            }
        }
    }
    findings
}

fn exists(tree: &Tree, dir: &str, target: &str) -> bool {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in target
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
    {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    let path = parts.join("/");
    let below = format!("{path}/");
    path == "LICENSE"
        || tree.get(&path).is_some()
        || tree.iter().any(|(file, _)| file.starts_with(&below))
}

/// Every dependency owns something, said in the table of the architecture document.
fn unexplained_dependencies(tree: &Tree) -> Vec<Finding> {
    let manifest = tree.get("Cargo.toml").unwrap_or_default();
    let document = tree.get(ARCHITECTURE).unwrap_or_default();
    let explained: Vec<String> = table_rows(document)
        .into_iter()
        .flat_map(|(_, cells)| {
            cells[0]
                .split(',')
                .map(|name| name.trim().trim_matches('`').to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    let mut findings = Vec::new();
    let mut in_dependencies = false;
    for (number, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.trim_end().ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once('=').filter(|_| in_dependencies) {
            let name = name.trim().split('.').next().unwrap_or_default();
            if !explained.iter().any(|known| known == name) {
                findings.push(Finding::new(
                    "Cargo.toml",
                    number + 1,
                    format!("{name} is missing in the dependency table of {ARCHITECTURE}: say what it owns"),
                ));
            }
        }
    }
    findings
}

#[test]
fn links_between_documents_lead_somewhere() {
    assert_none(&broken_links(&Tree::of_repository()));
    let bad = Tree::of(&[
        (
            "docs/a.md",
            "[b](b.md#part) [up](../README.md) [dir](decisions/) [gone](gone.md) [web](https://x.y)",
        ),
        ("docs/b.md", ""),
        ("docs/decisions/1.md", ""),
        ("README.md", ""),
    ]);
    assert_found(&broken_links(&bad), "docs/a.md", "gone.md");
}

#[test]
fn every_dependency_owns_something() {
    assert_none(&unexplained_dependencies(&Tree::of_repository()));
    let bad = Tree::of(&[
        (
            "Cargo.toml",
            "[package]\nname = \"x\"\n[dependencies]\nbytes = \"1\"\nserde = \"1\"\n[lints.rust]\nx = 1\n",
        ),
        (
            ARCHITECTURE,
            "| crate | owns |\n| --- | --- |\n| `bytes`, `prost` | buffers |\n",
        ),
    ]);
    assert_found(&unexplained_dependencies(&bad), "Cargo.toml", "serde");
}
