//! Checks the rules of the house that no lint holds; one module per kind of rule.
//!
//! A rule is a function from a [`Tree`] to [`Finding`]s, so that each is tried on a bad example
//! beside it: a rule that cannot fail is worth nothing. Knows the text of the files, never what
//! they mean to the compiler.
//!
//! `UPDATE=1 cargo test --test tidy` rewrites the test column of `docs/traceability.md`.

#![expect(
    clippy::unwrap_used,
    reason = "a check that cannot read its files has failed"
)]
#![expect(
    clippy::string_slice,
    reason = "positions come from searching the same text"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

#[path = "tidy/debt.rs"]
mod debt;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/layout.rs"]
mod layout;
#[path = "tidy/limits.rs"]
mod limits;
#[path = "tidy/rust.rs"]
mod rust;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/traceability.rs"]
mod traceability;
#[path = "tidy/words.rs"]
mod words;

/// The text files of the repository by their paths relative to its root, `/` between the parts.
#[derive(Default)]
struct Tree {
    files: BTreeMap<String, String>,
}

/// One broken rule.
#[derive(PartialEq, Eq, Debug)]
struct Finding {
    path: String,
    /// From 1; 0 when it is about the whole file.
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, what } = self;
        if *line == 0 {
            write!(f, "{path}: {what}")
        } else {
            write!(f, "{path}:{line}: {what}")
        }
    }
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            what: what.into(),
        }
    }
}

impl Tree {
    /// The tree this test was compiled from, without what is built or fetched.
    fn of_repository() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut tree = Self::default();
        let mut waiting = vec![root.to_path_buf()];
        while let Some(dir) = waiting.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let relative = path.strip_prefix(root).unwrap();
                let name = relative
                    .to_str()
                    .expect("file names are UTF-8")
                    .replace('\\', "/");
                if matches!(
                    name.as_str(),
                    ".git" | "target" | "fuzz/target" | "Cargo.lock" | "LICENSE"
                ) || name.ends_with("__pycache__")
                {
                    continue;
                }
                if path.is_dir() {
                    waiting.push(path);
                } else if let Ok(text) = String::from_utf8(std::fs::read(&path).unwrap()) {
                    tree.files.insert(name, text);
                }
            }
        }
        assert!(
            tree.files.contains_key("Cargo.toml"),
            "not a source tree: {}",
            root.display()
        );
        tree
    }

    /// A tree made up for a rule's own test.
    fn of(files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|&(path, text)| (path.to_owned(), text.to_owned()))
            .collect();
        Self { files }
    }

    fn get(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Rust files that people write; fixtures are data.
    fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter()
            .filter(|(path, _)| path.ends_with(".rs") && !path.contains("/fixtures/"))
    }
}

/// Panics with one line per finding.
fn assert_none(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(
        lines.is_empty(),
        "{} findings:\n  {}\n",
        lines.len(),
        lines.join("\n  ")
    );
}

/// Panics unless there is exactly one finding, at `path`, with `words` in its text.
fn assert_found(findings: &[Finding], path: &str, words: &str) {
    let [only] = findings else {
        panic!("wanted one finding about '{words}' in {path}, got {findings:#?}")
    };
    assert_eq!(only.path, path, "{only}");
    assert!(
        only.what.contains(words),
        "'{words}' is not said in: {only}"
    );
}
