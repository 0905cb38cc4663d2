//! Looks for bit rot: reads segments that nobody may have read for years (LOG-08).
//!
//! Finds, tells, changes nothing: what to do about damage is for the operator to say, and
//! [`super::Log::repair`] does it.

use std::sync::{Arc, PoisonError};

use super::error::{Damage, Error};
use super::position::ByteOffset;
use super::reader::Segment;
use super::rewrite::Throttle;
use super::scan::{Scan, Scanned};
use super::segment::{HEADER_BYTES, SegmentHeader};
use super::state::State;
use super::status::ScrubStatus;

/// Damaged places that are remembered; a disk that has more of them needs no longer list.
pub const DAMAGES_MAX: usize = 100;

impl State {
    /// What the last scrub has found.
    pub(super) fn scrub_status(&self) -> ScrubStatus {
        let status = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
        status.clone()
    }

    /// See [`super::Log::scrub`].
    pub(super) fn scrub(&self, throttle: &dyn Throttle) -> Result<Option<ScrubStatus>, Error> {
        let mut found = ScrubStatus::default();
        let mut next = self.segments().first().map(|segment| segment.base);
        let mut root_before: Option<u32> = None;
        while let Some(base) = next {
            // Looked up one by one: segments may be removed or replaced meanwhile.
            let Some((segment, after)) = self.segment_of(base) else {
                break;
            };
            let scan = match after {
                Some(_) => segment.scan()?,
                // What is written below this place does not change any more.
                None => match self.written_of(&segment)? {
                    Some(scan) => scan,
                    None => break,
                },
            };
            let header = segment.header.as_ref();
            let stored = segment
                .file
                .len()
                .and_then(|len| segment.file.read(0, header_len(len)))
                .map_err(|source| segment.io_error("read", source))?;
            let stored = stored.first_chunk().map(SegmentHeader::decode);
            if header.is_some() && stored != header.cloned().map(Ok) {
                let bytes = ByteOffset(0);
                found.note(Damage {
                    path: segment.path.clone(),
                    offset: bytes,
                    what: "segment header",
                    expected: "the header it was opened with".to_owned(),
                    found: "another".to_owned(),
                });
            }
            if let (Some(header), Some(root)) = (header, root_before)
                && header.previous_root != root
            {
                found.note(missing_before(&segment.path, root, header.previous_root));
            }
            let mut root = header.map(SegmentHeader::chain);
            for scanned in scan {
                match scanned {
                    Scanned::Batch(batch) => {
                        root = Some(batch.next_chain);
                        found.bytes += batch.header.file_len();
                        if !throttle.take(batch.header.file_len()) {
                            return Ok(None);
                        }
                    }
                    Scanned::Damaged(region) => {
                        root = None;
                        found.bytes += region.range.end - region.range.start;
                        found.note(region.damage);
                    }
                    Scanned::End(_) => {}
                }
            }
            let rewritten = header.filter(|header| header.is_rewritten());
            root_before = rewritten.map_or(root, |header| Some(header.sealed_root));
            found.segments += 1;
            next = after;
        }
        found.finished_at = Some(self.clock.now());
        for damage in &found.damages {
            tracing::error!(%damage, "scrubbing has found damage");
        }
        *self.scrub.lock().unwrap_or_else(PoisonError::into_inner) = found.clone();
        Ok(Some(found))
    }
}

impl State {
    /// A scan of what is written of `segment`, if that is the active one and can be told.
    fn written_of(&self, segment: &Arc<Segment>) -> Result<Option<Scan>, Error> {
        let at = {
            let core = self.lock_core();
            Arc::ptr_eq(&core.segment, segment).then_some(core.at)
        };
        let (Some(at), Some(header)) = (at, &segment.header) else {
            return Ok(None);
        };
        let read = || {
            // A file that has lost its end is damaged, and still read as far as it goes.
            let len = segment.file.len()?.min(at.0);
            let len = usize::try_from(len).map_err(std::io::Error::other)?;
            segment.file.read(0, len)
        };
        let read = read();
        let bytes = read.map_err(|source| segment.io_error("read", source))?;
        Ok(Some(
            Scan::new(&segment.path, bytes, header).decoding(&segment.codec),
        ))
    }
}

impl ScrubStatus {
    fn note(&mut self, damage: Damage) {
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(damage);
        }
    }
}

/// How much of a header there is in a file of `len` bytes.
fn header_len(len: u64) -> usize {
    usize::try_from(len).map_or(HEADER_BYTES, |len| len.min(HEADER_BYTES))
}

/// The damage of a segment that does not follow the one before it.
pub(super) fn missing_before(path: &std::path::Path, root: u32, names: u32) -> Damage {
    Damage {
        path: path.to_owned(),
        offset: ByteOffset(44),
        what: "root of the segment before",
        expected: format!("{root:#010x}"),
        found: format!("{names:#010x}: a segment between them is missing"),
    }
}
