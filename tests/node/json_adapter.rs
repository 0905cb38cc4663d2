//! Clients of the older system, and people with a text tool, against the built node: JSON over
//! WebSocket, by a plain socket here and by a Python client written like the older SDK.

use std::net::TcpStream;
use std::process::Command;

use arqonbus::proto::claims::Role;
use arqonbus::proto::v1::{Envelope, Event, envelope};
use jsonwebtoken::Algorithm;
use prost::Message as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::handshake::{asymmetric, production};
use crate::interpreter::{python, run};
use crate::raw::{Request, frame, read_frame};
use crate::support::{Node, PATIENCE, claims, signed};

pub(crate) const JSON: &str = "arqon.json.v1";

/// A session, text in and text out.
pub(crate) struct Client(WebSocket<TcpStream>);

impl Client {
    pub(crate) fn open(node: &Node, token: &str, subprotocol: Option<&str>) -> Self {
        let mut request = node.url().into_client_request().expect("a request");
        let headers = request.headers_mut();
        let bearer = format!("Bearer {token}");
        headers.insert("Authorization", bearer.parse().expect("a header"));
        if let Some(name) = subprotocol {
            headers.insert("Sec-WebSocket-Protocol", name.parse().expect("a header"));
        }
        let stream = TcpStream::connect(node.edge).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (socket, _) = tungstenite::client(request, stream).expect("a session");
        Self(socket)
    }

    /// A JSON session, welcomed, and what the node calls it.
    pub(crate) fn json(node: &Node) -> (Self, String) {
        let mut client = Self::open(node, &node.dev_token(), Some(JSON));
        let welcome = client.next();
        let id = welcome["payload"]["client_id"].as_str().expect("a text");
        (client, id.to_owned())
    }

    /// The same with another token.
    pub(crate) fn with(node: &Node, token: &str) -> Self {
        let mut client = Self::open(node, token, Some(JSON));
        let _welcome = client.next();
        client
    }

    pub(crate) fn send(&mut self, json: &Value) {
        self.text(&json.to_string());
    }

    fn text(&mut self, text: &str) {
        self.0.send(Message::text(text)).expect("it is sent");
    }

    fn binary(&mut self, bytes: Vec<u8>) {
        self.0.send(Message::binary(bytes)).expect("it is sent");
    }

    fn message(&mut self) -> Message {
        loop {
            match self.0.read().expect("a message") {
                Message::Ping(_) | Message::Pong(_) => {}
                other => return other,
            }
        }
    }

    pub(crate) fn next(&mut self) -> Value {
        match self.message() {
            Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("no text but {other:?}"),
        }
    }

    pub(crate) fn ask(&mut self, json: &Value) -> Value {
        self.send(json);
        self.next()
    }

    /// The code and reason of the node's close.
    fn closed(&mut self) -> (u16, String) {
        loop {
            match self.message() {
                Message::Close(Some(close)) => {
                    return (close.code.into(), close.reason.as_str().to_owned());
                }
                Message::Text(_) => {}
                other => panic!("no close but {other:?}"),
            }
        }
    }
}

pub(crate) fn message(room: &str, channel: &str, payload: &Value) -> Value {
    json!({"type": "message", "room": room, "channel": channel, "payload": payload})
}

pub(crate) fn command(name: &str, args: &Value) -> Value {
    json!({"type": "command", "id": "arq_1_2_00ffaa", "command": name, "args": args})
}

fn envelope(topic: &str) -> Vec<u8> {
    let event = Event {
        r#type: "note".into(),
        data: br#"{"from":"protobuf"}"#.to_vec().into(),
    };
    let envelope = Envelope {
        trace_id: "arq_1_1_000000".into(),
        topic: topic.into(),
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    };
    envelope.encode_to_vec()
}

pub(crate) fn scene(node: &Node, name: &str) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/older_client.py");
    let url = format!("ws://{}/", node.edge);
    let output = run(Command::new(python()).args([script, &url, &node.dev_token(), name]));
    serde_json::from_str(&output).expect("one line of JSON")
}

// MSG-02, MSG-09
#[test]
fn a_message_is_acknowledged_under_its_id_once_it_is_stored() {
    let node = Node::dev();
    let (mut client, id) = Client::json(&node);
    let payload = json!({"whole": 5, "part": 0.5, "deep": [{"x": null}], "flag": true});
    let sent = json!({
        "id": "arq_1700000000000_1_0a1b2c", "timestamp": "2026-01-31T12:00:00.25+02:00",
        "type": "message", "version": "1.0", "room": "lab", "channel": "exp", "sender": "forged",
        "payload": payload, "metadata": {"sequence": 9, "vector_clock": {"a": 1}}, "unknown": 1,
    });
    let answer = client.ask(&sent);
    assert_eq!(answer["type"], "message_response");
    assert_eq!(answer["id"], sent["id"]);
    assert_eq!(answer["payload"].to_string(), payload.to_string());
    // The first record says that whoever speaks is a member from now on.
    assert_eq!(answer["metadata"]["sequence"], 2);
    assert_eq!(answer["sender"], "arqonbus");
    let time = answer["timestamp"].as_str().expect("a text");
    assert!(time.ends_with('Z'), "{time}");

    // Clients of protobuf read it.
    let records = node.records(&[
        "consume",
        "room.lab.>",
        "--from",
        "earliest",
        "--stop-at-end",
    ]);
    let [record] = records.as_slice() else {
        panic!("{records:?}")
    };
    assert_eq!((record.sequence, &*record.topic), (2, "room.lab.exp"));
    assert_eq!(record.rest["timestamp"], "2026-01-31T10:00:00.250Z");
    assert_eq!(record.rest["headers"]["sender"], Value::from(id.as_str()));
    let inner: Value = serde_json::from_str(record.payload.get()).expect("JSON");
    assert_eq!(inner["envelopeId"], sent["id"]);
    assert_eq!(inner["sender"], Value::from(id));
    assert_eq!(inner["payload"]["whole"].as_f64(), Some(5.0));
    assert_eq!(inner["payload"]["deep"], payload["deep"]);

    // Measurements, and answers to somebody else, are stored without a word.
    client.send(&json!({"type": "telemetry", "payload": {"t": 1}}));
    client.send(&json!({"type": "response", "request_id": "q", "status": "success"}));
    client.send(&json!({"type": "error", "error": "my own"}));
    let nowhere = client.ask(&json!({"type": "message", "payload": {}}));
    assert_eq!(nowhere["metadata"]["sequence"], 6, "{nowhere}");
    let topics: Vec<String> = node
        .records(&["consume", ">", "--from", "3", "--stop-at-end"])
        .into_iter()
        .map(|record| record.topic)
        .collect();
    assert_eq!(
        topics,
        [
            "room.integriguard.telemetry-stream",
            "response",
            "error",
            "message"
        ]
    );
}

// MSG-15
#[test]
fn a_room_is_heard_in_both_formats() {
    let node = Node::dev();
    let (mut client, id) = Client::json(&node);
    let joined = client.ask(&command(
        "join_channel",
        &json!({"room": "lab", "channel": "exp"}),
    ));
    assert_eq!(
        (&joined["type"], &joined["status"]),
        (&"response".into(), &"success".into())
    );
    assert_eq!(joined["request_id"], "arq_1_2_00ffaa");
    assert_eq!(joined["payload"]["data"]["joined_by"], Value::from(id));
    let large = r#"{"n":12345678901234567890,"from":"arqon"}"#;
    let ran = node.run_with_input(&["produce", "room.lab.exp"], &format!("{large}\n"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let heard = client.next();
    assert_eq!(
        (&heard["type"], &heard["room"]),
        (&"message".into(), &"lab".into())
    );
    assert_eq!(heard["payload"].to_string(), large);
    assert_eq!(heard["metadata"]["arqonbus"]["sequence"], 2);

    let mut other = Client::open(&node, &node.dev_token(), Some("arqon.envelope.v1"));
    other.binary(envelope("room.lab.exp"));
    let Message::Binary(answer) = other.message() else {
        panic!("no envelope")
    };
    let answer = Envelope::decode(answer).expect("an envelope");
    assert_eq!(answer.headers["sequence"], "3");
    let heard = client.next();
    assert_eq!(heard["payload"], json!({"from": "protobuf"}));
    assert_eq!(heard["metadata"]["event_type"], "note");

    // Another channel is not heard; it is after something was said there, but by others only.
    assert_eq!(
        node.run_with_input(&["produce", "room.lab.b"], "1\n").code,
        0
    );
    let answer = client.ask(&message("lab", "b", &json!({"mine": 1})));
    assert_eq!(answer["type"], "message_response", "{answer}");
    assert_eq!(
        node.run_with_input(&["produce", "room.lab.b"], "\"theirs\"\n")
            .code,
        0
    );
    assert_eq!(client.next()["payload"], "theirs");
}

// EDGE-11
#[test]
fn a_member_that_does_not_read_holds_up_nobody_and_loses_nothing() {
    const SENT: u64 = 4_000;
    let node = Node::dev();
    let (mut slow, _) = Client::json(&node);
    let (mut quick, _) = Client::json(&node);
    for client in [&mut slow, &mut quick] {
        client.ask(&command(
            "join_channel",
            &json!({"room": "r", "channel": "c"}),
        ));
    }
    // More than sockets take in.
    let filler = "x".repeat(4_000);
    let lines: String = (0..SENT)
        .map(|n| format!("{{\"n\":{n},\"x\":\"{filler}\"}}\n"))
        .collect();
    let ran = node.run_with_input(&["produce", "room.r.c"], &lines);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for client in [&mut quick, &mut slow] {
        for number in 0..SENT {
            assert_eq!(client.next()["payload"]["n"], number);
        }
    }
}

// EDGE-07
#[test]
fn a_token_limits_rooms_too() {
    let node = Node::dev();
    let mut claims = claims("dev", Role::User);
    claims.publish = Some(vec!["room.open.>".into()]);
    claims.subscribe = Some(vec!["room.open.a".into()]);
    let token = signed(&claims, &node.dev_secret());
    let mut client = Client::open(&node, &token, Some(JSON));
    client.next();
    let refused = client.ask(&message("shut", "a", &json!({})));
    assert_eq!(refused["error_code"], "FORBIDDEN", "{refused}");
    assert_eq!(
        client.ask(&message("open", "b", &json!({})))["type"],
        "message_response"
    );
    for name in ["join_channel", "history"] {
        let refused = client.ask(&command(name, &json!({"room": "open", "channel": "b"})));
        assert_eq!(refused["error_code"], "AUTHORIZATION_ERROR", "{refused}");
    }
    let foreign = json!({"type": "message", "metadata": {"tenant_id": "other"}});
    let refused = client.ask(&foreign);
    assert_eq!(refused["error_code"], "TENANT_MISMATCH", "{refused}");
    let admin = client.ask(&command(
        "reality.delete",
        &json!({"name": "x", "confirm": "x"}),
    ));
    assert_eq!(admin["error_code"], "AUTHORIZATION_ERROR", "{admin}");
    assert_eq!(admin["metadata"]["code"], "FORBIDDEN");
}

// MSG-09
#[test]
fn what_is_wrong_is_told_by_its_field() {
    let node = Node::dev();
    let (mut client, _) = Client::json(&node);
    let id = "arq_1_2_00ffaa";
    let with = |name: &str, value: Value| {
        let mut json = json!({"id": id, "type": "message", "room": "r", "channel": "c"});
        json[name] = value;
        json
    };
    let cases = [
        (with("timestamp", "2026-01-31T12:00:00".into()), "timestamp"),
        (with("timestamp", "soon".into()), "timestamp"),
        (
            with("timestamp", "1969-01-01T00:00:00Z".into()),
            "timestamp",
        ),
        (
            with("metadata", json!({"sequence": 0})),
            "metadata.sequence",
        ),
        (
            with("metadata", json!({"vector_clock": 1})),
            "metadata.vector_clock",
        ),
        (
            with("metadata", json!({"causal_parent_id": "p"})),
            "metadata.causal_parent_id",
        ),
        (
            with("payload", json!({"a": [9_007_199_254_740_993_u64]})),
            "payload.a[0]",
        ),
        (with("type", "event".into()), "type"),
        (with("room", "x".repeat(300).into()), "topic"),
    ];
    for (sent, field) in cases {
        let error = client.ask(&sent);
        assert_eq!(error["type"], "error", "{error}");
        assert_eq!(error["error_code"], "VALIDATION_ERROR", "{error}");
        assert_eq!(error["error"], "Message validation failed");
        assert_eq!(error["request_id"], id);
        assert_eq!(error["metadata"]["field"], field, "{error}");
        let errors = error["payload"]["errors"].as_array().expect("a list");
        let text = errors[0].as_str().expect("a text");
        assert!(text.to_lowercase().contains(field), "{field}: {text}");
    }
    let join = client.ask(&json!({"type": "operator.join", "payload": {"group": "a.b"}}));
    assert_eq!(join["error_code"], "VALIDATION_ERROR", "{join}");
    assert_eq!(join["metadata"]["field"], "group", "{join}");
    // Nothing of that is in the log but that its sender has joined, and the session goes on.
    let good = client.ask(&message("r", "c", &json!({})));
    assert_eq!(good["metadata"]["sequence"], 2, "{good}");
}

// EDGE-09, REL-10
#[test]
fn undecodable_texts_are_answered_and_in_the_end_closed() {
    let node = Node::dev_with(&[
        ("ARQONBUS_LIMITS_JSON_DEPTH_MAX", "4"),
        ("ARQONBUS_LIMITS_ENVELOPE_BYTES_MAX", "4096"),
    ]);
    let (mut client, _) = Client::json(&node);
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"type":"message","payload":{open}{close}}}"#)
    };
    client.text(&nested(3));
    let answer = client.next();
    assert_eq!(answer["type"], "message_response", "{answer}");
    assert_eq!(answer["payload"], json!([[[]]]));
    client.text(&nested(4));
    assert_eq!(client.next()["error_code"], "TOO_LARGE");
    let text = r#"{"type":"message"}"#;
    let padded = |length: usize| format!("{text}{}", " ".repeat(length - text.len()));
    client.text(&padded(4096));
    assert_eq!(client.next()["type"], "message_response");
    client.text(&padded(4097));
    let error = client.next();
    assert_eq!(error["error_code"], "TOO_LARGE");
    assert!(
        error["error"]
            .as_str()
            .is_some_and(|text| text.contains("4097") && text.contains("4096"))
    );

    for bad in ["{\"a\":NaN}", "[]"] {
        client.text(bad);
        let error = client.next();
        assert_eq!(
            (&error["type"], &error["error_code"]),
            (&"error".into(), &"INTERNAL_ERROR".into())
        );
        assert_eq!(error["metadata"]["code"], "INFRA_PROTOCOL_ERROR");
        assert!(error.get("request_id").is_none(), "{error}");
    }
    // The one that was too deep was the first of three.
    assert_eq!(client.closed(), (1007, "undecodable_messages".into()));

    let request = Request::upgrade()
        .bearer(&node.dev_token())
        .with("Sec-WebSocket-Protocol", JSON);
    let (answer, mut stream) = request.open(node.edge);
    assert_eq!(
        (answer.status, answer.header("sec-websocket-protocol")),
        (101, Some(JSON))
    );
    assert_eq!(read_frame(&mut stream).0, 0x81);
    std::io::Write::write_all(&mut stream, &frame(0x81, b"{\"\xff\"}")).expect("it is sent");
    // 1007.
    let (first, close) = read_frame(&mut stream);
    assert_eq!((first, &close[..2]), (0x88, &[0x03, 0xef][..]));
}

#[test]
fn the_first_message_decides_where_nothing_was_agreed_on() {
    let node = Node::dev();
    let token = node.dev_token();
    // Whoever says nothing is welcomed, as by the older system.
    let mut silent = Client::open(&node, &token, None);
    assert_eq!(silent.next()["payload"]["welcome"], "Connected to ArqonBus");
    assert_eq!(
        silent.ask(&message("r", "c", &json!({})))["type"],
        "message_response"
    );
    // Whoever speaks at once is welcomed before the answer.
    let mut quick = Client::open(&node, &token, None);
    let welcome = quick.ask(&message("r", "d", &json!({})));
    let client_id = welcome["payload"]["client_id"].as_str().expect("a text");
    assert!(
        client_id.starts_with("arq_client_") && client_id.len() == 43,
        "{client_id}"
    );
    assert_eq!(quick.next()["type"], "message_response");
    quick.binary(envelope("a"));
    let error = quick.next();
    assert_eq!(error["error_code"], "INFRA_PROTOCOL_ERROR", "{error}");
    assert_eq!(error["payload"], json!({"required_protocol": "json"}));
    assert_eq!(
        quick.ask(&message("r", "d", &json!({})))["type"],
        "message_response"
    );

    // Whoever speaks protobuf hears protobuf, but for the refusal of a text.
    let mut older = Client::open(&node, &token, None);
    for _ in 0..2 {
        older.binary(envelope("a"));
        assert!(matches!(older.message(), Message::Binary(_)));
        let error = older.ask(&json!({"type": "message"}));
        assert_eq!(error["error_code"], "INFRA_PROTOCOL_ERROR", "{error}");
        assert_eq!(error["payload"], json!({"required_protocol": "protobuf"}));
    }
}

#[test]
fn json_can_be_off() {
    let node = Node::dev_with(&[("ARQONBUS_JSON_ADAPTER_ENABLED", "false")]);
    let token = node.dev_token();
    let mut client = Client::open(&node, &token, None);
    for _ in 0..4 {
        let error = client.ask(&message("r", "c", &json!({})));
        assert_eq!(error["type"], "error");
        assert_eq!(error["error_code"], "INFRA_PROTOCOL_ERROR", "{error}");
        assert_eq!(error["payload"], json!({"required_protocol": "protobuf"}));
    }
    client.binary(envelope("a"));
    assert!(matches!(client.message(), Message::Binary(_)));
    let request = Request::upgrade().bearer(&token);
    let refused = request.clone().with("Sec-WebSocket-Protocol", JSON);
    let answer = refused.send(node.edge);
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["code"], "INFRA_PROTOCOL_ERROR");
    let both = request.with("Sec-WebSocket-Protocol", "arqon.json.v1, arqon.v1");
    let (answer, _) = both.open(node.edge);
    assert_eq!(answer.header("sec-websocket-protocol"), Some("arqon.v1"));
}

// EDGE-01
#[test]
fn production_speaks_json_only_where_it_is_told_to() {
    let token = asymmetric("ed", Algorithm::EdDSA, &claims("acme", Role::User));
    let node = production("");
    let mut client = Client::open(&node, &token, None);
    // Not even a welcome before it.
    let error = client.ask(&message("r", "c", &json!({})));
    assert_eq!(error["error_code"], "INFRA_PROTOCOL_ERROR", "{error}");
    let node = production("[json_adapter]\nenabled = true\n");
    let mut client = Client::open(&node, &token, Some(JSON));
    assert_eq!(client.next()["payload"]["welcome"], "Connected to ArqonBus");
    let stored = client.ask(&message("r", "c", &json!({})));
    assert_eq!(stored["metadata"]["sequence"], 2, "{stored}");
}

// EDGE-04
#[test]
fn commands_are_answered_once_or_twice() {
    let node = Node::dev();
    let (mut client, _) = Client::json(&node);
    let fresh = signed(&claims("dev", Role::Admin), &node.dev_secret());
    let other = client.ask(&command("auth.refresh", &json!({"token": fresh})));
    assert_eq!(other["error_code"], "UNAUTHENTICATED", "{other}");
    let same = client.ask(&command(
        "auth.refresh",
        &json!({"token": node.dev_token()}),
    ));
    assert_eq!(same["status"], "success", "{same}");
    assert!(
        same["payload"]["data"]["token_expires_at"].is_string(),
        "{same}"
    );
    // Numbers where the command wants digits as a text.
    let past = client.ask(&command("causal.past", &json!({"sequence": 1})));
    let text = past["payload"]["message"].as_str().expect("a text");
    assert!(text.contains("sequence 1 is not on disk yet"), "{past}");
    let log = client.ask(&command("log.status", &json!({"reality": "main"})));
    assert_eq!(log["status"], "success", "{log}");
    let unknown = client.ask(&command("status", &json!({"colour": "red"})));
    assert_eq!(unknown["error_code"], "VALIDATION_ERROR", "{unknown}");

    let node = Node::dev_with(&[("ARQONBUS_JSON_ADAPTER_LEGACY_ACKS", "true")]);
    let (mut client, _) = Client::json(&node);
    for (name, status) in [("ping", "success"), ("dance", "error")] {
        let response = client.ask(&command(name, &json!({})));
        assert_eq!(response["status"], status, "{response}");
        let second = client.next();
        assert_eq!(second["type"], "command_response");
        assert_eq!(
            (&second["id"], &second["payload"]),
            (&"arq_1_2_00ffaa".into(), &json!({"result": "ok"}))
        );
    }
}

// BRK-09
#[test]
fn history_is_read_in_parts() {
    let node = Node::dev();
    let (mut client, _) = Client::json(&node);
    for number in 1..=5 {
        client.ask(&message("r", "c", &json!({"n": number})));
        client.ask(&message("r", "other", &json!({})));
    }
    let mut history = |args: Value| {
        let mut all = json!({"room": "r", "channel": "c"});
        for (name, value) in args.as_object().expect("an object") {
            all[name] = value.clone();
        }
        let answer = client.ask(&command("history", &all));
        assert_eq!(answer["status"], "success", "{answer}");
        answer["payload"]["data"].clone()
    };
    let numbers = |data: &Value| -> Vec<u64> {
        let entries = data["history"].as_array().expect("a list");
        let number = |entry: &Value| entry["payload"]["n"].as_u64().expect("a number");
        entries.iter().map(number).collect()
    };
    let newest = history(json!({"limit": 2}));
    assert_eq!(numbers(&newest), [4, 5]);
    assert_eq!(
        (&newest["truncated"], &newest["count"]),
        (&true.into(), &2.into())
    );
    let all = history(json!({}));
    assert_eq!(
        (numbers(&all), &all["truncated"]),
        (vec![1, 2, 3, 4, 5], &false.into())
    );
    let first = history(json!({"since": 3, "limit": 2}));
    assert_eq!(numbers(&first), [2, 3]);
    let rest = history(json!({"since": first["next"], "limit": 1000}));
    assert_eq!((numbers(&rest), &rest["next"]), (vec![4, 5], &Value::Null));
    let from = all["history"][3]["stored_at"].as_str().expect("a time");
    // Times of the log have microseconds, those of clients milliseconds.
    let later = numbers(&history(json!({"since": from})));
    assert!(later.ends_with(&[4, 5]) && later.len() <= 5, "{later:?}");
    let none = history(json!({"since": "2100-01-01T00:00:00Z"}));
    assert!(numbers(&none).is_empty(), "{none}");
}

// BRK-09
#[test]
fn python_clients_of_the_older_system_work_unchanged() {
    let node = Node::dev();
    let hello = scene(&node, "hello");
    assert_eq!(hello["welcome"]["sender"], "arqonbus");
    assert_eq!(hello["welcome"]["type"], "message");
    assert_eq!(hello["answer"]["type"], "message_response");
    assert_eq!(hello["answer"]["id"], hello["sent"]["id"]);
    assert_eq!(hello["answer"]["payload"], hello["sent"]["payload"]);

    let room = scene(&node, "room");
    assert_eq!(room["joined"]["status"], "success", "{room}");
    let list = |name: &str| room[name].as_array().expect("a list").clone();
    let (acks, heard) = (list("acks"), list("heard"));
    for (number, (ack, heard)) in acks.iter().zip(&heard).enumerate() {
        assert_eq!(ack["type"], "message_response");
        assert_eq!(
            (&heard["type"], &heard["id"]),
            (&"message".into(), &ack["id"])
        );
        assert_eq!(heard["payload"]["n"].to_string(), number.to_string());
        assert_eq!(heard["payload"], ack["payload"]);
        assert_eq!(heard["sender"], room["names"][0]);
        assert_eq!(heard["channel"], "a b.c");
    }
    assert_eq!(
        room["answer"]["type"], "message_response",
        "{}",
        room["answer"]
    );
    assert_eq!(room["reply"]["payload"], json!({"re": 1}));
    assert_eq!(
        room["history"]["payload"]["data"]["count"], 3,
        "{}",
        room["history"]
    );
    assert_eq!(room["left"]["status"], "success");
    assert_eq!(room["again"]["error_code"], "NOT_MEMBER");

    let answers = scene(&node, "commands");
    let answers = answers.as_array().expect("a list");
    let outcomes: Vec<&Value> = answers
        .iter()
        .map(|answer| answer.get("error_code").unwrap_or(&answer["status"]))
        .collect();
    let wanted = [
        "success",
        "success",
        "success",
        "success",
        "success",
        "success",
        "success",
        "VALIDATION_ERROR",
        "VALIDATION_ERROR",
        "UNKNOWN_COMMAND",
        "VALIDATION_ERROR",
        "success",
    ];
    assert_eq!(outcomes, wanted);
    assert!(answers.iter().all(|answer| answer["type"] == "response"));
    let data = |index: usize| &answers[index]["payload"]["data"];
    assert!(data(3)["total"].as_u64() > Some(20), "{}", data(3));
    let channel = &data(5)["channels"][0];
    assert_eq!(
        (&channel["name"], &channel["records"], &channel["joined"]),
        (&"c".into(), &1.into(), &true.into())
    );
    assert_eq!(
        (&data(6)["records"], &data(6)["joined"]),
        (&1.into(), &true.into())
    );

    let refused = scene(&node, "refused");
    assert_eq!(refused["status"], 401);
    assert!(
        refused["challenge"]
            .as_str()
            .is_some_and(|text| text.starts_with("Bearer"))
    );
    assert_eq!(refused["body"]["error"]["code"], "UNAUTHENTICATED");
}

// OPS-01, OPS-02: an operator of the older system joins with what it knows, gets tasks as commands,
// and answers them with its types.
#[test]
fn an_older_operator_joins_and_answers() {
    let node = Node::dev();
    let (mut worker, id) = Client::json(&node);
    let join = json!({"group": "truth_workers", "auth_token": "of the older system"});
    let joined = worker.ask(&json!({"type": "operator.join", "payload": join}));
    assert_eq!(joined["status"], "success", "{joined}");
    assert_eq!(joined["payload"]["data"]["instance"], json!(id));

    let (mut asker, _) = Client::json(&node);
    let answer = asker.ask(&command("truth.verify", &json!({"claim": "x", "n": 5})));
    assert_eq!(answer["payload"]["message"], "Task enqueued", "{answer}");
    let task = worker.next();
    let (kind, name) = (&task["type"], &task["command"]);
    assert_eq!(
        (kind, name),
        (&json!("command"), &json!("truth.verify")),
        "{task}"
    );
    assert_eq!(task["args"], json!({"claim": "x", "n": 5}));
    assert_eq!(task["id"], answer["payload"]["data"]["task"]);
    let error = json!({"type": "operator_error", "request_id": task["id"], "error": "busy"});
    let again = worker.ask(&error);
    assert_eq!(again["payload"]["data"]["state"], "again", "{again}");
    let task = worker.next();
    assert_eq!(task["metadata"]["attempt"], 2, "{task}");
    let result =
        json!({"type": "operator_result", "request_id": task["id"], "payload": {"verdict": true}});
    let taken = worker.ask(&result);
    assert_eq!(taken["payload"]["data"]["state"], "done", "{taken}");
    let twice = worker.ask(&result);
    assert_eq!(twice["error_code"], "STALE", "{twice}");
}
