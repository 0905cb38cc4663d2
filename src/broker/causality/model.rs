//! The answers against a naive model: random histories of producers that learn from what they
//! see, with gaps, damage and topics that may not be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::{ControlFlow, Range};

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use prost::Message as _;

use super::{BLOCK_BYTES, Error, History, Inquiry, Limits, Seen};
use crate::log::{Micros, RecordRef, Sequence};
use crate::proto::causal::{CausalAnswer, CausalRecord, Stop};
use crate::proto::clock::{Causality, ProducerClock};
use crate::proto::v1::{Record, VectorClock};

const KEY: &str = "n1/main";
const EVERYTHING: Limits = Limits {
    answers: usize::MAX,
    records: u64::MAX,
    bytes: u64::MAX,
};

fn at(sequence: u64) -> Sequence {
    Sequence::new(sequence).unwrap()
}

/// One event of a history in the making.
#[derive(Clone, Debug)]
struct Step {
    /// Who produces; the first sends no clock.
    producer: usize,
    /// Which earlier records it has seen, counted from the last.
    seen: Vec<usize>,
    secret: bool,
    /// Sequences left out before it.
    gap: u64,
}

#[derive(Clone, Debug)]
struct One {
    clock: VectorClock,
    topic: &'static str,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct Made {
    records: BTreeMap<u64, One>,
    lost: BTreeSet<u64>,
    end: u64,
    /// What a record is said to take in the log; 0: what it takes.
    field: Vec<u8>,
}

impl Made {
    fn of(steps: &[Step]) -> Self {
        let mut made = Self::default();
        let mut producers: Vec<ProducerClock> = (0..4)
            .map(|index| ProducerClock::new(format!("p{index}"), 0))
            .collect();
        let mut sequence = 0;
        for step in steps {
            sequence += 1 + step.gap;
            let clock = &mut producers[step.producer];
            for back in &step.seen {
                let seen = made.records.values().rev().nth(*back);
                if let Some(seen) = seen {
                    let entries = seen.clock.entries.iter();
                    clock.learn(entries.map(|(name, counter)| (name.as_str(), *counter)));
                }
            }
            let mut sent = if step.producer == 0 {
                VectorClock::default()
            } else {
                clock.tick()
            };
            // As the broker does it: its own entry is its own.
            sent.entries.insert(KEY.to_owned(), sequence);
            let topic = if step.secret { "secret" } else { "open" };
            made.insert(sequence, topic, sent);
        }
        made
    }

    fn insert(&mut self, sequence: u64, topic: &'static str, clock: VectorClock) {
        let record = Record {
            sequence,
            topic: topic.to_owned(),
            clock: Some(clock.clone()),
            ..Record::default()
        };
        let bytes = record.encode_to_vec();
        self.end = self.end.max(sequence + 1);
        self.records.insert(
            sequence,
            One {
                clock,
                topic,
                bytes,
            },
        );
    }

    fn ask(&mut self, limits: Limits, question: impl FnOnce(Inquiry<'_, Self>) -> Asked) -> Asked {
        question(Inquiry::new(self, &|topic| topic != "secret", limits))
    }

    fn is_readable(&self, sequence: u64) -> bool {
        self.records.contains_key(&sequence) && !self.lost.contains(&sequence)
    }

    fn is_shown(&self, sequence: u64) -> bool {
        self.is_readable(sequence) && self.records[&sequence].topic != "secret"
    }

    fn before(&self, a: u64, b: u64) -> bool {
        let (a, b) = (&self.records[&a].clock, &self.records[&b].clock);
        a.compare(b) == Causality::Before
    }

    fn shown(&self) -> impl Iterator<Item = u64> {
        let all = self.records.keys().copied();
        all.filter(|sequence| self.is_shown(*sequence))
    }

    /// Whether nothing that may be seen happened between the two.
    fn is_direct(&self, cause: u64, effect: u64) -> bool {
        let between = |x: u64| self.before(cause, x) && self.before(x, effect);
        self.before(cause, effect) && !self.shown().any(between)
    }

    /// Checks an answer whose members are those that `belongs` accepts.
    fn check(&self, answer: &CausalAnswer, limits: Limits, belongs: impl Fn(u64) -> bool) {
        let covered = answer.first..=answer.last;
        let of = answer.asked[0].sequence;
        assert!(covered.contains(&of));
        let members = |shown: bool| {
            let all = self.records.keys().copied();
            all.filter(|x| covered.contains(x) && *x != of && self.is_readable(*x))
                .filter(|x| self.is_shown(*x) == shown && belongs(*x))
                .collect::<Vec<_>>()
        };
        let mut expected = members(true);
        expected.sort_by_key(|x| (x.abs_diff(of), *x));
        assert_eq!(sequences(&answer.records), expected);
        assert_eq!(answer.hidden, members(false).len() as u64);
        let lost = self.lost.iter().filter(|x| covered.contains(x)).count() as u64;
        assert_eq!(answer.damaged, lost);
        assert_eq!(answer.complete, answer.stopped.is_none() && lost == 0);
        assert!(expected.len() <= limits.answers);
        match answer.stopped {
            Some(Stop::Limit) => assert_eq!(expected.len(), limits.answers),
            Some(Stop::Window) => assert!(answer.scanned <= limits.records),
            None => {}
        }
        let all: Vec<_> = answer.records.iter().chain(&answer.asked).collect();
        self.check_causes(&all);
    }

    /// Every direct cause among them is named, and nothing else.
    fn check_causes(&self, records: &[&CausalRecord]) {
        for effect in records {
            let causes: BTreeSet<u64> = records
                .iter()
                .map(|record| record.sequence)
                .filter(|cause| self.is_direct(*cause, effect.sequence))
                .collect();
            assert!(effect.causes.is_sorted_by(|a, b| a > b));
            let named: BTreeSet<u64> = effect.causes.iter().copied().collect();
            assert_eq!(named, causes, "causes of {}", effect.sequence);
        }
    }
}

type Asked = Result<CausalAnswer, Error<Infallible>>;

fn sequences(records: &[CausalRecord]) -> Vec<u64> {
    records.iter().map(|record| record.sequence).collect()
}

impl History for Made {
    type Error = Infallible;

    fn bounds(&self) -> Range<Sequence> {
        Sequence::FIRST..Sequence::at_least_first(self.end)
    }

    fn read(
        &mut self,
        range: Range<Sequence>,
        each: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
    ) -> Result<(), Infallible> {
        assert!(self.bounds().start <= range.start && range.end <= self.bounds().end);
        for (sequence, one) in self.records.range(range.start.get()..range.end.get()) {
            let here = at(*sequence);
            let seen = if self.lost.contains(sequence) {
                Seen::Lost(here..here.next())
            } else {
                let field = if self.field.is_empty() {
                    &one.bytes
                } else {
                    &self.field
                };
                Seen::Record(RecordRef {
                    sequence: here,
                    appended_at: Micros(*sequence),
                    topic: one.topic,
                    record: &one.bytes,
                    field,
                })
            };
            if each(seen).is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Long gaps make the search go through many blocks.
    let gap = prop_oneof![6 => Just(0_u64), 1 => 1_u64..400];
    let step = (
        0_usize..4,
        vec(0_usize..12, 0..3),
        prop::bool::weighted(0.2),
        gap,
    );
    let step = step.prop_map(|(producer, seen, secret, gap)| Step {
        producer,
        seen,
        secret,
        gap,
    });
    vec(step, 1..40)
}

fn histories() -> impl Strategy<Value = Made> {
    (steps(), btree_set(0_usize..60, 0..3)).prop_map(|(steps, lost)| {
        let mut made = Made::of(&steps);
        let all: Vec<u64> = made.records.keys().copied().collect();
        made.lost = lost.iter().filter_map(|at| all.get(*at).copied()).collect();
        made
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let answers = prop_oneof![Just(usize::MAX), 1_usize..12];
    let records = prop_oneof![Just(u64::MAX), 1_u64..1_500];
    (answers, records).prop_map(|(answers, records)| Limits {
        answers,
        records,
        bytes: u64::MAX,
    })
}

proptest! {
    // MSG-07: the past is what the clocks say is before, nearest first; what a limit leaves out
    // lies outside of the range that the answer names.
    #[test]
    fn past_is_what_the_clocks_say(mut made in histories(), limits in limits(), pick: prop::sample::Index) {
        let of = *pick.get(&made.records.keys().copied().collect::<Vec<_>>());
        let asked = made.ask(limits, |inquiry| inquiry.past(at(of)));
        if !made.is_shown(of) {
            let refused = matches!(asked, Err(Error::Hidden { .. } | Error::Damaged { .. }));
            prop_assert!(refused);
            return Ok(());
        }
        let answer = asked.unwrap();
        made.check(&answer, limits, |x| made.before(x, of));
        prop_assert_eq!(answer.last, of);
        if answer.stopped.is_none() {
            prop_assert_eq!(answer.first, 1);
        }
    }

    // MSG-07: what is concurrent is what the clocks do not order, on both sides.
    #[test]
    fn concurrent_is_what_the_clocks_do_not_order(mut made in histories(), limits in limits(), pick: prop::sample::Index) {
        let of = *pick.get(&made.records.keys().copied().collect::<Vec<_>>());
        let asked = made.ask(limits, |inquiry| inquiry.concurrent(at(of)));
        if !made.is_shown(of) {
            let refused = matches!(asked, Err(Error::Hidden { .. } | Error::Damaged { .. }));
            prop_assert!(refused);
            return Ok(());
        }
        let answer = asked.unwrap();
        made.check(&answer, limits, |x| !made.before(x, of) && !made.before(of, x));
        if answer.stopped.is_none() {
            prop_assert_eq!((answer.first, answer.last), (1, made.end - 1));
        }
    }

    // MSG-07: past, concurrent and the records that have it in their past are all there is.
    #[test]
    fn every_other_record_is_before_concurrent_or_after(steps in steps(), pick: prop::sample::Index) {
        let mut made = Made::of(&steps);
        let visible: Vec<u64> = made.shown().collect();
        prop_assume!(!visible.is_empty());
        let of = *pick.get(&visible);
        let mut all = vec![of];
        let before = made.ask(EVERYTHING, |inquiry| inquiry.past(at(of))).unwrap();
        let beside = made.ask(EVERYTHING, |inquiry| inquiry.concurrent(at(of))).unwrap();
        prop_assert!(before.complete && beside.complete);
        all.extend(sequences(&before.records));
        all.extend(sequences(&beside.records));
        for later in visible.iter().copied().filter(|x| *x > of) {
            let past = made.ask(EVERYTHING, |inquiry| inquiry.past(at(later))).unwrap();
            if sequences(&past.records).contains(&of) {
                all.push(later);
            }
        }
        all.sort_unstable();
        prop_assert_eq!(all, visible);
    }

    // MSG-07: every step of a path is a direct cause of the next one, and there is a path wherever
    // the one end happened before the other.
    #[test]
    fn every_step_of_a_path_is_a_direct_cause(
        mut made in histories(),
        limits in limits(),
        ends: (prop::sample::Index, prop::sample::Index),
    ) {
        let visible: Vec<u64> = made.shown().collect();
        prop_assume!(!visible.is_empty());
        let (from, to) = (*ends.0.get(&visible), *ends.1.get(&visible));
        let answer = made.ask(limits, |inquiry| inquiry.path(at(from), at(to))).unwrap();
        let expected = made.records[&from].clock.compare(&made.records[&to].clock);
        prop_assert_eq!(answer.relation, Some(expected));
        let steps = sequences(&answer.records);
        match expected {
            Causality::Before => {
                prop_assert_eq!(steps[0], from);
                for pair in steps.windows(2) {
                    prop_assert!(made.is_direct(pair[0], pair[1]), "{:?}", pair);
                }
                prop_assert_eq!(steps.last() == Some(&to), answer.stopped.is_none());
                prop_assert!(steps.len() <= limits.answers);
                made.check_causes(&answer.records.iter().collect::<Vec<_>>());
                if answer.stopped.is_none() {
                    prop_assert_eq!((answer.first, answer.last), (from, to));
                    let lost = made.lost.range(from..to).count() as u64;
                    prop_assert_eq!(answer.damaged, lost);
                    prop_assert_eq!(answer.complete, lost == 0);
                }
            }
            Causality::Equal => prop_assert_eq!(steps, [from]),
            Causality::After | Causality::Concurrent => prop_assert!(steps.is_empty()),
        }
    }

    // MSG-07: the part of a path that a limit leaves out is the path from where it ended.
    #[test]
    fn a_path_goes_on_where_it_was_cut(mut made in histories(), ends: (prop::sample::Index, prop::sample::Index)) {
        let visible: Vec<u64> = made.shown().collect();
        prop_assume!(!visible.is_empty());
        let (from, to) = (*ends.0.get(&visible), *ends.1.get(&visible));
        let whole = made.ask(EVERYTHING, |inquiry| inquiry.path(at(from), at(to))).unwrap();
        prop_assume!(whole.relation == Some(Causality::Before));
        let two = Limits { answers: 2, ..EVERYTHING };
        let mut pieces = vec![from];
        while pieces.last() != Some(&to) {
            let here = pieces[pieces.len() - 1];
            let piece = made.ask(two, |inquiry| inquiry.path(at(here), at(to))).unwrap();
            prop_assert_eq!(piece.records.len(), 2);
            pieces.push(piece.records[1].sequence);
        }
        prop_assert_eq!(pieces, sequences(&whole.records));
    }
}

fn plain(count: usize) -> Vec<Step> {
    let step = Step {
        producer: 0,
        seen: Vec::new(),
        secret: false,
        gap: 0,
    };
    vec![step; count]
}

// MSG-07: records of producers without clocks are ordered by the log.
#[test]
fn producers_without_clocks_are_ordered_by_the_log() {
    let mut made = Made::of(&plain(600));
    let past = made
        .ask(EVERYTHING, |inquiry| inquiry.past(at(500)))
        .unwrap();
    assert_eq!(sequences(&past.records), (1..500).rev().collect::<Vec<_>>());
    assert_eq!(past.asked[0].causes, [499]);
    let beside = made.ask(EVERYTHING, |inquiry| inquiry.concurrent(at(500)));
    let beside = beside.unwrap();
    assert!(beside.records.is_empty() && beside.complete);
    assert_eq!((beside.first, beside.last), (1, 600));
    let path = made
        .ask(EVERYTHING, |inquiry| inquiry.path(at(7), at(9)))
        .unwrap();
    assert_eq!(sequences(&path.records), [7, 8, 9]);
    // A near answer looks at what is near.
    let two = Limits {
        answers: 2,
        ..EVERYTHING
    };
    let near = made.ask(two, |inquiry| inquiry.past(at(600))).unwrap();
    assert_eq!(sequences(&near.records), [599, 598]);
    assert!(near.scanned <= 256, "{}", near.scanned);
    assert_eq!((near.stopped, near.first), (Some(Stop::Limit), 598));
}

// MSG-07: a block of large records is split, and the bytes are counted.
#[test]
fn large_records_are_taken_in_smaller_blocks() {
    let mut made = Made::of(&plain(40));
    made.field = vec![0; usize::try_from(BLOCK_BYTES / 4).unwrap()];
    let past = made
        .ask(EVERYTHING, |inquiry| inquiry.past(at(40)))
        .unwrap();
    assert_eq!(sequences(&past.records), (1..40).rev().collect::<Vec<_>>());
    assert!(past.complete);
    let beside = made.ask(EVERYTHING, |inquiry| inquiry.concurrent(at(20)));
    assert!(beside.unwrap().complete);

    let tight = Limits {
        bytes: BLOCK_BYTES * 3,
        ..EVERYTHING
    };
    for of in [1, 40] {
        let part = made.ask(tight, |inquiry| inquiry.past(at(of))).unwrap();
        let stopped = (of == 40).then_some(Stop::Window);
        assert_eq!(part.stopped, stopped);
        made.check(&part, tight, |x| x < of);
        let part = made.ask(tight, |inquiry| inquiry.concurrent(at(of)));
        let part = part.unwrap();
        assert_eq!(part.stopped, Some(Stop::Window));
        made.check(&part, tight, |_| false);
    }
    let path = made
        .ask(tight, |inquiry| inquiry.path(at(1), at(40)))
        .unwrap();
    assert_eq!(path.stopped, Some(Stop::Window));
    assert_eq!(sequences(&path.records), (1..=13).collect::<Vec<_>>());
    assert_eq!(path.last, 13);
    assert!(!path.complete);
}

// MSG-07: a clock that is no clock is damage, and not an answer.
#[test]
fn a_clock_that_cannot_be_decoded_is_counted() {
    let mut made = Made::of(&plain(5));
    if let Some(one) = made.records.get_mut(&3) {
        // Field 3 of three bytes, of which the entry claims more.
        one.bytes = vec![0x1a, 3, 0x0a, 9, 0];
    }
    let past = made.ask(EVERYTHING, |inquiry| inquiry.past(at(5))).unwrap();
    assert_eq!(sequences(&past.records), [4, 2, 1]);
    assert_eq!((past.damaged, past.complete), (1, false));
    let path = made.ask(EVERYTHING, |inquiry| inquiry.path(at(1), at(5)));
    assert_eq!(path.unwrap().damaged, 1);
    let of = made.ask(EVERYTHING, |inquiry| inquiry.past(at(3)));
    assert!(matches!(of, Err(Error::Clock { .. })));
    let of = made.ask(EVERYTHING, |inquiry| inquiry.past(at(6)));
    assert!(matches!(of, Err(Error::Missing { .. })));
}

// MSG-07: an entry counts by its name, wherever it stands in the clock; one of 0 is none.
#[test]
fn the_order_of_entries_does_not_matter() {
    let clock = |entries: &[(&str, u64)]| VectorClock {
        entries: entries
            .iter()
            .map(|(name, counter)| ((*name).to_owned(), *counter))
            .collect(),
    };
    let mut made = Made::default();
    made.insert(1, "open", clock(&[("z", 1), ("b", 2), ("none", 0)]));
    made.insert(2, "open", clock(&[("a", 1), ("b", 2), ("z", 2)]));
    made.insert(3, "open", clock(&[("zz", 1), ("b", 1)]));
    made.insert(4, "open", clock(&[("a", 1), ("b", 3), ("z", 9), ("zz", 1)]));
    let past = made.ask(EVERYTHING, |inquiry| inquiry.past(at(4))).unwrap();
    assert_eq!(sequences(&past.records), [3, 2, 1]);
    assert_eq!(past.asked[0].causes, [3, 2]);
    assert_eq!(past.records[1].causes, [1]);
    let beside = made.ask(EVERYTHING, |inquiry| inquiry.concurrent(at(3)));
    assert_eq!(sequences(&beside.unwrap().records), [2, 1]);
}
