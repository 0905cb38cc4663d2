//! Holds the contract from both sides: what it takes, in whichever form, comes to the same rows;
//! what it refuses is refused with its field.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;
use prost_types::value::Kind as AnyKind;
use prost_types::{ListValue, Struct, Timestamp, Value as Any};
use serde_json::{Map, Value, json};

use super::event::Type;
use super::*;
use crate::log::Sequence;
use crate::projections::projection::Payloads;
use crate::proto::continuum::{DeadLetter, EpisodeEvent, EpisodePayload};
use crate::proto::pybus::BusPayload;
use crate::proto::v1::{self, Envelope, Record, envelope};
use crate::proto::view::RecordView;

const TENANT: &str = "acme";
const ULID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const UUID: &str = "01900000-0000-7000-8000-000000000001";

#[derive(Debug)]
struct NoSchemas;

impl Payloads for NoSchemas {
    fn to_json(&self, _: &str, _: &RecordView<'_>) -> Option<Value> {
        None
    }
}

fn envelope(schema: &str, kind: &str, content_type: &str, data: Vec<u8>) -> Envelope {
    let headers = [("content-type", content_type)].into_iter();
    let headers = headers.filter(|(_, value)| !value.is_empty());
    Envelope {
        schema: schema.into(),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        payload: Some(envelope::Payload::Event(v1::Event {
            r#type: kind.into(),
            data: data.into(),
        })),
        ..Envelope::default()
    }
}

/// What the projection makes of an envelope at a place in the log.
fn read_at(sequence: u64, topic: &str, envelope: &Envelope) -> Result<Vec<Change>, Poison> {
    let bytes = Record {
        sequence,
        appended_at: 1_771_545_600_000_001,
        topic: topic.into(),
        envelope: envelope.encode_to_vec().into(),
        ..Record::default()
    }
    .encode_to_vec();
    let record = RecordView::parse(&bytes).unwrap();
    let source = Source {
        tenant: TENANT,
        reality: "main",
        sequence: Sequence::new(sequence).unwrap(),
        appended_at: Micros(record.appended_at),
        record: &record,
        payloads: &NoSchemas,
    };
    Continuum::new(History::Kept).read(&source)
}

fn read(envelope: &Envelope) -> Result<Vec<Change>, Poison> {
    read_at(7, TOPIC, envelope)
}

fn json_of(event: &Value) -> Envelope {
    envelope("", "", "application/json", event.to_string().into_bytes())
}

fn typed(event: &EpisodeEvent) -> Envelope {
    envelope(form::SCHEMA, "", "", event.encode_to_vec())
}

fn older(event: &Value) -> Envelope {
    let payload = BusPayload {
        payload: Some(structure(event.as_object().unwrap())),
        ..BusPayload::default()
    };
    let mut envelope = envelope("", "message", "", payload.encode_to_vec());
    envelope
        .headers
        .insert("envelope_type".into(), "message".into());
    envelope
}

fn structure(fields: &Map<String, Value>) -> Struct {
    let fields = fields.iter();
    Struct {
        fields: fields
            .map(|(name, value)| (name.clone(), struct_value(value)))
            .collect(),
    }
}

fn struct_value(value: &Value) -> Any {
    let kind = match value {
        Value::Null => AnyKind::NullValue(0),
        Value::Bool(flag) => AnyKind::BoolValue(*flag),
        Value::Number(number) => AnyKind::NumberValue(number.as_f64().unwrap()),
        Value::String(text) => AnyKind::StringValue(text.clone()),
        Value::Array(items) => AnyKind::ListValue(ListValue {
            values: items.iter().map(struct_value).collect(),
        }),
        Value::Object(fields) => AnyKind::StructValue(structure(fields)),
    };
    Any { kind: Some(kind) }
}

/// The event as a producer of typed messages writes it.
fn message(event: &Event) -> EpisodeEvent {
    let (seconds, micros) = (event.source_ts.0 / 1_000_000, event.source_ts.0 % 1_000_000);
    EpisodeEvent {
        event_id: event.event_id.clone(),
        event_type: event.event_type.as_str().into(),
        tenant_id: event.tenant_id.clone(),
        agent_id: event.agent_id.clone(),
        episode_id: event.episode_id.clone(),
        source_ts: Some(Timestamp {
            seconds: seconds.try_into().unwrap(),
            nanos: i32::try_from(micros).unwrap() * 1_000,
        }),
        schema_version: 1,
        payload: Some(EpisodePayload {
            content_ref: event.payload.content_ref.clone(),
            summary: event.payload.summary.clone(),
            tags: event.payload.tags.clone(),
            embedding_ref: event.payload.embedding_ref.clone(),
            metadata: Some(structure(&event.payload.metadata)),
        }),
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        "[ -~äß日]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map("[a-z.]{0,6}", inner, 0..4)
                .prop_map(|fields| fields.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn ids() -> impl Strategy<Value = (String, String)> {
    let event_id = prop_oneof![
        "[0-7][0-9A-HJKMNP-TV-Z]{25}",
        "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    ];
    (event_id, "[0-7][0-9A-HJKMNP-TV-Z]{25}")
}

fn events() -> impl Strategy<Value = Event> {
    let payload = (
        "[a-z]{1,6}://[ -~]{1,20}",
        option::of(".{0,20}".prop_map(|text| text.replace('\0', ""))),
        vec("[ -~]{0,8}", 0..4),
        option::of("[a-z]{1,6}://[!-~]{1,20}"),
        btree_map("[a-z]{1,6}", any_json(), 0..4),
    );
    let payload = payload
        .prop_filter("no data: URL", |(content_ref, ..)| {
            !content_ref.starts_with("data:")
        })
        .prop_map(
            |(content_ref, summary, tags, embedding_ref, metadata)| event::Payload {
                content_ref,
                summary,
                tags,
                embedding_ref,
                metadata: metadata.into_iter().collect(),
            },
        );
    let time = 0..253_402_300_800_000_000_u64;
    (ids(), 0..4_usize, "[a-zA-Z0-9:/_-]{1,12}", time, payload).prop_map(
        |((event_id, episode_id), kind, agent_id, time, payload)| Event {
            event_id,
            event_type: Type::ALL[kind],
            tenant_id: TENANT.into(),
            agent_id,
            episode_id,
            source_ts: Micros(time),
            payload,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    // PRJ-02: an event is the same one in every form, down to the bytes of its rows.
    #[test]
    fn every_form_of_an_event_has_the_same_rows(event in events()) {
        let json = event.to_json();
        let rows = read(&json_of(&json));
        prop_assert!(rows.is_ok(), "{:?}", rows);
        prop_assert_eq!(&read(&typed(&message(&event))), &rows);
        prop_assert_eq!(&read(&older(&json)), &rows);
        // Its own JSON is the same event again.
        let again = Event::from_json(json.as_object().unwrap().clone(), TENANT).unwrap();
        prop_assert_eq!(again, event);
    }

    // PRJ-04
    #[test]
    fn noise_is_poison_and_nothing_worse(
        data in vec(any::<u8>(), 0..200),
        schema in prop_oneof![
            Just(""), Just(form::SCHEMA), Just("arqon.pybus.v1.BusPayload"), Just("acme.Order"),
            Just("arqon.continuum.v1.DeadLetter"), Just("arqon.continuum.v1.DeadLetterSettled"),
        ],
    ) {
        let noise = envelope(schema, "", "", data);
        prop_assert!(read(&noise).is_err());
        for change in read_at(7, CONTINUUM_DEAD_LETTERS, &noise).unwrap() {
            if let Change::Put { table, row } = change {
                row.check(&Continuum::new(History::Kept).tables()[table]).unwrap();
            }
        }
    }

    // PRJ-04: whatever one field is, the rows fit every sink or the event is refused by name.
    #[test]
    fn an_event_with_one_odd_field_is_taken_or_named(
        event in events(),
        at in 0..13_usize,
        odd in prop_oneof![any_json(), Just(json!("\0")), Just(json!(" ")), Just(json!(1e300))],
    ) {
        let mut json = event.to_json();
        let outer = ["event_id", "event_type", "tenant_id", "agent_id", "episode_id", "source_ts",
                     "schema_version", "payload"];
        let inner = ["content_ref", "summary", "tags", "embedding_ref", "metadata"];
        let field = match outer.get(at) {
            Some(name) => {
                json[name] = odd;
                (*name).to_owned()
            }
            None => {
                json["payload"][inner[at - 8]] = odd;
                format!("payload.{}", inner[at - 8])
            }
        };
        let found = read(&json_of(&json));
        match &found {
            Ok(changes) => prop_assert_eq!(changes.len(), 2),
            Err(poison) => {
                prop_assert!(poison.field.starts_with(&field), "{field}: {poison:?}");
                let name = field.trim_start_matches("payload.");
                prop_assert!(poison.reason.contains(name), "{field}: {poison:?}");
                prop_assert_eq!(found, read(&older(&json)));
            }
        }
    }
}

fn sample() -> Value {
    json!({
        "event_id": UUID,
        "event_type": "episode.created",
        "tenant_id": TENANT,
        "agent_id": "agent-1",
        "episode_id": ULID,
        "source_ts": "2026-02-20T01:00:00.5+01:00",
        "schema_version": 1,
        "payload": {
            "content_ref": "sqlite://episodes/42",
            "summary": "first",
            "tags": ["a", "b"],
            "embedding_ref": "ram://vectors/7",
            "metadata": {"n": 1.0, "deep": {"x": [true]}},
        },
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut event = sample();
    change(&mut event);
    event
}

fn rows(envelope: &Envelope) -> (Row, Row) {
    let changes = read(envelope).unwrap();
    let [
        Change::Put {
            table: EVENTS,
            row: event,
        },
        Change::Put {
            table: EPISODES,
            row,
        },
    ] = changes.as_slice()
    else {
        panic!("{changes:?}")
    };
    (event.clone(), row.clone())
}

// PRJ-02, PRJ-03: the columns are those that users of the older system's database query.
#[test]
fn an_event_becomes_a_row_of_history_and_a_row_of_its_episode() {
    let (event, episode) = rows(&json_of(&sample()));
    let text = |row: &Row, table: &Table, name: &str| {
        let at = table.column(name).unwrap();
        match &row.0[at] {
            Cell::Text(text) | Cell::Json(text) => text.clone(),
            Cell::Null => "-".into(),
            Cell::Integer(number) => number.to_string(),
            Cell::Boolean(flag) => flag.to_string(),
            Cell::Timestamp(time) => crate::proto::json::micros(time.0),
            other @ (Cell::Float(_) | Cell::Bytes(_)) => panic!("{other:?}"),
        }
    };
    let continuum = Continuum::new(History::Kept);
    for (name, wanted) in [
        ("tenant_id", TENANT),
        ("agent_id", "agent-1"),
        ("episode_id", ULID),
        ("event_type", "episode.created"),
        ("content_ref", "sqlite://episodes/42"),
        ("summary", "first"),
        ("tags", r#"["a","b"]"#),
        ("embedding_ref", "ram://vectors/7"),
        ("metadata", r#"{"deep":{"x":[true]},"n":1}"#),
        ("last_event_id", UUID),
        ("last_event_ts", "2026-02-20T00:00:00.500000Z"),
        ("updated_at", "2026-02-20T00:00:00.000001Z"),
        ("deleted", "false"),
        ("last_sequence", "7"),
    ] {
        let table = &continuum.tables()[EPISODES];
        assert_eq!(text(&episode, table, name), wanted, "{name}");
    }
    for (name, wanted) in [
        ("event_id", UUID),
        ("source_ts", "2026-02-20T00:00:00.500000Z"),
        ("projected_at", "2026-02-20T00:00:00.000001Z"),
        ("outcome", "-"),
        ("sequence", "7"),
    ] {
        let table = &continuum.tables()[EVENTS];
        assert_eq!(text(&event, table, name), wanted, "{name}");
    }
    let shown = text(&event, &continuum.tables()[EVENTS], "event");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["source_ts"], "2026-02-20T00:00:00.500000Z");
    assert_eq!(shown["payload"]["metadata"]["n"], 1);
}

#[test]
fn without_a_history_there_is_the_row_of_the_episode_alone() {
    let bytes = Record {
        topic: TOPIC.into(),
        envelope: json_of(&sample()).encode_to_vec().into(),
        ..Record::default()
    }
    .encode_to_vec();
    let record = RecordView::parse(&bytes).unwrap();
    let source = Source {
        tenant: TENANT,
        reality: "main",
        sequence: Sequence::new(1).unwrap(),
        appended_at: Micros(1),
        record: &record,
        payloads: &NoSchemas,
    };
    let changes = Continuum::new(History::LeftOut).read(&source).unwrap();
    assert!(
        matches!(
            changes.as_slice(),
            [Change::Put {
                table: EPISODES,
                ..
            }]
        ),
        "{changes:?}"
    );
}

// PRJ-03: a tombstone is a row with everything that the last event said.
#[test]
fn a_deleted_episode_keeps_its_row() {
    let deleted = with(|event| event["event_type"] = "episode.deleted".into());
    let (_, row) = rows(&json_of(&deleted));
    assert_eq!(row.0[12], Cell::Boolean(true));
    assert_eq!(row.0[4], Cell::from("sqlite://episodes/42"));
}

#[test]
fn ids_have_one_case_each_and_optional_parts_may_be_absent() {
    let small = with(|event| {
        event["event_id"] = UUID.to_uppercase().into();
        event["episode_id"] = ULID.to_lowercase().into();
        event["payload"] = json!({"content_ref": "x", "summary": null, "later": 1});
        event["later"] = "unknown".into();
    });
    let (event, row) = rows(&json_of(&small));
    assert_eq!((&event.0[2], &event.0[3]), (&UUID.into(), &ULID.into()));
    assert_eq!(
        row.0[5..9],
        [
            Cell::Null,
            Cell::Json("[]".into()),
            Cell::Null,
            Cell::Json("{}".into())
        ]
    );
    assert_eq!(
        Continuum::new(History::Kept).tables()[EPISODES].key_of(&row),
        episode_key(TENANT, "agent-1", &ULID.to_lowercase())
    );
}

// PRJ-04: each refusal with its field, in JSON.
#[expect(clippy::too_many_lines, reason = "one table")]
#[test]
fn what_breaks_a_rule_is_refused_with_its_field() {
    type Change = fn(&mut Value);
    let cases: [(&str, &str, Change); 34] = [
        ("event_id", "event_id must be a UUIDv7", |e| {
            e["event_id"] = "".into()
        }),
        ("event_id", "event_id must be a UUIDv7", |e| {
            e["event_id"] = "67e55044-10b1-426f-9247-bb680e5fe0c8".into();
        }),
        ("event_id", "event_id must be a UUIDv7", |e| {
            e["event_id"] = UUID.replace('-', "").into();
        }),
        ("event_id", "event_id must be a UUIDv7", |e| {
            e["event_id"] = ULID.replacen('0', "8", 1).into();
        }),
        ("event_id", "event_id must be a string", |e| {
            e["event_id"] = 7.into()
        }),
        ("event_type", "Unsupported event_type: episode.lost", |e| {
            e["event_type"] = "episode.lost".into();
        }),
        ("tenant_id", "tenant_id must be \"acme\"", |e| {
            e["tenant_id"] = "other".into()
        }),
        ("tenant_id", "tenant_id must be \"acme\"", |e| {
            e["tenant_id"] = "".into()
        }),
        ("agent_id", "agent_id must not be empty", |e| {
            e["agent_id"] = " ".into()
        }),
        ("agent_id", "control characters", |e| {
            e["agent_id"] = "a\nb".into()
        }),
        ("agent_id", "has 257 bytes", |e| {
            e["agent_id"] = "a".repeat(257).into()
        }),
        ("episode_id", "episode_id must be a ULID", |e| {
            e["episode_id"] = UUID.into()
        }),
        ("source_ts", "'source_ts' must be an ISO8601", |e| {
            e["source_ts"] = 5.into()
        }),
        ("source_ts", "'source_ts' must be an ISO8601", |e| {
            e["source_ts"] = "2026-02-20T00:00:00".into();
        }),
        ("source_ts", "before the year 1970", |e| {
            e["source_ts"] = "1969-12-31T23:59:59Z".into();
        }),
        ("schema_version", "Unsupported schema_version: \"1\"", |e| {
            e["schema_version"] = "1".into();
        }),
        ("schema_version", "Unsupported schema_version: 1.0", |e| {
            e["schema_version"] = 1.0.into();
        }),
        ("schema_version", "Unsupported schema_version: 2", |e| {
            e["schema_version"] = 2.into()
        }),
        ("payload", "'payload' must be an object", |e| {
            e["payload"] = json!([])
        }),
        (
            "payload.content_ref",
            "Missing required payload fields: ['content_ref']",
            |e| {
                e["payload"] = json!({});
            },
        ),
        ("payload.content_ref", "must be a string", |e| {
            e["payload"]["content_ref"] = Value::Null;
        }),
        ("payload.content_ref", "must not be empty", |e| {
            e["payload"]["content_ref"] = "".into()
        }),
        ("payload.content_ref", "has 2049 bytes", |e| {
            e["payload"]["content_ref"] = "x".repeat(2_049).into();
        }),
        ("payload.content_ref", "must point to", |e| {
            e["payload"]["content_ref"] = "DATA:text/plain,hello".into();
        }),
        ("payload.content_ref", "must point to", |e| {
            e["payload"]["content_ref"] = r#"{"text":"hello"}"#.into();
        }),
        ("payload.embedding_ref", "must not be empty", |e| {
            e["payload"]["embedding_ref"] = "".into();
        }),
        ("payload.summary", "has 16385 bytes", |e| {
            e["payload"]["summary"] = "x".repeat(16_385).into();
        }),
        (
            "payload.tags",
            "'payload.tags' must be a list of strings",
            |e| {
                e["payload"]["tags"] = json!(["a", 1]);
            },
        ),
        ("payload.tags", "has 257 tags", |e| {
            e["payload"]["tags"] = vec!["a"; 257].into()
        }),
        (
            "payload.metadata",
            "'payload.metadata' must be an object",
            |e| {
                e["payload"]["metadata"] = json!([]);
            },
        ),
        ("payload.metadata", "more than the limit of 65536", |e| {
            e["payload"]["metadata"] = json!({"x": "y".repeat(70_000)});
        }),
        ("payload.metadata", "nested deeper than 16", |e| {
            let deep = (0..16).fold(json!(1), |inner, _| json!([inner]));
            e["payload"]["metadata"] = json!({"x": deep});
        }),
        ("payload.metadata.a[1].n", "beyond 2^53", |e| {
            e["payload"]["metadata"] = json!({"a": [0, {"n": 9_007_199_254_740_993_u64}]});
        }),
        ("payload.metadata.a[0].episode_body", "is a body", |e| {
            e["payload"]["metadata"] = json!({"a": [{"episode_body": "x"}]});
        }),
    ];
    for (field, reason, change) in cases {
        let poison = read(&json_of(&with(change))).unwrap_err();
        assert_eq!(poison.field, field, "{poison}");
        assert!(poison.reason.contains(reason), "{poison}");
        assert!(
            poison.reason.contains(field) || reason.contains("Missing"),
            "{poison}"
        );
        assert!(field == "event_id" || poison.event_id == UUID, "{poison:?}");
    }
    for name in event::FORBIDDEN_KEYS {
        let body = with(|event| event["payload"][name] = "x".into());
        let poison = read(&json_of(&body)).unwrap_err();
        assert_eq!(poison.field, format!("payload.{name}"));
    }
}

// PRJ-04: and in the typed form.
#[test]
fn a_message_that_breaks_a_rule_is_refused_with_its_field() {
    let event = Event::from_json(sample().as_object().unwrap().clone(), TENANT).unwrap();
    let good = message(&event);
    assert!(read(&typed(&good)).is_ok());
    type Change = fn(&mut EpisodeEvent);
    let cases: [(&str, &str, Change); 10] = [
        (
            "agent_id",
            "Missing required envelope fields: ['agent_id', 'episode_id']",
            |e| {
                e.agent_id.clear();
                e.episode_id.clear();
            },
        ),
        ("event_type", "Unsupported event_type", |e| {
            e.event_type = "x".into()
        }),
        ("schema_version", "Unsupported schema_version: 2", |e| {
            e.schema_version = 2
        }),
        ("source_ts", "Missing required", |e| e.source_ts = None),
        ("source_ts", "before the year 1970", |e| {
            e.source_ts = Some(Timestamp {
                seconds: -1,
                nanos: 0,
            });
        }),
        ("source_ts", "nanos", |e| {
            e.source_ts = Some(Timestamp {
                seconds: 1,
                nanos: -1,
            });
        }),
        ("source_ts", "after the year 9999", |e| {
            e.source_ts = Some(Timestamp {
                seconds: i64::MAX,
                nanos: 0,
            });
        }),
        (
            "payload",
            "Missing required envelope fields: ['payload']",
            |e| e.payload = None,
        ),
        (
            "payload.content_ref",
            "Missing required payload fields: ['content_ref']",
            |e| {
                e.payload = Some(EpisodePayload::default());
            },
        ),
        ("payload.metadata", "infinite", |e| {
            let infinite = Any {
                kind: Some(AnyKind::NumberValue(f64::INFINITY)),
            };
            let fields = [("x".to_owned(), infinite)].into();
            e.payload.as_mut().unwrap().metadata = Some(Struct { fields });
        }),
    ];
    for (field, reason, change) in cases {
        let mut message = good.clone();
        change(&mut message);
        let poison = read(&typed(&message)).unwrap_err();
        assert_eq!(poison.field, field, "{poison}");
        assert!(poison.reason.contains(reason), "{poison}");
    }
}

// PRJ-04
#[test]
fn payloads_of_no_form_are_refused_with_a_reason() {
    for (envelope, reason) in [
        (envelope("", "", "", Vec::new()), "has no payload"),
        (Envelope::default(), "has no payload"),
        (
            envelope("", "", "", b"[]".to_vec()),
            "must be a JSON object",
        ),
        (envelope("", "", "", b"{".to_vec()), "not JSON"),
        (
            envelope("", "", "application/json", b"\xff".to_vec()),
            "not JSON",
        ),
        (
            envelope("acme.Order", "", "", b"\x0a".to_vec()),
            "schema is \"acme.Order\" and must be arqon.continuum.v1.EpisodeEvent",
        ),
        (
            envelope("", "", "application/x-protobuf", b"\xff".to_vec()),
            "not a arqon.continuum.v1.EpisodeEvent",
        ),
    ] {
        let poison = read(&envelope).unwrap_err();
        assert!(poison.reason.contains(reason), "{poison}");
    }
    // A schema of the tenant's own over JSON is JSON.
    let named = envelope("acme.Episode", "", "", sample().to_string().into_bytes());
    assert!(read(&named).is_ok());
}

// PRJ-04: a letter shows the event in the names of the contract, although it breaks its rules.
#[test]
fn a_dead_letter_shows_its_event_whatever_its_form() {
    let event = Event::from_json(sample().as_object().unwrap().clone(), TENANT).unwrap();
    let mut message = message(&event);
    message.event_type = "episode.lost".into();
    let lost = with(|event| event["event_type"] = "episode.lost".into());
    let bytes = vec![0xff, 0];
    for (envelope, name) in [
        (typed(&message), "episode.lost"),
        (json_of(&lost), "episode.lost"),
        (older(&lost), "episode.lost"),
        (envelope("", "blob", "", bytes), ""),
    ] {
        let letter = DeadLetter {
            dlq_id: UUID.into(),
            topic: TOPIC.into(),
            sequence: 3,
            reason: "Unsupported event_type: episode.lost".into(),
            envelope: envelope.encode_to_vec().into(),
            attempt: 2,
            ..DeadLetter::default()
        };
        let letter = self::envelope(letter::SCHEMA, letter::KIND, "", letter.encode_to_vec());
        let changes = read_at(9, CONTINUUM_DEAD_LETTERS, &letter).unwrap();
        let [
            Change::Put {
                table: LETTERS,
                row,
            },
        ] = changes.as_slice()
        else {
            panic!("{changes:?}")
        };
        let shown: Value = serde_json::from_str(row.0[3].text().unwrap()).unwrap();
        if name.is_empty() {
            assert_eq!(shown, json!({"type": "blob", "base64": "/wA="}));
        } else {
            assert_eq!(shown["event_type"], name);
            assert_eq!(shown["payload"]["content_ref"], "sqlite://episodes/42");
        }
        assert_eq!(
            row.0[2],
            "projection_failed:Unsupported event_type: episode.lost".into()
        );
        assert_eq!(
            row.0[5..],
            [
                TOPIC.into(),
                Cell::Integer(3),
                Cell::Integer(2),
                Cell::Integer(9)
            ]
        );
    }
}
