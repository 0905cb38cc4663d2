//! `logdump show`: one record with everything around it.

use std::io::Write as _;
use std::path::PathBuf;

use arqonbus::log::batch::BatchHeader;
use arqonbus::proto::json::{Origin, micros};
use arqonbus::proto::v1::{SpectralMetadata, Verdict};
use arqonbus::proto::view::RecordView;
use prost::Message as _;
use serde_json::{Value, json};

use crate::decode::Decoder;
use crate::failure::{Outcome, Usage};
use crate::hexdump::batch_flags;
use crate::ls::file_name;
use crate::print::Printer;
use crate::table::{hex, printable, sequences};
use crate::walk::Found;
use crate::{Common, Output, source, walk};

/// Show one record: where it is, its batch, its clock, its envelope, its payload
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump show 1705 data/dev/main
  logdump show 1705 data/dev/main --output json
  logdump show 1705 data/dev/main --descriptors acme.binpb")]
pub(crate) struct Arguments {
    /// The sequence, and the log directories, data directories or segment files to look in
    #[arg(required = true, num_args = 2.., value_names = ["SEQ", "PATH"])]
    arguments: Vec<String>,
}

/// The sequence among `arguments`, and the paths: a number is the sequence unless a file is
/// called so.
pub(crate) fn sequence_and_paths(
    arguments: &[String],
) -> Result<(Option<u64>, Vec<PathBuf>), Usage> {
    let mut sequence = None;
    let mut paths = Vec::new();
    for argument in arguments {
        match argument.parse::<u64>() {
            Ok(0) => return Err(Usage("sequences begin at 1".to_owned())),
            Ok(number) if sequence.is_none() => sequence = Some(number),
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    if paths.is_empty() {
        return Err(Usage("give a log's directory or a segment file".to_owned()));
    }
    Ok((sequence, paths))
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    let (sequence, paths) = sequence_and_paths(&arguments.arguments)?;
    let sequence = sequence.ok_or_else(|| Usage("give the sequence to show".to_owned()))?;
    let sources = source::open(&paths, common)?;
    let mut rows = Vec::new();
    let decoder = Decoder::new(common)?;
    let mut printer = None;
    let outcome = walk::look_up(&sources, sequence, |found| {
        match common.output {
            Output::Json => rows.push(format!("{}\n", to_json(found, &decoder)?)),
            Output::Text => rows.push(to_text(found, &decoder)),
            Output::Hex | Output::Proto => {
                let printer = match &mut printer {
                    Some(printer) => printer,
                    none => none.insert(Printer::new(common)?),
                };
                printer.record(found.source, &found.record)?;
            }
        }
        Ok(())
    })?;
    if let Some(mut printer) = printer {
        printer.flush()?;
    }
    let mut out = std::io::stdout().lock();
    for row in rows {
        out.write_all(row.as_bytes())?;
    }
    out.flush()?;
    Ok(outcome)
}

/// The object of the record, as `cat` prints it.
fn record_json(found: &Found<'_>, decoder: &Decoder) -> anyhow::Result<Option<Value>> {
    let Ok(view) = RecordView::parse(found.record.record) else {
        return Ok(None);
    };
    let origin = Origin {
        tenant: &found.source.tenant,
        reality: &found.source.reality,
    };
    let mut json = Vec::new();
    decoder.append_json(&view, origin, &mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

fn batch_json(header: &BatchHeader) -> Value {
    json!({
        "base": header.base.get(),
        "count": header.count,
        "flags": batch_flags(header.flags),
        "body_bytes": header.body_len,
        "body_crc": format!("{:#010x}", header.body_crc),
        "appended_at": micros(header.appended_at.0),
        "epoch": header.epoch,
        "node": header.node,
        "durable_through": header.durable_through,
        "chain": format!("{:#010x}", header.chain),
        "log_tag": format!("{:#010x}", header.log_tag),
    })
}

fn to_json(found: &Found<'_>, decoder: &Decoder) -> anyhow::Result<Value> {
    let (stored, computed) = found.record.checksums();
    Ok(json!({
        "file": found.segment.path.display().to_string(),
        "offset": found.place.in_file(),
        "offset_in_body": found.place.in_body(),
        "bytes": found.record.field.len(),
        "crc_stored": format!("{stored:#010x}"),
        "crc_computed": format!("{computed:#010x}"),
        "batch_offset": found.batch.map(|batch| batch.offset.0),
        "batch": found.header().map(batch_json),
        "record": record_json(found, decoder)?,
    }))
}

fn to_text(found: &Found<'_>, decoder: &Decoder) -> String {
    let record = &found.record;
    let (stored, computed) = record.checksums();
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<16}{value}"));
    line(
        "log",
        format!("{}/{}", found.source.tenant, found.source.reality),
    );
    line("file", file_name(found.segment));
    if let (Some(batch), Some(header)) = (found.batch, found.header()) {
        line(
            "batch",
            format!(
                "byte {}, {}, {}, {} bytes, epoch {}, node {}",
                batch.offset,
                batch_flags(header.flags),
                sequences(header.base, header.end().previous().unwrap_or(header.base)),
                header.file_len(),
                header.epoch,
                header.node,
            ),
        );
        line(
            "  checksum",
            format!(
                "{:#010x} of the body, chain {:#010x}",
                header.body_crc, header.chain
            ),
        );
        line(
            "  durable",
            format!("through {} when it was written", header.durable_through),
        );
    } else {
        line("batch", "damaged; the record itself is good".to_owned());
    }
    line(
        "record",
        format!("{}, {} bytes with frame", found.place, record.field.len()),
    );
    let verdict = if stored == computed { "good" } else { "WRONG" };
    line(
        "  checksum",
        format!("{stored:#010x}, computed {computed:#010x}: {verdict}"),
    );
    line("sequence", record.sequence.to_string());
    line("appended at", micros(record.appended_at.0));
    line("topic", printable(record.topic));
    match RecordView::parse(record.record) {
        Ok(view) => {
            envelope_lines(&view, &mut line);
            let mut payload = decoder.lines(&view).into_iter();
            line("payload", payload.next().unwrap_or_default());
            lines.extend(payload.map(|text| format!("  {text}")));
        }
        Err(error) => line("undecodable", error.to_string()),
    }
    lines.join("\n") + "\n\n"
}

fn envelope_lines(view: &RecordView<'_>, line: &mut impl FnMut(&str, String)) {
    let envelope = &view.envelope;
    line("id", printable(&view.id()));
    line("producer", printable(view.producer()));
    line("trace id", printable(&view.trace_id()));
    for (at, (name, value)) in view.clock.entries().enumerate() {
        line(
            if at == 0 { "clock" } else { "" },
            format!("{} {value}", printable(name)),
        );
    }
    if let Some(verdict) = view.verdict.and_then(|bytes| Verdict::decode(bytes).ok()) {
        verdict_lines(&verdict, line);
    }
    line("envelope", format!("{} bytes", envelope.encoded.len()));
    let texts = [
        ("  key", envelope.key),
        ("  type", envelope.payload.kind()),
        ("  schema", envelope.schema),
        ("  room", envelope.room_id),
        ("  twist", envelope.twist_id),
        ("  tenant", envelope.tenant_id),
        ("  reality", envelope.reality_id),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        line(name, printable(text));
    }
    if envelope.timestamp != 0 {
        let milliseconds = envelope.timestamp;
        let time = u64::try_from(milliseconds)
            .ok()
            .and_then(|milliseconds| milliseconds.checked_mul(1000));
        let said = format!("{milliseconds} ms since 1970");
        line(
            "  timestamp",
            time.map_or(said.clone(), |time| format!("{}, {said}", micros(time))),
        );
    }
    let spectral = envelope.spectral.map(SpectralMetadata::decode);
    if let Some(Ok(found)) = spectral {
        let (coherence, criticality) = (found.coherence, found.criticality);
        let values = found.eigenvalues;
        line(
            "  spectral",
            format!("coherence {coherence}, criticality {criticality}, eigenvalues {values:?}"),
        );
    }
    if envelope.producer_sequence != 0 {
        line("  its sequence", envelope.producer_sequence.to_string());
    }
    if !envelope.signature.is_empty() {
        line("  signature", hex(envelope.signature));
    }
    for (name, value) in envelope.headers.iter() {
        line(
            "  header",
            format!("{} = {}", printable(name), printable(value)),
        );
    }
    line(
        "  payload",
        format!("{} bytes", envelope.payload.data().len()),
    );
}

/// What the edge decided about the envelope before the append.
fn verdict_lines(verdict: &Verdict, line: &mut impl FnMut(&str, String)) {
    line("verdict", format!("in force: {}", verdict.policy_version));
    if !verdict.policy_digest.is_empty() {
        line("  policies", hex(&verdict.policy_digest));
    }
    if verdict.schema_version != 0 {
        line("  schema", format!("version {}", verdict.schema_version));
    }
    if !verdict.flags.is_empty() {
        line("  flags", printable(&verdict.flags.join(", ")));
    }
    if let Some(found) = &verdict.classification {
        let texts = [&found.kind, &found.risk, &found.reason, &found.decision];
        let texts: Vec<&str> = texts
            .into_iter()
            .chain(&found.flags)
            .map(String::as_str)
            .collect();
        line("  content", printable(&texts.join(", ")));
    }
}
