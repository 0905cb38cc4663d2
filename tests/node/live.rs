//! Consumers that stay: what they see as it happens, and how they end.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use crate::shell::{finished, follower, next};
use crate::support::Node;

fn interrupt(child: &Child) {
    let status = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(status.expect("kill runs").success());
}

// BRK-02, BRK-03
#[test]
fn live_consumer_sees_each_event_as_it_is_stored_and_ends_cleanly() {
    let node = Node::dev();
    assert_eq!(node.run_with_input(&["produce", "a.past"], "0\n").code, 0);
    let (child, mut stdout) = follower(&node, &["consume", "a.>"]);
    // It has caught up: what follows is live.
    assert_eq!(next(&mut stdout).sequence, 1);

    let mut producer = node
        .arqon(&["produce", "a.now"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = producer.stdin.take().expect("a pipe");
    for sequence in 2..=4 {
        // The producer is not at its end: a pause in its input is enough.
        writeln!(stdin, "{{\"n\":{sequence}}}").expect("it reads");
        let record = next(&mut stdout);
        assert_eq!(record.sequence, sequence);
        assert_eq!(record.payload.get(), format!("{{\"n\":{sequence}}}"));
    }
    drop(stdin);
    assert_eq!(finished(producer).code, 0);
    interrupt(&child);
    let ran = finished(child);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

// BRK-04
#[test]
fn interrupted_consumer_has_acknowledged_what_it_printed() {
    let node = Node::dev();
    let consume = ["consume", ">", "--consumer", "live", "--from", "earliest"];
    assert_eq!(node.run_with_input(&["produce", "a"], "1\n2\n3\n").code, 0);
    let (child, mut stdout) = follower(&node, &consume);
    for sequence in 1..=3 {
        assert_eq!(next(&mut stdout).sequence, sequence);
    }
    interrupt(&child);
    assert_eq!(finished(child).code, 0);
    assert_eq!(node.run_with_input(&["produce", "a"], "4\n").code, 0);
    let rest = node.records(&[&consume[..], &["--stop-at-end"]].concat());
    assert_eq!(
        rest.iter()
            .map(|record| record.sequence)
            .collect::<Vec<_>>(),
        [4]
    );
}

#[test]
fn reader_that_has_seen_enough_ends_the_consumer_quietly() {
    let node = Node::dev().with_earthquakes();
    let (child, mut stdout) = follower(&node, &["consume", ">", "--stop-at-end"]);
    assert_eq!(next(&mut stdout).sequence, 1);
    drop(stdout);
    let ran = finished(child);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

#[test]
fn tail_begins_with_the_last_ones() {
    let node = Node::dev().with_earthquakes();
    assert_eq!(node.run_with_input(&["produce", "other"], "1\n").code, 0);
    let (mut child, mut stdout) = follower(&node, &["tail", "usgs.>", "-n", "3"]);
    for sequence in 1705..=1707 {
        assert_eq!(next(&mut stdout).sequence, sequence);
    }
    assert_eq!(node.run_with_input(&["produce", "usgs.new"], "1\n").code, 0);
    assert_eq!(next(&mut stdout).sequence, 1709);
    child.kill().expect("it runs");
    drop(finished(child));
}

// BRK-02
#[test]
fn consumer_says_in_one_plain_line_that_its_connection_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::dev_on(dir.path());
    assert_eq!(node.run_with_input(&["produce", "a"], "1\n").code, 0);
    let (child, mut stdout) = follower(&node, &["consume", ">"]);
    assert_eq!(next(&mut stdout).sequence, 1);
    let edge = node.edge;
    drop(node);
    let node = Node::dev_at(dir.path(), edge);
    assert_eq!(node.run_with_input(&["produce", "a"], "2\n").code, 0);
    assert_eq!(next(&mut stdout).sequence, 2);
    interrupt(&child);
    let ran = finished(child);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let said = ran.stderr.matches("connection lost, trying again").count();
    assert_eq!((said, ran.stderr.lines().count()), (1, 1), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
}
