//! Payloads that are protobuf messages: named by the envelope or by the command line, known or not.

use std::path::Path;

use arqonbus::log::{Durability, NewRecord};
use arqonbus::proto::v1::{ConsumerCursor, Envelope, Event, envelope};
use bytes::Bytes;
use prost::Message as _;
use prost_reflect::DescriptorPool;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, Timestamp,
};
use serde_json::json;

use crate::made::{Made, logdump};

/// What `acme.proto` would say, and what a producer of it sends.
#[derive(Clone, PartialEq, prost::Message)]
struct Order {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    at: Option<Timestamp>,
    #[prost(int64, tag = "3")]
    cents: i64,
    /// Of a later version of the message than the descriptors.
    #[prost(string, tag = "9")]
    coupon: String,
}

/// As `protoc --include_imports` writes it: the well-known file comes along, in another version.
fn descriptors(path: &Path) {
    let field = |name: &str, number, kind: Type, type_name: Option<&str>| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(kind.into()),
        type_name: type_name.map(str::to_owned),
        ..FieldDescriptorProto::default()
    };
    let order = DescriptorProto {
        name: Some("Order".to_owned()),
        field: vec![
            field("id", 1, Type::String, None),
            field("at", 2, Type::Message, Some(".google.protobuf.Timestamp")),
            field("cents", 3, Type::Int64, None),
        ],
        ..DescriptorProto::default()
    };
    let acme = FileDescriptorProto {
        name: Some("acme.proto".to_owned()),
        package: Some("acme".to_owned()),
        dependency: vec!["google/protobuf/timestamp.proto".to_owned()],
        message_type: vec![order],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    };
    let known = DescriptorPool::global()
        .get_file_by_name("google/protobuf/timestamp.proto")
        .unwrap();
    let known = FileDescriptorProto {
        options: None,
        ..known.file_descriptor_proto().clone()
    };
    let set = FileDescriptorSet {
        file: vec![known, acme],
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's file need not be durable"
    )]
    std::fs::write(path, set.encode_to_vec()).unwrap();
}

fn order() -> Order {
    Order {
        id: "o-1".to_owned(),
        at: Some(Timestamp {
            seconds: 1_517_363_399,
            nanos: 0,
        }),
        cents: 1250,
        coupon: String::new(),
    }
}

fn record(topic: &'static str, schema: &str, data: Vec<u8>) -> NewRecord {
    let event = Event {
        r#type: "order".to_owned(),
        data: data.into(),
    };
    let envelope = Envelope {
        schema: schema.to_owned(),
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    };
    NewRecord {
        topic: Bytes::from_static(topic.as_bytes()),
        clock_entries: Bytes::new(),
        stamp: Bytes::new(),
        envelope: envelope.encode_to_vec().into(),
    }
}

struct Orders {
    _dir: tempfile::TempDir,
    log: String,
    descriptors: String,
}

fn orders(records: Vec<NewRecord>) -> Orders {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acme/main");
    let made = Made::open(&log, 32 << 10);
    made.batch(records, Durability::Synced);
    made.close();
    let path = dir.path().join("acme.binpb");
    descriptors(&path);
    Orders {
        log: log.display().to_string(),
        descriptors: path.display().to_string(),
        _dir: dir,
    }
}

// TOOL-03: a payload with a schema is decoded by a descriptor set, beside its bytes.
#[test]
fn a_schema_is_looked_up_in_the_descriptors() {
    let bytes = order().encode_to_vec();
    let made = orders(vec![record("orders.paid", "acme.Order", bytes)]);
    let known = ["--descriptors", made.descriptors.as_str()];
    let json = ["cat", &made.log, "-o", "json"];
    let run = logdump(&[&json[..], &known].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let line = &run.lines()[0];
    let expected = json!({ "id": "o-1", "at": "2018-01-31T01:49:59Z", "cents": "1250" });
    assert_eq!(line["payload"], expected);
    assert_eq!(line["decoding"]["message"], "acme.Order");
    let bytes = line["decoding"]["base64"].as_str().unwrap();
    assert!(bytes.starts_with("CgNvLTE"), "{bytes}");
    assert!(line["decoding"].get("undeclared_fields").is_none());

    let shown = logdump(&["show", "1", &made.log, known[0], known[1]]).stdout;
    assert!(shown.contains("acme.Order"), "{shown}");
    assert!(shown.contains("\"cents\": \"1250\""), "{shown}");
    let shown = logdump(&["show", "1", &made.log, "-o", "json", known[0], known[1]]).json();
    assert_eq!(shown["record"]["payload"], expected);
    let text = logdump(&["cat", &made.log, known[0], known[1]]).stdout;
    assert!(text.contains(r#"{"id":"o-1","at":"#), "{text}");
    let grep = logdump(&["grep", "o-1", &made.log, "-o", "json", known[0], known[1]]);
    assert_eq!(grep.lines()[0]["payload"], expected);
}

// TOOL-03: an unknown message is shown by its fields, and it is said why.
#[test]
fn an_unknown_message_is_shown_by_number() {
    let bytes = order().encode_to_vec();
    let made = orders(vec![record("orders.paid", "acme.Order", bytes)]);
    let run = logdump(&["cat", &made.log, "-o", "json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let line = &run.lines()[0];
    assert_eq!(line["payload"]["type"], "acme.Order");
    assert!(line["payload"]["base64"].is_string(), "{line}");
    let decoding = &line["decoding"];
    assert_eq!(
        decoding["why"],
        "message acme.Order is in no descriptor set"
    );
    let fields = json!([
        { "number": 1, "wire": "bytes", "value": "o-1" },
        { "number": 2, "wire": "bytes", "fields": [
            { "number": 1, "wire": "varint", "value": 1_517_363_399 },
        ]},
        { "number": 3, "wire": "varint", "value": 1250 },
    ]);
    assert_eq!(decoding["fields"], fields);
    let shown = logdump(&["show", "1", &made.log]).stdout;
    for part in [
        "message acme.Order is in no descriptor set",
        "  1 bytes \"o-1\"",
        "  2 bytes\n",
        "    1 varint 1517363399",
        "  3 varint 1250",
    ] {
        assert!(shown.contains(part), "{part} is missing in {shown}");
    }
    let text = logdump(&["cat", &made.log]).stdout;
    assert!(
        text.contains(r#"of acme.Order) 1:"o-1" 2:{1:1517363399} 3:1250"#),
        "{text}"
    );
}

// TOOL-03
#[test]
fn bytes_that_are_not_their_message_are_shown_as_far_as_they_go() {
    let mut bytes = order().encode_to_vec();
    bytes.truncate(bytes.len() - 1);
    let made = orders(vec![record("orders.paid", "acme.Order", bytes)]);
    let known = ["--descriptors", made.descriptors.as_str()];
    let run = logdump(&[&["cat", &made.log, "-o", "json"][..], &known].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let decoding = &run.lines()[0]["decoding"];
    let why = decoding["why"].as_str().unwrap();
    assert!(why.starts_with("not a acme.Order: "), "{why}");
    assert_eq!(decoding["fields"][0]["value"], "o-1");
    assert_eq!(decoding["broken_at"], 13);
    let shown = logdump(&["show", "1", &made.log, known[0], known[1]]).stdout;
    assert!(shown.contains("byte 13 begins no field"), "{shown}");
}

// TOOL-03: --message names what envelopes do not, and never overrides them.
#[test]
fn a_message_can_be_named_by_topic() {
    let bytes = order().encode_to_vec();
    let made = orders(vec![
        record("orders.paid", "", bytes.clone()),
        record("orders.paid", "google.protobuf.Timestamp", vec![0x08, 0x01]),
        record("other", "", bytes),
        record("orders.paid", "", br#"{"text":1}"#.to_vec()),
        record("orders.paid", "", vec![0xff, 0xd8, 0xff]),
    ]);
    let cat = |more: &[&str]| {
        let known = ["--descriptors", made.descriptors.as_str()];
        let run = logdump(&[&["cat", &made.log, "-o", "json"][..], &known, more].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.lines()
    };
    let lines = cat(&["--message", "orders.*=acme.Order"]);
    assert_eq!(lines[0]["payload"]["id"], "o-1");
    assert_eq!(lines[1]["payload"], "1970-01-01T00:00:01Z");
    assert_eq!(lines[2]["decoding"]["fields"][2]["value"], 1250);
    let why = lines[2]["decoding"]["why"].as_str().unwrap();
    assert!(why.starts_with("no message is named for it"), "{why}");
    assert_eq!(lines[3]["payload"], json!({ "text": 1 }));
    assert!(lines[3].get("decoding").is_none());
    assert!(lines[4]["payload"]["base64"].is_string());
    // Without the option, bytes that look like nothing are left alone.
    let lines = cat(&[]);
    assert!(lines[4].get("decoding").is_none(), "{}", lines[4]);
    // For people the same: fields where nothing is named, text where it is text.
    let text = logdump(&["cat", &made.log]).stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[2].ends_with(r#"1:"o-1" 2:{1:1517363399} 3:1250"#),
        "{text}"
    );
    assert!(lines[3].ends_with(r#"{"text":1}"#), "{text}");
    assert!(lines[4].ends_with("(3 bytes of order)"), "{text}");

    let run = logdump(&["cat", &made.log, "--message", ">=acme.Nothing"]);
    assert_eq!(run.code, 0);
    assert!(
        run.stderr.contains("acme.Nothing is in no descriptor set"),
        "{}",
        run.stderr
    );
    let wrong = logdump(&["cat", &made.log, "--message", "orders.paid"]);
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
    let wrong = logdump(&["cat", &made.log, "--descriptors", "/nonexistent"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("/nonexistent"), "{}", wrong.stderr);
}

// TOOL-03: fields of a newer producer are shown, by number.
#[test]
fn fields_that_the_descriptors_do_not_have_are_shown_too() {
    let newer = Order {
        coupon: "X".to_owned(),
        ..order()
    };
    let made = orders(vec![record(
        "orders.paid",
        "acme.Order",
        newer.encode_to_vec(),
    )]);
    let known = ["--descriptors", made.descriptors.as_str()];
    let run = logdump(&[&["cat", &made.log, "-o", "json"][..], &known].concat());
    let line = &run.lines()[0];
    assert_eq!(line["payload"]["cents"], "1250");
    assert_eq!(
        line["decoding"]["undeclared_fields"],
        json!([{ "number": 9, "wire": "bytes", "value": "X" }])
    );
}

// TOOL-03: what the broker stores about itself needs no file.
#[test]
fn records_of_the_system_are_decoded_without_descriptors() {
    let cursor = ConsumerCursor {
        reality: "main".to_owned(),
        consumer: "billing".to_owned(),
        sequence: 42,
        filter: "orders.>".to_owned(),
        ..ConsumerCursor::default()
    };
    let made = orders(vec![record(
        "sys.consumer.main.billing",
        "arqon.v1.ConsumerCursor",
        cursor.encode_to_vec(),
    )]);
    let lines = logdump(&["cat", &made.log, "-o", "json"]).lines();
    assert_eq!(lines[0]["payload"]["consumer"], "billing");
    assert_eq!(lines[0]["payload"]["sequence"], "42");
}

// TOOL-03: pages that several threads have formatted come out in order, whole.
#[test]
fn many_records_come_out_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acme/main");
    let made = Made::open(&log, 1 << 20);
    const COUNT: u64 = 12_000;
    crate::made::fill(&made, COUNT);
    made.close();
    let log = log.display().to_string();
    let run = logdump(&["cat", &log, "-o", "json"]);
    assert_eq!(run.sequences(), (1..=COUNT).collect::<Vec<_>>());
    let ordered = |output: &str| {
        let run = logdump(&["cat", &log, "-o", output]);
        let found: Vec<u64> = run
            .stdout
            .lines()
            .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(found, (1..=COUNT).collect::<Vec<_>>(), "{output}");
    };
    ordered("text");
    ordered("hex");
}
