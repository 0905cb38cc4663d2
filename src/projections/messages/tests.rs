//! What a message becomes in the table of the older system.

use prost_types::value::Kind as Is;
use serde_json::json;

use super::*;
use crate::log::{Micros, Sequence};
use crate::projections::projection::Payloads;
use crate::proto::v1::{Envelope, Event, Record, envelope};

#[derive(Debug)]
struct Registered;

impl Payloads for Registered {
    fn to_json(&self, tenant: &str, record: &RecordView<'_>) -> Option<Value> {
        (tenant == "acme" && record.envelope.schema == "acme.Order").then(|| json!({"sku": "x"}))
    }
}

fn rooms(topic: &str) -> Option<(String, String)> {
    let (room, channel) = topic.strip_prefix("room.")?.split_once('.')?;
    Some((room.to_owned(), channel.to_owned()))
}

fn messages(proto: bool) -> Messages {
    let entry = json!({"topics": ["room.>", "order.>"], "proto": proto});
    let entry: MessageEntry = serde_json::from_value(entry).unwrap();
    Messages::new(&entry, rooms)
}

fn read(projection: &Messages, topic: &str, envelope: &Envelope) -> Result<Row, Poison> {
    let encoded = Record {
        sequence: 7,
        appended_at: 1_517_363_399_650_001,
        topic: topic.into(),
        producer_id: "ann".into(),
        envelope: envelope.encode_to_vec().into(),
        ..Record::default()
    }
    .encode_to_vec();
    let record = RecordView::parse(&encoded).unwrap();
    let changes = projection.read(&Source {
        tenant: "acme",
        reality: "main",
        sequence: Sequence::at_least_first(record.sequence),
        appended_at: Micros(record.appended_at),
        record: &record,
        payloads: &Registered,
    })?;
    let [Change::Put { table: 0, row }] = &changes[..] else {
        panic!("a row: {changes:?}");
    };
    Ok(row.clone())
}

fn event(kind: &str, data: Vec<u8>) -> Envelope {
    let event = Event {
        r#type: kind.into(),
        data: data.into(),
    };
    Envelope {
        id: "01900000-0000-7000-8000-000000000001".into(),
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    }
}

/// As a client of the older system sends it.
fn older(room: &str, channel: &str) -> Envelope {
    let text = prost_types::Value {
        kind: Some(Is::StringValue("hello".into())),
    };
    let payload = BusPayload {
        envelope_id: "arq_1_2_abcdef".into(),
        envelope_type: "message".into(),
        sender: "arq_client_1".into(),
        channel: channel.into(),
        payload: Some(prost_types::Struct {
            fields: [("text".to_owned(), text)].into(),
        }),
        ..BusPayload::default()
    };
    Envelope {
        id: String::new(),
        trace_id: "arq_1_2_abcdef".into(),
        room_id: room.into(),
        headers: [("envelope_type".to_owned(), "message".to_owned())].into(),
        ..event("message", payload.encode_to_vec())
    }
}

// PRJ-19
#[test]
fn a_message_is_a_row_of_the_older_table() {
    let projection = messages(true);
    let table = &projection.tables()[0];
    assert_eq!(table.name, "arqonbus_message_history");
    let names: Vec<&str> = table.columns.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "tenant_id",
            "message_id",
            "room",
            "channel",
            "sender",
            "stored_at",
            "envelope",
            "envelope_proto",
            "topic",
            "sequence"
        ]
    );
    let envelope = older("science", "explore");
    let row = read(&projection, "room.science.explore", &envelope).unwrap();
    let texts: Vec<Option<&str>> = row.0[..5].iter().map(Cell::text).collect();
    let wanted = [
        "acme",
        "arq_1_2_abcdef",
        "science",
        "explore",
        "arq_client_1",
    ];
    assert_eq!(texts, wanted.map(Some));
    assert_eq!(row.0[5], Cell::Timestamp(Micros(1_517_363_399_650_001)));
    let shown: Value = serde_json::from_str(row.0[6].text().unwrap()).unwrap();
    assert_eq!(shown["topic"], "room.science.explore");
    assert_eq!(shown["payload"]["payload"]["text"], "hello");
    assert_eq!(row.0[7], Cell::Bytes(envelope.encode_to_vec().into()));
    assert_eq!(
        row.0[8..],
        [Cell::from("room.science.explore"), Cell::Integer(7)]
    );
    assert_eq!(
        read(&messages(false), "room.science.explore", &envelope)
            .unwrap()
            .0[7],
        Cell::Null
    );
}

// PRJ-19: as it was, what is not named is `default`.
#[test]
fn a_room_that_nobody_named_is_the_default() {
    let place = |topic: &str, envelope: &Envelope| {
        let row = read(&messages(true), topic, envelope).unwrap();
        let text = |at: usize| row.0[at].text().unwrap().to_owned();
        (text(2), text(3), text(4))
    };
    let is = |room: &str, channel: &str, sender: &str| {
        (room.to_owned(), channel.to_owned(), sender.to_owned())
    };
    assert_eq!(
        place("room.a.main", &older("a", "")),
        is("a", "default", "arq_client_1")
    );
    assert_eq!(
        place("message", &older("", "")),
        is("default", "default", "arq_client_1")
    );
    let plain = event("x", b"1".to_vec());
    assert_eq!(place("room.a.b", &plain), is("a", "b", "ann"));
    assert_eq!(place("order.made", &plain), is("default", "default", "ann"));
    let named = Envelope {
        room_id: "hall".into(),
        headers: [("channel".to_owned(), "c".to_owned())].into(),
        ..plain
    };
    assert_eq!(place("order.made", &named), is("hall", "c", "ann"));
}

// PRJ-19: as JSON, whatever it was sent as.
#[test]
fn a_payload_of_a_registered_schema_is_read_by_it() {
    let envelope = Envelope {
        schema: "acme.Order".into(),
        ..event("order", vec![0xff, 0xfe])
    };
    let row = read(&messages(true), "order.made", &envelope).unwrap();
    let shown: Value = serde_json::from_str(row.0[6].text().unwrap()).unwrap();
    assert_eq!(shown["payload"], json!({"sku": "x"}));
    let unknown = Envelope {
        schema: "acme.Else".into(),
        ..envelope
    };
    let row = read(&messages(true), "order.made", &unknown).unwrap();
    let shown: Value = serde_json::from_str(row.0[6].text().unwrap()).unwrap();
    assert_eq!(shown["payload"]["base64"], "//4=");
}

// PRJ-04
#[test]
fn what_no_table_can_hold_is_poison() {
    for envelope in [
        event("x", br#"{"a":"b\u0000c"}"#.to_vec()),
        event("x", b"1e999".to_vec()),
    ] {
        let poison = read(&messages(true), "order.made", &envelope).unwrap_err();
        assert_eq!(poison.field, "envelope");
        assert_eq!(poison.event_id, envelope.id);
    }
    let long = Envelope {
        trace_id: "x".repeat(600),
        ..older("a", "b")
    };
    assert_eq!(
        read(&messages(true), "room.a.b", &long).unwrap_err().field,
        "message_id"
    );
}
