//! What comes out of a log: runs of encoded records.

use bytes::Bytes;

use super::error::Damage;
use super::position::{Micros, Sequence};
use super::record::Records;

/// Consecutive encoded records, shared, never copied.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Sequence of the first record.
    pub base: Sequence,
    /// Sequence of the last record.
    pub last: Sequence,
    /// The records as they are on disk, which is also the encoding of the `records` fields of
    /// `arqon.v1.Deliver`: tag, length, `Record`, again and again.
    pub records: Bytes,
}

/// One record of a [`Chunk`].
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// Its position.
    pub sequence: Sequence,
    /// When the log took it.
    pub appended_at: Micros,
    /// What it is indexed by.
    pub topic: &'a str,
    /// The encoded `arqon.v1.Record`.
    pub record: &'a [u8],
    /// Tag, length and record: what `Deliver.records` wants.
    pub field: &'a [u8],
}

/// What a read found.
#[derive(Clone, Debug)]
pub enum Found {
    /// Records; the next read starts after the last of them.
    Records(Chunk),
    /// A damaged range lies here; the next read starts at `next`.
    Damaged {
        /// What is wrong.
        damage: Damage,
        /// First sequence that can be read again.
        next: Sequence,
    },
    /// Nothing below the end asked for.
    End,
}

impl Chunk {
    /// Its records in order. The chunk must come from a [`super::Log`], which has verified it.
    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        Records::new(&self.records)
    }

    /// The records from `from` on and below `end`, about `bytes_max` bytes of them but at least
    /// one; `None` if there are none. Shares the bytes.
    #[must_use]
    pub fn between(&self, from: Sequence, end: Sequence, bytes_max: usize) -> Option<Self> {
        let whole = self.base >= from && self.last < end && self.records.len() <= bytes_max;
        if whole {
            return Some(self.clone());
        }
        let mut start = 0;
        let mut at = 0;
        let mut bounds: Option<(Sequence, Sequence)> = None;
        for record in self.iter() {
            let len = record.field.len();
            if record.sequence < from {
                start += len;
            } else if record.sequence >= end || (bounds.is_some() && at + len - start > bytes_max) {
                break;
            } else {
                let base = bounds.map_or(record.sequence, |(base, _)| base);
                bounds = Some((base, record.sequence));
            }
            at += len;
        }
        let (base, last) = bounds?;
        Some(Self {
            base,
            last,
            records: self.records.slice(start..at),
        })
    }
}
