//! Readers of a reality that are the node's own: told of records like subscriptions, and none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::fanout::Interest;

/// One of the node's own that is told of records, until this is dropped.
#[derive(Debug)]
pub struct Attendance {
    interest: Interest,
    count: Arc<AtomicUsize>,
}

impl Attendance {
    pub(super) fn new(interest: Interest, count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        let count = Arc::clone(count);
        Self { interest, count }
    }

    /// From now on it is told again. Must be called before looking at the end of the log.
    pub fn look(&self) {
        self.interest.take();
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}
