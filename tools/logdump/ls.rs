//! `logdump ls`: which segments there are, what is in them, and how they are.

use std::collections::HashMap;
use std::path::PathBuf;

use arqonbus::log::offline::{self, Forecast, IndexCheck, SegmentFile};
use arqonbus::log::scan::Scanned;
use arqonbus::log::segment::Origin;
use arqonbus::log::{Damage, Micros, RealStorage, RecordRef, Sequence};
use arqonbus::proto::json::micros;
use serde_json::{Value, json};

use crate::cat::no_records;
use crate::failure::Outcome;
use crate::locked::{Lock, Locked};
use crate::source::{self, Source};
use crate::table::{counted, printable, ratio, size, table};
use crate::{Common, Output, table, walk};

/// List segments with sequences, times, sizes, topics and health
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump ls data
  logdump ls data/dev/main --topics 10 --output json")]
pub(crate) struct Arguments {
    /// Log directories, data directories, segment files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Topics to name for each segment, those with most records first
    #[arg(long, value_name = "N", default_value_t = 3)]
    topics: usize,
}

/// What one segment holds.
#[derive(Default)]
struct Contents {
    records: u64,
    batches: u64,
    bounds: Option<(Sequence, Sequence)>,
    times: Option<(Micros, Micros)>,
    used: u64,
    topics: HashMap<String, u64>,
    damages: Vec<(u64, Damage)>,
    closed: bool,
    /// Bodies of records as they are stored, and decoded.
    stored: u64,
    plain: u64,
    /// Sequences that are lost, each range with its story.
    lost: Vec<String>,
    /// Sequences that no key is at hand for.
    locked: u64,
}

impl Contents {
    fn of(segment: &SegmentFile) -> Self {
        let mut contents = Self::default();
        if let Some(damage) = &segment.header_damage
            && !segment.header_from_copy
        {
            contents.damages.push((0, damage.clone()));
        }
        for scanned in segment.scan() {
            match &scanned {
                Scanned::Batch(batch) => {
                    contents.used = batch.offset.0 + batch.header.file_len();
                    contents.closed = batch.header.is_close();
                    contents.batches += u64::from(!batch.header.is_mark());
                    if let Some(lost) = walk::lost(segment, batch) {
                        contents.lost.push(lost);
                    } else if batch.locked {
                        contents.locked += u64::from(batch.header.count);
                    } else if !batch.header.is_mark() {
                        contents.stored += u64::from(batch.header.body_len);
                        contents.plain += batch.body.len() as u64;
                    }
                    batch.records().for_each(|record| contents.add(&record));
                }
                Scanned::Damaged(region) => {
                    contents.used = region.range.end;
                    contents.closed = false;
                    contents
                        .damages
                        .push((region.range.start, region.damage.clone()));
                    region
                        .salvaged()
                        .for_each(|(_, record)| contents.add(&record));
                }
                Scanned::End(_) => {}
            }
        }
        contents
    }

    fn add(&mut self, record: &RecordRef<'_>) {
        self.records += 1;
        let (sequence, time) = (record.sequence, record.appended_at);
        self.bounds = Some((self.bounds.map_or(sequence, |(first, _)| first), sequence));
        self.times = Some((self.times.map_or(time, |(first, _)| first), time));
        match self.topics.get_mut(record.topic) {
            Some(count) => *count += 1,
            None => drop(self.topics.insert(record.topic.to_owned(), 1)),
        }
    }

    fn top(&self, count: usize) -> Vec<(&str, u64)> {
        let mut topics: Vec<_> = self
            .topics
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .collect();
        topics.sort_unstable_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
        topics.truncate(count);
        topics
    }
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    no_records(common, "ls")?;
    let sources = source::open(&arguments.paths, common)?;
    let mut outcome = Outcome::Well;
    let mut logs = Vec::new();
    let mut text = String::new();
    for source in &sources {
        let listing = Listing::of(source)?;
        if listing.is_damaged() {
            outcome = Outcome::Damaged;
        }
        match common.output {
            Output::Json => logs.push(listing.to_json(arguments.topics)),
            _ => text.push_str(&listing.to_text(arguments.topics)),
        }
    }
    match common.output {
        Output::Json => table::json(&json!({ "logs": logs }))?,
        _ => table::text(&text)?,
    }
    Ok(outcome)
}

struct Listing<'a> {
    source: &'a Source,
    contents: Vec<Contents>,
    indexes: Vec<IndexCheck>,
    forecast: Option<Forecast>,
}

impl<'a> Listing<'a> {
    fn of(source: &'a Source) -> anyhow::Result<Self> {
        let segments = &source.log.segments;
        let contents: Vec<Contents> = segments.iter().map(Contents::of).collect();
        let indexes: Result<Vec<_>, _> = segments
            .iter()
            .map(|segment| segment.check_index(&RealStorage))
            .collect();
        let forecast = offline::forecast(&RealStorage, &source.log);
        Ok(Self {
            source,
            contents,
            indexes: indexes?,
            forecast,
        })
    }

    /// Whether a bad place is only what a crash leaves.
    fn is_torn(&self, at: usize, offset: u64) -> bool {
        at + 1 == self.contents.len()
            && self.forecast.as_ref().is_some_and(|forecast| {
                forecast.is_torn()
                    && forecast
                        .cut
                        .as_ref()
                        .is_some_and(|cut| cut.contains(&offset))
            })
    }

    fn is_damaged(&self) -> bool {
        self.contents.iter().enumerate().any(|(at, contents)| {
            contents
                .damages
                .iter()
                .any(|(offset, _)| !self.is_torn(at, *offset))
        })
    }

    fn health(&self, at: usize) -> &'static str {
        let damages = &self.contents[at].damages;
        if damages.iter().any(|(offset, _)| !self.is_torn(at, *offset)) {
            return "damaged";
        }
        if !damages.is_empty() {
            return "torn tail";
        }
        if self.source.log.segments[at].is_locked() {
            return "encrypted";
        }
        if self.source.log.segments[at].header_from_copy {
            return "bad header";
        }
        match &self.indexes[at] {
            IndexCheck::Damaged(_) | IndexCheck::Differs(_) => "bad index",
            IndexCheck::Missing
            | IndexCheck::Locked
            | IndexCheck::Outdated
            | IndexCheck::Agrees(_) => "good",
        }
    }

    fn state(&self, at: usize) -> &'static str {
        match (at + 1 == self.contents.len(), self.contents[at].closed) {
            (false, _) => "sealed",
            (true, true) => "closed",
            (true, false) => "active",
        }
    }

    /// What was done to the segment, in words.
    fn flags(&self, at: usize) -> Vec<String> {
        let contents = &self.contents[at];
        let mut words = Vec::new();
        let Some(header) = &self.source.log.segments[at].header else {
            return words;
        };
        if header.is_rewritten() {
            words.push(format!("rewritten {}", header.generation));
        }
        if header.is_compressed() {
            words.push(if contents.stored > 0 {
                let times = ratio(contents.plain, contents.stored);
                format!("compressed {times:.2}")
            } else {
                "compressed".to_owned()
            });
        }
        if header.is_encrypted() {
            words.push(format!("key {}", table::hex(&header.key_id)));
        }
        if let Some(origin) = header.origin {
            let parent = table::hex(&origin.log_id);
            words.push(format!("fork of {parent} at {}", origin.end));
        }
        words
    }

    fn to_text(&self, topics: usize) -> String {
        let Source {
            tenant,
            reality,
            log,
            ..
        } = self.source;
        let mut rows = Vec::new();
        for (at, (segment, contents)) in log.segments.iter().zip(&self.contents).enumerate() {
            let (first, last) = contents.bounds.map_or_else(
                || (segment.base.to_string(), "-".to_owned()),
                |(first, last)| (first.to_string(), last.to_string()),
            );
            let time = |time: Option<Micros>| {
                time.map_or_else(|| "-".to_owned(), |time| shorter(&micros(time.0)))
            };
            let top: Vec<String> = contents
                .top(topics)
                .into_iter()
                .map(|(name, count)| format!("{} {count}", printable(name)))
                .collect();
            rows.push(vec![
                file_name(segment),
                first,
                last,
                contents.records.to_string(),
                time(contents.times.map(|(first, _)| first)),
                time(contents.times.map(|(_, last)| last)),
                size(segment.bytes.len() as u64),
                size(contents.used),
                self.state(at).to_owned(),
                self.health(at).to_owned(),
                self.flags(at).join(", "),
                top.join(", "),
            ]);
        }
        let mut text = format!("{tenant}/{reality} in {}\n", log.path.display());
        if let Some(origin) = self.origin() {
            let (log_id, last) = (table::hex(&origin.log_id), origin.end.get() - 1);
            text.push_str(&format!("fork of log {log_id} at sequence {last}\n"));
        }
        text.push_str(&table(
            &[
                "SEGMENT", "#FIRST", "#LAST", "#RECORDS", "FROM", "TO", "#SIZE", "#USED", "STATE",
                "HEALTH", "FLAGS", "TOPICS",
            ],
            &rows,
        ));
        let records: u64 = self.contents.iter().map(|contents| contents.records).sum();
        let used: u64 = self.contents.iter().map(|contents| contents.used).sum();
        text.push_str(&format!(
            "{}, {}, {} used of {}",
            counted(log.segments.len() as u64, "segment", "segments"),
            counted(records, "record", "records"),
            size(used),
            size(self.source.bytes()),
        ));
        if let Some(prepared) = log.prepared {
            text.push_str(&format!(", and {} prepared for the next", size(prepared)));
        }
        text.push('\n');
        for line in self.problems() {
            text.push_str(&line);
            text.push('\n');
        }
        text.push('\n');
        text
    }

    /// Where the log left its parent, if it is a fork.
    fn origin(&self) -> Option<Origin> {
        let last = self.source.log.segments.last()?;
        last.header.as_ref()?.origin
    }

    fn problems(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut locked = Locked::default();
        for (at, contents) in self.contents.iter().enumerate() {
            for (offset, damage) in &contents.damages {
                let kind = if self.is_torn(at, *offset) {
                    "torn tail: "
                } else {
                    ""
                };
                lines.push(format!("{kind}{damage}"));
            }
            let segment = &self.source.log.segments[at];
            if let Some(damage) = segment
                .header_damage
                .as_ref()
                .filter(|_| segment.header_from_copy)
            {
                lines.push(format!("{damage}; the copy is good, a node puts it back"));
            }
            lines.extend(contents.lost.iter().cloned());
            if contents.locked > 0 {
                locked.add(segment, contents.locked);
            }
            match &self.indexes[at] {
                IndexCheck::Damaged(damage) => lines.push(damage.to_string()),
                IndexCheck::Differs(damage) if contents.damages.is_empty() => {
                    lines.push(damage.to_string());
                }
                IndexCheck::Differs(_)
                | IndexCheck::Missing
                | IndexCheck::Locked
                | IndexCheck::Outdated
                | IndexCheck::Agrees(_) => {}
            }
        }
        let keys_damage = self.source.lock.as_ref().and_then(Lock::damage);
        lines.extend(
            locked
                .notice(self.source)
                .or_else(|| keys_damage.map(ToString::to_string)),
        );
        for copy in &self.source.log.quarantined {
            lines.push(format!("quarantine: {}", copy.display()));
        }
        for loss in &self.source.log.losses {
            lines.push(format!("loss statement: {}", loss.display()));
        }
        lines
    }

    fn to_json(&self, topics: usize) -> Value {
        let Source {
            tenant,
            reality,
            log,
            ..
        } = self.source;
        let segments: Vec<Value> = log
            .segments
            .iter()
            .zip(&self.contents)
            .enumerate()
            .map(|(at, (segment, contents))| {
                let top: serde_json::Map<String, Value> = contents
                    .top(topics)
                    .into_iter()
                    .map(|(name, count)| (name.to_owned(), count.into()))
                    .collect();
                json!({
                    "file": segment.path.display().to_string(),
                    "base": segment.base.get(),
                    "log_id": segment.header.as_ref().map(|header| table::hex(&header.log_id)),
                    "first": contents.bounds.map(|(first, _)| first.get()),
                    "last": contents.bounds.map(|(_, last)| last.get()),
                    "records": contents.records,
                    "batches": contents.batches,
                    "first_appended_at": contents.times.map(|(first, _)| micros(first.0)),
                    "last_appended_at": contents.times.map(|(_, last)| micros(last.0)),
                    "size_bytes": segment.bytes.len(),
                    "used_bytes": contents.used,
                    "state": self.state(at),
                    "health": self.health(at),
                    "log_id": segment.header.as_ref().map(|header| table::hex(&header.log_id)),
                    "rewritten": segment.header.as_ref().is_some_and(|h| h.is_rewritten()),
                    "generation": segment.header.as_ref().map(|header| header.generation),
                    "compression": segment
                        .header
                        .as_ref()
                        .filter(|header| header.is_compressed() && contents.stored > 0)
                        .map(|_| ratio(contents.plain, contents.stored)),
                    "key_id": segment
                        .header
                        .as_ref()
                        .filter(|header| header.is_encrypted())
                        .map(|header| table::hex(&header.key_id)),
                    "origin": segment.header.as_ref().and_then(|header| header.origin).map(
                        |origin| json!({
                            "log_id": table::hex(&origin.log_id),
                            "end": origin.end.get(),
                        })
                    ),
                    "lost_ranges": contents.lost.len(),
                    "locked_sequences": contents.locked,
                    "index": index_word(&self.indexes[at]),
                    "topics": top,
                })
            })
            .collect();
        json!({
            "path": log.path.display().to_string(),
            "tenant": tenant,
            "reality": reality,
            "fork": self.origin().map(|origin| json!({
                "log_id": table::hex(&origin.log_id),
                "at": origin.end.get() - 1,
            })),
            "segments": segments,
            "prepared_bytes": log.prepared,
            "quarantined": log
                .quarantined
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>(),
            "problems": self.problems(),
        })
    }
}

pub(crate) fn index_word(check: &IndexCheck) -> &'static str {
    match check {
        IndexCheck::Missing => "missing",
        IndexCheck::Locked => "encrypted",
        IndexCheck::Outdated => "outdated",
        IndexCheck::Damaged(_) => "damaged",
        IndexCheck::Differs(_) => "differs",
        IndexCheck::Agrees(_) => "good",
    }
}

pub(crate) fn file_name(segment: &SegmentFile) -> String {
    segment
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// A time to the millisecond.
fn shorter(time: &str) -> String {
    time.get(..23)
        .map_or_else(|| time.to_owned(), |time| format!("{time}Z"))
}
