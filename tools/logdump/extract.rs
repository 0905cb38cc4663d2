//! `logdump extract`: some of the records of a log, as a log of their own.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use arqonbus::log::extract::{Extracted, Extraction, Settings};
use arqonbus::log::offline::{self, SegmentFile};
use arqonbus::log::scan::{Batch, DamagedRegion, Scanned};
use arqonbus::log::segment::SegmentHeader;
use arqonbus::log::{Keyring, OsEntropy, RealStorage, RecordRef, Sequence};
use serde_json::json;

use crate::cat::{is_wanted, no_records};
use crate::diff::only_log;
use crate::failure::{Outcome, Usage};
use crate::locked::Locked;
use crate::progress::Progress;
use crate::select::Selection;
use crate::source::Source;
use crate::table::{counted, size};
use crate::walk::{self, Found, Place, is_torn, may_hold, warn};
use crate::{Common, Output, table};

/// Segments of the new log are kept in memory while they are filled.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Write the selected records into a new log
///
/// They keep their sequences, times, clocks and bytes; the sequences of all others are holes. The
/// new log goes on behind the last sequence of the old one, has an identity of its own, and can be
/// served by a node. It is not encrypted, whatever the old one is. Where the old one is damaged,
/// readers of the new one are told that records are lost.
///
/// DEST must not exist or be empty, and appears when everything is on the disk. Exits 1 if some of
/// the log was damaged, or encrypted with a key that is not at hand; what could be read is then in
/// DEST nevertheless.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump extract data/dev/main /tmp/quakes/main --topic 'quake.>' --from 2018-02-01T00:00:00Z
  logdump extract data/dev/main archive/dev/main --to 100000 --compress
  logdump diff data/dev/main /tmp/quakes/main --topic 'quake.>' --from 2018-02-01T00:00:00Z")]
pub(crate) struct Arguments {
    /// A log's directory or a segment file
    #[arg(value_name = "SRC")]
    source: PathBuf,

    /// Directory of the new log
    #[arg(value_name = "DEST")]
    target: PathBuf,

    #[command(flatten)]
    selection: Selection,

    /// End a segment of the new log when it holds so many bytes of records
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Settings::default().segment_bytes,
        value_parser = clap::value_parser!(u64).range(1..=SEGMENT_BYTES_MAX),
    )]
    segment_bytes: u64,

    /// Compress with zstd, at this level (3 if none is given)
    #[arg(
        long,
        value_name = "LEVEL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "3",
        value_parser = clap::value_parser!(i32).range(1..=22),
    )]
    compress: Option<i32>,
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    no_records(common, "extract")?;
    let source = only_log(&arguments.source, common)?;
    let target = &arguments.target;
    refuse_if_taken(target)?;
    let settings = Settings {
        segment_bytes: arguments.segment_bytes,
        compression: arguments.compress,
        ..Settings::default()
    };
    let extraction = Extraction::create(
        &RealStorage,
        target,
        &source.log,
        Keyring::default(),
        &OsEntropy,
        settings,
    )?;
    let mut work = Work {
        source: &source,
        selection: &arguments.selection,
        end: end_of(&source),
        extraction,
        damaged: false,
        locked: Locked::default(),
        misplaced: 0,
    };
    work.log()?;
    let Work {
        extraction,
        end,
        damaged,
        locked,
        misplaced,
        ..
    } = work;
    if misplaced > 0 {
        warn(&format!(
            "left out, because they do not stand where their sequences belong: {}",
            counted(misplaced, "record", "records")
        ));
    }
    if let Some(notice) = locked.notice(&source) {
        warn(&notice);
    }
    let done = extraction.finish(end)?;
    if done.records == 0 {
        warn(&format!(
            "no record is selected; the new log in {} is empty",
            target.display()
        ));
    }
    print(common, target, done)?;
    Ok(if damaged || misplaced > 0 {
        Outcome::Damaged
    } else if locked.sequences() > 0 {
        Outcome::Locked
    } else {
        Outcome::Well
    })
}

fn refuse_if_taken(target: &Path) -> anyhow::Result<()> {
    let is_taken = match std::fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(error).with_context(|| format!("look into {}", target.display()));
        }
    };
    if is_taken {
        let target = target.display();
        let wrong = format!("{target} is not empty; name a directory that is not there yet");
        return Err(Usage(wrong).into());
    }
    Ok(())
}

/// The sequence that a node would go on with.
fn end_of(source: &Source) -> Sequence {
    let forecast = offline::forecast(&RealStorage, &source.log);
    let next = forecast.map_or(Sequence::FIRST, |forecast| {
        forecast
            .next
            .max(Sequence::at_least_first(forecast.durable_through).next())
    });
    let last = source.log.segments.last();
    let stands_for = last
        .and_then(|segment| segment.header.as_ref())
        .map_or(Sequence::FIRST, |header| {
            Sequence::at_least_first(header.end)
        });
    next.max(stands_for)
}

struct Work<'a> {
    source: &'a Source,
    selection: &'a Selection,
    end: Sequence,
    extraction: Extraction<'a>,
    damaged: bool,
    locked: Locked,
    /// Records that a file of another log, or a file twice, may have brought here.
    misplaced: u64,
}

impl<'a> Work<'a> {
    fn log(&mut self) -> anyhow::Result<()> {
        let log = &self.source.log;
        let mut progress = Progress::of_bytes(self.source.bytes());
        for (at, segment) in log.segments.iter().enumerate() {
            if may_hold(log, at, self.selection) {
                self.segment(at, segment)?;
            }
            progress.add(segment.bytes.len() as u64);
        }
        Ok(())
    }

    fn segment(&mut self, at: usize, segment: &'a SegmentFile) -> anyhow::Result<()> {
        if let Some(damage) = &segment.header_damage {
            self.damaged |= !segment.header_from_copy;
            warn(&damage.to_string());
        }
        let is_rewritten = segment
            .header
            .as_ref()
            .is_some_and(SegmentHeader::is_rewritten);
        for scanned in segment.scan() {
            match &scanned {
                Scanned::Batch(batch) => {
                    let (base, time) = (batch.header.base.get(), batch.header.appended_at.0);
                    let is_before = batch.header.end().get() <= self.selection.first()
                        || time < self.selection.first_time() && !is_rewritten;
                    if self.selection.is_past(base, time) {
                        return Ok(());
                    }
                    if !is_before {
                        self.batch(segment, batch)?;
                    }
                }
                Scanned::Damaged(region) => self.damaged(at, segment, region)?,
                Scanned::End(_) => {}
            }
        }
        Ok(())
    }

    fn batch(&mut self, segment: &SegmentFile, batch: &Batch) -> anyhow::Result<()> {
        if let (Some(reason), Some(said)) = (batch.lost(), walk::lost(segment, batch)) {
            warn(&said);
            return self.lost(batch.header.base, batch.header.end(), &reason);
        }
        if batch.locked {
            self.locked.add(segment, u64::from(batch.header.count));
            return Ok(());
        }
        for record in batch.records() {
            if self.wants(segment, Some(batch), record)
                && !self.extraction.put(&batch.header, &record)?
            {
                self.misplaced += 1;
            }
        }
        Ok(())
    }

    fn wants(&self, segment: &SegmentFile, batch: Option<&Batch>, record: RecordRef<'_>) -> bool {
        let found = Found {
            source: self.source,
            segment,
            place: Place::Decoded(0),
            batch,
            record,
        };
        self.selection.wants(&record) && is_wanted(self.selection, &found)
    }

    fn damaged(
        &mut self,
        at: usize,
        segment: &SegmentFile,
        region: &DamagedRegion,
    ) -> anyhow::Result<()> {
        let damage = &region.damage;
        let torn = is_torn(self.source, segment, region.range.start);
        if torn {
            warn(&format!("torn tail, which a node would cut off: {damage}"));
        } else {
            self.damaged = true;
            warn(&damage.to_string());
        }
        let reason = format!(
            "{} at byte {} of {}: expected {}, found {}",
            damage.what,
            damage.offset,
            segment.path.display(),
            damage.expected,
            damage.found
        );
        let mut next = region.expected;
        for (_, record) in region.salvaged() {
            if !torn {
                self.lost(next, record.sequence, &reason)?;
            }
            if self.wants(segment, None, record) && !self.extraction.put_salvaged(&record)? {
                self.misplaced += 1;
            }
            next = record.sequence.next();
        }
        let known_end = Some(region.end)
            .filter(|end| *end < Sequence::MAX)
            .or(self.source.log.next_base(at))
            .unwrap_or(self.end);
        if !torn {
            self.lost(next, known_end, &reason)?;
        }
        Ok(())
    }

    /// Tells the new log of lost records, as far as their sequences are selected.
    fn lost(&mut self, first: Sequence, end: Sequence, reason: &str) -> anyhow::Result<()> {
        let first = first.max(Sequence::at_least_first(self.selection.first()));
        let end = self.selection.last().map_or(end, |last| {
            end.min(Sequence::at_least_first(last.saturating_add(1)))
        });
        self.extraction.put_lost(first, end, reason)?;
        Ok(())
    }
}

fn print(common: &Common, target: &Path, done: Extracted) -> anyhow::Result<()> {
    let Extracted {
        records,
        segments,
        bytes,
        next,
    } = done;
    match common.output {
        Output::Json => table::json(&json!({
            "path": target.display().to_string(),
            "records": records,
            "segments": segments,
            "bytes": bytes,
            "next": next.get(),
        })),
        Output::Text | Output::Hex | Output::Proto => table::text(&format!(
            "{}: {} in {}, {}; goes on with {next}\n",
            target.display(),
            counted(records, "record", "records"),
            counted(segments, "segment", "segments"),
            size(bytes),
        )),
    }
}
