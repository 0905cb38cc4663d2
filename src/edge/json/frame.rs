//! One message of a JSON client: parsed, its parts checked, every fault with its field (MSG-09).
//!
//! Accepts what the older system accepts: absent parts get defaults, unknown parts are ignored, of
//! a part that is there twice the last one counts, a list may stand for an object in `payload`.

use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::shape::Shape;
use crate::proto::json::read_micros;

/// The only version of the older protocol.
pub const VERSION: &str = "1.0";
/// Longest id; those that clients of the older system make are shorter.
const ID_BYTES_MAX: usize = 128;

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// To a room, to be stored and delivered.
    Message,
    /// To the node.
    Command,
    /// To a command of somebody else.
    Response,
    /// What went wrong at a client.
    Error,
    /// Measurements.
    Telemetry,
    /// An operator that wants work.
    OperatorJoin,
    /// What came of a task.
    OperatorResult,
    /// That nothing came of one.
    OperatorError,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Message,
        Self::Command,
        Self::Response,
        Self::Error,
        Self::Telemetry,
        Self::OperatorJoin,
        Self::OperatorResult,
        Self::OperatorError,
    ];

    /// As it travels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Command => "command",
            Self::Response => "response",
            Self::Error => "error",
            Self::Telemetry => "telemetry",
            Self::OperatorJoin => "operator.join",
            Self::OperatorResult => "operator_result",
            Self::OperatorError => "operator_error",
        }
    }

    /// The kind called so.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// What a text may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Its length.
    pub bytes_max: usize,
    /// Objects and lists around each other, the frame's own included.
    pub depth_max: usize,
    /// A time without an offset counts as UTC, and is no error.
    pub naive_times: bool,
}

/// A message that keeps the rules.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// The sender's, or a new UUID.
    pub id: String,
    /// Milliseconds since the Unix epoch, if the sender says when.
    pub timestamp: Option<i64>,
    /// What it is.
    pub kind: Kind,
    /// Where it goes.
    pub room: Option<String>,
    /// Where in the room.
    pub channel: Option<String>,
    /// Parts that are carried as they are.
    pub texts: Texts,
    /// What it says; an object unless the sender chose otherwise.
    pub payload: Json,
    /// Arguments of a command.
    pub args: Map<String, Json>,
    /// What is said about it.
    pub metadata: Map<String, Json>,
    /// Name of a command.
    pub command: Option<String>,
    /// Some whole number in it is beyond what a double holds.
    pub large_whole: bool,
}

/// Parts of a frame that are carried as they are.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Texts {
    /// What it answers.
    pub request_id: Option<String>,
    /// How that went.
    pub status: Option<String>,
    /// What went wrong, for people.
    pub error: Option<String>,
    /// For programs.
    pub error_code: Option<String>,
    /// Of clients older than `sender`.
    pub from_client: Option<String>,
    /// Of the same; routes nothing.
    pub to_client: Option<String>,
}

/// Why a text is no message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Longer than allowed; not looked at.
    TooLarge {
        /// Its length.
        found: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Nested deeper than allowed.
    TooDeep {
        /// How deep.
        found: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Not JSON, or no object.
    Undecodable(String),
    /// It breaks rules.
    Invalid(Invalid),
}

/// All rules that a message breaks.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Invalid {
    /// Its id, so far as it has one.
    pub id: Option<String>,
    /// Part of the first.
    pub field: String,
    /// What each comes to; names its part.
    pub errors: Vec<String>,
}

impl Invalid {
    /// One part that breaks a rule.
    #[must_use]
    pub fn one(id: &str, field: impl Into<String>, error: String) -> Self {
        Self {
            id: Some(id.to_owned()),
            field: field.into(),
            errors: vec![error],
        }
    }

    fn add(&mut self, field: &str, error: impl Into<String>) {
        if self.errors.is_empty() {
            field.clone_into(&mut self.field);
        }
        self.errors.push(error.into());
    }
}

impl Frame {
    /// Parses one text message.
    ///
    /// # Errors
    /// It is too large or too deep, no JSON object, or breaks rules.
    pub fn parse(text: &str, bounds: &Bounds) -> Result<Self, Fault> {
        let (found, limit) = (text.len(), bounds.bytes_max);
        if found > limit {
            return Err(Fault::TooLarge { found, limit });
        }
        let shape = Shape::of(text);
        let (found, limit) = (shape.depth, bounds.depth_max);
        if found > limit {
            return Err(Fault::TooDeep { found, limit });
        }
        let parsed = serde_json::from_str(text);
        let parsed = parsed.map_err(|error| Fault::Undecodable(format!("not JSON: {error}")))?;
        let Json::Object(parts) = parsed else {
            return Err(Fault::Undecodable("not a JSON object".into()));
        };
        let mut parts = Parts {
            parts,
            invalid: Invalid::default(),
        };
        let frame = parts.frame(bounds, shape.large_whole);
        if parts.invalid.errors.is_empty() {
            Ok(frame)
        } else {
            let id = Some(frame.id).filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX);
            parts.invalid.id = id;
            Err(Fault::Invalid(parts.invalid))
        }
    }

    /// The room and the channel, if both are named.
    #[must_use]
    pub fn place(&self) -> Option<(&str, &str)> {
        Some((self.room.as_deref()?, self.channel.as_deref()?))
    }
}

struct Parts {
    parts: Map<String, Json>,
    invalid: Invalid,
}

impl Parts {
    fn frame(&mut self, bounds: &Bounds, large_whole: bool) -> Frame {
        let id = self.id();
        let timestamp = self.timestamp(bounds.naive_times);
        let kind = self.kind();
        match self.parts.remove("version") {
            None => {}
            Some(Json::String(version)) if version == VERSION => {}
            Some(Json::Null) => self.missing("version"),
            Some(_) => self
                .invalid
                .add("version", format!("version must be \"{VERSION}\"")),
        }
        let mut payload = match self.parts.remove("payload") {
            None => Json::Object(Map::new()),
            Some(Json::Null) if matches!(kind, Kind::Message | Kind::OperatorJoin) => {
                self.missing("payload");
                Json::Null
            }
            Some(Json::Null) => Json::Object(Map::new()),
            Some(payload) => payload,
        };
        let mut args = self.object("args");
        let has_metadata = self.parts.contains_key("metadata");
        let mut metadata = self.object("metadata");
        let mut command = self.text("command");
        if kind == Kind::Command && command.is_none() {
            // The form of the oldest clients.
            if let Json::Object(inner) = &mut payload
                && let Some(Json::String(name)) = inner.remove("command")
            {
                command = Some(name).filter(|name| !name.is_empty());
                if let Some(Json::Object(parameters)) = inner.remove("parameters") {
                    args = parameters;
                }
            }
        }
        let texts = Texts {
            request_id: self.text("request_id"),
            status: self.text("status"),
            error: self.text("error"),
            error_code: self.text("error_code"),
            from_client: self.text("from_client"),
            to_client: self.text("to_client"),
        };
        let required: &[(&str, bool)] = match kind {
            Kind::Message | Kind::Telemetry | Kind::OperatorJoin => &[],
            Kind::OperatorResult | Kind::OperatorError => {
                &[("request_id", texts.request_id.is_some())]
            }
            Kind::Command => &[("command", command.is_some())],
            Kind::Response => &[
                ("request_id", texts.request_id.is_some()),
                ("status", texts.status.is_some()),
            ],
            Kind::Error => &[("error", texts.error.is_some())],
        };
        for (field, there) in required {
            if !there {
                self.missing(field);
            }
        }
        check_metadata(&metadata, &mut self.invalid);
        if let (false, Some(to)) = (has_metadata, &texts.to_client) {
            metadata.insert("to_client".into(), to.as_str().into());
        }
        Frame {
            id,
            timestamp,
            kind,
            room: self.text("room"),
            channel: self.text("channel"),
            texts,
            payload,
            args,
            metadata,
            command,
            large_whole,
        }
    }

    fn missing(&mut self, field: &str) {
        let error = format!("Missing required field: {field}");
        self.invalid.add(field, error);
    }

    fn id(&mut self) -> String {
        match self.parts.remove("id") {
            None => Uuid::now_v7().to_string(),
            Some(Json::String(id)) if !id.is_empty() => {
                if !is_message_id(&id) {
                    self.invalid.add(
                        "id",
                        "id must be a valid message ID: a UUID, arq_<number>_<number>_<6 hex digits> or arq_<ULID>",
                    );
                }
                id
            }
            Some(Json::Null | Json::String(_)) => {
                self.missing("id");
                String::new()
            }
            Some(_) => {
                self.invalid.add("id", "id must be a string");
                String::new()
            }
        }
    }

    fn timestamp(&mut self, naive: bool) -> Option<i64> {
        let error = match self.parts.remove("timestamp")? {
            Json::String(text) if !text.is_empty() => match time_ms(&text, naive) {
                Some(time) => return Some(time),
                None => {
                    "timestamp must be RFC 3339 with Z or an offset, like 2026-01-31T12:00:00.5Z"
                }
            },
            Json::Null | Json::String(_) => "Missing required field: timestamp",
            _ => "timestamp must be a string",
        };
        self.invalid.add("timestamp", error);
        None
    }

    fn kind(&mut self) -> Kind {
        let error = match self.parts.remove("type") {
            Some(Json::String(name)) if !name.is_empty() => match Kind::parse(&name) {
                Some(kind) => return kind,
                None => {
                    let shown: String = name.chars().take(64).collect();
                    format!("Unsupported message type: {shown}")
                }
            },
            None | Some(Json::Null | Json::String(_)) => "Missing required field: type".to_owned(),
            Some(_) => "type must be a string".to_owned(),
        };
        self.invalid.add("type", error);
        Kind::Message
    }

    /// A part that is a text; empty means absent.
    fn text(&mut self, field: &'static str) -> Option<String> {
        match self.parts.remove(field)? {
            Json::Null => None,
            Json::String(text) => Some(text).filter(|text| !text.is_empty()),
            _ => {
                self.invalid.add(field, format!("{field} must be a string"));
                None
            }
        }
    }

    fn object(&mut self, field: &'static str) -> Map<String, Json> {
        match self.parts.remove(field) {
            Some(Json::Object(map)) => map,
            None | Some(Json::Null) => Map::new(),
            Some(_) => {
                self.invalid
                    .add(field, format!("{field} must be an object"));
                Map::new()
            }
        }
    }
}

fn check_metadata(metadata: &Map<String, Json>, invalid: &mut Invalid) {
    let is_whole = |value: &Json, least: u64| value.as_u64().is_some_and(|found| found >= least);
    for (name, value) in metadata {
        match name.as_str() {
            "sequence" if !is_whole(value, 1) => invalid.add(
                "metadata.sequence",
                "metadata.sequence must be a positive integer",
            ),
            "vector_clock" => {
                let field = "metadata.vector_clock";
                match value {
                    Json::Object(clock) => {
                        if clock.keys().any(String::is_empty) {
                            invalid.add(field, format!("{field} keys must be non-empty strings"));
                        }
                        if !clock.values().all(|value| is_whole(value, 0)) {
                            let error = format!("{field} values must be non-negative integers");
                            invalid.add(field, error);
                        }
                    }
                    _ => invalid.add(field, format!("{field} must be an object")),
                }
            }
            "causal_parent_id" if !value.as_str().is_some_and(is_message_id) => invalid.add(
                "metadata.causal_parent_id",
                "metadata.causal_parent_id must be a valid message ID",
            ),
            "tenant_id" | "twist_id" if !(value.is_string() || value.is_null()) => {
                let field = format!("metadata.{name}");
                invalid.add(&field, format!("{field} must be a string"));
            }
            _ => {}
        }
    }
}

/// Whether a text is an id in one of the forms of the older system, or a UUID.
#[must_use]
pub fn is_message_id(id: &str) -> bool {
    if id.len() > ID_BYTES_MAX {
        return false;
    }
    let Some(rest) = id.strip_prefix("arq_") else {
        return matches!(id.len(), 32 | 36) && Uuid::try_parse(id).is_ok();
    };
    let is_ulid_byte = |byte: u8| {
        byte.is_ascii_digit()
            || (byte.is_ascii_uppercase() && !matches!(byte, b'I' | b'L' | b'O' | b'U'))
    };
    if rest.len() == 26 && rest.bytes().all(is_ulid_byte) {
        return true;
    }
    let parts: Vec<&str> = rest.split('_').collect();
    let is_number = |text: &str| {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_hex = |text: &str| {
        let prefixes = ["0x", "0X"];
        let bare = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
        let digits = bare.unwrap_or(text);
        text.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    matches!(parts.as_slice(), [namespace, counter, random]
        if is_number(namespace) && is_number(counter) && is_hex(random))
}

/// A time in RFC 3339 as milliseconds since the Unix epoch.
#[must_use]
pub fn time_ms(text: &str, naive: bool) -> Option<i64> {
    read_micros(text, naive).map(|micros| micros.div_euclid(1_000))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        bytes_max: 1 << 20,
        depth_max: 32,
        naive_times: false,
    };

    fn parse(json: &Json) -> Result<Frame, Fault> {
        Frame::parse(&json.to_string(), &BOUNDS)
    }

    fn errors(json: &Json) -> Vec<String> {
        match parse(json) {
            Err(Fault::Invalid(invalid)) => {
                let first = &invalid.errors[0];
                assert!(first.contains(&invalid.field), "{invalid:?}");
                invalid.errors
            }
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn what_is_absent_has_defaults_and_what_is_unknown_is_ignored() {
        let frame = parse(&json!({"type": "message", "later": {"x": 1}})).unwrap();
        assert!(Uuid::try_parse(&frame.id).is_ok());
        assert_eq!((frame.timestamp, frame.place()), (None, None));
        assert_eq!(frame.payload, json!({}));
        let legacy = json!({"type": "command", "payload": {"command": "history", "parameters": {"limit": 3}}});
        let frame = parse(&legacy).unwrap();
        assert_eq!(frame.command.as_deref(), Some("history"));
        assert_eq!(frame.args["limit"], 3);
        let to = parse(&json!({"type": "message", "to_client": "bob"})).unwrap();
        assert_eq!(to.metadata["to_client"], "bob");
        let twice = r#"{"type":"message","room":"a","room":"b"}"#;
        let frame = Frame::parse(twice, &BOUNDS).unwrap();
        assert_eq!(frame.room.as_deref(), Some("b"));
    }

    #[test]
    fn every_broken_rule_is_told() {
        let cases = [
            (json!({}), "Missing required field: type"),
            (json!({"type": "event"}), "Unsupported message type: event"),
            (
                json!({"type": "message", "id": null}),
                "Missing required field: id",
            ),
            (
                json!({"type": "message", "id": "arq_msg_001"}),
                "id must be a valid message ID",
            ),
            (json!({"type": "message", "id": 5}), "id must be a string"),
            (
                json!({"type": "message", "version": "2.0"}),
                "version must be",
            ),
            (
                json!({"type": "message", "version": null}),
                "Missing required field: version",
            ),
            (
                json!({"type": "message", "payload": null}),
                "Missing required field: payload",
            ),
            (
                json!({"type": "message", "timestamp": ""}),
                "Missing required field: timestamp",
            ),
            (
                json!({"type": "message", "timestamp": 5}),
                "timestamp must be a string",
            ),
            (
                json!({"type": "message", "room": 5}),
                "room must be a string",
            ),
            (
                json!({"type": "message", "args": []}),
                "args must be an object",
            ),
            (
                json!({"type": "message", "metadata": []}),
                "metadata must be an object",
            ),
            (
                json!({"type": "command"}),
                "Missing required field: command",
            ),
            (
                json!({"type": "response", "status": "success"}),
                "Missing required field: request_id",
            ),
            (
                json!({"type": "response", "request_id": "x"}),
                "Missing required field: status",
            ),
            (json!({"type": "error"}), "Missing required field: error"),
            (
                json!({"type": "operator.join", "payload": null}),
                "Missing required field: payload",
            ),
        ];
        for (frame, wanted) in cases {
            let errors = errors(&frame);
            assert!(
                errors.len() == 1 && errors[0].starts_with(wanted),
                "{frame}: {errors:?}"
            );
        }
        let both = errors(&json!({"type": "message", "id": null, "room": 1}));
        assert_eq!(
            both,
            ["Missing required field: id", "room must be a string"]
        );
    }

    #[test]
    fn metadata_is_checked_as_it_was() {
        let with = |metadata: Json| json!({"type": "message", "metadata": metadata});
        let cases = [
            (
                json!({"sequence": 0}),
                "metadata.sequence must be a positive integer",
            ),
            (
                json!({"sequence": 1.5}),
                "metadata.sequence must be a positive integer",
            ),
            (
                json!({"sequence": "1"}),
                "metadata.sequence must be a positive integer",
            ),
            (
                json!({"vector_clock": []}),
                "metadata.vector_clock must be an object",
            ),
            (
                json!({"vector_clock": {"": 1}}),
                "metadata.vector_clock keys must be non-empty strings",
            ),
            (
                json!({"vector_clock": {"a": -1}}),
                "metadata.vector_clock values must be non-negative integers",
            ),
            (
                json!({"causal_parent_id": "x"}),
                "metadata.causal_parent_id must be a valid message ID",
            ),
            (
                json!({"tenant_id": 1}),
                "metadata.tenant_id must be a string",
            ),
        ];
        for (metadata, wanted) in cases {
            assert_eq!(errors(&with(metadata)), [wanted]);
        }
        let good =
            json!({"sequence": 7, "vector_clock": {"a": 0}, "causal_parent_id": "arq_1_2_00ffaa"});
        assert_eq!(
            Json::Object(parse(&with(good.clone())).unwrap().metadata),
            good
        );
    }

    #[test]
    fn ids_are_accepted_in_all_their_forms() {
        for good in [
            "arq_1700000000000_1_0a1b2c",
            "arq_-1_+2_0A1B2C",
            "arq_1_2_0x1fab",
            "arq_01HZZZZZZZZZZZZZZZZZZZZZZZ",
            "0198c0de-0000-7000-8000-000000000001",
            "0198c0de000070008000000000000001",
        ] {
            assert!(is_message_id(good), "{good}");
        }
        for bad in [
            "",
            "arq_",
            "arq_msg_001",
            "arq_1_2_0a1b2",
            "arq_1_2_0a1b2g",
            "arq_1_2_3_0a1b2c",
            "arq_01hzzzzzzzzzzzzzzzzzzzzzzz",
            "arq_01HIZZZZZZZZZZZZZZZZZZZZZZ",
            "{0198c0de-0000-7000-8000-000000000001}",
            "urn:uuid:0198c0de-0000-7000-8000-000000000001",
        ] {
            assert!(!is_message_id(bad), "{bad}");
        }
        let long = format!("arq_{}_2_0a1b2c", "1".repeat(ID_BYTES_MAX));
        assert!(!is_message_id(&long));
    }

    // MSG-09
    #[test]
    fn times_need_their_offset() {
        for (good, wanted) in [
            ("2026-02-20T00:00:00Z", 1_771_545_600_000),
            ("2026-02-20t01:00:00.123456+01:00", 1_771_545_600_123),
            ("2026-02-19T19:00:00.5-05:00", 1_771_545_600_500),
            ("2026-02-20T00:00:00.1234567890123z", 1_771_545_600_123),
            ("1970-01-01T00:00:00Z", 0),
        ] {
            assert_eq!(time_ms(good, false), Some(wanted), "{good}");
        }
        for bad in [
            "",
            "2026-02-20",
            "2026-02-20T00:00:00",
            "2026-02-20 00:00:00Z",
            "2026-02-20T00:00:00+0100",
            "2026-02-20T00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-02-20T24:00:01Z",
            "2026-02-20T00:00:00.Z",
            "2026-02-20T00:00:00Z[UTC]",
            "20260220T000000Z",
            "yesterday",
            "é026-02-20T00:00:00Z",
        ] {
            assert_eq!(time_ms(bad, false), None, "{bad}");
        }
        let naive = "2026-02-20T00:00:00.25";
        assert_eq!(time_ms(naive, true), Some(1_771_545_600_250));
        let frame = json!({"type": "message", "timestamp": naive});
        assert!(errors(&frame)[0].contains("RFC 3339"));
    }

    // EDGE-09
    #[test]
    fn size_and_depth_are_limited() {
        let bounds = Bounds {
            bytes_max: 64,
            depth_max: 4,
            ..BOUNDS
        };
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!(r#"{{"type":"message","payload":{open}{close}}}"#)
        };
        assert!(Frame::parse(&nested(3), &bounds).is_ok());
        let fault = Frame::parse(&nested(4), &bounds).unwrap_err();
        assert_eq!(fault, Fault::TooDeep { found: 5, limit: 4 });
        let filled = |length: usize| {
            let text = r#"{"type":"message"}"#;
            format!("{text}{}", " ".repeat(length - text.len()))
        };
        assert!(Frame::parse(&filled(64), &bounds).is_ok());
        let fault = Frame::parse(&filled(65), &bounds).unwrap_err();
        assert_eq!(
            fault,
            Fault::TooLarge {
                found: 65,
                limit: 64
            }
        );
    }

    #[test]
    fn what_is_no_json_object_cannot_be_decoded() {
        for bad in [
            "",
            "{",
            "[]",
            "5",
            r#"{"a":NaN}"#,
            r#"{"a":1e999}"#,
            "{} {}",
        ] {
            let fault = Frame::parse(bad, &BOUNDS).unwrap_err();
            assert!(matches!(fault, Fault::Undecodable(_)), "{bad}: {fault:?}");
        }
    }
}
