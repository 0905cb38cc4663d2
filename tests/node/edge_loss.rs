//! Events of the edge that are lost on the disk: everything is refused until an admin says to go on.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Node, write};

const BAN: &str = "a-name-to-be-found-51f0";

/// The file of the tenant's system log that holds `text`.
fn segment_with(data: &std::path::Path, text: &str) -> (PathBuf, Vec<u8>, usize) {
    let directory = data.join("dev/_system");
    for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "seg") {
            let bytes = std::fs::read(&path).expect("a segment");
            // The audit, which names it before, is not what is to be damaged.
            let position = |from: usize, text: &str| {
                let rest = bytes.get(from..)?;
                let found = rest
                    .windows(text.len())
                    .position(|part| part == text.as_bytes());
                found.map(|at| from + at)
            };
            let event = position(0, "sys.edge.").unwrap_or_default();
            if let Some(at) = position(event, text) {
                return (path, bytes, at);
            }
        }
    }
    panic!("{text} is in no segment");
}

fn status(node: &Node) -> Value {
    serde_json::from_str(&node.ok(&["edge", "status", "--output", "json"])).expect("an object")
}

// EDGE-05, EDGE-14
#[test]
fn a_lost_event_closes_the_edge_until_an_admin_goes_on_without_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    node.ok(&["token", "revoke", "--sub", BAN, "--ban"]);
    node.ok(&["token", "revoke", "--sub", "somebody-else", "--ban"]);
    assert_eq!(node.run_with_input(&["produce", "a"], "1\n").code, 0);
    node.signal("TERM");
    assert!(node.ended().0.success());

    let (path, mut bytes, at) = segment_with(&data, BAN);
    bytes[at] ^= 1;
    write(&path, &bytes);

    let node = Node::dev_on(&data);
    let refused = node.run_with_input(&["produce", "a"], "2\n");
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("POLICY_FAILURE"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("arqon edge status"),
        "{}",
        refused.stderr
    );
    let shown = status(&node);
    assert_eq!(shown["fit"], false, "{shown}");
    let reason = shown["unfit"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("arqon edge accept-loss"), "{reason}");
    let change = node.run(&["token", "revoke", "--sub", "third"]);
    assert_ne!(
        change.code, 0,
        "nothing is changed while it is not known what holds"
    );

    node.ok(&["log", "repair", "--reality", "_system"]);
    node.ok(&["edge", "accept-loss"]);
    let shown = status(&node);
    assert_eq!(shown["fit"], true, "{shown}");
    assert_eq!(node.run_with_input(&["produce", "a"], "3\n").code, 0);
    let bans = node.ok(&["token", "revocations", "--output", "json"]);
    assert!(
        bans.contains("somebody-else") && !bans.contains(BAN),
        "{bans}"
    );
    node.signal("KILL");
    drop(node.ended());

    // What was accepted is accepted for good.
    let node = Node::dev_on(&data);
    assert_eq!(node.run_with_input(&["produce", "a"], "4\n").code, 0);
    assert_eq!(status(&node)["fit"], true);
}

/// All files of the system log that hold records.
fn segments(data: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("dev/_system")).expect("a directory");
    let paths = entries.flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    found.sort();
    found
}

// EDGE-05, EDGE-14
#[test]
fn a_system_log_without_its_end_closes_the_edge() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    node.ok(&["token", "revoke", "--sub", BAN, "--ban"]);
    node.signal("TERM");
    assert!(node.ended().0.success());
    let last = segments(&data).pop().expect("a segment");
    let bytes = std::fs::read(&last).expect("a segment");
    // As if the disk had forgotten what was written there.
    write(&last, &vec![0; bytes.len()]);

    let node = Node::dev_on(&data);
    let refused = node.run_with_input(&["produce", "a"], "1\n");
    assert_ne!(refused.code, 0, "a ban may have stood there");
    assert!(
        refused.stderr.contains("POLICY_FAILURE"),
        "{}",
        refused.stderr
    );
    assert_eq!(status(&node)["fit"], false);
}
