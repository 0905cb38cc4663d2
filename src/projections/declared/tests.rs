//! What a record becomes in a table that the settings declare.

use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::config::projections::ProjectionEntry;
use crate::log::{Micros, Sequence};
use crate::projections::fold::{Entry, Known, Outcome, Repeats, question};
use crate::projections::projection::Payloads;
use crate::proto::v1::{Envelope, Event, Record, envelope};
use crate::proto::view::RecordView;

/// Payloads that are JSON.
#[derive(Debug)]
struct Plain;

impl Payloads for Plain {
    fn to_json(&self, _tenant: &str, record: &RecordView<'_>) -> Option<Value> {
        serde_json::from_slice(record.envelope.payload.data()).ok()
    }
}

fn entry(declaration: Value) -> ProjectionEntry {
    serde_json::from_value(declaration).unwrap()
}

fn quakes() -> Declared {
    let entry = entry(json!({
        "name": "quakes", "topics": ["quake.>"], "key": ["id"], "order_by": "updated",
        "columns": [
            {"name": "id", "type": "text", "required": true},
            {"name": "magnitude", "from": "properties.mag", "type": "float", "required": true},
            {"name": "updated", "from": "properties.updated", "type": "timestamp_ms", "required": true},
            {"name": "longitude", "from": "geometry.coordinates.0", "type": "float"},
            {"name": "properties", "type": "json"},
            {"name": "topic", "from": "$topic", "type": "text"},
        ],
    }));
    Declared::new(&entry).unwrap()
}

fn presence() -> Declared {
    let entry = entry(json!({
        "name": "presence", "topics": ["presence.>"], "key": ["who"], "sinks": ["sled"],
        "columns": [
            {"name": "who", "from": "$key", "type": "text", "required": true},
            {"name": "state", "type": "text", "required": true},
        ],
    }));
    Declared::new(&entry).unwrap()
}

fn record(sequence: u64, topic: &str, key: &str, data: &[u8]) -> Vec<u8> {
    let event = Event {
        r#type: "x".into(),
        data: data.to_vec().into(),
    };
    let envelope = Envelope {
        id: format!("01900000-0000-7000-8000-{sequence:012}"),
        key: key.into(),
        timestamp: 1_517_363_399_650,
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    };
    Record {
        sequence,
        appended_at: 1_517_363_399_650_001,
        topic: topic.into(),
        envelope: envelope.encode_to_vec().into(),
        ..Record::default()
    }
    .encode_to_vec()
}

fn read(projection: &Declared, encoded: &[u8]) -> Result<Vec<Change>, Poison> {
    let record = RecordView::parse(encoded).unwrap();
    projection.read(&Source {
        tenant: "acme",
        reality: "main",
        sequence: Sequence::at_least_first(record.sequence),
        appended_at: Micros(record.appended_at),
        record: &record,
        payloads: &Plain,
    })
}

fn quake(sequence: u64, payload: &Value) -> Result<Vec<Change>, Poison> {
    let data = payload.to_string();
    read(
        &quakes(),
        &record(sequence, "quake.us", "", data.as_bytes()),
    )
}

fn big_one() -> Value {
    json!({
        "id": "us1", "geometry": {"coordinates": [-117.5, 35.7]},
        "properties": {"mag": 7.1, "updated": 1_517_363_399_650_i64},
    })
}

/// What becomes of records, and the row that is left.
fn folded(projection: &Declared, records: &[Vec<u8>]) -> (Vec<Outcome>, Option<Row>) {
    let tables = projection.tables();
    let entries: Vec<Entry> = records
        .iter()
        .map(|encoded| Entry {
            sequence: Sequence::at_least_first(RecordView::parse(encoded).unwrap().sequence),
            changes: read(projection, encoded).unwrap(),
        })
        .collect();
    let mut known = Known::default();
    let asked = question(tables, &entries);
    let nothing = vec![None; asked.keys.len()];
    known.learn(asked, nothing);
    let folded = known.fold(tables, entries, Repeats::AreDone);
    let mut rows = folded.writes.into_iter().filter_map(|write| match write {
        crate::projections::sink::Write::Put { row, .. } => Some(row),
        crate::projections::sink::Write::Remove { .. } => None,
    });
    (folded.outcomes, rows.next())
}

// PRJ-14
#[test]
fn a_record_becomes_the_row_that_is_declared() {
    let projection = quakes();
    let table = &projection.tables()[0];
    let names: Vec<&str> = table.columns.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "tenant_id",
            "id",
            "magnitude",
            "updated",
            "longitude",
            "properties",
            "topic",
            "deleted",
            "sequence",
            "event_id"
        ]
    );
    assert_eq!(table.key, [0, 1]);
    assert_eq!(table.rule, Rule::Newest(vec![3, 8]));
    assert_eq!(projection.tables()[1].name, "quakes_dlq");
    assert_eq!(projection.topics(), ["quake.>", "dlq.projection.quakes"]);
    assert_eq!(projection.sinks(), []);
    let row = Row(vec![
        Cell::from("acme"),
        Cell::from("us1"),
        Cell::Float(7.1),
        Cell::Timestamp(Micros(1_517_363_399_650_000)),
        Cell::Float(-117.5),
        Cell::Json(r#"{"mag":7.1,"updated":1517363399650}"#.into()),
        Cell::from("quake.us"),
        Cell::Boolean(false),
        Cell::Integer(9),
        Cell::from("01900000-0000-7000-8000-000000000009"),
    ]);
    assert_eq!(
        quake(9, &big_one()),
        Ok(vec![Change::Put { table: 0, row }])
    );
}

// PRJ-14, PRJ-04: what is wrong is named by its path.
#[test]
fn what_does_not_fit_is_poison_by_its_path() {
    let without = |path: &[&str], value: Value| {
        let mut payload = big_one();
        let pointer = format!("/{}", path.join("/"));
        *payload.pointer_mut(&pointer).unwrap() = value;
        payload
    };
    for (payload, field, said) in [
        (
            without(&["properties", "mag"], Value::Null),
            "properties.mag",
            "is missing",
        ),
        (
            without(&["properties", "mag"], json!("big")),
            "properties.mag",
            "must be a number",
        ),
        (without(&["id"], Value::Null), "id", "is missing"),
        (without(&["id"], json!("a\0b")), "id", "NUL"),
        (
            without(&["id"], json!("x".repeat(600))),
            "id",
            "longer than",
        ),
        (
            without(&["properties", "updated"], json!("soon")),
            "properties.updated",
            "milliseconds",
        ),
        // What is there must fit, even where nothing needs to be there.
        (
            without(&["geometry", "coordinates", "0"], json!("west")),
            "geometry.coordinates.0",
            "must be a number",
        ),
        (json!([1, 2]), "id", "is missing"),
        (json!("text"), "id", "is missing"),
    ] {
        let poison = quake(9, &payload).unwrap_err();
        assert_eq!(poison.field, field, "{payload}");
        assert!(
            poison.reason.contains(field) && poison.reason.contains(said),
            "{poison}"
        );
        assert_eq!(poison.event_id, "01900000-0000-7000-8000-000000000009");
    }
    for data in [b"\xff\xfe".as_slice(), b"", b"{"] {
        let poison = read(&quakes(), &record(9, "quake.us", "k", data)).unwrap_err();
        assert_eq!(poison.field, "payload");
    }
    let missing = without(&["geometry"], Value::Null);
    let Change::Put { row, .. } = &quake(9, &missing).unwrap()[0] else {
        panic!("a row");
    };
    assert_eq!(row.0[4], Cell::Null);
}

// PRJ-14, PRJ-03: by the declared order, and by the log's among equals.
#[test]
fn the_newest_record_by_the_declared_order_decides() {
    let at = |sequence, updated: i64, mag: f64| {
        let payload = json!({"id": "us1", "properties": {"mag": mag, "updated": updated}});
        record(sequence, "quake.us", "", payload.to_string().as_bytes())
    };
    let records = [at(1, 2_000, 1.0), at(2, 1_000, 2.0), at(3, 2_000, 3.0)];
    let (outcomes, row) = folded(&quakes(), &records);
    let wanted = [Outcome::Projected, Outcome::Stale, Outcome::Projected];
    assert_eq!(outcomes, wanted);
    assert_eq!(row.unwrap().0[2], Cell::Float(3.0));
}

// PRJ-14, PRJ-03: a deleted row stays, so that what comes late does not bring it back.
#[test]
fn an_empty_payload_with_a_key_leaves_a_tombstone() {
    let projection = presence();
    assert_eq!(projection.sinks(), [SinkKind::Sled]);
    let here = |sequence| record(sequence, "presence.a", "ann", br#"{"state":"here"}"#);
    let gone = record(5, "presence.a", "ann", b"");
    let (_, row) = folded(&projection, &[here(3), gone.clone()]);
    let row = row.unwrap();
    assert_eq!(
        row.0[1..4],
        [Cell::from("ann"), Cell::Null, Cell::Boolean(true)]
    );
    let (outcomes, row) = folded(&projection, &[gone.clone(), here(3)]);
    assert_eq!(outcomes, [Outcome::Projected, Outcome::Stale]);
    assert_eq!(row.unwrap().0[3], Cell::Boolean(true));
    let (_, row) = folded(&projection, &[here(3), gone, here(7)]);
    assert_eq!(row.unwrap().0[3], Cell::Boolean(false));
    // Nobody is meant.
    let poison = read(&projection, &record(5, "presence.a", "", b"")).unwrap_err();
    assert_eq!(poison.field, "payload");
}

#[test]
fn where_the_payload_orders_an_empty_one_says_nothing() {
    let entry = entry(json!({
        "name": "p", "topics": ["p"], "key": ["k"], "order_by": "at",
        "columns": [
            {"name": "k", "from": "$key", "type": "text", "required": true},
            {"name": "at", "type": "integer", "required": true},
        ],
    }));
    let projection = Declared::new(&entry).unwrap();
    let poison = read(&projection, &record(1, "p", "k", b"")).unwrap_err();
    assert!(poison.reason.contains("$timestamp"), "{poison}");
}

// PRJ-04
#[test]
fn dead_letters_go_to_their_own_table_and_never_round_in_circles() {
    let projection = quakes();
    let bad = record(4, "quake.us", "", b"[]");
    let view = RecordView::parse(&bad).unwrap();
    let source = Source {
        tenant: "acme",
        reality: "main",
        sequence: Sequence::FIRST,
        appended_at: Micros(1),
        record: &view,
        payloads: &Plain,
    };
    let poison = projection.read(&source).unwrap_err();
    let event = letter::write(&projection, &source, &poison, None);
    assert_eq!(event.topic, "dlq.projection.quakes");
    let envelope = Envelope {
        schema: event.schema.into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: event.kind.into(),
            data: event.data,
        })),
        ..Envelope::default()
    };
    let stored = Record {
        sequence: 5,
        topic: event.topic,
        envelope: envelope.encode_to_vec().into(),
        ..Record::default()
    };
    let own = read(&projection, &stored.encode_to_vec()).unwrap();
    let [Change::Put { table: 1, row }] = &own[..] else {
        panic!("a row of dead letters: {own:?}");
    };
    let table = &projection.tables()[1];
    let of = |name: &str| row.0[table.column(name).unwrap()].clone();
    assert_eq!(of("reason"), Cell::from("projection_failed:id is missing"));
    assert_eq!(of("event"), Cell::Json("[]".into()));
    // What is no letter there says nothing.
    let noise = read(&projection, &record(6, "dlq.projection.quakes", "", b"?"));
    assert_eq!(noise, Ok(Vec::new()));
    let others = read(&quakes(), &record(4, "dlq.projection.other", "", b"?"));
    assert_eq!(others, Ok(Vec::new()));
}

// PRJ-14
#[test]
fn a_record_gives_what_is_not_in_its_payload() {
    let column =
        |name: &str, kind: &str| json!({"name": name, "from": format!("${name}"), "type": kind});
    let entry = entry(json!({
        "name": "all", "topics": [">"], "key": ["id"],
        "columns": [
            column("id", "text"), column("topic", "text"), column("key", "text"),
            column("producer", "text"), column("appended_at", "timestamp"),
            column("timestamp", "timestamp"),
        ],
    }));
    let projection = Declared::new(&entry).unwrap();
    // No column needs the payload, so that it may be anything.
    let changes = read(&projection, &record(4, "a.b", "", b"\xff")).unwrap();
    let Change::Put { row, .. } = &changes[0] else {
        panic!("a row");
    };
    let wanted = [
        Cell::from("01900000-0000-7000-8000-000000000004"),
        Cell::from("a.b"),
        Cell::Null,
        Cell::Null,
        Cell::Timestamp(Micros(1_517_363_399_650_001)),
        Cell::Timestamp(Micros(1_517_363_399_650_000)),
    ];
    assert_eq!(row.0[1..7], wanted);
}

#[test]
fn a_column_that_is_not_declared_is_named() {
    let entry = entry(json!({
        "name": "p", "topics": ["p"], "key": ["k"],
        "columns": [{"name": "x", "type": "text"}],
    }));
    let error = Declared::new(&entry).unwrap_err();
    assert_eq!((error.field, error.column.as_str()), ("key", "k"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[0-9TZ:+.eE-]{0,24}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        let names = prop_oneof![Just("a".to_owned()), Just("b".to_owned()), ".{0,4}"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(names, inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn of_every_type() -> Declared {
    let kinds = [
        "text",
        "integer",
        "float",
        "boolean",
        "timestamp",
        "timestamp_ms",
        "timestamp_s",
        "json",
        "bytes",
    ];
    let columns: Vec<Value> = kinds
        .iter()
        .map(|kind| json!({"name": format!("c_{kind}"), "from": kind.to_owned(), "type": kind}))
        .chain([json!({"name": "id", "from": "$id", "type": "text"})])
        .chain([json!({"name": "deep", "from": "a.b.0", "type": "json"})])
        .collect();
    let entry = entry(json!({"name": "p", "topics": ["p"], "key": ["id"], "columns": columns}));
    Declared::new(&entry).unwrap()
}

proptest! {
    // PRJ-14, MSG-10: whatever is in a payload, the same record is the same row or the same poison,
    // and a row fits its table.
    #[test]
    fn any_payload_is_a_row_or_poison_and_the_same_each_time(
        kind in 0_usize..9, value in any_json(), other in any_json(), sequence in 1_u64..=u64::MAX,
    ) {
        let names = [
            "text", "integer", "float", "boolean", "timestamp", "timestamp_ms", "timestamp_s",
            "json", "bytes",
        ];
        let payload = json!({names[kind]: value, "a": other});
        let projection = of_every_type();
        let encoded = record(sequence, "p", "k", payload.to_string().as_bytes());
        let first = read(&projection, &encoded);
        if let Ok(changes) = &first {
            for change in changes {
                if let Change::Put { table, row } = change {
                    prop_assert_eq!(row.check(&projection.tables()[*table]), Ok(()));
                }
            }
        }
        prop_assert_eq!(first, read(&projection, &encoded));
    }

    #[test]
    fn any_bytes_are_a_row_or_poison(data in proptest::collection::vec(any::<u8>(), 0..64)) {
        for projection in [quakes(), presence(), of_every_type()] {
            let encoded = record(1, "p", "k", &data);
            let first = read(&projection, &encoded);
            prop_assert_eq!(first, read(&projection, &encoded));
        }
    }
}
