//! The end of the log in memory: encoded records for whoever reads along.
//!
//! Bounded by bytes. The oldest chunks leave first; a reader that still needs them reads the
//! files, and comes back when it has caught up.

use std::collections::VecDeque;

use super::chunk::Chunk;
use super::position::Sequence;

/// What a chunk costs beyond its bytes.
const OVERHEAD_BYTES: usize = 128;

/// Ring of the latest chunks, in order and without holes.
#[derive(Debug)]
pub(super) struct Tail {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            bytes: 0,
            bytes_max,
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
        self.bytes += chunk.records.len() + OVERHEAD_BYTES;
        self.chunks.push_back(chunk);
        // A single chunk may exceed the bound: then it alone stays out.
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.chunks.pop_front() else {
                break;
            };
            self.bytes -= oldest.records.len() + OVERHEAD_BYTES;
        }
    }

    /// The chunk that holds `sequence`, or the first one after it if that is in a gap; `None` if
    /// it is no longer (or not yet) here.
    pub(super) fn at(&self, sequence: Sequence) -> Option<&Chunk> {
        if !self.holds(sequence) {
            return None;
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
        while let Some(oldest) = self.chunks.pop_front_if(|chunk| chunk.base < end) {
            self.bytes -= oldest.records.len() + OVERHEAD_BYTES;
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
