//! The byte format is written once, in `docs/log-format.md`; a change of the code that lays the
//! bytes out must pass by the document.

use super::rust::{Blank, only_code};
use super::{Finding, Tree, assert_found, assert_none};

const DOCUMENT: &str = "docs/log-format.md";
const CODE: [&str; 4] = [
    "src/log/record.rs",
    "src/log/batch.rs",
    "src/log/segment.rs",
    "src/log/index.rs",
];

fn stale_layouts(tree: &Tree) -> Vec<Finding> {
    let Some(document) = tree.get(DOCUMENT) else {
        return vec![Finding::new(DOCUMENT, 0, "the byte format has no document")];
    };
    let mut findings = Vec::new();
    for path in CODE {
        let Some(code) = tree.get(path) else { continue };
        let wanted = format!("<!-- layout-hash {path} {:08x} -->", fingerprint(code));
        if document.lines().any(|line| line.trim() == wanted) {
            continue;
        }
        findings.push(Finding::new(
            DOCUMENT,
            0,
            format!("{path} has changed: compare it with the document, then let it hold the line\n    {wanted}"),
        ));
    }
    findings
}

/// CRC-32/ISO-HDLC of the code without comments, unit tests, white space and the commas that a
/// broken line ends with: formatting changes nothing.
fn fingerprint(code: &str) -> u32 {
    let code = only_code(code, Blank::Comments);
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut dense: String = code.split_whitespace().collect();
    for close in [")", "}", "]"] {
        dense = dense.replace(&format!(",{close}"), close);
    }
    crc32fast::hash(dense.as_bytes())
}

#[test]
fn the_log_format_document_has_seen_the_code() {
    let tree = Tree::of_repository();
    if tree.get(DOCUMENT).is_none() && CODE.iter().all(|path| tree.get(path).is_none()) {
        return;
    }
    assert_none(&stale_layouts(&tree));
}

#[test]
fn a_changed_layout_asks_for_its_document() {
    let document =
        |hash: u32| format!("# Format\n<!-- layout-hash src/log/record.rs {hash:08x} -->\n");
    let find = |document: &str, code: &str| {
        stale_layouts(&Tree::of(&[
            (DOCUMENT, document),
            ("src/log/record.rs", code),
        ]))
    };
    let current = document(fingerprint("const A: u8 = 1;"));
    assert_none(&find(
        &current,
        "const A: u8  = 1; // a comment\n#[cfg(test)] mod tests {}",
    ));
    assert_found(
        &find(&current, "const A: u8 = 2;"),
        DOCUMENT,
        "src/log/record.rs has changed",
    );
    assert_found(
        &stale_layouts(&Tree::of(&[(CODE[0], "x")])),
        DOCUMENT,
        "no document",
    );
}
