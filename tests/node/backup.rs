//! A tenant is copied while its node goes on, and comes back somewhere else.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::shell::{EVENTS, Ran, arqon, finished};
use crate::support::{Node, write};

fn logdump(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logdump"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    finished(command.spawn().expect("logdump starts"))
}

/// `arqon restore`, which needs no node.
fn restore(backup: &Path, data: &Path) -> Ran {
    let (backup, data) = (text(backup), text(data));
    let arguments = ["restore", backup, "--data", data, "--output", "json"];
    finished(arqon("", "", &arguments).spawn().expect("arqon starts"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// All segments of a backup.
fn segments(backup: &Path) -> Vec<PathBuf> {
    let main = backup.join("dev/main");
    let mut paths: Vec<_> = std::fs::read_dir(main)
        .expect("a folder for the reality")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    paths
}

fn rows(output: &str) -> Vec<Value> {
    output
        .lines()
        .map(|line| serde_json::from_str(line).expect("a row"))
        .collect()
}

fn row<'a>(rows: &'a [Value], reality: &str) -> &'a Value {
    rows.iter()
        .find(|row| row["reality"] == reality)
        .expect("the reality")
}

// LOG-16, TOOL-02: a backup that is taken while a producer is at work holds every record that was
// acknowledged before, is verified, is restored elsewhere, and goes on with higher sequences.
#[test]
fn backup_of_a_live_node_is_restored_elsewhere() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let backup = dir.path().join("backup");
    let settings = [("ARQONBUS_LOG__SEGMENT_BYTES", "1048576")];
    let node = Node::dev_with(&settings).with_earthquakes();
    // Cursors are part of it.
    let consume = ["consume", ">", "--consumer", "reader", "--limit", "100"];
    assert_eq!(node.records(&consume).len(), 100);

    let mut busy = node
        .arqon(&["bench", "produce", "--count", "20000"])
        .spawn()
        .expect("arqon starts");
    let taken = rows(&node.ok(&["backup", text(&backup), "--output", "json"]));
    assert!(busy.wait().expect("it ends").success());
    let last = row(&taken, "main")["last"].as_u64().expect("a number");
    assert!(last >= EVENTS as u64, "{taken:?}");

    // The next one copies only what is new: then nothing, since nothing is.
    let again = node.run(&["backup", text(&backup), "--output", "json"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    let before = segments(&backup);
    assert!(before.len() > 10, "{before:?}");
    let third = node.run(&["backup", text(&backup), "--output", "json"]);
    assert_eq!(third.code, 0, "{}", third.stderr);
    // But for a mark that the idle log may have written meanwhile.
    let after = segments(&backup);
    let kept = before.iter().filter(|path| after.contains(path)).count();
    assert!(kept + 1 >= before.len(), "{before:?} and {after:?}");
    let taken = rows(&again.stdout);
    let last = row(&taken, "main")["last"].as_u64().expect("a number");
    assert_eq!(last, EVENTS as u64 + 20_000);

    // The node is lost, with what it took in since.
    assert_eq!(node.run_with_input(&["produce", "too.late"], "1\n").code, 0);
    let original = node.records(&["replay", "usgs.>", "--from", "1"]);
    node.signal("KILL");
    let lost = node.data.clone();
    drop(node);
    drop(lost);

    let data = dir.path().join("elsewhere");
    let restored = restore(&backup, &data);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    let goes_on = row(&rows(&restored.stdout), "main")["goes_on_with"]
        .as_u64()
        .expect("a number");
    assert!(goes_on > last + 1_000_000, "{goes_on}");
    let verified = logdump(&["verify", text(&data.join("dev/main"))]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);

    let node = Node::dev_on(&data);
    let copied = node.records(&["replay", "usgs.>", "--from", "1"]);
    let contents = |records: &[crate::shell::Printed]| -> Vec<(u64, String)> {
        let content =
            |record: &crate::shell::Printed| (record.sequence, record.payload.to_string());
        records.iter().map(content).collect()
    };
    assert_eq!(contents(&copied), contents(&original));
    let result = node.run_with_input(&["produce", "after.restore", "--output", "json"], "1\n");
    let result: Value = serde_json::from_str(&result.stdout).expect("one object");
    assert_eq!(result["first"].as_u64(), Some(goes_on));
    // A named consumer goes on where it was.
    let next = node.records(&["consume", ">", "--consumer", "reader", "--limit", "1"]);
    assert_eq!(next[0].sequence, 101);
}

// LOG-16, TOOL-02: what the node no longer has stays in the backup until it is pruned, and comes
// back only by its name.
#[test]
fn backup_keeps_what_the_node_has_deleted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let backup = dir.path().join("backup");
    let node = Node::dev();
    node.ok(&["reality", "create", "gone"]);
    let ran = node.run_with_input(&["produce", "a", "--reality", "gone"], "1\n2\n");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    node.ok(&["backup", text(&backup)]);
    node.ok(&["reality", "delete", "gone", "--yes-destroy", "gone"]);
    // Not only the next one.
    for _ in 0..2 {
        let again = node.run(&["backup", text(&backup)]);
        assert_eq!(again.code, 0, "{}", again.stderr);
        assert!(!again.stdout.contains("gone"), "{}", again.stdout);
        let said = again.stderr.contains("kept reality gone of 2");
        assert!(said && again.stderr.contains("--prune"), "{}", again.stderr);
    }
    let into = |data: &str, only: &[&str]| {
        let data = dir.path().join(data);
        let arguments = [&["restore", text(&backup), "--data", text(&data)], only].concat();
        finished(arqon("", "", &arguments).spawn().expect("arqon starts"))
    };
    assert_eq!(into("all", &[]).code, 0);
    assert!(dir.path().join("all/dev/main").exists());
    assert!(!dir.path().join("all/dev/gone").exists());
    let back = into("named", &["--only", "gone"]);
    assert_eq!(back.code, 0, "{}", back.stderr);
    let again = Node::dev_on(&dir.path().join("named"));
    let records = again.records(&["replay", "a", "--from", "1", "--reality", "gone"]);
    assert_eq!(records.len(), 2);

    let pruned = node.run(&["backup", text(&backup), "--prune"]);
    assert_eq!(pruned.code, 0, "{}", pruned.stderr);
    assert!(
        pruned.stderr.contains("removed reality gone"),
        "{}",
        pruned.stderr
    );
    assert!(!backup.join("dev/gone").exists());
    let refused = into("pruned", &["--only", "main", "--only", "gone"]);
    assert_eq!(refused.code, 66, "{}", refused.stderr);
    let said = "no backup of reality \"gone\"; it holds dev/";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
    assert!(refused.stderr.contains("dev/main"), "{}", refused.stderr);
}

// LOG-16: what is damaged or in the way is named, and nothing is restored.
#[test]
fn restore_checks_before_it_writes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (backup, data) = (dir.path().join("backup"), dir.path().join("data"));
    let node = Node::dev().with_earthquakes();
    node.ok(&["backup", text(&backup)]);
    let segment = segments(&backup).remove(0);
    let good = std::fs::read(&segment).expect("the copy");
    let mut bad = good.clone();
    bad[5000] ^= 1;
    write(&segment, &bad);
    let refused = restore(&backup, &data);
    assert_eq!(refused.code, 65, "{}", refused.stderr);
    assert!(
        refused.stderr.contains(text(&segment)) && refused.stderr.contains("SHA-256"),
        "{}",
        refused.stderr
    );
    assert!(!data.join("dev").exists(), "something was restored");
    write(&segment, &good);

    // A copy that has rotted is no copy: the next backup makes it anew.
    write(&segment, &bad);
    node.ok(&["backup", text(&backup)]);
    assert_eq!(std::fs::read(&segment).expect("the copy"), good);

    // A node does not start beside a restore that was interrupted; another restore goes on.
    std::fs::create_dir_all(data.join(".restoring/dev/main")).expect("a directory");
    let mut serve = crate::support::command(&["serve", "--dev", "--data", text(&data)]);
    let refused = finished(serve.spawn().expect("it starts"));
    assert_ne!(refused.code, 0);
    assert!(
        refused.stderr.contains("arqon restore"),
        "{}",
        refused.stderr
    );

    // Not into a running node, not over what is there, not from nothing.
    let refused = restore(&backup, &node.data);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("already"), "{}", refused.stderr);
    for nothing in [dir.path(), &dir.path().join("nobk")] {
        let refused = restore(nothing, &data);
        assert_eq!(refused.code, 66, "{}", refused.stderr);
    }
    assert_eq!(restore(&backup, &data).code, 0);
    let refused = restore(&backup, &data);
    assert!(refused.stderr.contains("already"), "{}", refused.stderr);
}
