//! How many bytes and topics a tenant's logs hold, and whether there is room for more (LOG-18,
//! BRK-12).
//!
//! Counted in memory, so that an append looks at no directory: a batch is added when it is queued,
//! and what each log says of itself replaces the sum of its batches every now and then. Where the
//! tenant has no limit nothing is counted.

mod topics;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::topics::RealityTopics;
pub(super) use self::topics::TenantTopics;
use super::error::Error;
use crate::log::{Access, NewRecord, Storage, TopicSummary};

/// Framing of a record in the log: lengths, checksum, times.
const FRAMING_BYTES: u64 = 48;
/// Zeros at the end of a segment are looked for in steps of this size.
const LOOK_BYTES: u64 = 256 << 10;

/// What one tenant's logs hold together.
#[derive(Debug)]
pub(super) struct TenantBytes {
    sum: AtomicU64,
    limit: Option<u64>,
    topics: Arc<TenantTopics>,
}

/// What one reality's log holds, as part of its tenant's sum.
#[derive(Debug)]
pub(super) struct RealityBytes {
    tenant: Arc<TenantBytes>,
    own: AtomicU64,
    topics: RealityTopics,
}

/// Room that was taken for a batch of which it is not known yet whether it is stored.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) bytes: Arc<RealityBytes>,
    pub(super) taken: u64,
}

impl Room {
    /// Nothing is stored.
    pub(super) fn give_back(&mut self) {
        self.bytes.give_back(std::mem::take(&mut self.taken));
    }
}

impl TenantBytes {
    pub(super) fn new(limit: Option<u64>, topics_max: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            sum: AtomicU64::new(0),
            limit,
            topics: TenantTopics::new(topics_max),
        })
    }

    /// Its topics.
    pub(super) const fn topics(&self) -> &Arc<TenantTopics> {
        &self.topics
    }

    /// Most bytes that the tenant may store.
    pub(super) const fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Bytes that it stores.
    pub(super) fn stored(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

impl RealityBytes {
    /// A reality of which nothing is counted yet.
    pub(super) fn new(tenant: &Arc<TenantBytes>) -> Arc<Self> {
        Arc::new(Self {
            tenant: Arc::clone(tenant),
            own: AtomicU64::new(0),
            topics: RealityTopics::new(tenant.topics()),
        })
    }

    /// Whether anybody wants to know.
    pub(super) fn counts(&self) -> bool {
        self.tenant.limit.is_some()
    }

    /// Whether topics are to be counted.
    pub(super) fn counts_topics(&self) -> bool {
        self.tenant.topics.limit().is_some()
    }

    /// Takes room for the topics of `records` that are new here.
    ///
    /// # Errors
    /// The tenant may not have so many.
    pub(super) fn admit(&self, records: &[NewRecord]) -> Result<(), Error> {
        self.topics.admit(records)
    }

    /// Replaces what was counted of its topics by what the log says.
    pub(super) fn set_topics(&self, topics: &[TopicSummary]) {
        self.topics.set(topics);
    }

    /// It is not there any more.
    pub(super) fn gone(&self) {
        self.set(0);
        self.topics.set(&[]);
    }

    /// Takes room for a batch of `records` with `bytes` in them.
    ///
    /// # Errors
    /// The tenant may not store so much.
    pub(super) fn reserve(&self, records: usize, bytes: usize) -> Result<u64, Error> {
        let Some(limit) = self.tenant.limit else {
            return Ok(0);
        };
        let wanted = bytes as u64 + records as u64 * FRAMING_BYTES;
        let stored = self.tenant.sum.fetch_add(wanted, Ordering::Relaxed);
        if stored.saturating_add(wanted) > limit {
            self.tenant.sum.fetch_sub(wanted, Ordering::Relaxed);
            return Err(Error::TenantBytesFull {
                stored,
                wanted,
                limit,
            });
        }
        self.own.fetch_add(wanted, Ordering::Relaxed);
        Ok(wanted)
    }

    /// Gives back room that was not used, as far as it is still counted: the log may have been
    /// asked since it was taken.
    pub(super) fn give_back(&self, bytes: u64) {
        let less = |own: u64| Some(own.saturating_sub(bytes));
        let before = self
            .own
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .unwrap_or_default();
        self.tenant
            .sum
            .fetch_sub(before.min(bytes), Ordering::Relaxed);
    }

    /// Replaces what was counted by what the log says.
    pub(super) fn set(&self, bytes: u64) {
        let before = self.own.swap(bytes, Ordering::Relaxed);
        // Two steps, so that the sum stays above zero.
        self.tenant.sum.fetch_add(bytes, Ordering::Relaxed);
        self.tenant.sum.fetch_sub(before, Ordering::Relaxed);
    }
}

/// Bytes of records and their framing in the closed log in `directory`: the lengths of its
/// segments, less the zeros that wait for records at the end of the last. Blocks.
///
/// # Errors
/// Any error of the file system.
pub(super) fn measure(storage: &dyn Storage, directory: &Path) -> std::io::Result<u64> {
    let mut segments = storage.list(directory)?;
    // One that is only prepared holds nothing and is named for it.
    segments
        .retain(|name| name.ends_with(".seg") && name.starts_with(|c: char| c.is_ascii_digit()));
    let mut sum = 0;
    for (at, name) in segments.iter().enumerate() {
        let file = storage.open(&directory.join(name), Access::Read)?;
        let mut end = file.len()?;
        if at + 1 == segments.len() {
            while end > 0 {
                let len = end.min(LOOK_BYTES);
                let read = usize::try_from(len).map_err(std::io::Error::other)?;
                let bytes = file.read(end - len, read)?;
                if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                    end = end - len + last as u64 + 1;
                    break;
                }
                end -= len;
            }
        }
        sum += end;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    // BRK-12: the sum is that of the realities, whatever was taken, given back and measured.
    #[test]
    fn the_sum_follows_its_realities() {
        let tenant = TenantBytes::new(Some(1_000), None);
        let (a, b) = (RealityBytes::new(&tenant), RealityBytes::new(&tenant));
        let taken = a.reserve(1, 400).unwrap();
        assert_eq!((taken, tenant.stored()), (448, 448));
        b.set(500);
        let refused = b.reserve(1, 100).unwrap_err();
        assert!(
            matches!(
                refused,
                Error::TenantBytesFull {
                    stored: 948,
                    wanted: 148,
                    limit: 1_000
                }
            ),
            "{refused}"
        );
        assert_eq!(tenant.stored(), 948);
        // Measured in between: what was taken is no longer counted.
        a.set(10);
        a.give_back(taken);
        assert_eq!(tenant.stored(), 500);
        b.set(0);
        assert_eq!(tenant.stored(), 0);
        assert_eq!(b.reserve(1, 900).unwrap(), 948);
    }

    // BRK-12: without a limit nothing is counted.
    #[test]
    fn nothing_is_counted_without_a_limit() {
        let tenant = TenantBytes::new(None, None);
        let reality = RealityBytes::new(&tenant);
        assert_eq!(reality.reserve(10, 1 << 40).unwrap(), 0);
        assert!(!reality.counts());
        assert_eq!(tenant.stored(), 0);
    }
}
