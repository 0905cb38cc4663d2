//! Envelopes that belong to a trace, a twist or a spectrum: asked for, shown, and left as they are.

use arqonbus::client::ProduceOptions;
use arqonbus::proto::v1::{Envelope, SpectralMetadata};
use prost::Message as _;

use crate::mirror::{connect, event, seen};
use crate::support::Node;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn traced(topic: &str) -> Envelope {
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    Envelope {
        headers: [("traceparent".to_owned(), parent)].into(),
        ..event(topic, "", "1")
    }
}

fn spectral(topic: &str, coherence: f32, criticality: f32) -> Envelope {
    Envelope {
        spectral: Some(SpectralMetadata {
            coherence,
            criticality,
            eigenvalues: vec![0.5],
        }),
        ..event(topic, "", "1")
    }
}

async fn stored(node: &Node, envelopes: &[Envelope]) {
    let client = connect(node).await;
    let mut batch = client.batch();
    for envelope in envelopes {
        batch.push_message(envelope);
    }
    let options = ProduceOptions::default();
    client.produce(&batch, &options).await.expect("stored");
    client.close().await;
}

// MSG-11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_traceparent_reaches_the_consumer_as_it_was_sent_and_names_the_trace() {
    let node = Node::dev();
    node.ok(&["mirror", "set", "copy", "--topics", "a", "--to-topic", "b"]);
    let sent = traced("a");
    stored(&node, std::slice::from_ref(&sent)).await;
    let client = connect(&node).await;
    let mut found = seen(&client, "main", ">").await;
    while found.len() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        found = seen(&client, "main", ">").await;
    }
    for record in &found {
        assert_eq!(record.envelope, sent.encode_to_vec(), "untouched");
        assert_eq!(record.trace_id, TRACE);
    }
    let shown = node.records(&["consume", "a", "--stop-at-end"]);
    assert_eq!(shown[0].rest["trace_id"], TRACE);
    assert_eq!(
        shown[0].rest["headers"]["traceparent"],
        format!("00-{TRACE}-00f067aa0ba902b7-01")
    );
}

// MSG-12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twist_and_spectrum_are_filtered_by_the_node() {
    let node = Node::dev();
    let twisted = Envelope {
        twist_id: "tw-1".into(),
        ..spectral("a.1", 0.9, 0.1)
    };
    let all = [
        twisted,
        spectral("a.2", 0.5, 0.8),
        spectral("a.3", 0.1, -0.5),
        event("a.4", "", "1"),
        spectral("b.5", 0.9, 0.9),
    ];
    stored(&node, &all).await;
    let topics = |arguments: &[&str]| -> Vec<String> {
        let consume = ["consume", "a.>", "--stop-at-end"];
        let records = node.records(&[&consume[..], arguments].concat());
        records.into_iter().map(|record| record.topic).collect()
    };
    assert_eq!(topics(&[]).len(), 4);
    assert_eq!(topics(&["--twist-id", "tw-1"]), ["a.1"]);
    assert_eq!(topics(&["--twist-id", "tw"]), [""; 0]);
    assert_eq!(topics(&["--coherence-min", "0.5"]), ["a.1", "a.2"]);
    assert_eq!(topics(&["--coherence-max", "0.5"]), ["a.2", "a.3"]);
    assert_eq!(topics(&["--criticality-max", "-0.25"]), ["a.3"]);
    assert_eq!(
        topics(&["--coherence-min", "0.2", "--criticality-min", "0.2"]),
        ["a.2"]
    );
    assert_eq!(
        topics(&["--twist-id", "tw-1", "--criticality-min", "0.2"]),
        [""; 0]
    );
    let shown = node.records(&["consume", "a.1", "--stop-at-end"]);
    assert_eq!(shown[0].rest["twist_id"], "tw-1");
    assert_eq!(shown[0].rest["spectral"]["eigenvalues"][0], 0.5);
    let named = node.run(&["consume", "a.>", "--consumer", "c", "--twist-id", "x"]);
    assert!(
        named.stderr.contains("FEATURE_DISABLED"),
        "{}",
        named.stderr
    );
    let nonsense = node.run(&["consume", "a.>", "--coherence-min", "NaN"]);
    assert!(
        nonsense.stderr.contains("VALIDATION_ERROR"),
        "{}",
        nonsense.stderr
    );
    // What is filtered out is passed over, also where nothing else comes.
    let client = connect(&node).await;
    assert_eq!(seen(&client, "main", ">").await.len(), 5);
}
