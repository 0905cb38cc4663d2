//! Messages with every field set. `roundtrip.py` holds the same values, written a second time, so
//! that two encoders and two authors must agree.

use std::collections::BTreeMap;

use arqonbus::proto::v1::{
    Command, Envelope, Event, Record, SpectralMetadata, SystemSignal, VectorClock, Verdict,
    envelope, system_signal,
};
use bytes::Bytes;
use prost::Message as _;

pub(crate) fn map<V: Clone>(entries: &[(&str, V)]) -> BTreeMap<String, V> {
    entries
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

fn headers() -> BTreeMap<String, String> {
    map(&[
        ("content-type", "application/json".to_owned()),
        (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned(),
        ),
        ("ünïcode", "日本 🌋".to_owned()),
    ])
}

pub(crate) fn event() -> Envelope {
    Envelope {
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        tenant_id: "acme".into(),
        room_id: "ops".into(),
        timestamp: 1_771_545_600_123,
        twist_id: "tw-1".into(),
        headers: headers(),
        signature: Bytes::from((0..64).collect::<Vec<u8>>()),
        id: "01977e5a-0000-7000-8000-00000000002a".into(),
        topic: "quake.usgs.event".into(),
        producer_id: "seismometer-7".into(),
        reality_id: "main".into(),
        producer_sequence: u64::MAX,
        clock: Some(VectorClock {
            entries: map(&[("node/main", 41), ("seismometer-7", u64::MAX)]),
        }),
        key: "uw61345682".into(),
        schema: "arqon.pybus.v1.BusPayload".into(),
        expires_at: -1,
        spectral: Some(SpectralMetadata {
            coherence: 0.5,
            criticality: -2.25,
            eigenvalues: vec![1.0, 0.125, -3.5],
        }),
        deliver_at: 0,
        payload: Some(envelope::Payload::Event(Event {
            r#type: "quake.usgs.event".into(),
            data: Bytes::from_static(b"{\"mag\":0.31,\"place\":\"Amboy\"}\x00\xff"),
        })),
    }
}

pub(crate) fn command() -> Envelope {
    Envelope {
        trace_id: "arq_1".into(),
        timestamp: i64::MIN,
        payload: Some(envelope::Payload::Cmd(Command {
            r#type: "status".into(),
            data: Bytes::new(),
        })),
        ..Envelope::default()
    }
}

pub(crate) fn signal() -> Envelope {
    Envelope {
        timestamp: i64::MAX,
        payload: Some(envelope::Payload::Signal(SystemSignal {
            r#type: system_signal::Type::Ban.into(),
            reason: "flooding".into(),
        })),
        ..Envelope::default()
    }
}

/// All of them by name.
pub(crate) fn envelopes() -> [(&'static str, Envelope); 4] {
    [
        ("event", event()),
        ("command", command()),
        ("signal", signal()),
        ("empty", Envelope::default()),
    ]
}

/// An encoded record around `envelope`, its checksum computed here and not by the log.
pub(crate) fn record(sequence: u64, envelope: impl Into<Bytes>) -> Vec<u8> {
    let mut record = Record {
        sequence,
        appended_at: 1_771_545_600_123_456,
        clock: Some(VectorClock {
            entries: map(&[("node/main", sequence), ("seismometer-7", 9)]),
        }),
        topic: "quake.usgs.event".into(),
        id: Bytes::from_static(&[
            1, 0x97, 0x7e, 0x5a, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 42,
        ]),
        producer_id: "token-subject".into(),
        verdict: Some(Verdict {
            policy_digest: Bytes::from_static(b"\x01\x02"),
            policy_version: 3,
            schema_version: 4,
            flags: vec!["clean".into()],
            classification: None,
        }),
        envelope: envelope.into(),
        crc: 0,
    }
    .encode_to_vec();
    let crc = crc32fast::hash(&record);
    record.push(15 << 3 | 5);
    record.extend_from_slice(&crc.to_le_bytes());
    record
}
