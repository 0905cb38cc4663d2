//! `logdump stats`: how much of what, how fast, how well packed.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::ops::ControlFlow;
use std::path::PathBuf;

use arqonbus::proto::determinism::HistoryHash;
use arqonbus::proto::json::micros;
use arqonbus::proto::view::RecordView;
use serde_json::{Value, json};

use crate::cat::{is_wanted, no_records};
use crate::failure::Outcome;
use crate::select::Selection;
use crate::table::{counted, printable, ratio, size, table};
use crate::walk::Found;
use crate::{Common, Output, source, table, walk};

/// Count records, bytes and rates per topic, sizes, batches and duplicate ids
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump stats data/dev/main
  logdump stats data/dev/main --hash
  logdump stats data --topic 'quake.>' --from 2018-02-01T00:00:00Z --output json")]
pub(crate) struct Arguments {
    /// Log directories, data directories, segment files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    selection: Selection,

    /// Hash what is counted too, as `arqon reality hash` does: equal histories, equal hashes
    #[arg(long)]
    hash: bool,
}

#[derive(Default)]
struct Topic {
    records: u64,
    bytes: u64,
    payload_bytes: u64,
    first: u64,
    last: u64,
}

/// Powers of two: the key is the exclusive upper end.
type Histogram = BTreeMap<u64, u64>;

struct Stats {
    topics: BTreeMap<String, Topic>,
    records: u64,
    /// With framing, without batch headers.
    bytes: u64,
    envelope_bytes: u64,
    /// Batch headers of the batches that were seen.
    header_bytes: u64,
    /// Records of the batches that were seen as they are stored, and as they would be if they were
    /// neither compressed nor encrypted; both with all records of the batch.
    stored_bytes: u64,
    plain_bytes: u64,
    sizes: Histogram,
    batches: u64,
    batch_records: Histogram,
    batch_at: Option<(usize, u64)>,
    in_batch: u64,
    /// Ids as 128 bits of hash: exact enough to find what is worth looking at.
    ids: HashSet<(u64, u64)>,
    hashers: [RandomState; 2],
    duplicates: u64,
    duplicate_examples: Vec<String>,
    undecodable: u64,
    /// Where it is asked for.
    hash: Option<HistoryHash>,
}

const EXAMPLES_MAX: usize = 5;

impl Stats {
    fn new() -> Self {
        Self {
            topics: BTreeMap::new(),
            records: 0,
            bytes: 0,
            envelope_bytes: 0,
            header_bytes: 0,
            stored_bytes: 0,
            plain_bytes: 0,
            sizes: Histogram::new(),
            batches: 0,
            batch_records: Histogram::new(),
            batch_at: None,
            in_batch: 0,
            ids: HashSet::new(),
            hashers: [RandomState::new(), RandomState::new()],
            duplicates: 0,
            duplicate_examples: Vec::new(),
            undecodable: 0,
            hash: None,
        }
    }

    fn add(&mut self, found: &Found<'_>) {
        let record = &found.record;
        let len = record.field.len() as u64;
        let view = RecordView::parse(record.record).ok();
        self.records += 1;
        self.bytes += len;
        *self.sizes.entry(above(len)).or_default() += 1;
        if !self.topics.contains_key(record.topic) {
            let topic = Topic {
                first: record.appended_at.0,
                ..Topic::default()
            };
            self.topics.insert(record.topic.to_owned(), topic);
        }
        if let Some(topic) = self.topics.get_mut(record.topic) {
            topic.records += 1;
            topic.bytes += len;
            topic.last = record.appended_at.0;
            let payload = view
                .as_ref()
                .map_or(0, |view| view.envelope.payload.data().len());
            topic.payload_bytes += payload as u64;
        }
        match &view {
            Some(view) => {
                if let Some(hash) = &mut self.hash {
                    hash.add(view);
                }
                self.envelope_bytes += view.envelope.encoded.len() as u64;
                let id = view.id();
                let hashes = (
                    self.hashers[0].hash_one(&*id),
                    self.hashers[1].hash_one(&*id),
                );
                if !id.is_empty() && !self.ids.insert(hashes) {
                    self.duplicates += 1;
                    if self.duplicate_examples.len() < EXAMPLES_MAX {
                        self.duplicate_examples
                            .push(format!("{id} at {}", record.sequence));
                    }
                }
            }
            None => self.undecodable += 1,
        }
        self.count_in_batch(found);
    }

    fn count_in_batch(&mut self, found: &Found<'_>) {
        let at = found
            .batch
            .map(|batch| (std::ptr::from_ref(found.segment).addr(), batch.offset.0));
        if at != self.batch_at {
            self.end_batch();
            self.batch_at = at;
            if let Some(batch) = found.batch {
                self.stored_bytes += u64::from(batch.header.body_len);
                self.plain_bytes += batch.body.len() as u64;
            }
        }
        self.in_batch += 1;
    }

    fn end_batch(&mut self) {
        if self.batch_at.is_some() && self.in_batch > 0 {
            self.batches += 1;
            self.header_bytes += arqonbus::log::batch::HEADER_BYTES as u64;
            *self.batch_records.entry(above(self.in_batch)).or_default() += 1;
        }
        self.in_batch = 0;
    }
}

/// The smallest power of two above `value`.
fn above(value: u64) -> u64 {
    value
        .saturating_add(1)
        .checked_next_power_of_two()
        .unwrap_or(u64::MAX)
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    no_records(common, "stats")?;
    let sources = source::open(&arguments.paths, common)?;
    let mut outcome = Outcome::Well;
    let mut logs = Vec::new();
    let mut text = String::new();
    for source in &sources {
        // Ids repeat between realities when one is replayed into another: counted per log.
        let mut stats = Stats::new();
        stats.hash = arguments.hash.then(HistoryHash::default);
        let one = std::slice::from_ref(source);
        let ended = walk::records(one, &arguments.selection, |found| {
            if is_wanted(&arguments.selection, found) {
                stats.add(found);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        stats.end_batch();
        if outcome != Outcome::Damaged && ended != Outcome::Well {
            outcome = ended;
        }
        match common.output {
            Output::Json => logs.push(to_json(source, &stats)),
            _ => text.push_str(&to_text(source, &stats)),
        }
    }
    match common.output {
        Output::Json => table::json(&json!({ "logs": logs }))?,
        _ => table::text(&text)?,
    }
    Ok(outcome)
}

impl Topic {
    fn per_second(&self) -> f64 {
        ratio(self.records, self.last - self.first.min(self.last)) * 1e6
    }
}

fn disk_per_envelope(stats: &Stats) -> f64 {
    ratio(stored(stats), stats.envelope_bytes)
}

/// How many times smaller the stored bodies are than what they hold.
fn compression(stats: &Stats) -> f64 {
    ratio(stats.plain_bytes, stats.stored_bytes)
}

/// What all records that were seen take on the disk: of compressed batches, their share of it.
fn stored(stats: &Stats) -> u64 {
    if stats.stored_bytes == stats.plain_bytes {
        return stats.bytes + stats.header_bytes;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a share, shown with a few digits"
    )]
    let share = (stats.bytes as f64 * ratio(stats.stored_bytes, stats.plain_bytes)) as u64;
    share + stats.header_bytes
}

fn to_text(source: &source::Source, stats: &Stats) -> String {
    let mut topics: Vec<_> = stats.topics.iter().collect();
    topics.sort_by_key(|(_, topic)| std::cmp::Reverse(topic.records));
    let rows: Vec<Vec<String>> = topics
        .iter()
        .map(|(name, topic)| {
            vec![
                printable(name),
                topic.records.to_string(),
                size(topic.bytes),
                size(topic.payload_bytes),
                format!("{:.1}", topic.per_second()),
                micros(topic.first),
                micros(topic.last),
            ]
        })
        .collect();
    let mut text = format!("{}/{}\n", source.tenant, source.reality);
    text.push_str(&table(
        &[
            "TOPIC",
            "#RECORDS",
            "#BYTES",
            "#PAYLOAD",
            "#PER_SECOND",
            "FROM",
            "TO",
        ],
        &rows,
    ));
    text.push_str(&format!(
        "\n{} in {} ({:.1} a batch); {} on disk for {} of envelopes ({:.3} per byte)\n",
        counted(stats.records, "record", "records"),
        counted(stats.batches, "batch", "batches"),
        ratio(stats.records, stats.batches),
        size(stored(stats)),
        size(stats.envelope_bytes),
        disk_per_envelope(stats),
    ));
    if stats.stored_bytes != stats.plain_bytes {
        text.push_str(&format!(
            "bodies: {} stored for {} of records (compression {:.2})\n",
            size(stats.stored_bytes),
            size(stats.plain_bytes),
            compression(stats),
        ));
    }
    text.push_str(&format!("ids that occur again: {}\n", stats.duplicates));
    for example in &stats.duplicate_examples {
        text.push_str(&format!("  {}\n", printable(example)));
    }
    if let Some(hash) = &stats.hash {
        let (records, hash) = (hash.records(), hash.text());
        text.push_str(&format!("sha256 of {records} records: {hash}\n"));
    }
    if stats.undecodable > 0 {
        text.push_str(&format!(
            "records that cannot be decoded: {}\n",
            stats.undecodable
        ));
    }
    text.push_str(&bars("\nbytes of a record", &stats.sizes));
    text.push_str(&bars("\nrecords of a batch", &stats.batch_records));
    text.push('\n');
    text
}

fn bars(title: &str, histogram: &Histogram) -> String {
    let most = histogram.values().copied().max().unwrap_or(0);
    let mut text = format!("{title}\n");
    for (end, count) in histogram {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 40"
        )]
        let width = (ratio(*count, most) * 40.0).ceil() as usize;
        let first = end / 2;
        text.push_str(&format!(
            "{first:>10}.. {count:>10} {}\n",
            "#".repeat(width)
        ));
    }
    text
}

fn to_json(source: &source::Source, stats: &Stats) -> Value {
    let topics: Vec<Value> = stats
        .topics
        .iter()
        .map(|(name, topic)| {
            json!({
                "topic": name,
                "records": topic.records,
                "bytes": topic.bytes,
                "payload_bytes": topic.payload_bytes,
                "records_per_s": topic.per_second(),
                "first_appended_at": micros(topic.first),
                "last_appended_at": micros(topic.last),
            })
        })
        .collect();
    let histogram = |histogram: &Histogram| -> Vec<Value> {
        histogram
            .iter()
            .map(|(end, count)| json!({ "from": end / 2, "below": end, "count": count }))
            .collect()
    };
    json!({
        "path": source.log.path.display().to_string(),
        "tenant": source.tenant,
        "reality": source.reality,
        "records": stats.records,
        "batches": stats.batches,
        "records_per_batch": ratio(stats.records, stats.batches),
        "bytes": stored(stats),
        "record_bytes_total": stats.bytes,
        "stored_body_bytes": stats.stored_bytes,
        "plain_body_bytes": stats.plain_bytes,
        "compression": compression(stats),
        "envelope_bytes": stats.envelope_bytes,
        "bytes_per_envelope_byte": disk_per_envelope(stats),
        "duplicate_ids": stats.duplicates,
        "duplicate_examples": stats.duplicate_examples,
        "undecodable": stats.undecodable,
        "hashed_records": stats.hash.as_ref().map(HistoryHash::records),
        "sha256": stats.hash.as_ref().map(HistoryHash::text),
        "topics": topics,
        "record_bytes": histogram(&stats.sizes),
        "batch_records": histogram(&stats.batch_records),
    })
}
