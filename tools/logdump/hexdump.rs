//! `logdump hexdump`: the bytes of a segment, a batch or a record, with what each of them means.

use anyhow::Context as _;
use arqonbus::log::offline::SegmentFile;
use arqonbus::log::scan::Scanned;
use arqonbus::log::segment::{self, HEADER_BLOCK_BYTES, SegmentHeader};
use arqonbus::log::{ByteOffset, Sequence, batch};
use arqonbus::proto::DESCRIPTORS;
use arqonbus::proto::json::micros;
use bytes::Bytes;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use serde_json::{Value, json};

use crate::cat::no_records;
use crate::failure::{Outcome, Usage};
use crate::fields::{field, number, varint};
use crate::locked::Locked;
use crate::ls::file_name;
use crate::show::sequence_and_paths;
use crate::source::{self, Source};
use crate::table::{hex, printable, table};
use crate::walk::Place;
use crate::{Common, Output, table, walk};

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
            let source = sources.first().context("no log")?;
            let segment = source.log.segments.first().context("no segment")?;
            dump.file(source, segment, offset)
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
    place: Place,
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
        walk::look_up(sources, sequence, |found| {
            self.file = file_name(found.segment);
            match found.batch {
                Some(batch) if self.whole => {
                    self.batch(found.source, found.segment, batch.offset.0);
                }
                Some(batch) => {
                    let body = self.batch_header(&found.segment.bytes, batch.offset.0).1;
                    self.encoded(&body, batch.offset.0, batch.header.flags);
                    self.framed(found.record.field, found.place);
                }
                None => self.framed(found.record.field, found.place),
            }
            Ok(())
        })
    }

    fn file(&mut self, source: &Source, segment: &SegmentFile, offset: Option<u64>) -> Outcome {
        self.file = file_name(segment);
        let good = match offset {
            Some(offset) => self.batch(source, segment, offset),
            None => {
                self.header_block(segment);
                self.batch(source, segment, HEADER_BLOCK_BYTES) && segment.header_damage.is_none()
            }
        };
        if good {
            Outcome::Well
        } else {
            Outcome::Damaged
        }
    }

    fn row(&mut self, offset: u64, bytes: &[u8], field: &str, value: impl Into<String>) {
        self.row_at(Place::File(ByteOffset(offset)), bytes, field, value);
    }

    fn row_at(&mut self, place: Place, bytes: &[u8], field: &str, value: impl Into<String>) {
        let (file, field) = (self.file.clone(), field.to_owned());
        self.rows.push(Row {
            file,
            place,
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

    /// The header of a segment, its copy, and what else stands in their block.
    fn header_block(&mut self, segment: &SegmentFile) {
        let file = &segment.bytes;
        self.segment_header(file, 0, "");
        let first = file.get(..segment::HEADER_BYTES).unwrap_or_default();
        let version = number(first, 8, 2);
        let at = segment::HEADER_COPY_AT;
        let copy = file.get(at..at + segment::HEADER_BYTES);
        if let Some(copy) = copy.filter(|_| version != Some(1)) {
            if copy == first {
                let value = format!("the same {} bytes again", segment::HEADER_BYTES);
                self.row(at as u64, &copy[..8], "copy", value);
            } else {
                self.segment_header(file, at, "copy ");
            }
        }
        if let Some((offset, byte)) = segment.stray_header_byte() {
            let value = "not what the header says should stand here";
            self.row(offset.0, &[byte], "?", value);
        }
    }

    fn segment_header(&mut self, file: &[u8], at: usize, prefix: &str) {
        let rest = file.get(at..).unwrap_or_default();
        let header = &rest[..rest.len().min(segment::HEADER_BYTES)];
        let is_first_version = number(header, 8, 2) == Some(1);
        let (fields, crc_at) = if is_first_version {
            (FIELDS_V1, 124)
        } else {
            (FIELDS, segment::HEADER_BYTES - 4)
        };
        for fields in [FIELDS_OF_ALL_VERSIONS, fields] {
            let named: Vec<(usize, usize, String, Show)> = fields
                .iter()
                .map(|&(at, len, name, show)| (at, len, format!("{prefix}{name}"), show))
                .collect();
            for (field_at, len, name, show) in &named {
                self.fixed(header, at as u64, &[(*field_at, *len, name, *show)]);
            }
        }
        let name = format!("{prefix}crc");
        if let Some(crc) = header.get(crc_at..crc_at + 4) {
            let computed = crc32fast::hash(&header[..crc_at]);
            self.row((at + crc_at) as u64, crc, &name, compared(crc, computed));
        }
        if let Some(Ok(header)) = header.first_chunk().map(SegmentHeader::decode) {
            let value = format!("chain of the first batch {:#010x}", header.chain());
            self.row(at as u64, &[], "(header)", value);
        }
    }

    /// Whether the header of a batch at `offset` is good, and the bytes of the body that it
    /// claims; annotates it in any case.
    fn batch_header(&mut self, file: &Bytes, offset: u64) -> (bool, Bytes) {
        let at = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(file.len());
        let rest = file.slice(at..);
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
                (28, 2, "flags", Show::BatchFlags),
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
        let good = whole.is_some_and(|header| batch::BatchHeader::decode(header).is_ok());
        let start = rest.len().min(batch::HEADER_BYTES);
        let len = number(header, 8, 4).and_then(|len| usize::try_from(len).ok());
        let end = start.saturating_add(len.unwrap_or(0)).min(rest.len());
        (good, rest.slice(start..end))
    }

    /// What stands in the file in place of records, if they are encoded.
    fn encoded(&mut self, body: &[u8], offset: u64, flags: u16) {
        let start = offset + batch::HEADER_BYTES as u64;
        if flags & ENCRYPTED != 0 {
            let text = body.len().saturating_sub(NONCE_BYTES + TAG_BYTES);
            self.fixed(
                body,
                start,
                &[
                    (0, NONCE_BYTES, "nonce", Show::Bytes),
                    (NONCE_BYTES, text, "encrypted", Show::Length),
                    (NONCE_BYTES + text, TAG_BYTES, "tag", Show::Bytes),
                ],
            );
        } else if flags & COMPRESSED != 0 {
            let frame = body.len().saturating_sub(4);
            self.fixed(
                body,
                start,
                &[
                    (0, 4, "records_len", Show::Number),
                    (4, frame, "zstd frame", Show::Length),
                ],
            );
        }
    }

    fn batch(&mut self, source: &Source, segment: &SegmentFile, offset: u64) -> bool {
        let (good, body) = self.batch_header(&segment.bytes, offset);
        let start = offset + batch::HEADER_BYTES as u64;
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let flags = segment
            .bytes
            .get(at..)
            .and_then(|header| number(header, 28, 2))
            .and_then(|flags| u16::try_from(flags).ok())
            .unwrap_or(0);
        if flags & MARK != 0 {
            self.fixed(&body, start, &[(0, 8, "reserved_end", Show::Number)]);
            return good;
        }
        if flags & LOST != 0 {
            let reason = String::from_utf8_lossy(&body).into_owned();
            self.row(start, &body, "reason", reason);
            return good;
        }
        if flags & (COMPRESSED | ENCRYPTED) == 0 {
            return self.records(&body, Place::File(ByteOffset(start))) && good;
        }
        self.encoded(&body, offset, flags);
        let scanned = segment
            .scan()
            .from(ByteOffset(offset), Sequence::FIRST)
            .next();
        match scanned {
            Some(Scanned::Batch(batch)) if batch.locked => {
                let mut locked = Locked::default();
                locked.add(segment, u64::from(batch.header.count));
                self.row(start, &[], "(locked)", locked.key(source));
                good
            }
            Some(Scanned::Batch(batch)) if batch.offset.0 == offset => {
                let value = format!("{} bytes of records", batch.body.len());
                self.row_at(Place::Decoded(0), &[], "(decoded)", value);
                self.records(&batch.body, Place::Decoded(0)) && good
            }
            _ => {
                self.row(start, &[], "?", "cannot be decoded");
                false
            }
        }
    }

    /// Whether `body`, which stands at `start`, is a run of records and nothing else.
    fn records(&mut self, body: &[u8], start: Place) -> bool {
        let mut at = 0;
        while let Some(frame) = frame_len(&body[at..]) {
            let end = at + frame;
            self.framed(&body[at..end], start.advance(at as u64));
            at = end;
            if !self.whole && at < body.len() {
                let left = body.len() - at;
                let value = format!("{left} more bytes (--whole)");
                self.row_at(start.advance(at as u64), &[], "...", value);
                return true;
            }
        }
        if at < body.len() {
            let place = start.advance(at as u64);
            self.row_at(place, &body[at..], "?", "no framed record");
            return false;
        }
        true
    }

    /// A record with its frame.
    fn framed(&mut self, field: &[u8], place: Place) {
        let Some((len, prefix)) = varint(field.get(1..).unwrap_or_default()) else {
            return;
        };
        self.row_at(
            place,
            &field[..1],
            "records",
            "tag of field 1 of arqon.v1.Deliver",
        );
        self.row_at(
            place.advance(1),
            &field[1..=prefix],
            "  length",
            format!("{len} bytes"),
        );
        let record = &field[1 + prefix..];
        let descriptor = self.record.clone();
        let start = place.advance(1 + prefix as u64);
        let covered = record.len().saturating_sub(5);
        let computed = crc32fast::hash(&record[..covered]);
        self.message(record, start, Some(&descriptor), 1, Some(computed));
    }

    fn message(
        &mut self,
        bytes: &[u8],
        start: Place,
        descriptor: Option<&MessageDescriptor>,
        depth: usize,
        crc: Option<u32>,
    ) {
        let indent = "  ".repeat(depth);
        let mut at = 0;
        while at < bytes.len() {
            let Some((key, value, next)) = field(&bytes[at..]) else {
                self.row_at(
                    start.advance(at as u64),
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
            let here = start.advance(at as u64);
            let whole = &bytes[at..at + next];
            if let Some(inner) = inner {
                let head = next - value.len();
                self.row_at(
                    here,
                    &whole[..head],
                    &name,
                    format!("{} bytes", value.len()),
                );
                self.message(
                    value,
                    here.advance(head as u64),
                    Some(inner),
                    depth + 1,
                    None,
                );
            } else {
                let shown = match (crc, key) {
                    (Some(computed), 0x7d) => compared(value, computed),
                    _ => scalar(key & 7, value, kind.as_ref(), name.trim()),
                };
                self.row_at(here, whole, &name, shown);
            }
            at += next;
        }
    }

    fn to_text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                let zeros = row.bytes.iter().all(|&byte| byte == 0);
                let all = self.whole && !zeros;
                let shown = if all || row.bytes.len() <= SHOWN_BYTES {
                    hex(&row.bytes)
                } else {
                    let more = row.bytes.len() - SHOWN_BYTES;
                    format!("{}… +{more}", hex(&row.bytes[..SHOWN_BYTES]))
                };
                vec![
                    match row.place {
                        Place::File(offset) => offset.to_string(),
                        Place::Decoded(at) => format!("+{at}"),
                    },
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
                    "offset": row.place.in_file(),
                    "offset_in_body": row.place.in_body(),
                    "bytes": hex(&row.bytes),
                    "field": row.field.trim(),
                    "value": row.value,
                })
            })
            .collect();
        json!({ "rows": rows })
    }
}

/// Flags of a batch, by `docs/log-format.md`.
const MARK: u16 = 1;
const CLOSED: u16 = 2;
const HOLES: u16 = 4;
const COMPRESSED: u16 = 8;
const ENCRYPTED: u16 = 16;
const LOST: u16 = 32;

/// Of an encrypted body.
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Offset, length, name and kind of fields of a segment header.
type Fields = &'static [(usize, usize, &'static str, Show)];

const FIELDS_OF_ALL_VERSIONS: Fields = &[
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
];

const FIELDS_V1: Fields = &[(88, 36, "(reserved)", Show::Bytes)];

const FIELDS: Fields = &[
    (88, 4, "flags", Show::SegmentFlags),
    (92, 4, "generation", Show::Number),
    (96, 4, "sealed_root", Show::Checksum),
    (100, 4, "(reserved)", Show::Bytes),
    (104, 8, "end", Show::Number),
    (112, 16, "salt", Show::Bytes),
    (128, 16, "origin log_id", Show::Bytes),
    (144, 8, "origin end", Show::Number),
    (152, 100, "(reserved)", Show::Bytes),
];

/// How a field of a fixed place is shown.
#[derive(Clone, Copy)]
enum Show {
    Number,
    Checksum,
    Time,
    Bytes,
    Text,
    /// How many.
    Length,
    SegmentFlags,
    BatchFlags,
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
            Self::Length => format!("{} bytes", bytes.len()),
            Self::SegmentFlags => segment_flags(value),
            Self::BatchFlags => batch_flags(u16::try_from(value).unwrap_or(u16::MAX)),
        }
    }
}

fn segment_flags(flags: u64) -> String {
    let mut words = Vec::new();
    if flags & 1 != 0 {
        words.push("rewritten".to_owned());
    }
    if flags & 2 != 0 {
        words.push("compressed".to_owned());
    }
    if flags & !3 != 0 {
        words.push(format!("unknown: {:#x}", flags & !3));
    }
    if words.is_empty() {
        words.push("none".to_owned());
    }
    words.join(", ")
}

/// What a batch is, by its flags.
pub(crate) fn batch_flags(flags: u16) -> String {
    let kind = match (flags & (MARK | CLOSED), flags & LOST) {
        (0, 0) => "records",
        (0, _) => "lost records",
        (MARK, 0) => "mark",
        (_, 0) if flags & MARK != 0 => "mark of a clean close",
        _ => "no flags that a writer sets",
    };
    let mut words = vec![kind.to_owned()];
    let rest = [
        (HOLES, "holes"),
        (COMPRESSED, "compressed"),
        (ENCRYPTED, "encrypted"),
    ];
    for (_, word) in rest.iter().filter(|(flag, _)| flags & flag != 0) {
        words.push((*word).to_owned());
    }
    let unknown = flags & !(MARK | CLOSED | HOLES | COMPRESSED | ENCRYPTED | LOST);
    if unknown != 0 {
        words.push(format!("unknown: {unknown:#x}"));
    }
    words.join(", ")
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
