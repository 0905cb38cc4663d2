//! How many topics a tenant's logs hold (BRK-12).
//!
//! Counted only where there is a limit: by a hash of each topic, which a batch adds when it is queued
//! and which what the log says replaces every now and then. The topics of a reality count from when
//! it is first opened.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::broker::error::Error;
use crate::log::{NewRecord, TopicSummary};

/// The topics of one tenant together.
#[derive(Debug)]
pub(in crate::broker) struct TenantTopics {
    sum: AtomicU64,
    limit: Option<u64>,
    hasher: RandomState,
}

/// The topics of one reality.
#[derive(Debug)]
pub(super) struct RealityTopics {
    tenant: Arc<TenantTopics>,
    known: Mutex<HashSet<u64>>,
}

impl TenantTopics {
    pub(super) fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            sum: AtomicU64::new(0),
            limit,
            hasher: RandomState::new(),
        })
    }

    /// Most that there may be.
    pub(in crate::broker) const fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// How many there are, as far as they are counted.
    pub(in crate::broker) fn held(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

impl RealityTopics {
    pub(super) fn new(tenant: &Arc<TenantTopics>) -> Self {
        Self {
            tenant: Arc::clone(tenant),
            known: Mutex::default(),
        }
    }

    /// Notes the topics of `records`, all or none.
    pub(super) fn admit(&self, records: &[NewRecord]) -> Result<(), Error> {
        let Some(limit) = self.tenant.limit else {
            return Ok(());
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = Vec::new();
        for record in records {
            let topic = self.tenant.hasher.hash_one(&*record.topic);
            if known.insert(topic) {
                new.push(topic);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let wanted = new.len() as u64;
        let held = self.tenant.sum.fetch_add(wanted, Ordering::Relaxed);
        if held + wanted <= limit {
            return Ok(());
        }
        self.tenant.sum.fetch_sub(wanted, Ordering::Relaxed);
        for topic in new {
            known.remove(&topic);
        }
        Err(Error::TopicsFull {
            held,
            wanted,
            limit,
        })
    }

    /// Replaces what is known by what the log says.
    pub(super) fn set(&self, topics: &[TopicSummary]) {
        if self.tenant.limit.is_none() {
            return;
        }
        let hash = |topic: &TopicSummary| self.tenant.hasher.hash_one(topic.topic.as_bytes());
        let now: HashSet<u64> = topics.iter().map(hash).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Two steps, so that the sum stays above zero.
        self.tenant
            .sum
            .fetch_add(now.len() as u64, Ordering::Relaxed);
        self.tenant
            .sum
            .fetch_sub(known.len() as u64, Ordering::Relaxed);
        *known = now;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn records(topics: &[&str]) -> Vec<NewRecord> {
        let record = |topic: &&str| NewRecord {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            clock_entries: Bytes::new(),
            stamp: Bytes::new(),
            envelope: Bytes::new(),
        };
        topics.iter().map(record).collect()
    }

    // BRK-12: all realities together, and a batch that does not fit leaves nothing behind.
    #[test]
    fn topics_are_counted_once_and_refused_beyond_the_limit() {
        let tenant = TenantTopics::new(Some(3));
        let (a, b) = (RealityTopics::new(&tenant), RealityTopics::new(&tenant));
        a.admit(&records(&["x", "y", "x"])).unwrap();
        a.admit(&records(&["y"])).unwrap();
        assert_eq!(tenant.held(), 2);
        let refused = b.admit(&records(&["x", "z"])).unwrap_err();
        assert!(
            matches!(
                refused,
                Error::TopicsFull {
                    held: 2,
                    wanted: 2,
                    limit: 3
                }
            ),
            "{refused}"
        );
        b.admit(&records(&["z"])).unwrap();
        assert!(b.admit(&records(&["x"])).is_err());
        // The log says that some are gone.
        a.set(&[]);
        assert_eq!(tenant.held(), 1);
        b.admit(&records(&["x", "y"])).unwrap();
    }
}
