//! Compresses sealed segments.
//!
//! The records and what finds them stay the same; bodies become zstd frames of about 128 KiB. A
//! segment that hardly shrinks is left as it is.

use std::sync::Arc;

use super::Log;
use super::error::Error;
use super::pass::{Ended, Outcome, Pass, Rewrites};
use super::position::{Micros, Sequence};
use super::rewrite::Throttle;
use super::segment::SegmentHeader;

/// Saving less is not worth decoding for ever after.
const SAVING_PERCENT_MIN: u64 = 5;

/// Which segments are compressed, and how.
#[derive(Clone, Copy, Debug)]
pub struct Compression {
    /// Level of zstd: 1 to 19, higher is smaller and slower.
    pub level: i32,
    /// So many sealed segments at the end of the log are left alone: they are read most.
    pub newest_left: usize,
    /// Segments with records from this time on are left alone.
    pub before: Micros,
}

/// What a pass of compression did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CompressionReport {
    /// Segments that were written again.
    pub rewrites: Rewrites,
    /// Segments that were tried and hardly shrink; they are not tried again until the log is
    /// opened again.
    pub incompressible: usize,
    /// Segments of the log that are compressed now.
    pub compressed_segments: usize,
    /// Bytes of the records in what this pass has compressed.
    pub record_bytes: u64,
    /// Bytes that these records take on the disk now.
    pub stored_bytes: u64,
}

impl CompressionReport {
    /// How many bytes of records one byte on the disk holds, of what this pass has compressed;
    /// `None` if that is nothing.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn ratio(&self) -> Option<f64> {
        (self.stored_bytes > 0).then(|| self.record_bytes as f64 / self.stored_bytes as f64)
    }
}

impl Log {
    /// Compresses sealed segments that are not compressed yet, oldest first. Neither appends nor
    /// readers wait for it.
    ///
    /// # Errors
    /// I/O errors; every segment is as it was or compressed.
    pub fn compress(
        &self,
        compression: &Compression,
        throttle: &dyn Throttle,
    ) -> Result<CompressionReport, Error> {
        let mut report = CompressionReport::default();
        let pass = match Pass::begin(self.state(), throttle) {
            Ok(pass) => pass,
            Err(reason) => {
                report.rewrites = Rewrites::refused(reason);
                return Ok(report);
            }
        };
        let segments = self.state().segments();
        let left = compression.newest_left.saturating_add(1);
        let old = &segments[..segments.len().saturating_sub(left)];
        for (at, segment) in old.iter().enumerate() {
            let plain = segment.header.as_ref().is_some_and(|h| !h.is_compressed());
            // What a segment holds was appended before the next one was created.
            let successor = segments.get(at + 1).and_then(|next| next.header.as_ref());
            let is_old = successor.is_some_and(|next| next.created_at < compression.before);
            let known = {
                let seen = segment.lock_seen();
                seen.incompressible || seen.damage.is_some()
            };
            if !plain || !is_old || known {
                continue;
            }
            if !self.compress_one(&pass, segment.base, compression.level, &mut report)? {
                break;
            }
        }
        report.compressed_segments = self.compressed_segments();
        Ok(report)
    }

    /// `false`: the pass is to end.
    fn compress_one(
        &self,
        pass: &Pass<'_>,
        base: Sequence,
        level: i32,
        report: &mut CompressionReport,
    ) -> Result<bool, Error> {
        let mut record_bytes = 0;
        let used = self
            .state()
            .segment_of(base)
            .map(|(segment, _)| {
                segment.with_index(&*self.state().storage, |index| index.data_end.0)
            })
            .transpose()?
            .unwrap_or(0);
        let outcome = pass.rewrite(
            base,
            &|_| Some(level),
            &mut |record| {
                record_bytes += record.field.len() as u64;
                true
            },
            // Against what is used of the file: the zeros behind it are no saving by compression.
            &|new, _| new.header.capacity.saturating_mul(100) <= used * (100 - SAVING_PERCENT_MIN),
        )?;
        match outcome {
            Outcome::Replaced {
                segment,
                removed,
                bytes_before,
                bytes_after,
            } => {
                debug_assert_eq!(removed, 0, "compression of {}", segment.path.display());
                report.rewrites.segments += 1;
                report.rewrites.bytes_before += bytes_before;
                report.rewrites.bytes_after += bytes_after;
                report.record_bytes += record_bytes;
                report.stored_bytes += bytes_after;
            }
            Outcome::Kept => {
                report.incompressible += 1;
                if let Some((segment, _)) = self.state().segment_of(base) {
                    segment.lock_seen().incompressible = true;
                }
            }
            Outcome::Gone => {}
            Outcome::Damaged(damage) => report.rewrites.damaged.push(damage),
            Outcome::Stopped => {
                report.rewrites.ended = Ended::Stopped;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many segments are compressed now.
    fn compressed_segments(&self) -> usize {
        let segments = self.state().segments();
        let headers = segments
            .iter()
            .filter_map(|s| Arc::as_ref(s).header.as_ref());
        headers
            .filter(|header| SegmentHeader::is_compressed(header))
            .count()
    }
}
