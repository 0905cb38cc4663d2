//! The forms in which an event comes: the typed message, JSON, and JSON in the `BusPayload` of
//! clients of the older system.
//!
//! The schema that the envelope names and the header `content-type` tell them apart. Where neither
//! does, what is a JSON object is JSON.

use prost::Message as _;
use serde_json::{Map, Value};

use super::event::{Event, id_for_errors};
use super::metadata;
use crate::projections::projection::Poison;
use crate::proto::continuum::EpisodeEvent;
use crate::proto::json::message_of;
use crate::proto::pybus::BusPayload;
use crate::proto::view::RecordView;

/// Full name of the typed form.
pub const SCHEMA: &str = "arqon.continuum.v1.EpisodeEvent";
const BUS_PAYLOAD: &str = "arqon.pybus.v1.BusPayload";
const CONTENT_TYPE: &str = "content-type";

enum Form {
    Typed(Box<EpisodeEvent>),
    Object(Map<String, Value>),
}

/// The event in a record of `tenant`'s log.
///
/// # Errors
/// It is none of the contract.
pub fn read(record: &RecordView<'_>, tenant: &str) -> Result<Event, Poison> {
    let form = Form::of(record)?;
    let event_id = id_for_errors(form.event_id());
    let event = match form {
        Form::Typed(message) => Event::from_message(*message, tenant),
        Form::Object(fields) => Event::from_json(fields, tenant),
    };
    event.map_err(|mut poison| {
        poison.event_id = event_id;
        poison
    })
}

/// What a record says, in the names of the contract and whether it keeps its rules or not. `None`
/// if it has no JSON form.
#[must_use]
pub fn shown(record: &RecordView<'_>) -> Option<Value> {
    match Form::of(record) {
        Ok(Form::Object(fields)) => Some(fields.into()),
        Ok(Form::Typed(message)) => spelled_out(*message),
        Err(_no_event) => serde_json::from_slice(record.envelope.payload.data()).ok(),
    }
}

impl Form {
    fn of(record: &RecordView<'_>) -> Result<Self, Poison> {
        let envelope = &record.envelope;
        let data = envelope.payload.data();
        if data.is_empty() {
            return Err(Poison::of("payload", "the envelope has no payload"));
        }
        let kind = envelope.headers.get(CONTENT_TYPE).unwrap_or_default();
        if kind.contains("json") {
            return Self::text(data);
        }
        match message_of(record) {
            SCHEMA => Self::typed(data),
            BUS_PAYLOAD => Self::older(data),
            _ if kind.contains("protobuf") => Self::typed(data),
            "" => Self::text(data),
            other => Self::text(data).map_err(|_no_json| {
                let other: String = other.chars().take(128).collect();
                let reason = format!("schema is {other:?} and must be {SCHEMA}, or empty for JSON");
                Poison::of("schema", reason)
            }),
        }
    }

    fn typed(data: &[u8]) -> Result<Self, Poison> {
        let message = EpisodeEvent::decode(data).map_err(|fault| {
            let reason = format!("the payload is not a {SCHEMA}: {fault}");
            Poison::of("payload", reason)
        })?;
        Ok(Self::Typed(Box::new(message)))
    }

    fn text(data: &[u8]) -> Result<Self, Poison> {
        match serde_json::from_slice(data) {
            Ok(Value::Object(fields)) => Ok(Self::Object(fields)),
            Ok(_) => Err(Poison::of("payload", "the payload must be a JSON object")),
            Err(fault) => {
                let reason = format!("the payload is not JSON: {fault}");
                Err(Poison::of("payload", reason))
            }
        }
    }

    fn older(data: &[u8]) -> Result<Self, Poison> {
        let message = BusPayload::decode(data).map_err(|fault| {
            let reason = format!("the payload is not a {BUS_PAYLOAD}: {fault}");
            Poison::of("payload", reason)
        })?;
        metadata::object(message.payload.unwrap_or_default()).map(Self::Object)
    }

    fn event_id(&self) -> &str {
        match self {
            Self::Typed(message) => &message.event_id,
            Self::Object(fields) => fields
                .get("event_id")
                .and_then(Value::as_str)
                .unwrap_or_default(),
        }
    }
}

/// A message in the names of the contract, although it breaks its rules.
fn spelled_out(message: EpisodeEvent) -> Option<Value> {
    let mut fields = Map::new();
    let texts = [
        ("event_id", message.event_id),
        ("event_type", message.event_type),
        ("tenant_id", message.tenant_id),
        ("agent_id", message.agent_id),
        ("episode_id", message.episode_id),
    ];
    for (name, text) in texts {
        fields.insert(name.into(), text.into());
    }
    if let Some(time) = message.source_ts {
        // As it is, where no calendar has it.
        let shown = u64::try_from(time.seconds)
            .ok()
            .zip(u64::try_from(time.nanos).ok())
            .and_then(|(seconds, nanos)| seconds.checked_mul(1_000_000)?.checked_add(nanos / 1_000))
            .map_or_else(
                || format!("{} s {} ns", time.seconds, time.nanos),
                crate::proto::json::micros,
            );
        fields.insert("source_ts".into(), shown.into());
    }
    fields.insert("schema_version".into(), message.schema_version.into());
    if let Some(payload) = message.payload {
        let mut inner = Map::new();
        inner.insert("content_ref".into(), payload.content_ref.into());
        if let Some(summary) = payload.summary {
            inner.insert("summary".into(), summary.into());
        }
        inner.insert("tags".into(), payload.tags.into());
        if let Some(embedding_ref) = payload.embedding_ref {
            inner.insert("embedding_ref".into(), embedding_ref.into());
        }
        let metadata = metadata::object(payload.metadata.unwrap_or_default()).ok()?;
        inner.insert("metadata".into(), metadata.into());
        fields.insert("payload".into(), inner.into());
    }
    Some(fields.into())
}
