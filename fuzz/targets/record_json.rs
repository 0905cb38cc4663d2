//! Target: a record as people and scripts read it.
//!
//! Whatever a producer put into it, the line is one line of valid JSON of bounded length.

use std::sync::OnceLock;

use arqonbus::proto::json::{Origin, RecordJson, Schemas};
use arqonbus::proto::v1::{Envelope, Event, Record, envelope};
use arqonbus::proto::view::RecordView;
use prost::Message as _;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A schema for payloads, most of whose forms are other than their bytes.
const SCHEMAS: [&str; 4] = [
    "",
    "arqon.pybus.v1.BusPayload",
    "arqon.v1.ServerFrame",
    "google.protobuf.FileDescriptorSet",
];

#[derive(Deserialize)]
struct Line {
    sequence: u64,
    payload: IgnoredAny,
}

/// The first byte says what the others are: a record, or a payload to put into one with or without
/// a schema and a content type.
///
/// # Panics
/// Something does not hold.
pub fn record_json(data: &[u8]) {
    let Some((&form, rest)) = data.split_first() else {
        return;
    };
    if form & 1 == 0 {
        show(rest);
        return;
    }
    let event = Event {
        r#type: "made".into(),
        data: rest.to_vec().into(),
    };
    let mut message = Envelope {
        schema: SCHEMAS[usize::from(form >> 1) % SCHEMAS.len()].into(),
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    };
    if form & 0x80 != 0 {
        let kind = ("content-type".to_owned(), "application/json".to_owned());
        message.headers.extend([kind]);
    }
    let record = Record {
        sequence: 7,
        envelope: message.encode_to_vec().into(),
        ..Record::default()
    };
    show(&record.encode_to_vec());
}

fn show(bytes: &[u8]) {
    static KNOWN: OnceLock<Schemas> = OnceLock::new();
    let Ok(view) = RecordView::parse(bytes) else {
        return;
    };
    let origin = Origin {
        tenant: "dev",
        reality: "main",
    };
    let schemas = KNOWN.get_or_init(Schemas::builtin);
    let Ok(line) = RecordJson::new(&view, origin, schemas).to_line() else {
        return;
    };
    assert!(
        !line.contains(&b'\n') && !line.contains(&b'\r'),
        "two lines"
    );
    // A byte of text takes at most six as an escape; a field decoded by a schema brings its name
    // along, and an empty one of its message costs a producer two bytes.
    let limit = 4096 + 128 * bytes.len();
    assert!(line.len() <= limit, "{} became {}", bytes.len(), line.len());
    let read: Line = serde_json::from_slice(&line)
        .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&line)));
    assert_eq!(read.sequence, view.sequence);
    let IgnoredAny = read.payload;
}
