//! Holds every read against the log: nothing is missing, nothing goes back.

use std::collections::{BTreeMap, HashSet};

use super::super::event::{AppendOutcome, Durability, Ending, Operation, Read, Sight, Tick, What};
use super::super::violation::Rule;
use super::World;

impl World<'_> {
    pub(super) fn check_reads(&mut self) {
        for (at, operation, read) in self.reads() {
            match &read.topic {
                Some(topic) => self.check_topic_read(at, operation, read, topic),
                None => self.check_whole_read(at, operation, read),
            }
            let back = read.records.iter().map(|(sequence, _)| *sequence);
            let mut back = back.filter_map(|sequence| Some((sequence, self.given_up(sequence)?)));
            if let Some((sequence, cut)) = back.find(|(_, cut)| *cut < operation.start) {
                let what = format!("{sequence} was given up at {cut} and is there again");
                self.report(Rule::Phantom, &[at], what);
            }
        }
        self.check_streams();
        self.check_given_up();
    }

    /// Every sequence is there, known from elsewhere or not.
    pub(super) fn check_whole_read(&mut self, at: usize, operation: &Operation, read: &Read) {
        let shown: HashSet<u64> = read.records.iter().map(|(sequence, _)| *sequence).collect();
        let mut expected = read.from;
        let ends = read.records.iter().map(|(sequence, _)| *sequence);
        for end in ends.chain([read.next]) {
            // Numbers that were given up come in ranges of a million, so they are not counted out.
            while expected < end {
                let missing = expected;
                if let Some(last) = self.given_up_through(missing, operation.end) {
                    let again = self.places.range(missing..end.min(last.saturating_add(1)));
                    let mut again = again.map(|(sequence, _)| *sequence);
                    let again = again.find(|again| !self.may_be_gone(*again, operation.end));
                    if let Some(again) = again {
                        self.report_missing(at, operation, &shown, again);
                        break;
                    }
                    expected = last.saturating_add(1);
                    continue;
                }
                self.report_missing(at, operation, &shown, missing);
                break;
            }
            expected = expected.max(end.saturating_add(1));
        }
    }

    /// Last sequence of the range around this one that may be gone for whoever asks until `end`.
    fn given_up_through(&self, sequence: u64, end: Tick) -> Option<u64> {
        let past = self.history.lives.iter().filter(|life| life.end < end);
        let ranges = past.flat_map(|life| match &life.ending {
            Ending::Power { given_up } => given_up.as_slice(),
            Ending::Process => &[],
        });
        let last = ranges.filter(|range| range.contains(&sequence));
        last.map(|range| *range.end()).max()
    }

    pub(super) fn check_topic_read(
        &mut self,
        at: usize,
        operation: &Operation,
        read: &Read,
        topic: &str,
    ) {
        let shown: HashSet<u64> = read.records.iter().map(|(sequence, _)| *sequence).collect();
        let known = self.topics.get(topic).map_or(&[][..], Vec::as_slice);
        let start = known.partition_point(|sequence| *sequence < read.from);
        let end = known.partition_point(|sequence| *sequence < read.next);
        let missing = known.get(start..end).unwrap_or_default().iter();
        let missing: Vec<u64> = missing
            .filter(|sequence| !shown.contains(sequence))
            .filter(|sequence| !self.may_be_gone(**sequence, operation.end))
            .copied()
            .collect();
        for sequence in missing {
            self.report_missing(at, operation, &shown, sequence);
        }
    }

    fn report_missing(
        &mut self,
        at: usize,
        operation: &Operation,
        shown: &HashSet<u64>,
        sequence: u64,
    ) {
        let Some(&place) = self.places.get(&sequence) else {
            let what = format!("it passed over {sequence}, of which nobody knows");
            return self.report(Rule::Gap, &[at], what);
        };
        let siblings = self.append(place.append).values.iter();
        let mut siblings = siblings.filter_map(|value| self.sequences.get(&value.number));
        if siblings.any(|sibling| shown.contains(sibling)) {
            let what = format!("it shows a part of the batch of {sequence}, but not that");
            return self.report(Rule::Torn, &[place.append, at], what);
        }
        match self.known_before(sequence, operation.start) {
            Some(by) => {
                let what = format!("it has no {sequence}, which was known before it began");
                self.report(Rule::Lost, &[place.append, by, at], what);
            }
            None => {
                let what = format!("it passed over {sequence}");
                self.report(Rule::Gap, &[place.told_by, at], what);
            }
        }
    }

    /// An operation that acknowledged or showed a sequence and had ended by then.
    fn known_before(&self, sequence: u64, tick: Tick) -> Option<usize> {
        let place = self.places[&sequence];
        let tells = |operation: &Operation| match &operation.what {
            What::Append(append) => matches!(append.outcome, AppendOutcome::Stored { first, last }
                if (first..=last).contains(&sequence)),
            What::Read(read) => read
                .records
                .binary_search_by_key(&sequence, |(sequence, _)| *sequence)
                .is_ok(),
            What::Tail { .. } | What::Commit { .. } | What::Cursor { .. } => false,
        };
        let first = [place.append, place.told_by];
        let rest = 0..self.operations.len();
        first.into_iter().chain(rest).find(|&at| {
            let operation = &self.operations[at];
            operation.end < tick && tells(operation)
        })
    }

    /// Each read of a stream begins where the one before ended.
    pub(super) fn check_streams(&mut self) {
        let mut streams: BTreeMap<u32, Vec<(Tick, usize, &Read)>> = BTreeMap::new();
        for (at, operation, read) in self.reads() {
            if let Some(stream) = read.stream {
                let reads = streams.entry(stream).or_default();
                reads.push((operation.end, at, read));
            }
        }
        for reads in streams.values_mut() {
            reads.sort_by_key(|(end, ..)| *end);
            for pair in reads.windows(2) {
                let [(_, before, earlier), (_, after, later)] = pair else {
                    continue;
                };
                let (end, begin) = (earlier.next, later.from);
                let what = format!("one ended at {end}, the next of its stream began at {begin}");
                if begin < end {
                    self.report(Rule::Backwards, &[*before, *after], what);
                } else if begin > end {
                    self.report(Rule::Gap, &[*before, *after], what);
                }
            }
        }
    }

    /// Only what was never said to be durable may be given up.
    pub(super) fn check_given_up(&mut self) {
        if !self
            .history
            .lives
            .iter()
            .any(|life| life.ending != Ending::Process)
        {
            return;
        }
        let lost: HashSet<u64> = self
            .places
            .keys()
            .filter(|sequence| self.given_up(**sequence).is_some())
            .copied()
            .collect();
        for (at, operation) in self.operations.iter().enumerate() {
            let durable = match &operation.what {
                What::Append(append) => match append.outcome {
                    AppendOutcome::Stored { first, last }
                        if append.durability == Durability::Synced =>
                    {
                        (first..=last).find(|sequence| lost.contains(sequence))
                    }
                    AppendOutcome::Stored { .. }
                    | AppendOutcome::Refused
                    | AppendOutcome::Conflict { .. }
                    | AppendOutcome::Unknown => None,
                },
                What::Read(read) if read.sight == Sight::Durable => {
                    let mut shown = read.records.iter().map(|(sequence, _)| *sequence);
                    shown.find(|sequence| lost.contains(sequence))
                }
                What::Read(_) | What::Tail { .. } | What::Commit { .. } | What::Cursor { .. } => {
                    None
                }
            };
            if let Some(sequence) = durable {
                let append = self.places[&sequence].append;
                let what = format!("{sequence} was durable and has been given up");
                self.report(Rule::Lost, &[append, at], what);
            }
        }
    }
}
