//! `logdump verify`: everything about a log that can be checked, checked.

use std::path::PathBuf;

use arqonbus::log::batch::HEADER_BYTES;
use arqonbus::log::offline::{self, Forecast, IndexCheck, SegmentFile, SegmentIndex};
use arqonbus::log::scan::{Batch, DamagedRegion, Scanned};
use arqonbus::log::segment::SegmentHeader;
use arqonbus::log::{ByteOffset, Damage, Micros, RealStorage, RecordRef, Sequence};
use arqonbus::proto::view::RecordView;
use serde_json::{Value, json};

use crate::cat::no_records;
use crate::failure::Outcome;
use crate::progress::Progress;
use crate::source::{self, Source};
use crate::table::{ratio, size};
use crate::{Common, Output, table};

/// Check every checksum, the chain, sequences, times, clocks and indexes
///
/// One line per finding: file, byte offset, what was expected and what is there.
///
/// A torn tail is what a crash leaves: bytes at the end of the last segment of which nothing says
/// that they had been flushed. Nothing acknowledged as synced is in them and a node cuts them off,
/// so they are a notice, not damage, and the exit code stays 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump verify data && echo well
  logdump verify data/dev/main --output json")]
pub(crate) struct Arguments {
    /// Log directories, data directories, segment files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    no_records(common, "verify")?;
    let sources = source::open(&arguments.paths, common)?;
    let mut progress = Progress::of_bytes(sources.iter().map(Source::bytes).sum());
    let began = std::time::Instant::now();
    let mut reports = Vec::new();
    for source in &sources {
        let mut check = Check::new(source);
        check.log(&mut progress)?;
        reports.push(check.report);
    }
    drop(progress);
    let damaged = reports.iter().any(|report| !report.findings.is_empty());
    match common.output {
        Output::Json => {
            let logs: Vec<Value> = sources
                .iter()
                .zip(&reports)
                .map(|(source, report)| report.to_json(source))
                .collect();
            table::json(&json!({ "ok": !damaged, "logs": logs }))?;
        }
        _ => {
            let mut text = String::new();
            for (source, report) in sources.iter().zip(&reports) {
                text.push_str(&report.to_text(source));
            }
            let bytes: u64 = sources.iter().map(Source::bytes).sum();
            let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            let rate = ratio(bytes, micros) / 1e3;
            text.push_str(&format!("{} checked, {rate:.2} GB/s\n", size(bytes)));
            table::text(&text)?;
        }
    }
    Ok(if damaged {
        Outcome::Damaged
    } else {
        Outcome::Well
    })
}

#[derive(Default)]
struct Report {
    findings: Vec<Damage>,
    notices: Vec<String>,
    batches: u64,
    marks: u64,
    records: u64,
}

impl Report {
    fn to_text(&self, source: &Source) -> String {
        let mut text = String::new();
        for Damage {
            path,
            offset,
            what,
            expected,
            found,
        } in &self.findings
        {
            let path = path.display();
            text.push_str(&format!(
                "{path}: byte {offset}: {what}: expected {expected}, found {found}\n"
            ));
        }
        for notice in &self.notices {
            text.push_str(&format!("notice: {notice}\n"));
        }
        let verdict = match self.findings.len() {
            0 => "well".to_owned(),
            1 => "DAMAGED, 1 finding".to_owned(),
            count => format!("DAMAGED, {count} findings"),
        };
        text.push_str(&format!(
            "{}/{}: {verdict}; {} segments, {} batches, {} marks, {} records\n",
            source.tenant,
            source.reality,
            source.log.segments.len(),
            self.batches,
            self.marks,
            self.records,
        ));
        text
    }

    fn to_json(&self, source: &Source) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(
                |Damage {
                     path,
                     offset,
                     what,
                     expected,
                     found,
                 }| {
                    json!({
                        "file": path.display().to_string(),
                        "offset": offset.0,
                        "what": what,
                        "expected": expected,
                        "found": found,
                    })
                },
            )
            .collect();
        json!({
            "path": source.log.path.display().to_string(),
            "tenant": source.tenant,
            "reality": source.reality,
            "ok": self.findings.is_empty(),
            "segments": source.log.segments.len(),
            "bytes": source.bytes(),
            "batches": self.batches,
            "marks": self.marks,
            "records": self.records,
            "locked_segments": source.log.segments.iter().filter(|s| s.is_locked()).count(),
            "findings": findings,
            "notices": self.notices,
        })
    }
}

/// What is known where the check stands.
struct Check<'a> {
    source: &'a Source,
    forecast: Option<Forecast>,
    report: Report,
    /// End of the sequences so far; `None` before the first segment.
    end: Option<Sequence>,
    time: Micros,
    epoch: u32,
    /// The segment before, and where its batches end.
    previous_end: Option<(PathBuf, ByteOffset)>,
    /// `chain` that goes on in the next segment; `None` behind damage.
    root: Option<u32>,
    undecodable: u64,
}

impl<'a> Check<'a> {
    fn new(source: &'a Source) -> Self {
        Self {
            source,
            forecast: offline::forecast(&RealStorage, &source.log),
            report: Report::default(),
            end: None,
            previous_end: None,
            time: Micros(0),
            epoch: 0,
            root: None,
            undecodable: 0,
        }
    }

    fn log(&mut self, progress: &mut Progress) -> anyhow::Result<()> {
        let log = &self.source.log;
        let mut before: Option<&SegmentHeader> = None;
        for segment in &log.segments {
            let found_before = self.report.findings.len();
            if let Some(header) = &segment.header {
                self.header(segment, header, before);
                before = Some(header);
            }
            let stored = segment.stored_index(&RealStorage)?;
            let mut built = stored.begin(segment);
            self.segment(segment, &mut built);
            let is_good = self.report.findings.len() == found_before;
            self.index(stored.check(&built), is_good);
            progress.add(segment.bytes.len() as u64);
        }
        self.what_recovery_misses();
        self.report.findings.extend(self.source.keys_damage.clone());
        if let Some(why) = &self.source.locked {
            let count = log.segments.iter().filter(|s| s.is_locked()).count();
            self.report.notices.push(format!(
                "{count} segments are encrypted: their checksums and chains were checked, their \
                 contents were not; {why}"
            ));
        }
        if self.undecodable > 0 {
            let count = self.undecodable;
            self.report.notices.push(format!(
                "{count} records are intact but are not records of this protocol version"
            ));
        }
        for loss in &log.losses {
            self.report
                .notices
                .push(format!("loss statement: {}", loss.display()));
        }
        Ok(())
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "numbers and texts, whichever is at hand"
    )]
    fn finding(
        &mut self,
        segment: &SegmentFile,
        offset: u64,
        what: &'static str,
        expected: impl ToString,
        found: impl ToString,
    ) {
        self.report.findings.push(Damage {
            path: segment.path.clone(),
            offset: ByteOffset(offset),
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        });
    }

    /// The header against the segment before it. Offsets are those of `docs/log-format.md`.
    fn header(
        &mut self,
        segment: &SegmentFile,
        header: &SegmentHeader,
        before: Option<&SegmentHeader>,
    ) {
        let len = segment.bytes.len() as u64;
        if len != header.capacity {
            let (expected, found) = (format!("{} bytes", header.capacity), format!("{len} bytes"));
            self.finding(
                segment,
                len.min(header.capacity),
                "file length",
                expected,
                found,
            );
        }
        let previous_root = match self.end {
            None if header.base == Sequence::FIRST => Some(0),
            None => None,
            Some(_) => self.root,
        };
        if let Some(root) = previous_root.filter(|&root| root != header.previous_root) {
            // The header is under its own checksum: what is missing is missing before it.
            let gap = self
                .end
                .filter(|&end| end < header.base)
                .map_or_else(String::new, |end| {
                    format!(" and sequences from {end} to before {}", header.base)
                });
            let damage = Damage {
                path: self
                    .previous_end
                    .as_ref()
                    .map_or(&segment.path, |(path, _)| path)
                    .clone(),
                offset: self
                    .previous_end
                    .as_ref()
                    .map_or(ByteOffset(44), |&(_, end)| end),
                what: "end of the segment",
                expected: format!("chain {}{gap}", hex(header.previous_root)),
                found: format!("chain {} and the end", hex(root)),
            };
            self.report.findings.push(damage);
        }
        // Only a fork goes on in another log's directory, and its own segments say where.
        let forked_from = header
            .origin
            .filter(|origin| origin.end <= header.base)
            .map(|origin| origin.log_id);
        if let Some(before) = before.filter(|before| before.log_id != header.log_id)
            && forked_from != Some(before.log_id)
        {
            let (expected, found) = (table::hex(&before.log_id), table::hex(&header.log_id));
            self.finding(segment, 16, "log id", expected, found);
        }
        if let Some(end) = self.end.filter(|&end| header.base < end) {
            self.finding(
                segment,
                32,
                "base sequence",
                format!("{end} or later"),
                header.base,
            );
        }
        if header.epoch < self.epoch {
            let expected = format!("{} or later", self.epoch);
            self.finding(segment, 40, "epoch", expected, header.epoch);
        }
        if header.created_at < self.time {
            let expected = format!("{} or later", self.time.0);
            self.finding(segment, 48, "creation time", expected, header.created_at.0);
        }
        self.time = self.time.max(header.created_at);
    }

    /// Checks the segment and, in the same pass, fills the index that it implies.
    fn segment(&mut self, segment: &SegmentFile, index: &mut SegmentIndex) {
        if let Some(damage) = &segment.header_damage {
            self.report.findings.push(damage.clone());
        }
        if let Some((offset, byte)) = segment.stray_header_byte() {
            let found = format!("{byte:#04x}");
            self.finding(
                segment,
                offset.0,
                "rest of the header block",
                "zeros",
                found,
            );
        }
        self.root = segment.header.as_ref().map(SegmentHeader::chain);
        self.epoch = segment
            .header
            .as_ref()
            .map_or(self.epoch, |header| header.epoch);
        let mut expected = segment.base;
        let mut behind_damage = segment.header.is_none();
        for scanned in segment.scan() {
            index.add(&scanned);
            match &scanned {
                Scanned::Batch(batch) => {
                    self.batch(segment, batch, expected, behind_damage);
                    expected = batch.header.end();
                    behind_damage = false;
                }
                Scanned::Damaged(region) => {
                    self.bad_region(segment, region);
                    self.report.records += region.salvaged().count() as u64;
                    behind_damage = true;
                    self.root = None;
                }
                Scanned::End(end) => self.previous_end = Some((segment.path.clone(), *end)),
            }
        }
        if let Some(header) = segment.header.as_ref().filter(|_| is_rewritten(segment)) {
            // Its successor follows what it was before.
            self.root = Some(header.sealed_root);
            expected = expected.max(Sequence::at_least_first(header.end));
        }
        self.end = Some(self.end.map_or(expected, |end| end.max(expected)));
        if let Some(header) = segment
            .header
            .as_ref()
            .filter(|header| header.is_rewritten())
        {
            // Its successor names the root that it had when it was sealed.
            self.root = self.root.map(|_good| header.sealed_root);
        }
    }

    fn bad_region(&mut self, segment: &SegmentFile, region: &DamagedRegion) {
        let torn = self.is_last(segment)
            && self.forecast.as_ref().is_some_and(|forecast| {
                let cut = forecast.cut.as_ref();
                forecast.is_torn() && cut.is_some_and(|cut| cut.contains(&region.range.start))
            });
        if !torn {
            self.report.findings.push(region.damage.clone());
            return;
        }
        let path = segment.path.display();
        let (start, end) = (region.range.start, region.range.end);
        let damage = &region.damage;
        self.report.notices.push(format!(
            "torn tail: {path}: bytes {start}..{end} ({}: expected {}, found {}): nothing says that \
             they had been flushed; a node would cut them off (see logdump recover)",
            damage.what, damage.expected, damage.found,
        ));
    }

    fn is_last(&self, segment: &SegmentFile) -> bool {
        self.source
            .log
            .segments
            .last()
            .is_some_and(|last| std::ptr::eq(last, segment))
    }

    fn batch(
        &mut self,
        segment: &SegmentFile,
        batch: &Batch,
        expected: Sequence,
        behind_damage: bool,
    ) {
        let header = &batch.header;
        let at = batch.offset.0;
        // What was written again keeps its sequences, and some have no record any more.
        if header.base > expected && !behind_damage && !is_rewritten(segment) {
            if header.epoch > self.epoch {
                let last = header.base.previous().unwrap_or(expected);
                self.report.notices.push(format!(
                    "{}: byte {at}: sequences {expected}..={last} were skipped when epoch {} began",
                    segment.path.display(),
                    header.epoch,
                ));
            } else {
                self.finding(segment, at + 16, "base sequence", expected, header.base);
            }
        }
        if header.appended_at < self.time && !behind_damage {
            let expected = format!("{} or later", self.time.0);
            self.finding(
                segment,
                at + 32,
                "time of the batch",
                expected,
                header.appended_at.0,
            );
        }
        if header.durable_through >= header.base.get() {
            let expected = format!("below {}", header.base);
            self.finding(
                segment,
                at + 48,
                "durable mark",
                expected,
                header.durable_through,
            );
        }
        self.time = self.time.max(header.appended_at);
        self.epoch = header.epoch;
        self.root = Some(batch.next_chain);
        if header.is_mark() {
            self.report.marks += 1;
            if batch.reserved_end().is_none() {
                let found = format!("{} bytes", header.body_len);
                self.finding(
                    segment,
                    at + HEADER_BYTES as u64,
                    "body of a mark",
                    "8 bytes",
                    found,
                );
            }
            return;
        }
        self.report.batches += 1;
        if let Some(reason) = batch.lost() {
            let last = header.end().previous().unwrap_or(header.base);
            self.report.notices.push(format!(
                "{}: byte {at}: sequences {}..={last} were put aside by a repair: {reason}",
                segment.path.display(),
                header.base,
            ));
        } else if !batch.locked {
            // Otherwise the checksum of what is stored is good; that is all that can be said
            // without the key.
            self.records(segment, batch);
        }
    }

    fn records(&mut self, segment: &SegmentFile, batch: &Batch) {
        let header = &batch.header;
        // Records in an encoded body have no place in the file but its own.
        let encoded = header.is_compressed() || header.is_encrypted();
        let start = batch.offset.0 + HEADER_BYTES as u64;
        let mut within = 0;
        let mut sequence = header.base;
        let mut time = header.appended_at;
        for record in batch.records() {
            let at = start + if encoded { 0 } else { within };
            let expected =
                if header.has_holes() && (sequence..header.end()).contains(&record.sequence) {
                    record.sequence
                } else {
                    sequence
                };
            if is_rewritten(segment) {
                time = time.max(record.appended_at);
            }
            self.record(segment, at, expected, time, &record);
            within += record.field.len() as u64;
            sequence = record.sequence.next();
        }
        self.time = self.time.max(time);
        let at = start + if encoded { 0 } else { within };
        if within != batch.body.len() as u64 {
            self.finding(segment, at, "record", "a framed record", "something else");
        } else if sequence != header.end() && !header.has_holes() {
            let found = sequence.since(header.base);
            self.finding(
                segment,
                batch.offset.0 + 24,
                "count of records",
                header.count,
                found,
            );
        }
    }

    fn record(
        &mut self,
        segment: &SegmentFile,
        at: u64,
        sequence: Sequence,
        time: Micros,
        record: &RecordRef<'_>,
    ) {
        self.report.records += 1;
        let (stored, computed) = record.checksums();
        if stored != computed {
            let last = at + record.field.len() as u64 - 4;
            self.finding(segment, last, "record checksum", hex(computed), hex(stored));
            return;
        }
        if record.sequence != sequence {
            self.finding(
                segment,
                at,
                "sequence of the record",
                sequence,
                record.sequence,
            );
        }
        if record.appended_at != time {
            let (expected, found) = (time.0, record.appended_at.0);
            self.finding(segment, at, "time of the record", expected, found);
        }
        match RecordView::parse(record.record) {
            Ok(view) => {
                // The log puts its own entry first.
                let own = view.clock.entries().next();
                if own.is_none_or(|(_, value)| value != record.sequence.get()) {
                    let found = own.map_or_else(
                        || "none".to_owned(),
                        |(name, value)| format!("{name}: {value}"),
                    );
                    self.finding(
                        segment,
                        at,
                        "own entry of the clock",
                        record.sequence,
                        found,
                    );
                }
            }
            Err(_not_of_this_version) => self.undecodable += 1,
        }
    }

    fn index(&mut self, check: IndexCheck, segment_is_good: bool) {
        match check {
            IndexCheck::Damaged(damage) => self.report.findings.push(damage),
            // A damaged segment cannot tell whether its index is right.
            IndexCheck::Differs(damage) if segment_is_good => self.report.findings.push(damage),
            IndexCheck::Differs(_)
            | IndexCheck::Missing
            | IndexCheck::Locked
            | IndexCheck::Agrees(_) => {}
        }
    }

    /// Flushed records of which nothing is left but zeros are no bad region; recovery knows.
    fn what_recovery_misses(&mut self) {
        let damages = self
            .forecast
            .as_ref()
            .and_then(|forecast| forecast.statement.as_ref());
        for damage in damages.map_or(&[][..], |statement| &statement.damages) {
            if !self.report.findings.contains(damage) {
                self.report.findings.push(damage.clone());
            }
        }
    }
}

fn is_rewritten(segment: &SegmentFile) -> bool {
    let header = segment.header.as_ref();
    header.is_some_and(SegmentHeader::is_rewritten)
}

fn hex(value: u32) -> String {
    format!("{value:#010x}")
}
