//! WebAssembly operators from outside: exactly once whatever is killed, and the same once more.

use std::path::Path;
use std::time::{Duration, Instant};

use arqonbus::client::{Client, Outgoing, ProduceOptions};
use arqonbus::proto::claims::Role;
use arqonbus::proto::v1::Value;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::policy::connect;
use crate::shell::{arqon, finished};
use crate::support::{Node, PATIENCE, claims, signed, write};

const COUNT: &str = include_str!("../../examples/operators/count.wat");

/// A directory with a module in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        write(&dir.path().join("count.wat"), COUNT.as_bytes());
        Self(dir)
    }

    fn data(&self) -> std::path::PathBuf {
        self.0.path().join("data")
    }

    fn module(&self) -> String {
        let path = self.0.path().join("count.wat");
        path.to_str().expect("a path of text").to_owned()
    }
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).expect("one object")
}

fn push(node: &Node, place: &Place, name: &str, more: &[&str]) -> Json {
    let module = place.module();
    let push = [
        "wasm", "push", name, &module, "--topics", "in.>", "--emits", "out.>",
    ];
    json(&node.ok(&[&push, more, &["--output", "json"]].concat()))
}

fn listed(node: &Node) -> Json {
    json(&node.ok(&["wasm", "list", "--output", "json"]))
}

fn until(node: &Node, what: &str, holds: impl Fn(&Json) -> bool) -> Json {
    let began = Instant::now();
    loop {
        let listed = listed(node);
        if holds(&listed) {
            return listed;
        }
        assert!(began.elapsed() < PATIENCE * 3, "not {what}: {listed}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn produce(client: &Client, topic: &str, payloads: impl Iterator<Item = String>) {
    let payloads: Vec<String> = payloads.collect();
    for some in payloads.chunks(500) {
        let mut batch = client.batch();
        for payload in some {
            batch.push(&Outgoing {
                topic,
                data: payload.as_bytes(),
                ..Outgoing::default()
            });
        }
        let done = client.produce(&batch, &ProduceOptions::default()).await;
        done.expect("stored");
    }
}

async fn hash(client: &Client, reality: &str) -> Json {
    let asked = [("reality", Value::from(reality)), ("topic", "out.>".into())];
    let hashed = client.command("reality.hash", asked).await.expect("a hash");
    hashed.to_json()
}

fn without_states(data: &Path) {
    std::fs::remove_dir_all(data.join("_state")).expect("the states are there");
}

// OPS-11, OPS-14, MSG-10
#[tokio::test]
async fn each_record_counts_once_whatever_is_killed_and_a_replay_gives_the_same_bytes() {
    const RECORDS: u64 = 5_000;
    let place = Place::new();
    let mut node = Node::dev_on(&place.data());
    let client = connect(&node).await;
    produce(
        &client,
        "in.a",
        (0..RECORDS / 2).map(|n| format!("record {n}")),
    )
    .await;
    let pushed = push(&node, &place, "count", &[]);
    assert_eq!(
        (&pushed["version"], &pushed["active"]),
        (&json!(1), &json!(true))
    );
    for after_ms in [10, 50, 100] {
        std::thread::sleep(Duration::from_millis(after_ms));
        node.signal("KILL");
        drop(node.ended());
        node = Node::dev_on(&place.data());
    }
    let client = connect(&node).await;
    let rest = (RECORDS / 2..RECORDS).map(|n| format!("record {n}"));
    produce(&client, "in.a", rest).await;
    let row = until(&node, "done", |row| row["emitted"] == RECORDS);
    assert_eq!(
        (&row["records"], &row["dead_letters"], &row["lost"]),
        (&json!(RECORDS), &json!(0), &json!(0))
    );
    // The count behind each payload is that of its record: none was left out, none came twice.
    let emitted = node.records(&["consume", "out.>", "--stop-at-end"]);
    assert_eq!(emitted.len() as u64, RECORDS);
    let first = hash(&client, "main").await;
    assert_eq!(first["records"], RECORDS);

    node.ok(&["reality", "create", "again"]);
    let replay = [
        "wasm", "replay", "count", "--into", "again", "--verify", "--output", "json",
    ];
    let verified = json(&node.ok(&replay));
    assert_eq!(
        (&verified["equal"], &verified["records_again"]),
        (&json!(true), &json!(RECORDS))
    );
    // Once more: what is done is not done again.
    assert_eq!(json(&node.ok(&replay)), verified);
    assert_eq!(hash(&client, "again").await["sha256"], first["sha256"]);

    // A copy of the input alone, in a log of its own, comes to the same too.
    node.ok(&["reality", "create", "input"]);
    node.ok(&["replay", "in.>", "--from", "earliest", "--into", "input"]);
    node.ok(&["wasm", "remove", "count"]);
    push(&node, &place, "count", &["--reality", "input"]);
    until(&node, "done", |row| {
        row["input"] == "input" && row["emitted"] == RECORDS
    });
    assert_eq!(hash(&client, "input").await["sha256"], first["sha256"]);

    node.signal("TERM");
    drop(node.ended());
    without_states(&place.data());
    let node = Node::dev_on(&place.data());
    let client = connect(&node).await;
    let row = listed(&node);
    assert_eq!(
        (&row["state"], &row["input"]),
        (&json!("working"), &json!("input"))
    );
    produce(&client, "in.a", std::iter::once("one more".to_owned())).await;
    assert_eq!(hash(&client, "main").await["sha256"], first["sha256"]);
    assert_eq!(hash(&client, "input").await["sha256"], first["sha256"]);
}

// OPS-11, BRK-06
#[tokio::test]
async fn a_record_that_cannot_be_dealt_with_becomes_a_dead_letter_and_nothing_waits_for_it() {
    let place = Place::new();
    let node = Node::dev_on(&place.data());
    let client = connect(&node).await;
    let payloads = ["one", "P trap", "two", "L loop", "B bad topic", "three"];
    produce(&client, "in.a", payloads.iter().map(ToString::to_string)).await;
    push(&node, &place, "count", &["--tries", "2"]);
    let row = until(&node, "done", |row| row["records"] == 6);
    assert_eq!(
        (&row["emitted"], &row["dead_letters"], &row["lost"]),
        (&json!(3), &json!(3), &json!(0))
    );
    let emitted = node.records(&["consume", "out.>", "--stop-at-end"]);
    assert_eq!(emitted.len(), 3);
    assert_eq!(emitted[0].rest["producer"], "wasm.count");
    let letters = node.records(&["consume", "dlq.>", "--stop-at-end"]);
    let said: Vec<Json> = letters
        .iter()
        .map(|letter| serde_json::from_str(letter.payload.get()).expect("a letter"))
        .collect();
    let reasons: Vec<&Json> = said.iter().map(|letter| &letter["reason"]).collect();
    assert_eq!(reasons, ["trap", "fuel", "answer"], "{said:?}");
    assert_eq!(letters[0].topic, "dlq.wasm.count");
    assert_eq!(said[0]["attempts"], 2, "{said:?}");
    let error = said[2]["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("evil.top") && error.contains("manifest"),
        "{error}"
    );
}

// OPS-11
#[tokio::test]
async fn versions_are_pushed_activated_rolled_back_and_circles_refused() {
    let place = Place::new();
    let node = Node::dev_on(&place.data());
    let client = connect(&node).await;
    let new = place.0.path().join("new.wat");
    let new = new.to_str().expect("a path of text");
    node.ok(&["wasm", "new", new]);
    assert_eq!(
        node.run(&["wasm", "new", new]).code,
        1,
        "nothing is overwritten"
    );
    let tried = json(&node.ok(&["wasm", "test", new, "--payload", "hi", "--output", "json"]));
    assert_eq!(tried["emissions"][0]["topic"], "out.seen");

    push(&node, &place, "count", &["--no-activate"]);
    assert_eq!(listed(&node)["state"], "never activated");
    node.ok(&["wasm", "activate", "count"]);
    produce(&client, "in.a", (0..3).map(|n| n.to_string())).await;
    until(&node, "done", |row| row["emitted"] == 3);
    node.ok(&["wasm", "pause", "count"]);
    produce(&client, "in.a", (3..5).map(|n| n.to_string())).await;
    assert_eq!(listed(&node)["state"], "paused");
    // Another module under the same name goes on with the state of the first.
    let other = COUNT.replace("evil.top", "evil.too");
    write(&place.0.path().join("count.wat"), other.as_bytes());
    push(&node, &place, "count", &[]);
    node.ok(&["wasm", "resume", "count"]);
    until(&node, "done", |row| {
        row["emitted"] == 5 && row["version"] == 2
    });
    node.ok(&["wasm", "rollback", "count"]);
    produce(&client, "in.a", std::iter::once("5".to_owned())).await;
    until(&node, "done", |row| {
        row["emitted"] == 6 && row["version"] == 1
    });
    // Each version does again what it did.
    node.ok(&["reality", "create", "again"]);
    let replay = [
        "wasm", "replay", "count", "--into", "again", "--verify", "--output", "json",
    ];
    assert_eq!(json(&node.ok(&replay))["equal"], true);

    let module = place.module();
    let circle = [
        "wasm", "push", "back", &module, "--topics", "out.>", "--emits", "in.x",
    ];
    let ran = node.run(&circle);
    assert!(
        ran.stderr.contains("feed itself") && ran.stderr.contains("count"),
        "{}",
        ran.stderr
    );
    let own = [
        "wasm",
        "push",
        "own",
        &module,
        "--topics",
        "a",
        "--emits",
        "op.store.x",
    ];
    let ran = node.run(&own);
    assert!(ran.stderr.contains("of the node itself"), "{}", ran.stderr);
    let bad = place.0.path().join("bad.wat");
    write(&bad, b"(module)");
    let bad = bad.to_str().expect("a path of text");
    let ran = node.run(&["wasm", "push", "bad", bad, "--topics", "a", "--emits", "b"]);
    assert!(
        ran.stderr.contains("does not export arqon_apply"),
        "{}",
        ran.stderr
    );

    let user = signed(&claims("dev", Role::User), &node.dev_secret());
    let mut list = arqon(&node.url(), &user, &["wasm", "list"]);
    let ran = finished(list.spawn().expect("arqon starts"));
    assert!(ran.stderr.contains("needs the role"), "{}", ran.stderr);
}
