//! Clients of a log on a disk that loses power: what they were told must be what one log that keeps
//! its promises can say. The checker is that of the node's histories.
//!
//! Several clients have appends under way at the same time; groups are committed, flushed late and
//! looked at whenever the dice say so, and power goes at any call of the disk. The short run takes
//! `ARQONBUS_HISTORY_SEEDS` seeds (150 if unset); the long one:
//!
//! ```text
//! ARQONBUS_HISTORY_SEEDS=10000 cargo test --release --test log histories
//! ```
//!
//! A seed that fails is printed; `ARQONBUS_SEED` repeats it alone.

#[path = "../node/histories/checker/mod.rs"]
mod checker;
#[path = "../node/histories/cursors.rs"]
mod cursors;
#[expect(dead_code, reason = "a log knows neither conditions nor cursors")]
#[path = "../node/histories/event.rs"]
mod event;
#[path = "../node/histories/violation.rs"]
mod violation;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arqonbus::log::{AppendError, Appended, Bounds, Found, NewRecord, Options, Sequence};
use arqonbus::proto::v1;
use bytes::Bytes;
use prost::Message as _;

use crate::dice::Dice;
use crate::session::{Event, Session, SimClock, small_options};
use crate::sim_storage::SimStorage;
use checker::{Summary, check};
use event::{
    Append, AppendOutcome, Durability, Ending, History, Life, NEVER, Operation, Read, Sight, Tick,
    Value, What,
};
use violation::explain;

const SEEDS: u64 = 150;
const LIVES: usize = 4;
const STEPS: u64 = 60;
const CLIENTS: u64 = 4;
const TOPICS: [&str; 3] = ["a", "b", "b.c"];
const KEYS: [&str; 2] = ["", "k"];
/// Number, key.
const HEAD_BYTES: usize = 9;

/// A machine, a log on it, and those who use it.
#[derive(Debug)]
struct Run {
    dice: Dice,
    storage: SimStorage,
    clock: Arc<SimClock>,
    options: Options,
    tick: Tick,
    numbers: u64,
    /// Calls that wait for their answers, by token.
    under_way: BTreeMap<u64, (u32, Tick, Append)>,
    history: History,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut options = small_options();
        options.group_bytes_max = *dice.pick(&[1, 2 << 10, 8 << 10]);
        options.tail_bytes = *dice.pick(&[1 << 10, 12 << 10]);
        Self {
            storage: SimStorage::new(dice.roll()),
            dice,
            clock: SimClock::new(),
            options,
            tick: 0,
            numbers: 0,
            under_way: BTreeMap::new(),
            history: History::default(),
        }
    }

    fn now(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }

    /// Opens the log after the last life, which now has its ending.
    fn open(&mut self, power_was_lost: bool) -> Session {
        let session = Session::open(&self.storage, &self.clock, &self.options);
        let session = session.unwrap_or_else(|error| panic!("cannot be opened: {error:?}"));
        if let Some(life) = self.history.lives.last_mut()
            && power_was_lost
        {
            let statement = session.statement.as_ref();
            let stated = statement.map(|stated| [stated.discarded, stated.skipped]);
            life.ending = Ending::Power {
                given_up: stated.into_iter().flatten().flatten().map(range).collect(),
            };
        }
        self.history.lives.push(Life {
            end: NEVER,
            ending: Ending::Process,
        });
        session
    }

    fn note(&mut self, process: u32, start: Tick, what: What) {
        let operation = Operation {
            process,
            life: self.history.lives.len() - 1,
            start,
            end: self.now(),
            what,
        };
        self.history.operations.push(operation);
    }

    fn step(&mut self, session: &Session) {
        match self.dice.below(100) {
            0..50 => self.submit(session),
            50..70 => session.committer.run_until_idle(),
            70..78 => {
                self.clock.shift(*self.dice.pick(&[1, 30_000, 5_000_000]));
                session.committer.run_chores();
            }
            78..90 => self.read(session),
            90..98 => self.look_at_ends(session),
            _ => session.log.show_written(),
        }
        self.hear(session);
    }

    fn submit(&mut self, session: &Session) {
        let client = self.dice.below(CLIENTS) + self.history.lives.len() as u64 * CLIENTS;
        let process = u32::try_from(client).expect("few");
        let values = (0..1 + self.dice.below(4)).map(|_| {
            self.numbers += 1;
            Value {
                number: self.numbers,
                topic: (*self.dice.pick(&TOPICS)).to_owned(),
                key: (*self.dice.pick(&KEYS)).to_owned(),
            }
        });
        let values: Vec<Value> = values.collect();
        let len_max = *self.dice.pick(&[16, 100, 700]);
        let records = values.iter().map(|value| {
            let mut envelope = value.number.to_le_bytes().to_vec();
            envelope.push(u8::from(value.key != KEYS[0]));
            envelope.resize(HEAD_BYTES + self.dice.index(len_max), 7);
            NewRecord {
                topic: Bytes::copy_from_slice(value.topic.as_bytes()),
                clock_entries: Bytes::new(),
                stamp: Bytes::new(),
                envelope: envelope.into(),
            }
        });
        let records = records.collect();
        let durability = *self.dice.pick(&[Durability::Written, Durability::Synced]);
        let append = Append {
            values,
            durability,
            expected: None,
            outcome: AppendOutcome::Unknown,
        };
        let token = self.numbers;
        let start = self.now();
        let wanted = match durability {
            Durability::Written => arqonbus::log::Durability::Written,
            Durability::Synced => arqonbus::log::Durability::Synced,
        };
        self.under_way.insert(token, (process, start, append));
        if let Err(error) = session.append(token, records, wanted, None) {
            self.answered(token, &Err(error));
        }
    }

    fn hear(&mut self, session: &Session) {
        for event in session.scribe.take() {
            match event {
                Event::Answered(token, outcome) => self.answered(token, &outcome),
                Event::Written(_) | Event::Durable(_) | Event::Poisoned(_) => {}
            }
        }
    }

    fn answered(&mut self, token: u64, outcome: &Result<Appended, AppendError>) {
        let call = self.under_way.remove(&token);
        let (process, start, mut append) = call.expect("answered once");
        append.outcome = match outcome {
            Ok(appended) => AppendOutcome::Stored {
                first: appended.first.get(),
                last: appended.last.get(),
            },
            Err(AppendError::Indeterminate { .. }) => AppendOutcome::Unknown,
            Err(
                AppendError::NoSpace { .. }
                | AppendError::ReadOnly { .. }
                | AppendError::Busy { .. }
                | AppendError::ConditionNotMet { .. }
                | AppendError::TooLarge { .. },
            ) => AppendOutcome::Refused,
        };
        self.note(process, start, What::Append(append));
    }

    fn look_at_ends(&mut self, session: &Session) {
        let start = self.now();
        let Bounds {
            durable_end,
            written_end,
            ..
        } = session.log.bounds();
        for (sight, end) in [(Sight::Durable, durable_end), (Sight::Written, written_end)] {
            let end = end.get();
            self.note(0, start, What::Tail { sight, end });
        }
    }

    fn read(&mut self, session: &Session) {
        let sight = *self.dice.pick(&[Sight::Durable, Sight::Written]);
        let bytes = *self.dice.pick(&[1, 900, 20_000]);
        let end = end_of(session.log.bounds(), sight).get();
        let from = 1 + self.dice.below(end);
        self.read_from(session, sight, from, bytes);
    }

    /// Reads once; where the next read has to begin, unless that is the end or power is off.
    fn read_from(
        &mut self,
        session: &Session,
        sight: Sight,
        from: u64,
        bytes: usize,
    ) -> Option<u64> {
        let start = self.now();
        let end = end_of(session.log.bounds(), sight);
        let at = Sequence::new(from).expect("from 1");
        let found = session.log.read(at, end, bytes);
        if self.storage.power_is_off() {
            return None;
        }
        let found = found.unwrap_or_else(|error| panic!("cannot be read: {error:?}"));
        let (records, next) = match found {
            Found::Records(chunk) => {
                let records = chunk.iter().map(|record| {
                    let decoded = v1::Record::decode(record.record).expect("a record");
                    (
                        record.sequence.get(),
                        value_in(record.topic, &decoded.envelope),
                    )
                });
                (records.collect(), chunk.last.next().get())
            }
            Found::End => (Vec::new(), end.get().max(from)),
            Found::Damaged { damage, .. } => panic!("no damage was planted: {damage}"),
        };
        let is_end = next >= end.get();
        let read = Read {
            stream: None,
            sight,
            topic: None,
            from,
            records,
            next,
            is_end,
        };
        self.note(0, start, What::Read(read));
        (!is_end).then_some(next)
    }

    /// Nothing is heard of this life any more.
    fn end_life(&mut self, session: Session) -> bool {
        self.hear(&session);
        drop(session);
        let power_was_lost = self.storage.power_is_off() || self.dice.chance(50);
        self.storage = if power_was_lost {
            self.storage.power_cut(self.dice.roll())
        } else {
            self.storage.process_kill()
        };
        // The next cut is for the next life to plan.
        self.storage.heal();
        for (process, start, append) in std::mem::take(&mut self.under_way).into_values() {
            self.note(process, start, What::Append(append));
        }
        let end = self.now();
        if let Some(life) = self.history.lives.last_mut() {
            life.end = end;
        }
        power_was_lost
    }

    /// All lives, and a look at what is left.
    fn lead(&mut self) {
        let mut power_was_lost = false;
        for _ in 0..LIVES {
            let session = self.open(power_was_lost);
            if self.dice.chance(60) {
                self.storage.cut_after(self.dice.below(120));
            }
            for _ in 0..STEPS {
                if self.storage.power_is_off() {
                    break;
                }
                self.step(&session);
            }
            power_was_lost = self.end_life(session);
        }
        let session = self.open(power_was_lost);
        let mut from = Some(1);
        while let Some(at) = from {
            from = self.read_from(&session, Sight::Durable, at, 20_000);
        }
        self.look_at_ends(&session);
    }
}

fn range((first, last): (Sequence, Sequence)) -> RangeInclusive<u64> {
    first.get()..=last.get()
}

fn end_of(bounds: Bounds, sight: Sight) -> Sequence {
    match sight {
        Sight::Durable => bounds.durable_end,
        Sight::Written => bounds.written_end,
    }
}

fn value_in(topic: &str, envelope: &[u8]) -> Value {
    let number = envelope.first_chunk().expect("it begins with a number");
    Value {
        number: u64::from_le_bytes(*number),
        topic: topic.to_owned(),
        key: KEYS[usize::from(envelope[HEAD_BYTES - 1])].to_owned(),
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

// REL-03, LOG-01, LOG-04: what clients of the log were told before and after power cuts is what one
// log that keeps its promises can say.
#[test]
fn histories_of_a_log_that_loses_power_are_possible() {
    let seeds = match setting("ARQONBUS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("ARQONBUS_HISTORY_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    let mut sum = Summary::default();
    let mut cuts = 0;
    for seed in seeds {
        let mut run = Run::new(seed);
        run.lead();
        let summary = check(&run.history)
            .unwrap_or_else(|found| panic!("seed {seed}: {}", explain(&run.history, &found)));
        sum = sum.plus(&summary);
        let lives = run.history.lives.iter();
        cuts += lives.filter(|life| life.ending != Ending::Process).count();
    }
    #[expect(clippy::print_stderr, reason = "the evidence of a long run")]
    {
        eprintln!("{count} seeds, {cuts} power cuts, 0 violations: {sum:?}");
    }
    assert!(
        count < SEEDS || (cuts > 100 && sum.appends_unknown_stored > 20 && sum.records > 5_000),
        "too tame: {cuts} power cuts, {sum:?}"
    );
}
