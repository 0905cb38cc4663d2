//! Redacts the payload of older clients: its texts, and the objects `payload`, `args`, `metadata`.

use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::redaction::{Redactor, TOKEN};
use crate::proto::pybus::BusPayload;

/// The payload of an older client, if the bytes are one and nothing else: encoded again they are as
/// long.
pub(super) fn decoded(data: &[u8]) -> Option<BusPayload> {
    let payload = BusPayload::decode(data).ok()?;
    (!data.is_empty() && payload.encoded_len() == data.len()).then_some(payload)
}

/// Redacts all of it.
pub(super) fn redact(payload: &mut BusPayload, redactor: &mut Redactor<'_>) {
    for (name, text) in [
        ("envelope_id", &mut payload.envelope_id),
        ("envelope_type", &mut payload.envelope_type),
        ("version", &mut payload.version),
        ("sender", &mut payload.sender),
        ("channel", &mut payload.channel),
        ("command", &mut payload.command),
        ("request_id", &mut payload.request_id),
        ("status", &mut payload.status),
        ("error", &mut payload.error),
        ("error_code", &mut payload.error_code),
        ("from_client", &mut payload.from_client),
        ("to_client", &mut payload.to_client),
    ] {
        if let Some(redacted) = redactor.text(name, text) {
            *text = redacted;
        }
    }
    let objects = [
        &mut payload.payload,
        &mut payload.args,
        &mut payload.metadata,
    ];
    for object in objects.into_iter().flatten() {
        fields(object, &mut Vec::new(), redactor);
    }
}

/// prost decodes at most 100 levels, so that the walk is bounded.
fn fields(object: &mut Struct, path: &mut Vec<String>, redactor: &mut Redactor<'_>) {
    let names: Vec<String> = object.fields.keys().cloned().collect();
    for name in names {
        let Some(mut value) = object.fields.remove(&name) else {
            continue;
        };
        let shown = redactor.text("", &name).unwrap_or_else(|| name.clone());
        path.push(name);
        if redactor.hides(path) {
            let token = Kind::StringValue(TOKEN.to_owned());
            let nothing = matches!(value.kind, None | Some(Kind::NullValue(_)));
            if !nothing && value.kind.as_ref() != Some(&token) {
                redactor.hid();
                value.kind = Some(token);
            }
        } else {
            self::value(&mut value, path, redactor);
        }
        path.pop();
        object.fields.insert(shown, value);
    }
}

fn value(value: &mut Value, path: &mut Vec<String>, redactor: &mut Redactor<'_>) {
    let name = path.last().map_or("", String::as_str);
    match &mut value.kind {
        Some(Kind::StringValue(text)) => {
            if let Some(redacted) = redactor.text(name, text) {
                *text = redacted;
            }
        }
        Some(Kind::NumberValue(number)) => {
            if redactor.text("", &number.to_string()).is_some() {
                value.kind = Some(Kind::StringValue(TOKEN.to_owned()));
            }
        }
        Some(Kind::StructValue(object)) => fields(object, path, redactor),
        Some(Kind::ListValue(list)) => {
            for item in &mut list.values {
                self::value(item, path, redactor);
            }
        }
        Some(Kind::NullValue(_) | Kind::BoolValue(_)) | None => {}
    }
}
