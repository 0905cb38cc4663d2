//! One pass of upkeep over the sealed segments of a log: retention, compaction or compression.
//!
//! Owns what the three have in common: that one pass runs at a time, that it ends when the log is
//! closed or takes no writes any more, and how one segment is put in the place of another. Knows
//! no rule by which records go.
//!
//! A segment is worked on under [`State::rewriting`], one at a time, so that whoever waits for
//! that lock waits for one segment at most. Appends and readers never wait: the file that is
//! replaced stays open as long as somebody reads it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::chunk::RecordRef;
use super::compaction::{Expiries, LastCompaction};
use super::error::{Damage, Error};
use super::position::Sequence;
use super::prepare::remove_if_there;
use super::reader::Segment;
use super::rewrite::{Plan, Rewritten, Throttle, rewrite};
use super::segment::{REWRITING, SegmentHeader};
use super::state::State;

/// What a log keeps in memory for its upkeep.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// Held during a whole pass. Taken before every other lock.
    pass: Mutex<Option<LastCompaction>>,
    /// The log is being closed: no segment is replaced any more.
    closing: AtomicBool,
}

impl Upkeep {
    /// Ends the pass that is under way, at the latest when it next asks for leave to go on.
    pub(super) fn end(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

/// What is known about the contents of a sealed segment, so that it is not scanned again.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When records in it expire, by the edition of the rules that were asked.
    pub(super) expiries: Option<(u64, Expiries)>,
    /// It is damaged, and left alone.
    pub(super) damage: Option<Damage>,
    /// Compressing it was tried and saves too little.
    pub(super) incompressible: bool,
}

/// Why a pass is over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Ended {
    /// All is done that was to be done.
    #[default]
    Complete,
    /// The throttle, or the closing of the log, has ended it; the next pass goes on.
    Stopped,
    /// Nothing was done: the log takes no writes.
    Refused {
        /// Why not.
        reason: String,
    },
}

/// What a pass did to segments.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rewrites {
    /// Segments that were written again.
    pub segments: usize,
    /// Records that were left out of them.
    pub records_removed: u64,
    /// Bytes of their files before.
    pub bytes_before: u64,
    /// Bytes of their files now.
    pub bytes_after: u64,
    /// Damage that was met; those segments are left as they are.
    pub damaged: Vec<Damage>,
    /// How the pass ended.
    pub ended: Ended,
}

impl Rewrites {
    /// Bytes of files that are no longer needed.
    #[must_use]
    pub const fn bytes_reclaimed(&self) -> u64 {
        self.bytes_before.saturating_sub(self.bytes_after)
    }

    pub(super) fn refused(reason: String) -> Self {
        Self {
            ended: Ended::Refused { reason },
            ..Self::default()
        }
    }
}

/// A pass that is under way.
pub(super) struct Pass<'a> {
    pub(super) state: &'a Arc<State>,
    pub(super) last_compaction: MutexGuard<'a, Option<LastCompaction>>,
    pub(super) brake: Brake<'a>,
}

/// The throttle of a pass, which also ends when the log does.
#[derive(Clone, Copy)]
pub(super) struct Brake<'a> {
    state: &'a State,
    throttle: &'a dyn Throttle,
}

/// What became of one segment.
pub(super) enum Outcome {
    /// Another file stands in its place.
    Replaced {
        segment: Arc<Segment>,
        removed: u64,
        bytes_before: u64,
        bytes_after: u64,
    },
    /// What would have taken its place was not worth it.
    Kept,
    /// It is gone meanwhile.
    Gone,
    /// The pass is to end.
    Stopped,
    /// It is damaged.
    Damaged(Damage),
}

impl Brake<'_> {
    pub(super) fn goes_on(&self) -> bool {
        !self.state.upkeep.is_closing() && self.state.read_only().is_none()
    }
}

impl Throttle for Brake<'_> {
    fn take(&self, bytes: u64) -> bool {
        self.goes_on() && self.throttle.take(bytes) && self.goes_on()
    }
}

impl<'a> Pass<'a> {
    /// Waits for the pass before it to end.
    ///
    /// # Errors
    /// The reason why the log takes no writes.
    pub(super) fn begin(state: &'a Arc<State>, throttle: &'a dyn Throttle) -> Result<Self, String> {
        let last_compaction = state
            .upkeep
            .pass
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match state.read_only() {
            Some(reason) => Err(reason),
            None => Ok(Self {
                state,
                last_compaction,
                brake: Brake { state, throttle },
            }),
        }
    }

    /// Writes what `keep` leaves of the segment that begins at `base`, and puts it in its place if
    /// `worth` says so of the new file and the length of the old one. Durable on `Ok`.
    ///
    /// `compression` is told the old header.
    pub(super) fn rewrite(
        &self,
        base: Sequence,
        compression: &dyn Fn(&SegmentHeader) -> Option<i32>,
        keep: &mut dyn FnMut(&RecordRef<'_>) -> bool,
        worth: &dyn Fn(&Rewritten, u64) -> bool,
    ) -> Result<Outcome, Error> {
        let _sealed_stay = self.state.lock_rewriting();
        if !self.brake.goes_on() {
            return Ok(Outcome::Stopped);
        }
        let Some((segment, Some(end))) = self.state.segment_of(base) else {
            return Ok(Outcome::Gone);
        };
        let Some(header) = segment.header.as_ref().filter(|_| segment.base == base) else {
            return Ok(Outcome::Gone);
        };
        let length = |segment: &Segment| {
            let len = segment.file.len();
            len.map_err(|source| segment.io_error("measure", source))
        };
        let bytes_before = length(&segment)?;
        let plan = Plan {
            keep,
            end,
            compression: compression(header),
            quarantine: None,
        };
        let state = self.state;
        let rewritten = rewrite(
            &*state.storage,
            &state.dir,
            &segment,
            &state.keyring(),
            state.options.index_interval_bytes,
            &self.brake,
            plan,
        );
        let outcome = match rewritten {
            Ok(Some(new)) if worth(&new, bytes_before) && self.brake.goes_on() => {
                let (removed, kept) = (new.removed, new.kept);
                let path = segment.path.display();
                tracing::debug!(%path, removed, kept, "a segment is written again");
                match state.replace(&segment, new) {
                    Ok(new) => {
                        return Ok(Outcome::Replaced {
                            removed,
                            bytes_before,
                            bytes_after: length(&new)?,
                            segment: new,
                        });
                    }
                    Err(error) => Err(error),
                }
            }
            Ok(Some(_)) if self.brake.goes_on() => Ok(Outcome::Kept),
            Ok(_) => Ok(Outcome::Stopped),
            Err(Error::Damaged(damage)) => {
                tracing::error!(%damage, "a segment is damaged; its upkeep is left out");
                segment.lock_seen().damage = Some(damage.clone());
                Ok(Outcome::Damaged(damage))
            }
            Err(error) => Err(error),
        };
        // It may be large, and is of no use to anybody.
        if let Err(error) = remove_if_there(&*state.storage, &state.dir.join(REWRITING)) {
            tracing::warn!(dir = %state.dir.display(), %error, "cannot remove {REWRITING}");
        }
        outcome
    }
}

/// The level for a segment that is to stay as it is, compressed or not.
pub(super) fn as_before(level: i32) -> impl Fn(&SegmentHeader) -> Option<i32> {
    move |header| header.is_compressed().then_some(level)
}

/// How far from the front of the log rewriting is worth it: the longest stretch of which, counting
/// only segments with something dead, at least `percent` is dead. `shares` are dead and all bytes
/// of each segment.
///
/// A stretch from the front, and not each segment by itself, because of the order: what is left of
/// a topic must not show an older record where a newer one is gone.
pub(super) fn worth_until(shares: &[(u64, u64)], percent: u8) -> usize {
    let (mut dead, mut all, mut until) = (0_u64, 0_u64, 0);
    for (at, (dead_here, all_here)) in shares.iter().enumerate() {
        if *dead_here == 0 {
            continue;
        }
        dead = dead.saturating_add(*dead_here);
        all = all.saturating_add(*all_here);
        if dead.saturating_mul(100) >= all.saturating_mul(u64::from(percent)) {
            until = at + 1;
        }
    }
    until
}

#[cfg(test)]
mod tests {
    use super::*;

    // LOG-10, LOG-11: what is written again is never more than twice what is won (at 50 %).
    #[test]
    fn the_front_is_worth_it_as_far_as_half_of_it_is_dead() {
        assert_eq!(worth_until(&[], 50), 0);
        assert_eq!(worth_until(&[(0, 100), (49, 100)], 50), 0);
        assert_eq!(worth_until(&[(0, 100), (50, 100)], 50), 2);
        assert_eq!(worth_until(&[(10, 100), (90, 100), (10, 100)], 50), 2);
        assert_eq!(worth_until(&[(1, 100), (0, 7), (1, 100)], 0), 3);
        assert_eq!(worth_until(&[(0, 0)], 0), 0);
    }
}
