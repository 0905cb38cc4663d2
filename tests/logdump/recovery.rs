//! Logs that nobody closed: what a crash leaves is told from damage, and what a node would do is
//! foretold exactly.

use std::path::Path;

use arqonbus::log::Durability;
use serde_json::Value;

use crate::made::{Dice, Made, change, copy, fill, logdump, record, segments};

/// A log of a process that has died: everything is written, nothing is closed.
fn crashed_log(dir: &Path) -> usize {
    let made = Made::open(dir, 64 << 10);
    fill(&made, 120);
    made.rest();
    made.batch((121..=125).map(record).collect(), Durability::Synced);
    let last = segments(dir).pop().unwrap();
    let bytes = std::fs::read(last).unwrap();
    bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1
}

// LOG-03, TOOL-03: what every crash can leave is a notice; it is no damage.
#[test]
fn a_torn_tail_is_told_from_damage() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acme/main");
    let data_end = crashed_log(&log);
    let text = log.display().to_string();
    assert_eq!(logdump(&["verify", &text]).code, 0);
    let last = segments(&log).pop().unwrap();
    change(&last, |bytes| bytes[data_end - 300..data_end].fill(0));
    let run = logdump(&["verify", &text]);
    assert_eq!(run.code, 0, "{}", run.stdout);
    assert!(run.stdout.contains("notice: torn tail"), "{}", run.stdout);
    let shown = logdump(&["cat", &text, "--output", "json"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.stderr.contains("torn tail"), "{}", shown.stderr);
    assert!(
        shown
            .sequences()
            .starts_with(&(1..=120).collect::<Vec<_>>())
    );
    let foretold = logdump(&["recover", &text]);
    assert_eq!(foretold.code, 0);
    assert!(
        foretold.stdout.contains("would cut off"),
        "{}",
        foretold.stdout
    );
    assert!(logdump(&["ls", &text]).stdout.contains("torn tail"));
}

// LOG-03, TOOL-03: the forecast against the deed.
#[test]
fn recover_foretells_what_opening_does() {
    let mut dice = Dice::new(5);
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good/main");
    let data_end = crashed_log(&good);
    let mut endings = std::collections::BTreeSet::new();
    for round in 0..60 {
        let log = dir.path().join(format!("round-{round}/main"));
        copy(&good, &log);
        std::fs::remove_file(log.join("LOCK")).unwrap();
        let last = segments(&log).pop().unwrap();
        // Half of it near the end, where a crash leaves its traces.
        let reach = if round % 2 == 0 { 700 } else { data_end - 1 };
        if round % 10 == 7 {
            // Not the version: a log of another version is refused, not recovered.
            change(&last, |bytes| bytes[10 + dice.below(118)] ^= 4);
        } else if round > 0 {
            change(&last, |bytes| {
                let at = data_end - 1 - dice.below(reach);
                match dice.below(3) {
                    0 => bytes[at] ^= 0x10,
                    1 => bytes[at..data_end].fill(0),
                    _ => bytes[at..(at + 40).min(data_end)].fill(0xee),
                }
            });
        }
        let text = log.display().to_string();
        let foretold = logdump(&["recover", &text, "--output", "json"]).json();
        let foretold = &foretold["logs"][0];
        endings.insert(foretold["ending"].as_str().unwrap().to_owned());
        let case = format!("round {round}: {foretold:#}");

        let made = Made::open(&log, 64 << 10);
        let status = made.log.status();
        assert_eq!(
            foretold["read_only"],
            Value::from(status.read_only),
            "{case}"
        );
        assert_eq!(foretold["next"], status.bounds.written_end.get(), "{case}");
        assert_eq!(foretold["epoch"], status.epoch, "{case}");
        let stated: Vec<_> = std::fs::read_dir(&log)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
            .collect();
        let stated: Vec<Value> = stated
            .iter()
            .map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
            .collect();
        let expected = Some(foretold["statement"].clone()).filter(|statement| !statement.is_null());
        assert_eq!(stated, expected.into_iter().collect::<Vec<_>>(), "{case}");
        made.close();
    }
    assert!(endings.len() >= 3, "{endings:?}");
}

// LOG-03: after recovery everything is well again, and the loss statement is listed.
#[test]
fn a_recovered_log_is_well_and_lists_its_losses() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acme/main");
    let data_end = crashed_log(&log);
    std::fs::remove_file(log.join("LOCK")).unwrap();
    let last = segments(&log).pop().unwrap();
    change(&last, |bytes| bytes[data_end - 300..data_end].fill(0));
    let made = Made::open(&log, 64 << 10);
    made.batch((121..=130).map(record).collect(), Durability::Synced);
    made.close();
    let run = logdump(&["verify", &log.display().to_string()]);
    assert_eq!(run.code, 0, "{}", run.stdout);
    assert!(run.stdout.contains("loss statement: "), "{}", run.stdout);
    let shown = logdump(&["cat", &log.display().to_string(), "--output", "json"]);
    assert_eq!(shown.sequences(), (1..=130).collect::<Vec<_>>());
}

// TOOL-03: a segment that stayed empty leaves no gap in the chain of those around it.
#[test]
fn replacing_an_empty_segment_keeps_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acme/main");
    let made = Made::growing(&log, 8 << 10, 64 << 10);
    // Larger than the first segment: that is replaced by a larger one with the same base.
    made.batch((1..=60).map(record).collect(), Durability::Synced);
    fill_rest(&made);
    made.close();
    let run = logdump(&["verify", &log.display().to_string()]);
    assert_eq!(run.code, 0, "{}", run.stdout);
}

fn fill_rest(made: &Made) {
    for first in (61..400).step_by(10) {
        made.batch(
            (first..first + 10).map(record).collect(),
            Durability::Synced,
        );
    }
}
