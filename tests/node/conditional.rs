//! Writers that read, decide and write under a condition, against each other and a node that is
//! killed: what follows what is checked in the log, and nothing is there twice.
//!
//! A few rounds in the test run; `ARQONBUS_KILL_ROUNDS=50 cargo test --test node conditional` for
//! the long form. The seed is printed; `ARQONBUS_SEED` repeats its choices.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arqonbus::client::{
    Batch, Client, ConnectOptions, Outgoing, ProduceOptions, Reconnect, Start, SubscribeOptions,
};
use arqonbus::proto::ErrorCode;
use arqonbus::proto::claims::Role;
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::server_frame::Body as Answer;
use arqonbus::proto::v1::{self, Envelope};
use prost::Message as _;

use crate::dice::Dice;
use crate::support::{Node, claims};
use crate::wire::Wire;

const WRITERS: usize = 6;
const TOPICS: [&str; 2] = ["stock.a", "stock.b"];

/// What all writers were told.
#[derive(Debug, Default)]
struct Notes {
    /// Sequence that was acknowledged for an id.
    acknowledged: BTreeMap<String, u64>,
    conflicts: usize,
    repeated: usize,
}

/// One writer over all lives of the node.
struct Writer {
    name: usize,
    number: usize,
    dice: Dice,
    /// Sent and not answered: to be sent again as it was.
    unanswered: Option<Attempt>,
    /// The last sequence that it knows of, by topic.
    seen: HashMap<&'static str, u64>,
}

struct Attempt {
    id: String,
    topic: &'static str,
    batch: Batch,
}

impl Writer {
    fn attempt(&mut self, client: &Client) -> Attempt {
        let topic = *self.dice.pick(&TOPICS);
        let last = self.seen.get(topic).copied().unwrap_or_default();
        let id = format!("{}-{}", self.name, self.number);
        self.number += 1;
        let mut batch = client.batch();
        let data = format!("{{\"expected\":{last}}}");
        batch.push(&Outgoing {
            topic,
            id: &id,
            data: data.as_bytes(),
            ..Outgoing::default()
        });
        batch.expect(topic, last);
        Attempt { id, topic, batch }
    }

    /// Reads, decides, writes, until the connection is lost.
    async fn work(&mut self, client: Client, notes: &Mutex<Notes>) {
        loop {
            let attempt = match self.unanswered.take() {
                Some(attempt) => attempt,
                None => self.attempt(&client),
            };
            let answer = client
                .produce(&attempt.batch, &ProduceOptions::default())
                .await;
            match answer {
                Ok(produced) => {
                    assert_eq!(produced.first, produced.last);
                    let mut notes = notes.lock().expect("no panic");
                    notes.repeated += produced.duplicates;
                    let twice = notes.acknowledged.insert(attempt.id, produced.first);
                    assert_eq!(twice, None, "acknowledged twice");
                    let seen = self.seen.entry(attempt.topic).or_default();
                    *seen = (*seen).max(produced.last);
                }
                Err(error) if error.code() == Some(ErrorCode::SequenceConflict) => {
                    let found = error.actual().expect("what there is");
                    notes.lock().expect("no panic").conflicts += 1;
                    self.seen.insert(attempt.topic, found);
                }
                Err(error) => {
                    assert_eq!(error.code(), None, "{error}");
                    self.unanswered = Some(attempt);
                    return;
                }
            }
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[expect(clippy::print_stderr, reason = "a failure must say how to repeat it")]
fn say(line: &str) {
    eprintln!("{line}");
}

async fn connect(node: &Node) -> Client {
    let url = format!("ws://{}/v1/ws", node.edge);
    let mut options = ConnectOptions::new(&url, node.dev_token());
    options.reconnect = Reconnect::Never;
    Client::connect(options).await.expect("a connection")
}

// BRK-07, MSG-04: every record follows the one that its writer had seen, so that nobody has won
// twice, and what was sent again after a crash is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_writes_over_what_it_has_not_seen() {
    let rounds = setting("ARQONBUS_KILL_ROUNDS").unwrap_or(4);
    let seed = setting("ARQONBUS_SEED").unwrap_or_else(|| {
        std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish()
    });
    say(&format!(
        "ARQONBUS_SEED={seed} ARQONBUS_KILL_ROUNDS={rounds}"
    ));
    let mut dice = Dice::new(seed);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let notes = Arc::new(Mutex::new(Notes::default()));
    let mut writers: Vec<Writer> = (0..WRITERS)
        .map(|name| Writer {
            name,
            number: 0,
            dice: dice.fork(),
            unanswered: None,
            seen: HashMap::new(),
        })
        .collect();
    for _ in 0..rounds {
        let node = Node::dev_on(&data);
        let mut tasks = Vec::new();
        for mut writer in writers.drain(..) {
            let client = connect(&node).await;
            let notes = Arc::clone(&notes);
            tasks.push(tokio::spawn(async move {
                writer.work(client, &notes).await;
                writer
            }));
        }
        tokio::time::sleep(Duration::from_millis(100 + dice.below(300))).await;
        node.signal("KILL");
        drop(node.ended());
        for task in tasks {
            writers.push(task.await.expect("a writer that only lost its connection"));
        }
    }
    let node = Node::dev_on(&data);
    let stored = stored(&connect(&node).await).await;
    let notes = notes.lock().expect("no panic");
    let mut lasts: HashMap<&str, u64> = HashMap::new();
    let mut ids: HashMap<&str, u64> = HashMap::new();
    for record in &stored {
        let last = lasts.insert(&record.topic, record.sequence);
        let found = last.unwrap_or_default();
        assert_eq!(
            record.expected, found,
            "{record:?} was written over {found}"
        );
        let twice = ids.insert(&record.id, record.sequence);
        assert_eq!(twice, None, "{record:?} is there twice");
    }
    for (id, sequence) in &notes.acknowledged {
        assert_eq!(
            ids.get(id.as_str()),
            Some(sequence),
            "{id} was acknowledged"
        );
    }
    let (acknowledged, conflicts) = (notes.acknowledged.len(), notes.conflicts);
    say(&format!(
        "{rounds} kills: {acknowledged} stored, {conflicts} conflicts, {} found again",
        notes.repeated
    ));
    assert!(acknowledged > 20 && conflicts > 20, "too little contention");
}

#[derive(Debug)]
struct Stored {
    sequence: u64,
    topic: String,
    id: String,
    expected: u64,
}

async fn stored(client: &Client) -> Vec<Stored> {
    let mut options = SubscribeOptions::new("stock.>");
    options.start = Start::Earliest;
    options.stop_at_end = true;
    let mut subscription = client.subscribe(options).await.expect("a subscription");
    let mut stored = Vec::new();
    while let Some(delivery) = subscription.next().await.expect("a delivery") {
        for record in delivery.views() {
            let record = record.expect("a record");
            let data: serde_json::Value =
                serde_json::from_slice(record.envelope.payload.data()).expect("JSON");
            stored.push(Stored {
                sequence: record.sequence,
                topic: record.topic.to_owned(),
                id: record.id().into_owned(),
                expected: data["expected"].as_u64().expect("a number"),
            });
        }
    }
    stored
}

fn produce(envelopes: &[Envelope]) -> v1::Produce {
    let encoded = |envelope: &Envelope| envelope.encode_to_vec().into();
    v1::Produce {
        envelopes: envelopes.iter().map(encoded).collect(),
        ..v1::Produce::default()
    }
}

fn ask(wire: &mut Wire, produce: v1::Produce) -> Answer {
    wire.send(Ask::Produce(produce));
    wire.next().expect("an answer").body.expect("a body")
}

fn named(topic: &str, id: &str) -> Envelope {
    Envelope {
        topic: topic.into(),
        id: id.into(),
        ..Envelope::default()
    }
}

fn produced(answer: Answer) -> v1::Produced {
    match answer {
        Answer::Produced(produced) => produced,
        other => panic!("{other:?}"),
    }
}

fn refused(answer: Answer) -> v1::Error {
    match answer {
        Answer::Error(error) => error,
        other => panic!("{other:?}"),
    }
}

// MSG-04, MSG-05, BRK-07: what the frames say.
#[test]
fn a_repetition_a_conflict_and_a_gap_are_told_apart() {
    let node = Node::dev();
    let mut wire = Wire::of(&node, &claims("acme", Role::User));
    let first = produced(ask(&mut wire, produce(&[named("a", "1"), named("a", "2")])));
    assert_eq!((first.first, first.last, first.duplicates.len()), (1, 2, 0));
    let again = produced(ask(&mut wire, produce(&[named("a", "2"), named("a", "3")])));
    assert_eq!((again.first, again.last), (3, 3));
    let found: Vec<_> = again
        .duplicates
        .iter()
        .map(|one| (one.index, one.sequence))
        .collect();
    assert_eq!(found, [(0, 2)]);

    let conditional = |last| v1::Produce {
        expected: Some(v1::ExpectedSequence {
            topic: "a".into(),
            last,
        }),
        ..produce(&[named("a", &format!("after {last}"))])
    };
    let conflict = refused(ask(&mut wire, conditional(2)));
    assert_eq!(conflict.code, "SEQUENCE_CONFLICT");
    assert_eq!((conflict.actual, conflict.retryable), (3, false));
    assert_eq!(conflict.field, "expected.last");
    assert_eq!(produced(ask(&mut wire, conditional(3))).first, 4);

    let numbered = |number| {
        produce(&[Envelope {
            producer_sequence: number,
            ..named("n", "")
        }])
    };
    produced(ask(&mut wire, numbered(1)));
    let gap = refused(ask(&mut wire, numbered(3)));
    assert_eq!((gap.code.as_str(), gap.actual), ("SEQUENCE_CONFLICT", 2));
    assert_eq!(gap.field, "envelopes[0].producer_sequence");
    let back = refused(ask(&mut wire, numbered(1)));
    assert_eq!((back.code.as_str(), back.actual), ("STALE", 2));
    produced(ask(&mut wire, numbered(2)));
}

// BRK-17: of what is no reference nothing is stored, whoever says it and in whatever form.
#[test]
fn on_the_topics_of_reflex_there_are_references_only() {
    let node = Node::dev();
    let mut wire = Wire::of(&node, &claims("acme", Role::Admin));
    let said = |data: &str| {
        let event = v1::Event {
            r#type: "hint".into(),
            data: data.to_owned().into(),
        };
        produce(&[Envelope {
            payload: Some(v1::envelope::Payload::Event(event)),
            ..named("reflex.hints", "")
        }])
    };
    let body = r#"{"episode_id":"e","kind":"stored","uri":"ram:e","episode_body":"all"}"#;
    let refusal = refused(ask(&mut wire, said(body)));
    assert_eq!(refusal.code, "SCHEMA_VIOLATION");
    assert_eq!(refusal.field, "envelopes[0].data.episode_body");
    let long = format!(r#"{{"episode_id":"{}"}}"#, "e".repeat(5_000));
    assert_eq!(refused(ask(&mut wire, said(&long))).code, "TOO_LARGE");
    let pointer = r#"{"episode_id":"e","kind":"stored","uri":"ram:e"}"#;
    assert_eq!(produced(ask(&mut wire, said(pointer))).first, 1);
}

// BRK-12: over the limit nothing of a batch is stored, and what is there goes on.
#[test]
fn a_tenant_has_no_more_topics_than_it_may() {
    let node = Node::dev_with(&[("ARQONBUS_LIMITS_TENANT_TOPICS_MAX", "2")]);
    let mut wire = Wire::of(&node, &claims("acme", Role::User));
    produced(ask(&mut wire, produce(&[named("a", ""), named("b", "")])));
    let refusal = refused(ask(&mut wire, produce(&[named("a", ""), named("c", "")])));
    assert_eq!(refusal.code, "TOO_LARGE");
    assert!(
        refusal.message.contains("limits.tenant_topics_max"),
        "{refusal:?}"
    );
    assert_eq!(
        produced(ask(&mut wire, produce(&[named("a", "")]))).first,
        3
    );
    let asked = v1::CommandRequest {
        name: "quota.show".into(),
        arguments: BTreeMap::new(),
    };
    wire.send(Ask::Command(asked));
    let Some(Answer::CommandResult(result)) = wire.next().expect("an answer").body else {
        panic!("no result");
    };
    let shown = result.result.expect("a value").to_json();
    assert_eq!(
        (shown["topics"].as_u64(), shown["topics_max"].as_u64()),
        (Some(2), Some(2))
    );
    assert_eq!(shown["realities"], 1);
}

// MSG-04, BRK-08
#[test]
fn what_waits_is_not_taken_twice_over_a_restart() {
    let data = tempfile::tempdir().expect("a directory");
    let node = Node::dev_on(data.path());
    let due_ms = i64::try_from(crate::support::now_s() * 1_000 + 4_000).expect("a time");
    let later = || {
        produce(&[Envelope {
            deliver_at: due_ms,
            ..named("later.x", "only-once")
        }])
    };
    let who = claims("dev", Role::User);
    let first = produced(ask(&mut Wire::of(&node, &who), later()));
    node.signal("KILL");
    drop(node.ended());

    let node = Node::dev_on(data.path());
    let again = produced(ask(&mut Wire::of(&node, &who), later()));
    assert_eq!((again.first, again.duplicates.len()), (first.first, 1));
    let delivered = node.records(&["consume", "later.x", "--from", "earliest", "--limit", "1"]);
    assert_eq!(delivered.len(), 1);
    let repeated = produced(ask(&mut Wire::of(&node, &who), later()));
    assert_eq!(
        (repeated.first, repeated.duplicates.len()),
        (first.first, 1)
    );
    let all = node.records(&["consume", "later.x", "--from", "earliest", "--stop-at-end"]);
    assert_eq!(all.len(), 1, "delivered twice");
}

fn delta(topic: &str, mark: &str, text: &str) -> v1::Produce {
    let event = v1::Event {
        r#type: "level".into(),
        data: format!("{text:?}").into(),
    };
    produce(&[Envelope {
        key: "k".into(),
        headers: [("arqon-delta".to_owned(), mark.to_owned())].into(),
        payload: Some(v1::envelope::Payload::Event(event)),
        ..named(topic, "")
    }])
}

// MSG-14: of two who have seen the same record one goes on; who comes later gets the base and what
// follows it; and the node that is killed and started again knows where each key stands.
#[test]
fn deltas_follow_each_other_and_their_base() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let current = ["consume", "levels.>", "--from", "current", "--stop-at-end"];
    let said = |node: &Node| {
        let found = node.records(&current);
        let texts = found.iter().map(|one| one.payload.get().to_owned());
        texts.collect::<Vec<_>>()
    };
    {
        let node = Node::dev_on(&data);
        let mut operator = Wire::of(&node, &claims("dev", Role::Operator));
        let asked = v1::CommandRequest {
            name: "topic.declare".into(),
            arguments: BTreeMap::from([("pattern".to_owned(), "levels.>".into())]),
        };
        let declared = operator.ask(Ask::Command(asked)).expect("an answer").body;
        assert!(
            matches!(declared, Some(Answer::CommandResult(_))),
            "{declared:?}"
        );
        let mut one = Wire::of(&node, &claims("dev", Role::User));
        let mut other = Wire::of(&node, &claims("dev", Role::User));
        let unmarked = refused(ask(&mut one, produce(&[named("levels.a", "")])));
        assert_eq!(
            (unmarked.code.as_str(), unmarked.field.as_str()),
            ("VALIDATION_ERROR", "envelopes[0].key")
        );
        let early = refused(ask(&mut one, delta("levels.a", "on=1", "x")));
        assert_eq!(
            (early.code.as_str(), early.actual),
            ("SEQUENCE_CONFLICT", 0)
        );
        assert_eq!(early.field, "envelopes[0].headers.arqon-delta");
        produced(ask(&mut one, delta("levels.a", "base", "old")));
        let mut last = produced(ask(&mut one, delta("levels.a", "base", "base"))).last;
        for round in 0..20 {
            let mark = format!("on={last}");
            let text = round.to_string();
            one.send(Ask::Produce(delta("levels.a", &mark, &text)));
            other.send(Ask::Produce(delta("levels.a", &mark, &text)));
            let answers = [&mut one, &mut other].map(|wire| wire.next().expect("an answer").body);
            let (mut stored, mut conflicts) = (Vec::new(), Vec::new());
            for answer in answers {
                match answer.expect("a body") {
                    Answer::Produced(produced) => stored.push(produced.last),
                    Answer::Error(error) => conflicts.push((error.code, error.actual)),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(stored.len(), 1, "one wins");
            last = stored[0];
            assert_eq!(conflicts, [("SEQUENCE_CONFLICT".to_owned(), last)]);
        }
        node.signal("KILL");
        drop(node.ended());
    }
    let node = Node::dev_on(&data);
    let mut wire = Wire::of(&node, &claims("dev", Role::User));
    let all = said(&node);
    assert_eq!(
        (all.len(), all[0].as_str(), all[20].as_str()),
        (21, "\"base\"", "\"19\"")
    );
    let stale = refused(ask(&mut wire, delta("levels.a", "on=1", "x")));
    assert!(stale.actual > 20, "{stale:?}");
    let mark = format!("on={}", stale.actual);
    produced(ask(&mut wire, delta("levels.a", &mark, "on")));
    assert_eq!(said(&node).len(), 22);
    produced(ask(&mut wire, delta("levels.a", "base", "new")));
    assert_eq!(said(&node), ["\"new\""]);
}
