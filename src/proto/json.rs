//! A record as a person or a script reads it (MSG-15): the same object in the command line, HTTP
//! and `logdump`.
//!
//! A payload that is JSON comes out as it went in, number for number. One with a known schema is
//! decoded by it. Any other is base64 with its type named.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use serde_json::value::RawValue;

use super::view::{ClockView, Headers, Payload, RecordView};
use super::{DESCRIPTORS, v1};

mod date;
mod time;

use date::Date;
pub use time::read_micros;

/// Message that older clients put into `data`.
const BUS_PAYLOAD: &str = "arqon.pybus.v1.BusPayload";
/// Header by which older clients are known: they name no schema.
const OLDER_CLIENT: &str = "envelope_type";

/// The log that a record comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its tenant.
    pub tenant: &'a str,
    /// Its reality.
    pub reality: &'a str,
}

/// The message types by which payloads are decoded.
#[derive(Clone, Debug)]
pub struct Schemas {
    pool: DescriptorPool,
}

/// Why a payload is not shown by the message type that is named for it.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// No known descriptor has the type.
    #[error("message {message} is in no descriptor set")]
    Unknown {
        /// Full name of the type.
        message: String,
    },
    /// The bytes are no such message.
    #[error("not a {message}: {source}")]
    Malformed {
        /// Full name of the type.
        message: String,
        /// What the decoder met.
        source: prost::DecodeError,
    },
    /// The message holds a value that JSON has no form for, like a duration out of range.
    #[error("{message} has no JSON form: {source}")]
    NoJson {
        /// Full name of the type.
        message: String,
        /// What the encoder met.
        source: serde_json::Error,
    },
}

/// Descriptors that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Malformed, incomplete, or at odds with the types already known.
    #[error("the descriptor set cannot be used")]
    Unusable(#[from] prost_reflect::DescriptorError),
    /// No `FileDescriptorSet`.
    #[error("the descriptor set cannot be read")]
    Unreadable(#[from] prost::DecodeError),
    /// Written in a language that is not known here, such as that of editions.
    #[error(
        "{file:?} in the descriptor set has the syntax {syntax:?}; known are proto2 and proto3"
    )]
    Syntax {
        /// Its name.
        file: String,
        /// What it says.
        syntax: String,
    },
}

impl Schemas {
    /// The types of ArqonBus itself, and the well-known ones of `google.protobuf`.
    #[must_use]
    pub fn builtin() -> Self {
        let mut pool = DescriptorPool::global();
        pool.decode_file_descriptor_set(DESCRIPTORS)
            .expect("the descriptors were encoded by our own build");
        Self { pool }
    }

    /// Adds an encoded `google.protobuf.FileDescriptorSet`, wherever it comes from. What it
    /// imports must be in it, or known already; of a file that is known already, as the
    /// well-known types are, the first version stays.
    ///
    /// # Errors
    /// It is malformed, incomplete, or at odds with the types already known.
    pub fn add(&mut self, descriptors: &[u8]) -> Result<(), SchemaError> {
        // The pool panics over a syntax that it does not know.
        let set = prost_types::FileDescriptorSet::decode(descriptors)?;
        for file in &set.file {
            if !matches!(file.syntax.as_deref(), None | Some("proto2" | "proto3")) {
                return Err(SchemaError::Syntax {
                    file: file.name().to_owned(),
                    syntax: file.syntax().to_owned(),
                });
            }
        }
        Ok(self.pool.decode_file_descriptor_set(descriptors)?)
    }

    /// The type called `name`, in full and without a leading dot.
    #[must_use]
    pub fn message(&self, name: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(name)
    }

    /// Decodes `data` as the message called `name`, and gives its JSON form.
    ///
    /// # Errors
    /// The type is not known, or `data` is no such message, or it has no JSON form.
    pub fn read(&self, name: &str, data: &[u8]) -> Result<Box<RawValue>, Unreadable> {
        let message = || name.to_owned();
        let Some(descriptor) = self.message(name) else {
            return Err(Unreadable::Unknown { message: message() });
        };
        let decoded = DynamicMessage::decode(descriptor, data).map_err(|source| {
            let message = message();
            Unreadable::Malformed { message, source }
        })?;
        serde_json::value::to_raw_value(&decoded).map_err(|source| {
            let message = message();
            Unreadable::NoJson { message, source }
        })
    }
}

/// The object of one record. Its first keys are `sequence`, `appended_at`, `topic`, `id`,
/// `tenant`, `reality`, `producer`, `key`, `clock`, `headers`, `payload`; further ones follow
/// where there is something to show. Serialize it with `serde_json`.
#[derive(Serialize)]
pub struct RecordJson<'a> {
    sequence: u64,
    appended_at: Micros,
    topic: &'a str,
    id: Cow<'a, str>,
    tenant: &'a str,
    reality: &'a str,
    producer: &'a str,
    key: Option<&'a str>,
    clock: Clock<'a>,
    headers: HeadersJson<'a>,
    payload: PayloadJson<'a>,
    trace_id: Cow<'a, str>,
    timestamp: Time,
    #[serde(skip_serializing_if = "str::is_empty")]
    twist_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    room: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    schema: &'a str,
    #[serde(rename = "type", skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    producer_sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spectral: Option<Spectral>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<VerdictJson>,
}

impl std::fmt::Debug for RecordJson<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordJson")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl<'a> RecordJson<'a> {
    /// Describes `record`. Its payload is taken for the message that it names itself.
    #[must_use]
    pub fn new(record: &RecordView<'a>, origin: Origin<'a>, schemas: &Schemas) -> Self {
        Self::with_message(record, origin, schemas, message_of(record))
    }

    /// Describes `record`, with its payload taken for the message type called `message`; empty
    /// for none.
    #[must_use]
    pub fn with_message(
        record: &RecordView<'a>,
        origin: Origin<'a>,
        schemas: &Schemas,
        message: &'a str,
    ) -> Self {
        let envelope = &record.envelope;
        Self {
            sequence: record.sequence,
            appended_at: Micros(record.appended_at),
            topic: record.topic,
            id: record.id(),
            tenant: origin.tenant,
            reality: origin.reality,
            producer: record.producer(),
            key: Some(envelope.key).filter(|key| !key.is_empty()),
            clock: Clock(record.clock),
            headers: HeadersJson(envelope.headers),
            payload: PayloadJson::new(record, schemas, message),
            trace_id: record.trace_id(),
            timestamp: Time(record.timestamp()),
            twist_id: envelope.twist_id,
            room: envelope.room_id,
            schema: envelope.schema,
            kind: envelope.payload.kind(),
            producer_sequence: envelope.producer_sequence,
            expires_at: Some(envelope.expires_at).filter(|end| *end != 0).map(Time),
            deliver_at: Some(envelope.deliver_at).filter(|at| *at != 0).map(Time),
            spectral: envelope.spectral.and_then(Spectral::decode),
            verdict: record.verdict.and_then(VerdictJson::decode),
        }
    }

    /// What the payload was found to be.
    #[must_use]
    pub const fn payload_form(&self) -> PayloadForm {
        match self.payload {
            PayloadJson::Nothing | PayloadJson::Signal(..) => PayloadForm::Empty,
            PayloadJson::Text(_) | PayloadJson::Compacted(_) => PayloadForm::Json,
            PayloadJson::Decoded(_) => PayloadForm::Message,
            PayloadJson::Opaque { .. } => PayloadForm::Opaque,
        }
    }

    /// The payload alone, as one line of JSON; `None` if it has no JSON form.
    #[must_use]
    pub fn payload_line(&self) -> Option<String> {
        serde_json::to_string(&self.payload).ok()
    }

    /// The object as one line of text, without its line feed.
    ///
    /// # Errors
    /// None that is known; those of `serde_json`.
    pub fn to_line(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// What the bytes of a payload are, as far as can be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadForm {
    /// There are none.
    Empty,
    /// JSON text.
    Json,
    /// A message of the type named.
    Message,
    /// Something else.
    Opaque,
}

/// Full name of the message that the payload of `record` claims to be: the envelope's schema, or
/// what older clients send without naming it. Empty if it claims nothing.
#[must_use]
pub fn message_of<'a>(record: &RecordView<'a>) -> &'a str {
    let envelope = &record.envelope;
    if !envelope.schema.is_empty() {
        envelope.schema
    } else if envelope.payload.kind() == BUS_PAYLOAD || envelope.headers.get(OLDER_CLIENT).is_some()
    {
        BUS_PAYLOAD
    } else {
        ""
    }
}

/// A time in microseconds since the Unix epoch as RFC 3339 in UTC (MSG-09); as a number where it
/// is beyond the year 9999.
#[must_use]
pub fn micros(time: u64) -> String {
    let fraction = u32::try_from(time % 1_000_000).unwrap_or_default();
    if let Some(date) = Date::new(time / 1_000_000, fraction, 6) {
        return date.as_str().to_owned();
    }
    i64::try_from(time)
        .ok()
        .and_then(|time| Timestamp::from_microsecond(time).ok())
        .map_or_else(|| time.to_string(), |time| format!("{time:.6}"))
}

struct Micros(u64);

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fraction = u32::try_from(self.0 % 1_000_000).unwrap_or_default();
        match Date::new(self.0 / 1_000_000, fraction, 6) {
            Some(date) => serializer.serialize_str(date.as_str()),
            None => serializer.serialize_str(&micros(self.0)),
        }
    }
}

/// Milliseconds since the Unix epoch, shown as RFC 3339 in UTC; as a number where a producer sent
/// what is no date.
struct Time(i64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(time) = u64::try_from(self.0) {
            let fraction = u32::try_from(time % 1_000).unwrap_or_default();
            if let Some(date) = Date::new(time / 1_000, fraction, 3) {
                return serializer.serialize_str(date.as_str());
            }
        }
        match Timestamp::from_millisecond(self.0) {
            Ok(time) => serializer.collect_str(&format_args!("{time:.3}")),
            Err(_no_date) => serializer.serialize_i64(self.0),
        }
    }
}

/// The entries of a clock by name.
struct Clock<'a>(ClockView<'a>);

impl Serialize for Clock<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        by_name(self.0.entries(), serializer)
    }
}

struct HeadersJson<'a>(Headers<'a>);

impl Serialize for HeadersJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() {
            return serializer.serialize_map(Some(0))?.end();
        }
        by_name(self.0.iter(), serializer)
    }
}

/// Of two entries with one name the later counts. One alone, the usual case, is not sorted.
fn by_name<'a, V: Serialize, S: Serializer>(
    entries: impl Iterator<Item = (&'a str, V)> + Clone,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut few = entries.clone();
    match (few.next(), few.next()) {
        (Some(only), None) => serializer.collect_map([only]),
        _ => serializer.collect_map(entries.collect::<BTreeMap<_, _>>()),
    }
}

#[derive(Serialize)]
struct Spectral {
    coherence: f32,
    criticality: f32,
    eigenvalues: Vec<f32>,
}

impl Spectral {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let found = v1::SpectralMetadata::decode(bytes).ok()?;
        Some(Self {
            coherence: found.coherence,
            criticality: found.criticality,
            eigenvalues: found.eigenvalues,
        })
    }
}

/// What the edge decided about the envelope, as far as there is something to say.
#[derive(Serialize)]
struct VerdictJson {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flags: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    policy_digest: String,
    policy_version: u64,
    #[serde(skip_serializing_if = "is_zero")]
    schema_version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    classification: Option<ClassificationJson>,
}

#[derive(Serialize)]
struct ClassificationJson {
    kind: String,
    risk: String,
    reason: String,
    decision: String,
    flags: Vec<String>,
}

impl VerdictJson {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let found = v1::Verdict::decode(bytes).ok()?;
        let digest = found.policy_digest.iter();
        Some(Self {
            flags: found.flags,
            policy_digest: digest.map(|byte| format!("{byte:02x}")).collect(),
            policy_version: found.policy_version,
            schema_version: found.schema_version,
            classification: found.classification.map(|found| ClassificationJson {
                kind: found.kind,
                risk: found.risk,
                reason: found.reason,
                decision: found.decision,
                flags: found.flags,
            }),
        })
    }
}

enum PayloadJson<'a> {
    Nothing,
    Text(&'a RawValue),
    Compacted(Box<RawValue>),
    Decoded(Box<RawValue>),
    Signal(i32, &'a str),
    Opaque { kind: &'a str, data: &'a [u8] },
}

impl<'a> PayloadJson<'a> {
    fn new(record: &RecordView<'a>, schemas: &Schemas, message: &'a str) -> Self {
        let envelope = &record.envelope;
        let (kind, data) = match envelope.payload {
            Payload::Empty => return Self::Nothing,
            Payload::Signal { kind, reason } => return Self::Signal(kind, reason),
            Payload::Command { kind, data } | Payload::Event { kind, data } => (kind, data),
        };
        let by_message = || {
            let named = Some(message).filter(|name| !name.is_empty())?;
            schemas.read(named, data).ok().map(Self::Decoded)
        };
        let said_to_be_json = || {
            let kind = envelope.headers.get("content-type");
            kind.is_some_and(|kind| kind.contains("json"))
        };
        let found = if message.is_empty() || said_to_be_json() {
            Self::text(data).or_else(by_message)
        } else {
            by_message().or_else(|| Self::text(data))
        };
        let kind = if message.is_empty() { kind } else { message };
        found.unwrap_or(Self::Opaque { kind, data })
    }

    fn text(data: &'a [u8]) -> Option<Self> {
        let text: &RawValue = serde_json::from_slice(data).ok()?;
        // Looks at every byte, which is faster here than looking for the first.
        let is_line = |byte: u8| (byte != b'\n') & (byte != b'\r');
        if text
            .get()
            .bytes()
            .fold(true, |all, byte| all & is_line(byte))
        {
            return Some(Self::Text(text));
        }
        let line = without_spaces(text.get());
        RawValue::from_string(line).ok().map(Self::Compacted)
    }
}

/// Drops white space between the tokens of valid JSON, so that it fits on one line; numbers and
/// strings stay as they are.
fn without_spaces(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|symbol| {
            if in_string {
                in_string = escaped || *symbol != '"';
                escaped = !escaped && *symbol == '\\';
                return true;
            }
            in_string = *symbol == '"';
            !symbol.is_ascii_whitespace()
        })
        .collect()
}

impl Serialize for PayloadJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.serialize_unit(),
            Self::Text(text) => text.serialize(serializer),
            Self::Compacted(text) => text.serialize(serializer),
            Self::Decoded(value) => value.serialize(serializer),
            Self::Signal(kind, reason) => {
                let mut map = serializer.serialize_map(Some(2))?;
                match v1::system_signal::Type::try_from(*kind) {
                    Ok(kind) => map.serialize_entry("signal", kind.as_str_name())?,
                    Err(_of_a_newer_peer) => map.serialize_entry("signal", kind)?,
                }
                map.serialize_entry("reason", reason)?;
                map.end()
            }
            Self::Opaque { kind, data } => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("type", kind)?;
                map.serialize_entry("base64", &BASE64.encode(data))?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{Envelope, Event, Record, VectorClock, envelope};

    fn line(envelope: &Envelope) -> String {
        let record = Record {
            sequence: 7,
            appended_at: 1_517_363_399_650_001,
            clock: Some(VectorClock {
                entries: [("n1/main".to_owned(), 7)].into(),
            }),
            topic: "usgs.quake".into(),
            producer_id: "usgs".into(),
            envelope: envelope.encode_to_vec().into(),
            ..Record::default()
        };
        let bytes = record.encode_to_vec();
        let origin = Origin {
            tenant: "dev",
            reality: "main",
        };
        let view = RecordView::parse(&bytes).unwrap();
        let line = RecordJson::new(&view, origin, &Schemas::builtin())
            .to_line()
            .unwrap();
        String::from_utf8(line).unwrap()
    }

    fn event(kind: &str, data: impl Into<bytes::Bytes>) -> Envelope {
        let event = Event {
            r#type: kind.into(),
            data: data.into(),
        };
        Envelope {
            id: "01900000-0000-7000-8000-000000000001".into(),
            timestamp: 1_517_363_399_650,
            payload: Some(envelope::Payload::Event(event)),
            ..Envelope::default()
        }
    }

    fn payload(envelope: &Envelope) -> serde_json::Value {
        serde_json::from_str::<serde_json::Value>(&line(envelope)).unwrap()["payload"].take()
    }

    // MSG-15, MSG-09
    #[test]
    fn json_payload_comes_out_as_it_went_in() {
        let text = r#"{"z":1.10,"a":12345678901234567890123,"z":"\u00e9","n":-0.0}"#;
        assert_eq!(
            line(&event("quake", text)),
            format!(
                concat!(
                    r#"{{"sequence":7,"appended_at":"2018-01-31T01:49:59.650001Z","#,
                    r#""topic":"usgs.quake","id":"01900000-0000-7000-8000-000000000001","#,
                    r#""tenant":"dev","reality":"main","producer":"usgs","key":null,"#,
                    r#""clock":{{"n1/main":7}},"headers":{{}},"payload":{},"#,
                    r#""trace_id":"01900000000070008000000000000001","#,
                    r#""timestamp":"2018-01-31T01:49:59.650Z","type":"quake"}}"#,
                ),
                text
            )
        );
    }

    #[test]
    fn json_over_several_lines_becomes_one() {
        let found = line(&event(
            "quake",
            "{\r\n \"a b\" : [1.50,\n \"x\\\" \\\\\" , true ]\n}",
        ));
        assert!(
            found.contains(r#""payload":{"a b":[1.50,"x\" \\",true]}"#),
            "{found}"
        );
        assert!(!found.contains('\n'));
    }

    // MSG-15
    #[test]
    fn payload_with_a_schema_is_decoded_by_it() {
        let inner = v1::SystemSignal {
            r#type: 2,
            reason: "spam".into(),
        }
        .encode_to_vec();
        let envelope = Envelope {
            schema: "arqon.v1.SystemSignal".into(),
            ..event("x", inner)
        };
        assert_eq!(
            payload(&envelope),
            serde_json::json!({"type": "BAN", "reason": "spam"})
        );
    }

    #[test]
    fn payload_of_no_known_form_is_base64_with_its_type() {
        let expected = serde_json::json!({"type": "blob", "base64": "//4A"});
        assert_eq!(payload(&event("blob", vec![0xff, 0xfe, 0])), expected);
        let expected = serde_json::json!({"type": "acme.Unknown", "base64": "//4A"});
        let unknown = Envelope {
            schema: "acme.Unknown".into(),
            ..event("blob", vec![0xff, 0xfe, 0])
        };
        assert_eq!(payload(&unknown), expected);
        assert!(payload(&Envelope::default()).is_null());
    }

    // MSG-15: also what older clients of protobuf wrap things in.
    #[test]
    fn well_known_types_need_no_descriptors() {
        let duration = prost_types::Duration {
            seconds: 3,
            nanos: 500_000_000,
        };
        let envelope = Envelope {
            schema: "google.protobuf.Duration".into(),
            ..event("x", duration.encode_to_vec())
        };
        assert_eq!(payload(&envelope), "3.500s");
    }

    // MSG-15
    #[test]
    fn a_payload_that_is_not_what_it_claims_is_told_why() {
        let schemas = Schemas::builtin();
        let why = |name, data| schemas.read(name, data).unwrap_err().to_string();
        let unknown = why("acme.Order", b"");
        assert_eq!(unknown, "message acme.Order is in no descriptor set");
        let malformed = why("arqon.v1.ConsumerCursor", b"\x0a\xff");
        assert!(
            malformed.starts_with("not a arqon.v1.ConsumerCursor: "),
            "{malformed}"
        );
        let endless = prost_types::Duration {
            seconds: i64::MAX,
            nanos: 0,
        };
        let no_json = why("google.protobuf.Duration", &endless.encode_to_vec());
        assert!(
            no_json.starts_with("google.protobuf.Duration has no JSON form: "),
            "{no_json}"
        );
    }

    // MSG-15, REL-10: as protoc writes it for a file of an edition.
    #[test]
    fn descriptors_in_an_unknown_syntax_are_refused_by_name() {
        let file = |syntax: Option<&str>| {
            let file = prost_types::FileDescriptorProto {
                name: Some("a.proto".into()),
                syntax: syntax.map(str::to_owned),
                ..prost_types::FileDescriptorProto::default()
            };
            prost_types::FileDescriptorSet { file: vec![file] }.encode_to_vec()
        };
        for syntax in ["editions", ""] {
            let found = Schemas::builtin().add(&file(Some(syntax))).unwrap_err();
            let text = found.to_string();
            assert!(
                text.contains("\"a.proto\"") && text.contains(&format!("{syntax:?}")),
                "{text}"
            );
        }
        for syntax in [None, Some("proto2"), Some("proto3")] {
            Schemas::builtin().add(&file(syntax)).unwrap();
        }
    }

    // MSG-12
    #[test]
    fn twist_and_spectral_are_shown() {
        let spectral = v1::SpectralMetadata {
            coherence: 0.5,
            criticality: 0.25,
            eigenvalues: vec![1.0],
        };
        let envelope = Envelope {
            twist_id: "what-if".into(),
            spectral: Some(spectral),
            expires_at: i64::MAX,
            deliver_at: 1_771_545_600_123,
            ..event("x", "1")
        };
        let found = line(&envelope);
        assert!(found.contains(r#""twist_id":"what-if""#), "{found}");
        assert!(
            found.contains(r#""expires_at":9223372036854775807"#),
            "{found}"
        );
        assert!(
            found.contains(r#""deliver_at":"2026-02-20T00:00:00.123Z""#),
            "{found}"
        );
        let spectral = r#""spectral":{"coherence":0.5,"criticality":0.25,"eigenvalues":[1.0]}"#;
        assert!(found.contains(spectral), "{found}");
    }

    // EDGE-19
    #[test]
    fn what_the_edge_decided_is_shown_where_there_is_something() {
        let verdict = v1::Verdict {
            policy_digest: vec![1, 0xab].into(),
            policy_version: 7,
            flags: vec!["mirrored".into()],
            ..v1::Verdict::default()
        };
        let json = serde_json::to_string(&VerdictJson::decode(&verdict.encode_to_vec())).unwrap();
        let expected = r#"{"flags":["mirrored"],"policy_digest":"01ab","policy_version":7}"#;
        assert_eq!(json, expected);
    }
}
