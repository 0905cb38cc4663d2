//! Records that are of no use any more are not delivered (BRK-08).
//!
//! Owns whether a record has expired, by the node's clock, and which records need not be asked: in
//! a log into which nothing that expires was appended, live readers pay nothing. Removes nothing:
//! that is the log's upkeep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::log::{Clock, Micros, RecordRef, Sequence};
use crate::proto::view;

/// What a reality knows of its records' expiry.
#[derive(Debug)]
pub(super) struct Expiry {
    clock: Arc<dyn Clock>,
    /// Records from here on were appended since it was opened.
    since: Sequence,
    /// Some of those expire.
    some: AtomicBool,
}

impl Expiry {
    /// Of a log that ends at `end`: what is in it already is not known.
    pub(super) const fn new(clock: Arc<dyn Clock>, end: Sequence) -> Self {
        let some = AtomicBool::new(false);
        Self {
            clock,
            since: end,
            some,
        }
    }

    /// A record that expires is about to be appended.
    pub(super) fn note(&self) {
        // Only once, so that those who look do not wait for each other's memory.
        if !self.some.load(Ordering::SeqCst) {
            self.some.store(true, Ordering::SeqCst);
        }
    }

    /// Notes the envelope of a record that is about to be appended, if it expires.
    pub(super) fn note_envelope(&self, envelope: &[u8]) {
        if view::expires_at_of_envelope(envelope) != 0 {
            self.note();
        }
    }

    /// Whether a record is not to be delivered any more.
    pub(super) fn has_passed(&self, record: &RecordRef<'_>) -> bool {
        if record.sequence >= self.since && !self.some.load(Ordering::SeqCst) {
            return false;
        }
        let end_ms = view::expires_at_of_record(record.record);
        u64::try_from(end_ms).is_ok_and(|end| end > 0 && is_over(end, self.clock.now()))
    }
}

/// Whether what expires at `end_ms` has at `now`.
pub(super) const fn is_over(end_ms: u64, now: Micros) -> bool {
    end_ms.saturating_mul(1_000) <= now.0
}
