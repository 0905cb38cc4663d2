//! What to make of a log after its last session, however that ended.
//!
//! Only the last segment is looked at: an earlier one was flushed whole before its successor was
//! begun. The decision is a table ([`decide`]) over four facts. `docs/durability.md` explains it.

use std::path::Path;

use bytes::Bytes;

use super::body::BodyCodec;
use super::error::Damage;
use super::index::Index;
use super::position::{ByteOffset, Micros, Sequence};
use super::reader::index_scanned;
use super::scan::{Scan, Scanned};
use super::segment::{HEADER_BLOCK_BYTES, SegmentHeader};

/// The facts that decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the rows of a decision table"
)]
pub(super) struct Facts {
    /// The last good batch is the mark of a clean close.
    pub(super) closed: bool,
    /// Bytes that are no good batch follow the last good one.
    pub(super) bad: bool,
    /// A good batch follows the bad bytes.
    pub(super) later: bool,
    /// Some batch says that the bad place had been flushed.
    pub(super) flushed: bool,
}

/// What the end of a log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Closed, nothing to do.
    Clean,
    /// Not closed, but all that was written is good.
    Unclean,
    /// The last write is incomplete: cut it off.
    Torn,
    /// An unflushed write is missing although a later one is there: cut both off.
    LostWrite,
    /// Flushed data is damaged: cut nothing, take no writes.
    Corrupt,
}

/// The recovery table. Damage below the durable mark is never taken for a torn tail.
pub(super) fn decide(facts: Facts) -> Ending {
    match facts {
        Facts { flushed: true, .. } => Ending::Corrupt,
        Facts {
            bad: true,
            later: true,
            ..
        } => Ending::LostWrite,
        Facts {
            bad: true,
            later: false,
            ..
        } => Ending::Torn,
        Facts {
            bad: false,
            closed: true,
            ..
        } => Ending::Clean,
        Facts {
            bad: false,
            closed: false,
            ..
        } => Ending::Unclean,
    }
}

/// What was found in the last segment.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) ending: Ending,
    /// Index of what is good; for a corrupt log also of what lies behind the damage.
    pub(super) index: Index,
    /// `chain` for the next batch.
    pub(super) chain: u32,
    /// The next sequence.
    pub(super) next: Sequence,
    pub(super) last_appended_at: Micros,
    pub(super) epoch: u32,
    /// Every sequence up to this one was known to be flushed; 0 = none.
    pub(super) durable_through: u64,
    pub(super) reserved_end: u64,
    /// End of the last batch of records that is known to be flushed.
    pub(super) unflushed_at: ByteOffset,
    /// What has to be cut off.
    pub(super) cut: Option<Cut>,
    /// What is damaged for good.
    pub(super) damages: Vec<Damage>,
    /// By its header and its batches, no session has written to the log since it was made.
    pub(super) unopened: bool,
}

/// Bytes beyond the end of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cut {
    pub(super) start: ByteOffset,
    pub(super) end: ByteOffset,
    /// Sequences in them, as far as their headers and records tell.
    pub(super) sequences: Option<(Sequence, Sequence)>,
}

/// Looks at the last segment of a log: `bytes` are the whole file at `path`.
pub(super) fn survey(
    path: &Path,
    bytes: Bytes,
    header: &SegmentHeader,
    codec: &BodyCodec,
    index_interval_bytes: u32,
) -> Survey {
    let start = ByteOffset(HEADER_BLOCK_BYTES);
    let mut survey = Survey {
        ending: Ending::Unclean,
        index: Index::new(header.base, start, header.chain(), index_interval_bytes),
        chain: header.chain(),
        next: header.base,
        last_appended_at: header.created_at,
        epoch: header.epoch,
        // A segment is begun only when all before it is flushed.
        durable_through: header.base.get() - 1,
        reserved_end: header.reserved_end,
        unflushed_at: start,
        cut: None,
        damages: Vec::new(),
        unopened: false,
    };
    let mut closed = false;
    let mut first_bad: Option<Sequence> = None;
    let mut later = false;
    // Where each batch of records ends, to find the last flushed one.
    let mut ends: Vec<(ByteOffset, Sequence)> = Vec::new();
    let mut behind: Vec<Scanned> = Vec::new();

    for scanned in Scan::new(path, bytes, header).decoding(codec) {
        match &scanned {
            Scanned::Batch(batch) => {
                survey.durable_through = survey.durable_through.max(batch.header.durable_through);
                survey.reserved_end = survey.reserved_end.max(batch.reserved_end().unwrap_or(0));
                survey.epoch = survey.epoch.max(batch.header.epoch);
                if first_bad.is_some() {
                    later = true;
                } else {
                    survey.index.add(batch);
                    survey.chain = batch.next_chain;
                    survey.next = batch.header.end();
                    survey.last_appended_at = survey.last_appended_at.max(batch.header.appended_at);
                    closed = batch.header.is_close();
                    if !batch.header.is_mark() {
                        ends.push((survey.index.data_end, batch.header.end()));
                    }
                }
            }
            Scanned::Damaged(region) => {
                first_bad.get_or_insert(region.expected);
                survey.damages.push(region.damage.clone());
            }
            Scanned::End(_) => {}
        }
        if first_bad.is_some() {
            behind.push(scanned);
        }
    }

    // A fork begins in its parent's epoch. A reservation is made in a session.
    let new_fork = header.origin.is_some() && header.reserved_end == 0;
    survey.unopened = survey.epoch == header.epoch && (header.epoch == 0 || new_fork);
    let expected = survey.next;
    survey.ending = decide(Facts {
        closed,
        bad: first_bad.is_some(),
        later,
        flushed: survey.durable_through >= expected.get(),
    });
    // A mark is no proof of its own flush, so the marks behind the last flushed batch count as
    // unflushed even if they say that all records are on disk.
    survey.unflushed_at = ends
        .iter()
        .rfind(|(_, end)| end.get() - 1 <= survey.durable_through)
        .map_or(start, |(offset, _)| *offset);
    match survey.ending {
        Ending::Clean | Ending::Unclean => {}
        Ending::Torn | Ending::LostWrite => {
            survey.cut = Some(cut(survey.index.data_end, expected, &behind));
            survey.damages.clear();
        }
        Ending::Corrupt => keep_readable(&mut survey, &behind, path, expected),
    }
    survey
}

/// What lies behind `start`, where `expected` should stand. Sequences have no holes, so whatever is
/// found there, all before it were there too.
fn cut(start: ByteOffset, expected: Sequence, behind: &[Scanned]) -> Cut {
    let mut end = start;
    let mut sequences: Option<(Sequence, Sequence)> = None;
    let mut saw = |last: Sequence| {
        let high = sequences.map_or(last, |(_, high)| high.max(last));
        sequences = (high >= expected).then_some((expected, high));
    };
    for scanned in behind {
        match scanned {
            Scanned::Batch(batch) => {
                end = batch.offset.advance(batch.header.file_len());
                if let Some(last) = batch.header.end().previous()
                    && !batch.header.is_mark()
                {
                    saw(last);
                }
            }
            Scanned::Damaged(region) => {
                end = ByteOffset(region.range.end);
                let header = region
                    .bytes
                    .first_chunk()
                    .map(super::batch::BatchHeader::decode);
                if let Some(Ok(header)) = header
                    && let Some(last) = header.end().previous()
                    && !header.is_mark()
                {
                    saw(last);
                }
                for (_, record) in region.salvaged() {
                    saw(record.sequence);
                }
            }
            Scanned::End(_) => {}
        }
    }
    Cut {
        start,
        end,
        sequences,
    }
}

/// Indexes what lies behind the damage, so that every good record can still be read.
fn keep_readable(survey: &mut Survey, behind: &[Scanned], path: &Path, expected: Sequence) {
    for scanned in behind {
        index_scanned(&mut survey.index, scanned);
        match scanned {
            Scanned::Batch(batch) => survey.next = batch.header.end(),
            Scanned::Damaged(region) => {
                let last = region.salvaged().last();
                survey.next = last.map_or(survey.next, |(_, record)| record.sequence.next());
            }
            Scanned::End(_) => {}
        }
    }
    survey.index.end = survey.next;
    if survey.damages.is_empty() {
        // Nothing but zeros where a batch says that records had been flushed.
        survey.damages.push(Damage {
            path: path.to_owned(),
            offset: survey.index.data_end,
            what: "end of the log",
            expected: format!("records through {}", survey.durable_through),
            found: format!("zeros from sequence {expected} on"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // LOG-03: every row of the table.
    #[test]
    fn every_combination_of_facts_has_its_ending() {
        use Ending::{Clean, Corrupt, LostWrite, Torn, Unclean};
        let table = [
            // closed, bad, later, flushed
            ([false, false, false, false], Unclean),
            ([true, false, false, false], Clean),
            ([false, true, false, false], Torn),
            ([true, true, false, false], Torn),
            ([false, true, true, false], LostWrite),
            ([true, true, true, false], LostWrite),
            // A later batch without bad bytes before it cannot be; the ending is as without it.
            ([false, false, true, false], Unclean),
            ([true, false, true, false], Clean),
            ([false, false, false, true], Corrupt),
            ([true, false, false, true], Corrupt),
            ([false, false, true, true], Corrupt),
            ([true, false, true, true], Corrupt),
            ([false, true, false, true], Corrupt),
            ([true, true, false, true], Corrupt),
            ([false, true, true, true], Corrupt),
            ([true, true, true, true], Corrupt),
        ];
        for ([closed, bad, later, flushed], ending) in table {
            let facts = Facts {
                closed,
                bad,
                later,
                flushed,
            };
            assert_eq!(decide(facts), ending, "{facts:?}");
        }
    }
}
