//! Goes over the good records of a log, also over those around and behind damage.

use std::io::Write as _;
use std::ops::ControlFlow;

use arqonbus::log::batch::{self, BatchHeader};
use arqonbus::log::offline::{self, Directory, SegmentFile};
use arqonbus::log::scan::{Batch, Scanned};
use arqonbus::log::{ByteOffset, RealStorage, RecordRef};

use crate::failure::Outcome;
use crate::progress::Progress;
use crate::select::Selection;
use crate::source::Source;

/// A record and where it was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) source: &'a Source,
    pub(crate) segment: &'a SegmentFile,
    /// Where its frame starts.
    pub(crate) offset: ByteOffset,
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
    mut each: impl FnMut(&Found<'_>) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::Well;
    let mut progress = Progress::of_bytes(sources.iter().map(Source::bytes).sum());
    for source in sources {
        let mut walk = Walk {
            source,
            selection,
            each: &mut each,
            damaged: false,
            locked: false,
        };
        let flow = walk.log(&mut progress)?;
        if walk.locked {
            warn(source.locked.as_deref().unwrap_or("no key opens the log"));
        }
        if walk.damaged || walk.locked {
            outcome = Outcome::Damaged;
        }
        if flow.is_break() && sources.len() == 1 {
            break;
        }
    }
    Ok(outcome)
}

struct Walk<'a, F> {
    source: &'a Source,
    selection: &'a Selection,
    each: &'a mut F,
    damaged: bool,
    /// Some records could not be decrypted.
    locked: bool,
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
            self.damaged = true;
            warn(&damage.to_string());
        }
        for scanned in segment.scan() {
            match &scanned {
                Scanned::Batch(batch) => {
                    let (last, time) = (batch.header.end(), batch.header.appended_at);
                    if last.get() <= self.selection.first() || time.0 < self.selection.first_time()
                    {
                        continue;
                    }
                    if self.selection.is_past(batch.header.base.get(), time.0) {
                        return Ok(ControlFlow::Break(()));
                    }
                    self.locked |= batch.locked;
                    let mut offset = batch.offset.advance(batch::HEADER_BYTES as u64);
                    for record in batch.records() {
                        if self
                            .record(segment, offset, Some(batch), record)?
                            .is_break()
                        {
                            return Ok(ControlFlow::Break(()));
                        }
                        offset = offset.advance(record.field.len() as u64);
                    }
                }
                Scanned::Damaged(region) => {
                    self.bad_region(segment, region.range.start, &region.damage.to_string());
                    for (offset, record) in region.salvaged() {
                        if self.record(segment, offset, None, record)?.is_break() {
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
        offset: ByteOffset,
        batch: Option<&Batch>,
        record: RecordRef<'_>,
    ) -> anyhow::Result<ControlFlow<()>> {
        if !self.selection.wants(&record) {
            return Ok(ControlFlow::Continue(()));
        }
        (self.each)(&Found {
            source: self.source,
            segment,
            offset,
            batch,
            record,
        })
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

/// Says something about the data on stderr.
pub(crate) fn warn(text: &str) {
    // If nobody can hear it, the exit code still tells.
    let _gone = writeln!(std::io::stderr(), "logdump: {text}");
}
