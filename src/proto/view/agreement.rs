//! Holds the views against prost: over well-formed messages, damaged ones and noise.

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

use super::{EnvelopeView, Payload, RecordView};
use crate::proto::v1::{
    Classification, Command, Envelope, Event, Record, SpectralMetadata, SystemSignal, VectorClock,
    Verdict, envelope,
};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-zäß日.]{1,12}"]
}

fn blob() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn clock() -> impl Strategy<Value = VectorClock> {
    btree_map(text(), any::<u64>(), 0..4).prop_map(|entries| VectorClock { entries })
}

fn payload() -> impl Strategy<Value = envelope::Payload> {
    prop_oneof![
        (text(), blob())
            .prop_map(|(r#type, data)| envelope::Payload::Cmd(Command { r#type, data })),
        (text(), blob())
            .prop_map(|(r#type, data)| envelope::Payload::Event(Event { r#type, data })),
        (any::<i32>(), text()).prop_map(|(r#type, reason)| envelope::Payload::Signal(
            SystemSignal { r#type, reason }
        )),
    ]
}

fn spectral() -> impl Strategy<Value = SpectralMetadata> {
    (any::<f32>(), any::<f32>(), vec(any::<f32>(), 0..4)).prop_map(
        |(coherence, criticality, eigenvalues)| SpectralMetadata {
            coherence,
            criticality,
            eigenvalues,
        },
    )
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    let first = (
        text(),
        text(),
        text(),
        any::<i64>(),
        text(),
        btree_map(text(), text(), 0..4),
    );
    let second = (
        blob(),
        option::of(payload()),
        text(),
        text(),
        text(),
        text(),
    );
    let third = (
        any::<u64>(),
        option::of(clock()),
        text(),
        text(),
        any::<i64>(),
        any::<i64>(),
    );
    (first, second, third, option::of(spectral())).prop_map(|(a, b, c, spectral)| Envelope {
        trace_id: a.0,
        tenant_id: a.1,
        room_id: a.2,
        timestamp: a.3,
        twist_id: a.4,
        headers: a.5,
        signature: b.0,
        payload: b.1,
        id: b.2,
        topic: b.3,
        producer_id: b.4,
        reality_id: b.5,
        producer_sequence: c.0,
        clock: c.1,
        key: c.2,
        schema: c.3,
        expires_at: c.4,
        spectral,
        deliver_at: c.5,
    })
}

fn records() -> impl Strategy<Value = Record> {
    let classification = (text(), text(), text(), text(), vec(text(), 0..3)).prop_map(
        |(kind, risk, reason, decision, flags)| Classification {
            kind,
            risk,
            reason,
            decision,
            flags,
        },
    );
    let judged = (blob(), any::<u64>(), any::<u64>(), vec(text(), 0..3));
    let verdict = (judged, option::of(classification)).prop_map(
        |((policy_digest, policy_version, schema_version, flags), classification)| Verdict {
            policy_digest,
            policy_version,
            schema_version,
            flags,
            classification,
        },
    );
    let stamp = (any::<u64>(), any::<u64>(), clock(), text(), blob(), text());
    (stamp, option::of(verdict), envelopes(), any::<u32>()).prop_map(
        |(a, verdict, envelope, crc)| Record {
            sequence: a.0,
            appended_at: a.1,
            clock: Some(a.2),
            topic: a.3,
            id: a.4,
            producer_id: a.5,
            verdict,
            envelope: envelope.encode_to_vec().into(),
            crc,
        },
    )
}

fn message_of(view: &EnvelopeView<'_>) -> Envelope {
    let owned = |data: &[u8]| Bytes::copy_from_slice(data);
    Envelope {
        trace_id: view.trace_id.into(),
        tenant_id: view.tenant_id.into(),
        room_id: view.room_id.into(),
        timestamp: view.timestamp,
        twist_id: view.twist_id.into(),
        headers: view
            .headers
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        signature: owned(view.signature),
        payload: match view.payload {
            Payload::Empty => None,
            Payload::Command { kind, data } => Some(envelope::Payload::Cmd(Command {
                r#type: kind.into(),
                data: owned(data),
            })),
            Payload::Event { kind, data } => Some(envelope::Payload::Event(Event {
                r#type: kind.into(),
                data: owned(data),
            })),
            Payload::Signal { kind, reason } => Some(envelope::Payload::Signal(SystemSignal {
                r#type: kind,
                reason: reason.into(),
            })),
        },
        id: view.id.into(),
        topic: view.topic.into(),
        producer_id: view.producer_id.into(),
        reality_id: view.reality_id.into(),
        producer_sequence: view.producer_sequence,
        clock: view.clock.map(super::ClockView::to_message),
        key: view.key.into(),
        schema: view.schema.into(),
        expires_at: view.expires_at,
        spectral: view
            .spectral
            .map(|bytes| SpectralMetadata::decode(bytes).unwrap()),
        deliver_at: view.deliver_at,
    }
}

/// Equal in the encoding, which tells NaN from NaN and is what travels.
fn envelope_agrees(bytes: &[u8]) {
    let decoded = Envelope::decode(bytes);
    match EnvelopeView::parse(bytes) {
        Ok(view) => {
            let message = decoded.expect("the view accepts what prost rejects");
            assert_eq!(message_of(&view).encode_to_vec(), message.encode_to_vec());
            assert!(view.headers.len() >= message.headers.len());
            assert_eq!(super::expires_at_of_envelope(bytes), message.expires_at);
        }
        Err(error) => assert!(!error.field.is_empty()),
    }
}

fn record_agrees(bytes: &[u8]) {
    let Ok(view) = RecordView::parse(bytes) else {
        return;
    };
    let message = Record::decode(bytes).expect("the view accepts what prost rejects");
    assert_eq!(view.sequence, message.sequence);
    assert_eq!(view.appended_at, message.appended_at);
    assert_eq!(view.clock.to_message(), message.clock.unwrap_or_default());
    assert_eq!(view.topic, message.topic);
    assert_eq!(view.stamped_id, message.id);
    assert_eq!(view.stamped_producer, message.producer_id);
    assert_eq!(view.envelope.encoded, message.envelope);
    assert_eq!(view.crc, message.crc);
    assert_eq!(
        view.verdict.map(|bytes| Verdict::decode(bytes).unwrap()),
        message.verdict,
    );
}

/// Overwrites, cuts or doubles a piece, as bad networks and bad producers do.
fn damaged(mut bytes: Vec<u8>, changes: &[(u8, usize, u8)]) -> Vec<u8> {
    for (kind, at, value) in changes {
        let at = at % (bytes.len() + 1);
        match kind % 4 {
            0 if at < bytes.len() => bytes[at] = *value,
            1 => bytes.insert(at, *value),
            2 => bytes.truncate(at),
            _ => bytes.extend_from_within(..at),
        }
    }
    bytes
}

// MSG-01, MSG-16
proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn view_shows_what_prost_decodes(message in envelopes()) {
        let bytes = message.encode_to_vec();
        let view = EnvelopeView::parse(&bytes).expect("prost encoded it");
        prop_assert_eq!(message_of(&view).encode_to_vec(), bytes);
    }

    #[test]
    fn view_never_accepts_more_than_prost(
        message in envelopes(),
        changes in vec((any::<u8>(), any::<usize>(), any::<u8>()), 1..4),
    ) {
        envelope_agrees(&damaged(message.encode_to_vec(), &changes));
    }

    #[test]
    fn view_survives_noise(bytes in vec(any::<u8>(), 0..60)) {
        envelope_agrees(&bytes);
        record_agrees(&bytes);
    }

    #[test]
    fn record_view_shows_what_prost_decodes(message in records()) {
        let bytes = message.encode_to_vec();
        RecordView::parse(&bytes).expect("prost encoded it");
        record_agrees(&bytes);
    }

    #[test]
    fn record_view_never_accepts_more_than_prost(
        message in records(),
        changes in vec((any::<u8>(), any::<usize>(), any::<u8>()), 1..4),
    ) {
        record_agrees(&damaged(message.encode_to_vec(), &changes));
    }
}

// MSG-16
#[test]
fn unknown_fields_are_passed_over_and_groups_refused() {
    let mut bytes = Envelope {
        topic: "a.b".into(),
        ..Envelope::default()
    }
    .encode_to_vec();
    prost::encoding::string::encode(900, &"later".to_owned(), &mut bytes);
    assert_eq!(EnvelopeView::parse(&bytes).unwrap().topic, "a.b");
    bytes.extend([0xa3, 0x06, 0xa4, 0x06]);
    let error = EnvelopeView::parse(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown field 100: a group, which this protocol does not use"
    );
}

#[test]
fn errors_name_the_field() {
    let error = |bytes: &[u8]| EnvelopeView::parse(bytes).unwrap_err().to_string();
    assert_eq!(
        error(&[0x0a, 0x02, 0xff, 0xff]),
        "trace_id: not valid UTF-8"
    );
    assert_eq!(
        error(&[0x08, 0x01]),
        "trace_id: wire type 0 where 2 belongs"
    );
    assert_eq!(
        error(&[0xaa, 0x01, 0x02, 0x0a, 0x05]),
        "event.type: the message ends inside this field"
    );
    assert_eq!(error(&[0x00]), "envelope: not a valid field key");
}

// MSG-02
#[test]
fn what_the_producer_left_empty_comes_from_the_record() {
    let id = uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
    let record = Record {
        sequence: 7,
        appended_at: 1_700_000_000_123_456,
        id: Bytes::copy_from_slice(id.as_bytes()),
        producer_id: "svc".into(),
        ..Record::default()
    };
    let bytes = record.encode_to_vec();
    let view = RecordView::parse(&bytes).unwrap();
    assert_eq!(view.id(), "01900000-0000-7000-8000-000000000001");
    assert_eq!(view.trace_id(), "01900000000070008000000000000001");
    assert_eq!(view.producer(), "svc");
    assert_eq!(view.timestamp(), 1_700_000_000_123);

    let own = Envelope {
        id: "x-1".into(),
        producer_id: "me".into(),
        timestamp: 5,
        ..Envelope::default()
    };
    let bytes = Record {
        envelope: own.encode_to_vec().into(),
        ..record
    }
    .encode_to_vec();
    let view = RecordView::parse(&bytes).unwrap();
    assert_eq!((&*view.id(), &*view.trace_id()), ("x-1", "x1"));
    assert_eq!((view.producer(), view.timestamp()), ("me", 5));
}

// LOG-01
#[test]
fn checksum_covers_every_byte_before_it() {
    let mut bytes = Record {
        sequence: 1,
        topic: "a".into(),
        ..Record::default()
    }
    .encode_to_vec();
    let crc = crc32fast::hash(&bytes);
    prost::encoding::fixed32::encode(15, &crc, &mut bytes);
    RecordView::parse(&bytes).unwrap().verify().unwrap();
    let end = bytes.len() - 6;
    bytes[end] ^= 1;
    let view = RecordView::parse(&bytes).unwrap();
    assert_eq!(view.verify().unwrap_err().found, crc);
    assert!(RecordView::default().verify().is_err());
}
