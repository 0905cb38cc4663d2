//! What form a payload has: that decides how it is looked at, and whether it can be redacted.

use prost::Message as _;

use super::bus;
use super::detection::Detector;
use super::finding::Kinds;
use super::redaction::{Paths, Personal, Redactor};
use super::shapes::Edges;
use crate::proto::pybus::BusPayload;
use crate::proto::view::EnvelopeView;

/// Full name of the payload of older clients.
const BUS_PAYLOAD: &str = "arqon.pybus.v1.BusPayload";

/// A payload by its form.
#[derive(Debug)]
pub(super) enum Form<'a> {
    /// JSON, by its header or its first character; whether it is well-formed shows when it must be
    /// redacted.
    Json(&'a str),
    /// Of an older client.
    Bus(Box<BusPayload>, &'a [u8]),
    /// Text of no form.
    Text(&'a str),
    /// Anything else: protobuf, images. Nothing can be taken out of it.
    Binary(&'a [u8]),
}

impl<'a> Form<'a> {
    /// The form of `data`, which the envelope brought.
    pub(super) fn of(view: &EnvelopeView<'_>, data: &'a [u8]) -> Self {
        let kind = if view.headers.is_empty() {
            None
        } else {
            view.headers.get("content-type")
        };
        let says_json = kind.is_some_and(|kind| {
            let kind = kind.split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json")
        });
        let first = data.iter().find(|byte| !byte.is_ascii_whitespace());
        let looks_json = matches!(first, Some(b'{' | b'[' | b'"'));
        let has_schema = !view.schema.is_empty();
        // Neither brace begins a field of the older payload; a quote or a line's end may.
        let begins_json = matches!(data.first(), Some(b'{' | b'['));
        if !begins_json
            && (!has_schema || view.schema == BUS_PAYLOAD)
            && let Some(payload) = bus::decoded(data)
        {
            return Self::Bus(Box::new(payload), data);
        }
        if (says_json || looks_json)
            && let Ok(text) = std::str::from_utf8(data)
        {
            return Self::Json(text);
        }
        let is_text = |text: &str| !has_schema && is_plain(text);
        match std::str::from_utf8(data) {
            Ok(text) if is_text(text) => Self::Text(text),
            _ => Self::Binary(data),
        }
    }

    /// What is in it.
    pub(super) fn kinds(&self, detector: &Detector) -> Kinds {
        match self {
            Self::Json(text) | Self::Text(text) => detector.kinds(text.as_bytes(), Edges::Text),
            Self::Binary(data) => detector.kinds(data, Edges::Binary),
            Self::Bus(payload, data) => {
                let mut kinds = Kinds::default();
                detector.find_shapes(data, Edges::Binary, |kind, _| kinds.insert(kind));
                // A field that goes as a whole is looked into all the same: it may have to be blocked.
                let none = Paths::default();
                let mut redactor = Redactor::new(detector, &none, Personal::Keep);
                bus::redact(&mut payload.clone(), &mut redactor);
                kinds.extend(redactor.kinds);
                kinds
            }
        }
    }

    /// Whether it may have a field that goes as a whole.
    pub(super) fn may_have(&self, paths: &Paths) -> bool {
        match self {
            Self::Json(text) => paths.may_be_members_of(text.as_bytes()),
            Self::Bus(_, data) => paths.may_be_in(data),
            // They have no fields.
            Self::Text(_) | Self::Binary(_) => false,
        }
    }

    /// The payload with all taken out that must not be in it; `None` if that cannot be done.
    pub(super) fn redacted(self, redactor: &mut Redactor<'_>) -> Option<Vec<u8>> {
        match self {
            Self::Json(text) => {
                let redacted = super::json::redacted(text, redactor).or_else(|| {
                    // What only looked like JSON is a text, unless it has fields that must go.
                    let has_fields = redactor.paths().may_be_members_of(text.as_bytes());
                    let is_text = !has_fields && is_plain(text);
                    is_text.then(|| redactor.text("", text)).flatten()
                });
                redacted.map(String::into_bytes)
            }
            Self::Text(text) => redactor.text("", text).map(String::into_bytes),
            Self::Bus(mut payload, _) => {
                bus::redact(&mut payload, redactor);
                Some(payload.encode_to_vec())
            }
            Self::Binary(_) => None,
        }
    }
}

/// Whether a text is for people: it has no control characters but those of lines.
fn is_plain(text: &str) -> bool {
    !text.contains(|symbol: char| symbol.is_control() && !"\t\r\n".contains(symbol))
}
