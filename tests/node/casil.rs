//! Content inspection from outside: what is found, what is stored, and that no secret is anywhere
//! in what a node has written.

use std::path::Path;
use std::time::{Duration, Instant};

use arqonbus::client::{Client, ConnectOptions, Error, FetchOptions, ProduceOptions};
use arqonbus::proto::ErrorCode;
use arqonbus::proto::claims::Role;
use arqonbus::proto::pybus::BusPayload;
use arqonbus::proto::v1::{Envelope, Event, Record, Value as Given, envelope};
use prost::Message as _;
use prost_types::value::Kind;
use serde_json::Value;

use crate::raw::Request;
use crate::shell::{arqon, finished};
use crate::support::{Node, PATIENCE, claims, signed};

/// Stands in every secret, so that a part of one is found too.
const CANARY: &str = "Q7R5T2V4X6Z3";
const AWS: &str = "AKIAQ7R5T2V4X6Z3B5N7";
const TOKEN: &str = "***REDACTED***";

fn event(topic: &str, data: impl Into<Vec<u8>>) -> Envelope {
    Envelope {
        topic: topic.into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "message".into(),
            data: data.into().into(),
        })),
        ..Envelope::default()
    }
}

fn object(name: &str, text: &str) -> Option<prost_types::Struct> {
    let value = prost_types::Value {
        kind: Some(Kind::StringValue(text.into())),
    };
    Some(prost_types::Struct {
        fields: [(name.to_owned(), value)].into(),
    })
}

/// Messages with the canary in every place that can be redacted.
fn redactable() -> Vec<(&'static str, Envelope)> {
    let bus = |payload: BusPayload| event("older", payload.encode_to_vec());
    let mut header = event("a", "{}");
    header.headers.insert("x-note".into(), format!("use {AWS}"));
    let mut room = event("", format!(r#"{{"note":"{AWS}"}}"#));
    room.topic = "room.science.main".into();
    room.room_id = "science".into();
    vec![
        (
            "payload",
            bus(BusPayload {
                payload: object("note", AWS),
                ..BusPayload::default()
            }),
        ),
        (
            "args",
            bus(BusPayload {
                args: object("note", AWS),
                ..BusPayload::default()
            }),
        ),
        (
            "metadata",
            bus(BusPayload {
                metadata: object("password", CANARY),
                ..BusPayload::default()
            }),
        ),
        (
            "error",
            bus(BusPayload {
                error: format!("bad {AWS}"),
                ..BusPayload::default()
            }),
        ),
        ("header", header),
        ("room", room),
        (
            "JSON",
            event("a", format!(r#"{{"n":5,"note":"{AWS}","z":1.0}}"#)),
        ),
        ("field", event("a", format!(r#"{{"password":"{CANARY}"}}"#))),
        (
            "escaped",
            event("a", r#"{"note":"AK\u0049AQ7R5T2V4X6Z3B5N7"}"#),
        ),
        (
            "text",
            event("a", format!("see postgres://app:{CANARY}@db/app")),
        ),
    ]
}

/// Messages with the canary where nothing can be taken out.
fn unredactable() -> Vec<(&'static str, Envelope)> {
    let mut key = event("a", "{}");
    key.key = AWS.into();
    let mut trace = event("a", "{}");
    trace.trace_id = AWS.into();
    let mut producer = event("a", "{}");
    producer.producer_id = AWS.into();
    let mut kind = event("a", "{}");
    kind.payload = Some(envelope::Payload::Event(Event {
        r#type: AWS.into(),
        data: "{}".into(),
    }));
    let mut name = event("a", "{}");
    name.headers.insert(AWS.into(), "x".into());
    vec![
        ("key", key),
        ("trace_id", trace),
        ("producer_id", producer),
        ("type", kind),
        ("header's name", name),
        ("topic", event(&format!("a.{AWS}"), "{}")),
        ("binary", event("a", [b"\xff\x00", AWS.as_bytes()].concat())),
    ]
}

async fn connect(node: &Node) -> Client {
    let options = ConnectOptions::new(node.url(), node.dev_token());
    Client::connect(options).await.expect("a connection")
}

async fn produce(client: &Client, envelopes: &[&Envelope]) -> Result<(), Error> {
    let mut batch = client.batch();
    for envelope in envelopes {
        batch.push_message(envelope);
    }
    client
        .produce(&batch, &ProduceOptions::default())
        .await
        .map(drop)
}

async fn reload<const N: usize>(client: &Client, change: [(&str, Given); N]) -> Value {
    let result = client.command("op.casil.reload", change).await;
    result.expect("it is put in force").to_json()
}

async fn records(client: &Client, reality: &str, filter: &str) -> Vec<Record> {
    let fetched = client.fetch(FetchOptions {
        reality: reality.to_owned(),
        filter: filter.to_owned(),
        from: 1,
        records: 1_000,
        bytes: 0,
    });
    let fetched = fetched.await.expect("records");
    fetched
        .records
        .iter()
        .map(|record| Record::decode(record.clone()).expect("a record"))
        .collect()
}

/// Every file below a directory that has the canary in it.
fn files_with_canary(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with_canary(&path));
            continue;
        }
        let bytes = std::fs::read(&path).expect("a file");
        let spelled = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        // Only what is escaped in JSON hides the first letters, never the canary.
        if spelled(CANARY.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn assert_no_canary(what: &str, text: &str) {
    assert!(!text.contains(CANARY), "{what} has the canary: {text}");
}

/// Searches all that the node has written, ends it, and searches once more.
async fn search(node: Node, client: Client, data: &Path) {
    let started = Instant::now();
    while records(&client, "_system", "sys.audit.edge")
        .await
        .is_empty()
    {
        assert!(started.elapsed() < PATIENCE, "no decision is sampled");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for path in ["/metrics", "/status", "/readyz"] {
        let answer = Request::get(path).send(node.ops);
        assert_no_canary(path, &answer.text());
    }
    let listed = client.command("topics.list", []).await.expect("topics");
    assert_no_canary("topics", &listed.to_json().to_string());
    client.close().await;
    assert_eq!(files_with_canary(data), Vec::<String>::new());
    node.signal("TERM");
    let (status, stderr) = node.ended();
    assert!(status.success());
    assert_eq!(files_with_canary(data), Vec::<String>::new());
    assert_no_canary("standard error", &stderr);
    assert!(stderr.contains("CASIL"), "what was found is said");
}

// EDGE-17, EDGE-18
#[tokio::test]
async fn secrets_are_nowhere_in_what_the_node_writes() {
    for block in [true, false] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        let node = Node::dev_on_with(&data, &[("ARQONBUS_TRACE_FILTER", "trace")]);
        let client = connect(&node).await;
        let change = [
            ("enabled", true.into()),
            ("mode", "enforce".into()),
            ("block_on_probable_secret", block.into()),
        ];
        reload(&client, change).await;
        let good = event("good", "{}");
        let (mut stored, mut refused) = (0, 0);
        let never = unredactable()
            .into_iter()
            .map(|(place, envelope)| (place, envelope, true));
        let sometimes = redactable()
            .into_iter()
            .map(|(place, envelope)| (place, envelope, block));
        for (place, envelope, blocked) in sometimes.chain(never) {
            let alone = produce(&client, &[&envelope]).await;
            if !blocked {
                alone.unwrap_or_else(|error| panic!("{place}: {error}"));
                stored += 1;
                continue;
            }
            let among = produce(&client, &[&good, &envelope, &good]).await;
            for outcome in [alone, among] {
                let error = outcome.err().unwrap_or_else(|| panic!("{place} is stored"));
                assert_eq!(
                    error.code(),
                    Some(ErrorCode::CasilPolicyBlockedSecret),
                    "{place}"
                );
                assert_no_canary(place, &format!("{error} {error:?}"));
                refused += 1;
            }
        }
        let metrics = Request::get("/metrics").send(node.ops).text();
        let counted = format!(
            "arqon_edge_decisions_total{{decision=\"blocked\",reason=\"CASIL_POLICY_BLOCKED_SECRET\"}} {refused}"
        );
        assert!(metrics.contains(&counted), "{counted}: {metrics}");
        let kept = records(&client, "main", ">").await;
        assert_eq!(kept.len(), stored);
        for record in kept {
            let envelope = Envelope::decode(record.envelope.clone()).expect("an envelope");
            let said = record.verdict.and_then(|verdict| verdict.classification);
            let said = said.expect("a classification");
            assert_eq!(
                [said.reason.as_str(), said.decision.as_str()],
                ["CASIL_POLICY_REDACTED", "redact"]
            );
            let text = String::from_utf8_lossy(&envelope.encode_to_vec()).into_owned();
            assert!(text.contains(TOKEN), "{text}");
            assert_no_canary("a record", &text);
        }
        search(node, client, &data).await;
    }
}

// EDGE-17, EDGE-18
#[tokio::test]
async fn monitor_counts_and_stamps_and_changes_nothing() {
    let node = Node::dev_with(&[
        ("ARQONBUS_CASIL_ENABLED", "true"),
        ("ARQONBUS_CASIL_REDACTION_PATHS", "password,token"),
    ]);
    let client = connect(&node).await;
    let sent = event("a", format!(r#"{{"password":"x","note":"{AWS}"}}"#));
    produce(&client, &[&sent]).await.expect("it is stored");
    let stored = records(&client, "main", ">").await;
    let envelope = Envelope::decode(stored[0].envelope.clone()).expect("an envelope");
    assert_eq!(envelope.payload, sent.payload);
    let said = stored[0]
        .verdict
        .clone()
        .and_then(|verdict| verdict.classification)
        .expect("said");
    assert_eq!(said.risk, "high");
    assert_eq!(
        said.flags,
        ["contains_probable_secret", "secret.access_key"]
    );
    let metrics = Request::get("/metrics").send(node.ops).text();
    let counted =
        "arqon_edge_decisions_total{decision=\"noticed\",reason=\"contains_probable_secret\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    let started = Instant::now();
    let audit = loop {
        let audit = records(&client, "_system", "sys.audit.edge").await;
        if let Some(first) = audit.first() {
            break String::from_utf8_lossy(&first.envelope).into_owned();
        }
        assert!(started.elapsed() < PATIENCE, "no decision is sampled");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(audit.contains("noticed"), "{audit}");
    assert_no_canary("the audit", &audit);
    let shown = node.ok(&["casil", "get", "--output", "json"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(
        shown["redaction_paths"],
        serde_json::json!(["password", "token"])
    );
    assert_eq!(shown["revision"], 0);
}

// EDGE-17
#[tokio::test]
async fn a_reload_is_whole_lasting_and_for_admins() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let node = Node::dev_on(&data);
    let client = connect(&node).await;
    let bad = client
        .command(
            "op.casil.reload",
            [("enabled", true.into()), ("mode", "strict".into())],
        )
        .await;
    let error = bad.expect_err("no such mode");
    assert_eq!(error.code(), Some(ErrorCode::ValidationError));
    assert!(error.to_string().contains("monitor, enforce"), "{error}");
    let unknown = client
        .command("op.casil.reload", [("enable", true.into())])
        .await;
    assert!(unknown.is_err(), "unknown keys are refused");
    let wrong = client
        .command("op.casil.reload", [("enabled", "yes".into())])
        .await;
    assert!(wrong.is_err(), "so are values of another type");
    let shown = client
        .command("op.casil.get", [])
        .await
        .expect("it is shown")
        .to_json();
    assert_eq!(
        (&shown["enabled"], &shown["revision"]),
        (&false.into(), &0.into())
    );

    let ran = node.run(&[
        "casil",
        "reload",
        "--enabled",
        "true",
        "--mode",
        "enforce",
        "--redaction-path",
        "pin",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout
            .contains("probable secrets are redacted before they are stored"),
        "{}",
        ran.stdout
    );
    // Hot: the session that is open is judged by it, the very next message.
    produce(&client, &[&event("a", r#"{"pin":1234,"n":5}"#)])
        .await
        .expect("it is stored");
    let stored = records(&client, "main", ">").await;
    let text = String::from_utf8_lossy(&stored[0].envelope).into_owned();
    assert!(text.contains(r#"{"pin":"***REDACTED***","n":5}"#), "{text}");

    let user = signed(&claims("dev", Role::User), &node.dev_secret());
    let run = |arguments: &[&str]| {
        finished(
            arqon(&node.url(), &user, arguments)
                .spawn()
                .expect("arqon starts"),
        )
    };
    let seen = run(&["casil", "get", "--output", "json"]);
    assert_eq!(seen.stdout.trim(), r#"{"enabled":true}"#);
    let refused = run(&["casil", "reload", "--enabled", "false"]);
    assert!(refused.stderr.contains("FORBIDDEN"), "{}", refused.stderr);

    client.close().await;
    node.signal("KILL");
    drop(node.ended());
    let again = Node::dev_on(&data);
    let shown = again.ok(&["casil", "get", "--output", "json"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(
        (&shown["enabled"], &shown["mode"]),
        (&true.into(), &"enforce".into())
    );
    assert_eq!(shown["redaction_paths"], serde_json::json!(["pin"]));
}
