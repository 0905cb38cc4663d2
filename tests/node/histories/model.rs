//! A log that keeps its promises by being a list: whatever its clients do at the same time is a
//! good history, and becomes a bad one by a single lie.
//!
//! Clients have several operations under way; each is called, takes effect and is answered at
//! moments that the dice choose. Lives end by `kill -9` and by power cuts.

use std::collections::{BTreeMap, VecDeque};

use super::event::{
    Append, AppendOutcome, CommitOutcome, CursorSource, Durability, Ending, Expected, History,
    Life, NEVER, Operation, Read, Sight, Tick, Value, What,
};
use crate::dice::Dice;

const TOPICS: [&str; 3] = ["a", "b", "b.c"];
const KEYS: [&str; 2] = ["", "k"];
const CONSUMERS: [&str; 2] = ["c", "d"];
const UNDER_WAY_MAX: usize = 3;

/// An operation that was called.
#[derive(Clone, Debug)]
struct Call {
    start: Tick,
    what: What,
    took_effect: bool,
}

#[derive(Debug)]
struct Client {
    process: u32,
    /// Sequence at which its stream goes on.
    stream_next: u64,
    calls: VecDeque<Call>,
}

#[derive(Debug)]
struct Model {
    dice: Dice,
    tick: Tick,
    numbers: u64,
    processes: u32,
    log: BTreeMap<u64, Value>,
    next: u64,
    durable_end: u64,
    cursors: BTreeMap<&'static str, u64>,
    clients: Vec<Client>,
    history: History,
}

/// A good history; the same for the same seed.
pub(super) fn history(seed: u64) -> History {
    let mut model = Model {
        dice: Dice::new(seed),
        tick: 0,
        numbers: 0,
        processes: 0,
        log: BTreeMap::new(),
        next: 1,
        durable_end: 1,
        cursors: BTreeMap::new(),
        clients: Vec::new(),
        history: History::default(),
    };
    for life in 0..3 {
        model.live(60);
        model.end_life(life == 2);
    }
    model.look_at_everything();
    model.history
}

impl Model {
    fn now(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }

    fn live(&mut self, steps: usize) {
        self.history.lives.push(Life {
            end: NEVER,
            ending: Ending::Process,
        });
        self.clients = (0..4).map(|_| ()).map(|()| self.client()).collect();
        for _ in 0..steps * self.clients.len() {
            let client = self.dice.index(self.clients.len());
            match self.dice.below(10) {
                0..3 => self.call(client),
                3..6 => self.take_effect(client),
                6..9 => self.answer(client),
                _ => self.durable_end = self.next,
            }
        }
    }

    fn client(&mut self) -> Client {
        self.processes += 1;
        Client {
            process: self.processes,
            stream_next: 1,
            calls: VecDeque::new(),
        }
    }

    fn call(&mut self, client: usize) {
        if self.clients[client].calls.len() >= UNDER_WAY_MAX {
            return;
        }
        let asked = 1 + self.dice.below(self.durable_end);
        // Not every number was given to a record.
        let done = self.log.range(..self.durable_end.min(asked)).next_back();
        let done = done.map_or(0, |(sequence, _)| *sequence);
        let what = match self.dice.below(20) {
            0..10 => self.batch(),
            10..12 => self.read(None),
            12..15 => self.read(Some(self.clients[client].process)),
            15..17 => What::Tail {
                sight: self.sight(),
                end: 0,
            },
            17..19 if done > 0 => What::Commit {
                consumer: (*self.dice.pick(&CONSUMERS)).to_owned(),
                through: done,
                outcome: CommitOutcome::Unknown,
            },
            _ => What::Cursor {
                consumer: (*self.dice.pick(&CONSUMERS)).to_owned(),
                through: 0,
                source: *self
                    .dice
                    .pick(&[CursorSource::Stored, CursorSource::Resumed]),
            },
        };
        let call = Call {
            start: self.now(),
            what,
            took_effect: false,
        };
        self.clients[client].calls.push_back(call);
    }

    fn sight(&mut self) -> Sight {
        *self.dice.pick(&[Sight::Durable, Sight::Written])
    }

    fn batch(&mut self) -> What {
        let values = (0..1 + self.dice.below(3)).map(|_| {
            self.numbers += 1;
            Value {
                number: self.numbers,
                topic: (*self.dice.pick(&TOPICS)).to_owned(),
                key: (*self.dice.pick(&KEYS)).to_owned(),
            }
        });
        let values: Vec<Value> = values.collect();
        let expected = self.dice.chance(25).then(|| {
            let topic = (*self.dice.pick(&TOPICS)).to_owned();
            let last = self.last_of(&topic);
            Expected { topic, last }
        });
        What::Append(Append {
            values,
            durability: *self.dice.pick(&[Durability::Written, Durability::Synced]),
            expected,
            outcome: AppendOutcome::Unknown,
        })
    }

    fn read(&mut self, stream: Option<u32>) -> What {
        let sight = match stream {
            Some(_) => Sight::Written,
            None => self.sight(),
        };
        let topic = *self.dice.pick(&TOPICS);
        let one_topic = stream.is_none() && self.dice.chance(40);
        let end = match sight {
            Sight::Durable => self.durable_end,
            Sight::Written => self.next,
        };
        What::Read(Read {
            stream,
            sight,
            topic: one_topic.then(|| topic.to_owned()),
            from: 1 + self.dice.below(end),
            records: Vec::new(),
            next: 0,
            is_end: false,
        })
    }

    fn last_of(&self, topic: &str) -> u64 {
        let mut newest = self.log.iter().rev();
        let last = newest.find(|(_, value)| value.topic == topic);
        last.map_or(0, |(sequence, _)| *sequence)
    }

    fn take_effect(&mut self, client: usize) {
        let calls = &mut self.clients[client].calls;
        let Some(at) = calls.iter().position(|call| !call.took_effect) else {
            return;
        };
        let mut what = calls[at].what.clone();
        match &mut what {
            What::Append(append) => append.outcome = self.store(append),
            What::Read(read) => {
                if read.stream.is_some() {
                    read.from = self.clients[client].stream_next;
                }
                self.fill(read);
                if read.stream.is_some() {
                    self.clients[client].stream_next = read.next;
                }
            }
            What::Tail { sight, end } => {
                *end = match sight {
                    Sight::Durable => self.durable_end,
                    Sight::Written => self.next,
                };
            }
            What::Commit {
                consumer,
                through,
                outcome,
            } => {
                let name = CONSUMERS.iter().find(|name| **name == consumer.as_str());
                let cursor = self.cursors.entry(name.expect("one of them")).or_default();
                *cursor = (*cursor).max(*through);
                *outcome = CommitOutcome::Stored;
            }
            What::Cursor {
                consumer, through, ..
            } => *through = self.cursors.get(consumer.as_str()).copied().unwrap_or(0),
        }
        let call = &mut self.clients[client].calls[at];
        call.what = what;
        call.took_effect = true;
    }

    fn store(&mut self, append: &Append) -> AppendOutcome {
        if self.dice.chance(5) {
            return AppendOutcome::Refused;
        }
        if let Some(expected) = &append.expected {
            let last = self.last_of(&expected.topic);
            if last != expected.last {
                return AppendOutcome::Conflict { last };
            }
        }
        let first = self.next;
        for value in &append.values {
            self.log.insert(self.next, value.clone());
            self.next += 1;
        }
        let last = self.next - 1;
        AppendOutcome::Stored { first, last }
    }

    fn fill(&mut self, read: &mut Read) {
        let end = match read.sight {
            Sight::Durable => self.durable_end,
            Sight::Written => self.next,
        };
        let stop = if self.dice.chance(50) {
            end
        } else {
            end.min(read.from + 1 + self.dice.below(8))
        };
        read.next = stop.max(read.from);
        read.is_end = stop == end;
        let there = self.log.range(read.from..read.next);
        let wanted = there.filter(|(_, value)| {
            let topic = read.topic.as_ref();
            topic.is_none_or(|topic| *topic == value.topic)
        });
        read.records = wanted
            .map(|(sequence, value)| (*sequence, value.clone()))
            .collect();
    }

    /// Answers the oldest call that may be answered.
    fn answer(&mut self, client: usize) {
        let ready = self.clients[client].calls.front();
        let Some(call) = ready.filter(|call| call.took_effect) else {
            return;
        };
        if let What::Append(append) = &call.what
            && let AppendOutcome::Stored { last, .. } = append.outcome
            && append.durability == Durability::Synced
        {
            self.durable_end = self.durable_end.max(last + 1);
        }
        let call = self.clients[client].calls.pop_front().expect("it is there");
        self.note(client, call.start, call.what);
    }

    fn note(&mut self, client: usize, start: Tick, what: What) {
        let operation = Operation {
            process: self.clients[client].process,
            life: self.history.lives.len() - 1,
            start,
            end: self.now(),
            what,
        };
        self.history.operations.push(operation);
    }

    fn end_life(&mut self, by_process: bool) {
        let ending = if by_process || self.dice.chance(50) {
            Ending::Process
        } else {
            self.lose_power()
        };
        self.durable_end = self.next;
        let end = self.now();
        let life = self.history.lives.last_mut().expect("a life");
        *life = Life { end, ending };
        for client in 0..self.clients.len() {
            while let Some(mut call) = self.clients[client].calls.pop_front() {
                match &mut call.what {
                    What::Append(append) => append.outcome = AppendOutcome::Unknown,
                    What::Commit { outcome, .. } => *outcome = CommitOutcome::Unknown,
                    What::Read(_) | What::Tail { .. } | What::Cursor { .. } => continue,
                }
                self.note(client, call.start, call.what);
            }
        }
    }

    fn lose_power(&mut self) -> Ending {
        let first = self.durable_end;
        // Cursors are flushed before they count, and say nothing of what is not durable.
        drop(self.log.split_off(&first));
        self.next += self.dice.below(1000);
        let given_up = if first < self.next {
            vec![first..=self.next - 1]
        } else {
            Vec::new()
        };
        Ending::Power { given_up }
    }

    /// What makes a history complete: all there is, the end, the cursors.
    fn look_at_everything(&mut self) {
        self.history.lives.push(Life {
            end: NEVER,
            ending: Ending::Process,
        });
        let mut last = vec![
            What::Read(Read {
                stream: None,
                sight: Sight::Durable,
                topic: None,
                from: 1,
                records: self.log.clone().into_iter().collect(),
                next: self.next,
                is_end: true,
            }),
            What::Tail {
                sight: Sight::Durable,
                end: self.next,
            },
        ];
        last.extend(CONSUMERS.map(|consumer| What::Cursor {
            consumer: consumer.to_owned(),
            through: self.cursors.get(consumer).copied().unwrap_or(0),
            source: CursorSource::Stored,
        }));
        for what in last {
            let start = self.now();
            self.note(0, start, what);
        }
    }
}
