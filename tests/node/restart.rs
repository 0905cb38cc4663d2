//! The node dies and comes back; its clients see nothing of it but a pause.

use crate::shell::{finished, follower, next};
use crate::support::Node;

// LOG-05, MSG-03, BRK-03, TOOL-08
#[test]
fn live_consumer_goes_on_over_the_death_of_the_node() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data).with_earthquakes();
    let edge = node.edge;
    let (child, mut stdout) = follower(&node, &["consume", ">", "--from", "1000"]);
    for sequence in 1000..=1707 {
        assert_eq!(next(&mut stdout).sequence, sequence);
    }
    node.signal("KILL");
    drop(node.ended());

    let node = Node::dev_at(&data, edge);
    assert_eq!(
        node.run_with_input(&["produce", "after.restart"], "1\n")
            .code,
        0
    );
    let record = next(&mut stdout);
    assert_eq!(record.topic, "after.restart");
    assert!(record.sequence > 1707, "{record:?}");
    let replayed = node.records(&["replay", "usgs.>", "--from", "1000"]);
    let sequences: Vec<u64> = replayed.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, (1000..=1707).collect::<Vec<_>>());
    let mut child = child;
    child.kill().expect("it runs");
    drop(finished(child));
}

// BRK-04, LOG-05
#[test]
fn named_cursor_survives_the_death_of_the_node() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data).with_earthquakes();
    let consume = ["consume", ">", "--consumer", "reader", "--stop-at-end"];
    let half = node.records(&[&consume[..], &["--limit", "700"]].concat());
    assert_eq!(half.last().map(|record| record.sequence), Some(700));
    node.signal("KILL");
    drop(node.ended());
    let node = Node::dev_on(&data);
    let rest = node.records(&consume);
    let sequences: Vec<u64> = rest.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, (701..=1707).collect::<Vec<_>>());
}
