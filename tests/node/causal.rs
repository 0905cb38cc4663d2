//! Causal questions to a node, and the same to its files.

use std::process::Command;

use arqonbus::client::{Client, ConnectOptions, FetchOptions, ProduceOptions};
use arqonbus::proto::claims::Role;
use arqonbus::proto::clock::ProducerClock;
use arqonbus::proto::v1::{Envelope, Event, envelope};
use serde_json::{Value, json};

use crate::shell::{Ran, arqon, finished};
use crate::support::{Node, claims, signed};

/// A producer that keeps a clock and learns from the records it reads.
struct Producer {
    client: Client,
    name: &'static str,
    clock: ProducerClock,
}

impl Producer {
    async fn connect(node: &Node, name: &'static str) -> Self {
        let options = ConnectOptions::new(node.url(), node.dev_token());
        let client = Client::connect(options).await.expect("a connection");
        let clock = ProducerClock::new(name, 0);
        Self {
            client,
            name,
            clock,
        }
    }

    async fn sees(&mut self, sequence: u64) {
        let fetched = self.client.fetch(FetchOptions {
            reality: "main".to_owned(),
            filter: ">".to_owned(),
            from: sequence,
            records: 1,
            bytes: 0,
        });
        let fetched = fetched.await.expect("a record");
        let record = fetched.views().next().expect("one").expect("good");
        assert_eq!(record.sequence, sequence);
        self.clock.learn(record.clock.entries());
    }

    async fn produces(&mut self, topic: &str) {
        let event = Event {
            r#type: topic.to_owned(),
            data: "{}".into(),
        };
        let mut batch = self.client.batch();
        batch.push_message(&Envelope {
            topic: topic.to_owned(),
            producer_id: self.name.to_owned(),
            clock: Some(self.clock.tick()),
            payload: Some(envelope::Payload::Event(event)),
            ..Envelope::default()
        });
        let options = ProduceOptions::default();
        self.client.produce(&batch, &options).await.expect("stored");
    }
}

/// Five events of three producers:
///
/// ```text
/// order     1 ───────────── 4
///             ╲
/// stock     2 ─── 3
///                   ╲
/// payment            ───────── 5
/// ```
async fn shop() -> Node {
    let node = Node::dev();
    let mut order = Producer::connect(&node, "order").await;
    let mut stock = Producer::connect(&node, "stock").await;
    let mut payment = Producer::connect(&node, "payment").await;
    order.produces("order.placed").await;
    stock.produces("stock.counted").await;
    stock.sees(1).await;
    stock.produces("stock.reserved").await;
    order.produces("order.changed").await;
    payment.sees(3).await;
    payment.produces("payment.taken").await;
    node
}

fn asked(node: &Node, question: &[&str]) -> Value {
    let arguments = [&["causal", "--output", "json"], question].concat();
    serde_json::from_str(&node.ok(&arguments)).expect("one object")
}

fn sequences(answer: &Value) -> Vec<u64> {
    let records = answer["records"].as_array().expect("a list");
    let sequence = |record: &Value| record["sequence"].as_u64().expect("a number");
    records.iter().map(sequence).collect()
}

// MSG-06, MSG-07, TOOL-02: questions about what producers with clocks of their own have done.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_what_led_to_what() {
    let node = shop().await;
    let past = asked(&node, &["past", "5"]);
    assert_eq!(sequences(&past), [3, 2, 1]);
    assert_eq!(past["asked"][0]["causes"], json!([3]));
    assert_eq!(past["records"][0]["causes"], json!([2, 1]));
    assert_eq!(past["records"][0]["topic"], "stock.reserved");
    assert_eq!(past["records"][0]["producer"], "stock");
    assert_eq!(
        (&past["complete"], &past["stopped"]),
        (&true.into(), &Value::Null)
    );
    let beside = asked(&node, &["concurrent", "5"]);
    assert_eq!(sequences(&beside), [4]);
    assert_eq!(sequences(&asked(&node, &["concurrent", "1"])), [2]);
    assert_eq!(sequences(&asked(&node, &["concurrent", "4"])), [3, 5, 2]);
    let path = asked(&node, &["path", "1", "5"]);
    assert_eq!(
        (&path["relation"], sequences(&path)),
        (&"before".into(), vec![1, 3, 5])
    );
    let path = asked(&node, &["path", "4", "5"]);
    assert_eq!(
        (&path["relation"], sequences(&path)),
        (&"concurrent".into(), vec![])
    );
    let part = asked(&node, &["past", "5", "--limit", "1"]);
    assert_eq!(
        (sequences(&part), &part["stopped"]),
        (vec![3], &"limit".into())
    );
    assert_eq!(part["complete"], false);

    // A producer without a clock knows what stands before it, but not what others know.
    assert_eq!(node.run_with_input(&["produce", "a"], "1\n").code, 0);
    assert_eq!(sequences(&asked(&node, &["past", "6"])), Vec::<u64>::new());
    assert_eq!(node.run_with_input(&["produce", "a"], "1\n").code, 0);
    assert_eq!(sequences(&asked(&node, &["past", "7"])), [6]);
}

// MSG-07, TOOL-02
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_shown_to_people_and_drawn() {
    let node = shop().await;
    let text = node.ok(&["causal", "past", "5"]);
    for said in [
        "DIRECT_CAUSES",
        "stock.reserved",
        "2, 1",
        "3 records happened before 5.",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let none = node.ok(&["causal", "path", "5", "1"]);
    assert!(
        none.starts_with("5 happened after 1: ask for the path from 1 to 5."),
        "{none}"
    );
    let dot = node.ok(&["causal", "path", "1", "5", "--output", "dot"]);
    assert!(dot.starts_with("digraph causality {"), "{dot}");
    for drawn in ["  1 -> 3;\n", "  3 -> 5;\n", "payment.taken"] {
        assert!(dot.contains(drawn), "{drawn}: {dot}");
    }
    let wrong = node.run(&["topics", "--output", "dot"]);
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
}

// MSG-07, EDGE-07: who may not see a topic learns how many records of it there are, no more.
#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_not_for_the_token_are_only_counted() {
    let node = shop().await;
    let mut claims = claims("dev", Role::User);
    claims.subscribe = Some(vec!["stock.>".to_owned(), "payment.>".to_owned()]);
    let token = signed(&claims, &node.dev_secret());
    let run = |question: &[&str]| -> Ran {
        let arguments = [&["causal", "--output", "json"], question].concat();
        let command = arqon(&node.url(), &token, &arguments).spawn();
        finished(command.expect("arqon starts"))
    };
    let past: Value = serde_json::from_str(&run(&["past", "5"]).stdout).expect("one object");
    assert_eq!((sequences(&past), &past["hidden"]), (vec![3, 2], &1.into()));
    assert!(!past.to_string().contains("order."), "{past}");
    let beside: Value = serde_json::from_str(&run(&["concurrent", "5"]).stdout).expect("one");
    assert_eq!((sequences(&beside), &beside["hidden"]), (vec![], &1.into()));
    for refused in [&["past", "1"][..], &["path", "1", "5"]] {
        let ran = run(refused);
        assert_eq!((ran.code, ran.stdout.as_str()), (77, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains("FORBIDDEN"), "{}", ran.stderr);
    }
}

// MSG-07
#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_cannot_be_answered_is_refused_by_name() {
    let node = shop().await;
    for (question, code, said) in [
        (
            &["past", "6"][..],
            "VALIDATION_ERROR",
            "the last that is, is 5",
        ),
        (
            &["path", "1", "99"],
            "VALIDATION_ERROR",
            "the last that is, is 5",
        ),
        (
            &["past", "0"],
            "VALIDATION_ERROR",
            r#"argument "sequence" is "0""#,
        ),
        (
            &["past", "5", "--limit", "1001"],
            "VALIDATION_ERROR",
            "from 1 to 1000",
        ),
        (
            &["past", "5", "--window", "0"],
            "VALIDATION_ERROR",
            r#""window""#,
        ),
        (
            &["past", "5", "--reality", "none"],
            "NOT_FOUND",
            "no reality none",
        ),
    ] {
        let ran = node.run(&[&["causal"], question].concat());
        assert_eq!(ran.code, 1, "{question:?}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(code) && ran.stderr.contains(said),
            "{question:?}: {}",
            ran.stderr
        );
    }
}

// MSG-07, TOOL-03: the files alone give the same answers.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_say_what_the_node_says() {
    let node = shop().await;
    let log = node.data.join("dev/main");
    for question in [
        &["past", "5"][..],
        &["past", "5", "--limit", "2"],
        &["concurrent", "4"],
        &["path", "1", "5"],
        &["path", "5", "1"],
    ] {
        let offline = Command::new(env!("CARGO_BIN_EXE_logdump"))
            .args(["causal", "--output", "json"])
            .args(question)
            .arg(&log)
            .output()
            .expect("logdump runs");
        let text = String::from_utf8(offline.stdout).expect("text");
        let said: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!(
                "{error}: {text}{}",
                String::from_utf8_lossy(&offline.stderr)
            )
        });
        assert_eq!(said, asked(&node, question), "{question:?}");
    }
}
