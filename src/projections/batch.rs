//! A batch of records on its way from a log into a sink: read, understood, and decided. The same
//! for a lane and for the jobs beside it, so that all of them come to the same rows (MSG-10).
//!
//! Moves nothing and appends nothing: that is for whoever has the batch.

use bytes::Bytes;

use super::fold::{self, Chain, Entry, Known, Outcome, Repeats};
use super::logs::{LogsError, matches};
use super::projection::{Change, Payloads, Poison, Projection, Source};
use super::sink::{Place, Sink, SinkError, Write};
use crate::log::{Found, Log, Micros, Sequence, TopicReader};
use crate::proto::view::RecordView;

/// A record on its way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) sequence: Sequence,
    pub(super) record: Bytes,
    pub(super) appended_at: Micros,
    pub(super) meaning: Result<Vec<Change>, Poison>,
}

/// Records of a projection's topics, and where to go on behind them.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) pending: Vec<Pending>,
    pub(super) upto: Sequence,
    /// Records that the log has lost, and ranges of them, that lay in between.
    pub(super) lost: Vec<std::ops::Range<Sequence>>,
}

/// How much a batch holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// Reads what a projection reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    pub(super) projection: &'a dyn Projection,
    pub(super) place: &'a Place,
    pub(super) payloads: &'a dyn Payloads,
}

impl<'a> Reading<'a> {
    /// A reader of its topics alone: for stretches of the log that are not at hand.
    pub(super) fn by_topic(&self, log: &Log) -> TopicReader {
        let patterns = self.projection.topics().to_vec();
        log.topic_reader(Box::new(move |topic| {
            patterns.iter().any(|pattern| matches(pattern, topic))
        }))
    }

    fn wants(&self, topic: &str) -> bool {
        let patterns = self.projection.topics();
        patterns.iter().any(|pattern| matches(pattern, topic))
    }

    /// Records of its topics from `next` on and before `end`.
    ///
    /// # Errors
    /// The log cannot be read, or does not begin so early any more.
    pub(super) fn read(
        &self,
        log: &Log,
        mut by_topic: Option<&mut TopicReader>,
        mut next: Sequence,
        end: Sequence,
        limits: Limits,
    ) -> Result<Batch, LogsError> {
        let mut batch = Batch {
            pending: Vec::new(),
            upto: end,
            lost: Vec::new(),
        };
        let mut bytes = 0;
        while next < end && bytes < limits.bytes {
            let found = match &mut by_topic {
                Some(reader) => reader.read(next, end, limits.bytes - bytes),
                None => log.read(next, end, limits.bytes - bytes),
            };
            let chunk = match found? {
                Found::Records(chunk) => chunk,
                Found::Damaged { next: after, .. } => {
                    let after = after.max(next.next());
                    batch.lost.push(next..after);
                    next = after;
                    continue;
                }
                Found::End => return Ok(batch),
            };
            for record in chunk.iter().filter(|record| self.wants(record.topic)) {
                if batch.pending.len() >= limits.records {
                    batch.upto = record.sequence;
                    return Ok(batch);
                }
                bytes += record.record.len();
                let bytes = chunk.records.slice_ref(record.record);
                match self.understand(bytes, record.sequence, record.appended_at) {
                    Some(understood) => batch.pending.push(understood),
                    None => batch.lost.push(record.sequence..record.sequence.next()),
                }
            }
            next = chunk.last.next();
        }
        batch.upto = next;
        Ok(batch)
    }

    /// `None` if it is no record of this protocol, which the log's checksums rule out.
    fn understand(
        &self,
        record: Bytes,
        sequence: Sequence,
        appended_at: Micros,
    ) -> Option<Pending> {
        let view = RecordView::parse(&record).ok()?;
        let meaning = self
            .projection
            .read(&self.source(&view, sequence, appended_at));
        Some(Pending {
            sequence,
            record,
            appended_at,
            meaning,
        })
    }

    /// A record, and whose it is.
    pub(super) const fn source(
        &self,
        record: &'a RecordView<'a>,
        sequence: Sequence,
        appended_at: Micros,
    ) -> Source<'a> {
        Source {
            tenant: self.place.tenant.as_str(),
            reality: self.place.reality.as_str(),
            sequence,
            appended_at,
            record,
            payloads: self.payloads,
        }
    }
}

/// What a batch comes to, record by record.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) writes: Vec<Write>,
    pub(super) outcomes: Vec<Outcome>,
}

/// Decides a batch against what is known, and what `sink` knows of the rest.
///
/// # Errors
/// The sink does not answer.
pub(super) async fn decide(
    known: &mut Known,
    sink: &dyn Sink,
    projection: &dyn Projection,
    place: &Place,
    pending: &[Pending],
    repeats: Repeats,
) -> Result<Decided, SinkError> {
    let tables = projection.tables();
    let alive = pending.iter().filter_map(|one| {
        let changes = one.meaning.as_ref().ok()?.clone();
        let sequence = one.sequence;
        Some(Entry { sequence, changes })
    });
    let entries: Vec<Entry> = alive.collect();
    let mut question = fold::question(tables, &entries);
    // The live way knows nothing before its batch, and need not encode every key again to see it.
    if !known.is_empty() {
        question
            .keys
            .retain(|(table, key)| !known.holds(*table, &key.encoded()));
    }
    if !question.keys.is_empty() {
        let answer = sink.look_up(projection, place, &question).await?;
        known.learn(question, answer);
    }
    let folded = known.fold(tables, entries, repeats);
    let mut decided = folded.outcomes.into_iter();
    let outcomes = pending.iter().map(|one| match one.meaning {
        Ok(_) => decided.next().unwrap_or(Outcome::Ignored),
        Err(_) => Outcome::Dead,
    });
    Ok(Decided {
        outcomes: outcomes.collect(),
        writes: folded.writes,
    })
}

/// The rolling hash behind a batch.
pub(super) fn chained(mut chain: Chain, pending: &[Pending], outcomes: &[Outcome]) -> Chain {
    for (one, outcome) in pending.iter().zip(outcomes) {
        chain.take(one.sequence, one.changes(), *outcome);
    }
    chain
}

impl Pending {
    /// The topic that it stands on.
    pub(super) fn topic(&self) -> Option<&str> {
        RecordView::parse(&self.record).ok().map(|view| view.topic)
    }

    /// What it changes; nothing where it is poison.
    pub(super) fn changes(&self) -> &[Change] {
        match &self.meaning {
            Ok(changes) => changes,
            Err(_) => &[],
        }
    }
}
