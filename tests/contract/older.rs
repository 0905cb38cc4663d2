//! An envelope that the older system encoded, 435 bytes kept since.

use arqonbus::proto::pybus::BusPayload;
use arqonbus::proto::v1::{Envelope, envelope};
use arqonbus::proto::view::EnvelopeView;
use bytes::Bytes;
use prost::Message as _;
use prost_types::Struct;
use prost_types::value::Kind;

use super::samples::map;

const FIXTURE: &[u8] = include_bytes!("../fixtures/python_envelope.bin");

// MSG-01
#[test]
fn the_older_systems_envelope_decodes_to_its_values() {
    assert_eq!(FIXTURE.len(), 435);
    let envelope = Envelope::decode(FIXTURE).unwrap();
    let Some(envelope::Payload::Cmd(command)) = &envelope.payload else {
        panic!("{envelope:?}")
    };
    let headers = [
        ("sender", "svc-contract".to_owned()),
        ("channel", "control".to_owned()),
        ("version", "1.0".to_owned()),
        ("envelope_type", "command".to_owned()),
    ];
    let wanted = Envelope {
        trace_id: "arq_01HZZZZZZZZZZZZZZZZZZZZZZZ".into(),
        tenant_id: "tenant-fixture".into(),
        room_id: "ops".into(),
        timestamp: 1_771_545_600_000,
        twist_id: "tw-fixture".into(),
        headers: map(&headers),
        payload: envelope.payload.clone(),
        ..Envelope::default()
    };
    assert_eq!(envelope, wanted);
    assert_eq!(command.r#type, "op.continuum.projector.status");
    assert_eq!(command.data.len(), 239);
    assert_payload(&BusPayload::decode(command.data.clone()).unwrap());
}

fn assert_payload(payload: &BusPayload) {
    let text =
        |fields: &Option<Struct>, name: &str| match &fields.as_ref().unwrap().fields[name].kind {
            Some(Kind::StringValue(text)) => text.clone(),
            other => panic!("{name}: {other:?}"),
        };
    assert_eq!(payload.envelope_id, "arq_01HZZZZZZZZZZZZZZZZZZZZZZZ");
    assert_eq!(
        (&*payload.envelope_type, &*payload.version),
        ("command", "1.0")
    );
    assert_eq!(
        (&*payload.sender, &*payload.channel),
        ("svc-contract", "control")
    );
    assert_eq!(payload.command, "op.continuum.projector.status");
    assert_eq!(text(&payload.payload, "content"), "fixture");
    assert_eq!(text(&payload.args, "tenant_id"), "tenant-fixture");
    let limit = &payload.args.as_ref().unwrap().fields["limit"].kind;
    assert_eq!(*limit, Some(Kind::NumberValue(10.0)));
    assert_eq!(text(&payload.metadata, "tenant_id"), "tenant-fixture");
    assert_eq!(text(&payload.metadata, "twist_id"), "tw-fixture");
}

// MSG-01
#[test]
fn a_view_of_the_older_systems_envelope_shows_its_values() {
    let view = EnvelopeView::parse(FIXTURE).unwrap();
    assert_eq!(
        (view.trace_id, view.tenant_id),
        ("arq_01HZZZZZZZZZZZZZZZZZZZZZZZ", "tenant-fixture")
    );
    assert_eq!(
        (view.room_id, view.twist_id, view.timestamp),
        ("ops", "tw-fixture", 1_771_545_600_000)
    );
    assert_eq!(view.headers.get("sender"), Some("svc-contract"));
    assert_eq!(view.payload.kind(), "op.continuum.projector.status");
    assert!(BusPayload::decode(Bytes::copy_from_slice(view.payload.data())).is_ok());
    assert!(view.id.is_empty() && view.topic.is_empty() && view.signature.is_empty());
}
