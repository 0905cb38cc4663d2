//! EDGE-06: one tenant cannot reach another by any verb there is.
//!
//! Verbs are taken from the registry of commands and from the protocol's descriptors, so that a
//! new one is tried without anybody remembering it: an argument of a name that is not known here
//! fails the test until somebody says what an attacker would give.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arqonbus::broker::verb::{Argument, Kind};
use arqonbus::edge::shield::command::{self, Listed};
use arqonbus::log::Sequence;
use arqonbus::projections::letter::letter_id;
use arqonbus::proto::DESCRIPTORS;
use arqonbus::proto::claims::{Claims, Role};
use arqonbus::proto::v1::client_frame::Body as Ask;
use arqonbus::proto::v1::server_frame::Body as Answer;
use arqonbus::proto::v1::{self, Envelope, Event, Value, envelope, subscribe, value};
use prost::Message as _;
use prost_reflect::DescriptorPool;

use crate::raw::Request;
use crate::support::{Node, PATIENCE, claims, now_s, signed};
use crate::wire::Wire;

/// Stand in the victim's records, names and tokens, and in nothing that the attacker sends.
const CANARIES: [&str; 18] = [
    "canary-payload-51f0",
    "canary-topic-51f0",
    "canary-subject-51f0",
    "canary-consumer-51f0",
    "canary-judged-51f0",
    "canary-schema-51f0",
    "canary-field-51f0",
    "canary-mirrored-51f0",
    "canary-limited-51f0",
    "canary-signed-51f0",
    "canary-reason-51f0",
    "canary-episode-51f0",
    "canary-room-51f0",
    "canary-value-51f0",
    "canary-job-51f0",
    "canary-webhook-51f0",
    "canary-parameter-51f0",
    "canary-group-51f0",
];
/// What the victim calls everything that has a name, and the attacker knows.
const NAME: &str = "plans";
const PATTERN: &str = "plans.>";
/// An episode of the victim's, and what happened to it.
const EPISODE: &str = "01J9ZQ6T2N8W4V5X6Y7Z8B0001";
const EVENT: &str = "01J9ZQ6T2N8W4V5X6Y7Z8A0001";
const ALLOW: &str = include_str!("../fixtures/policy/allow.wat");
/// A public key of the victim's; what it signs is nobody's business here.
const KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

fn victim() -> Claims {
    Claims {
        sub: CANARIES[2].into(),
        ..claims("acme", Role::Admin)
    }
}

/// One who may have revoked all tokens of its own tenant that were issued up to now.
fn attacker() -> Claims {
    Claims {
        sub: "mallory".into(),
        iat: Some(now_s() + 5),
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

fn texts(text: &str) -> value::Kind {
    let list: Value = [text].into_iter().collect();
    list.kind.expect("a list")
}

fn bytes(bytes: &[u8]) -> value::Kind {
    value::Kind::Bytes(bytes.to_vec().into())
}

fn allowing() -> value::Kind {
    bytes(&wat::parse_str(ALLOW).expect("a module"))
}

/// What somebody says, and on which topic.
type Words = [&'static str; 2];
const VICTIMS: Words = [CANARIES[1], CANARIES[0]];
const ATTACKERS: Words = ["mallory.topic", "mallory's payload"];

fn produce([topic, data]: Words, reality: &str, tenant: &str) -> Ask {
    let envelope = Envelope {
        topic: topic.into(),
        tenant_id: tenant.into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "t".into(),
            data: data.into(),
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
    if command.starts_with("projection.") || command.starts_with("op.continuum.") {
        return guess_projected(argument);
    }
    let guess = match (argument.name, argument.kind) {
        ("reality" | "a" | "from", Kind::Text) => text(NAME),
        // Nothing of the attacker's own may be what is confirmed.
        ("name" | "confirm" | "to" | "b", Kind::Text) => text(NAME),
        ("backup" | "offset" | "sequence" | "at" | "limit" | "window", Kind::Text) => text("1"),
        (
            "group" | "instance" | "operator" | "capability" | "content_type" | "schema"
            | "causal_parent" | "traceparent" | "selection" | "why",
            Kind::Text,
        ) => text(NAME),
        ("consumer" | "id" | "topic" | "reason_contains", Kind::Text) => text(NAME),
        ("after", Kind::Text) => text("1"),
        ("newer_than", Kind::Text) => text("2000-01-01T00:00:00Z"),
        ("older_than", Kind::Text) => text("2100-01-01T00:00:00Z"),
        ("payload" | "headers" | "metadata", Kind::Object) => text("{}"),
        ("substrate_id" | "signal" | "kind" | "vm_id", Kind::Text) => text(NAME),
        ("file", Kind::Text) => text("../../acme/main/00000000000000000001.log"),
        _ => guess_operators(command, argument).or_else(|| guess_edge(command, argument))?,
    };
    Some(guess)
}

/// The same for rooms, operators and the audit.
fn guess_operators(command: &str, argument: &Argument) -> Option<value::Kind> {
    let guess = match (argument.name, argument.kind) {
        ("key" | "value", _) if !command.starts_with("edge.") => text(NAME),
        ("room" | "channel" | "description" | "namespace" | "prefix", Kind::Text) => text(NAME),
        // What has an id can be called by its name, too.
        ("job_id" | "rule_id" | "into" | "input" | "output", Kind::Text) => text(NAME),
        ("letter", Kind::Text) => text(&letter_of_acme()),
        ("since" | "from_ts", Kind::Text) => text("2000-01-01T00:00:00Z"),
        ("until" | "to_ts", Kind::Text) => text("2100-01-01T00:00:00Z"),
        ("cursor", Kind::Text) => text("1"),
        ("form", Kind::Text) => text("record"),
        ("action", Kind::Text) => text("edge"),
        ("as", Kind::Text) => text("delta_only"),
        ("outcome", Kind::Text) => text("done"),
        ("head", Kind::Text) => text(&"0".repeat(64)),
        ("cron", Kind::Text) => text("0 0 29 2 *"),
        ("time_zone", Kind::Text) => text("Europe/Berlin"),
        ("dst" | "misfire", Kind::Text) => text("skip"),
        ("url", Kind::Text) => text("https://mallory.invalid/"),
        ("secret", Kind::Text) => text("whsec_bWFsbG9yeSdzIHNlY3JldCBvZiAzMiBieXRlcyEh"),
        ("signature", Kind::Text) => text("ed25519"),
        ("format", Kind::Text) => text("json"),
        ("on_exhausted", Kind::Text) => text("pause"),
        _ => return None,
    };
    Some(guess)
}

/// The same for what is kept of the victim's events.
fn guess_projected(argument: &Argument) -> Option<value::Kind> {
    let key: Value = [NAME, EPISODE].into_iter().collect();
    let guess = match (argument.name, argument.kind) {
        ("name", Kind::Text) => text("continuum"),
        ("table", Kind::Text) => text("dead_letters"),
        ("sink", Kind::Text) => text("sled"),
        ("outcome", Kind::Text) => text("projected"),
        ("newest_by", Kind::Text) => text("tenant_id"),
        ("tenant_id", Kind::Text) => text("acme"),
        ("agent_id", Kind::Text) => text(NAME),
        ("episode_id", Kind::Text) => text(EPISODE),
        ("key" | "after", Kind::Texts) => key.kind.expect("a list"),
        ("where", Kind::Texts) => texts("tenant_id=acme"),
        ("event", Kind::Object) => episode("mallory's", NAME),
        ("from_ts" | "newer_than", Kind::Text) => text("2000-01-01T00:00:00Z"),
        ("to_ts" | "older_than", Kind::Text) => text("2100-01-01T00:00:00Z"),
        ("dlq_id", Kind::Text) => text(&letter_of_acme()),
        ("topic", Kind::Text) => text("continuum.episode.v1"),
        ("reason" | "reason_contains" | "job", Kind::Text) => text(NAME),
        (_, Kind::Boolean) => value::Kind::Boolean(true),
        (_, Kind::Integer) => value::Kind::Unsigned(1),
        (_, Kind::Number) => value::Kind::Number(0.5),
        (_, Kind::Any) => text(NAME),
        _ => return None,
    };
    Some(guess)
}

/// What the first record of the victim would be called, were it a dead letter.
fn letter_of_acme() -> String {
    letter_id("continuum", "acme", "main", Sequence::FIRST)
}

/// An event of the Continuum contract in the victim's name.
fn episode(summary: &str, event: &str) -> value::Kind {
    text(
        &serde_json::json!({
            "event_id": event,
            "event_type": "episode.created",
            "tenant_id": "acme",
            "agent_id": NAME,
            "episode_id": EPISODE,
            "source_ts": "2026-01-31T12:00:00Z",
            "schema_version": 1,
            "payload": { "content_ref": "x://1", "summary": summary, "tags": [], "metadata": {} },
        })
        .to_string(),
    )
}

/// The same for what the edge has in force.
fn guess_edge(command: &str, argument: &Argument) -> Option<value::Kind> {
    let guess = match (argument.name, argument.kind) {
        ("tenant", Kind::Text) => text("acme"),
        ("subject" | "token" | "producer" | "policy" | "reason", Kind::Text) => text(NAME),
        ("target_topic" | "message", Kind::Text) => text(NAME),
        ("target_reality", Kind::Text) => text("../acme/main"),
        ("pattern" | "topics" | "filter", Kind::Text) => text(PATTERN),
        ("key", Kind::Text) => text(KEY),
        ("public_key", Kind::Text) => text(KEY),
        ("level", Kind::Text) => text("monitor"),
        ("unknown", Kind::Text) => text("keep"),
        ("mode", Kind::Text) if command == "op.casil.reload" => text("enforce"),
        ("mode", Kind::Text) => text("NONE"),
        ("default_decision", Kind::Text) => text("block"),
        ("personal_data", Kind::Text) => text("redact"),
        ("module", Kind::Bytes) => allowing(),
        ("document", Kind::Bytes) => bytes(b"{}"),
        (_, Kind::Bytes) => bytes(NAME.as_bytes()),
        (_, Kind::Texts) => texts(PATTERN),
        (_, Kind::Boolean) => value::Kind::Boolean(true),
        (_, Kind::Integer) => value::Kind::Unsigned(1),
        (_, Kind::Number) => value::Kind::Number(0.5),
        (_, Kind::Any) => text(NAME),
        (_, Kind::Text | Kind::Object) => return None,
    };
    Some(guess)
}

/// A command with all that it takes, with no more than it needs, and with one more than that.
fn attempts(listed: &Listed) -> Vec<Vec<(&'static str, value::Kind)>> {
    let guessed = listed.arguments.iter().map(|argument| {
        let guess = guess(listed.name, argument).unwrap_or_else(|| {
            let Listed { name, .. } = listed;
            panic!(
                "say here what an attacker would give as {} of {name}",
                argument.name
            )
        });
        (argument.name, guess)
    });
    let all: Vec<_> = guessed.collect();
    let with = |more: Option<&str>| {
        let wanted = listed
            .arguments
            .iter()
            .map(|one| one.required || more == Some(one.name));
        let chosen = all.iter().zip(wanted).filter(|(_, wanted)| *wanted);
        chosen.map(|(one, _)| one.clone()).collect::<Vec<_>>()
    };
    let optional = listed
        .arguments
        .iter()
        .filter(|argument| !argument.required);
    let mut attempts: Vec<_> = optional.map(|one| with(Some(one.name))).collect();
    attempts.push(with(None));
    attempts.push(all.clone());
    attempts
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
    for (shows, arguments) in [
        ("edge.revocations", vec![]),
        ("op.casil.get", vec![]),
        ("edge.policy.show", vec![("name", text(NAME))]),
        ("edge.schema.show", vec![("subject", text(NAME))]),
        ("projection.rows", vec![("name", text("continuum"))]),
    ] {
        let shown = seen(&mut session, command(shows, arguments));
        assert!(shown.contains("CommandResult"), "{shows}: {shown}");
        state.insert(shows.to_owned(), shown);
    }
    for reality in ["", NAME] {
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

fn assert_same(state: &BTreeMap<String, String>, before: &BTreeMap<String, String>) {
    for (what, shown) in state {
        let was = before.get(what);
        assert_eq!(
            Some(shown),
            was,
            "what the victim sees of {what} has changed"
        );
    }
    assert_eq!(state.len(), before.len());
}

fn assert_blind(what: &str, shown: &str) {
    for canary in CANARIES {
        assert!(!shown.contains(canary), "{what} shows {canary}: {shown}");
    }
}

/// One of everything that the edge can have in force, each with a canary in it.
fn in_force() -> Vec<Ask> {
    let of = |canary: usize| text(&format!("{}.>", CANARIES[canary]));
    let topics = texts(&format!("{}.>", CANARIES[4]));
    let document = format!(r#"{{"title":"{}"}}"#, CANARIES[5]);
    vec![
        command(
            "edge.policy.push",
            vec![
                ("name", text(NAME)),
                ("module", allowing()),
                ("topics", topics),
                ("activate", value::Kind::Boolean(true)),
            ],
        ),
        command(
            "edge.schema.register",
            vec![
                ("subject", text(NAME)),
                ("document", bytes(document.as_bytes())),
            ],
        ),
        command(
            "edge.schema.bind",
            vec![("pattern", text(PATTERN)), ("subject", text(NAME))],
        ),
        command(
            "op.casil.reload",
            vec![
                ("enabled", value::Kind::Boolean(true)),
                ("redaction_paths", texts(CANARIES[6])),
            ],
        ),
        command(
            "edge.mirror.set",
            vec![
                ("name", text(NAME)),
                ("topics", of(7)),
                ("target_topic", text(NAME)),
            ],
        ),
        command(
            "edge.rate.set",
            vec![
                ("name", text(NAME)),
                ("pattern", of(8)),
                ("messages_per_second", value::Kind::Unsigned(1)),
            ],
        ),
        command(
            "edge.signature.key.set",
            vec![("producer", text(NAME)), ("public_key", text(KEY))],
        ),
        command("edge.signature.require", vec![("topics", of(9))]),
        command(
            "edge.revoke",
            vec![("token", text(NAME)), ("reason", text(CANARIES[10]))],
        ),
        command(
            "op.continuum.projector.project_event",
            vec![("event", episode(CANARIES[11], EVENT))],
        ),
    ]
}

/// One of what rooms and operators keep, each with a canary in it.
fn kept() -> Vec<Ask> {
    let (name, canary) = (|| text(NAME), |one: usize| text(CANARIES[one]));
    vec![
        command(
            "room.create",
            vec![("room", name()), ("description", canary(12))],
        ),
        command(
            "op.store.set",
            vec![
                ("namespace", name()),
                ("key", name()),
                ("value", canary(13)),
            ],
        ),
        command(
            "op.cron.schedule",
            vec![
                ("name", name()),
                ("topic", canary(14)),
                ("payload", text("{}")),
                ("cron", text("0 0 29 2 *")),
            ],
        ),
        command(
            "op.webhook.register",
            vec![
                ("name", name()),
                ("url", text("http://127.0.0.1:9/")),
                ("topic", canary(15)),
            ],
        ),
        command("control.set", vec![("name", name()), ("value", canary(16))]),
    ]
}

/// A group whose member goes.
fn group(node: &Node) {
    let joins = Ask::Subscribe(v1::Subscribe {
        subscription: 1,
        filter: CANARIES[17].into(),
        group: NAME.into(),
        ..v1::Subscribe::default()
    });
    let joined = seen(&mut Wire::of(node, &victim()), joins);
    assert!(joined.contains("Subscribed"), "{joined}");
}

/// Waits until nothing of what the victim has done is still under way, such as a member that goes
/// or where a webhook stands, which is written down half a second later.
fn settle(node: &Node) {
    let started = Instant::now();
    let mut before = state(node);
    loop {
        std::thread::sleep(Duration::from_millis(700));
        let now = state(node);
        if now == before {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{now:?}");
        before = now;
    }
}

/// A node on which the victim has one of everything.
fn furnished() -> Node {
    let node = Node::dev();
    let mut session = Wire::of(&node, &victim());
    let made = seen(
        &mut session,
        command("reality.create", vec![("name", text(NAME))]),
    );
    assert!(made.contains("CommandResult"), "{made}");
    for reality in ["", NAME] {
        let stored = seen(&mut session, produce(VICTIMS, reality, ""));
        assert!(stored.contains("Produced"), "{stored}");
    }
    let subscribed = seen(&mut session, subscribe("", ">", CANARIES[3]));
    assert!(subscribed.contains("Subscribed"), "{subscribed}");
    let acknowledged = v1::Ack {
        subscription: 1,
        sequence: 1,
        attempt: 0,
    };
    let acked = session.ask(Ask::Ack(acknowledged)).map(|frame| frame.body);
    assert!(matches!(acked, Ok(Some(Answer::Acked(_)))), "{acked:?}");
    group(&node);
    for one in in_force().into_iter().chain(kept()) {
        let answer = seen(&mut session, one);
        assert!(answer.contains("CommandResult"), "{answer}");
    }
    settle(&node);
    let all: String = state(&node).into_values().collect();
    for canary in CANARIES {
        assert!(
            all.contains(canary),
            "the victim does not see {canary}: {all}"
        );
    }
    node
}

// EDGE-06
#[test]
fn no_command_reaches_another_tenant() {
    let node = furnished();
    let before = state(&node);
    // Somebody of the victim's whom the attacker would like to be rid of.
    let bystander = Claims {
        sub: NAME.into(),
        ..victim()
    };
    let mut bystander = Wire::of(&node, &bystander);
    for listed in command::all() {
        for arguments in attempts(&listed) {
            let mut session = Wire::of(&node, &attacker());
            let shown = seen(&mut session, command(listed.name, arguments));
            assert_blind(listed.name, &shown);
        }
    }
    let still = seen(&mut bystander, Ask::Ping(v1::Ping::default()));
    assert!(still.contains("Pong"), "{still}");
    assert_same(&state(&node), &before);
}

// EDGE-06
#[test]
fn no_frame_reaches_another_tenant() {
    let node = furnished();
    let before = state(&node);
    let token = signed(&victim(), &node.dev_secret());
    let attempts = |body: &str| match body {
        "produce" => vec![
            produce(ATTACKERS, "", "acme"),
            produce(ATTACKERS, NAME, ""),
            produce(ATTACKERS, "", ""),
        ],
        "subscribe" => vec![
            subscribe("", ">", ""),
            subscribe("", ">", "billing"),
            subscribe(NAME, ">", ""),
            subscribe("../acme/main", ">", ""),
            subscribe("_system", "sys.>", ""),
        ],
        "fetch" => vec![
            fetch("", ">"),
            fetch(NAME, ">"),
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
            attempt: 0,
        })],
        "nack" => vec![Ask::Nack(v1::Nack::default())],
        "extend" => vec![Ask::Extend(v1::Extend::default())],
        "command" => vec![command("status", Vec::new())],
        "operator_join" => vec![Ask::OperatorJoin(v1::OperatorJoin::default())],
        "task_result" => vec![Ask::TaskResult(v1::TaskResult::default())],
        "task_extend" => vec![Ask::TaskExtend(v1::TaskExtend::default())],
        "operator_drain" => vec![Ask::OperatorDrain(v1::OperatorDrain {
            group: NAME.into(),
            instance: NAME.into(),
        })],
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
    assert_same(&state(&node), &before);
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
            let names_it = shown.contains("acme") || shown.contains(NAME);
            assert!(!names_it, "{path}: {shown}");
        }
    }
}
