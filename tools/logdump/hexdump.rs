//! `logdump hexdump`: the bytes of a segment, a batch or a record, with what each of them means.

use std::ops::ControlFlow;

use anyhow::Context as _;
use arqonbus::log::batch;
use arqonbus::log::offline::SegmentFile;
use arqonbus::log::segment::{self, HEADER_BLOCK_BYTES, SegmentHeader};
use arqonbus::proto::DESCRIPTORS;
use arqonbus::proto::json::micros;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use serde_json::{Value, json};

use crate::cat::no_records;
use crate::failure::{Outcome, Usage};
use crate::fields::{field, number, varint};
use crate::ls::file_name;
use crate::select::Selection;
use crate::show::sequence_and_paths;
use crate::source::{self, Source};
use crate::table::{hex, printable, table};
use crate::{Common, Output, table, walk};

/// Flag of a batch whose body is encrypted, and what stands around the encrypted bytes.
const ENCRYPTED: u64 = 16;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Show the bytes of a batch or a record, annotated
///
/// With a sequence: the header of its batch, and the record. With --offset: the batch whose header
/// is at that byte of the (single) segment, good or not. With neither: the segment's header and
/// its first batch.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump hexdump 1705 data/dev/main
  logdump hexdump data/dev/main/00000000000000000001.seg --offset 4096 --whole")]
pub(crate) struct Arguments {
    /// The sequence, if any, and the log directories, data directories or segment files
    #[arg(required = true, num_args = 1.., value_names = ["SEQ|PATH"])]
    arguments: Vec<String>,

    /// Byte offset of a batch header in the first segment named
    #[arg(long, value_name = "BYTE")]
    offset: Option<u64>,

    /// All bytes of long values, and all records of the batch
    #[arg(long)]
    whole: bool,
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    no_records(common, "hexdump")?;
    let (sequence, paths) = sequence_and_paths(&arguments.arguments)?;
    let sources = source::open(&paths, common)?;
    let mut dump = Dump::new(arguments.whole)?;
    let outcome = match (sequence, arguments.offset) {
        (Some(_), Some(_)) => {
            return Err(Usage("give a sequence or --offset, not both".to_owned()).into());
        }
        (Some(sequence), None) => dump.sequence(&sources, sequence)?,
        (None, offset) => {
            let segments = sources.first().map(|source| &source.log.segments);
            let segment = segments
                .and_then(|segments| segments.first())
                .context("no segment")?;
            dump.file(segment, offset)
        }
    };
    match common.output {
        Output::Json => table::json(&dump.to_json())?,
        _ => table::text(&dump.to_text())?,
    }
    Ok(outcome)
}

/// A stretch of bytes and its meaning.
struct Row {
    file: String,
    offset: u64,
    bytes: Vec<u8>,
    field: String,
    value: String,
}

struct Dump {
    rows: Vec<Row>,
    whole: bool,
    record: MessageDescriptor,
    file: String,
}

/// Bytes of a value that are shown without `--whole`.
const SHOWN_BYTES: usize = 16;
/// Messages inside messages are looked into so far.
const DEPTH_MAX: usize = 8;

impl Dump {
    fn new(whole: bool) -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(DESCRIPTORS).context("read our own descriptors")?;
        let record = pool
            .get_message_by_name("arqon.v1.Record")
            .context("find arqon.v1.Record")?;
        Ok(Self {
            rows: Vec::new(),
            whole,
            record,
            file: String::new(),
        })
    }

    fn sequence(&mut self, sources: &[Source], sequence: u64) -> anyhow::Result<Outcome> {
        let mut outcome = walk::records(sources, &Selection::only(sequence), |found| {
            self.file = file_name(found.segment);
            match found.batch {
                Some(batch) if self.whole => {
                    self.batch(&found.segment.bytes, batch.offset.0);
                }
                Some(batch) => {
                    self.batch_header(&found.segment.bytes, batch.offset.0);
                    self.framed(found.record.field, found.offset.0);
                }
                None => self.framed(found.record.field, found.offset.0),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if self.rows.is_empty() {
            walk::warn(&format!("sequence {sequence} is not here"));
            outcome = Outcome::Nothing;
        }
        Ok(outcome)
    }

    fn file(&mut self, segment: &SegmentFile, offset: Option<u64>) -> Outcome {
        self.file = file_name(segment);
        let good = match offset {
            Some(offset) => self.batch(&segment.bytes, offset),
            None => {
                self.segment_header(&segment.bytes);
                self.batch(&segment.bytes, HEADER_BLOCK_BYTES) && segment.header_damage.is_none()
            }
        };
        if good {
            Outcome::Well
        } else {
            Outcome::Damaged
        }
    }

    fn row(&mut self, offset: u64, bytes: &[u8], field: &str, value: impl Into<String>) {
        let (file, field) = (self.file.clone(), field.to_owned());
        self.rows.push(Row {
            file,
            offset,
            bytes: bytes.to_vec(),
            field,
            value: value.into(),
        });
    }

    /// Fields of fixed places, one row each.
    fn fixed(&mut self, bytes: &[u8], start: u64, fields: &[(usize, usize, &str, Show)]) {
        for &(at, len, name, show) in fields {
            let Some(field) = bytes.get(at..at + len) else {
                let rest = bytes.get(at..).unwrap_or_default();
                self.row(
                    start + at as u64,
                    rest,
                    name,
                    "cut short: the file ends here",
                );
                return;
            };
            let value = show.value(field);
            self.row(start + at as u64, field, name, value);
        }
    }

    fn segment_header(&mut self, file: &[u8]) {
        let header = file
            .get(..file.len().min(segment::HEADER_BYTES))
            .unwrap_or_default();
        self.fixed(
            header,
            0,
            &[
                (0, 8, "magic", Show::Text),
                (8, 2, "version", Show::Number),
                (10, 2, "(reserved)", Show::Bytes),
                (12, 4, "node", Show::Number),
                (16, 16, "log_id", Show::Bytes),
                (32, 8, "base", Show::Number),
                (40, 4, "epoch", Show::Number),
                (44, 4, "previous_root", Show::Checksum),
                (48, 8, "created_at", Show::Time),
                (56, 8, "reserved_end", Show::Number),
                (64, 16, "key_id", Show::Bytes),
                (80, 8, "capacity", Show::Number),
            ],
        );
        let later = number(header, 8, 2).is_some_and(|version| version > 1);
        let (rest, crc_at): (&[_], usize) = if later {
            (
                &[
                    (88, 4, "flags", Show::Number),
                    (92, 4, "generation", Show::Number),
                    (96, 4, "sealed_root", Show::Checksum),
                    (100, 4, "(reserved)", Show::Bytes),
                    (104, 8, "end", Show::Number),
                    (112, 16, "salt", Show::Bytes),
                    (128, 16, "origin log_id", Show::Bytes),
                    (144, 8, "origin end", Show::Number),
                    (152, 36, "(reserved)", Show::Bytes),
                    (188, 36, "(reserved)", Show::Bytes),
                    (224, 28, "(reserved)", Show::Bytes),
                ],
                252,
            )
        } else {
            (&[(88, 36, "(reserved)", Show::Bytes)], 124)
        };
        self.fixed(header, 0, rest);
        if let Some(crc) = header.get(crc_at..crc_at + 4) {
            let computed = crc32fast::hash(&header[..crc_at]);
            self.row(crc_at as u64, crc, "crc", compared(crc, computed));
        }
        if let Some(Ok(header)) = header.first_chunk().map(SegmentHeader::decode) {
            let value = format!("chain of the first batch {:#010x}", header.chain());
            self.row(0, &[], "(header)", value);
        }
    }

    /// Whether the header of a batch at `offset` is good; annotates it in any case.
    fn batch_header(&mut self, file: &[u8], offset: u64) -> bool {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|at| file.get(at..))
            .unwrap_or_default();
        let header = &rest[..rest.len().min(batch::HEADER_BYTES)];
        self.fixed(header, offset, &[(0, 4, "magic", Show::Text)]);
        if let (Some(crc), Some(covered)) = (header.get(4..8), header.get(8..64)) {
            self.row(
                offset + 4,
                crc,
                "header_crc",
                compared(crc, crc32fast::hash(covered)),
            );
        }
        self.fixed(header, offset, &[(8, 4, "body_len", Show::Number)]);
        if let (Some(len), Some(crc)) = (number(header, 8, 4), header.get(12..16)) {
            let body = usize::try_from(len).ok().and_then(|len| {
                rest.get(batch::HEADER_BYTES..batch::HEADER_BYTES.checked_add(len)?)
            });
            let value = match body {
                Some(body) => compared(crc, crc32fast::hash(body)),
                None => "the body reaches beyond the file".to_owned(),
            };
            self.row(offset + 12, crc, "body_crc", value);
        }
        self.fixed(
            header,
            offset,
            &[
                (16, 8, "base", Show::Number),
                (24, 4, "count", Show::Number),
                (28, 2, "flags", Show::Flags),
                (30, 2, "(reserved)", Show::Bytes),
                (32, 8, "appended_at", Show::Time),
                (40, 4, "epoch", Show::Number),
                (44, 4, "node", Show::Number),
                (48, 8, "durable_through", Show::Number),
                (56, 4, "chain", Show::Checksum),
                (60, 4, "log_tag", Show::Checksum),
            ],
        );
        let whole = header.first_chunk::<{ batch::HEADER_BYTES }>();
        if let Some(whole) = whole {
            let value = format!("chain of the next batch {:#010x}", batch::chain_of(whole));
            self.row(offset, &[], "(header)", value);
        }
        whole.is_some_and(|header| batch::BatchHeader::decode(header).is_ok())
    }

    fn batch(&mut self, file: &[u8], offset: u64) -> bool {
        let good = self.batch_header(file, offset);
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|at| file.get(at..))
            .unwrap_or_default();
        let Some((header, rest)) = rest.split_at_checked(batch::HEADER_BYTES) else {
            return false;
        };
        let start = offset + batch::HEADER_BYTES as u64;
        let len = number(header, 8, 4)
            .and_then(|len| usize::try_from(len).ok())
            .unwrap_or(0);
        let body = &rest[..len.min(rest.len())];
        if number(header, 28, 2).is_some_and(|flags| flags & 1 != 0) {
            self.fixed(body, start, &[(0, 8, "reserved_end", Show::Number)]);
            return good;
        }
        let is_encrypted = number(header, 28, 2).is_some_and(|flags| flags & ENCRYPTED != 0);
        if is_encrypted {
            let Some((nonce, rest)) = body.split_at_checked(NONCE_BYTES) else {
                return false;
            };
            let (sealed, tag) = rest.split_at(rest.len().saturating_sub(TAG_BYTES));
            let sealed_at = start + NONCE_BYTES as u64;
            let shown = if self.whole { sealed } else { &[] };
            self.row(start, nonce, "nonce", "");
            let text = format!("{} bytes (cat decrypts, given --key-file)", sealed.len());
            self.row(sealed_at, shown, "encrypted", text);
            self.row(sealed_at + sealed.len() as u64, tag, "tag", "");
            return good;
        }
        let mut at = 0;
        while let Some(frame) = frame_len(&body[at..]) {
            let end = at + frame;
            self.framed(&body[at..end], start + at as u64);
            at = end;
            if !self.whole && at < body.len() {
                let left = body.len() - at;
                self.row(
                    start + at as u64,
                    &[],
                    "...",
                    format!("{left} more bytes (--whole)"),
                );
                return good;
            }
        }
        if at < body.len() {
            self.row(start + at as u64, &body[at..], "?", "no framed record");
            return false;
        }
        good
    }

    /// A record with its frame.
    fn framed(&mut self, field: &[u8], offset: u64) {
        let Some((len, prefix)) = varint(field.get(1..).unwrap_or_default()) else {
            return;
        };
        self.row(
            offset,
            &field[..1],
            "records",
            "tag of field 1 of arqon.v1.Deliver",
        );
        self.row(
            offset + 1,
            &field[1..=prefix],
            "  length",
            format!("{len} bytes"),
        );
        let record = &field[1 + prefix..];
        let descriptor = self.record.clone();
        let start = offset + 1 + prefix as u64;
        let covered = record.len().saturating_sub(5);
        let computed = crc32fast::hash(&record[..covered]);
        self.message(record, start, Some(&descriptor), 1, Some(computed));
    }

    fn message(
        &mut self,
        bytes: &[u8],
        start: u64,
        descriptor: Option<&MessageDescriptor>,
        depth: usize,
        crc: Option<u32>,
    ) {
        let indent = "  ".repeat(depth);
        let mut at = 0;
        while at < bytes.len() {
            let Some((key, value, next)) = field(&bytes[at..]) else {
                self.row(
                    start + at as u64,
                    &bytes[at..],
                    &format!("{indent}?"),
                    "no field",
                );
                return;
            };
            let field = u32::try_from(key >> 3)
                .ok()
                .and_then(|number| descriptor.and_then(|descriptor| descriptor.get_field(number)));
            let name = field.as_ref().map_or_else(
                || format!("field {}", key >> 3),
                |field| field.name().to_owned(),
            );
            let name = format!("{indent}{name}");
            let kind = field.as_ref().map(prost_reflect::FieldDescriptor::kind);
            let inner = match &kind {
                Some(Kind::Message(inner)) if key & 7 == 2 && depth < DEPTH_MAX => Some(inner),
                _ => None,
            };
            let here = start + at as u64;
            let whole = &bytes[at..at + next];
            if let Some(inner) = inner {
                let head = next - value.len();
                self.row(
                    here,
                    &whole[..head],
                    &name,
                    format!("{} bytes", value.len()),
                );
                self.message(value, here + head as u64, Some(inner), depth + 1, None);
            } else {
                let shown = match (crc, key) {
                    (Some(computed), 0x7d) => compared(value, computed),
                    _ => scalar(key & 7, value, kind.as_ref(), name.trim()),
                };
                self.row(here, whole, &name, shown);
            }
            at += next;
        }
    }

    fn to_text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                let shown = if self.whole || row.bytes.len() <= SHOWN_BYTES {
                    hex(&row.bytes)
                } else {
                    let more = row.bytes.len() - SHOWN_BYTES;
                    format!("{}… +{more}", hex(&row.bytes[..SHOWN_BYTES]))
                };
                vec![
                    row.offset.to_string(),
                    shown,
                    row.field.clone(),
                    printable(&row.value),
                ]
            })
            .collect();
        let file = self.rows.first().map_or("", |row| &row.file);
        format!(
            "{file}\n{}",
            table(&["#OFFSET", "BYTES", "FIELD", "MEANING"], &rows)
        )
    }

    fn to_json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "file": row.file,
                    "offset": row.offset,
                    "bytes": hex(&row.bytes),
                    "field": row.field.trim(),
                    "value": row.value,
                })
            })
            .collect();
        json!({ "rows": rows })
    }
}

/// How a field of a fixed place is shown.
#[derive(Clone, Copy)]
enum Show {
    Number,
    Checksum,
    Time,
    Bytes,
    Text,
    Flags,
}

impl Show {
    fn value(self, bytes: &[u8]) -> String {
        let value = number(bytes, 0, bytes.len()).unwrap_or(0);
        match self {
            Self::Number => value.to_string(),
            Self::Checksum => format!("{value:#010x}"),
            Self::Time => micros(value),
            Self::Bytes if bytes.iter().all(|&byte| byte == 0) => "zeros".to_owned(),
            Self::Bytes => hex(bytes),
            Self::Text => format!("\"{}\"", bytes.escape_ascii()),
            Self::Flags => match value {
                0 => "records".to_owned(),
                1 => "mark".to_owned(),
                3 => "mark of a clean close".to_owned(),
                16 => "records, encrypted".to_owned(),
                other => format!("unknown: {other:#x}"),
            },
        }
    }
}

fn compared(stored: &[u8], computed: u32) -> String {
    let stored = number(stored, 0, 4).unwrap_or(0);
    let verdict = if stored == u64::from(computed) {
        "good"
    } else {
        "WRONG"
    };
    format!("stored {stored:#010x}, computed {computed:#010x}: {verdict}")
}

/// Bytes that the framed record at the start takes, if one is there whole.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    if *bytes.first()? != 0x0a {
        return None;
    }
    let (len, prefix) = varint(&bytes[1..])?;
    let len = usize::try_from(len).ok()?.checked_add(1 + prefix)?;
    (len <= bytes.len()).then_some(len)
}

fn scalar(wire: u64, value: &[u8], kind: Option<&Kind>, name: &str) -> String {
    match wire {
        0 => varint(value).map_or_else(String::new, |(value, _)| value.to_string()),
        1 if name == "appended_at" => number(value, 0, 8).map_or_else(String::new, micros),
        1 | 5 => number(value, 0, value.len()).map_or_else(String::new, |value| value.to_string()),
        _ => match (kind, std::str::from_utf8(value)) {
            (Some(Kind::Bytes), Err(_)) | (None, Err(_)) => format!("{} bytes", value.len()),
            (_, Ok(text)) => {
                let shown: String = text.chars().take(60).collect();
                format!(
                    "{shown:?}{}",
                    if shown.len() < text.len() { " …" } else { "" }
                )
            }
            (Some(_), Err(_)) => format!("{} bytes, not text", value.len()),
        },
    }
}
