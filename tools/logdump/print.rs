//! Prints records in every form.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use anyhow::Context as _;
use arqonbus::log::RecordRef;
use arqonbus::proto::json::{Origin, RecordJson, Schemas, micros};
use arqonbus::proto::view::{Payload, RecordView};

use crate::source::Source;
use crate::table::{hex, printable};
use crate::walk::warn;
use crate::{Common, Output};

pub(crate) struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    output: Output,
    schemas: Schemas,
    terminal: bool,
    colour: bool,
    /// The JSON line in the making: what turns out to have no JSON form leaves no half line.
    line: Vec<u8>,
    /// Records that are intact but cannot be decoded.
    pub(crate) undecodable: u64,
}

impl Printer {
    pub(crate) fn new(common: &Common) -> anyhow::Result<Self> {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Ok(Self {
            out: BufWriter::with_capacity(256 << 10, stdout.lock()),
            output: common.output,
            schemas: schemas(common)?,
            terminal,
            colour: terminal && !plain,
            line: Vec::new(),
            undecodable: 0,
        })
    }

    pub(crate) fn record(&mut self, source: &Source, record: &RecordRef<'_>) -> anyhow::Result<()> {
        match self.output {
            Output::Proto => self.out.write_all(record.field)?,
            Output::Hex => writeln!(self.out, "{} {}", record.sequence, hex(record.record))?,
            Output::Json => {
                let Some(view) = self.view(record) else {
                    return Ok(());
                };
                let origin = Origin {
                    tenant: &source.tenant,
                    reality: &source.reality,
                };
                let json = RecordJson::new(&view, origin, &self.schemas);
                self.line.clear();
                if let Err(error) = serde_json::to_writer(&mut self.line, &json) {
                    self.undecodable += 1;
                    warn(&format!(
                        "record {} has no JSON form: {error}",
                        record.sequence
                    ));
                    return Ok(());
                }
                self.line.push(b'\n');
                self.out.write_all(&self.line)?;
            }
            Output::Text => self.line(record)?,
        }
        Ok(())
    }

    fn view<'a>(&mut self, record: &RecordRef<'a>) -> Option<RecordView<'a>> {
        match RecordView::parse(record.record) {
            Ok(view) => Some(view),
            Err(error) => {
                self.undecodable += 1;
                warn(&format!(
                    "record {} cannot be decoded: {error}",
                    record.sequence
                ));
                None
            }
        }
    }

    fn line(&mut self, record: &RecordRef<'_>) -> io::Result<()> {
        let time = micros(record.appended_at.0);
        // Milliseconds are enough for a person.
        let time = time.get(..23).unwrap_or(&time);
        let topic = printable(record.topic);
        let payload = match self.view(record) {
            Some(view) => preview(&view),
            None => format!("(undecodable, {} bytes)", record.record.len()),
        };
        let shown: String = if self.terminal {
            payload.chars().take(160).collect()
        } else {
            payload
        };
        let (faint, bold, normal) = if self.colour {
            ("\x1b[2m", "\x1b[1m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let sequence = record.sequence.get();
        writeln!(
            self.out,
            "{sequence:>8} {faint}{time}Z{normal} {bold}{topic:<20}{normal} {shown}"
        )
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The types by which payloads are decoded.
pub(crate) fn schemas(common: &Common) -> anyhow::Result<Schemas> {
    let mut schemas = Schemas::builtin();
    for path in &common.descriptors {
        let doing = || format!("use the descriptors in {}", path.display());
        let bytes = std::fs::read(path).with_context(doing)?;
        schemas.add(&bytes).with_context(doing)?;
    }
    Ok(schemas)
}

pub(crate) fn preview(record: &RecordView<'_>) -> String {
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
