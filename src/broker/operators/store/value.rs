//! Values of keys as envelopes, and back.
//!
//! A value is the data of an event: JSON text, or bytes. Without data, it says that there is none.

use crate::broker::error::ArgumentFault;
use crate::proto::v1::Value;
use crate::proto::v1::value::Kind;
use crate::proto::view::EnvelopeView;

const CONTENT_TYPE: &str = "content-type";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// A value in the form in which it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Encoded {
    pub(super) data: bytes::Bytes,
    pub(super) content_type: &'static str,
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
    use prost::Message as _;
    use serde_json::json;

    use super::*;
    use crate::proto::v1::{Envelope, Event, envelope};

    fn back(value: &Value) -> Option<Value> {
        let Encoded { data, content_type } = Encoded::of(value).unwrap();
        let envelope = Envelope {
            headers: [(CONTENT_TYPE.to_owned(), content_type.to_owned())].into(),
            payload: Some(envelope::Payload::Event(Event {
                r#type: String::new(),
                data,
            })),
            ..Envelope::default()
        };
        value_in(&EnvelopeView::parse(&envelope.encode_to_vec()).unwrap())
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
        assert_eq!(value_in(&EnvelopeView::default()), None);
    }
}
