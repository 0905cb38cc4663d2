//! Forks, comparisons and deletions, from outside.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use arqonbus::client::{Client, ConnectOptions, FetchOptions, Outgoing, ProduceOptions};
use arqonbus::proto::claims::Role;
use serde_json::Value;

use crate::shell::{EVENTS, arqon, finished, follower, next};
use crate::support::{Node, claims, command, signed, write};

const CANARY: &str = "canary-5f0c1d";

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("one object")
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(json).collect()
}

/// Files below `dir` that hold `bytes`.
fn holders(dir: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(holders(&path, bytes));
        } else {
            let held = std::fs::read(&path).expect("a file");
            if held.windows(bytes.len()).any(|window| window == bytes) {
                found.push(path);
            }
        }
    }
    found
}

fn stop(node: Node) {
    node.signal("TERM");
    let (status, stderr) = node.ended();
    assert!(status.success(), "{stderr}");
}

fn verified(data: &Path) {
    let logdump = Command::new(env!("CARGO_BIN_EXE_logdump"))
        .arg("verify")
        .arg(data)
        .output()
        .expect("logdump runs");
    let text = String::from_utf8_lossy(&logdump.stdout).into_owned();
    assert!(logdump.status.success(), "{text}");
}

async fn sequences(client: &Client, reality: &str) -> Vec<u64> {
    let mut found = Vec::new();
    let mut from = 1;
    loop {
        let options = FetchOptions {
            reality: reality.to_owned(),
            filter: ">".to_owned(),
            from,
            records: 0,
            bytes: 0,
        };
        let fetched = client.fetch(options).await.expect("fetched");
        if fetched.records.is_empty() {
            return found;
        }
        found.extend(fetched.views().map(|view| view.expect("a record").sequence));
        from = fetched.next;
    }
}

// LOG-12, BRK-14: a reality is forked while it is written to; each fork is a prefix of it without
// a hole, goes on by itself, and what is on disk is well.
#[tokio::test(flavor = "multi_thread")]
async fn a_reality_is_forked_while_it_is_written_to() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = Node::dev_on(&dir.path().join("data"));
    let connect = || async {
        let url = format!("ws://{}/v1/ws", node.edge);
        let options = ConnectOptions::new(&url, node.dev_token());
        Client::connect(options).await.expect("a connection")
    };
    let (producer, client) = (connect().await, connect().await);
    let stop_producing = AtomicBool::new(false);
    let produce = async {
        let mut last = 0;
        while !stop_producing.load(Ordering::SeqCst) {
            let mut batch = producer.batch();
            for _ in 0..50 {
                batch.push(&Outgoing {
                    topic: "load",
                    data: &[7; 500],
                    ..Outgoing::default()
                });
            }
            let options = ProduceOptions::default();
            last = producer
                .produce(&batch, &options)
                .await
                .expect("stored")
                .last;
        }
        last
    };
    let fork = async {
        let mut ends = Vec::new();
        for round in 0..8 {
            let name = format!("fork{round}");
            let arguments = [("from", "main".into()), ("to", name.clone().into())];
            let forked = client.command("reality.fork", arguments).await;
            let forked = forked.expect("forked").to_json();
            let at = forked["forked_at"].as_u64().expect("a sequence");
            assert_eq!(forked["next"], at + 1, "{forked}");
            let found = sequences(&client, &name).await;
            assert_eq!(found, (1..=at).collect::<Vec<_>>());
            ends.push(at);
        }
        stop_producing.store(true, Ordering::SeqCst);
        ends
    };
    let (last, ends) = tokio::join!(produce, fork);
    assert!(ends.is_sorted() && ends[0] < ends[7], "{ends:?}");
    assert_eq!(sequences(&client, "main").await.len() as u64, last);
    let listed = lines(&node.ok(&["reality", "list", "--output", "json"]));
    let fork3 = listed.iter().find(|one| one["reality"] == "fork3");
    let fork3 = fork3.expect("listed");
    assert_eq!(
        (&fork3["forked_from"], &fork3["forked_at"]),
        (&"main".into(), &ends[3].into())
    );
    let mut batch = client.batch();
    batch.push(&Outgoing {
        topic: "own",
        data: b"1",
        ..Outgoing::default()
    });
    let options = ProduceOptions {
        reality: "fork3".into(),
        ..ProduceOptions::default()
    };
    let produced = client.produce(&batch, &options).await.expect("stored");
    assert_eq!(produced.first, ends[3] + 1);
    drop((producer, client));
    stop(node);
    verified(&dir.path().join("data"));
}

// BRK-14, TOOL-02
#[test]
fn forks_are_compared_from_where_they_part() {
    let node = Node::dev().with_earthquakes();
    node.ok(&["reality", "fork", "main", "--at", "1000", "--to", "what-if"]);
    let compare = ["reality", "compare", "main", "what-if", "--output", "json"];
    let compared = json(&node.ok(&compare));
    assert_eq!(compared["related"], true, "{compared}");
    assert_eq!(compared["common_through"], 1000, "{compared}");
    assert_eq!(compared["first_difference"], 1001, "{compared}");
    assert_eq!(compared["difference_b"], "(no record)", "{compared}");
    assert_eq!(
        compared["topics_a"][0]["records"],
        EVENTS - 1000,
        "{compared}"
    );
    assert_eq!(compared["topics_b"], serde_json::json!([]), "{compared}");
    assert_eq!(compared["identical"], false);
    let told = node.ok(&compare[..4]);
    let verdict = "they part at 1001: main has usgs.quake, what-if has (no record)";
    assert_eq!(told.lines().next(), Some(verdict), "{told}");
    let counts: Vec<&str> = told
        .lines()
        .last()
        .expect("a row")
        .split_whitespace()
        .collect();
    assert_eq!(counts, ["usgs.quake", "707", "0"], "{told}");

    // The same events again are no difference, whatever the node stamps on them.
    let again = [
        "replay",
        ">",
        "--from",
        "1001",
        "--into",
        "what-if",
        "--reality",
        "main",
    ];
    node.ok(&again);
    let compared = json(&node.ok(&compare));
    assert_eq!(
        compared["topics_b"][0]["records"],
        EVENTS - 1000,
        "{compared}"
    );

    node.ok(&["reality", "create", "other"]);
    let unrelated = json(&node.ok(&["reality", "compare", "main", "other", "--output", "json"]));
    assert_eq!(unrelated["related"], false, "{unrelated}");
    assert_eq!(unrelated["compared_from"], 1, "{unrelated}");
    assert_eq!(unrelated["first_difference"], 1, "{unrelated}");
    let itself = json(&node.ok(&["reality", "compare", "main", "main", "--output", "json"]));
    assert_eq!(itself["identical"], true, "{itself}");
    let told = node.ok(&["reality", "compare", "main", "main"]);
    let verdict = "main and main are identical through 1707";
    assert_eq!(told.lines().next(), Some(verdict), "{told}");
    for (arguments, said) in [
        (
            &["reality", "fork", "main", "--at", "9999", "--to", "x"][..],
            "1707",
        ),
        (&["reality", "fork", "main", "--to", "what-if"], "exists"),
        (&["reality", "fork", "nowhere", "--to", "x"], "nowhere"),
        (&["reality", "compare", "main", "nowhere"], "nowhere"),
        (
            &["reality", "delete", "nowhere", "--yes-destroy", "nowhere"],
            "nowhere",
        ),
    ] {
        let ran = node.run(arguments);
        assert_eq!(ran.code, 1, "{arguments:?}");
        assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
        // To make it is no answer to any of these.
        assert!(!ran.stderr.contains("reality create"), "{}", ran.stderr);
    }
}

fn produce(node: &Node, reality: &str, count: usize) {
    let input = format!("{{\"n\":\"{CANARY}\"}}\n").repeat(count);
    let ran = node.run_with_input(&["produce", "secret", "--reality", reality], &input);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

// LOG-13, LOG-12: nothing of a deleted reality is left, whoever uses it is told, a fork keeps its
// records, and another of its name begins anew.
#[test]
fn a_deleted_reality_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    node.ok(&["reality", "create", "doomed"]);
    produce(&node, "doomed", 300);
    let consume = [
        "consume",
        ">",
        "--reality",
        "doomed",
        "--consumer",
        "c",
        "--from",
        "earliest",
    ];
    let bounded = [&consume[..], &["--limit", "5"]].concat();
    node.ok(&bounded);
    node.ok(&["reality", "fork", "doomed", "--at", "100", "--to", "kept"]);
    let (mut child, mut stdout) = follower(&node, &consume);
    assert_eq!(next(&mut stdout).sequence, 6);
    assert!(!holders(&data, CANARY.as_bytes()).is_empty());

    for (unconfirmed, code) in [
        (&["reality", "delete", "doomed"][..], 2),
        (&["reality", "delete", "doomed", "--yes-destroy", "doom"], 1),
    ] {
        let ran = node.run(unconfirmed);
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert!(ran.stderr.contains("--yes-destroy"), "{}", ran.stderr);
    }
    let operator = signed(
        &claims("dev", Role::Operator),
        node.dev_secret().trim_ascii_end(),
    );
    let arguments = ["reality", "delete", "doomed", "--yes-destroy", "doomed"];
    let refused = finished(
        arqon(&node.url(), &operator, &arguments)
            .spawn()
            .expect("starts"),
    );
    assert_eq!(refused.code, 77, "{}", refused.stderr);
    assert!(data.join("dev/doomed").exists());

    node.ok(&arguments);
    assert!(!data.join("dev/doomed").exists());
    let kept = data.join("dev/kept");
    for path in holders(&data, CANARY.as_bytes()) {
        assert!(path.starts_with(&kept), "{}", path.display());
    }
    // A pipe that nobody reads would hold it up.
    stdout.read_to_end(&mut Vec::new()).expect("all it prints");
    let ended = child.wait().expect("it ends");
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .expect("a pipe")
        .read_to_string(&mut stderr)
        .expect("text");
    assert!(!ended.success() && stderr.contains("deleted"), "{stderr}");
    assert_eq!(
        node.records(&["consume", ">", "--reality", "kept", "--stop-at-end"])
            .len(),
        100
    );
    let gone = node.run(&["consume", ">", "--reality", "doomed", "--stop-at-end"]);
    assert!(gone.stderr.contains("NOT_FOUND"), "{}", gone.stderr);

    node.ok(&["reality", "create", "doomed"]);
    produce(&node, "doomed", 3);
    let again = [&consume[..], &["--stop-at-end"]].concat();
    let first: Vec<u64> = node
        .records(&again)
        .iter()
        .map(|one| one.sequence)
        .collect();
    assert_eq!(first, [1, 2, 3], "the old cursor is not in the way");
    node.ok(&["reality", "delete", "doomed", "--yes-destroy", "doomed"]);
    node.ok(&["reality", "delete", "kept", "--yes-destroy", "kept"]);
    assert_eq!(holders(&data, CANARY.as_bytes()), Vec::<PathBuf>::new());
    stop(node);

    let node = Node::dev_on(&data);
    let consumers = lines(&node.ok(&["consumers", "list", "--output", "json"]));
    assert!(
        consumers.iter().all(|one| one["reality"] != "doomed"),
        "{consumers:?}"
    );
    let said = node.records(&[
        "consume",
        "sys.reality.>",
        "--reality",
        "_system",
        "--from",
        "earliest",
        "--stop-at-end",
    ]);
    let deleted = said
        .iter()
        .filter(|one| one.topic == "sys.reality.doomed")
        .count();
    assert_eq!(deleted, 4, "created, deleted, created, deleted");
    assert!(said.last().expect("some").payload.get().contains("\"by\""));
    stop(node);
    verified(&data);
}

// LOG-13, LOG-12: what a crash left half done is done when the node starts, before anybody asks.
#[test]
fn unfinished_deletions_and_forks_are_cleared_up_at_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    for name in ["doomed", "half"] {
        node.ok(&["reality", "create", name]);
        produce(&node, name, 20);
    }
    stop(node);
    write(
        &data.join("dev/doomed/deleting"),
        br#"{"by":"somebody","at":7}"#,
    );
    write(&data.join("dev/half/forking"), b"");
    let node = Node::dev_on(&data);
    assert!(!data.join("dev/doomed").exists() && !data.join("dev/half").exists());
    assert_eq!(holders(&data, CANARY.as_bytes()), Vec::<PathBuf>::new());
    let said = node.records(&[
        "consume",
        "sys.reality.doomed",
        "--reality",
        "_system",
        "--from",
        "earliest",
        "--stop-at-end",
    ]);
    assert!(
        said.last()
            .expect("some")
            .payload
            .get()
            .contains("somebody")
    );
    stop(node);
}

// LOG-13: a tenant is deleted while the node is stopped, and never while it runs; the deletion is
// recorded where it survives.
#[test]
fn a_deleted_tenant_leaves_nothing_behind_but_the_record_of_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let path = data.to_str().expect("a path of text");
    let node = Node::dev_on(&data);
    node.ok(&["reality", "create", "other"]);
    produce(&node, "main", 50);
    produce(&node, "other", 50);
    let delete = |confirm: &str| {
        let arguments = [
            "tenant",
            "delete",
            "dev",
            "--confirm",
            confirm,
            "--data",
            path,
        ];
        command(&arguments).output().expect("it runs")
    };
    assert!(!delete("dev").status.success(), "the node runs");
    stop(node);
    let wrong = delete("de");
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("--confirm"));
    assert!(!holders(&data, CANARY.as_bytes()).is_empty());
    let deleted = delete("dev");
    let stderr = String::from_utf8_lossy(&deleted.stderr).into_owned();
    assert!(deleted.status.success(), "{stderr}");
    assert!(!data.join("dev").exists());
    assert_eq!(holders(&data, CANARY.as_bytes()), Vec::<PathBuf>::new());
    assert_eq!(holders(&data, b"tenant.deleted").len(), 1);
    assert!(!delete("dev").status.success(), "there is none any more");

    // A deletion that was interrupted is finished by the next start.
    let node = Node::dev_on(&data);
    produce(&node, "main", 5);
    stop(node);
    write(&data.join("dev/deleting"), br#"{"by":"somebody","at":7}"#);
    let node = Node::dev_on(&data);
    assert!(!data.join("dev/main").exists());
    assert_eq!(node.records(&["consume", ">", "--stop-at-end"]).len(), 0);
    stop(node);
    verified(&data);
}
