//! MSG-16: messages encoded by released versions stay readable, and what a newer version adds
//! never breaks this one.
//!
//! `tests/fixtures/wire/v1/NAME.bin` is an encoded message, `NAME.json` what it must decode to, by
//! the contract's own descriptors. Files are added, never changed: `UPDATE=1 cargo test --test
//! contract` writes those that do not exist yet.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs};

use arqonbus::proto::DESCRIPTORS;
use arqonbus::proto::v1::{
    self, ClientFrame, Envelope, Record, ServerFrame, client_frame as client,
    server_frame as server,
};
use arqonbus::proto::view::{EnvelopeView, RecordView};
use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

use super::samples;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wire/v1")
}

fn descriptor(name: &str) -> MessageDescriptor {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    pool.get_message_by_name(name)
        .unwrap_or_else(|| panic!("{name} is gone from the contract"))
}

/// The message type of a file: `client_produce` is a `ClientFrame`, `envelope_event` an `Envelope`.
fn type_of(file: &str) -> &'static str {
    match file.split('_').next() {
        Some("client") => "arqon.v1.ClientFrame",
        Some("server") => "arqon.v1.ServerFrame",
        Some("envelope") => "arqon.v1.Envelope",
        Some("record") => "arqon.v1.Record",
        _ => panic!("{file}: named for no message of the contract"),
    }
}

fn files() -> BTreeMap<String, Bytes> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "bin") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            files.insert(name, fs::read(&path).unwrap().into());
        }
    }
    files
}

fn json(name: &str, bytes: &[u8]) -> serde_json::Value {
    let message = DynamicMessage::decode(descriptor(type_of(name)), bytes);
    serde_json::to_value(message.unwrap_or_else(|error| panic!("{name}: {error}"))).unwrap()
}

/// Decodes with everything that reads such a message here, and encodes what prost has understood.
fn reread(name: &str, bytes: &Bytes) -> Vec<u8> {
    let told = |error: &dyn std::fmt::Display| -> ! { panic!("{name}: {error}") };
    match type_of(name) {
        "arqon.v1.ClientFrame" => ClientFrame::decode(bytes.clone())
            .unwrap_or_else(|e| told(&e))
            .encode_to_vec(),
        "arqon.v1.ServerFrame" => ServerFrame::decode(bytes.clone())
            .unwrap_or_else(|e| told(&e))
            .encode_to_vec(),
        "arqon.v1.Envelope" => {
            EnvelopeView::parse(bytes).unwrap_or_else(|e| told(&e));
            Envelope::decode(bytes.clone())
                .unwrap_or_else(|e| told(&e))
                .encode_to_vec()
        }
        _ => {
            RecordView::parse(bytes).unwrap_or_else(|e| told(&e));
            Record::decode(bytes.clone())
                .unwrap_or_else(|e| told(&e))
                .encode_to_vec()
        }
    }
}

// MSG-16
#[test]
fn released_messages_decode_to_their_values() {
    if env::var_os("UPDATE").is_some_and(|value| value == "1") {
        write_missing();
    }
    let files = files();
    assert!(files.len() >= 30, "only {} files", files.len());
    for (name, bytes) in files {
        let text = fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
        let wanted: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json(&name, &bytes), wanted, "{name}");
        assert_eq!(
            json(&name, &reread(&name, &bytes)),
            wanted,
            "{name} after a trip through prost"
        );
    }
}

// MSG-16
#[test]
fn released_records_keep_their_checksum() {
    for (name, bytes) in files()
        .into_iter()
        .filter(|(name, _)| name.starts_with("record_"))
    {
        RecordView::parse(&bytes)
            .unwrap()
            .verify()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

// MSG-16
#[test]
fn the_corpus_has_every_frame() {
    let files = files();
    for (prefix, name) in [
        ("client", "arqon.v1.ClientFrame"),
        ("server", "arqon.v1.ServerFrame"),
    ] {
        let frame = descriptor(name);
        for field in frame
            .oneofs()
            .flat_map(|body| body.fields().collect::<Vec<_>>())
        {
            let file = format!("{prefix}_{}", field.name());
            assert!(
                files.contains_key(&file),
                "{file}.bin is missing; UPDATE=1 writes it"
            );
        }
    }
}

/// A varint, eight bytes, a text and four bytes, under numbers that this version does not use.
const LATER_FIELDS: &[u8] = b"\xc0\x3e\x2a\xc9\x3e12345678\xd2\x3e\x05later\xdd\x3e1234";

// MSG-16
#[test]
fn fields_of_a_newer_version_change_nothing() {
    for (name, bytes) in files() {
        let known = reread(&name, &bytes);
        let before: Bytes = [LATER_FIELDS, &bytes].concat().into();
        assert_eq!(reread(&name, &before), known, "{name}, later fields first");
        let after: Bytes = [&bytes, LATER_FIELDS].concat().into();
        assert_eq!(reread(&name, &after), known, "{name}, later fields last");
    }
}

// MSG-16
#[test]
fn a_frame_of_a_newer_version_decodes_to_no_body() {
    let later: &[u8] = b"\x08\x07\x9a\x06\x02hi"; // request_id 7, body 99
    let frame = ClientFrame::decode(later).unwrap();
    assert_eq!((frame.request_id, frame.body), (7, None));
    let frame = ServerFrame::decode(later).unwrap();
    assert_eq!((frame.request_id, frame.body), (7, None));
}

// MSG-16
#[test]
fn values_of_a_newer_version_are_kept_as_numbers() {
    let produce = v1::Produce {
        durability: 17,
        then: vec![2, 18],
        ..v1::Produce::default()
    };
    let decoded = v1::Produce::decode(&produce.encode_to_vec()[..]).unwrap();
    assert_eq!(decoded, produce);
    assert!(
        v1::Durability::try_from(decoded.durability).is_err(),
        "the reader can tell that it is unknown"
    );
    let signal = Envelope {
        payload: Some(v1::envelope::Payload::Signal(v1::SystemSignal {
            r#type: 9,
            reason: "x".into(),
        })),
        ..Envelope::default()
    };
    let encoded = signal.encode_to_vec();
    let view = EnvelopeView::parse(&encoded).unwrap();
    assert_eq!(
        view.payload,
        arqonbus::proto::view::Payload::Signal {
            kind: 9,
            reason: "x"
        }
    );
}

// MSG-16
#[test]
fn a_payload_of_a_newer_kind_leaves_the_rest_readable() {
    let mut encoded = Envelope {
        key: "k".into(),
        ..Envelope::default()
    }
    .encode_to_vec();
    encoded.extend_from_slice(b"\xba\x01\x02hi"); // payload 23
    let view = EnvelopeView::parse(&encoded).unwrap();
    assert_eq!((view.key, view.encoded), ("k", &encoded[..]));
    assert_eq!(view.payload, arqonbus::proto::view::Payload::Empty);
}

/// A line names what was never released: files that exist are left alone.
#[expect(
    clippy::disallowed_methods,
    reason = "a fixture of the source tree, not of a log"
)]
fn write_missing() {
    fs::create_dir_all(folder()).unwrap();
    for (name, bytes) in corpus() {
        let path = folder().join(format!("{name}.bin"));
        if !path.exists() {
            let text = serde_json::to_string_pretty(&json(&name, &bytes)).unwrap();
            fs::write(folder().join(format!("{name}.json")), text + "\n").unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let envelopes = samples::envelopes()
        .into_iter()
        .map(|(name, envelope)| (format!("envelope_{name}"), envelope.encode_to_vec()));
    let records = samples::envelopes().into_iter().map(|(name, envelope)| {
        (
            format!("record_{name}"),
            samples::record(42, envelope.encode_to_vec()),
        )
    });
    let clients = client_bodies().into_iter().map(|(name, body)| {
        (
            format!("client_{name}"),
            ClientFrame {
                request_id: 7,
                body: Some(body),
            }
            .encode_to_vec(),
        )
    });
    let servers = server_bodies().into_iter().map(|(name, body)| {
        (
            format!("server_{name}"),
            ServerFrame {
                request_id: 7,
                body: Some(body),
            }
            .encode_to_vec(),
        )
    });
    let later = Envelope {
        deliver_at: 1_771_545_700_123,
        ..samples::event()
    };
    let later = ("envelope_later".to_owned(), later.encode_to_vec());
    envelopes
        .chain([later])
        .chain(records)
        .chain(clients)
        .chain(servers)
        .collect()
}

#[expect(clippy::too_many_lines, reason = "one sample of each")]
fn client_bodies() -> Vec<(&'static str, client::Body)> {
    let arguments = samples::map(&[("name", text("whatif")), ("all", list())]);
    vec![
        ("produce", client::Body::Produce(produce())),
        ("subscribe", client::Body::Subscribe(subscribe())),
        (
            "unsubscribe",
            client::Body::Unsubscribe(v1::Unsubscribe { subscription: 3 }),
        ),
        (
            "credit",
            client::Body::Credit(v1::Credit {
                subscription: 3,
                records: 1000,
                bytes: 1 << 20,
            }),
        ),
        (
            "fetch",
            client::Body::Fetch(v1::Fetch {
                reality: "main".into(),
                filter: "quake.>".into(),
                from: 1000,
                records: 100,
                bytes: 1 << 16,
                ..v1::Fetch::default()
            }),
        ),
        (
            "fetch_within",
            client::Body::Fetch(v1::Fetch {
                filter: ">".into(),
                from: 1,
                twist_id: "what-if".into(),
                spectral: Some(spectral_range()),
                ..v1::Fetch::default()
            }),
        ),
        (
            "subscribe_within",
            client::Body::Subscribe(v1::Subscribe {
                twist_id: "what-if".into(),
                spectral: Some(spectral_range()),
                ..subscribe()
            }),
        ),
        (
            "ack",
            client::Body::Ack(v1::Ack {
                subscription: 3,
                sequence: 1707,
                attempt: 0,
            }),
        ),
        (
            "ack_work",
            client::Body::Ack(v1::Ack {
                subscription: 3,
                sequence: 1707,
                attempt: 2,
            }),
        ),
        (
            "extend",
            client::Body::Extend(v1::Extend {
                subscription: 3,
                sequence: 5,
                by_ms: 60_000,
                attempt: 2,
            }),
        ),
        (
            "nack",
            client::Body::Nack(v1::Nack {
                subscription: 3,
                sequence: 5,
                delay_ms: 250,
                reason: "busy".into(),
                ..v1::Nack::default()
            }),
        ),
        (
            "nack_dead",
            client::Body::Nack(v1::Nack {
                subscription: 3,
                sequence: 5,
                delay_ms: 0,
                reason: "no such customer".into(),
                dead_letter: true,
                attempt: 2,
            }),
        ),
        (
            "subscribe_group",
            client::Body::Subscribe(v1::Subscribe {
                group: "workers".into(),
                group_options: Some(v1::GroupOptions {
                    ack_deadline_ms: 30_000,
                    max_deliveries: 5,
                    backoff_min_ms: 500,
                    backoff_max_ms: 60_000,
                    in_flight_max: 100,
                }),
                ..v1::Subscribe::default()
            }),
        ),
        (
            "command",
            client::Body::Command(v1::CommandRequest {
                name: "reality.create".into(),
                arguments,
            }),
        ),
        (
            "operator_join",
            client::Body::OperatorJoin(v1::OperatorJoin {
                operator: "thumbnails".into(),
                group: "images".into(),
                capabilities: vec!["resize".into()],
                input_schema: "acme.Image".into(),
                output_schema: "acme.Thumbnail".into(),
                concurrency: 4,
                version: "1.2.3".into(),
                ..v1::OperatorJoin::default()
            }),
        ),
        (
            "operator_join_whole",
            client::Body::OperatorJoin(v1::OperatorJoin {
                operator: "thumbnails".into(),
                group: "images".into(),
                version: "1.2.3".into(),
                instance: "thumbnails-7".into(),
                metadata: [("zone".to_owned(), "b".to_owned())].into(),
                effects: v1::EffectClass::Effectful.into(),
                lease_ms: 60_000,
                no_regress: true,
                ..v1::OperatorJoin::default()
            }),
        ),
        (
            "operator_drain",
            client::Body::OperatorDrain(v1::OperatorDrain {
                group: "images".into(),
                instance: "thumbnails-7".into(),
            }),
        ),
        (
            "task_extend",
            client::Body::TaskExtend(v1::TaskExtend {
                id: "t-1".into(),
                lease: 1 << 50,
            }),
        ),
        (
            "task_result",
            client::Body::TaskResult(v1::TaskResult {
                id: "t-1".into(),
                outcome: Some(v1::task_result::Outcome::Output(Bytes::from_static(
                    b"done",
                ))),
                ..v1::TaskResult::default()
            }),
        ),
        (
            "task_result_whole",
            client::Body::TaskResult(v1::TaskResult {
                id: "t-1".into(),
                outcome: Some(v1::task_result::Outcome::Output(Bytes::from_static(
                    b"done",
                ))),
                lease: 1 << 50,
                score: Some(0.5),
                content_type: "text/plain".into(),
            }),
        ),
        (
            "ping",
            client::Body::Ping(v1::Ping {
                data: Bytes::from_static(b"\x01\x02"),
            }),
        ),
        (
            "refresh",
            client::Body::Refresh(v1::Refresh {
                token: "header.claims.signature".into(),
            }),
        ),
    ]
}

fn produce() -> v1::Produce {
    v1::Produce {
        reality: "main".into(),
        durability: v1::Durability::Written.into(),
        envelopes: vec![
            samples::event().encode_to_vec().into(),
            samples::command().encode_to_vec().into(),
        ],
        then: vec![v1::Durability::Synced.into()],
        then_projected: vec!["episodes".into()],
        expected: Some(v1::ExpectedSequence {
            topic: "quake.usgs.event".into(),
            last: 41,
        }),
    }
}

fn subscribe() -> v1::Subscribe {
    v1::Subscribe {
        subscription: 3,
        reality: "main".into(),
        filter: "quake.*.event".into(),
        consumer: "dashboard".into(),
        group: "g".into(),
        stop_sequence: 1707,
        stop_time: 1_771_545_600_123_456,
        stop_at_end: true,
        credit_records: 1000,
        credit_bytes: 1 << 20,
        causal: true,
        visibility: v1::subscribe::Visibility::WrittenToo.into(),
        on_lag: v1::subscribe::OnLag::CatchUp.into(),
        start: Some(v1::subscribe::Start::Sequence(1000)),
        ..v1::Subscribe::default()
    }
}

fn spectral_range() -> v1::SpectralRange {
    v1::SpectralRange {
        coherence_min: Some(0.0),
        coherence_max: Some(0.5),
        criticality_min: Some(-2.25),
        criticality_max: Some(8.0),
    }
}

#[expect(clippy::too_many_lines, reason = "one table: a frame of each kind")]
fn server_bodies() -> Vec<(&'static str, server::Body)> {
    let record: Bytes = samples::record(42, samples::event().encode_to_vec()).into();
    vec![
        ("welcome", server::Body::Welcome(welcome())),
        (
            "produced",
            server::Body::Produced(v1::Produced {
                first: 42,
                last: 43,
                durability: v1::Durability::Synced.into(),
                projected: "episodes".into(),
                ..v1::Produced::default()
            }),
        ),
        (
            "produced_before",
            server::Body::Produced(v1::Produced {
                first: 42,
                last: 43,
                durability: v1::Durability::Synced.into(),
                duplicates: vec![v1::Duplicate {
                    index: 3,
                    sequence: 17,
                }],
                ..v1::Produced::default()
            }),
        ),
        (
            "subscribed",
            server::Body::Subscribed(v1::Subscribed {
                subscription: 3,
                tenant: "acme".into(),
                reality: "main".into(),
                next: 1000,
                last: 1707,
                first: 1,
                resumed: true,
                clock_key: "node/main".into(),
            }),
        ),
        (
            "deliver",
            server::Body::Deliver(v1::Deliver {
                records: vec![record.clone(), record.clone()],
                subscription: 3,
                next: 44,
                end_of_log: true,
                finished: true,
                lost: Some(v1::LostRange {
                    first: 7,
                    last: 9,
                    reason: "damaged".into(),
                }),
                deliveries: Vec::new(),
            }),
        ),
        (
            "deliver_work",
            server::Body::Deliver(v1::Deliver {
                records: vec![record.clone()],
                subscription: 3,
                next: 7,
                deliveries: vec![v1::Delivery {
                    sequence: 43,
                    attempt: 2,
                    deadline_ms: 1_700_000_030_000,
                }],
                ..v1::Deliver::default()
            }),
        ),
        (
            "extended",
            server::Body::Extended(v1::Extended {
                subscription: 3,
                sequence: 5,
                deadline_ms: 1_700_000_060_000,
            }),
        ),
        (
            "command_result",
            server::Body::CommandResult(v1::CommandResult {
                result: Some(fields()),
            }),
        ),
        (
            "task",
            server::Body::Task(v1::Task {
                id: "t-1".into(),
                deadline_ms: 30_000,
                attempt: 2,
                ..v1::Task::default()
            }),
        ),
        (
            "task_whole",
            server::Body::Task(v1::Task {
                id: "t-1".into(),
                record: record.clone(),
                deadline_ms: 30_000,
                attempt: 2,
                group: "images".into(),
                instance: "thumbnails-7".into(),
                lease: 1 << 50,
                lease_ms: 30_000,
            }),
        ),
        (
            "presence",
            server::Body::Presence(v1::Presence {
                room: "ops".into(),
                member: "ada".into(),
                change: v1::presence::Change::Expired.into(),
                ..v1::Presence::default()
            }),
        ),
        (
            "error",
            server::Body::Error(v1::Error {
                code: "VALIDATION_ERROR".into(),
                message: "topic is empty".into(),
                retryable: true,
                retry_after_ms: 250,
                field: "envelopes[3].topic".into(),
                subscription: 3,
                ..v1::Error::default()
            }),
        ),
        (
            "error_conflict",
            server::Body::Error(v1::Error {
                code: "SEQUENCE_CONFLICT".into(),
                field: "expected.last".into(),
                actual: 17,
                ..v1::Error::default()
            }),
        ),
        (
            "drain",
            server::Body::Drain(v1::Drain {
                reason: "upgrade".into(),
                deadline_ms: 5000,
                reconnect_after_ms: 1000,
            }),
        ),
        (
            "pong",
            server::Body::Pong(v1::Pong {
                data: Bytes::from_static(b"\x01\x02"),
            }),
        ),
        (
            "unsubscribed",
            server::Body::Unsubscribed(v1::Unsubscribed { subscription: 3 }),
        ),
        (
            "acked",
            server::Body::Acked(v1::Acked {
                subscription: 3,
                sequence: 1707,
            }),
        ),
        (
            "joined",
            server::Body::Joined(v1::Joined {
                group: "images".into(),
                instance: "thumbnails-7".into(),
                lease_ms: 30_000,
                concurrency: 4,
                attempts_max: 5,
                heartbeat_ms: 20_000,
            }),
        ),
        (
            "task_taken",
            server::Body::TaskTaken(v1::TaskTaken {
                id: "t-1".into(),
                sequence: 44,
                state: "done".into(),
            }),
        ),
        (
            "task_extended",
            server::Body::TaskExtended(v1::TaskExtended {
                id: "t-1".into(),
                until: 1_771_545_660_000,
            }),
        ),
        (
            "operator_drained",
            server::Body::OperatorDrained(v1::OperatorDrained {
                group: "images".into(),
                instance: "thumbnails-7".into(),
                in_hand: 2,
            }),
        ),
        (
            "expiring",
            server::Body::Expiring(v1::Expiring {
                token_expires_at: 1_771_545_660_000,
            }),
        ),
        (
            "refreshed",
            server::Body::Refreshed(v1::Refreshed {
                token_expires_at: 1_771_549_200_000,
            }),
        ),
    ]
}

fn welcome() -> v1::Welcome {
    v1::Welcome {
        node: "n1".into(),
        version: "0.1.0".into(),
        session: "s-9".into(),
        tenant: "acme".into(),
        subject: "ada".into(),
        role: "admin".into(),
        limits: Some(v1::Limits {
            message_bytes_max: 1 << 24,
            envelope_bytes_max: 1 << 20,
            batch_records_max: 10_000,
            topic_bytes_max: 255,
            topic_depth_max: 32,
            subscriptions_max: 64,
            credit_bytes_max: 1 << 26,
        }),
        token_expires_at: 1_771_545_600_123,
    }
}

fn text(value: &str) -> v1::Value {
    v1::Value {
        kind: Some(v1::value::Kind::Text(value.into())),
    }
}

fn list() -> v1::Value {
    use v1::value::Kind;
    let kinds = [
        Kind::Null(true),
        Kind::Boolean(true),
        Kind::Integer(i64::MIN),
        Kind::Unsigned(u64::MAX),
        Kind::Number(0.5),
        Kind::Bytes(Bytes::from_static(b"\x00\xff")),
    ];
    let items = kinds
        .into_iter()
        .map(|kind| v1::Value { kind: Some(kind) })
        .collect();
    v1::Value {
        kind: Some(Kind::List(v1::value::List { items })),
    }
}

fn fields() -> v1::Value {
    let items = vec![v1::value::Field {
        name: "first".into(),
        value: Some(list()),
    }];
    v1::Value {
        kind: Some(v1::value::Kind::Fields(v1::value::Fields { items })),
    }
}

// MSG-16
#[test]
fn the_documented_bytes_are_those_of_the_corpus() {
    let document = include_str!("../../docs/protocol.md");
    let files = files();
    let mut shown = 0;
    for line in document.lines() {
        let mut quoted = line.split('`').skip(1).step_by(2);
        let (Some(name), Some(hex)) = (quoted.next(), quoted.next()) else {
            continue;
        };
        let Some(bytes) = files.get(name) else {
            continue;
        };
        let wanted: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, wanted.join(" "), "docs/protocol.md, {name}");
        shown += 1;
    }
    assert!(shown >= 4, "only {shown} frames are shown");
}
