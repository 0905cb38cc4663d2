//! Each requirement names the tests that prove it, or what is missing: `docs/traceability.md`.
//!
//! A test quotes an id in a comment above or inside it; an id in the `//!` of a test file holds
//! for the file. From these the test column is generated, and compared.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::documents::table_rows;
use super::rust::{line_of, words};
use super::{Finding, Tree, assert_found, assert_none};

const DOCUMENT: &str = "docs/traceability.md";

/// Families and the highest number of each. An id is never reused.
const FAMILIES: [(&str, u32); 10] = [
    ("LOG", 20),
    ("MSG", 16),
    ("EDGE", 24),
    ("BRK", 18),
    ("OPS", 14),
    ("PRJ", 19),
    ("TOOL", 20),
    ("PERF", 14),
    ("REL", 14),
    ("CLU", 6),
];

/// Families without rows yet: nothing of a cluster exists.
const LATER: [&str; 1] = ["CLU"];

fn all_ids() -> impl Iterator<Item = String> {
    FAMILIES
        .into_iter()
        .filter(|(family, _)| !LATER.contains(family))
        .flat_map(|(family, last)| (1..=last).map(move |n| format!("{family}-{n:02}")))
}

fn is_known(id: &str) -> bool {
    let Some((family, number)) = id.split_once('-') else {
        return false;
    };
    FAMILIES.iter().any(|&(known, last)| {
        known == family
            && number
                .parse()
                .is_ok_and(|number: u32| (1..=last).contains(&number))
    })
}

/// The requirement ids in `text` with their byte positions, known or not.
fn ids(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut previous: Option<(usize, &str)> = None;
    for (start, word) in words(text) {
        if let Some((family_start, family)) = previous
            && FAMILIES.iter().any(|&(known, _)| known == family)
            && start == family_start + family.len() + 1
            && text.as_bytes()[start - 1] == b'-'
            && word.len() == 2
            && word.bytes().all(|b| b.is_ascii_digit())
        {
            found.push((family_start, format!("{family}-{word}")));
        }
        previous = Some((start, word));
    }
    found
}

/// Files whose quotations count: tests, and the scripts that are themselves checks.
fn is_evidence(path: &str) -> bool {
    let in_tests = path.starts_with("tests/") && !path.starts_with("tests/tidy/traceability");
    let is_script = matches!(path, "tools/demo" | "tools/test" | ".ci/run");
    let in_source =
        (path.starts_with("src/") || path.starts_with("tools/")) && path.ends_with(".rs");
    let is_bench = path.starts_with("benches/");
    in_source
        || is_script
        || is_bench
        || (in_tests && [".rs", ".py", ".sh"].iter().any(|end| path.ends_with(end)))
}

/// Tests by the id they quote: `path::name`, or `path` when the whole file is meant.
fn quotations(tree: &Tree) -> BTreeMap<String, BTreeSet<String>> {
    let mut by_id: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in tree.iter().filter(|(path, _)| is_evidence(path)) {
        let is_rust = path.ends_with(".rs");
        let tests = if is_rust { tests_of(text) } else { Vec::new() };
        for (position, id) in ids(text) {
            let line = line_of(text, position);
            let quoted_by = by_id.entry(id).or_default();
            for test in tests.iter().filter(|test| test.covers(line)) {
                quoted_by.insert(format!("{path}::{}", test.name));
            }
            if !is_rust || holds_for_the_file(path, text, line, !tests.is_empty()) {
                quoted_by.insert(path.to_owned());
            }
        }
    }
    by_id.retain(|_, quoted_by| !quoted_by.is_empty());
    by_id
}

/// Whether a quotation in `line` stands in the header of a file of tests or of a bench.
fn holds_for_the_file(path: &str, text: &str, line: usize, has_tests: bool) -> bool {
    let is_header = text
        .lines()
        .nth(line - 1)
        .is_some_and(|line| line.starts_with("//!"));
    is_header && (path.starts_with("benches/") || (path.starts_with("tests/") && has_tests))
}

struct Test {
    name: String,
    /// Lines from its first comment or attribute to its end.
    lines: RangeInclusive<usize>,
    /// Lines of the comment above the `proptest!` that it stands in.
    around: Option<RangeInclusive<usize>>,
}

impl Test {
    fn covers(&self, line: usize) -> bool {
        self.lines.contains(&line)
            || self
                .around
                .as_ref()
                .is_some_and(|lines| lines.contains(&line))
    }
}

/// Functions under a `test` attribute, with the comments above them.
fn tests_of(text: &str) -> Vec<Test> {
    let lines: Vec<&str> = text.lines().collect();
    let mut block: Option<(RangeInclusive<usize>, usize)> = None;
    let mut tests = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let line = line.trim();
        if line == "proptest! {" {
            block = Some((first_line_above(&lines, at)..=at, end_of(&lines, at)));
        }
        if !(line == "#[test]" || line.starts_with("#[tokio::test")) {
            continue;
        }
        let head = lines[at..].iter().position(|line| line.contains("fn "));
        let Some(head) = head.map(|below| at + below) else {
            continue;
        };
        let after = lines[head].split("fn ").nth(1).unwrap_or_default();
        let around = block
            .as_ref()
            .filter(|(_, end)| *end > at)
            .map(|(above, _)| above.clone());
        tests.push(Test {
            name: after
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect(),
            lines: first_line_above(&lines, at)..=end_of(&lines, head),
            around,
        });
    }
    tests
}

/// The first line, from 1, of the comments and attributes directly above index `at`.
fn first_line_above(lines: &[&str], at: usize) -> usize {
    let above = lines[..at].iter().rev().take_while(|line| {
        let line = line.trim();
        line.starts_with("//") && !line.starts_with("//!") || line.starts_with("#[")
    });
    at + 1 - above.count()
}

/// The line, from 1, of the brace that closes what index `head` opens.
fn end_of(lines: &[&str], head: usize) -> usize {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let closes =
        |below: &usize| indent(lines[*below]) == indent(lines[head]) && lines[*below].trim() == "}";
    (head + 1..lines.len()).find(closes).unwrap_or(head) + 1
}

/// The test column of one id: files with their tests in braces.
fn column(quoted: Option<&BTreeSet<String>>) -> String {
    let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for test in quoted.into_iter().flatten() {
        match test.split_once("::") {
            Some((file, name)) => by_file.entry(file).or_default().push(name),
            None => {
                by_file.entry(test).or_default();
            }
        }
    }
    let cells: Vec<String> = by_file
        .into_iter()
        .map(|(file, names)| match names.as_slice() {
            [] => format!("`{file}`"),
            [name] => format!("`{file}::{name}`"),
            names => format!("`{file}::{{{}}}`", names.join(", ")),
        })
        .collect();
    cells.join(" ")
}

fn gaps(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let by_id = quotations(tree);
    for (path, text) in tree.iter().filter(|(path, _)| is_evidence(path)) {
        for (position, id) in ids(text).into_iter().filter(|(_, id)| !is_known(id)) {
            findings.push(Finding::new(
                path,
                line_of(text, position),
                format!("{id} is no requirement"),
            ));
        }
    }
    let mut missing: BTreeSet<String> = all_ids().collect();
    for (line, cells) in table_rows(tree.get(DOCUMENT).unwrap_or_default()) {
        let [id, _, tests, remains] = cells.as_slice() else {
            findings.push(Finding::new(
                DOCUMENT,
                line,
                "a row has id, requirement, tests, what is missing",
            ));
            continue;
        };
        if !missing.remove(id) {
            findings.push(Finding::new(
                DOCUMENT,
                line,
                format!("{id} is no requirement, or stands here twice"),
            ));
            continue;
        }
        if *tests != column(by_id.get(id)) {
            findings.push(Finding::new(
                DOCUMENT,
                line,
                format!(
                    "{id}: other tests quote it; UPDATE=1 cargo test --test tidy writes the column"
                ),
            ));
        }
        if tests.is_empty() && !remains.starts_with("not yet") {
            findings.push(Finding::new(
                DOCUMENT,
                line,
                format!("{id} has no test: say 'not yet' and what is missing"),
            ));
        }
        if !tests.is_empty() && remains.starts_with("not yet") {
            findings.push(Finding::new(
                DOCUMENT,
                line,
                format!("{id} has tests: say 'partly: ..' or nothing"),
            ));
        }
    }
    for id in missing {
        findings.push(Finding::new(DOCUMENT, 0, format!("{id} has no row")));
    }
    findings
}

/// The document with its test column generated anew.
fn updated(tree: &Tree) -> String {
    let by_id = quotations(tree);
    let document = tree.get(DOCUMENT).unwrap_or_default();
    let rows: BTreeMap<usize, Vec<String>> = table_rows(document).into_iter().collect();
    let mut out = String::with_capacity(document.len());
    for (number, line) in document.lines().enumerate() {
        match rows.get(&(number + 1)).map(Vec::as_slice) {
            Some([id, what, _, remains]) => {
                let tests = column(by_id.get(id));
                out.push_str(&format!("| {id} | {what} | {tests} | {remains} |"));
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

// TOOL-14
#[test]
fn every_requirement_has_a_test_or_says_what_is_missing() {
    let mut tree = Tree::of_repository();
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        let text = updated(&tree);
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
        #[expect(
            clippy::disallowed_methods,
            reason = "a document of the source tree, not of a log"
        )]
        std::fs::write(path, &text).unwrap();
        tree.files.insert(DOCUMENT.to_owned(), text);
    }
    assert_none(&gaps(&tree));
}

fn complete(first_row: &str) -> String {
    let head = [
        "| id | what | tests | missing |",
        "| --- | --- | --- | --- |",
    ];
    let others = all_ids()
        .skip(1)
        .map(|id| format!("| {id} | x |  | not yet: all of it |"));
    let lines = head
        .into_iter()
        .chain(first_row.lines())
        .map(str::to_owned)
        .chain(others);
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_gap_between_requirements_and_tests_is_found() {
    let id = concat!("LOG", "-01");
    let unknown = concat!("LOG", "-21");
    let quoting = |id: &str| format!("//! x\n\n// {id}: why\n#[test]\nfn one() {{\n}}\n");
    let find = |row: &str, test: &str| {
        gaps(&Tree::of(&[
            (DOCUMENT, &complete(row)),
            ("tests/a.rs", test),
        ]))
    };

    let proven = format!("| {id} | x | `tests/a.rs::one` |  |");
    assert_none(&find(&proven, &quoting(id)));
    let also = format!("{}// {unknown}\n", quoting(id));
    assert_found(&find(&proven, &also), "tests/a.rs", "is no requirement");
    let unquoted = find(&proven, "//! x\n");
    assert_found(&unquoted, DOCUMENT, "other tests quote it");
    let bare = format!("| {id} | x |  |  |");
    assert_found(&find(&bare, "//! x\n"), DOCUMENT, "say 'not yet'");
    let modest = format!("| {id} | x | `tests/a.rs::one` | not yet: y |");
    assert_found(&find(&modest, &quoting(id)), DOCUMENT, "partly");
    let lost = gaps(&Tree::of(&[(DOCUMENT, complete("").as_str())]));
    assert_found(&lost, DOCUMENT, &format!("{id} has no row"));
    let twice = format!("{proven}\n{proven}");
    assert_found(&find(&twice, &quoting(id)), DOCUMENT, "twice");
}

#[test]
fn the_test_column_is_generated() {
    let id = concat!("LOG", "-01");
    let row = format!("| {id} | x | stale | partly: y |");
    let test = format!(
        "//! {id}\n#[tokio::test]\nasync fn one() {{\n}}\n\nmod m {{\n    #[test]\n    fn two() {{\n        // {id}\n    }}\n}}\n"
    );
    let tree = Tree::of(&[
        (DOCUMENT, &complete(&row)),
        ("tests/a.rs", &test),
        ("tools/demo", &format!("# {id}")),
    ]);
    let document = updated(&tree);
    let wanted = format!("| {id} | x | `tests/a.rs::two` `tools/demo` | partly: y |");
    assert!(document.contains(&wanted), "{document}");
    assert_none(&gaps(&Tree::of(&[
        (DOCUMENT, &document),
        ("tests/a.rs", &test),
        ("tools/demo", &format!("# {id}")),
    ])));
}

#[test]
fn a_comment_above_a_block_of_properties_counts_for_each() {
    let id = concat!("MSG", "-06");
    let text = format!(
        "//! x\n// {id}\nproptest! {{\n    #[test]\n    fn one(a in b()) {{\n    }}\n\n    #[test]\n    fn two(a in b()) {{\n    }}\n}}\n\n#[test]\nfn three() {{\n}}\n"
    );
    let quoted = quotations(&Tree::of(&[("src/a.rs", &text)]));
    assert_eq!(column(quoted.get(id)), "`src/a.rs::{one, two}`");
}
