//! Target: texts of JSON clients.
//!
//! Whatever a text is, it is refused by name or becomes an envelope that comes back as the message
//! it was. Whatever a record holds, a JSON client is shown one JSON object.

use arqonbus::edge::json::envelope::shown;
use arqonbus::edge::json::frame::{Bounds, Fault, Frame, Kind};
use arqonbus::proto::v1::Record;
use arqonbus::proto::view::{EnvelopeView, RecordView};
use prost::Message as _;
use serde_json::Value;

const BOUNDS: Bounds = Bounds {
    bytes_max: 32 << 10,
    depth_max: 32,
    naive_times: false,
};
const NOW_MS: i64 = 1_771_545_600_000;

/// The first byte says what the others are: a text, or a record.
///
/// # Panics
/// Something does not hold.
pub fn json_adapter(data: &[u8]) {
    let Some((&form, rest)) = data.split_first() else {
        return;
    };
    if form & 1 == 1 {
        show(rest);
    } else if let Ok(text) = std::str::from_utf8(rest) {
        take(text);
    }
}

fn take(text: &str) {
    let frame = match Frame::parse(text, &BOUNDS) {
        Ok(frame) => frame,
        Err(Fault::Invalid(invalid)) => {
            assert!(!invalid.errors.is_empty() && !invalid.field.is_empty());
            return;
        }
        Err(Fault::TooLarge { found, limit } | Fault::TooDeep { found, limit }) => {
            assert!(found > limit);
            return;
        }
        Err(Fault::Undecodable(why)) => {
            assert!(!why.is_empty());
            return;
        }
    };
    let envelope = match frame.clone().envelope("arq_client_1", NOW_MS) {
        Ok(envelope) => envelope.encode_to_vec(),
        Err(invalid) => {
            assert!(frame.large_whole, "{invalid:?}");
            return;
        }
    };
    EnvelopeView::parse(&envelope).expect("it was encoded");
    let record = Record {
        sequence: 7,
        topic: "a".into(),
        envelope: envelope.into(),
        ..Record::default()
    };
    let told = show(&record.encode_to_vec()).expect("it was encoded");
    // What is told may be longer than what a client may send.
    let bounds = Bounds {
        bytes_max: usize::MAX,
        ..BOUNDS
    };
    let mut back = Frame::parse(&told, &bounds).expect("it was a message");
    back.metadata.remove("arqonbus");
    let mut wanted = frame;
    wanted.metadata.remove("arqonbus");
    if wanted.kind == Kind::Telemetry && wanted.room.is_none() && wanted.channel.is_none() {
        (back.room, back.channel) = (None, None);
    }
    // A date outside of the calendar of RFC 3339 is refused when it is appended.
    let is_date = wanted.timestamp.is_none_or(|time| time > 0);
    if is_date {
        wanted.timestamp = wanted.timestamp.or(Some(NOW_MS));
    } else {
        back.timestamp = wanted.timestamp;
    }
    back.large_whole = wanted.large_whole;
    assert_eq!(back.id, wanted.id);
    assert_eq!(numbers_evened(back), numbers_evened(wanted));
}

/// A double that is whole comes back as a whole number; both mean the same.
fn numbers_evened(frame: Frame) -> Frame {
    fn even(value: &mut Value) {
        match value {
            Value::Number(number) => {
                if let Some(float) = number.as_f64() {
                    *value = float.into();
                }
            }
            Value::Array(items) => items.iter_mut().for_each(even),
            Value::Object(map) => map.values_mut().for_each(even),
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }
    let mut frame = frame;
    even(&mut frame.payload);
    for map in [&mut frame.args, &mut frame.metadata] {
        map.values_mut().for_each(even);
    }
    frame
}

fn show(bytes: &[u8]) -> Option<String> {
    let view = RecordView::parse(bytes).ok()?;
    let line = shown(&view).to_line();
    let read: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert!(read["payload"] != Value::Null || line.contains(r#""payload":null"#));
    assert_eq!(read["metadata"]["arqonbus"]["sequence"], view.sequence);
    Some(line)
}
