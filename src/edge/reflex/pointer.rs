//! A reference to an episode, read from bytes that may be anything.

use prost::Message as _;
use serde_json::Value;

use crate::broker::name::{check_token, check_topic};
use crate::proto::v1::{ReflexPointer, ReflexRecord};

const EPISODE_BYTES_MAX: usize = 128;
const KIND_BYTES_MAX: usize = 64;
const URI_BYTES_MAX: usize = 1_024;
const DIGEST_BYTES: usize = 32;
const SCHEMES: [&str; 3] = ["sqlite:", "sled:", "ram:"];
const FIELDS: [&str; 5] = ["episode_id", "kind", "uri", "record", "digest"];

/// What makes a payload no pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    field: String,
    pub(super) text: String,
}

impl Fault {
    pub(super) fn new(field: &str, text: &str) -> Self {
        Self {
            field: field.to_owned(),
            text: text.to_owned(),
        }
    }

    /// The part at fault, from the envelope.
    pub(super) fn path(&self) -> String {
        match self.field.as_str() {
            "" => "data".to_owned(),
            field => format!("data.{field}"),
        }
    }

    /// The same at the beginning of a sentence.
    pub(super) fn subject(&self) -> String {
        match self.field.as_str() {
            "" => "the payload".to_owned(),
            field => field.to_owned(),
        }
    }
}

/// A pointer whose form is right.
#[derive(Debug)]
pub(super) struct Pointer(ReflexPointer);

impl Pointer {
    pub(super) fn of_protobuf(data: &[u8]) -> Result<Self, Fault> {
        let pointer = ReflexPointer::decode(data)
            .map_err(|error| Fault::new("", &format!("cannot be decoded: {error}")))?;
        // Unknown fields, or one field many times: whatever is in there, it is no part of a pointer.
        if pointer.encoded_len() != data.len() {
            return Err(Fault::new("", "has more in it than a pointer"));
        }
        Ok(Self(pointer))
    }

    pub(super) fn of_json(data: &[u8]) -> Result<Self, Fault> {
        let value = serde_json::from_slice(data)
            .map_err(|_error| Fault::new("", "is neither a pointer nor JSON"))?;
        Self::of_value(value)
    }

    pub(super) fn of_value(value: Value) -> Result<Self, Fault> {
        let Value::Object(fields) = value else {
            return Err(Fault::new("", "is no object"));
        };
        if let Some(name) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            return Err(Fault::new(&shown(name), "is not part of a pointer"));
        }
        let text = |name: &str| match fields.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(Fault::new(name, "is no text")),
        };
        let record = match fields.get("record") {
            None => None,
            Some(Value::Object(record)) => {
                let known = |name: &&String| matches!(name.as_str(), "topic" | "sequence");
                if let Some(name) = record.keys().find(|name| !known(name)) {
                    let path = format!("record.{}", shown(name));
                    return Err(Fault::new(&path, "is not part of a pointer"));
                }
                let topic = record.get("topic").and_then(Value::as_str);
                Some(ReflexRecord {
                    topic: topic.unwrap_or_default().to_owned(),
                    sequence: record.get("sequence").and_then(whole).unwrap_or_default(),
                })
            }
            Some(_) => return Err(Fault::new("record", "is no object")),
        };
        let digest =
            unhex(&text("digest")?).ok_or_else(|| Fault::new("digest", "is not hexadecimal"))?;
        Ok(Self(ReflexPointer {
            episode_id: text("episode_id")?,
            kind: text("kind")?,
            uri: text("uri")?,
            record,
            digest: digest.into(),
        }))
    }

    pub(super) fn check(&self) -> Result<(), Fault> {
        let Self(pointer) = self;
        let bounded = |field, text: &str, limit: usize| match text.len() {
            0 => Err(Fault::new(field, "is missing")),
            found if found > limit => {
                let text = format!("has {found} bytes, more than the limit of {limit}");
                Err(Fault::new(field, &text))
            }
            _ => Ok(()),
        };
        bounded("episode_id", &pointer.episode_id, EPISODE_BYTES_MAX)?;
        bounded("kind", &pointer.kind, KIND_BYTES_MAX)?;
        check_token(&pointer.kind).map_err(|fault| Fault::new("kind", &fault.to_string()))?;
        match (&pointer.record, pointer.uri.is_empty()) {
            (None, true) => return Err(Fault::new("uri", "is missing, and so is record")),
            (Some(_), false) => {
                return Err(Fault::new("uri", "stands beside record; leave out one"));
            }
            (None, false) => {
                bounded("uri", &pointer.uri, URI_BYTES_MAX)?;
                if !SCHEMES.iter().any(|scheme| pointer.uri.starts_with(scheme)) {
                    let text = "does not begin with sqlite:, sled: or ram:";
                    return Err(Fault::new("uri", text));
                }
                if pointer.uri.bytes().any(|byte| !byte.is_ascii_graphic()) {
                    let text = "has more in it than visible ASCII";
                    return Err(Fault::new("uri", text));
                }
            }
            (Some(record), true) => {
                check_topic(&record.topic)
                    .map_err(|fault| Fault::new("record.topic", &fault.to_string()))?;
                if record.sequence == 0 {
                    return Err(Fault::new("record.sequence", "is missing"));
                }
            }
        }
        match pointer.digest.len() {
            0 | DIGEST_BYTES => Ok(()),
            found => {
                let text = format!("has {found} bytes; a SHA-256 has {DIGEST_BYTES}");
                Err(Fault::new("digest", &text))
            }
        }
    }
}

/// A name in the payload, which may be anything and of any length.
fn shown(name: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    name.chars().filter(plain).take(64).collect()
}

/// A whole number, also one that was written as JSON by somebody who knows only floats.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it has no fraction and is within a float's whole numbers"
)]
fn whole(value: &Value) -> Option<u64> {
    let float = || {
        let number = value.as_f64()?;
        let exact = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number);
        exact.then_some(number as u64)
    };
    value.as_u64().or_else(float)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}
