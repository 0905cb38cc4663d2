//! EDGE-06: one tenant cannot reach another by any verb there is.
//!
//! Verbs are taken from the registry of commands and from the protocol's descriptors, so that a
//! new one is tried without anybody remembering it: an argument of a name that is not known here
//! fails the test until somebody says what an attacker would give.

use std::collections::BTreeMap;

use arqonbus::broker::verb::{Argument, Kind};
use arqonbus::edge::shield::command;
use arqonbus::proto::DESCRIPTORS;
use arqonbus::proto::claims::{Claims, Role};
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::server_frame::Body as Answer;
use arqonbus::proto::v1::{self, Envelope, Event, Value, envelope, subscribe, value};
use prost::Message as _;
use prost_reflect::DescriptorPool;

use crate::raw::Request;
use crate::support::{Node, claims, signed};
use crate::wire::Wire;

/// Stand in the victim's records, names and tokens, and in nothing that the attacker sends.
const CANARIES: [&str; 4] = [
    "canary-payload-51f0",
    "canary-topic-51f0",
    "canary-subject-51f0",
    "canary-consumer-51f0",
];
const REALITY: &str = "plans";

fn victim() -> Claims {
    Claims {
        sub: CANARIES[2].into(),
        ..claims("acme", Role::Admin)
    }
}

fn attacker() -> Claims {
    Claims {
        sub: "mallory".into(),
        ..claims("rival", Role::Admin)
    }
}

fn text(text: &str) -> value::Kind {
    value::Kind::Text(text.into())
}

fn command(name: &str, arguments: Vec<(&str, value::Kind)>) -> Ask {
    let arguments = arguments.into_iter().map(|(name, kind)| {
        let kind = Some(kind);
        (name.to_owned(), Value { kind })
    });
    Ask::Command(v1::CommandRequest {
        name: name.into(),
        arguments: arguments.collect(),
    })
}

fn produce(reality: &str, tenant: &str) -> Ask {
    let envelope = Envelope {
        topic: CANARIES[1].into(),
        tenant_id: tenant.into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "t".into(),
            data: CANARIES[0].into(),
        })),
        ..Envelope::default()
    };
    Ask::Produce(v1::Produce {
        reality: reality.into(),
        envelopes: vec![envelope.encode_to_vec().into()],
        ..v1::Produce::default()
    })
}

fn fetch(reality: &str, filter: &str) -> Ask {
    Ask::Fetch(v1::Fetch {
        reality: reality.into(),
        filter: filter.into(),
        ..v1::Fetch::default()
    })
}

fn subscribe(reality: &str, filter: &str, consumer: &str) -> Ask {
    Ask::Subscribe(v1::Subscribe {
        subscription: 1,
        reality: reality.into(),
        filter: filter.into(),
        consumer: consumer.into(),
        start: Some(subscribe::Start::Earliest(true)),
        ..v1::Subscribe::default()
    })
}

/// Sends a request and shows all that comes within a moment, as text.
fn seen(session: &mut Wire, body: Ask) -> String {
    session.send(body);
    let mut text = format!("{:?}", session.next());
    // Whatever follows, such as records of a subscription, comes before the answer to this.
    session.send(Ask::Ping(v1::Ping {
        data: "last".into(),
    }));
    loop {
        match session.next() {
            Ok(frame) => {
                let last = matches!(&frame.body, Some(Answer::Pong(pong)) if pong.data == "last");
                text.push_str(&format!("{frame:?}"));
                if last {
                    return text;
                }
            }
            Err(end) => return text + &end,
        }
    }
}

/// What an attacker that has seen the victim's configuration would give.
fn guess(command: &str, argument: &Argument) -> Option<value::Kind> {
    let guess = match (argument.name, argument.kind) {
        ("reality" | "a" | "from", Kind::Text) => text(REALITY),
        // Nothing of the attacker's own may be what is confirmed.
        ("name" | "confirm" | "to" | "b", Kind::Text) => text(REALITY),
        ("backup" | "offset" | "sequence" | "at" | "limit" | "window", Kind::Text) => text("1"),
        ("file", Kind::Text) => text("../../acme/main/00000000000000000001.log"),
        _ => return guess_edge(command, argument),
    };
    Some(guess)
}

/// The same for what the edge has in force.
fn guess_edge(_command: &str, argument: &Argument) -> Option<value::Kind> {
    match (argument.name, argument.kind) {
        ("tenant", Kind::Text) => Some(text("acme")),
        (_, Kind::Boolean) => Some(value::Kind::Boolean(true)),
        (_, Kind::Integer) => Some(value::Kind::Unsigned(1)),
        _ => None,
    }
}

/// All that the victim has, as it sees it.
fn state(node: &Node) -> BTreeMap<String, String> {
    let mut session = Wire::of(node, &victim());
    let mut state = BTreeMap::new();
    let lists = command::all().into_iter().filter(|command| {
        command.name.ends_with(".list") && command.arguments.iter().all(|one| !one.required)
    });
    for list in lists {
        let shown = seen(&mut session, command(list.name, Vec::new()));
        state.insert(list.name.to_owned(), shown);
    }
    for reality in ["", REALITY] {
        let shown = seen(&mut session, fetch(reality, ">"));
        assert!(shown.contains(CANARIES[0]), "{shown}");
        state.insert(format!("records of {reality:?}"), shown);
    }
    state.insert(
        "system".into(),
        seen(&mut session, fetch("_system", "sys.>")),
    );
    state
}

fn assert_blind(what: &str, shown: &str) {
    for canary in CANARIES {
        assert!(!shown.contains(canary), "{what} shows {canary}: {shown}");
    }
}

/// A node on which the victim has one of everything.
fn furnished() -> Node {
    let node = Node::dev();
    let mut session = Wire::of(&node, &victim());
    let made = seen(
        &mut session,
        command("reality.create", vec![("name", text(REALITY))]),
    );
    assert!(made.contains("CommandResult"), "{made}");
    for reality in ["", REALITY] {
        let stored = seen(&mut session, produce(reality, ""));
        assert!(stored.contains("Produced"), "{stored}");
    }
    let subscribed = seen(&mut session, subscribe("", ">", CANARIES[3]));
    assert!(subscribed.contains("Subscribed"), "{subscribed}");
    let acknowledged = v1::Ack {
        subscription: 1,
        sequence: 1,
    };
    let acked = session.ask(Ask::Ack(acknowledged)).map(|frame| frame.body);
    assert!(matches!(acked, Ok(Some(Answer::Acked(_)))), "{acked:?}");
    node
}

// EDGE-06
#[test]
fn no_command_reaches_another_tenant() {
    let node = furnished();
    let before = state(&node);
    for listed in command::all() {
        let arguments = listed.arguments.iter().map(|argument| {
            let guess = guess(listed.name, argument);
            let guess = guess.unwrap_or_else(|| {
                panic!(
                    "say here what an attacker would give as {} of {}",
                    argument.name, listed.name
                )
            });
            (argument.name, guess)
        });
        let arguments: Vec<_> = arguments.collect();
        let mut session = Wire::of(&node, &attacker());
        let shown = seen(&mut session, command(listed.name, arguments));
        assert_blind(listed.name, &shown);
    }
    assert_eq!(state(&node), before, "the victim's state has changed");
}

// EDGE-06
#[test]
fn no_frame_reaches_another_tenant() {
    let node = furnished();
    let before = state(&node);
    let token = signed(&victim(), &node.dev_secret());
    let attempts = |body: &str| match body {
        "produce" => vec![produce("", "acme"), produce(REALITY, "")],
        "subscribe" => vec![
            subscribe("", ">", ""),
            subscribe("", ">", "billing"),
            subscribe(REALITY, ">", ""),
            subscribe("../acme/main", ">", ""),
            subscribe("_system", "sys.>", ""),
        ],
        "fetch" => vec![
            fetch("", ">"),
            fetch(REALITY, ">"),
            fetch("../acme/main", ">"),
            fetch("_system", "sys.>"),
        ],
        "unsubscribe" => vec![Ask::Unsubscribe(v1::Unsubscribe { subscription: 1 })],
        "credit" => vec![Ask::Credit(v1::Credit {
            subscription: 1,
            records: 1_000,
            bytes: 1_000,
        })],
        "ack" => vec![Ask::Ack(v1::Ack {
            subscription: 1,
            sequence: 1,
        })],
        "nack" => vec![Ask::Nack(v1::Nack::default())],
        "command" => vec![command("status", Vec::new())],
        "operator_join" => vec![Ask::OperatorJoin(v1::OperatorJoin::default())],
        "task_result" => vec![Ask::TaskResult(v1::TaskResult::default())],
        "ping" => vec![Ask::Ping(v1::Ping::default())],
        "refresh" => vec![Ask::Refresh(v1::Refresh {
            token: token.clone(),
        })],
        other => panic!("say here how an attacker would use {other}"),
    };
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
    let frame = pool
        .get_message_by_name("arqon.v1.ClientFrame")
        .expect("a message");
    let body = frame.oneofs().next().expect("the body");
    for field in body.fields() {
        for attempt in attempts(field.name()) {
            let mut session = Wire::of(&node, &attacker());
            let shown = seen(&mut session, attempt);
            assert_blind(field.name(), &shown);
        }
    }
    // What the first attempt stored went nowhere near the victim.
    assert_eq!(state(&node), before, "the victim's state has changed");
}

// EDGE-06, EDGE-23
#[test]
fn no_page_of_the_node_shows_a_tenant_to_another() {
    let node = furnished();
    let token = signed(&attacker(), &node.dev_secret());
    for path in ["/healthz", "/readyz", "/version", "/metrics", "/status"] {
        for request in [Request::get(path), Request::get(path).bearer(&token)] {
            // In development whoever reaches the page from this machine is its operator.
            if path == "/status" && request.clone().bytes().windows(6).all(|w| w != b"Bearer") {
                continue;
            }
            let shown = request.send(node.ops).text();
            assert_blind(path, &shown);
            let names_it = shown.contains("acme") || shown.contains(REALITY);
            assert!(!names_it, "{path}: {shown}");
        }
    }
}
