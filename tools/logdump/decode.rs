//! Says what payloads mean: by the message that the envelope or the command line names, with the
//! descriptors at hand; where that fails, by the bytes alone, and why.

use std::str::FromStr;

use anyhow::Context as _;
use arqonbus::proto::json::{Origin, PayloadForm, RecordJson, Schemas, message_of};
use arqonbus::proto::view::{Payload, RecordView};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::{Value, json};

use crate::Common;
use crate::fields::Tree;
use crate::select::Pattern;
use crate::table::{is_plain, printable};
use crate::walk::warn;

/// The message that payloads of some topics are, where their envelopes do not say.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    topics: Pattern,
    message: String,
}

impl FromStr for Binding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (topics, message) = text
            .split_once('=')
            .ok_or("needed is FILTER=full.message.Name, like 'orders.>=acme.Order'")?;
        let message = message.trim_start_matches('.');
        if message.is_empty() {
            return Err("the message has no name".to_owned());
        }
        Ok(Self {
            topics: topics.parse()?,
            message: message.to_owned(),
        })
    }
}

/// All that is known about payloads.
#[derive(Debug)]
pub(crate) struct Decoder {
    schemas: Schemas,
    bindings: Vec<Binding>,
}

/// A record with what is to be said about its payload beyond what `arqon consume` says.
#[derive(Serialize)]
struct Explained<'a> {
    #[serde(flatten)]
    record: &'a RecordJson<'a>,
    decoding: Value,
}

impl Decoder {
    /// With the descriptor sets of `--descriptors` and the messages of `--message`.
    ///
    /// # Errors
    /// A descriptor set cannot be read or used.
    pub(crate) fn new(common: &Common) -> anyhow::Result<Self> {
        let mut decoder = Self {
            schemas: Schemas::builtin(),
            bindings: common.messages.clone(),
        };
        for path in &common.descriptors {
            let bytes = std::fs::read(path)
                .with_context(|| format!("use the descriptors in {}", path.display()))?;
            decoder.add(&path.display().to_string(), &bytes)?;
        }
        for binding in &decoder.bindings {
            if decoder.schemas.message(&binding.message).is_none() {
                warn(&format!(
                    "message {} is in no descriptor set (--descriptors FILE); its fields are shown by number",
                    binding.message
                ));
            }
        }
        Ok(decoder)
    }

    /// Learns the types of an encoded `FileDescriptorSet` found in `place`.
    fn add(&mut self, place: &str, descriptors: &[u8]) -> anyhow::Result<()> {
        self.schemas
            .add(descriptors)
            .with_context(|| format!("use the descriptors in {place}"))
    }

    /// The message that the payload is taken for; empty if nobody says.
    fn message<'a>(&'a self, record: &RecordView<'a>) -> &'a str {
        if !record.envelope.schema.is_empty() {
            return record.envelope.schema;
        }
        let bound = self
            .bindings
            .iter()
            .find(|binding| binding.topics.matches(record.topic));
        bound.map_or_else(|| message_of(record), |binding| &binding.message)
    }

    /// Appends the object of the record, without a line feed.
    ///
    /// # Errors
    /// It has no JSON form.
    pub(crate) fn append_json(
        &self,
        record: &RecordView<'_>,
        origin: Origin<'_>,
        out: &mut Vec<u8>,
    ) -> serde_json::Result<()> {
        let message = self.message(record);
        let json = RecordJson::with_message(record, origin, &self.schemas, message);
        match self.decoding(record, message, json.payload_form()) {
            None => serde_json::to_writer(out, &json),
            Some(decoding) => {
                let record = &json;
                serde_json::to_writer(out, &Explained { record, decoding })
            }
        }
    }

    /// What the payload's JSON leaves out; `None` if that is nothing.
    fn decoding(&self, record: &RecordView<'_>, message: &str, form: PayloadForm) -> Option<Value> {
        let data = record.envelope.payload.data();
        match form {
            PayloadForm::Empty | PayloadForm::Json => None,
            PayloadForm::Message => {
                let mut decoding = json!({ "message": message, "base64": BASE64.encode(data) });
                let undeclared = self.undeclared(message, data);
                if !undeclared.is_empty() {
                    decoding["undeclared_fields"] = undeclared.to_json();
                }
                Some(decoding)
            }
            PayloadForm::Opaque => {
                let unread = self.unread(message, data)?;
                let mut decoding = json!({ "why": unread.why, "fields": unread.tree.to_json() });
                if !message.is_empty() {
                    decoding["message"] = message.into();
                }
                if let Some(at) = unread.tree.broken_at {
                    decoding["broken_at"] = at.into();
                }
                Some(decoding)
            }
        }
    }

    /// Fields that the bytes hold and the message does not have: a newer producer's.
    fn undeclared<'a>(&self, message: &str, data: &'a [u8]) -> Tree<'a> {
        let descriptor = self.schemas.message(message);
        Tree::of(data).without(|number| {
            descriptor
                .as_ref()
                .is_some_and(|message| message.get_field(number).is_some())
        })
    }

    /// `None` for bytes that neither claim to be nor look like a message.
    fn unread<'a>(&self, message: &str, data: &'a [u8]) -> Option<Unread<'a>> {
        let tree = Tree::of(data);
        if message.is_empty() {
            let why = "no message is named for it: the envelope has no schema \
                       (--message FILTER=full.Name)";
            return tree.is_whole().then(|| Unread {
                why: why.to_owned(),
                tree,
            });
        }
        let why = self.schemas.read(message, data).err()?.to_string();
        Some(Unread { why, tree })
    }

    /// The payload on one line, as `cat` shows it to people.
    pub(crate) fn preview(&self, record: &RecordView<'_>) -> String {
        let data = match record.envelope.payload {
            Payload::Empty => return "(no payload)".to_owned(),
            Payload::Signal { kind, reason } => {
                return format!("(signal {kind}: {})", printable(reason));
            }
            Payload::Command { data, .. } | Payload::Event { data, .. } => data,
        };
        let message = self.message(record);
        if !message.is_empty()
            && let Some(decoded) = self.decoded(record, message)
        {
            return printable(&decoded);
        }
        let text = std::str::from_utf8(data).ok();
        if let Some(text) = text
            && (is_plain(text) || reads_as_text(text, message))
        {
            return printable(text);
        }
        let named = match message {
            "" => record.envelope.payload.kind(),
            message => message,
        };
        let head = format!("({} bytes of {})", data.len(), printable(named));
        match self.unread(message, data) {
            Some(unread) if !unread.tree.is_empty() => {
                format!("{head} {}", unread.tree.to_line())
            }
            _ => text.map_or(head, printable),
        }
    }

    /// The payload as JSON, if it is the message it is taken for.
    fn decoded(&self, record: &RecordView<'_>, message: &str) -> Option<String> {
        let nowhere = Origin {
            tenant: "",
            reality: "",
        };
        let json = RecordJson::with_message(record, nowhere, &self.schemas, message);
        (json.payload_form() == PayloadForm::Message)
            .then(|| json.payload_line())
            .flatten()
    }

    /// The payload over several lines, as `show` prints it below `payload`, the first of which
    /// says what it is.
    pub(crate) fn lines(&self, record: &RecordView<'_>) -> Vec<String> {
        let message = self.message(record);
        let nowhere = Origin {
            tenant: "",
            reality: "",
        };
        let json = RecordJson::with_message(record, nowhere, &self.schemas, message);
        let data = record.envelope.payload.data();
        let (mut head, mut body) = (String::new(), Vec::new());
        match json.payload_form() {
            PayloadForm::Message => head = printable(message),
            PayloadForm::Empty | PayloadForm::Json => {}
            PayloadForm::Opaque => {
                if let Some(unread) = self.unread(message, data) {
                    head = printable(&unread.why);
                    body.extend(unread.tree.to_lines());
                    if let Some(at) = unread.tree.broken_at {
                        let left = data.len() - at;
                        body.push(format!("byte {at} begins no field; {left} bytes are left"));
                    }
                }
            }
        }
        let mut lines = vec![head];
        if body.is_empty() {
            let pretty = json
                .payload_line()
                .and_then(|line| serde_json::from_str::<Value>(&line).ok())
                .and_then(|value| serde_json::to_string_pretty(&value).ok());
            lines.extend(
                pretty
                    .iter()
                    .flat_map(|text| text.lines())
                    .map(printable_line),
            );
        } else {
            lines.append(&mut body);
        }
        if json.payload_form() == PayloadForm::Message {
            let undeclared = self.undeclared(message, data);
            if !undeclared.is_empty() {
                lines.push(format!("fields that {} does not have:", printable(message)));
                lines.extend(undeclared.to_lines());
            }
        }
        lines
    }
}

/// Small messages are often valid UTF-8 too; text has no control characters but those of layout,
/// and what is said to be a message has none, unless it is JSON.
fn reads_as_text(text: &str, message: &str) -> bool {
    if message.is_empty() {
        let layout = |symbol: char| matches!(symbol, '\n' | '\r' | '\t');
        return !text
            .chars()
            .any(|symbol| symbol.is_control() && !layout(symbol));
    }
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn printable_line(text: &str) -> String {
    printable(text)
}

/// A payload that is not decoded.
struct Unread<'a> {
    why: String,
    tree: Tree<'a>,
}
