//! Goes over the good records of a log, also over those around and behind damage.

use std::fmt;
use std::io::Write as _;
use std::ops::ControlFlow;

use arqonbus::log::batch::{self, BatchHeader};
use arqonbus::log::offline::{self, Directory, SegmentFile};
use arqonbus::log::scan::{Batch, Scanned};
use arqonbus::log::segment::SegmentHeader;
use arqonbus::log::{ByteOffset, RealStorage, RecordRef};

use crate::failure::Outcome;
use crate::locked::Locked;
use crate::progress::Progress;
use crate::select::Selection;
use crate::source::Source;
use crate::table::{printable, sequences};

/// Where a record's frame starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the file.
    File(ByteOffset),
    /// In the decoded body of a batch that is compressed or encrypted.
    Decoded(u64),
}

impl Place {
    /// Of the first record of `batch`.
    pub(crate) fn first_of(batch: &Batch) -> Self {
        if batch.header.is_compressed() || batch.header.is_encrypted() {
            Self::Decoded(0)
        } else {
            Self::File(batch.offset.advance(batch::HEADER_BYTES as u64))
        }
    }

    pub(crate) fn advance(self, bytes: u64) -> Self {
        match self {
            Self::File(offset) => Self::File(offset.advance(bytes)),
            Self::Decoded(at) => Self::Decoded(at + bytes),
        }
    }

    /// In the file, if that can be said.
    pub(crate) fn in_file(self) -> Option<u64> {
        match self {
            Self::File(offset) => Some(offset.0),
            Self::Decoded(_) => None,
        }
    }

    /// In the decoded body, if it had to be decoded.
    pub(crate) fn in_body(self) -> Option<u64> {
        match self {
            Self::File(_) => None,
            Self::Decoded(at) => Some(at),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(offset) => write!(f, "byte {offset}"),
            Self::Decoded(at) => write!(f, "byte {at} of the decoded body"),
        }
    }
}

/// A record and where it was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) source: &'a Source,
    pub(crate) segment: &'a SegmentFile,
    pub(crate) place: Place,
    /// Its batch; `None` where the batch is damaged.
    pub(crate) batch: Option<&'a Batch>,
    pub(crate) record: RecordRef<'a>,
}

impl<'a> Found<'a> {
    pub(crate) fn header(&self) -> Option<&'a BatchHeader> {
        self.batch.map(|batch| &batch.header)
    }
}

/// Shows every selected record of `sources` to `each`, in order, until that has seen enough.
/// Says on stderr what is damaged.
pub(crate) fn records(
    sources: &[Source],
    selection: &Selection,
    each: impl FnMut(&Found<'_>) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<Outcome> {
    Ok(over(sources, selection, each)?.0)
}

/// Shows every record with `sequence` to `each`. Says on stderr what is damaged, and if nothing
/// was found, why.
pub(crate) fn look_up(
    sources: &[Source],
    sequence: u64,
    mut each: impl FnMut(&Found<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let mut is_here = false;
    let (outcome, locked) = over(sources, &Selection::only(sequence), |found| {
        is_here = true;
        each(found)?;
        Ok(ControlFlow::Continue(()))
    })?;
    if is_here || locked > 0 {
        return Ok(outcome);
    }
    warn(&format!("sequence {sequence} is not here"));
    Ok(Outcome::Nothing)
}

/// How it ended, and how many sequences are encrypted with keys that are not at hand.
fn over(
    sources: &[Source],
    selection: &Selection,
    mut each: impl FnMut(&Found<'_>) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<(Outcome, u64)> {
    let mut outcome = Outcome::Well;
    let mut locked = 0;
    let mut progress = Progress::of_bytes(sources.iter().map(Source::bytes).sum());
    for source in sources {
        let mut walk = Walk {
            source,
            selection,
            each: &mut each,
            damaged: false,
            locked: Locked::default(),
        };
        let flow = walk.log(&mut progress)?;
        let notice = match selection.the_one() {
            Some(sequence) => walk.locked.notice_of(source, sequence),
            None => walk.locked.notice(source),
        };
        if let Some(notice) = notice {
            warn(&notice);
        }
        locked += walk.locked.sequences();
        if walk.damaged {
            outcome = Outcome::Damaged;
        } else if walk.locked.sequences() > 0 && outcome == Outcome::Well {
            outcome = Outcome::Locked;
        }
        if flow.is_break() && sources.len() == 1 {
            break;
        }
    }
    Ok((outcome, locked))
}

struct Walk<'a, F> {
    source: &'a Source,
    selection: &'a Selection,
    each: &'a mut F,
    damaged: bool,
    locked: Locked,
}

impl<'a, F> Walk<'a, F>
where
    F: FnMut(&Found<'_>) -> anyhow::Result<ControlFlow<()>>,
{
    fn log(&mut self, progress: &mut Progress) -> anyhow::Result<ControlFlow<()>> {
        let log = &self.source.log;
        for (at, segment) in log.segments.iter().enumerate() {
            if may_hold(log, at, self.selection) && self.segment(segment)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            progress.add(segment.bytes.len() as u64);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn segment(&mut self, segment: &'a SegmentFile) -> anyhow::Result<ControlFlow<()>> {
        if let Some(damage) = &segment.header_damage {
            if segment.header_from_copy {
                warn(&format!("{damage}; the copy of the header is good"));
            } else {
                self.damaged = true;
                warn(&damage.to_string());
            }
        }
        let is_rewritten = segment
            .header
            .as_ref()
            .is_some_and(SegmentHeader::is_rewritten);
        for scanned in segment.scan() {
            match &scanned {
                Scanned::Batch(batch) => {
                    // Those of a rewritten batch may be of several times.
                    let (end, time) = (batch.header.end(), batch.header.appended_at);
                    if end.get() <= self.selection.first()
                        || time.0 < self.selection.first_time() && !is_rewritten
                    {
                        continue;
                    }
                    if self.selection.is_past(batch.header.base.get(), time.0) {
                        return Ok(ControlFlow::Break(()));
                    }
                    self.unreadable(segment, batch);
                    let mut place = Place::first_of(batch);
                    for record in batch.records() {
                        if self.record(segment, place, Some(batch), record)?.is_break() {
                            return Ok(ControlFlow::Break(()));
                        }
                        place = place.advance(record.field.len() as u64);
                    }
                }
                Scanned::Damaged(region) => {
                    self.bad_region(segment, region.range.start, &region.damage.to_string());
                    for (offset, record) in region.salvaged() {
                        let place = Place::File(offset);
                        if self.record(segment, place, None, record)?.is_break() {
                            return Ok(ControlFlow::Break(()));
                        }
                    }
                }
                Scanned::End(_) => {}
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn record(
        &mut self,
        segment: &SegmentFile,
        place: Place,
        batch: Option<&Batch>,
        record: RecordRef<'_>,
    ) -> anyhow::Result<ControlFlow<()>> {
        if !self.selection.wants(&record) {
            return Ok(ControlFlow::Continue(()));
        }
        (self.each)(&Found {
            source: self.source,
            segment,
            place,
            batch,
            record,
        })
    }

    /// Says what cannot be shown although nothing here is damaged.
    fn unreadable(&mut self, segment: &SegmentFile, batch: &Batch) {
        if let Some(lost) = lost(segment, batch) {
            warn(&lost);
        }
        if batch.locked {
            self.locked.add(segment, u64::from(batch.header.count));
        }
    }

    /// What a crash leaves at the end is no damage: nothing acknowledged is in it.
    fn bad_region(&mut self, segment: &SegmentFile, start: u64, damage: &str) {
        if is_torn(self.source, segment, start) {
            warn(&format!("torn tail, which a node would cut off: {damage}"));
        } else {
            self.damaged = true;
            warn(damage);
        }
    }
}

/// Whether the segment at `at` can hold records that are selected.
pub(crate) fn may_hold(log: &Directory, at: usize, selection: &Selection) -> bool {
    let Some(segment) = log.segments.get(at) else {
        return false;
    };
    let ends_before = log
        .next_base(at)
        .is_some_and(|next| next.get() <= selection.first() && segment.header_damage.is_none());
    !ends_before && !selection.is_past(segment.base.get(), 0)
}

/// Whether the bad bytes at `start` of `segment` are only what a crash leaves.
pub(crate) fn is_torn(source: &Source, segment: &SegmentFile, start: u64) -> bool {
    let log = &source.log;
    let last = log.segments.last();
    last.is_some_and(|last| std::ptr::eq(last, segment))
        && offline::forecast(&RealStorage, log).is_some_and(|forecast| {
            forecast.is_torn() && forecast.cut.is_some_and(|cut| cut.contains(&start))
        })
}

/// What to say of a batch that stands for lost records.
pub(crate) fn lost(segment: &SegmentFile, batch: &Batch) -> Option<String> {
    let reason = batch.lost()?;
    let header = &batch.header;
    let last = header.end().previous().unwrap_or(header.base);
    let are = if last == header.base { "is" } else { "are" };
    Some(format!(
        "{}: byte {}: {} {are} lost: {}",
        segment.path.display(),
        batch.offset,
        sequences(header.base, last),
        printable(&reason),
    ))
}

/// Says something about the data on stderr.
pub(crate) fn warn(text: &str) {
    // If nobody can hear it, the exit code still tells.
    let _gone = writeln!(std::io::stderr(), "logdump: {text}");
}
