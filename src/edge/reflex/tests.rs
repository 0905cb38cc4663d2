//! What may stand on the topics of Reflex, and what may not.

use prost::Message as _;
use serde_json::json;

use super::*;
use crate::broker::{Identity, Role, Tenant, Topics};
use crate::edge::json::structure::structure;
use crate::proto::v1::{Envelope, Event, ReflexPointer, ReflexRecord, envelope};
use crate::proto::view::EnvelopeView;

/// What comes of an envelope on `topic`: the code and the field, or nothing.
fn judged(topic: &str, envelope: &Envelope) -> Option<(ErrorCode, String)> {
    let sender = Identity {
        tenant: Tenant::new("t").unwrap(),
        subject: "agent".into(),
        role: Role::User,
        publish: Topics::All,
        subscribe: Topics::All,
        expires_at: None,
        issued_at: None,
        token_id: None,
        ends_by: None,
    };
    let encoded = envelope.encode_to_vec();
    let view = EnvelopeView::parse(&encoded).unwrap();
    let message = Message {
        sender: &sender,
        topic,
        view: &view,
        now_ms: 1,
    };
    let blocked = Boundary::default()
        .check(&message, view.payload.data())
        .err()?;
    Some((blocked.code, blocked.field.into_owned()))
}

fn with(schema: &str, data: impl Into<Vec<u8>>) -> Envelope {
    Envelope {
        schema: schema.into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: "e".into(),
            data: data.into().into(),
        })),
        ..Envelope::default()
    }
}

fn json(value: &serde_json::Value) -> Option<(ErrorCode, String)> {
    judged("reflex.hints", &with("", value.to_string()))
}

fn violation(field: &str) -> Option<(ErrorCode, String)> {
    Some((ErrorCode::SchemaViolation, field.to_owned()))
}

fn pointer() -> ReflexPointer {
    ReflexPointer {
        episode_id: "e1".into(),
        kind: "stored".into(),
        uri: "sled://agent/episodes/e1".into(),
        ..ReflexPointer::default()
    }
}

// BRK-17
#[test]
fn pointers_pass_in_either_form() {
    let protobuf = |pointer: &ReflexPointer| with(POINTER, pointer.encode_to_vec());
    assert_eq!(judged("reflex.hints", &protobuf(&pointer())), None);
    let record = Some(ReflexRecord {
        topic: "continuum.episode.v1".into(),
        sequence: 7,
    });
    let of_record = ReflexPointer {
        uri: String::new(),
        record,
        digest: vec![1; 32].into(),
        ..pointer()
    };
    assert_eq!(judged("reflex", &protobuf(&of_record)), None);
    let plain = json!({ "episode_id": "e1", "kind": "wanted", "uri": "ram:e1" });
    assert_eq!(json(&plain), None);
    let full = json!({
        "episode_id": "e1", "kind": "stored", "digest": "ab".repeat(32),
        "record": { "topic": "continuum.episode.v1", "sequence": 7 },
    });
    assert_eq!(json(&full), None);
    // The key is gone.
    let gone = Envelope {
        key: "e1".into(),
        ..with("", "")
    };
    assert_eq!(judged("reflex.leases", &gone), None);
    // Other topics are none of its business.
    for topic in ["reflexes.a", "a.reflex", "continuum.episode.v1"] {
        assert_eq!(
            judged(topic, &with("", vec![0xff; 100_000])),
            None,
            "{topic}"
        );
    }
}

// BRK-17: everything that is or could hold an episode is refused, with its field.
#[test]
fn bodies_do_not_pass_however_they_are_wrapped() {
    for body in [
        "raw_content",
        "episode_body",
        "embedding_vector",
        "full_state_dump",
    ] {
        let mut value = json!({ "episode_id": "e1", "kind": "stored", "uri": "ram:e1" });
        value[body] = json!("all of it");
        assert_eq!(json(&value), violation(&format!("data.{body}")));
    }
    let deep = json!({
        "episode_id": "e1", "kind": "stored",
        "record": { "topic": "a", "sequence": 1, "body": "all of it" },
    });
    assert_eq!(json(&deep), violation("data.record.body"));
    let mut hidden = pointer().encode_to_vec();
    // Field 99, which no pointer has.
    hidden.extend_from_slice(&[0x9a, 0x06, 4, 1, 2, 3, 4]);
    assert_eq!(
        judged("reflex.a", &with(POINTER, hidden)),
        violation("data")
    );
    for data in ["all of it", "[1]", "\"all of it\"", "{}", ""] {
        assert!(judged("reflex.a", &with("", data)).is_some(), "{data}");
    }
    let large = Envelope {
        headers: [("body".to_owned(), "x".repeat(5_000))].into(),
        ..with(POINTER, pointer().encode_to_vec())
    };
    let refused = judged("reflex.a", &large);
    assert_eq!(refused, Some((ErrorCode::TooLarge, String::new())));
}

// BRK-17
#[test]
fn every_field_is_held_against_the_contract() {
    let changed = |field: &str, value: serde_json::Value| {
        let mut all = json!({ "episode_id": "e1", "kind": "stored", "uri": "ram:e1" });
        all[field] = value;
        json(&all)
    };
    for (field, value, found) in [
        ("episode_id", json!(""), "data.episode_id"),
        ("episode_id", json!("e".repeat(129)), "data.episode_id"),
        ("episode_id", json!(7), "data.episode_id"),
        ("kind", json!("two words"), "data.kind"),
        ("uri", json!("https://elsewhere/e1"), "data.uri"),
        ("uri", json!(""), "data.uri"),
        ("uri", json!("ram:all of it"), "data.uri"),
        ("record", json!({ "topic": "a", "sequence": 1 }), "data.uri"),
        ("record", json!("a"), "data.record"),
        ("digest", json!("abcd"), "data.digest"),
        ("digest", json!("xyz"), "data.digest"),
    ] {
        assert_eq!(
            changed(field, value.clone()),
            violation(found),
            "{field}: {value}"
        );
    }
}

// BRK-17: clients of the older protocol wrap what they say.
#[test]
fn what_older_clients_wrap_is_held_against_it_too() {
    let wrapped = |value: serde_json::Value| {
        let payload = BusPayload {
            payload: Some(structure(value.as_object().unwrap().clone(), false).unwrap()),
            ..BusPayload::default()
        };
        judged("reflex.a", &with(BUS_PAYLOAD, payload.encode_to_vec()))
    };
    let good = json!({
        "episode_id": "e1", "kind": "stored",
        "record": { "topic": "a", "sequence": 7 },
    });
    assert_eq!(wrapped(good.clone()), None);
    let mut body = good;
    body["episode_body"] = json!("all of it");
    assert_eq!(wrapped(body), violation("data.episode_body"));
}
