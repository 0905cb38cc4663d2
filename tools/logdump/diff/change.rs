//! What differs between two records of one sequence.

use std::collections::BTreeMap;

use arqonbus::log::RecordRef;
use arqonbus::proto::json::micros;
use arqonbus::proto::view::{ClockView, EnvelopeView, Payload, RecordView};
use serde_json::{Value, json};

use crate::table::{hex, printable};

/// Part of a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub(crate) enum Part {
    /// When the log took it
    Time,
    /// The vector clock
    Clock,
    /// The topic that it is filed under
    Topic,
    /// What the node added: id, producer, verdict
    Stamp,
    /// What the producer sent
    Envelope,
    /// Bytes that mean the same, or that cannot be read
    Encoding,
}

impl Part {
    pub(super) const ALL: [Self; 6] = [
        Self::Time,
        Self::Clock,
        Self::Topic,
        Self::Stamp,
        Self::Envelope,
        Self::Encoding,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Clock => "clock",
            Self::Topic => "topic",
            Self::Stamp => "stamp",
            Self::Envelope => "envelope",
            Self::Encoding => "encoding",
        }
    }
}

/// One field with two values.
pub(super) struct Change {
    pub(super) part: Part,
    field: String,
    a: String,
    b: String,
}

/// Characters of a value that are shown.
const SHOWN_CHARS: usize = 60;

impl Change {
    pub(super) fn to_json(&self) -> Value {
        let part = self.part.name();
        json!({ "part": part, "field": self.field, "a": self.a, "b": self.b })
    }

    pub(super) fn to_text(&self) -> String {
        let (part, field) = (self.part.name(), &self.field);
        format!("{part} {field}: {} | {}", self.a, self.b)
    }
}

/// Collects what differs.
struct Changes(Vec<Change>);

impl Changes {
    fn hold(&mut self, part: Part, field: &str, a: &str, b: &str) {
        if a != b {
            self.add(part, field, shown(a), shown(b));
        }
    }

    fn numbers<N: Copy + PartialEq + ToString>(&mut self, part: Part, field: &str, a: N, b: N) {
        if a != b {
            self.add(part, field, a.to_string(), b.to_string());
        }
    }

    fn bytes(&mut self, part: Part, field: &str, a: &[u8], b: &[u8]) {
        if a != b {
            self.add(part, field, shown_bytes(a), shown_bytes(b));
        }
    }

    fn maps<V: PartialEq + ToString>(
        &mut self,
        part: Part,
        field: &str,
        a: &BTreeMap<&str, V>,
        b: &BTreeMap<&str, V>,
    ) {
        let value = |map: &BTreeMap<&str, V>, name| {
            map.get(name)
                .map_or_else(|| "-".to_owned(), |value| shown(&value.to_string()))
        };
        let added = b.keys().filter(|name| !a.contains_key(*name));
        for name in a.keys().chain(added) {
            if a.get(name) != b.get(name) {
                let field = format!("{field}{}", printable(name));
                self.add(part, &field, value(a, name), value(b, name));
            }
        }
    }

    fn add(&mut self, part: Part, field: &str, a: String, b: String) {
        let field = field.to_owned();
        self.0.push(Change { part, field, a, b });
    }
}

/// What differs between two records whose bytes do; at least one thing.
pub(super) fn between(a: &RecordRef<'_>, b: &RecordRef<'_>) -> Vec<Change> {
    let mut changes = Changes(Vec::new());
    match (RecordView::parse(a.record), RecordView::parse(b.record)) {
        (Ok(a), Ok(b)) => {
            if a.appended_at != b.appended_at {
                let (a, b) = (micros(a.appended_at), micros(b.appended_at));
                changes.add(Part::Time, "appended_at", a, b);
            }
            changes.maps(Part::Clock, "", &entries(a.clock), &entries(b.clock));
            changes.hold(Part::Topic, "topic", a.topic, b.topic);
            changes.bytes(Part::Stamp, "id", a.stamped_id, b.stamped_id);
            let (of_a, of_b) = (a.stamped_producer, b.stamped_producer);
            changes.hold(Part::Stamp, "producer", of_a, of_b);
            let (of_a, of_b) = (a.verdict.unwrap_or_default(), b.verdict.unwrap_or_default());
            changes.bytes(Part::Stamp, "verdict", of_a, of_b);
            if a.envelope.encoded != b.envelope.encoded {
                envelopes(&a.envelope, &b.envelope, &mut changes);
            }
        }
        (a, b) => {
            let readable = |view: Result<_, _>| match view {
                Ok(RecordView { .. }) => "readable".to_owned(),
                Err(error) => format!("{error}"),
            };
            changes.add(Part::Encoding, "record", readable(a), readable(b));
        }
    }
    if changes.0.is_empty() {
        changes.bytes(Part::Encoding, "record", a.record, b.record);
    }
    changes.0
}

fn entries<'a>(clock: ClockView<'a>) -> BTreeMap<&'a str, u64> {
    clock.entries().collect()
}

fn envelopes(a: &EnvelopeView<'_>, b: &EnvelopeView<'_>, changes: &mut Changes) {
    const PART: Part = Part::Envelope;
    let before = changes.0.len();
    for (field, a, b) in [
        ("id", a.id, b.id),
        ("topic", a.topic, b.topic),
        ("key", a.key, b.key),
        ("schema", a.schema, b.schema),
        ("producer_id", a.producer_id, b.producer_id),
        ("trace_id", a.trace_id, b.trace_id),
        ("tenant_id", a.tenant_id, b.tenant_id),
        ("reality_id", a.reality_id, b.reality_id),
        ("room_id", a.room_id, b.room_id),
        ("twist_id", a.twist_id, b.twist_id),
        ("type", a.payload.kind(), b.payload.kind()),
    ] {
        changes.hold(PART, field, a, b);
    }
    changes.numbers(PART, "timestamp", a.timestamp, b.timestamp);
    changes.numbers(PART, "expires_at", a.expires_at, b.expires_at);
    changes.numbers(PART, "deliver_at", a.deliver_at, b.deliver_at);
    let (of_a, of_b) = (a.producer_sequence, b.producer_sequence);
    changes.numbers(PART, "producer_sequence", of_a, of_b);
    let (of_a, of_b) = (a.headers.iter().collect(), b.headers.iter().collect());
    changes.maps(PART, "header ", &of_a, &of_b);
    let clock = |view: &EnvelopeView<'_>| view.clock.map(|clock| clock.to_message().entries);
    if clock(a) != clock(b) {
        let (of_a, of_b) = (a.clock.unwrap_or_default(), b.clock.unwrap_or_default());
        changes.maps(PART, "clock ", &entries(of_a), &entries(of_b));
    }
    changes.bytes(PART, "payload", a.payload.data(), b.payload.data());
    if a.payload.data() == b.payload.data() && a.payload != b.payload {
        changes.hold(PART, "payload", &form(&a.payload), &form(&b.payload));
    }
    changes.bytes(PART, "signature", a.signature, b.signature);
    let (of_a, of_b) = (
        a.spectral.unwrap_or_default(),
        b.spectral.unwrap_or_default(),
    );
    changes.bytes(PART, "spectral", of_a, of_b);
    if changes.0.len() == before {
        changes.bytes(Part::Encoding, "envelope", a.encoded, b.encoded);
    }
}

fn form(payload: &Payload<'_>) -> String {
    match payload {
        Payload::Empty => "none".to_owned(),
        Payload::Command { .. } => "a command".to_owned(),
        Payload::Event { .. } => "an event".to_owned(),
        Payload::Signal { kind, reason } => format!("signal {kind}: {reason}"),
    }
}

fn shown(text: &str) -> String {
    let text = printable(text);
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!(
            "{}… ({} bytes)",
            text.get(..end).unwrap_or_default(),
            text.len()
        ),
        None => text,
    }
}

fn shown_bytes(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.chars().any(char::is_control)
    {
        return shown(text);
    }
    match bytes.get(..SHOWN_CHARS / 2) {
        Some(front) => format!("0x{}… ({} bytes)", hex(front), bytes.len()),
        None => format!("0x{}", hex(bytes)),
    }
}
