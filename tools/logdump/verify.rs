//! `logdump verify`: everything about a log that can be checked, checked.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use arqonbus::log::batch::HEADER_BYTES;
use arqonbus::log::offline::{self, Forecast, IndexCheck, SegmentFile, SegmentIndex};
use arqonbus::log::scan::{Batch, DamagedRegion, Scanned};
use arqonbus::log::segment::{self, HEADER_COPY_AT, SegmentHeader};
use arqonbus::log::{ByteOffset, Damage, Micros, RealStorage, RecordRef, Sequence};
use arqonbus::proto::view::RecordView;
use serde_json::{Value, json};

use crate::audit::{self, Audit};
use crate::cat::no_records;
use crate::failure::Outcome;
use crate::hexdump::batch_flags;
use crate::locked::{Lock, Locked};
use crate::progress::Progress;
use crate::source::{self, Source};
use crate::table::{counted, printable, ratio, sequences, size};
use crate::walk::Place;
use crate::{Common, Output, table};

/// Check every checksum, the chain, sequences, times, clocks and indexes
///
/// One line per finding: file, byte offset, what was expected and what is there. Exits 1 if there
/// is any, 0 if not.
///
/// `header:` and `copy:` are findings by which no record is lost. The header of a segment stands
/// twice: a damaged one is put back from its copy when a node opens the log, a damaged copy when
/// the segment is written again.
///
/// A torn tail is what a crash leaves: bytes at the end of the last segment of which nothing says
/// that they had been flushed. Nothing acknowledged as synced is in them and a node cuts them off,
/// so they are a notice, not damage, and the exit code stays 0. So are records that a repair has
/// found lost and put aside. Of what is encrypted with a key that is not at hand, the checksums are
/// checked and the records are not; that is a notice too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump verify data && echo well
  logdump verify data/dev/main --output json")]
pub(crate) struct Arguments {
    /// Log directories, data directories, segment files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// An audit entry with this hash must be there: whoever cuts the end of an audit off leaves a
    /// chain that is whole, and only a head that was kept elsewhere shows it
    #[arg(long, value_name = "HASH", value_parser = audit::read_head)]
    audit_head: Option<String>,
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    no_records(common, "verify")?;
    let sources = source::open(&arguments.paths, common)?;
    let mut progress = Progress::of_bytes(sources.iter().map(Source::bytes).sum());
    let began = std::time::Instant::now();
    let mut reports = Vec::new();
    for source in &sources {
        let mut check = Check::new(source, arguments.audit_head.as_deref());
        check.log(&mut progress)?;
        reports.push(check.report);
    }
    drop(progress);
    let wanted = arguments.audit_head.as_deref();
    let missing = wanted.filter(|_| !reports.iter().any(|report| report.audit.has_met()));
    let damaged = reports.iter().any(|report| !report.findings.is_empty()) || missing.is_some();
    match common.output {
        Output::Json => {
            let logs: Vec<Value> = sources
                .iter()
                .zip(&reports)
                .map(|(source, report)| report.to_json(source))
                .collect();
            let mut found = json!({ "ok": !damaged, "logs": logs });
            if let Some(wanted) = wanted {
                found["audit_head"] = json!({ "hash": wanted, "found": missing.is_none() });
            }
            table::json(&found)?;
        }
        _ => {
            let mut text = String::new();
            for (source, report) in sources.iter().zip(&reports) {
                text.push_str(&report.to_text(source));
            }
            if let Some(head) = missing {
                text.push_str(&format!(
                    "audit: no entry has the hash {head}: the end of the audit was cut off or written again\n"
                ));
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

/// What a finding is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Damage,
    /// Of a header whose copy is good: a node puts it back.
    Header,
    /// Of the copy of a good header.
    Copy,
}

impl Class {
    fn word(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Header => "header",
            Self::Copy => "copy",
        }
    }
}

/// Sequences whose records a repair has put aside.
struct Lost {
    file: String,
    offset: u64,
    first: Sequence,
    last: Sequence,
    reason: String,
}

#[derive(Default)]
struct Report {
    findings: Vec<(Class, Damage)>,
    notices: Vec<String>,
    batches: u64,
    marks: u64,
    records: u64,
    /// Sequences of rewritten segments that have no record any more.
    holes: u64,
    lost: Vec<Lost>,
    locked: Locked,
    audit: Audit,
}

impl Report {
    fn to_text(&self, source: &Source) -> String {
        let mut text = String::new();
        for (class, damage) in &self.findings {
            let Damage {
                path,
                offset,
                what,
                expected,
                found,
            } = damage;
            let path = path.display();
            let prefix = match class {
                Class::Damage => "",
                Class::Header => "header: ",
                Class::Copy => "copy: ",
            };
            text.push_str(&format!(
                "{prefix}{path}: byte {offset}: {what}: expected {expected}, found {found}\n"
            ));
        }
        for lost in &self.lost {
            text.push_str(&format!(
                "notice: lost: {}: byte {}: {}: {}\n",
                lost.file,
                lost.offset,
                sequences(lost.first, lost.last),
                printable(&lost.reason),
            ));
        }
        for notice in &self.notices {
            text.push_str(&format!("notice: {notice}\n"));
        }
        let is_damaged = self
            .findings
            .iter()
            .any(|(class, _)| *class == Class::Damage);
        let word = if is_damaged { "DAMAGED" } else { "MENDABLE" };
        let verdict = match self.findings.len() {
            0 => "well".to_owned(),
            1 => format!("{word}, 1 finding"),
            count => format!("{word}, {count} findings"),
        };
        let mut more = String::new();
        for (count, what) in [
            (self.holes, if self.holes == 1 { "hole" } else { "holes" }),
            (self.lost_sequences(), "lost"),
            (self.locked.sequences(), "encrypted and not looked at"),
        ] {
            if count > 0 {
                more.push_str(&format!(", {count} {what}"));
            }
        }
        text.push_str(&format!(
            "{}/{}: {verdict}; {}, {}, {}, {}{more}\n",
            source.tenant,
            source.reality,
            counted(source.log.segments.len() as u64, "segment", "segments"),
            counted(self.batches, "batch", "batches"),
            counted(self.marks, "mark", "marks"),
            counted(self.records, "record", "records"),
        ));
        if let Some(audit) = self.audit.to_text() {
            text.push_str(&format!("{}/{}: {audit}\n", source.tenant, source.reality));
        }
        text
    }

    fn to_json(&self, source: &Source) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(
                |(
                    class,
                    Damage {
                        path,
                        offset,
                        what,
                        expected,
                        found,
                    },
                )| {
                    json!({
                        "class": class.word(),
                        "file": path.display().to_string(),
                        "offset": offset.0,
                        "what": what,
                        "expected": expected,
                        "found": found,
                    })
                },
            )
            .collect();
        let lost: Vec<Value> = self
            .lost
            .iter()
            .map(|lost| {
                json!({
                    "file": lost.file,
                    "offset": lost.offset,
                    "first": lost.first.get(),
                    "last": lost.last.get(),
                    "reason": lost.reason,
                })
            })
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
            "holes": self.holes,
            "lost_sequences": self.lost_sequences(),
            "lost": lost,
            "locked_sequences": self.locked.sequences(),
            "findings": findings,
            "notices": self.notices,
            "audit": self.audit.to_json(),
        })
    }

    fn lost_sequences(&self) -> u64 {
        let counts = self
            .lost
            .iter()
            .map(|lost| lost.last.next().since(lost.first));
        counts.sum()
    }

    fn has(&self, damage: &Damage) -> bool {
        self.findings.iter().any(|(_, found)| found == damage)
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
    fn new(source: &'a Source, audit_head: Option<&str>) -> Self {
        Self {
            source,
            forecast: offline::forecast(&RealStorage, &source.log),
            report: Report {
                audit: Audit::new(audit_head),
                ..Report::default()
            },
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
            let is_last = self.is_last(segment);
            self.index(segment, stored.check(&built), is_good, is_last);
            progress.add(segment.bytes.len() as u64);
        }
        self.what_recovery_misses();
        if let Some(damage) = self.source.lock.as_ref().and_then(Lock::damage) {
            self.damage(damage.clone());
        }
        if let Some(notice) = self.report.locked.notice(self.source) {
            self.report.notices.push(format!(
                "{notice}; checksums and chains were checked, contents were not"
            ));
        }
        if self.undecodable > 0 {
            let count = self.undecodable;
            self.report.notices.push(format!(
                "intact, but not of this protocol version: {}",
                counted(count, "record", "records")
            ));
        }
        for loss in &log.losses {
            self.report
                .notices
                .push(format!("loss statement: {}", loss.display()));
        }
        for copy in &log.quarantined {
            self.report
                .notices
                .push(format!("quarantine: {}", copy.display()));
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
        self.damage(Damage {
            path: segment.path.clone(),
            offset: ByteOffset(offset),
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        });
    }

    fn damage(&mut self, damage: Damage) {
        self.report.findings.push((Class::Damage, damage));
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
            self.damage(damage);
        }
        // Only a fork goes on in another log's directory, and its own segments say where.
        let is_forked_from = |before: &SegmentHeader| {
            header
                .origin
                .is_some_and(|origin| origin.log_id == before.log_id && origin.end <= header.base)
        };
        if let Some(before) =
            before.filter(|before| before.log_id != header.log_id && !is_forked_from(before))
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
        self.header_block(segment);
        let header = segment.header.as_ref();
        self.root = header.map(SegmentHeader::chain);
        self.epoch = header.map_or(self.epoch, |header| header.epoch);
        let rewritten = header.filter(|header| header.is_rewritten());
        let mut expected = segment.base;
        // Exclusive end of the records, without what a mark says of them.
        let mut records_end = segment.base;
        let mut behind_damage = header.is_none();
        for scanned in segment.scan() {
            index.add(&scanned);
            match &scanned {
                Scanned::Batch(batch) => {
                    self.batch(segment, batch, expected, behind_damage);
                    expected = batch.header.end();
                    if !batch.header.is_mark() {
                        records_end = expected;
                    }
                    behind_damage = false;
                }
                Scanned::Damaged(region) => {
                    self.bad_region(segment, region);
                    self.report.records += region.salvaged().count() as u64;
                    self.report.audit.skip();
                    behind_damage = true;
                    self.root = None;
                }
                Scanned::End(end) => {
                    self.previous_end = Some((segment.path.clone(), *end));
                    // Nothing else would miss the last batches: its root is another file's.
                    if let Some(header) = rewritten.filter(|header| end.0 < header.capacity) {
                        let wanted = format!("at byte {}", header.capacity);
                        self.finding(segment, end.0, "end of the batches", wanted, "zeros");
                    }
                }
            }
        }
        if let Some(header) = rewritten {
            // Its successor names the root that it had when it was sealed.
            self.root = Some(header.sealed_root);
            let end = Sequence::at_least_first(header.end);
            if end < records_end {
                let wanted = format!("{records_end} or later");
                self.finding(segment, 104, "end of the sequences", wanted, end);
            } else if expected < end && !behind_damage {
                self.report.holes += end.since(expected);
            }
            expected = expected.max(end);
        }
        self.end = Some(self.end.map_or(expected, |end| end.max(expected)));
    }

    fn header_block(&mut self, segment: &SegmentFile) {
        if let Some(damage) = &segment.header_damage {
            let class = if segment.header_from_copy {
                Class::Header
            } else {
                Class::Damage
            };
            self.report.findings.push((class, damage.clone()));
        }
        let Some((offset, byte)) = segment.stray_header_byte() else {
            return;
        };
        let copy = HEADER_COPY_AT..HEADER_COPY_AT + segment::HEADER_BYTES;
        let at = usize::try_from(offset.0).unwrap_or(usize::MAX);
        let has_copy = segment
            .header
            .as_ref()
            .is_some_and(|header| header.version > 1);
        let found = format!("{byte:#04x}");
        let (class, what, expected) = if has_copy && copy.contains(&at) {
            (Class::Copy, "copy of the header", "the header again")
        } else {
            (Class::Damage, "rest of the header block", "zeros")
        };
        let damage = Damage {
            path: segment.path.clone(),
            offset,
            what,
            expected: expected.to_owned(),
            found,
        };
        self.report.findings.push((class, damage));
    }

    fn bad_region(&mut self, segment: &SegmentFile, region: &DamagedRegion) {
        let torn = self.is_last(segment)
            && self.forecast.as_ref().is_some_and(|forecast| {
                let cut = forecast.cut.as_ref();
                forecast.is_torn() && cut.is_some_and(|cut| cut.contains(&region.range.start))
            });
        if !torn {
            self.damage(region.damage.clone());
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
        let rewritten = segment
            .header
            .as_ref()
            .filter(|header| header.is_rewritten());
        if header.base > expected && !behind_damage {
            if rewritten.is_some() {
                self.report.holes += header.base.since(expected);
            } else if header.epoch > self.epoch {
                let last = header.base.previous().unwrap_or(expected);
                self.report.notices.push(format!(
                    "{}: byte {at}: skipped when epoch {} began: {}",
                    segment.path.display(),
                    header.epoch,
                    sequences(expected, last),
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
        // A rewritten segment is flushed as a whole.
        let durable_below = if rewritten.is_some() && !header.is_mark() {
            header.end()
        } else {
            header.base
        };
        if header.durable_through >= durable_below.get() {
            let expected = format!("below {durable_below}");
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
        self.flags(segment, batch);
        if let Some(reason) = batch.lost() {
            self.report.lost.push(Lost {
                file: segment.path.display().to_string(),
                offset: at,
                first: header.base,
                last: header.end().previous().unwrap_or(header.base),
                reason,
            });
        } else if batch.locked {
            self.report.locked.add(segment, u64::from(header.count));
            self.report.audit.skip();
        } else {
            self.records(segment, batch, rewritten.is_some());
        }
    }

    /// What the segment's header says of all its batches.
    fn flags(&mut self, segment: &SegmentFile, batch: &Batch) {
        let (Some(of_segment), header) = (&segment.header, &batch.header) else {
            return;
        };
        let rules = [
            (
                header.has_holes() || header.is_lost(),
                of_segment.is_rewritten(),
                "a rewritten segment",
            ),
            (
                header.is_compressed(),
                of_segment.is_compressed(),
                "a compressed segment",
            ),
            (
                header.is_encrypted(),
                of_segment.is_encrypted(),
                "an encrypted segment",
            ),
        ];
        for (is_set, fits, wanted) in rules {
            if is_set && !fits {
                let expected = format!("{} only in {wanted}", batch_flags(header.flags));
                let at = batch.offset.0 + 28;
                self.finding(segment, at, "flags of the batch", expected, "another");
            }
        }
    }

    fn records(&mut self, segment: &SegmentFile, batch: &Batch, is_rewritten: bool) {
        let header = &batch.header;
        let start = Place::first_of(batch);
        let body_at = batch.offset.0 + HEADER_BYTES as u64;
        let in_file = |at: u64| start.advance(at).in_file().unwrap_or(body_at);
        let mut at = 0;
        let mut sequence = header.base;
        let mut time = header.appended_at;
        let mut count = 0_u64;
        for record in batch.records() {
            let wanted = Wanted {
                sequences: if header.has_holes() {
                    sequence..header.end()
                } else {
                    sequence..sequence.next()
                },
                times: time..=if is_rewritten { Micros(u64::MAX) } else { time },
            };
            self.record(segment, in_file(at), &wanted, &record);
            at += record.field.len() as u64;
            sequence = record.sequence.next();
            time = time.max(record.appended_at);
            count += 1;
        }
        self.time = self.time.max(time);
        let sequences = u64::from(header.count);
        let fits = if header.has_holes() {
            self.report.holes += sequences.saturating_sub(count);
            (1..sequences).contains(&count)
        } else {
            sequence == header.end()
        };
        if at != batch.body.len() as u64 {
            let at = in_file(at);
            self.finding(segment, at, "record", "a framed record", "something else");
        } else if !fits {
            let expected = if header.has_holes() {
                format!("1 or more, fewer than {sequences}")
            } else {
                sequences.to_string()
            };
            let at = batch.offset.0 + 24;
            self.finding(segment, at, "count of records", expected, count);
        }
    }

    fn record(&mut self, segment: &SegmentFile, at: u64, wanted: &Wanted, record: &RecordRef<'_>) {
        self.report.records += 1;
        let (stored, computed) = record.checksums();
        if stored != computed {
            let last = at + record.field.len() as u64 - 4;
            self.finding(segment, last, "record checksum", hex(computed), hex(stored));
            return;
        }
        if !wanted.sequences.contains(&record.sequence) {
            self.finding(
                segment,
                at,
                "sequence of the record",
                wanted.sequences.start,
                record.sequence,
            );
        }
        if !wanted.times.contains(&record.appended_at) {
            let (expected, found) = (wanted.times.start().0, record.appended_at.0);
            self.finding(segment, at, "time of the record", expected, found);
        }
        match RecordView::parse(record.record) {
            Ok(view) => {
                if let Some(misfit) = self.report.audit.take(record, &view) {
                    self.finding(segment, at, misfit.what, misfit.expected, misfit.found);
                }
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
            Err(_not_of_this_version) => {
                self.undecodable += 1;
                if let Some(misfit) = audit::undecodable(record) {
                    self.finding(segment, at, misfit.what, misfit.expected, misfit.found);
                }
            }
        }
    }

    fn index(
        &mut self,
        segment: &SegmentFile,
        check: IndexCheck,
        segment_is_good: bool,
        is_last: bool,
    ) {
        match check {
            IndexCheck::Damaged(damage) => self.damage(damage),
            // A damaged segment cannot tell whether its index is right.
            IndexCheck::Differs(damage) if segment_is_good => self.damage(damage),
            // Indexes are written when the next segment is there.
            IndexCheck::Agrees(index) if is_last && self.source.is_whole => {
                let expected = format!("the segment from {} on", index.end());
                let at = index.data_end().0;
                self.finding(segment, at, "next segment", expected, "none");
            }
            IndexCheck::Outdated => self.report.notices.push(format!(
                "{} is of the file that was there before the segment was written again; a node                  builds it again",
                segment.index_path().display(),
            )),
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
            if !self.report.has(damage) {
                let damage = damage.clone();
                self.report.findings.push((Class::Damage, damage));
            }
        }
    }
}

/// What the next record of a batch may be.
struct Wanted {
    sequences: Range<Sequence>,
    times: RangeInclusive<Micros>,
}

fn hex(value: u32) -> String {
    format!("{value:#010x}")
}
