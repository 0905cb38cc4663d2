//! Tells subscriptions that records have come, without touching those that do not want them.
//!
//! Commit threads call [`Fanout::written`] and [`Fanout::durable`]; a subscription whose filter
//! matches is marked with the first sequence that it wants, and its subscriber is told once. No
//! record passes through here: subscribers read the log themselves.
//!
//! Invariant that lets a caught-up subscription skip to its mark: marks of one call are made in
//! ascending order of sequences, so that the first mark a subscriber can see is the smallest.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::filter::Filter;
use super::trie::Trie;
use crate::log::{Chunk, Sequence};

/// Which records a subscription may see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visibility {
    /// Only what is on disk.
    Durable,
    /// Also what is written and not yet flushed.
    WrittenToo,
}

/// Whoever holds subscriptions: is told on a commit thread, so must be quick and must not block.
pub trait Subscriber: Send + Sync + Debug {
    /// The subscription that it calls `key` has something to read. Not repeated until the
    /// subscription has taken its mark, unless the log behind it is another now, or gone.
    fn ready(&self, key: u64);
}

/// Which records make a subscription ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Those that its filter matches.
    Matching,
    /// All, because it ends at a place that may hold no matching record.
    All,
}

/// No match is known.
pub const NOTHING: u64 = u64::MAX;

/// One subscription as commit threads see it.
#[derive(Debug)]
struct Listener {
    subscriber: Arc<dyn Subscriber>,
    key: u64,
    visibility: Visibility,
    /// First visible match that the subscription has not been told of; [`NOTHING`] if none.
    pending_from: AtomicU64,
    /// The subscriber has been told and has not looked yet.
    told: AtomicBool,
    /// First written match that is not yet durable; only used under the lock of `awaiting`.
    awaiting_from: AtomicU64,
}

impl Listener {
    fn mark(&self, from: u64) {
        self.pending_from.fetch_min(from, Ordering::AcqRel);
        if !self.told.swap(true, Ordering::AcqRel) {
            self.subscriber.ready(self.key);
        }
    }
}

impl Listener {
    /// Tells even those who have been told and wait for something else than records.
    fn remind(&self) {
        self.pending_from.store(0, Ordering::Release);
        self.told.store(true, Ordering::Release);
        self.subscriber.ready(self.key);
    }
}

/// A listener in the index, compared by identity.
#[derive(Clone, Debug)]
struct Entry(Arc<Listener>);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[derive(Debug, Default)]
struct Index {
    matching: Trie<Entry>,
    all: Vec<Entry>,
}

#[derive(Debug, Default)]
struct Awaiting {
    listeners: Vec<Arc<Listener>>,
    written_end: u64,
    /// As it was last announced; what is written from here on will be announced later.
    durable_end: u64,
}

/// The subscriptions of one reality.
#[derive(Debug, Default)]
pub struct Fanout {
    index: RwLock<Index>,
    awaiting: Mutex<Awaiting>,
    /// Spares commit threads the work when nobody listens.
    len: AtomicUsize,
}

impl Fanout {
    /// Adds a subscription. It hears of everything that becomes visible to it from now on; what is
    /// visible already it must look for itself, afterwards.
    #[must_use]
    pub fn listen(
        self: &Arc<Self>,
        filter: &Filter,
        wanted: Wanted,
        visibility: Visibility,
        subscriber: Arc<dyn Subscriber>,
        key: u64,
    ) -> Interest {
        let listener = Arc::new(Listener {
            subscriber,
            key,
            visibility,
            pending_from: AtomicU64::new(NOTHING),
            told: AtomicBool::new(false),
            awaiting_from: AtomicU64::new(NOTHING),
        });
        let entry = Entry(Arc::clone(&listener));
        self.len.fetch_add(1, Ordering::SeqCst);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        match wanted {
            Wanted::Matching => index.matching.insert(filter, entry),
            Wanted::All => index.all.push(entry),
        }
        drop(index);
        if visibility == Visibility::Durable {
            self.await_what_is_written(&listener);
        }
        Interest {
            fanout: Arc::clone(self),
            filter: filter.clone(),
            wanted,
            listener,
        }
    }

    /// What was written before a subscription was added and is flushed afterwards was shown to
    /// others only. Nobody knows any more whether it matches, so it is taken to: else the next
    /// mark would let the subscription skip it.
    fn await_what_is_written(&self, listener: &Arc<Listener>) {
        let mut awaiting = self.awaiting.lock().unwrap_or_else(PoisonError::into_inner);
        let from = awaiting.durable_end;
        if awaiting.written_end > from {
            awaiting.saw(listener, from);
        }
    }

    /// Number of subscriptions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `group` has been written.
    pub fn written(&self, group: &Chunk) {
        let mut awaiting = self.awaiting.lock().unwrap_or_else(PoisonError::into_inner);
        awaiting.written_end = group.last.next().get();
        if self.len.load(Ordering::SeqCst) == 0 {
            return;
        }
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        for entry in &index.all {
            awaiting.saw(&entry.0, group.base.get());
        }
        if index.matching.is_empty() {
            return;
        }
        let mut previous = "";
        let mut seen = HashSet::new();
        for record in group.iter() {
            if record.topic == previous || !seen.insert(record.topic) {
                continue;
            }
            previous = record.topic;
            index.matching.matches(record.topic, |entry| {
                awaiting.saw(&entry.0, record.sequence.get());
            });
        }
    }

    /// Everything below `durable_end` is on disk.
    pub fn durable(&self, durable_end: Sequence) {
        let mut awaiting = self.awaiting.lock().unwrap_or_else(PoisonError::into_inner);
        let end = durable_end.get();
        awaiting.durable_end = awaiting.durable_end.max(end);
        let more = awaiting.written_end > end;
        awaiting.listeners.retain(|listener| {
            let from = listener.awaiting_from.load(Ordering::Relaxed);
            if from >= end {
                return true;
            }
            // Later matches have been folded into `from`; if some are not durable yet, the rest of
            // what is written must be taken to hold one.
            let rest = if more { end } else { NOTHING };
            listener.awaiting_from.store(rest, Ordering::Relaxed);
            listener.mark(from);
            more
        });
    }

    /// The log has been reopened: everybody looks again from where they are.
    pub fn look_again(&self) {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.matching.each(&mut |entry| entry.0.remind());
        for entry in &index.all {
            entry.0.remind();
        }
    }
}

impl Awaiting {
    fn saw(&mut self, listener: &Arc<Listener>, from: u64) {
        match listener.visibility {
            Visibility::WrittenToo => listener.mark(from),
            Visibility::Durable => {
                let known = listener.awaiting_from.load(Ordering::Relaxed);
                if known == NOTHING {
                    self.listeners.push(Arc::clone(listener));
                }
                if from < known {
                    listener.awaiting_from.store(from, Ordering::Relaxed);
                }
            }
        }
    }
}

/// A subscription's place in the index; leaves it when dropped.
#[derive(Debug)]
pub struct Interest {
    fanout: Arc<Fanout>,
    filter: Filter,
    wanted: Wanted,
    listener: Arc<Listener>,
}

impl Interest {
    /// Takes the mark: the first match not told of, or [`NOTHING`]. From now on the subscriber is
    /// told again. Must be called before looking at the end of the log.
    pub fn take(&self) -> u64 {
        // A swap, not a store: it must also see the mark of whoever found `told` still set.
        self.listener.told.swap(false, Ordering::AcqRel);
        self.listener.pending_from.swap(NOTHING, Ordering::AcqRel)
    }

    /// What made it ready.
    #[must_use]
    pub const fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Which records it may see.
    #[must_use]
    pub fn visibility(&self) -> Visibility {
        self.listener.visibility
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let entry = Entry(Arc::clone(&self.listener));
        let index = &self.fanout.index;
        let mut index = index.write().unwrap_or_else(PoisonError::into_inner);
        match self.wanted {
            Wanted::Matching => {
                index.matching.remove(&self.filter, &entry);
            }
            Wanted::All => index.all.retain(|one| *one != entry),
        }
        drop(index);
        self.fanout.len.fetch_sub(1, Ordering::SeqCst);
    }
}
