//! What was submitted, acknowledged and shown: the truth that every reopened log is held against.
//!
//! Knows the promises of `arqonbus::log` and nothing of its bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;

use arqonbus::log::{
    AppendError, Appended, Chunk, Durability, Error, Found, Log, LossStatement, NewRecord,
    RecordRef, Sequence,
};
use arqonbus::proto::v1;
use bytes::Bytes;
use prost::Message as _;

use crate::dice::Dice;

pub(crate) const CLOCK_KEY: &str = "n1/main";

/// One record as it was made. Its number is the first eight bytes of its envelope.
#[derive(Clone, Debug)]
struct Made {
    topic: String,
    envelope: Bytes,
    batch: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Accepted, not heard of yet.
    Pending,
    /// Certainly not stored.
    Refused,
    /// May be stored or not.
    Unknown,
    /// Stored.
    Acknowledged,
}

#[derive(Clone, Debug)]
struct Batch {
    records: Range<u64>,
    durability: Durability,
    then: Option<Durability>,
    session: u32,
    fate: Fate,
    heard: Vec<Durability>,
}

/// How the session before this opening ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// `close` returned `Ok`, or there was no session.
    Clean,
    /// The process died; the page cache did not, and no sync had failed.
    Killed,
    /// Power was lost.
    PowerCut,
    /// Power was lost while the log was being opened or closed, so that it may count as either.
    Interrupted,
}

/// All that ever happened to one log.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    made: Vec<Made>,
    batches: Vec<Batch>,
    session: u32,
    /// Content of every sequence that anybody was told of or has read.
    seen: BTreeMap<Sequence, u64>,
    places: HashMap<u64, Sequence>,
    /// Sequences that were said to be on the disk.
    durable: BTreeSet<Sequence>,
    /// Sequences that a client was told of.
    acknowledged: BTreeSet<Sequence>,
    /// Sequences seen once that no opening since has found.
    lost: BTreeSet<Sequence>,
    /// Sequences that a loss statement has accounted for.
    accounted: Vec<(Sequence, Sequence)>,
    /// No sequence below it may be given to a new record.
    unused_from: Option<Sequence>,
    /// Power went while a recovery was under way: its statement, if it got that far, is in a file
    /// that nobody was handed.
    statement_unheard: bool,
}

impl History {
    /// Makes the records of a batch; the batch's number is its token.
    pub(crate) fn make(
        &mut self,
        shapes: &[(String, usize)],
        durability: Durability,
        then: Option<Durability>,
    ) -> (u64, Vec<NewRecord>) {
        let batch = self.batches.len();
        let start = self.made.len() as u64;
        let records = shapes
            .iter()
            .map(|(topic, len)| self.make_record(batch, topic, *len))
            .collect();
        self.batches.push(Batch {
            records: start..self.made.len() as u64,
            durability,
            then,
            session: self.session,
            fate: Fate::Pending,
            heard: Vec::new(),
        });
        (batch as u64, records)
    }

    fn make_record(&mut self, batch: usize, topic: &str, len: usize) -> NewRecord {
        let number = self.made.len() as u64;
        let mut envelope = number.to_le_bytes().to_vec();
        let mut filler = Dice::new(number);
        while envelope.len() < len {
            envelope.extend_from_slice(&filler.roll().to_le_bytes());
        }
        envelope.truncate(len.max(8));
        let envelope = Bytes::from(envelope);
        self.made.push(Made {
            topic: topic.to_owned(),
            envelope: envelope.clone(),
            batch,
        });
        NewRecord {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            clock_entries: Bytes::new(),
            stamp: Bytes::new(),
            envelope,
        }
    }

    fn batch(&mut self, token: u64) -> &mut Batch {
        let index = usize::try_from(token).expect("tokens are indexes");
        &mut self.batches[index]
    }

    /// The log refused the batch at once.
    pub(crate) fn refused(&mut self, token: u64) {
        self.batch(token).fate = Fate::Refused;
    }

    /// The sink was told.
    pub(crate) fn answered(&mut self, token: u64, outcome: &Result<Appended, AppendError>) {
        match outcome {
            Ok(appended) => self.acknowledged(token, *appended),
            Err(error) => {
                let batch = self.batch(token);
                assert!(
                    matches!(batch.fate, Fate::Pending | Fate::Acknowledged),
                    "batch {token} was answered after an error: {error}"
                );
                batch.fate = match (batch.fate, error) {
                    (Fate::Acknowledged, _) | (_, AppendError::Indeterminate { .. }) => {
                        Fate::Unknown
                    }
                    (
                        _,
                        AppendError::NoSpace { .. }
                        | AppendError::ReadOnly { .. }
                        | AppendError::Busy { .. }
                        | AppendError::ConditionNotMet { .. }
                        | AppendError::TooLarge { .. },
                    ) => Fate::Refused,
                };
            }
        }
    }

    fn acknowledged(&mut self, token: u64, appended: Appended) {
        let unused_from = self.unused_from;
        let batch = self.batch(token);
        assert!(
            matches!(batch.fate, Fate::Pending | Fate::Acknowledged),
            "batch {token} acknowledged after an error"
        );
        batch.fate = Fate::Acknowledged;
        let wanted = match batch.heard.len() {
            0 => Some(batch.durability),
            1 => batch.then,
            _ => None,
        };
        let wanted = wanted.expect("no acknowledgement that was not asked for");
        assert!(
            appended.durability >= wanted,
            "batch {token}: {appended:?}, wanted {wanted:?}"
        );
        batch.heard.push(appended.durability);
        let records = batch.records.clone();
        assert_eq!(
            appended.last.next().since(appended.first),
            records.end - records.start,
            "batch {token} was given {appended:?}"
        );
        if let Some(unused_from) = unused_from {
            assert!(
                appended.first >= unused_from,
                "batch {token} got {}, below {unused_from}, which may have been seen",
                appended.first
            );
        }
        for (index, number) in records.enumerate() {
            let sequence = appended.first.advance(index as u64);
            self.show(sequence, number);
            self.acknowledged.insert(sequence);
            if appended.durability == Durability::Synced {
                self.durable.insert(sequence);
            }
        }
    }

    /// Somebody now knows that `sequence` holds record `number`.
    fn show(&mut self, sequence: Sequence, number: u64) {
        if let Some(before) = self.seen.insert(sequence, number) {
            assert_eq!(before, number, "sequence {sequence} carries two contents");
        }
        if let Some(before) = self.places.insert(number, sequence) {
            assert_eq!(before, sequence, "record {number} stands at two sequences");
        }
        assert!(
            !self.lost.contains(&sequence),
            "sequence {sequence} was lost and is back"
        );
    }

    /// A chunk that observers or readers got.
    pub(crate) fn shown(&mut self, chunk: &Chunk, durable_end: Sequence) -> Vec<(Sequence, u64)> {
        let mut records = Vec::new();
        for record in chunk.iter() {
            let number = self.recognise(record);
            self.show(record.sequence, number);
            if record.sequence < durable_end {
                self.durable.insert(record.sequence);
            }
            records.push((record.sequence, number));
        }
        assert_eq!(records.first().map(|(first, _)| *first), Some(chunk.base));
        assert_eq!(records.last().map(|(last, _)| *last), Some(chunk.last));
        records
    }

    /// The observer was told that everything below `end` is on the disk.
    pub(crate) fn flushed(&mut self, end: Sequence) {
        let seen = self.seen.range(..end).map(|(sequence, _)| *sequence);
        self.durable
            .extend(seen.filter(|sequence| !self.lost.contains(sequence)));
    }

    /// The number of a record, after checking every byte of it.
    fn recognise(&self, record: RecordRef<'_>) -> u64 {
        let sequence = record.sequence;
        let decoded = v1::Record::decode(record.record).expect("a record is valid protobuf");
        assert_eq!(decoded.sequence, sequence.get());
        assert_eq!(decoded.appended_at, record.appended_at.0);
        assert_eq!(decoded.topic, record.topic);
        let clock = decoded.clock.expect("every record has a clock");
        assert_eq!(clock.entries.get(CLOCK_KEY), Some(&sequence.get()));
        let (body, stored) = record.record.split_at(record.record.len() - 4);
        assert_eq!(
            crc32fast::hash(&body[..body.len() - 1]).to_le_bytes(),
            stored,
            "checksum of {sequence}"
        );
        let number = decoded
            .envelope
            .first_chunk()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .expect("every envelope begins with its number");
        let made = usize::try_from(number)
            .ok()
            .and_then(|index| self.made.get(index))
            .unwrap_or_else(|| panic!("sequence {sequence} holds garbage, never submitted"));
        assert_eq!(decoded.envelope, made.envelope, "content of {sequence}");
        assert_eq!(decoded.topic, made.topic, "topic of {sequence}");
        let fate = self.batches[made.batch].fate;
        assert_ne!(
            fate,
            Fate::Refused,
            "sequence {sequence} holds a record that was refused"
        );
        number
    }

    /// Reads `from..end` in pieces; all of it counts as delivered.
    pub(crate) fn read(
        &mut self,
        log: &Log,
        from: Sequence,
        end: Sequence,
        bytes_max: usize,
    ) -> Result<Vec<(Sequence, u64)>, Error> {
        let durable_end = log.bounds().durable_end;
        let mut at = from;
        let mut records = Vec::new();
        loop {
            match log.read(at, end, bytes_max)? {
                Found::Records(chunk) => {
                    assert!(
                        chunk.base >= at && chunk.last < end,
                        "{chunk:?} read from {at}"
                    );
                    at = chunk.last.next();
                    records.extend(self.shown(&chunk, durable_end));
                }
                Found::Damaged { damage, .. } => panic!("no damage was planted: {damage}"),
                Found::End => return Ok(records),
            }
        }
    }

    /// Power went before an opening could answer.
    pub(crate) fn opening_was_interrupted(&mut self) {
        self.statement_unheard = true;
    }

    /// Holds a log that was just opened against all that was promised before.
    ///
    /// # Errors
    /// If the log cannot be read, which a sound disk never causes.
    pub(crate) fn check_opened(
        &mut self,
        log: &Log,
        statement: Option<&LossStatement>,
        ending: Ending,
    ) -> Result<(), Error> {
        let bounds = log.bounds();
        assert!(
            bounds.first <= bounds.durable_end && bounds.durable_end <= bounds.written_end,
            "{bounds:?}"
        );
        match ending {
            Ending::Clean => assert_eq!(statement, None, "loss stated after a clean close"),
            // A session that left nothing behind may as well not have been.
            Ending::Killed | Ending::PowerCut => assert!(
                statement.is_some() || !self.session_left_something(),
                "no loss statement after {ending:?}: {:?}",
                log.status()
            ),
            Ending::Interrupted => {}
        }
        self.session += 1;
        if let Some(statement) = statement {
            self.accounted.extend(statement.skipped);
            self.accounted.extend(statement.discarded);
            assert_eq!(statement.damages, [], "no damage was planted");
        }
        let readable = self.read(log, bounds.first, bounds.written_end, 4096)?;
        let present: BTreeSet<Sequence> = readable.iter().map(|(sequence, _)| *sequence).collect();

        self.check_survivors(&present, ending);
        self.check_batches(&readable);
        let lost: BTreeSet<Sequence> = self
            .seen
            .keys()
            .filter(|sequence| !present.contains(sequence) && !self.lost.contains(sequence))
            .copied()
            .collect();
        if std::mem::take(&mut self.statement_unheard) {
            self.accounted.extend(gaps(&present, bounds.written_end));
        }
        self.check_gaps(&present, bounds.written_end);
        self.check_statement(log, statement, &present, &lost);
        self.lost.extend(lost);

        let highest = self.seen.keys().next_back().copied();
        if let Some(highest) = highest {
            assert!(
                bounds.written_end > highest,
                "{highest} was seen once and would be used again: {bounds:?}"
            );
        }
        self.unused_from = highest.map(Sequence::next);
        Ok(())
    }

    fn session_left_something(&self) -> bool {
        let mut batches = self
            .batches
            .iter()
            .filter(|batch| batch.session == self.session);
        batches.any(|batch| batch.fate == Fate::Acknowledged)
    }

    fn check_survivors(&self, present: &BTreeSet<Sequence>, ending: Ending) {
        for sequence in &self.durable {
            assert!(
                present.contains(sequence),
                "sequence {sequence} was durable and is gone after {ending:?}; there is {}",
                Spans(present)
            );
        }
        if matches!(ending, Ending::Clean | Ending::Killed) {
            for sequence in self
                .seen
                .keys()
                .filter(|sequence| !self.lost.contains(sequence))
            {
                assert!(
                    present.contains(sequence),
                    "sequence {sequence} was written and is gone after {ending:?}; there is {}",
                    Spans(present)
                );
            }
        }
    }

    fn check_gaps(&self, present: &BTreeSet<Sequence>, end: Sequence) {
        for (first, last) in gaps(present, end) {
            assert!(
                self.is_accounted(first, last),
                "{first}..={last} is missing and no loss statement says so"
            );
        }
    }

    /// Whether loss statements name all of `first..=last`.
    fn is_accounted(&self, first: Sequence, last: Sequence) -> bool {
        let mut at = first;
        while at <= last {
            let mut named = self.accounted.iter();
            let Some((_, end)) = named.find(|(start, end)| (*start..=*end).contains(&at)) else {
                return false;
            };
            at = end.next();
        }
        true
    }

    /// Batches are there whole or not at all, in the order of their submission, and of one session
    /// only a beginning may have survived.
    fn check_batches(&self, readable: &[(Sequence, u64)]) {
        assert!(
            readable
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1),
            "records are not in the order of their submission"
        );
        let numbers: BTreeSet<u64> = readable.iter().map(|(_, number)| *number).collect();
        let mut missing_in = None;
        for (token, batch) in self.batches.iter().enumerate() {
            let found = numbers.range(batch.records.clone()).count() as u64;
            let whole = batch.records.end - batch.records.start;
            assert!(
                found == 0 || found == whole,
                "batch {token}: {found} of {whole} records"
            );
            if batch.fate == Fate::Refused {
                continue;
            }
            if found == 0 {
                missing_in = Some((token, batch.session));
            } else if let Some((missing, session)) = missing_in {
                assert_ne!(
                    session, batch.session,
                    "batch {missing} is gone but {token}, submitted after it, is there"
                );
            }
        }
    }

    fn check_statement(
        &self,
        log: &Log,
        statement: Option<&LossStatement>,
        present: &BTreeSet<Sequence>,
        lost: &BTreeSet<Sequence>,
    ) {
        let Some(statement) = statement else {
            assert!(lost.is_empty(), "lost without a statement: {lost:?}");
            return;
        };
        let last = log.bounds().written_end.get() - 1;
        let durable = self.durable.last().map_or(0, |last| last.get());
        assert!(
            (durable..=last).contains(&statement.durable_through),
            "durable through {durable} at least, {last} at most: {statement:?}"
        );
        let ranges = [statement.discarded, statement.skipped];
        for (first, final_one) in ranges.into_iter().flatten() {
            assert!(first <= final_one, "{statement:?}");
            assert_eq!(
                present.range(first..=final_one).next(),
                None,
                "said to be gone and is there: {statement:?}"
            );
        }
        for sequence in lost {
            assert!(
                self.is_accounted(*sequence, *sequence),
                "{sequence} is lost and no statement says so: {statement:?}"
            );
            let stated = ranges
                .into_iter()
                .flatten()
                .any(|(first, last)| (first..=last).contains(sequence));
            if stated && self.acknowledged.contains(sequence) {
                assert!(
                    statement.possibly_acknowledged,
                    "{sequence} was: {statement:?}"
                );
            }
        }
        if statement.discarded.is_some() {
            assert!(statement.discarded_bytes > 0, "{statement:?}");
        }
    }

    /// Whether every batch got exactly the answers it asked for.
    pub(crate) fn check_answers(&self) {
        for (token, batch) in self.batches.iter().enumerate() {
            if batch.fate == Fate::Acknowledged && batch.session == self.session {
                let asked = 1 + usize::from(batch.then.is_some());
                assert_eq!(batch.heard.len(), asked, "answers to batch {token}");
            }
            assert!(
                batch.fate != Fate::Pending || batch.session != self.session,
                "batch {token} was never answered"
            );
        }
    }

    /// How many sequences were said to be on the disk.
    pub(crate) fn durable_count(&self) -> usize {
        self.durable.len()
    }

    pub(crate) fn lost_count(&self) -> usize {
        self.lost.len()
    }
}

/// Stretches without records below `end`, the one after the last record included.
fn gaps(present: &BTreeSet<Sequence>, end: Sequence) -> Vec<(Sequence, Sequence)> {
    let mut gaps = Vec::new();
    let mut expected = Sequence::FIRST;
    for &at in present.iter().chain([&end]) {
        if let Some(last) = at.previous().filter(|last| *last >= expected) {
            gaps.push((expected, last));
        }
        expected = at.next();
    }
    gaps
}

/// Sequences in short: `1..=7 9..=12`.
struct Spans<'a>(&'a BTreeSet<Sequence>);

impl fmt::Display for Spans<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if_eq(&last.next()) {
                last = next;
            }
            write!(f, "{first}..={last} ")?;
        }
        Ok(())
    }
}
