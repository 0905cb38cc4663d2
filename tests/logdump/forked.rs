//! Forks: directories with segments of several logs.

use std::path::Path;

use arqonbus::log::{Durability, Sequence, Writer};

use crate::made::{Made, fill, logdump, record, segments};

const SEGMENT_BYTES: u64 = 32 << 10;

fn fork(parent: &Made, dir: &Path, at: Option<u64>) {
    let writer = Writer {
        node: 7,
        clock_key: "n7/main".to_owned(),
    };
    parent
        .log
        .fork(dir, at.and_then(Sequence::new), &writer)
        .unwrap();
}

fn grow(dir: &Path, sequences: std::ops::Range<u64>) -> Made {
    let made = Made::open(dir, SEGMENT_BYTES);
    for sequence in sequences {
        made.batch(vec![record(sequence)], Durability::Synced);
    }
    made.rest();
    made
}

// LOG-12, TOOL-03: forks and forks of forks are well, and say what they are forks of.
#[test]
fn forks_are_well_and_show_their_origin() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join("acme").join(name);
    let parent = Made::open(&path("main"), SEGMENT_BYTES);
    fill(&parent, 600);
    assert!(segments(&path("main")).len() > 3);
    for (name, at) in [("head", None), ("middle", Some(301)), ("early", Some(5))] {
        fork(&parent, &path(name), at);
        let fresh = logdump(&["recover", &path(name).display().to_string()]);
        assert_eq!(fresh.code, 0, "{name}: {}{}", fresh.stdout, fresh.stderr);
        let next = at.map_or(601, |at| at + 1);
        grow(&path(name), next..next + 300).close();
    }
    let child = grow(&path("middle"), 602..700);
    fork(&child, &path("grandchild"), Some(650));
    fork(&child, &path("sibling"), Some(100));
    grow(&path("grandchild"), 651..660).close();
    child.close();
    parent.close();

    let all = dir.path().display().to_string();
    let verified = logdump(&["verify", &all]);
    assert_eq!(verified.code, 0, "{}", verified.stdout);
    let listed = logdump(&["ls", &all, "--output", "json"]).json();
    let logs = listed["logs"].as_array().unwrap();
    let of = |name: &str| logs.iter().find(|log| log["reality"] == name).unwrap();
    assert_eq!(of("main")["fork"], serde_json::Value::Null);
    for (name, at) in [
        ("head", 600),
        ("middle", 301),
        ("early", 5),
        ("grandchild", 650),
        ("sibling", 100),
    ] {
        assert_eq!(of(name)["fork"]["at"], at, "{name}");
    }
    let main = &of("main")["segments"][0]["log_id"];
    assert_eq!(&of("middle")["fork"]["log_id"], main);
    assert_eq!(&of("sibling")["fork"]["log_id"], main);
    assert_ne!(&of("grandchild")["fork"]["log_id"], main);
    let text = logdump(&["ls", &path("middle").display().to_string()]).stdout;
    assert!(
        text.contains("fork of log") && text.contains("at sequence 301"),
        "{text}"
    );

    let read = logdump(&[
        "cat",
        &path("grandchild").display().to_string(),
        "--output",
        "json",
    ]);
    assert_eq!(read.sequences(), (1..660).collect::<Vec<_>>());
}

// LOG-12, TOOL-03: the own segments of one fork do not pass for those of another.
#[test]
fn a_foreign_segment_is_found_in_a_fork() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join("acme").join(name);
    let main = Made::open(&path("main"), SEGMENT_BYTES);
    fill(&main, 300);
    fork(&main, &path("child"), None);
    let child = grow(&path("child"), 301..310);
    for sequence in 301..310 {
        main.batch(vec![record(sequence)], Durability::Synced);
    }
    // Both go on with 310, the one after its parent's records, the other after its own.
    fork(&main, &path("of-main"), None);
    fork(&child, &path("of-child"), None);
    let own = |name: &str| segments(&path(name)).pop().unwrap();
    assert_eq!(own("of-main").file_name(), own("of-child").file_name());
    std::fs::copy(own("of-child"), own("of-main")).unwrap();
    let run = logdump(&["verify", &path("of-main").display().to_string()]);
    assert_eq!(run.code, 1, "{}", run.stdout);
    assert!(run.stdout.contains("byte 16: log id"), "{}", run.stdout);
}
