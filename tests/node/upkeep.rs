//! Retention, compaction and compression of a running node, seen from outside.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use arqonbus::client::{
    Client, ConnectOptions, Durability, Outgoing, ProduceOptions, Reconnect, Start,
    SubscribeOptions,
};
use arqonbus::proto::view::Payload;
use serde_json::Value;

use crate::raw::Request;
use crate::support::{Node, PATIENCE};

const SETTINGS: &[(&str, &str)] = &[
    ("ARQONBUS_LOG_SEGMENT_BYTES", "65536"),
    ("ARQONBUS_LOG_SEGMENT_BYTES_FIRST", "65536"),
    ("ARQONBUS_LOG_TAIL_BYTES", "65536"),
    ("ARQONBUS_LOG_COMPRESS_AFTER_S", "1"),
    ("ARQONBUS_MAINTENANCE_INTERVAL_S", "1"),
    ("ARQONBUS_RETENTION_OVERDUE_S", "0"),
    ("ARQONBUS_RETENTION_DEAD_PERCENT", "20"),
    ("ARQONBUS_RETENTION_HOLD_FOR", r#"["held", "late"]"#),
    (
        "ARQONBUS_RETENTION_TOPICS",
        r#"[{pattern="price.>",compacted=true,tombstone_grace_s=1},{pattern="noise.>",retain_records=50}]"#,
    ),
];

// LOG-08, TOOL-05: bit rot in a reality that nobody uses is found, told, and repaired.
#[test]
fn bit_rot_in_an_unused_reality_is_found_in_the_background() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let settings = [
        ("ARQONBUS_LOG_SEGMENT_BYTES", "65536"),
        ("ARQONBUS_LOG_SEGMENT_BYTES_FIRST", "65536"),
        ("ARQONBUS_MAINTENANCE_INTERVAL_S", "1"),
        ("ARQONBUS_MAINTENANCE_VISIT_INTERVAL_S", "1"),
    ];
    let edge = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let node = Node::dev_at_with(&data, edge, &settings);
    node.ok(&["reality", "create", "cold"]);
    let lines = format!("\"{}\"\n", "x".repeat(1000)).repeat(200);
    // One batch at a time: those that wait together are stored together, and where they did not fit
    // behind the first one, there would be nothing but free space where the damage is done.
    let mut produce = vec!["produce", "t", "--reality", "cold"];
    produce.extend(["--batch", "10", "--inflight", "1"]);
    assert_eq!(node.run_with_input(&produce, &lines).code, 0);
    node.signal("TERM");
    assert!(node.ended().0.success());

    let segment = data.join("dev/cold/00000000000000000001.seg");
    let mut bytes = std::fs::read(&segment).expect("a sealed segment");
    let damaged = 20_000..34_000;
    let last = bytes.iter().rposition(|&byte| byte != 0);
    assert!(last > Some(damaged.end), "records end at {last:?}");
    for byte in &mut bytes[damaged] {
        *byte ^= 0x55;
    }
    crate::support::write(&segment, &bytes);
    let node = Node::dev_at_with(&data, edge, &settings);
    let started = Instant::now();
    loop {
        let metrics = Request::get("/metrics").send(node.ops).text();
        if metrics.contains("arqon_log_scrub_damages 1") {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{metrics}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = ["log", "status", "--reality", "cold", "--output", "json"];
    let told: Value = serde_json::from_str(&node.ok(&status)).expect("one object");
    let damages = told["scrub_damages"].as_array().expect("a list");
    assert!(
        damages[0]
            .as_str()
            .expect("a text")
            .contains("00000000000000000001.seg"),
        "{told}"
    );
    assert_eq!(
        told["read_only"], false,
        "old damage keeps nobody from writing"
    );

    let repair = ["log", "repair", "--reality", "cold", "--output", "json"];
    let told: Value = serde_json::from_str(&node.ok(&repair)).expect("one object");
    assert_eq!(told["repaired"], true, "{told}");
    let scrub = ["log", "scrub", "--reality", "cold", "--output", "json"];
    let told: Value = serde_json::from_str(&node.ok(&scrub)).expect("one object");
    assert_eq!(told["scrub_damages"], serde_json::json!([]), "{told}");
    let read = node.run(&[
        "consume",
        "t",
        "--reality",
        "cold",
        "--from",
        "earliest",
        "--stop-at-end",
    ]);
    assert!(read.stderr.contains("lost: records"), "{}", read.stderr);
    assert_eq!(node.run_with_input(&produce, "1\n").code, 0);
}

async fn connect(node: &Node) -> Client {
    let mut options = ConnectOptions::new(node.url(), node.dev_token().trim());
    options.reconnect = Reconnect::Never;
    Client::connect(options).await.expect("a connection")
}

/// Appends; what each key holds then.
async fn produce(client: &Client, numbers: std::ops::Range<u64>) -> BTreeMap<String, String> {
    let mut newest = BTreeMap::new();
    let filler = "x".repeat(300);
    for number in numbers {
        let key = format!("key-{}", number % 9);
        // Every now and then a key is deleted.
        let data = match number % 50 {
            33 => String::new(),
            _ => format!("\"{number} {filler}\""),
        };
        let mut batch = client.batch();
        batch.push(&Outgoing {
            topic: "price.made",
            key: &key,
            data: data.as_bytes(),
            ..Outgoing::default()
        });
        for topic in ["noise.made", "kept.made"] {
            batch.push(&Outgoing {
                topic,
                data: filler.as_bytes(),
                ..Outgoing::default()
            });
        }
        let options = ProduceOptions {
            durability: Durability::Synced,
            ..ProduceOptions::default()
        };
        let sent = client.send(&batch, &options).await.expect("sent");
        sent.produced().await.expect("stored");
        newest.insert(key, data);
    }
    newest
}

/// All records of a filter, from the earliest to what was there when it was called: sequence, key
/// and data.
async fn replay(client: &Client, filter: &str, end: u64) -> Vec<(u64, String, String)> {
    let mut options = SubscribeOptions::new(filter);
    options.start = Start::Earliest;
    let mut subscription = client.subscribe(options).await.expect("subscribed");
    let mut records = Vec::new();
    loop {
        let delivery = tokio::time::timeout(Duration::from_secs(2), subscription.next()).await;
        let Ok(Ok(Some(delivery))) = delivery else {
            return records;
        };
        for view in delivery.views() {
            let view = view.expect("a record");
            let Payload::Event { data, .. } = view.envelope.payload else {
                panic!("an event")
            };
            let data = String::from_utf8(data.to_vec()).expect("text");
            records.push((view.sequence, view.envelope.key.to_owned(), data));
        }
        if records.last().is_some_and(|(last, _, _)| last + 3 >= end) {
            return records;
        }
    }
}

fn status(node: &Node) -> Value {
    let text = node.ok(&["log", "status", "--output", "json"]);
    serde_json::from_str(&text).expect("JSON")
}

fn wait_until(node: &Node, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let status = status(node);
        if reached(&status) {
            return status;
        }
        assert!(started.elapsed() < PATIENCE, "never {what}: {status:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn number(status: &Value, name: &str) -> u64 {
    status[name].as_u64().unwrap_or(0)
}

// LOG-10, LOG-11, LOG-15, BRK-03: with keys and limits, what a consumer replays is the newest of
// each key and the newest of the others; the files shrink, stay sound, and the node says what was
// done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_kept_up_while_the_node_runs() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let node = Node::dev_on_with(&data, SETTINGS);
    let client = connect(&node).await;
    let newest = produce(&client, 0..600).await;
    let last = number(&status(&node), "durable_end");
    let after = wait_until(&node, "kept up", |status| {
        number(status, "removed_records") > 700
            && number(status, "upkeep_runs") > 1
            && number(status, "compressed_segments") > 0
    });
    assert_eq!(number(&after, "durable_end"), last, "sequences stay");
    assert!(number(&after, "reclaimed_bytes") > 200_000, "{after:#}");
    assert!(after["compression_ratio"].as_f64().expect("shown") > 1.0);

    let prices = replay(&client, "price.>", last).await;
    let left: BTreeMap<String, String> = prices
        .iter()
        .map(|(_, key, data)| (key.clone(), data.clone()))
        .collect();
    for (key, data) in &newest {
        let found = left.get(key).map_or("", String::as_str);
        assert_eq!(found, data, "the newest of {key}");
    }
    assert!(prices.len() < 300, "{} of 600", prices.len());
    let sequences = prices.iter().map(|(sequence, _, _)| *sequence);
    let third = sequences.clone().all(|sequence| sequence % 3 == 1);
    assert!(third && sequences.is_sorted(), "they are what they were");
    let noise = replay(&client, "noise.>", last + 1).await;
    assert!((50..300).contains(&noise.len()), "{}", noise.len());
    assert_eq!(replay(&client, "kept.>", last + 1).await.len(), 600);

    let metrics = Request::get("/metrics").send(node.ops);
    let text = metrics.text();
    let reclaimed = text
        .lines()
        .find_map(|line| line.strip_prefix("arqon_log_reclaimed_bytes_total "));
    let reclaimed: u64 = reclaimed.expect("counted").parse().expect("a number");
    assert!(reclaimed > 200_000);

    // The same from the files alone, while the node runs.
    let log = node.data.join("dev/main");
    let verified = Command::new(env!("CARGO_BIN_EXE_logdump"))
        .arg("verify")
        .arg(&log)
        .output()
        .expect("logdump runs");
    assert!(verified.status.success(), "{verified:?}");

    // And after the node has died and come back.
    drop(client);
    node.signal("KILL");
    drop(node.ended());
    let node = Node::dev_on(&data);
    let client = connect(&node).await;
    let again = replay(&client, "price.>", last).await;
    let values = |records: &[(u64, String, String)]| -> BTreeMap<String, String> {
        let records = records.iter();
        records
            .map(|(_, key, data)| (key.clone(), data.clone()))
            .collect()
    };
    assert_eq!(values(&again), values(&prices));
}

// LOG-10: a cursor that was named in the settings holds back what its consumer has not had, and
// it is visible who does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_holds_back_what_it_has_not_had() {
    let node = Node::dev_with(SETTINGS);
    let client = connect(&node).await;
    let mut options = SubscribeOptions::new("noise.>");
    options.start = Start::Earliest;
    options.consumer = "late".into();
    produce(&client, 0..5).await;
    let mut subscription = client.subscribe(options).await.expect("subscribed");
    let delivery = subscription.next().await.expect("no error");
    let delivery = delivery.expect("a delivery");
    let first = delivery.views().next().expect("a record").expect("sound");
    let (from, acknowledged) = (first.sequence + 1, first.sequence);
    subscription.ack(acknowledged).await.expect("acknowledged");
    produce(&client, 5..400).await;
    let held = wait_until(&node, "held", |status| {
        number(status, "upkeep_runs") > 1
            && status["held"]
                .as_array()
                .is_some_and(|held| !held.is_empty())
    });
    assert_eq!(held["held"][0]["consumer"], "late");
    assert_eq!(held["held"][0]["from"].as_u64(), Some(from));
    assert_eq!(held["held"][0]["cut_short"], false);
    assert!(held["held"][0]["bytes"].as_u64() > Some(50_000));
    let noise = replay(&client, "noise.>", number(&held, "durable_end") + 1).await;
    assert!(noise.len() >= 399, "{}", noise.len());
}
