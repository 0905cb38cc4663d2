//! Histories made by hand: the checker must accept the good ones and reject each bad one for its
//! own reason and no other.

use std::collections::BTreeSet;

use super::checker::check;
use super::event::{
    Append, AppendOutcome, CommitOutcome, CursorSource, Durability, Ending, Expected, History,
    Life, NEVER, Operation, Read, Sight, Tick, Value, What,
};
use super::violation::{Rule, explain};

/// A history under way, in one life of a node unless said otherwise.
#[derive(Clone, Debug)]
struct Draft(History);

/// Record `number` of topic `t`, with a key of its own.
fn value(number: u64) -> Value {
    keyed(number, &format!("k{number}"))
}

fn keyed(number: u64, key: &str) -> Value {
    Value {
        number,
        topic: "t".into(),
        key: key.into(),
    }
}

fn stored(first: u64, last: u64) -> AppendOutcome {
    AppendOutcome::Stored { first, last }
}

fn consumer() -> String {
    "c".into()
}

impl Draft {
    fn new() -> Self {
        let life = Life {
            end: NEVER,
            ending: Ending::Process,
        };
        Self(History {
            operations: Vec::new(),
            lives: vec![life],
        })
    }

    fn and(mut self, process: u32, time: (Tick, Tick), what: What) -> Self {
        let operation = Operation {
            process,
            life: self.0.lives.len() - 1,
            start: time.0,
            end: time.1,
            what,
        };
        self.0.operations.push(operation);
        self
    }

    fn batch(
        self,
        process: u32,
        time: (Tick, Tick),
        values: Vec<Value>,
        outcome: AppendOutcome,
    ) -> Self {
        let append = Append {
            values,
            durability: Durability::Synced,
            expected: None,
            outcome,
        };
        self.and(process, time, What::Append(append))
    }

    /// A batch of its own process.
    fn append(self, time: (Tick, Tick), numbers: &[u64], outcome: AppendOutcome) -> Self {
        let process = u32::try_from(100 + self.0.operations.len()).expect("few operations");
        let values = numbers.iter().map(|number| value(*number)).collect();
        self.batch(process, time, values, outcome)
    }

    /// The same, acknowledged as written.
    fn written(mut self, time: (Tick, Tick), numbers: &[u64], first: u64) -> Self {
        let last = first + numbers.len() as u64 - 1;
        self = self.append(time, numbers, stored(first, last));
        if let Some(What::Append(append)) = self.0.operations.last_mut().map(|last| &mut last.what)
        {
            append.durability = Durability::Written;
        }
        self
    }

    /// The same, if `last` is the last sequence of `t`.
    fn expecting(
        mut self,
        last: u64,
        time: (Tick, Tick),
        number: u64,
        outcome: AppendOutcome,
    ) -> Self {
        self = self.append(time, &[number], outcome);
        if let Some(What::Append(append)) = self.0.operations.last_mut().map(|last| &mut last.what)
        {
            append.expected = Some(Expected {
                topic: "t".into(),
                last,
            });
        }
        self
    }

    /// A read from `from` to the end of the log, which shows these records.
    fn read(self, time: (Tick, Tick), from: u64, records: &[(u64, u64)]) -> Self {
        let next = records.last().map_or(from, |(sequence, _)| sequence + 1);
        let records = records.iter().map(|(at, number)| (*at, value(*number)));
        self.reads(time, from, records.collect(), next, true)
    }

    fn reads(
        self,
        time: (Tick, Tick),
        from: u64,
        records: Vec<(u64, Value)>,
        next: u64,
        is_end: bool,
    ) -> Self {
        let read = Read {
            stream: None,
            sight: Sight::Durable,
            topic: None,
            from,
            records,
            next,
            is_end,
        };
        self.and(9, time, What::Read(read))
    }

    /// A part of stream 1.
    fn streamed(mut self, time: (Tick, Tick), from: u64, records: &[(u64, u64)]) -> Self {
        self = self.read(time, from, records);
        if let Some(What::Read(read)) = self.0.operations.last_mut().map(|last| &mut last.what) {
            read.stream = Some(1);
            read.is_end = false;
        }
        self
    }

    /// The read before this call was of what is written.
    fn of_written(mut self) -> Self {
        if let Some(What::Read(read)) = self.0.operations.last_mut().map(|last| &mut last.what) {
            read.sight = Sight::Written;
        }
        self
    }

    /// The read before this call was of one topic.
    fn of_topic(mut self, topic: &str) -> Self {
        if let Some(What::Read(read)) = self.0.operations.last_mut().map(|last| &mut last.what) {
            read.topic = Some(topic.into());
        }
        self
    }

    fn tail(self, time: (Tick, Tick), end: u64) -> Self {
        let sight = Sight::Durable;
        self.and(8, time, What::Tail { sight, end })
    }

    fn commit(self, time: (Tick, Tick), through: u64, outcome: CommitOutcome) -> Self {
        let consumer = consumer();
        let what = What::Commit {
            consumer,
            through,
            outcome,
        };
        self.and(7, time, what)
    }

    fn cursor(self, time: (Tick, Tick), through: u64, source: CursorSource) -> Self {
        let consumer = consumer();
        let what = What::Cursor {
            consumer,
            through,
            source,
        };
        self.and(6, time, what)
    }

    /// The node dies and is started again.
    fn killed(self, at: Tick) -> Self {
        self.ended(at, Ending::Process)
    }

    fn power_cut(self, at: Tick, first: u64, last: u64) -> Self {
        let given_up = vec![first..=last];
        self.ended(at, Ending::Power { given_up })
    }

    fn ended(mut self, at: Tick, ending: Ending) -> Self {
        if let Some(life) = self.0.lives.last_mut() {
            *life = Life { end: at, ending };
        }
        self.0.lives.push(Life {
            end: NEVER,
            ending: Ending::Process,
        });
        self
    }
}

const UNKNOWN: AppendOutcome = AppendOutcome::Unknown;
const REFUSED: AppendOutcome = AppendOutcome::Refused;

/// Two batches, one after the other: records 1 and 2, then 3.
fn two_batches() -> Draft {
    Draft::new()
        .append((1, 2), &[1, 2], stored(1, 2))
        .append((3, 4), &[3], stored(3, 3))
}

/// Three records and a cursor that is confirmed at 2.
fn committed() -> Draft {
    let confirmed = CommitOutcome::Stored;
    two_batches()
        .read((5, 6), 1, &[(1, 1), (2, 2), (3, 3)])
        .commit((7, 8), 2, confirmed)
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn good_histories() -> Vec<(&'static str, Draft)> {
    let conflict = |last| AppendOutcome::Conflict { last };
    vec![
        ("nothing happened", Draft::new()),
        (
            "one after the other",
            two_batches().read((5, 6), 1, &[(1, 1), (2, 2), (3, 3)]),
        ),
        (
            "appends at the same time, in either order",
            Draft::new()
                .append((1, 4), &[1], stored(2, 2))
                .append((2, 3), &[2], stored(1, 1))
                .read((5, 6), 1, &[(1, 2), (2, 1)]),
        ),
        (
            "a read at the same time as an append that does not see it",
            Draft::new()
                .append((1, 4), &[1], stored(1, 1))
                .read((2, 5), 1, &[])
                .read((6, 7), 1, &[(1, 1)]),
        ),
        (
            "an unknown append that is there",
            Draft::new()
                .append((1, 2), &[1, 2], UNKNOWN)
                .read((3, 4), 1, &[(1, 1), (2, 2)]),
        ),
        (
            "an unknown append that comes late",
            Draft::new()
                .append((1, 2), &[1], UNKNOWN)
                .read((3, 4), 1, &[])
                .read((5, 6), 1, &[(1, 1)]),
        ),
        (
            "an unknown append that is not there, and a refused one",
            Draft::new()
                .append((1, 2), &[1, 2], UNKNOWN)
                .append((3, 4), &[3], REFUSED)
                .append((5, 6), &[4], stored(1, 1))
                .read((7, 8), 1, &[(1, 4)]),
        ),
        (
            "written, not yet durable, then durable",
            Draft::new()
                .written((1, 2), &[1], 1)
                .read((3, 4), 1, &[(1, 1)])
                .of_written()
                .read((5, 6), 1, &[])
                .read((7, 8), 1, &[(1, 1)]),
        ),
        (
            "written and kept over the death of the node",
            Draft::new()
                .written((1, 2), &[1], 1)
                .killed(3)
                .read((4, 5), 1, &[(1, 1)]),
        ),
        (
            "written and given up in a power cut",
            Draft::new()
                .append((1, 2), &[1], stored(1, 1))
                .written((3, 4), &[2], 2)
                .power_cut(5, 2, 99)
                .append((6, 7), &[3], stored(100, 100))
                .read((8, 9), 1, &[(1, 1), (100, 3)]),
        ),
        (
            "a number that nobody had been told, given up and given again",
            Draft::new()
                .append((1, 2), &[1], UNKNOWN)
                .power_cut(3, 1, 1)
                .append((4, 5), &[2], stored(1, 1))
                .read((6, 7), 1, &[(1, 2)]),
        ),
        (
            "a stream and a read of one topic",
            two_batches()
                .streamed((5, 6), 1, &[(1, 1)])
                .streamed((5, 7), 2, &[(2, 2), (3, 3)])
                .read((8, 9), 2, &[(2, 2), (3, 3)])
                .of_topic("t"),
        ),
        (
            "conditions met and not met",
            Draft::new()
                .expecting(0, (1, 2), 1, stored(1, 1))
                .expecting(1, (3, 4), 2, stored(2, 2))
                .expecting(1, (5, 6), 3, conflict(2))
                .read((7, 8), 1, &[(1, 1), (2, 2)]),
        ),
        (
            "a conflict at the same time as its cause",
            Draft::new()
                .append((1, 4), &[1], stored(1, 1))
                .expecting(0, (2, 3), 2, conflict(1))
                .read((5, 6), 1, &[(1, 1)]),
        ),
        (
            "cursors that grow",
            committed()
                .cursor((9, 10), 2, CursorSource::Stored)
                .commit((11, 13), 3, CommitOutcome::Unknown)
                .cursor((12, 14), 2, CursorSource::Stored)
                .killed(15)
                .cursor((16, 17), 3, CursorSource::Resumed),
        ),
        (
            "an earlier commit after a later one",
            committed()
                .commit((9, 10), 1, CommitOutcome::Stored)
                .cursor((11, 12), 2, CursorSource::Stored),
        ),
        (
            "a resumption at a cursor on its way, which is lost",
            committed()
                .commit((9, 12), 3, CommitOutcome::Unknown)
                .cursor((10, 11), 3, CursorSource::Resumed)
                .killed(13)
                .cursor((14, 15), 2, CursorSource::Stored),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn bad_contents() -> Vec<(&'static str, Rule, Draft)> {
    let shown = |records: Vec<(u64, Value)>, next| {
        Draft::new()
            .append((1, 2), &[1, 2], UNKNOWN)
            .reads((3, 4), 1, records, next, true)
    };
    vec![
        (
            "a record that nobody sent",
            Rule::Phantom,
            two_batches().read((5, 6), 1, &[(1, 1), (2, 2), (3, 3), (4, 4)]),
        ),
        (
            "a record of another topic than was asked for",
            Rule::Phantom,
            two_batches().read((5, 6), 1, &[(1, 1)]).of_topic("u"),
        ),
        (
            "an end behind a record of which nobody knows",
            Rule::Phantom,
            two_batches()
                .read((5, 6), 1, &[(1, 1), (2, 2), (3, 3)])
                .tail((7, 8), 5),
        ),
        (
            "a record that was given up and is back",
            Rule::Phantom,
            Draft::new()
                .written((1, 2), &[1], 1)
                .power_cut(3, 1, 9)
                .read((4, 5), 1, &[(1, 1)])
                .of_written(),
        ),
        (
            "a record with another key",
            Rule::Altered,
            shown(vec![(1, keyed(1, "other")), (2, value(2))], 3),
        ),
        (
            "a refused record",
            Rule::RefusedStored,
            Draft::new()
                .append((1, 2), &[1], REFUSED)
                .read((3, 4), 1, &[(1, 1)]),
        ),
        (
            "a record refused in a conflict",
            Rule::RefusedStored,
            Draft::new()
                .expecting(7, (1, 2), 1, AppendOutcome::Conflict { last: 0 })
                .read((3, 4), 1, &[(1, 1)]),
        ),
        (
            "one sequence acknowledged twice",
            Rule::Reused,
            Draft::new()
                .append((1, 2), &[1], stored(1, 1))
                .append((3, 4), &[2], stored(1, 1)),
        ),
        (
            "a sequence that has another content for another reader",
            Rule::Reused,
            Draft::new()
                .append((1, 2), &[1], UNKNOWN)
                .append((1, 3), &[2], UNKNOWN)
                .read((4, 5), 1, &[(1, 1)])
                .read((6, 7), 1, &[(1, 2)]),
        ),
        (
            "a sequence used again after a power cut",
            Rule::Reused,
            Draft::new()
                .written((1, 2), &[1], 1)
                .power_cut(3, 1, 1)
                .append((4, 5), &[2], stored(1, 1)),
        ),
        (
            "an unknown append that is there twice",
            Rule::Duplicated,
            Draft::new()
                .append((1, 2), &[1], UNKNOWN)
                .read((3, 4), 1, &[(1, 1), (2, 1)]),
        ),
        (
            "an acknowledged record that is somewhere else",
            Rule::Duplicated,
            Draft::new().append((1, 2), &[1], stored(1, 1)).reads(
                (3, 4),
                2,
                vec![(2, value(1))],
                3,
                true,
            ),
        ),
        (
            "an acknowledgement of another length",
            Rule::Torn,
            Draft::new().append((1, 2), &[1, 2], stored(1, 3)),
        ),
        (
            "half of an unknown batch, at the end",
            Rule::Torn,
            shown(vec![(1, value(1))], 3),
        ),
        (
            "half of an unknown batch, another record in its place",
            Rule::Torn,
            Draft::new()
                .append((1, 2), &[1, 2], UNKNOWN)
                .append((3, 4), &[3], stored(2, 2))
                .read((5, 6), 1, &[(1, 1), (2, 3)]),
        ),
        (
            "the second half of an unknown batch alone",
            Rule::Torn,
            shown(vec![(1, value(2))], 2),
        ),
        (
            "an unknown batch in the wrong order",
            Rule::Torn,
            shown(vec![(1, value(2)), (2, value(1))], 3),
        ),
        (
            "an unknown batch in two pieces",
            Rule::Torn,
            Draft::new()
                .append((1, 2), &[1, 2], UNKNOWN)
                .append((3, 4), &[3], stored(2, 2))
                .read((5, 6), 1, &[(1, 1), (2, 3), (3, 2)]),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn bad_reads() -> Vec<(&'static str, Rule, Draft)> {
    vec![
        (
            "a record twice in one read",
            Rule::Backwards,
            two_batches().read((5, 6), 1, &[(1, 1), (1, 1), (2, 2), (3, 3)]),
        ),
        (
            "records in the wrong order",
            Rule::Backwards,
            two_batches().reads(
                (5, 6),
                1,
                vec![(2, value(2)), (1, value(1)), (3, value(3))],
                4,
                true,
            ),
        ),
        (
            "a stream that goes back",
            Rule::Backwards,
            two_batches()
                .streamed((5, 6), 1, &[(1, 1), (2, 2)])
                .streamed((5, 7), 2, &[(2, 2), (3, 3)]),
        ),
        (
            "a stream that leaves something out",
            Rule::Gap,
            two_batches()
                .streamed((5, 6), 1, &[(1, 1)])
                .streamed((5, 7), 3, &[(3, 3)]),
        ),
        (
            "a sequence of which nobody knows",
            Rule::Gap,
            Draft::new()
                .append((1, 2), &[1], stored(1, 1))
                .append((3, 4), &[2], stored(3, 3))
                .read((5, 6), 1, &[(1, 1), (3, 2)]),
        ),
        (
            "a hole where an append was under way that came before the next",
            Rule::Gap,
            Draft::new()
                .append((1, 8), &[1], stored(1, 1))
                .append((2, 3), &[2], stored(2, 2))
                .read((4, 5), 1, &[(2, 2)]),
        ),
        (
            "an acknowledged record that is missing in the middle",
            Rule::Lost,
            two_batches().append((5, 6), &[4], stored(4, 4)).read(
                (7, 8),
                1,
                &[(1, 1), (2, 2), (4, 4)],
            ),
        ),
        (
            "the same for one topic",
            Rule::Lost,
            two_batches()
                .append((5, 6), &[4], stored(4, 4))
                .read((7, 8), 1, &[(1, 1), (2, 2), (4, 4)])
                .of_topic("t"),
        ),
        (
            "a record that was seen and is missing",
            Rule::Lost,
            Draft::new()
                .append((1, 2), &[1], UNKNOWN)
                .read((3, 4), 1, &[(1, 1)])
                .append((5, 6), &[2], stored(2, 2))
                .reads((7, 8), 1, vec![(2, value(2))], 3, true),
        ),
        (
            "an acknowledged record that is gone from the end",
            Rule::Lost,
            two_batches().read((5, 6), 1, &[(1, 1), (2, 2)]),
        ),
        (
            "written and gone with the node",
            Rule::Lost,
            Draft::new()
                .append((1, 2), &[1], stored(1, 1))
                .written((3, 4), &[2], 2)
                .killed(5)
                .tail((6, 7), 2),
        ),
        (
            "written and gone in a power cut that no statement accounts for",
            Rule::Lost,
            Draft::new()
                .written((1, 2), &[1], 1)
                .power_cut(3, 2, 9)
                .append((4, 5), &[2], stored(10, 10))
                .read((6, 7), 1, &[(10, 2)]),
        ),
        (
            "a number given up and given again, and then missing",
            Rule::Lost,
            Draft::new()
                .power_cut(1, 1, 9)
                .append((2, 3), &[1], stored(1, 1))
                .append((4, 5), &[2], stored(2, 2))
                .reads((6, 7), 1, vec![(2, value(2))], 3, true),
        ),
        (
            "synced and given up in a power cut",
            Rule::Lost,
            Draft::new()
                .append((1, 2), &[1], stored(1, 1))
                .power_cut(3, 1, 9),
        ),
        (
            "shown as durable and given up in a power cut",
            Rule::Lost,
            Draft::new()
                .written((1, 2), &[1], 1)
                .read((3, 4), 1, &[(1, 1)])
                .power_cut(5, 1, 9),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn bad_orders() -> Vec<(&'static str, Rule, Draft)> {
    let conflict = |last| AppendOutcome::Conflict { last };
    vec![
        (
            "a later append before an earlier one",
            Rule::Order,
            Draft::new()
                .append((1, 2), &[1], stored(2, 2))
                .append((3, 4), &[2], stored(1, 1)),
        ),
        (
            "a later append before an earlier one, with others in between",
            Rule::Order,
            Draft::new()
                .append((1, 9), &[1], stored(2, 2))
                .append((2, 3), &[2], stored(3, 3))
                .append((4, 5), &[3], stored(1, 1)),
        ),
        (
            "an append that comes into being after the life it was sent in",
            Rule::Order,
            Draft::new()
                .append((1, 2), &[1], UNKNOWN)
                .killed(3)
                .tail((4, 5), 1)
                .read((6, 7), 1, &[(1, 1)]),
        ),
        (
            "a record that is seen before it was sent",
            Rule::Future,
            Draft::new()
                .read((1, 2), 1, &[(1, 1)])
                .append((3, 4), &[1], stored(1, 1)),
        ),
        (
            "an end that does not know of an acknowledged record, which is there later",
            Rule::Stale,
            two_batches()
                .tail((5, 6), 3)
                .read((7, 8), 1, &[(1, 1), (2, 2), (3, 3)]),
        ),
        (
            "two readers of which the later one knows less",
            Rule::Stale,
            Draft::new()
                .append((1, 9), &[1], stored(1, 1))
                .tail((2, 3), 2)
                .tail((4, 5), 1)
                .tail((10, 11), 2),
        ),
        (
            "something written and seen that is not seen for a while",
            Rule::Stale,
            Draft::new()
                .written((1, 2), &[1], 1)
                .read((3, 4), 1, &[])
                .of_written()
                .read((5, 6), 1, &[(1, 1)])
                .of_written(),
        ),
        (
            "a producer's records of one key in the wrong order",
            Rule::KeyOrder,
            Draft::new()
                .batch(1, (1, 4), vec![keyed(1, "k")], stored(2, 2))
                .batch(1, (2, 3), vec![keyed(2, "k")], stored(1, 1)),
        ),
        (
            "stored although the topic was not empty",
            Rule::Expected,
            two_batches().expecting(0, (5, 6), 4, stored(4, 4)),
        ),
        (
            "stored although somebody else came first",
            Rule::Expected,
            Draft::new()
                .append((1, 2), &[1], stored(1, 1))
                .expecting(1, (3, 6), 2, stored(2, 2))
                .expecting(1, (4, 5), 3, stored(3, 3)),
        ),
        (
            "unknown, stored against its condition",
            Rule::Expected,
            two_batches().expecting(1, (5, 6), 4, UNKNOWN).read(
                (7, 8),
                1,
                &[(1, 1), (2, 2), (3, 3), (4, 4)],
            ),
        ),
        (
            "refused although the expected one was found",
            Rule::Expected,
            two_batches().expecting(3, (5, 6), 4, conflict(3)),
        ),
        (
            "refused because of a record that had a successor",
            Rule::Expected,
            two_batches().expecting(3, (5, 6), 4, conflict(2)),
        ),
        (
            "refused because of a record that came later",
            Rule::Expected,
            Draft::new()
                .expecting(3, (1, 2), 1, conflict(1))
                .append((3, 4), &[2], stored(1, 1)),
        ),
        (
            "refused because of nothing",
            Rule::Expected,
            two_batches().expecting(3, (5, 6), 4, conflict(9)),
        ),
    ]
}

fn bad_cursors() -> Vec<(&'static str, Rule, Draft)> {
    use CommitOutcome::{Refused, Stored, Unknown};
    vec![
        (
            "a cursor behind what was confirmed",
            Rule::CursorBack,
            committed()
                .commit((9, 10), 3, Stored)
                .cursor((11, 12), 2, CursorSource::Stored),
        ),
        (
            "a confirmed cursor that is gone with the node",
            Rule::CursorBack,
            committed()
                .killed(9)
                .cursor((10, 11), 0, CursorSource::Resumed),
        ),
        (
            "a cursor that is seen and then is lower",
            Rule::CursorBack,
            committed()
                .commit((9, 10), 3, Unknown)
                .cursor((11, 12), 3, CursorSource::Stored)
                .cursor((13, 14), 2, CursorSource::Stored),
        ),
        (
            "a cursor that nobody can have put there in time",
            Rule::CursorBack,
            two_batches()
                .commit((5, 6), 3, Stored)
                .commit((7, 8), 2, Stored)
                .cursor((5, 9), 2, CursorSource::Stored),
        ),
        (
            "a cursor where nobody put it",
            Rule::CursorPhantom,
            committed().cursor((9, 10), 3, CursorSource::Stored),
        ),
        (
            "a resumption where nobody put the cursor",
            Rule::CursorPhantom,
            committed().cursor((9, 10), 3, CursorSource::Resumed),
        ),
        (
            "a cursor that was refused",
            Rule::CursorPhantom,
            committed()
                .commit((9, 10), 3, Refused)
                .cursor((11, 12), 3, CursorSource::Stored),
        ),
        (
            "a cursor that is seen before it is put there",
            Rule::CursorPhantom,
            two_batches()
                .cursor((5, 6), 2, CursorSource::Stored)
                .commit((7, 8), 2, Stored),
        ),
        (
            "a cursor behind the end of the log",
            Rule::CursorAhead,
            two_batches().commit((5, 6), 4, Stored),
        ),
        (
            "a cursor on a record that was not durable yet",
            Rule::CursorAhead,
            Draft::new()
                .written((1, 2), &[1], 1)
                .commit((3, 4), 1, Stored)
                .tail((5, 6), 1),
        ),
        (
            "a cursor on a record that was given up",
            Rule::CursorAhead,
            Draft::new()
                .written((1, 2), &[1], 1)
                .commit((3, 4), 1, Stored)
                .power_cut(5, 1, 9),
        ),
        (
            "an operation that ends before it begins",
            Rule::Malformed,
            Draft::new().append((2, 1), &[1], UNKNOWN),
        ),
        (
            "a record that is sent twice",
            Rule::Malformed,
            Draft::new()
                .append((1, 2), &[1], UNKNOWN)
                .append((3, 4), &[1], UNKNOWN),
        ),
    ]
}

fn bad_histories() -> Vec<(&'static str, Rule, Draft)> {
    let mut all = bad_contents();
    all.extend(bad_reads());
    all.extend(bad_orders());
    all.extend(bad_cursors());
    all
}

// REL-03: the checker accepts what a log that keeps its promises can do.
#[test]
fn good_histories_are_accepted() {
    for (name, Draft(history)) in good_histories() {
        let checked = check(&history);
        assert!(
            checked.is_ok(),
            "{name}: {}",
            explain(&history, &checked.unwrap_err())
        );
    }
}

// REL-03: the checker rejects each way to break a promise, by the name of that promise.
#[test]
fn bad_histories_are_rejected_for_the_right_reason() {
    for (name, rule, Draft(history)) in bad_histories() {
        let violations = check(&history).expect_err(name);
        let rules: BTreeSet<Rule> = violations.iter().map(|found| found.rule).collect();
        assert_eq!(
            rules,
            BTreeSet::from([rule]),
            "{name}: {}",
            explain(&history, &violations)
        );
        assert!(
            violations.iter().all(|found| !found.operations.is_empty()),
            "{name}: no operation is named"
        );
    }
}

// REL-03: no rule is there that no history can break.
#[test]
fn every_rule_has_a_history_that_breaks_it() {
    let broken: BTreeSet<Rule> = bad_histories()
        .into_iter()
        .map(|(_, rule, _)| rule)
        .collect();
    let all = [
        Rule::Malformed,
        Rule::Phantom,
        Rule::Altered,
        Rule::RefusedStored,
        Rule::Reused,
        Rule::Duplicated,
        Rule::Torn,
        Rule::Backwards,
        Rule::Gap,
        Rule::Lost,
        Rule::Future,
        Rule::Order,
        Rule::Stale,
        Rule::KeyOrder,
        Rule::Expected,
        Rule::CursorBack,
        Rule::CursorAhead,
        Rule::CursorPhantom,
    ];
    assert_eq!(broken, BTreeSet::from(all));
}

// REL-03: a violation names what contradicts what.
#[test]
fn a_violation_names_its_operations() {
    let Draft(history) = two_batches().read((5, 6), 1, &[(1, 1), (2, 2)]);
    let violations = check(&history).expect_err("3 is gone");
    let [found] = violations.as_slice() else {
        panic!("one violation, not {violations:?}");
    };
    assert_eq!(found.operations, [1, 2], "the append and the read");
    let text = explain(&history, &violations);
    assert!(text.contains("Lost: 3 was known and is gone"), "{text}");
}
