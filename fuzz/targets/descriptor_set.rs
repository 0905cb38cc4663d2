//! Target: descriptors that somebody registers, and a payload decoded by them.

use std::sync::OnceLock;

use arqonbus::proto::json::{Origin, RecordJson, Schemas};
use arqonbus::proto::v1::{Envelope, Event, Record, envelope};
use arqonbus::proto::view::RecordView;
use prost::Message as _;

/// More of an input than this is not looked at.
const INPUT_BYTES_MAX: usize = 16 << 10;

/// The input is a `FileDescriptorSet`; its own bytes are then also a payload of the type `a.M`,
/// which most of the corpus declares.
///
/// # Panics
/// Something does not hold.
pub fn descriptors(data: &[u8]) {
    static BUILTIN: OnceLock<Schemas> = OnceLock::new();
    let data = &data[..data.len().min(INPUT_BYTES_MAX)];
    let mut schemas = BUILTIN.get_or_init(Schemas::builtin).clone();
    if let Err(error) = schemas.add(data) {
        assert!(!error.to_string().is_empty());
    }
    let event = Event {
        r#type: "made".into(),
        data: data.to_vec().into(),
    };
    let message = Envelope {
        schema: "a.M".into(),
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    };
    let record = Record {
        sequence: 7,
        envelope: message.encode_to_vec().into(),
        ..Record::default()
    };
    let bytes = record.encode_to_vec();
    let view = RecordView::parse(&bytes).expect("prost encoded it");
    let origin = Origin {
        tenant: "dev",
        reality: "main",
    };
    if let Ok(line) = RecordJson::new(&view, origin, &schemas).to_line() {
        assert!(line.starts_with(b"{\"sequence\":7,"), "not the record");
    }
}
