//! Values of keys as envelopes, and back.
//!
//! A value is an event whose data is the value: JSON text, or bytes. Its key is the key, so that
//! the log's compaction keeps the newest of each; without data it says that there is none.

use prost::Message as _;

use crate::broker::error::ArgumentFault;
use crate::proto::v1::value::Kind;
use crate::proto::v1::{Envelope, Event, Value, envelope};
use crate::proto::view::EnvelopeView;

/// Type of the events.
const EVENT: &str = "op.store.value";
const CONTENT_TYPE: &str = "content-type";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// A value in the form in which it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Encoded {
    data: bytes::Bytes,
    content_type: &'static str,
}

impl Encoded {
    /// # Errors
    /// It is none, or has no bytes.
    pub(super) fn of(value: &Value) -> Result<Self, ArgumentFault> {
        let (data, content_type) = match &value.kind {
            None | Some(Kind::Null(_)) => {
                let wanted = "a value other than null; op.store.delete takes one away";
                return Err(ArgumentFault::Kind { wanted });
            }
            Some(Kind::Bytes(data)) if data.is_empty() => {
                let wanted = "of at least one byte; op.store.delete takes a value away";
                return Err(ArgumentFault::Kind { wanted });
            }
            Some(Kind::Bytes(data)) => (data.clone(), BYTES),
            Some(
                Kind::Boolean(_)
                | Kind::Integer(_)
                | Kind::Unsigned(_)
                | Kind::Number(_)
                | Kind::Text(_)
                | Kind::List(_)
                | Kind::Fields(_),
            ) => (value.to_json().to_string().into(), JSON),
        };
        Ok(Self { data, content_type })
    }

    /// How large it is.
    pub(super) fn len_bytes(&self) -> usize {
        self.data.len()
    }

    /// As the newest value of `key`, which expires at `expires_at` milliseconds, or never if that
    /// is 0.
    pub(super) fn envelope(self, topic: &str, key: &str, expires_at: u64) -> Vec<u8> {
        let envelope = Envelope {
            topic: topic.into(),
            key: key.into(),
            headers: [(CONTENT_TYPE.to_owned(), self.content_type.to_owned())].into(),
            expires_at: i64::try_from(expires_at).unwrap_or(i64::MAX),
            payload: Some(envelope::Payload::Event(Event {
                r#type: EVENT.into(),
                data: self.data,
            })),
            ..Envelope::default()
        };
        envelope.encode_to_vec()
    }
}

/// That `key` has no value any more.
pub(super) fn tombstone(topic: &str, key: &str) -> Vec<u8> {
    let envelope = Envelope {
        topic: topic.into(),
        key: key.into(),
        ..Envelope::default()
    };
    envelope.encode_to_vec()
}

/// The value in an envelope; `None` if it says that there is none.
pub(super) fn value_in(envelope: &EnvelopeView<'_>) -> Option<Value> {
    let data = envelope.payload.data();
    if data.is_empty() {
        return None;
    }
    let json = (envelope.headers.get(CONTENT_TYPE) == Some(JSON))
        .then(|| serde_json::from_slice::<serde_json::Value>(data).ok())
        .flatten();
    Some(json.map_or_else(
        || Kind::Bytes(bytes::Bytes::copy_from_slice(data)).into(),
        Value::from,
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn back(value: &Value) -> Option<Value> {
        let encoded = Encoded::of(value).unwrap().envelope("op.store.n.k", "k", 7);
        let view = EnvelopeView::parse(&encoded).unwrap();
        assert_eq!((view.topic, view.key, view.expires_at), ("op.store.n.k", "k", 7));
        value_in(&view)
    }

    // OPS-07
    #[test]
    fn values_come_back_as_they_were_set() {
        for json in [
            json!({"b": [1, null, -2.5], "a": u64::MAX}),
            json!(""),
            json!(false),
            json!([]),
        ] {
            assert_eq!(back(&json.clone().into()).unwrap().to_json(), json);
        }
        let bytes: Value = Kind::Bytes(vec![0, 255].into()).into();
        assert_eq!(back(&bytes), Some(bytes));
    }

    // OPS-07
    #[test]
    fn what_would_be_taken_for_no_value_is_refused() {
        let nothing: Value = json!(null).into();
        assert!(Encoded::of(&nothing).is_err());
        let empty: Value = Kind::Bytes(bytes::Bytes::new()).into();
        assert!(Encoded::of(&empty).is_err());
        let encoded = tombstone("op.store.n.k", "k");
        assert_eq!(value_in(&EnvelopeView::parse(&encoded).unwrap()), None);
    }
}
