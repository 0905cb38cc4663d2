//! Prints records: one line each for people, one JSON object each for machines.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use anyhow::Context as _;
use arqonbus::proto::json::{Origin, PayloadForm, RecordJson, micros};
use arqonbus::proto::v1::{SpectralMetadata, Subscribed};
use arqonbus::proto::view::{Payload, RecordView};
use prost::Message as _;

use crate::Output;
use crate::registered::Registered;
use crate::table::{WRITING, printable};

/// Payloads are cut to the terminal's width; a pipe gets them whole.
pub(crate) struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    output: Output,
    tenant: String,
    reality: String,
    registered: Registered,
    width: Option<usize>,
    colour: bool,
}

impl Printer {
    pub(crate) fn new(output: Output, from: &Subscribed, registered: Registered) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let width = terminal.then(|| {
            rustix::termios::tcgetwinsize(&stdout).map_or(100, |size| usize::from(size.ws_col))
        });
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            out: BufWriter::with_capacity(64 << 10, stdout.lock()),
            output,
            tenant: from.tenant.clone(),
            reality: from.reality.clone(),
            registered,
            width,
            colour: terminal && !plain,
        }
    }

    pub(crate) fn record(&mut self, record: &RecordView<'_>) -> anyhow::Result<()> {
        self.write(record).context(WRITING)
    }

    fn write(&mut self, record: &RecordView<'_>) -> io::Result<()> {
        match self.output {
            Output::Json => {
                let json = json(&self.registered, &self.tenant, &self.reality, record);
                serde_json::to_writer(&mut self.out, &json).map_err(io::Error::from)?;
                self.out.write_all(b"\n")?;
            }
            Output::Text => self.line(record)?,
        }
        Ok(())
    }

    fn line(&mut self, record: &RecordView<'_>) -> io::Result<()> {
        let time = micros(record.appended_at);
        // Milliseconds are enough for a person.
        let time = time.get(..23).unwrap_or(&time);
        let topic = printable(record.topic);
        let payload = self.decoded(record).unwrap_or_else(|| preview(record));
        let payload = marks(record) + &payload;
        let taken = 8 + 1 + time.len() + 2 + topic.len().max(20) + 1;
        let room = self
            .width
            .map_or(usize::MAX, |width| width.saturating_sub(taken).max(10));
        let shown: String = payload.chars().take(room).collect();
        let (faint, bold, normal) = if self.colour {
            ("\x1b[2m", "\x1b[1m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let sequence = record.sequence;
        writeln!(
            self.out,
            "{sequence:>8} {faint}{time}Z{normal} {bold}{topic:<20}{normal} {shown}"
        )
    }

    /// A payload that is a message, as JSON.
    fn decoded(&self, record: &RecordView<'_>) -> Option<String> {
        let json = json(&self.registered, &self.tenant, &self.reality, record);
        (json.payload_form() == PayloadForm::Message).then(|| json.payload_line())?
    }

    /// After this the records are out of our hands.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        self.out.flush().context(WRITING)
    }
}

/// What is said of the payload before it: that it comes from elsewhere, and its spectrum.
fn marks(record: &RecordView<'_>) -> String {
    let envelope = &record.envelope;
    let mut marks = String::new();
    if !envelope.twist_id.is_empty() {
        marks = format!("(twist {}) ", printable(envelope.twist_id));
    }
    let spectral = envelope.spectral.map(SpectralMetadata::decode);
    if let Some(Ok(found)) = spectral {
        let (coherence, criticality) = (found.coherence, found.criticality);
        marks += &format!("(coherence {coherence}, criticality {criticality}) ");
    }
    marks
}

/// The record as an object, its payload by the schema that it names or its topic has.
fn json<'a>(
    registered: &'a Registered,
    tenant: &'a str,
    reality: &'a str,
    record: &RecordView<'a>,
) -> RecordJson<'a> {
    let message = registered.message(record);
    let origin = Origin { tenant, reality };
    RecordJson::with_message(record, origin, &registered.schemas, message)
}

fn preview(record: &RecordView<'_>) -> String {
    let data = match record.envelope.payload {
        Payload::Empty => return "(no payload)".to_owned(),
        Payload::Signal { kind, reason } => {
            return format!("(signal {kind}: {})", printable(reason));
        }
        Payload::Command { data, .. } | Payload::Event { data, .. } => data,
    };
    match std::str::from_utf8(data) {
        Ok(text) => printable(text),
        Err(_binary) => {
            let named = match record.envelope.schema {
                "" => record.envelope.payload.kind(),
                schema => schema,
            };
            format!("({} bytes of {})", data.len(), printable(named))
        }
    }
}
