//! The end of the log in memory: encoded records for whoever reads along.
//!
//! Bounded by bytes, each log's and those of all logs together. The oldest chunks leave first, of
//! the log used longest ago before all others; a reader that still needs them reads the files, and
//! comes back when it has caught up.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::chunk::Chunk;
use super::position::Sequence;
use super::state::State;

/// What a chunk costs beyond its bytes.
const OVERHEAD_BYTES: usize = 128;

/// Ring of the latest chunks, in order and without holes.
#[derive(Debug)]
pub(super) struct Tail {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    bytes_max: usize,
    shared: Option<Arc<TailBudget>>,
    /// When it was last written or read, in uses of the budget.
    used: AtomicU64,
}

/// The memory that the tails of many logs may take together.
#[derive(Debug)]
pub(super) struct TailBudget {
    bytes_max: AtomicUsize,
    held: AtomicUsize,
    /// Counts pushes, so that uses can be compared.
    uses: AtomicU64,
    logs: Mutex<Vec<Weak<State>>>,
}

impl Default for TailBudget {
    fn default() -> Self {
        Self {
            bytes_max: AtomicUsize::new(usize::MAX),
            held: AtomicUsize::new(0),
            uses: AtomicU64::new(0),
            logs: Mutex::default(),
        }
    }
}

impl TailBudget {
    pub(super) fn bound(&self, bytes: usize) {
        self.bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Counts the tail of `log` from now on, for as long as the log is there.
    pub(super) fn admit(self: &Arc<Self>, log: &Arc<State>) {
        {
            let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            logs.retain(|log| log.strong_count() > 0);
            logs.push(Arc::downgrade(log));
        }
        let mut tail = log.tail.write().unwrap_or_else(PoisonError::into_inner);
        self.held.fetch_add(tail.bytes, Ordering::Relaxed);
        tail.shared = Some(Arc::clone(self));
    }

    /// Bytes by which the tails exceed what they may hold, less `spare`.
    fn excess(&self, spare: usize) -> usize {
        let bytes_max = self.bytes_max.load(Ordering::Relaxed);
        let held = self.held.load(Ordering::Relaxed);
        held.saturating_sub(bytes_max.saturating_sub(spare))
    }

    /// Shrinks the tails of the logs used longest ago, until there is some room to spare, so that
    /// the next push does not look at all logs again. A tail in use at this moment is passed over:
    /// waiting for it would be waiting with the caller's own tail locked.
    fn shrink_others(&self) {
        let spare = self.bytes_max.load(Ordering::Relaxed) / 16;
        let logs: Vec<_> = {
            let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            logs.iter().filter_map(Weak::upgrade).collect()
        };
        let used = |log: Arc<State>| {
            let used = {
                let tail = log.tail.try_read().ok()?;
                (tail.bytes > 0).then(|| tail.used.load(Ordering::Relaxed))
            };
            Some((used?, log))
        };
        let mut by_use: Vec<_> = logs.into_iter().filter_map(used).collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        for (_, log) in by_use {
            if self.excess(spare) == 0 {
                break;
            }
            if let Ok(mut tail) = log.tail.try_write() {
                while self.excess(spare) > 0 && tail.pop() {}
            }
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl Tail {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            bytes: 0,
            bytes_max,
            shared: None,
            used: AtomicU64::new(0),
        }
    }

    pub(super) fn push(&mut self, chunk: Chunk) {
        let in_order = self.chunks.back().is_none_or(|last| last.last < chunk.base);
        assert!(
            in_order,
            "chunk {:?} is not after {:?}",
            chunk.base,
            self.chunks.back()
        );
        let bytes = chunk.records.len() + OVERHEAD_BYTES;
        self.bytes += bytes;
        self.chunks.push_back(chunk);
        if let Some(shared) = &self.shared {
            shared.held.fetch_add(bytes, Ordering::Relaxed);
            let uses = shared.uses.fetch_add(1, Ordering::Relaxed) + 1;
            self.used.store(uses, Ordering::Relaxed);
        }
        // A single chunk may exceed the bound: then it alone stays out.
        while self.bytes > self.bytes_max && self.pop() {}
        let Some(shared) = self.shared.clone() else {
            return;
        };
        if shared.excess(0) > 0 {
            shared.shrink_others();
            // Nobody else has anything left to give, or is in use.
            while shared.excess(0) > 0 && self.pop() {}
        }
    }

    /// Drops the oldest chunk; `false` if there is none.
    fn pop(&mut self) -> bool {
        let Some(oldest) = self.chunks.pop_front() else {
            return false;
        };
        let bytes = oldest.records.len() + OVERHEAD_BYTES;
        self.bytes -= bytes;
        if let Some(shared) = &self.shared {
            shared.held.fetch_sub(bytes, Ordering::Relaxed);
        }
        true
    }

    /// The chunk that holds `sequence`, or the first one after it if that is in a gap; `None` if
    /// it is no longer (or not yet) here.
    pub(super) fn at(&self, sequence: Sequence) -> Option<&Chunk> {
        if !self.holds(sequence) {
            return None;
        }
        if let Some(shared) = &self.shared {
            let uses = shared.uses.load(Ordering::Relaxed);
            self.used.store(uses, Ordering::Relaxed);
        }
        let at = self.chunks.partition_point(|chunk| chunk.last < sequence);
        self.chunks.get(at)
    }

    pub(super) fn holds(&self, sequence: Sequence) -> bool {
        self.chunks
            .front()
            .is_some_and(|first| first.base <= sequence)
            && self.chunks.back().is_some_and(|last| sequence <= last.last)
    }

    /// Drops what lies before `end`.
    pub(super) fn forget_before(&mut self, end: Sequence) {
        while self.chunks.front().is_some_and(|chunk| chunk.base < end) && self.pop() {}
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
