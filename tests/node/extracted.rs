//! A node serves what `logdump extract` has made of another node's log.

use std::process::Command;

use crate::shell::Printed;
use crate::support::Node;

// TOOL-03
#[test]
fn an_extracted_log_is_served_and_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (data, part) = (dir.path().join("data"), dir.path().join("part"));
    let node = Node::dev_on(&data).with_earthquakes();
    let all = node.records(&["replay", "usgs.>", "--from", "1"]);
    node.signal("TERM");
    drop(node.ended());

    let extracted = Command::new(env!("CARGO_BIN_EXE_logdump"))
        .arg("extract")
        .args([data.join("dev/main"), part.join("dev/main")])
        .args(["--topic", "usgs.>", "--from", "100", "--to", "300"])
        .args(["--segment-bytes", "30000", "--compress"])
        .output()
        .expect("it starts");
    assert!(extracted.status.success(), "{extracted:?}");

    let node = Node::dev_on(&part);
    let kept: Vec<_> = all
        .iter()
        .filter(|record| (100..=300).contains(&record.sequence))
        .collect();
    assert!(kept.len() > 100, "{} records", kept.len());
    let shown = node.records(&["replay", "usgs.>", "--from", "1"]);
    assert_eq!(shown.len(), kept.len());
    for (shown, kept) in shown.iter().zip(kept) {
        let place = |record: &Printed| (record.sequence, record.topic.clone());
        assert_eq!(place(shown), place(kept));
        assert_eq!(shown.payload.get(), kept.payload.get());
        assert_eq!(shown.rest["appended_at"], kept.rest["appended_at"]);
    }
    assert_eq!(node.run_with_input(&["produce", "after.it"], "1\n").code, 0);
    let behind = node.records(&["consume", "after.it", "--from", "1", "--stop-at-end"]);
    let last = all.iter().map(|record| record.sequence).max();
    assert!(behind[0].sequence > last.unwrap_or(0), "{behind:?}");
}
