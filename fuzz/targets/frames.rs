//! Targets: the messages that either side of a connection reads from the other.
//!
//! The views must accept nothing that prost rejects, and say the same. What was understood must
//! encode to about as much as came in, and decode to itself again.

use arqonbus::broker::name;
use arqonbus::proto::v1::{ClientFrame, Envelope, Record, ServerFrame, client_frame, server_frame};
use arqonbus::proto::view::{EnvelopeView, RecordView};
use prost::Message;

/// A client's frame, and the same bytes as an envelope on its own.
///
/// # Panics
/// Something does not hold.
pub fn client_frame(data: &[u8]) {
    if let Ok(frame) = ClientFrame::decode(data) {
        round_trip(&frame, data.len());
        if let Some(client_frame::Body::Produce(produce)) = &frame.body {
            for encoded in &produce.envelopes {
                envelope(encoded);
            }
        }
    }
    envelope(data);
}

/// A server's frame, and the same bytes as a record on its own.
///
/// # Panics
/// Something does not hold.
pub fn server_frame(data: &[u8]) {
    if let Ok(frame) = ServerFrame::decode(data) {
        round_trip(&frame, data.len());
        if let Some(server_frame::Body::Deliver(deliver)) = &frame.body {
            for encoded in &deliver.records {
                record(encoded);
            }
        }
    }
    record(data);
}

/// Compared in their encoding, which tells NaN from NaN and is what travels.
fn round_trip<M: Message + Default>(message: &M, came_in: usize) {
    let encoded = message.encode_to_vec();
    // A negative int32 may come in five bytes and goes out in ten.
    let limit = 2 * came_in + 16;
    assert!(
        encoded.len() <= limit,
        "{came_in} bytes became {}",
        encoded.len()
    );
    let again = M::decode(encoded.as_slice()).expect("what prost encodes it decodes");
    assert_eq!(again.encode_to_vec(), encoded);
}

fn envelope(bytes: &[u8]) {
    let decoded = Envelope::decode(bytes);
    match EnvelopeView::parse(bytes) {
        Ok(view) => {
            let message = decoded.expect("the view accepts what prost rejects");
            agree(&view, &message);
            assert_eq!(view.encoded, bytes);
            if let Err(wrong) = name::check_topic(view.topic) {
                assert!(!wrong.to_string().is_empty());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn agree(view: &EnvelopeView<'_>, message: &Envelope) {
    assert_eq!(view.trace_id, message.trace_id);
    assert_eq!(view.tenant_id, message.tenant_id);
    assert_eq!(view.room_id, message.room_id);
    assert_eq!(view.timestamp, message.timestamp);
    assert_eq!(view.twist_id, message.twist_id);
    assert_eq!(view.signature, message.signature);
    assert_eq!(view.id, message.id);
    assert_eq!(view.topic, message.topic);
    assert_eq!(view.producer_id, message.producer_id);
    assert_eq!(view.reality_id, message.reality_id);
    assert_eq!(view.producer_sequence, message.producer_sequence);
    assert_eq!(view.key, message.key);
    assert_eq!(view.schema, message.schema);
    assert_eq!(view.expires_at, message.expires_at);
    assert_eq!(view.payload.kind().is_empty(), kind_is_empty(message));
    assert_eq!(view.clock.map(|clock| clock.to_message()), message.clock);
    for (name, value) in &message.headers {
        assert_eq!(view.headers.get(name), Some(value.as_str()), "{name:?}");
    }
}

fn kind_is_empty(message: &Envelope) -> bool {
    use arqonbus::proto::v1::envelope::Payload::{Cmd, Event, Signal};
    match &message.payload {
        Some(Cmd(command)) => command.r#type.is_empty(),
        Some(Event(event)) => event.r#type.is_empty(),
        Some(Signal(_)) | None => true,
    }
}

fn record(bytes: &[u8]) {
    let Ok(view) = RecordView::parse(bytes) else {
        return;
    };
    let message = Record::decode(bytes).expect("the view accepts what prost rejects");
    assert_eq!(view.sequence, message.sequence);
    assert_eq!(view.appended_at, message.appended_at);
    assert_eq!(view.topic, message.topic);
    assert_eq!(view.stamped_id, message.id);
    assert_eq!(view.stamped_producer, message.producer_id);
    assert_eq!(view.clock.to_message(), message.clock.unwrap_or_default());
    assert_eq!(view.envelope.encoded, message.envelope);
    assert_eq!(view.crc, message.crc);
    if view.verify().is_ok() {
        let (body, _) = bytes.split_at(bytes.len() - 5);
        assert_eq!(crc32fast::hash(body), message.crc);
    }
}
