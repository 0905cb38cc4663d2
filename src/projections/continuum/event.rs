//! An event of the contract and its rules, the same for every form that it comes in.
//!
//! Texts of errors are the older system's where they mean the same; each names its field.

use prost_types::Timestamp;
use serde_json::{Map, Value, json};
use uuid::{Uuid, Variant};

use super::metadata;
use crate::log::Micros;
use crate::projections::projection::Poison;
use crate::proto::continuum::{EpisodeEvent, EpisodePayload};
use crate::proto::json::{micros, read_micros};

/// The only version of the contract.
pub const SCHEMA_VERSION: u32 = 1;
/// Most bytes of an `agent_id`.
pub const AGENT_BYTES_MAX: usize = 256;
/// Most bytes of a `content_ref` or `embedding_ref`: pointers, not what they point to.
pub const POINTER_BYTES_MAX: usize = 2_048;
/// Most bytes of a `summary`.
pub const SUMMARY_BYTES_MAX: usize = 16 << 10;
/// Most `tags`.
pub const TAGS_MAX: usize = 256;
/// Most bytes of a tag.
pub const TAG_BYTES_MAX: usize = 256;
/// Bodies, which the contract keeps out of payloads and out of their metadata, however deep.
pub const FORBIDDEN_KEYS: [&str; 4] = [
    "raw_content",
    "episode_body",
    "embedding_vector",
    "full_state_dump",
];

/// Fields that an event cannot do without, in the order in which they are told.
const REQUIRED: [&str; 8] = [
    "event_id",
    "event_type",
    "tenant_id",
    "agent_id",
    "episode_id",
    "source_ts",
    "schema_version",
    "payload",
];
/// First second of the year 10000, which no RFC 3339 text can say.
const SECONDS_END: u64 = 253_402_300_800;
/// Of what somebody sent, no more is repeated in an error.
const ECHO_CHARS_MAX: usize = 64;
/// Longest id that is repeated although it is wrong.
const ID_BYTES_MAX: usize = 128;

/// What happened to an episode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// It came into being.
    Created,
    /// It changed.
    Updated,
    /// It is gone.
    Deleted,
    /// It has a new summary.
    Summarized,
}

impl Type {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Created,
        Self::Updated,
        Self::Deleted,
        Self::Summarized,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "episode.created",
            Self::Updated => "episode.updated",
            Self::Deleted => "episode.deleted",
            Self::Summarized => "episode.summarized",
        }
    }

    fn of(name: &str) -> Result<Self, Poison> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == name);
        known.ok_or_else(|| {
            let reason = format!(
                "Unsupported event_type: {}; it must be episode.created, episode.updated, \
                 episode.deleted or episode.summarized",
                echo(name)
            );
            Poison::of("event_type", reason)
        })
    }
}

/// Something that happened to an episode, with every rule of the contract kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// A UUIDv7 in lower case or a ULID in upper case; unique for an agent.
    pub event_id: String,
    /// What happened.
    pub event_type: Type,
    /// Whose log it stands in.
    pub tenant_id: String,
    /// Whose episode it is.
    pub agent_id: String,
    /// A ULID, in upper case.
    pub episode_id: String,
    /// When it happened, by the source's clock.
    pub source_ts: Micros,
    /// What is known of the episode now.
    pub payload: Payload,
}

/// What is known of an episode.
#[derive(Clone, PartialEq, Debug)]
pub struct Payload {
    /// Where the episode is kept.
    pub content_ref: String,
    /// A text for people, if there is one.
    pub summary: Option<String>,
    /// What it is found by.
    pub tags: Vec<String>,
    /// Where its embedding is kept, if there is one.
    pub embedding_ref: Option<String>,
    /// Whatever else is known.
    pub metadata: Map<String, Value>,
}

impl Event {
    /// The event in an object. Fields that the contract does not have are passed over, as those of
    /// a protobuf message are.
    ///
    /// # Errors
    /// It breaks a rule.
    pub fn from_json(mut fields: Map<String, Value>, tenant: &str) -> Result<Self, Poison> {
        missing(
            REQUIRED.iter().filter(|name| !fields.contains_key(**name)),
            "",
        )?;
        let version = fields.remove("schema_version").unwrap_or_default();
        let mut take = |name: &str| text(name, fields.remove(name).unwrap_or_default());
        let event_id = take("event_id")?;
        let event_type = Type::of(&take("event_type")?)?;
        // Neither `"1"` nor `1.0`, nor `true`.
        if version.as_u64() != Some(SCHEMA_VERSION.into()) {
            return Err(unsupported(&echo(&version.to_string())));
        }
        let tenant_id = take("tenant_id")?;
        let agent_id = take("agent_id")?;
        let episode_id = take("episode_id")?;
        let source_ts = fields.remove("source_ts").unwrap_or_default();
        let source_ts = source_ts
            .as_str()
            .and_then(|text| read_micros(text, false))
            .ok_or_else(|| {
                Poison::of(
                    "source_ts",
                    "'source_ts' must be an ISO8601 timestamp string of RFC 3339, with Z or an \
                     offset, like 2026-01-31T12:00:00.5Z",
                )
            })?;
        let source_ts = u64::try_from(source_ts).map_err(|_before_1970| early())?;
        let payload = match fields.remove("payload") {
            Some(Value::Object(payload)) => Payload::from_json(payload)?,
            _ => return Err(Poison::of("payload", "'payload' must be an object")),
        };
        let source_ts = Micros(source_ts);
        Self {
            event_id,
            event_type,
            tenant_id,
            agent_id,
            episode_id,
            source_ts,
            payload,
        }
        .checked(tenant)
    }

    /// The event in a message.
    ///
    /// # Errors
    /// It breaks a rule.
    pub fn from_message(message: EpisodeEvent, tenant: &str) -> Result<Self, Poison> {
        let EpisodeEvent {
            event_id,
            event_type,
            tenant_id,
            agent_id,
            episode_id,
            source_ts,
            schema_version,
            payload,
        } = message;
        let absent = [
            event_id.is_empty(),
            event_type.is_empty(),
            tenant_id.is_empty(),
            agent_id.is_empty(),
            episode_id.is_empty(),
            source_ts.is_none(),
            schema_version == 0,
            payload.is_none(),
        ];
        let absent = REQUIRED.iter().zip(absent).filter(|(_, absent)| *absent);
        missing(absent.map(|(name, _)| name), "")?;
        let event_type = Type::of(&event_type)?;
        if schema_version != SCHEMA_VERSION {
            return Err(unsupported(&schema_version.to_string()));
        }
        let source_ts = time(source_ts.unwrap_or_default())?;
        let payload = Payload::from_message(payload.unwrap_or_default())?;
        Self {
            event_id,
            event_type,
            tenant_id,
            agent_id,
            episode_id,
            source_ts,
            payload,
        }
        .checked(tenant)
    }

    /// What holds for every form.
    fn checked(mut self, tenant: &str) -> Result<Self, Poison> {
        self.event_id = event_id(&self.event_id).ok_or_else(|| {
            let reason = "event_id must be a UUIDv7 like 01900000-0000-7000-8000-000000000001, or \
                          a ULID of 26 characters";
            Poison::of("event_id", reason)
        })?;
        if self.tenant_id != tenant {
            let reason =
                format!("tenant_id must be {tenant:?}, the tenant in whose log the event stands");
            return Err(Poison::of("tenant_id", reason));
        }
        filled("agent_id", &self.agent_id)?;
        short("agent_id", &self.agent_id, AGENT_BYTES_MAX)?;
        plain("agent_id", &self.agent_id)?;
        self.episode_id = ulid(&self.episode_id).ok_or_else(|| {
            let reason =
                "episode_id must be a ULID of 26 characters, like 01ARZ3NDEKTSV4RRFFQ69G5FAV";
            Poison::of("episode_id", reason)
        })?;
        if self.source_ts.0 / 1_000_000 >= SECONDS_END {
            let reason = "source_ts is after the year 9999";
            return Err(Poison::of("source_ts", reason));
        }
        self.payload.check()?;
        Ok(self)
    }

    /// The event as an object of the contract: what is absent is left out.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "event_id": self.event_id,
            "event_type": self.event_type.as_str(),
            "tenant_id": self.tenant_id,
            "agent_id": self.agent_id,
            "episode_id": self.episode_id,
            "source_ts": micros(self.source_ts.0),
            "schema_version": SCHEMA_VERSION,
            "payload": self.payload.to_json(),
        })
    }
}

impl Payload {
    fn from_json(mut fields: Map<String, Value>) -> Result<Self, Poison> {
        metadata::refuse_bodies(&fields, "payload")?;
        missing(
            ["content_ref"]
                .iter()
                .filter(|name| !fields.contains_key(**name)),
            "payload.",
        )?;
        let mut take = |name: &str| fields.remove(name);
        let content_ref = text(
            "payload.content_ref",
            take("content_ref").unwrap_or_default(),
        )?;
        let optional = |name: &str, value| match value {
            None | Some(Value::Null) => Ok(None),
            Some(value) => text(name, value).map(Some),
        };
        let summary = optional("payload.summary", take("summary"))?;
        let embedding_ref = optional("payload.embedding_ref", take("embedding_ref"))?;
        let no_tags = || Poison::of("payload.tags", "'payload.tags' must be a list of strings");
        let tags = match take("tags") {
            None => Vec::new(),
            Some(Value::Array(tags)) => {
                let tags = tags.into_iter().map(|tag| match tag {
                    Value::String(tag) => Ok(tag),
                    _ => Err(no_tags()),
                });
                tags.collect::<Result<_, _>>()?
            }
            Some(_) => return Err(no_tags()),
        };
        let metadata = match take("metadata") {
            None => Map::new(),
            Some(Value::Object(metadata)) => metadata,
            Some(_) => {
                let reason = "'payload.metadata' must be an object";
                return Err(Poison::of("payload.metadata", reason));
            }
        };
        Ok(Self {
            content_ref,
            summary,
            tags,
            embedding_ref,
            metadata,
        })
    }

    fn from_message(message: EpisodePayload) -> Result<Self, Poison> {
        let absent = message.content_ref.is_empty().then_some(&"content_ref");
        missing(absent.into_iter(), "payload.")?;
        Ok(Self {
            content_ref: message.content_ref,
            summary: message.summary,
            tags: message.tags,
            embedding_ref: message.embedding_ref,
            metadata: metadata::object(message.metadata.unwrap_or_default())?,
        })
    }

    fn check(&self) -> Result<(), Poison> {
        pointer("payload.content_ref", &self.content_ref)?;
        if let Some(summary) = &self.summary {
            short("payload.summary", summary, SUMMARY_BYTES_MAX)?;
            storable("payload.summary", summary)?;
        }
        if let Some(embedding_ref) = &self.embedding_ref {
            pointer("payload.embedding_ref", embedding_ref)?;
        }
        if self.tags.len() > TAGS_MAX {
            let found = self.tags.len();
            let reason =
                format!("payload.tags has {found} tags, more than the limit of {TAGS_MAX}");
            return Err(Poison::of("payload.tags", reason));
        }
        for (at, tag) in self.tags.iter().enumerate() {
            let field = format!("payload.tags[{at}]");
            short(&field, tag, TAG_BYTES_MAX)?;
            storable(&field, tag)?;
        }
        metadata::check(&self.metadata)
    }

    fn to_json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("content_ref".into(), (&*self.content_ref).into());
        if let Some(summary) = &self.summary {
            fields.insert("summary".into(), (&**summary).into());
        }
        fields.insert("tags".into(), self.tags.clone().into());
        if let Some(embedding_ref) = &self.embedding_ref {
            fields.insert("embedding_ref".into(), (&**embedding_ref).into());
        }
        fields.insert("metadata".into(), self.metadata.clone().into());
        fields.into()
    }
}

/// An `event_id` in the case that it is kept in: a UUIDv7 in lower, a ULID in upper case, so that
/// one id is one text.
#[must_use]
pub fn event_id(text: &str) -> Option<String> {
    if let Some(ulid) = ulid(text) {
        return Some(ulid);
    }
    // Without the forms that have braces, a prefix or no hyphens.
    if text.len() != Uuid::nil().hyphenated().to_string().len() {
        return None;
    }
    let id = Uuid::try_parse(text).ok()?;
    let is_v7 = id.get_version_num() == 7 && id.get_variant() == Variant::RFC4122;
    is_v7.then(|| id.hyphenated().to_string())
}

/// A ULID in upper case: 26 digits of Crockford's base 32, 128 bits.
#[must_use]
pub fn ulid(text: &str) -> Option<String> {
    let upper = text.to_ascii_uppercase();
    let is_digit = |byte: u8| {
        let letter = byte.is_ascii_uppercase() && !matches!(byte, b'I' | b'L' | b'O' | b'U');
        letter || byte.is_ascii_digit()
    };
    let fits = upper.len() == 26
        && upper.bytes().all(is_digit)
        && matches!(upper.as_bytes().first(), Some(b'0'..=b'7'));
    fits.then_some(upper)
}

/// An id that is told with an error, whether it is a good one or not.
pub(super) fn id_for_errors(text: &str) -> String {
    let fits = text.len() <= ID_BYTES_MAX && !text.contains(char::is_control);
    if fits { text.to_owned() } else { String::new() }
}

fn missing<'a>(names: impl Iterator<Item = &'a &'a str>, place: &str) -> Result<(), Poison> {
    let names: Vec<_> = names.map(|name| format!("'{name}'")).collect();
    let Some(first) = names.first() else {
        return Ok(());
    };
    let what = if place.is_empty() {
        "envelope"
    } else {
        "payload"
    };
    let reason = format!("Missing required {what} fields: [{}]", names.join(", "));
    let field = format!("{place}{}", first.trim_matches('\''));
    Err(Poison::of(&field, reason))
}

fn unsupported(version: &str) -> Poison {
    let reason =
        format!("Unsupported schema_version: {version}; it must be the number {SCHEMA_VERSION}");
    Poison::of("schema_version", reason)
}

fn early() -> Poison {
    Poison::of("source_ts", "source_ts is before the year 1970")
}

fn time(time: Timestamp) -> Result<Micros, Poison> {
    let seconds = u64::try_from(time.seconds).map_err(|_before_1970| early())?;
    let nanos = u64::try_from(time.nanos).ok();
    let nanos = nanos.filter(|nanos| *nanos < 1_000_000_000);
    let Some(nanos) = nanos else {
        let reason = "source_ts.nanos must be 0 to 999999999";
        return Err(Poison::of("source_ts", reason));
    };
    // What is beyond the year 9999 is refused with its name later.
    let seconds = seconds.min(SECONDS_END);
    Ok(Micros(seconds * 1_000_000 + nanos / 1_000))
}

fn text(field: &str, value: Value) -> Result<String, Poison> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(Poison::of(field, format!("{field} must be a string"))),
    }
}

fn filled(field: &str, text: &str) -> Result<(), Poison> {
    if text.trim().is_empty() {
        return Err(Poison::of(field, format!("{field} must not be empty")));
    }
    Ok(())
}

fn short(field: &str, text: &str, limit: usize) -> Result<(), Poison> {
    let found = text.len();
    if found > limit {
        let reason = format!("{field} has {found} bytes, more than the limit of {limit}");
        return Err(Poison::of(field, reason));
    }
    Ok(())
}

/// On one line, and nothing that a terminal would obey.
fn plain(field: &str, text: &str) -> Result<(), Poison> {
    if text.contains(char::is_control) {
        let reason = format!("{field} must not hold line breaks or other control characters");
        return Err(Poison::of(field, reason));
    }
    Ok(())
}

fn storable(field: &str, text: &str) -> Result<(), Poison> {
    if text.contains('\0') {
        return Err(Poison::of(field, format!("{field} holds a NUL character")));
    }
    Ok(())
}

/// Points somewhere; what is pointed to must not be in it.
fn pointer(field: &str, text: &str) -> Result<(), Poison> {
    filled(field, text)?;
    short(field, text, POINTER_BYTES_MAX)?;
    plain(field, text)?;
    let scheme = text.trim_start().get(..5).unwrap_or_default();
    if scheme.eq_ignore_ascii_case("data:") || text.trim_start().starts_with('{') {
        let reason = format!(
            "{field} must point to where the content is kept, like sqlite://episodes/42, and not \
             hold it"
        );
        return Err(Poison::of(field, reason));
    }
    Ok(())
}

fn echo(text: &str) -> String {
    text.chars()
        .take(ECHO_CHARS_MAX)
        .map(|found| if found.is_control() { '?' } else { found })
        .collect()
}
