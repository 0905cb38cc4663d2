//! The disk fills up and is emptied again under a running node.
//!
//! On a file system of a few mebibytes in memory; mounting it takes root, as in CI.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::raw::Request;
use crate::shell::Ran;
use crate::support::{Node, write};

const DISK_BYTES: &str = "size=24m";

/// A small file system; unmounted when it is dropped.
pub(crate) struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    pub(crate) fn mounted_at(path: &'a Path) -> Option<Self> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", DISK_BYTES, "tmpfs"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        mount
            .is_ok_and(|status| status.success())
            .then_some(Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // A process that was just killed holds its files for another moment.
        let unmount = || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let unmounted = Command::new("umount")
                .arg(self.0)
                .stderr(Stdio::null())
                .status();
            unmounted.is_ok_and(|status| status.success())
        };
        assert!((0..100).any(|_| unmount()), "umount {}", self.0.display());
    }
}

// LOG-06, LOG-01, REL-10, TOOL-18, REL-14
#[test]
fn full_disk_is_answered_and_the_node_goes_on_when_there_is_room_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let Some(disk) = SmallDisk::mounted_at(dir.path()) else {
        // For others tests/log/disk_faults.rs simulates it.
        assert!(
            !rustix::process::geteuid().is_root(),
            "root cannot mount a tmpfs here"
        );
        return;
    };
    let node = Node::dev_on(&dir.path().join("data"));
    let ballast = dir.path().join("ballast");
    write(&ballast, &vec![1; 6 << 20]);

    let line = format!("\"{}\"\n", "x".repeat(1000));
    let lines = line.repeat(1000);
    let mut stored = 0;
    let refused = loop {
        let ran: Ran = node.run_with_input(
            &["produce", "disk.fill", "--batch", "50", "--output", "json"],
            &lines,
        );
        if ran.code != 0 {
            break ran;
        }
        stored += 1000;
        assert!(stored < 24_000, "the disk does not fill up");
    };
    assert!(
        refused.stderr.contains("STORAGE_FAILURE"),
        "{}",
        refused.stderr
    );
    let ready = || Request::get("/readyz").send(node.ops);
    let full = ready();
    assert_eq!(full.status, 503);
    assert!(full.text().contains("disk_full"), "{}", full.text());
    let live = node.records(&["consume", "disk.>", "--from", "earliest", "--stop-at-end"]);
    let held = live.len();
    assert!(
        held >= stored,
        "{held} records are readable, {stored} were acknowledged"
    );

    std::fs::remove_file(&ballast).expect("the ballast");
    assert_eq!(ready().status, 200, "{}", ready().text());
    let patience = std::time::Instant::now();
    loop {
        let ran = node.run_with_input(&["produce", "disk.after"], "1\n");
        if ran.code == 0 {
            break;
        }
        assert!(
            patience.elapsed() < crate::support::PATIENCE,
            "{}",
            ran.stderr
        );
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    node.signal("KILL");
    let data = node.data.clone();
    drop(node.ended());

    let node = Node::dev_on(&data);
    let after = node.records(&["consume", ">", "--from", "earliest", "--stop-at-end"]);
    assert_eq!(
        after.last().map(|record| record.topic.as_str()),
        Some("disk.after")
    );
    let sequences: Vec<u64> = after.iter().map(|record| record.sequence).collect();
    let expected: Vec<u64> = (1..=sequences.len() as u64).collect();
    assert_eq!(sequences, expected, "no gap and no repetition");
    assert!(sequences.len() > held);
    drop(node);
    drop(disk);
}
