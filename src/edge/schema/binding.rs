//! A subject bound to topics, and how a payload is held against it.

use std::borrow::Cow;
use std::sync::Arc;

use prost::Message as _;
use serde_json::Value;

use super::definition::{Definition, Form};
use super::json::{Document, of_struct};
use super::subject::{Subject, Version};
use super::violation::{self, Violation};
use crate::broker::Filter;
use crate::config::{SchemaLevel, UnknownFields};
use crate::edge::shield::Blocked;
use crate::proto::ErrorCode;
use crate::proto::pybus::BusPayload;
use crate::proto::view::{EnvelopeView, Payload};

/// Header that names a version of the subject, as a number.
pub const VERSION_HEADER: &str = "schema-version";
/// What older clients put into `data`, and the header by which they are known.
const BUS_PAYLOAD: &str = "arqon.pybus.v1.BusPayload";
const OLDER_CLIENT: &str = "envelope_type";

/// A pattern with the subject that its topics' payloads are held against.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Which topics.
    pub pattern: Filter,
    /// Name of the subject.
    pub subject: Arc<str>,
    /// What becomes of payloads that do not fit.
    pub level: SchemaLevel,
    /// What becomes of fields that the version does not know.
    pub unknown: UnknownFields,
    /// Whether a payload may have no bytes.
    pub empty_allowed: bool,
    /// Whether an envelope may name the version by its header.
    pub by_header: bool,
}

/// Why a payload is not what its subject says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Stable short name of the reason.
    pub reason: &'static str,
    /// The part of the envelope at fault.
    pub field: &'static str,
    /// For the sender.
    pub text: String,
}

impl From<Misfit> for Blocked {
    fn from(misfit: Misfit) -> Self {
        Self::new(ErrorCode::SchemaViolation, misfit.reason, misfit.text)
            .at(Cow::Borrowed(misfit.field))
    }
}

impl Bound {
    /// Holds `data`, the payload of the envelope `view` or what has become of it, against the
    /// subject; gives the number of the version that it fits.
    ///
    /// # Errors
    /// It does not fit.
    pub fn hold(
        &self,
        subject: &Subject,
        view: &EnvelopeView<'_>,
        data: &[u8],
    ) -> Result<u64, Misfit> {
        let version = self.version(subject, view)?;
        self.named(version, view)?;
        let field = match view.payload {
            Payload::Command { .. } => "cmd.data",
            Payload::Event { .. } => "event.data",
            Payload::Empty | Payload::Signal { .. } => "payload",
        };
        if data.is_empty() {
            if self.empty_allowed {
                return Ok(version.number);
            }
            let text = "it has no bytes (payload.empty); bind with --empty if that means something, as a tombstone does";
            return Err(self.misfit(version, "schema.empty", field, text));
        }
        let violations = match &version.definition.form {
            Form::Protobuf { table, .. } => {
                if table.fits(data, self.unknown) {
                    return Ok(version.number);
                }
                table.violations(data, self.unknown)
            }
            Form::Json { document, .. } => {
                let violations = json_violations(document, view, data);
                if violations.is_empty() {
                    return Ok(version.number);
                }
                violations
            }
        };
        let mut text = violation::line(&violations);
        if violations.iter().any(|one| one.rule == "field.unknown") {
            text.push_str("; hint: whoever writes a newer version registers it first (`arqon schema push`), and names an older one in the header schema-version");
        }
        Err(self.misfit(version, "schema.violation", field, &text))
    }

    fn version<'s>(
        &self,
        subject: &'s Subject,
        view: &EnvelopeView<'_>,
    ) -> Result<&'s Version, Misfit> {
        let wrong = |field, text: String| Misfit {
            reason: "schema.version",
            field,
            text: format!("{}: {text}", self.subject),
        };
        let asked = if view.headers.is_empty() || !self.by_header {
            None
        } else {
            view.headers.get(VERSION_HEADER)
        };
        let Some(asked) = asked else {
            return subject.active().ok_or_else(|| {
                let text = "all its versions are retired; an admin registers another, or restores one with `arqon schema retire --restore`";
                wrong("", text.to_owned())
            });
        };
        let field = "headers.schema-version";
        let number = asked.parse::<u64>().ok();
        let found = number.and_then(|number| subject.version(number));
        match found {
            Some(version) if !version.retired => Ok(version),
            Some(version) => {
                let text = format!(
                    "version {} is retired; leave the header {VERSION_HEADER} out for the newest",
                    version.number
                );
                Err(wrong(field, text))
            }
            None => {
                let text = format!(
                    "the header {VERSION_HEADER} names no version; there are 1 to {}",
                    subject.newest()
                );
                Err(wrong(field, text))
            }
        }
    }

    /// Whether the envelope names the message that it is held against, if it names one.
    fn named(&self, version: &Version, view: &EnvelopeView<'_>) -> Result<(), Misfit> {
        let fits = match &version.definition.form {
            _ if view.schema.is_empty() => true,
            Form::Protobuf { message, .. } => view.schema == message,
            Form::Json { .. } => view.schema == BUS_PAYLOAD || *view.schema == *self.subject,
        };
        if fits {
            return Ok(());
        }
        let text = "the envelope names another one (schema.name); name this one, or none";
        Err(self.misfit(version, "schema.name", "schema", text))
    }

    fn misfit(
        &self,
        version: &Version,
        reason: &'static str,
        field: &'static str,
        text: &str,
    ) -> Misfit {
        let expected = expected(&version.definition);
        let (subject, number) = (&self.subject, version.number);
        Misfit {
            reason,
            field,
            text: format!("{subject} expects {expected} (version {number}): {text}"),
        }
    }
}

fn expected(definition: &Definition) -> &str {
    match &definition.form {
        Form::Protobuf { message, .. } => message,
        Form::Json { .. } => "JSON of its schema",
    }
}

/// Holds JSON against a document: the payload's own bytes, or what older clients wrap in theirs.
fn json_violations(document: &Document, view: &EnvelopeView<'_>, data: &[u8]) -> Vec<Violation> {
    let older = view.schema == BUS_PAYLOAD
        || (view.schema.is_empty()
            && (view.payload.kind() == BUS_PAYLOAD || view.headers.get(OLDER_CLIENT).is_some()));
    if !older {
        return document.violations(data);
    }
    match BusPayload::decode(data) {
        Ok(wrapped) => document.violations_of(&wrapped.payload.map_or(Value::Null, of_struct)),
        Err(_error) => vec![Violation::new(
            "",
            "wire.message",
            format!("not a {BUS_PAYLOAD}"),
        )],
    }
}
