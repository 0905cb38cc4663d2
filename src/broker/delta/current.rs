//! What there is to know now, for a subscriber who has nothing: of each key of a delta topic its
//! last base and the deltas since, of each key of another topic its last record.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::chains::{Chain, Key, follow};
use super::{Declared, Said};
use crate::broker::error::Error;
use crate::broker::filter::Filter;
use crate::log::{Found, Log, RecordRef, Sequence};
use crate::proto::view::RecordView;

/// Most keys that a subscription may have to begin with.
const KEYS_MAX: usize = 1 << 18;
/// How much is read at a time.
const READ_BYTES: usize = 1 << 20;

/// From where on each key counts, of what there was when the subscription began.
#[derive(Debug)]
pub(in crate::broker) struct Current {
    end: Sequence,
    from: HashMap<Key, u64>,
}

impl Current {
    /// Reads all records below `end` that `filter` matches. Blocks.
    ///
    /// # Errors
    /// There are too many keys; the log cannot be read.
    pub(in crate::broker) fn of(
        log: &Log,
        declared: &Arc<Declared>,
        filter: &Filter,
        end: Sequence,
    ) -> Result<Self, Error> {
        let wanted = filter.clone();
        let mut reader = log.topic_reader(Box::new(move |topic| wanted.matches(topic)));
        let mut chains: HashMap<Key, Chain> = HashMap::new();
        let mut next = log.bounds().first;
        while next < end {
            match reader.read(next, end, READ_BYTES)? {
                Found::Records(chunk) => {
                    let records = chunk.iter().filter(|one| filter.matches(one.topic));
                    for record in records {
                        note(&mut chains, declared, &record);
                    }
                    next = chunk.last.next();
                }
                // Whoever reads on is told of it.
                Found::Damaged { next: after, .. } => next = after.max(next.next()),
                Found::End => break,
            }
            if chains.len() > KEYS_MAX {
                return Err(Error::OverLimit {
                    field: "current",
                    unit: "keys",
                    found: chains.len(),
                    limit: KEYS_MAX,
                });
            }
        }
        let from = chains.into_iter().map(|(key, chain)| (key, chain.base));
        Ok(Self {
            end,
            from: from.collect(),
        })
    }

    /// The first record that counts; the end if none does.
    pub(in crate::broker) fn first(&self) -> Sequence {
        let first = self.from.values().min().copied();
        first.and_then(Sequence::new).unwrap_or(self.end)
    }

    /// Whether all from `next` on counts.
    pub(in crate::broker) fn is_over(&self, next: Sequence) -> bool {
        next >= self.end
    }

    /// Whether a record tells nothing that counts.
    pub(in crate::broker) fn passes_over(&self, record: &RecordRef<'_>) -> bool {
        if record.sequence >= self.end {
            return false;
        }
        let Some(key) = key_of(record) else {
            return true;
        };
        let from = self.from.get(&key);
        from.is_none_or(|from| record.sequence.get() < *from)
    }
}

fn key_of(record: &RecordRef<'_>) -> Option<Key> {
    let view = RecordView::parse(record.record).ok()?;
    Some(Key::of(record.topic, view.envelope.key))
}

fn note(chains: &mut HashMap<Key, Chain>, declared: &Declared, record: &RecordRef<'_>) {
    let Ok(view) = RecordView::parse(record.record) else {
        return;
    };
    let sequence = record.sequence.get();
    let said = Said::of(&view.envelope);
    let key = Key::of(record.topic, view.envelope.key);
    let is_delta = declared.is_delta(record.topic);
    let entry = chains.entry(key);
    let before = match &entry {
        Entry::Occupied(entry) => Some(*entry.get()),
        Entry::Vacant(_) => None,
    };
    let has_key = !view.envelope.key.is_empty();
    let after = if is_delta {
        follow(before, said, sequence).filter(|_| has_key)
    } else if said.ends && has_key {
        None
    } else {
        Some(Chain {
            base: sequence,
            last: sequence,
        })
    };
    match after {
        Some(chain) => drop(entry.insert_entry(chain)),
        None => {
            if let Entry::Occupied(entry) = entry {
                entry.remove();
            }
        }
    }
}
