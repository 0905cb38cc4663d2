//! Puts all that was told together to one log: each sequence one content, each record one
//! sequence, each batch whole.

use std::collections::HashMap;

use super::super::event::{AppendOutcome, Value};
use super::super::violation::Rule;
use super::{Place, World};

impl World<'_> {
    /// Puts all that was told together to one log.
    pub(super) fn check_content(&mut self) {
        for (at, _, append) in self.appends() {
            let AppendOutcome::Stored { first, last } = append.outcome else {
                continue;
            };
            let told = (last + 1).checked_sub(first);
            if told != Some(append.values.len() as u64) || first == 0 {
                let count = append.values.len();
                let what = format!("{count} records were acknowledged as {first}..={last}");
                self.report(Rule::Torn, &[at], what);
                continue;
            }
            for (sequence, value) in (first..).zip(&append.values) {
                self.claim(at, sequence, value);
            }
        }
        for (at, _, read) in self.reads() {
            let mut from = read.from;
            for (sequence, value) in &read.records {
                if *sequence < from {
                    let what = format!("it shows {sequence} where {from} or more had to follow");
                    self.report(Rule::Backwards, &[at], what);
                }
                if *sequence >= read.next {
                    let what = format!("it shows {sequence} and says it ended at {}", read.next);
                    self.report(Rule::Malformed, &[at], what);
                }
                from = sequence + 1;
                if read
                    .topic
                    .as_ref()
                    .is_some_and(|topic| *topic != value.topic)
                {
                    let what = format!("it shows {sequence} of topic {}", value.topic);
                    self.report(Rule::Phantom, &[at], what);
                }
                self.claim(at, *sequence, value);
            }
        }
        if self.violations.is_empty() {
            self.complete_unknown_batches();
        }
        let mut topics: HashMap<&str, Vec<u64>> = HashMap::new();
        for (sequence, place) in &self.places {
            let topic = self.value(place).topic.as_str();
            topics.entry(topic).or_default().push(*sequence);
        }
        self.topics = topics;
    }

    /// Operation `by` says that `value` is at `sequence`.
    fn claim(&mut self, by: usize, sequence: u64, value: &Value) {
        let number = value.number;
        let Some(&(append, index)) = self.made.get(&number) else {
            let what = format!("record {number} at {sequence} was never sent");
            return self.report(Rule::Phantom, &[by], what);
        };
        let sent = self.append(append);
        let original = &sent.values[usize::try_from(index).expect("an index")];
        if original != value {
            let what = format!("{original:?} was sent, {value:?} is at {sequence}");
            return self.report(Rule::Altered, &[append, by], what);
        }
        if let AppendOutcome::Refused | AppendOutcome::Conflict { .. } = sent.outcome {
            let what = format!("record {number} was refused and is at {sequence}");
            return self.report(Rule::RefusedStored, &[append, by], what);
        }
        if let Some(place) = self.places.get(&sequence)
            && place.number != number
        {
            let (other, told_by) = (place.number, place.told_by);
            let what = format!("sequence {sequence} is record {other} and record {number}");
            return self.report(Rule::Reused, &[told_by, by], what);
        }
        if let Some(&other) = self.sequences.get(&number)
            && other != sequence
        {
            let told_by = self.places[&other].told_by;
            let what = format!("record {number} is at {other} and at {sequence}");
            return self.report(Rule::Duplicated, &[told_by, by], what);
        }
        self.sequences.insert(number, sequence);
        self.places.entry(sequence).or_insert(Place {
            number,
            append,
            told_by: by,
        });
    }

    /// One record of a batch tells where all of it must be.
    fn complete_unknown_batches(&mut self) {
        for (at, _, append) in self.appends() {
            if append.outcome != AppendOutcome::Unknown {
                continue;
            }
            let found = (0_u64..).zip(&append.values).find_map(|(index, value)| {
                let sequence = *self.sequences.get(&value.number)?;
                Some((index, sequence))
            });
            let Some((index, sequence)) = found else {
                continue;
            };
            let told_by = self.places[&sequence].told_by;
            let Some(first) = sequence.checked_sub(index).filter(|first| *first > 0) else {
                let what = format!("its record no. {index} is at {sequence}");
                self.report(Rule::Torn, &[at, told_by], what);
                continue;
            };
            for (sequence, value) in (first..).zip(&append.values) {
                let number = value.number;
                let other = self.sequences.get(&number).copied();
                let here = self.places.get(&sequence).copied();
                if other.is_some_and(|other| other != sequence) {
                    let what = format!("record {number} is at {other:?} and not at {sequence}");
                    self.report(Rule::Torn, &[at, told_by], what);
                    break;
                }
                if let Some(here) = here.filter(|here| here.number != number) {
                    let what = format!(
                        "record {number} had to be at {sequence}, where record {} is",
                        here.number
                    );
                    self.report(Rule::Torn, &[at, told_by, here.told_by], what);
                    break;
                }
                self.sequences.insert(number, sequence);
                self.places.entry(sequence).or_insert(Place {
                    number,
                    append: at,
                    told_by,
                });
            }
        }
    }
}
