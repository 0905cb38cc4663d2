//! A node that encrypts its logs, the tools that look into them, and the end of the keys.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::raw::Request;
use crate::shell::{EVENTS, Ran, arqon, earthquake_lines, finished};
use crate::support::{Node, PATIENCE, command, write};

/// Exit code for wrong settings.
const EXIT_CONFIG: i32 = 78;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// A new master key, in a file that is the node's alone.
fn key_file(dir: &Path, name: &str) -> PathBuf {
    let made = command(&["keygen", name]).output().expect("it runs");
    assert!(made.status.success());
    let path = dir.join(format!("{name}.keys"));
    write(&path, &made.stdout);
    mode(&path, 0o600);
    path
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}

fn encrypting(keys: &Path) -> [(&str, &str); 3] {
    [
        ("ARQONBUS_LOG_ENCRYPT", "true"),
        ("ARQONBUS_LOG_MASTER_KEY_FILE", text(keys)),
        ("ARQONBUS_LOG_SEGMENT_BYTES_FIRST", "65536"),
    ]
}

fn say(node: &Node, topic: &str, text: &str, reality: &str) {
    let line = serde_json::json!({ "text": text }).to_string();
    let ran = node.run_with_input(&["produce", topic, "--reality", reality], &line);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

fn logdump(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logdump"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for name in ["LOGDUMP_KEY_FILE", "ARQONBUS_MASTER_KEYS"] {
        command.env_remove(name);
    }
    finished(command.spawn().expect("logdump starts"))
}

/// Files below `dir` in which `part` stands.
fn files_with(dir: &Path, part: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files_with(&path, part));
        } else {
            let bytes = fs::read(&path).expect("readable");
            if bytes.windows(part.len()).any(|window| window == part) {
                found.push(path);
            }
        }
    }
    found
}

/// What the node says about its readiness once it has looked at its logs.
fn reasons_with(node: &Node, part: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let reasons = Request::get("/readyz").send(node.ops).json()["reasons"].to_string();
        if reasons.contains(part) || Instant::now() > until {
            return reasons;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

// LOG-14: nothing that was produced is on the disk in the clear; the tools show headers and verify
// checksums without the key, and records with it; a key is rotated; a backup needs the key as well.
#[test]
fn encrypted_logs_are_read_with_the_key_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let keys = key_file(dir.path(), "first");
    let data = dir.path().join("data");
    let node = Node::dev_on_with(&data, &encrypting(&keys)).with_earthquakes();
    let status: Value = serde_json::from_str(&node.ok(&["log", "status", "-o", "json"])).unwrap();
    let before = status["key"].as_str().expect("a key").to_owned();
    let rotated = node.ok(&["log", "rotate-key", "-o", "json"]);
    let rotated: Value = serde_json::from_str(&rotated).expect("one object");
    assert_ne!(rotated["key"], before.as_str());
    say(&node, "usgs.late", "the last one", "main");
    assert_eq!(
        node.records(&[
            "consume",
            ">",
            "--from",
            "earliest",
            "--limit",
            &(EVENTS + 1).to_string()
        ])
        .len(),
        EVENTS + 1
    );

    let backup = dir.path().join("backup");
    node.ok(&["backup", text(&backup)]);
    node.signal("TERM");
    let (status, log) = node.ended();
    assert!(status.success(), "{log}");
    let secret = fs::read_to_string(&keys).expect("readable");
    let secret = secret.trim().split(':').nth(1).expect("NAME:KEY");
    assert!(!log.contains(secret) && files_with(&data, secret.as_bytes()).is_empty());

    let line = &earthquake_lines()[7];
    let sample = line.as_bytes().get(20..60).expect("a line of some length");
    for plain in [sample, b"usgs.quake", b"the last one"] {
        assert_eq!(files_with(&data, plain), Vec::<PathBuf>::new());
        assert_eq!(files_with(&backup, plain), Vec::<PathBuf>::new());
    }

    let log = data.join("dev/main");
    let verified = logdump(&["verify", text(&log)]);
    assert_eq!(verified.code, 0, "{}", verified.stderr);
    assert!(
        verified.stdout.contains("contents were not"),
        "{}",
        verified.stdout
    );
    assert!(
        verified.stdout.contains("master key first"),
        "{}",
        verified.stdout
    );
    let listed = logdump(&["ls", text(&log)]);
    assert!(
        listed.code == 0 && listed.stdout.contains("encrypted"),
        "{}",
        listed.stdout
    );
    let refused = logdump(&["cat", text(&log)]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("--key-file"), "{}", refused.stderr);

    let with_key = |arguments: &[&str]| {
        let ran = logdump(&[arguments, &["--key-file", text(&keys)]].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout
    };
    assert_eq!(
        with_key(&["cat", text(&log), "-o", "json"]).lines().count(),
        EVENTS + 1
    );
    assert!(!with_key(&["verify", text(&log)]).contains("notice"));
    assert!(with_key(&["ls", text(&log), "--topics", "9"]).contains("usgs.late"));

    let restore = |with: &[&str], to: &Path| {
        let arguments = ["restore", text(&backup), "--data", text(to)];
        let child = arqon("", "", &[&arguments, with].concat()).spawn();
        finished(child.expect("arqon starts"))
    };
    let elsewhere = dir.path().join("elsewhere");
    let refused = restore(&[], &elsewhere);
    let said = "`arqon restore` and `logdump`: --key-file FILE";
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
    assert!(
        refused.code != 0 && refused.stderr.contains("master key first"),
        "{}",
        refused.stderr
    );
    let elsewhere = dir.path().join("again");
    let restored = restore(&["--key-file", text(&keys)], &elsewhere);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    let copy = elsewhere.join("dev/main");
    assert_eq!(
        with_key(&["cat", text(&copy), "-o", "json"])
            .lines()
            .count(),
        EVENTS + 1
    );
}

// LOG-14: a log whose keys cannot be had is refused, named in readiness and to whoever asks for it,
// and harms no other; it is back when its keys are.
#[test]
fn a_log_without_its_keys_harms_no_other() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let keys = key_file(dir.path(), "first");
    let data = dir.path().join("data");
    let node = Node::dev_on_with(&data, &encrypting(&keys));
    node.ok(&["reality", "create", "vault"]);
    for reality in ["main", "vault"] {
        say(&node, "a", "x", reality);
    }
    node.signal("TERM");
    assert!(node.ended().0.success());
    let (file, away) = (data.join("dev/vault/keys"), dir.path().join("away"));
    let move_keys = |from: &Path, to: &Path| {
        write(to, &fs::read(from).expect("readable"));
        fs::remove_file(from).expect("our own file");
    };
    move_keys(&file, &away);

    let node = Node::dev_on_with(&data, &encrypting(&keys));
    let reasons = reasons_with(&node, "unreadable_log");
    assert!(reasons.contains("unreadable_log"), "{reasons}");
    let consume = ["consume", ">", "--from", "earliest", "--limit", "1"];
    assert_eq!(node.records(&consume).len(), 1);
    say(&node, "a", "more", "main");
    let refused = node.run(&[&consume[..], &["--reality", "vault"]].concat());
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("encrypted"), "{}", refused.stderr);
    node.signal("TERM");
    let (_, log) = node.ended();
    assert!(
        log.contains("dev/vault") && log.contains("is missing"),
        "{log}"
    );

    move_keys(&away, &file);
    let node = Node::dev_on_with(&data, &encrypting(&keys));
    let vault = [&consume[..], &["--reality", "vault"]].concat();
    assert_eq!(node.records(&vault).len(), 1);
}

// LOG-14: shredding wants to be confirmed by name and by an admin; afterwards the reality says that
// its keys were destroyed, to readers and after a restart, and the node is ready nevertheless.
#[test]
fn a_shredded_reality_is_gone_and_says_so() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let keys = key_file(dir.path(), "first");
    let data = dir.path().join("data");
    let node = Node::dev_on_with(&data, &encrypting(&keys));
    node.ok(&["reality", "create", "vault"]);
    say(&node, "a", "x", "vault");
    let shred = |node: &Node, confirm: &str| {
        node.run(&[
            "log",
            "shred-keys",
            "--reality",
            "vault",
            "--yes-destroy",
            confirm,
        ])
    };
    let refused = shred(&node, "main");
    assert!(
        refused.code != 0 && refused.stderr.contains("confirm"),
        "{}",
        refused.stderr
    );
    let consume = [
        "consume",
        ">",
        "--from",
        "earliest",
        "--limit",
        "1",
        "--reality",
        "vault",
    ];
    assert_eq!(node.records(&consume).len(), 1);

    assert_eq!(shred(&node, "vault").code, 0);
    let told = |node: &Node| {
        let refused = node.run(&consume);
        assert_ne!(refused.code, 0);
        assert!(
            refused.stderr.contains("destroyed on purpose"),
            "{}",
            refused.stderr
        );
    };
    told(&node);
    let again = shred(&node, "vault");
    assert_eq!(again.code, 0, "{}", again.stderr);
    let backup = node.ok(&["backup", text(&dir.path().join("backup"))]);
    assert!(
        backup.contains("_system") && !backup.contains("vault"),
        "{backup}"
    );
    say(&node, "a", "x", "main");
    node.signal("TERM");
    assert!(node.ended().0.success());

    let node = Node::dev_on_with(&data, &encrypting(&keys));
    told(&node);
    assert_eq!(Request::get("/readyz").send(node.ops).status, 200);
    let log = data.join("dev/vault");
    let refused = logdump(&["cat", text(&log), "--key-file", text(&keys)]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(
        refused.stderr.contains("destroyed on purpose"),
        "{}",
        refused.stderr
    );
}

// LOG-14, EDGE-01: a node that is to encrypt does not start without keys, with keys that others may
// read, or with two sources of keys; no key is in what it says.
#[test]
fn a_node_without_usable_keys_does_not_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let keys = key_file(dir.path(), "first");
    let secret = fs::read_to_string(&keys).expect("readable");
    let refused = |settings: &[(&str, &str)], words: &str| {
        let mut command = command(&["serve", "--dev", "--data", text(&data)]);
        let ran = finished(
            command
                .envs(settings.iter().copied())
                .spawn()
                .expect("starts"),
        );
        assert_eq!(ran.code, EXIT_CONFIG, "{}", ran.stderr);
        assert!(ran.stderr.contains(words), "no {words:?} in {}", ran.stderr);
        let key = secret.trim().split(':').nth(1).expect("NAME:KEY");
        assert!(!ran.stderr.contains(key), "{}", ran.stderr);
        assert!(!data.exists(), "it has written");
    };
    let on = ("ARQONBUS_LOG_ENCRYPT", "true");
    let file = ("ARQONBUS_LOG_MASTER_KEY_FILE", text(&keys));
    refused(&[on], "arqonbus keygen NAME");
    refused(
        &[on, file, ("ARQONBUS_MASTER_KEYS", &secret)],
        "leave one of them out",
    );
    refused(
        &[on, ("ARQONBUS_MASTER_KEYS", "first")],
        "line 1: there is no colon",
    );
    mode(&keys, 0o644);
    refused(&[on, file], "chmod 600");
    fs::remove_file(&keys).expect("our own file");
    refused(&[on, file], "cannot read the master keys");
}
