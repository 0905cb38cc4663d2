//! What has become of tasks since the node started, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts over all tenants.
#[derive(Debug, Default)]
pub struct Counts {
    /// Tasks that were dispatched.
    pub dispatched: AtomicU64,
    /// Tasks that were given to an operator, again and again counted.
    pub given: AtomicU64,
    /// Of those, not for the first time.
    pub redelivered: AtomicU64,
    /// Tasks that are done.
    pub done: AtomicU64,
    /// Attempts that came to nothing.
    pub failed: AtomicU64,
    /// Outputs that did not fit.
    pub breaches: AtomicU64,
    /// Tasks that failed for good.
    pub dead: AtomicU64,
    /// Tasks whose deadline passed.
    pub expired: AtomicU64,
    /// Milliseconds from dispatch to the end, of those that are done.
    pub done_ms: AtomicU64,
}

impl Counts {
    /// All of them, in the order of their names above.
    #[must_use]
    pub fn all(&self) -> [u64; 9] {
        [
            &self.dispatched,
            &self.given,
            &self.redelivered,
            &self.done,
            &self.failed,
            &self.breaches,
            &self.dead,
            &self.expired,
            &self.done_ms,
        ]
        .map(|count| count.load(Ordering::Relaxed))
    }
}

/// Adds one.
pub(super) fn one_more(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
