//! Copies of what is stored, from outside: where they are, what they say, and that they end.

use std::time::{Duration, Instant};

use arqonbus::client::{Client, ConnectOptions, ProduceOptions, Start, SubscribeOptions};
use arqonbus::proto::v1::{Envelope, Event, Verdict, envelope};
use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::raw::Request;
use crate::support::{Node, PATIENCE};

/// A record as these tests look at it.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) topic: String,
    pub(crate) trace_id: String,
    pub(crate) id: String,
    pub(crate) flags: Vec<String>,
    pub(crate) envelope: Bytes,
}

pub(crate) async fn connect(node: &Node) -> Client {
    Client::connect(ConnectOptions::new(node.url(), node.dev_token()))
        .await
        .expect("a session")
}

/// Everything that `filter` matches in a reality now.
pub(crate) async fn seen(client: &Client, reality: &str, filter: &str) -> Vec<Seen> {
    let mut subscription = client
        .subscribe(SubscribeOptions {
            reality: reality.to_owned(),
            start: Start::Earliest,
            stop_at_end: true,
            ..SubscribeOptions::new(filter)
        })
        .await
        .expect("a subscription");
    let mut all = Vec::new();
    while let Some(delivery) = subscription.next().await.expect("records") {
        for view in delivery.views() {
            let view = view.expect("a record");
            let verdict = view
                .verdict
                .map(|bytes| Verdict::decode(bytes).expect("a verdict"));
            all.push(Seen {
                topic: view.topic.to_owned(),
                trace_id: view.trace_id().into_owned(),
                id: view.id().into_owned(),
                flags: verdict.unwrap_or_default().flags,
                envelope: Bytes::copy_from_slice(view.envelope.encoded),
            });
        }
    }
    all
}

/// The same, once there are as many as are wanted; copies come a moment after their originals.
async fn wait_for(client: &Client, reality: &str, filter: &str, count: usize) -> Vec<Seen> {
    let patience = Instant::now();
    loop {
        let found = seen(client, reality, filter).await;
        if found.len() >= count || patience.elapsed() > PATIENCE {
            assert_eq!(found.len(), count, "{found:?}");
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn event(topic: &str, trace_id: &str, data: &str) -> Envelope {
    Envelope {
        topic: topic.into(),
        trace_id: trace_id.into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: topic.into(),
            data: Bytes::copy_from_slice(data.as_bytes()),
        })),
        ..Envelope::default()
    }
}

async fn produce(client: &Client, envelopes: &[Envelope]) {
    let mut batch = client.batch();
    for envelope in envelopes {
        batch.push_message(envelope);
    }
    let options = ProduceOptions::default();
    client.produce(&batch, &options).await.expect("stored");
}

fn decisions(node: &Node, label: &str) -> u64 {
    let text = Request::get("/metrics").send(node.ops).text();
    let line = text
        .lines()
        .find(|line| line.starts_with("arqon_edge_decisions_total") && line.contains(label));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_default()
}

// EDGE-19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_what_was_stored_and_survive_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = Node::dev_on(dir.path());
    node.ok(&["reality", "create", "shadow"]);
    node.ok(&[
        "mirror",
        "set",
        "audit",
        "--topics",
        "pay.>",
        "--to-topic",
        "audit.{topic}",
    ]);
    node.ok(&[
        "mirror",
        "set",
        "shadow",
        "--topics",
        "pay.*",
        "--to-reality",
        "shadow",
    ]);
    let client = connect(&node).await;
    let sent = [
        event("pay.now", "t1", "1"),
        event("free", "t2", "2"),
        event("pay.a.b", "", "3"),
    ];
    produce(&client, &sent).await;
    let originals = wait_for(&client, "main", "pay.>", 2).await;
    assert!(
        originals.iter().all(|one| one.flags.is_empty()),
        "{originals:?}"
    );
    let audited = wait_for(&client, "main", "audit.>", 2).await;
    let shadowed = wait_for(&client, "shadow", ">", 1).await;
    for (copy, original, topic) in [
        (&audited[0], &originals[0], "audit.pay.now"),
        (&audited[1], &originals[1], "audit.pay.a.b"),
        (&shadowed[0], &originals[0], "pay.now"),
    ] {
        assert_eq!(copy.topic, topic);
        assert_eq!(copy.flags, ["mirrored"]);
        assert_eq!(copy.envelope, original.envelope, "byte for byte");
        assert_eq!(
            (&copy.id, &copy.trace_id),
            (&original.id, &original.trace_id)
        );
    }
    assert_eq!(originals[1].trace_id, originals[1].id.replace('-', ""));
    assert_eq!(decisions(&node, "\"copied\""), 3);
    let shown = node.records(&["consume", "audit.pay.now", "--stop-at-end"]);
    assert_eq!(shown[0].rest["verdict"]["flags"][0], "mirrored");
    client.close().await;
    node.signal("TERM");
    assert!(node.ended().0.success());

    let node = Node::dev_on(dir.path());
    let listed = node.ok(&["mirror", "list", "--output", "json"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let client = connect(&node).await;
    produce(&client, &[event("pay.again", "t1", "4")]).await;
    wait_for(&client, "main", "audit.>", 3).await;
    wait_for(&client, "shadow", ">", 2).await;
    node.ok(&["mirror", "remove", "audit"]);
    produce(&client, &[event("pay.last", "t1", "5")]).await;
    wait_for(&client, "shadow", ">", 3).await;
    assert_eq!(seen(&client, "main", "audit.>").await.len(), 3);
}

// EDGE-19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_lead_back_to_each_other_copy_once() {
    let node = Node::dev();
    node.ok(&["reality", "create", "other"]);
    for (name, topics, to) in [
        ("ab", "a", "b"),
        ("ba", "b", "a"),
        ("self", "a", "a.{topic}"),
        ("deep", "a.>", "a.{topic}"),
    ] {
        node.ok(&["mirror", "set", name, "--topics", topics, "--to-topic", to]);
    }
    node.ok(&[
        "mirror",
        "set",
        "there",
        "--topics",
        "*",
        "--to-reality",
        "other",
    ]);
    node.ok(&[
        "mirror",
        "set",
        "back",
        "--topics",
        "*",
        "--to-reality",
        "main",
        "--to-topic",
        "back.{topic}",
    ]);
    let client = connect(&node).await;
    produce(&client, &[event("a", "t", "1")]).await;
    // The original; by `ab`, `self` and `back` in main, by `there` in other.
    wait_for(&client, "other", ">", 1).await;
    wait_for(&client, "main", ">", 4).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let all = seen(&client, "main", ">").await;
    let mut topics: Vec<&str> = all.iter().map(|one| one.topic.as_str()).collect();
    topics.sort_unstable();
    assert_eq!(topics, ["a", "a.a", "b", "back.a"]);
    assert_eq!(seen(&client, "other", ">").await.len(), 1);
    assert_eq!(decisions(&node, "\"copied\""), 4);
}

// EDGE-19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_traces_is_copied_whole() {
    let node = Node::dev();
    node.ok(&[
        "mirror",
        "set",
        "some",
        "--topics",
        "a",
        "--percent",
        "30",
        "--to-topic",
        "b",
    ]);
    let client = connect(&node).await;
    let traces: Vec<String> = (0..100).map(|n| format!("trace-{n}")).collect();
    // Three messages of each trace, far from each other.
    for _ in 0..3 {
        let envelopes: Vec<Envelope> = traces.iter().map(|trace| event("a", trace, "1")).collect();
        produce(&client, &envelopes).await;
    }
    // The documented rule, written a second time.
    let chosen = |trace: &&String| {
        let hash = Sha256::digest(trace.as_bytes());
        let mut number = 0_u64;
        for byte in hash.iter().take(8).rev() {
            number = number << 8 | u64::from(*byte);
        }
        number % 100 < 30
    };
    let expected: Vec<&String> = traces.iter().filter(chosen).collect();
    assert!((10..60).contains(&expected.len()), "{}", expected.len());
    let copies = wait_for(&client, "main", "b", 3 * expected.len()).await;
    let copied: Vec<&String> = copies.iter().map(|one| &one.trace_id).collect();
    assert_eq!(copied, [&expected[..]; 3].concat());
}

// EDGE-19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_cannot_be_made_is_counted_and_hurts_nobody() {
    let node = Node::dev();
    node.ok(&["reality", "create", "gone"]);
    node.ok(&[
        "mirror",
        "set",
        "lost",
        "--topics",
        "a",
        "--to-reality",
        "gone",
    ]);
    node.ok(&[
        "mirror",
        "set",
        "long",
        "--topics",
        "long.>",
        "--to-topic",
        "{topic}.{topic}",
    ]);
    let refused = node.run(&[
        "mirror",
        "set",
        "x",
        "--topics",
        "a",
        "--to-reality",
        "no-such",
    ]);
    assert!(refused.stderr.contains("NOT_FOUND"), "{}", refused.stderr);
    let refused = node.run(&[
        "mirror",
        "set",
        "x",
        "--topics",
        "a",
        "--to-topic",
        "sys.{topic}",
    ]);
    assert!(refused.stderr.contains("FORBIDDEN"), "{}", refused.stderr);
    node.ok(&["reality", "delete", "gone", "--yes-destroy", "gone"]);
    let client = connect(&node).await;
    let long = format!("long.{}", "x".repeat(200));
    produce(&client, &[event("a", "t", "1"), event(&long, "t", "2")]).await;
    let patience = Instant::now();
    while decisions(&node, "mirror.reality") + decisions(&node, "mirror.topic") < 2 {
        assert!(patience.elapsed() < PATIENCE, "not counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    produce(&client, &[event("a", "t", "3")]).await;
    assert_eq!(seen(&client, "main", ">").await.len(), 3);

    // What is refused is not copied either.
    node.ok(&[
        "mirror",
        "set",
        "all",
        "--topics",
        ">",
        "--to-topic",
        "copy.{topic}",
    ]);
    node.ok(&["signature", "require", "signed"]);
    let mut batch = client.batch();
    batch.push_message(&event("free", "t", "4"));
    batch.push_message(&event("signed", "t", "5"));
    let refused = client.produce(&batch, &ProduceOptions::default()).await;
    assert!(refused.is_err(), "the second is not signed");
    produce(&client, &[event("last", "t", "6")]).await;
    let copies = wait_for(&client, "main", "copy.>", 1).await;
    assert_eq!(copies[0].topic, "copy.last", "nothing of the refused batch");
}
