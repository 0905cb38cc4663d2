//! Which keys a reality has: a fold of its topics `op.store.>`, so that lists and limits need not
//! read values, nor look at what is not a key.
//!
//! Holds names, never values; what it knows of a key is where its newest record stands and when that
//! expires. It follows the log when it is asked, and whoever loses it folds it again.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::key::TOPIC_PREFIX;
use crate::broker::error::Error;
use crate::broker::expiry::is_over;
use crate::broker::topic_rules;
use crate::log::{Bounds, Found, Log, Micros, RecordRef, Sequence};

/// Read at a time.
const READ_BYTES: usize = 1 << 20;

/// The keys of a reality that have a value, by topic.
#[derive(Debug)]
pub(in crate::broker) struct Names {
    live: BTreeMap<Box<str>, Entry>,
    /// How many keys each namespace has, by the prefix of its topics; those that have expired and
    /// have not been looked at since count still.
    counts: HashMap<Box<str>, usize>,
    /// Everything below has been taken.
    next: Sequence,
}

/// What is known of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// Sequence of its newest record.
    pub(super) revision: Sequence,
    /// When that expires, in milliseconds; 0 for never.
    pub(super) expires_at: u64,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            live: BTreeMap::new(),
            counts: HashMap::new(),
            next: Sequence::FIRST,
        }
    }
}

impl Names {
    /// Takes what the log has got since the last time. Blocks on the disk.
    pub(super) fn follow(&mut self, log: &Log) -> Result<(), Error> {
        let Bounds {
            first, durable_end, ..
        } = log.bounds();
        self.next = self.next.max(first);
        if self.next >= durable_end {
            return Ok(());
        }
        // What is in memory is read whole: the index would cost as much as there are keys.
        while self.next < durable_end && log.in_tail(self.next) {
            match log.read(self.next, durable_end, READ_BYTES)? {
                Found::Records(chunk) => {
                    chunk.iter().for_each(|record| self.take(&record));
                    self.next = chunk.last.next();
                }
                Found::Damaged { next, .. } => self.next = next,
                Found::End => self.next = durable_end,
            }
        }
        let mut reader = log.topic_reader(Box::new(|topic| topic.starts_with(TOPIC_PREFIX)));
        while self.next < durable_end {
            match reader.read(self.next, durable_end, READ_BYTES)? {
                Found::Records(chunk) => {
                    chunk.iter().for_each(|record| self.take(&record));
                    self.next = chunk.last.next();
                }
                Found::Damaged { next, .. } => self.next = next,
                Found::End => self.next = durable_end,
            }
        }
        Ok(())
    }

    fn take(&mut self, record: &RecordRef<'_>) {
        if !record.topic.starts_with(TOPIC_PREFIX) {
            return;
        }
        let facts = topic_rules::facts(record);
        if facts.tombstone {
            self.forget(record.topic);
            return;
        }
        let entry = Entry {
            revision: record.sequence,
            expires_at: facts.expires_at.map_or(0, Micros::as_millis),
        };
        if let Some(known) = self.live.get_mut(record.topic) {
            *known = entry;
            return;
        }
        self.live.insert(record.topic.into(), entry);
        if let Some(prefix) = prefix_of(record.topic) {
            match self.counts.get_mut(prefix) {
                Some(count) => *count += 1,
                None => drop(self.counts.insert(prefix.into(), 1)),
            }
        }
    }

    fn forget(&mut self, topic: &str) {
        if self.live.remove(topic).is_none() {
            return;
        }
        let Some(prefix) = prefix_of(topic) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(prefix) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(prefix);
            }
        }
    }

    /// Forgets what has expired, of all.
    pub(super) fn expire(&mut self, now: Micros) {
        let over = |entry: &Entry| entry.expires_at > 0 && is_over(entry.expires_at, now);
        let gone: Vec<Box<str>> = self
            .live
            .iter()
            .filter(|(_, entry)| over(entry))
            .map(|(topic, _)| topic.clone())
            .collect();
        gone.iter().for_each(|topic| self.forget(topic));
    }

    /// Keys of all namespaces.
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// Keys of the namespace whose topics begin with `prefix`.
    pub(super) fn count(&self, prefix: &str) -> usize {
        self.counts.get(prefix).copied().unwrap_or_default()
    }

    /// The keys whose topics begin with `prefix`, in their order, behind `after` if that is given,
    /// and without what has expired.
    pub(super) fn below<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        now: Micros,
    ) -> impl Iterator<Item = (&'a str, Entry)> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.live
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(topic, _)| topic.starts_with(prefix))
            .filter(move |(_, entry)| entry.expires_at == 0 || !is_over(entry.expires_at, now))
            .map(|(topic, entry)| (&**topic, *entry))
    }
}

/// `op.store.<namespace>.` of a key's topic.
fn prefix_of(topic: &str) -> Option<&str> {
    let end = topic.rfind('.')?;
    topic.get(..=end)
}
