//! Two realities held against each other: what they have in common by descent, where they differ
//! first, and what each has that the other need not have.
//!
//! Forks are compared from where they part; realities that are not related record by record from
//! the first sequence that both have. A record is compared by its topic and by what its producer
//! sent, not by what the node stamped on it. Memory does not grow with the realities.

use std::sync::Arc;

use super::error::Error;
use super::reality::Reality;
use crate::log::{Chunk, Found, Log, Sequence, TopicSummary};
use crate::proto::view::RecordView;

/// Records of each side that are looked at for the first difference.
pub const SCANNED_MAX: u64 = 1_000_000;
const READ_BYTES: usize = 1 << 20;

/// What two realities have in common and what not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Comparison {
    /// Whether one is a fork of the other, or both are of a third.
    pub related: bool,
    /// The last sequence that they have in common by descent; 0 = none.
    pub common_through: u64,
    /// The first sequence that was compared.
    pub compared_from: Sequence,
    /// Records that were compared and found equal.
    pub equal: u64,
    /// The comparison ended at [`SCANNED_MAX`], before any difference and before the end.
    pub unfinished: bool,
    /// Where they differ first, if they do as far as was compared.
    pub difference: Option<Difference>,
    /// What is in the first of the two since.
    pub a: Side,
    /// What is in the second of the two since.
    pub b: Side,
}

/// The first place where two realities are not the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Its sequence.
    pub sequence: Sequence,
    /// Topic of the record there in the first of the two.
    pub a: Option<String>,
    /// Topic of the record there in the second of the two.
    pub b: Option<String>,
}

/// One side of a comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Side {
    /// Its first sequence.
    pub first: Sequence,
    /// Its last sequence on disk; 0 = none.
    pub last: u64,
    /// Its topics from `compared_from` on.
    pub topics: Vec<TopicSummary>,
}

impl Comparison {
    /// Whether both hold the same records.
    #[must_use]
    pub const fn identical(&self) -> bool {
        self.difference.is_none() && !self.unfinished
    }
}

/// Compares two realities as far as they are on disk. Blocks on the disk.
///
/// # Errors
/// Either cannot be read, or has lost records to damage where it is compared.
pub fn compare(a: &Arc<Reality>, b: &Arc<Reality>) -> Result<Comparison, Error> {
    compare_up_to(a, b, SCANNED_MAX)
}

/// The same with another bound on the records looked at.
pub(super) fn compare_up_to(
    a: &Arc<Reality>,
    b: &Arc<Reality>,
    scanned_max: u64,
) -> Result<Comparison, Error> {
    let (a, b) = (a.log(), b.log());
    let bounds = (a.bounds(), b.bounds());
    let shorter = bounds.0.durable_end.min(bounds.1.durable_end);
    let common = a.common_end(&b);
    let first = bounds.0.first.max(bounds.1.first);
    let from = common.map_or(first, |end| end.min(shorter).max(first));
    let mut walk = (
        Walk::new(&a, from, bounds.0.durable_end),
        Walk::new(&b, from, bounds.1.durable_end),
    );
    let mut equal = 0;
    let (mut difference, mut unfinished) = (None, false);
    loop {
        let both = (walk.0.next()?, walk.1.next()?);
        let sequence = match &both {
            (None, None) => break,
            (Some(a), Some(b)) if a.sequence == b.sequence => {
                if a.topic == b.topic && a.sent == b.sent {
                    equal += 1;
                    if equal == scanned_max {
                        unfinished = !(walk.0.is_at_end() && walk.1.is_at_end());
                        break;
                    }
                    continue;
                }
                a.sequence
            }
            (Some(one), None) | (None, Some(one)) => one.sequence,
            (Some(a), Some(b)) => a.sequence.min(b.sequence),
        };
        let topic = |one: Option<Compared>| {
            one.filter(|one| one.sequence == sequence)
                .map(|one| one.topic)
        };
        difference = Some(Difference {
            sequence,
            a: topic(both.0),
            b: topic(both.1),
        });
        break;
    }
    Ok(Comparison {
        related: common.is_some(),
        common_through: common.map_or(0, |end| end.min(shorter).get() - 1),
        compared_from: from,
        equal,
        unfinished,
        difference,
        a: side(&a, from)?,
        b: side(&b, from)?,
    })
}

fn side(log: &Log, from: Sequence) -> Result<Side, Error> {
    let bounds = log.bounds();
    Ok(Side {
        first: bounds.first,
        last: bounds.durable_end.get() - 1,
        topics: log.topics_from(from)?,
    })
}

/// What is compared of a record.
#[derive(Debug)]
struct Compared {
    sequence: Sequence,
    topic: String,
    sent: bytes::Bytes,
}

/// Goes over the records of one log.
struct Walk<'l> {
    log: &'l Log,
    next: Sequence,
    end: Sequence,
    chunk: Option<(Chunk, usize)>,
}

impl<'l> Walk<'l> {
    const fn new(log: &'l Log, next: Sequence, end: Sequence) -> Self {
        Self {
            log,
            next,
            end,
            chunk: None,
        }
    }

    fn is_at_end(&self) -> bool {
        self.next >= self.end
    }

    fn next(&mut self) -> Result<Option<Compared>, Error> {
        loop {
            if let Some((chunk, at)) = &mut self.chunk {
                let rest = Chunk {
                    base: self.next.min(chunk.last),
                    last: chunk.last,
                    records: chunk.records.slice(*at..),
                };
                if let Some(record) = rest.iter().next() {
                    *at += record.field.len();
                    self.next = record.sequence.next();
                    let sent = RecordView::parse(record.record)
                        .map_or(record.record, |view| view.envelope.encoded);
                    return Ok(Some(Compared {
                        sequence: record.sequence,
                        topic: record.topic.to_owned(),
                        sent: chunk.records.slice_ref(sent),
                    }));
                }
                self.chunk = None;
            }
            if self.is_at_end() {
                return Ok(None);
            }
            match self.log.read(self.next, self.end, READ_BYTES)? {
                Found::Records(chunk) => self.chunk = Some((chunk, 0)),
                Found::Damaged { damage, .. } => return Err(crate::log::Error::from(damage).into()),
                Found::End => {
                    self.next = self.end;
                    return Ok(None);
                }
            }
        }
    }
}
