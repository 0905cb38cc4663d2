//! Debt is written down with an owner and an end: `docs/debt.md`.

use super::{Finding, Tree, assert_found, assert_none};

const LEDGER: &str = "docs/debt.md";

/// Split, so that the rule does not find itself.
const MARKS: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

/// Marks in the source without an entry, and entries that are incomplete or past their date.
/// `today` as `YYYY-MM-DD`, which orders like the dates do.
fn bad_debts(tree: &Tree, today: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut known = Vec::new();
    for (line, cells) in super::documents::table_rows(tree.get(LEDGER).unwrap_or_default()) {
        let id = cells[0].as_str();
        if !is_id(id) {
            findings.push(Finding::new(
                LEDGER,
                line,
                format!("'{id}' is no id like DEBT-7"),
            ));
        }
        let [_, owner, reason, expiry] = cells.as_slice() else {
            findings.push(Finding::new(
                LEDGER,
                line,
                "a debt has id, owner role, reason and expiry",
            ));
            continue;
        };
        if owner.is_empty() || reason.is_empty() {
            findings.push(Finding::new(
                LEDGER,
                line,
                format!("{id} lacks an owner or a reason"),
            ));
        }
        if expiry.parse::<jiff::civil::Date>().is_err() {
            findings.push(Finding::new(
                LEDGER,
                line,
                format!("{id}: '{expiry}' is no date YYYY-MM-DD"),
            ));
        } else if expiry.as_str() < today {
            findings.push(Finding::new(
                LEDGER,
                line,
                format!("{id} expired on {expiry}: pay it or say why not"),
            ));
        }
        known.push(cells[0].clone());
    }
    for (path, text) in tree.iter().filter(|(path, _)| is_source(path)) {
        for (number, line) in text.lines().enumerate() {
            for mark in MARKS {
                let Some(at) = line.find(mark) else { continue };
                let id = line[at + mark.len()..]
                    .strip_prefix('(')
                    .and_then(|rest| rest.split_once(')'));
                match id {
                    Some((id, _)) if known.iter().any(|known| known == id) => {}
                    Some((id, _)) => findings.push(Finding::new(
                        path,
                        number + 1,
                        format!("{id} is not in {LEDGER}"),
                    )),
                    None => findings.push(Finding::new(
                        path,
                        number + 1,
                        format!("a {mark} needs an id from {LEDGER}: {mark}(DEBT-7)"),
                    )),
                }
            }
        }
    }
    findings
}

fn is_id(text: &str) -> bool {
    text.strip_prefix("DEBT-")
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn is_source(path: &str) -> bool {
    let is_script = ["tools/", ".ci/"].iter().any(|dir| path.starts_with(dir));
    is_script
        || [".rs", ".proto", ".py", ".toml", ".sh", ".js", ".ts"]
            .iter()
            .any(|end| path.ends_with(end))
}

// TOOL-14
#[test]
fn debts_are_known_and_not_expired() {
    let today = jiff::Zoned::now().date().to_string();
    assert_none(&bad_debts(&Tree::of_repository(), &today));
}

// TOOL-14
#[test]
fn an_unknown_or_expired_debt_is_found() {
    let ledger = |rows: &str| {
        format!("| id | owner | reason | expiry |\n| --- | --- | --- | --- |\n{rows}\n")
    };
    let find = |rows: &str, code: &str| {
        bad_debts(
            &Tree::of(&[(LEDGER, &ledger(rows)), ("src/a.rs", code)]),
            "2030-06-01",
        )
    };
    let entry = "| DEBT-1 | log | waits for the index | 2030-06-01 |";
    let mark = MARKS[0];
    assert_none(&find(entry, &format!("// {mark}(DEBT-1): later")));
    assert_found(
        &find(entry, &format!("// {mark}: later")),
        "src/a.rs",
        "needs an id",
    );
    assert_found(
        &find(entry, &format!("// {}(DEBT-2)", MARKS[1])),
        "src/a.rs",
        "DEBT-2",
    );
    assert_found(
        &find("| DEBT-1 | log | x | 2030-05-31 |", ""),
        LEDGER,
        "expired",
    );
    assert_found(&find("| DEBT-1 | log | x | soon |", ""), LEDGER, "no date");
    assert_found(&find("| DEBT-1 | | x | 2031-01-01 |", ""), LEDGER, "owner");
    assert_found(
        &find("| seven | log | x | 2031-01-01 |", ""),
        LEDGER,
        "no id",
    );
}
