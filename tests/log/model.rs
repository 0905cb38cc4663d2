//! The log must equal a plain vector of records, whatever is done to it in whatever order.

use std::collections::BTreeMap;
use std::sync::Arc;

use arqonbus::log::{Chunk, Durability, Found, Micros, Sequence, TopicSummary};
use proptest::prelude::*;

use crate::history::{Ending, History};
use crate::session::{Event, START, Session, SimClock, small_options};
use crate::sim_storage::SimStorage;

#[derive(Clone, Debug)]
enum Operation {
    /// Topic number and length of each record, and whether to wait for the disk.
    Append(Vec<(u8, usize)>, bool),
    Commit,
    Chores,
    /// The wall clock moves, also back.
    Clock(i64),
    Read {
        from: prop::sample::Index,
        bytes_max: usize,
    },
    /// Around the time of some record.
    SeekTime(prop::sample::Index, i64),
    /// Topics by bit.
    SeekTopic(prop::sample::Index, u8),
    Topics,
    Reopen,
    Kill,
}

fn operation() -> impl Strategy<Value = Operation> {
    let shapes = prop::collection::vec((0_u8..6, 8_usize..1500), 1..6);
    let index = any::<prop::sample::Index>;
    prop_oneof![
        10 => (shapes, any::<bool>()).prop_map(|(shapes, sync)| Operation::Append(shapes, sync)),
        6 => Just(Operation::Commit),
        2 => Just(Operation::Chores),
        3 => prop_oneof![0_i64..100_000, -5_000_000_i64..5_000_000, Just(315_360_000_000_000)]
            .prop_map(Operation::Clock),
        4 => (index(), prop_oneof![Just(1_usize), 1_usize..30_000])
            .prop_map(|(from, bytes_max)| Operation::Read { from, bytes_max }),
        3 => (index(), -2_i64..=2).prop_map(|(at, off)| Operation::SeekTime(at, off)),
        3 => (index(), any::<u8>()).prop_map(|(from, topics)| Operation::SeekTopic(from, topics)),
        2 => Just(Operation::Topics),
        1 => Just(Operation::Reopen),
        1 => Just(Operation::Kill),
    ]
}

/// What the vector knows of a record.
#[derive(Clone, Debug)]
struct Kept {
    sequence: Sequence,
    appended_at: u64,
    topic: String,
    /// Bytes of its encoded form, framing included.
    bytes: u64,
}

struct Pair {
    storage: SimStorage,
    clock: Arc<SimClock>,
    history: History,
    session: Session,
    kept: Vec<Kept>,
    /// The latest time that the wall clock ever showed.
    latest: u64,
}

fn topic(number: u8) -> String {
    ["a", "a.b", "quake.ak", "quake.ak.deep", "x", "zz"][usize::from(number)].to_owned()
}

impl Pair {
    fn new() -> Self {
        let (storage, clock) = (SimStorage::new(1), SimClock::new());
        let session = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
        let mut history = History::default();
        history
            .check_opened(&session.log, session.statement.as_ref(), Ending::Clean)
            .expect("readable");
        Self {
            storage,
            clock,
            history,
            session,
            kept: Vec::new(),
            latest: START,
        }
    }

    /// Takes over what was written since, with the time that each record must carry.
    fn note(&mut self, now: u64) {
        for event in self.session.note(&mut self.history) {
            if let Event::Written(chunk) = event {
                self.keep(&chunk, now);
            }
        }
    }

    fn keep(&mut self, chunk: &Chunk, now: u64) {
        for record in chunk.iter() {
            let before = self.kept.last();
            let least = before.map_or(0, |kept| kept.appended_at);
            let appended_at = record.appended_at.0;
            // Marks and segments take the log's time forward as well.
            let range = now.max(least)..=now.max(self.latest);
            assert!(
                range.contains(&appended_at),
                "{appended_at} is not in {range:?}"
            );
            let next = before.map_or(Sequence::FIRST, |kept| kept.sequence.next());
            assert!(record.sequence >= next);
            self.kept.push(Kept {
                sequence: record.sequence,
                appended_at,
                topic: record.topic.to_owned(),
                bytes: record.field.len() as u64,
            });
        }
    }

    fn now(&self) -> u64 {
        arqonbus::log::Clock::now(&*self.clock).0
    }

    fn commit(&mut self) {
        self.session.committer.run_until_idle();
        self.note(self.now());
    }

    fn some_position(&self, index: prop::sample::Index) -> Sequence {
        let end = self.session.log.bounds().written_end;
        let count = usize::try_from(end.get()).expect("small") + 1;
        Sequence::at_least_first(index.index(count) as u64)
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Append(shapes, sync) => {
                let shapes: Vec<_> = shapes
                    .into_iter()
                    .map(|(number, len)| (topic(number), len))
                    .collect();
                let durability = if sync {
                    Durability::Synced
                } else {
                    Durability::Written
                };
                self.session
                    .submit(&mut self.history, &shapes, durability, None)
                    .expect("queued");
                // Who waits for the operating system only may be served at once.
                self.note(self.now());
            }
            Operation::Commit => self.commit(),
            Operation::Chores => {
                self.session.committer.run_chores();
                self.note(self.now());
            }
            Operation::Clock(micros) => {
                self.clock
                    .shift(micros.max(-i64::try_from(self.now()).expect("fits")));
                self.latest = self.latest.max(self.now());
            }
            Operation::Read { from, bytes_max } => self.read(self.some_position(from), bytes_max),
            Operation::SeekTime(at, off) => self.seek_time(at, off),
            Operation::SeekTopic(from, topics) => {
                self.seek_topic(self.some_position(from), topics);
            }
            Operation::Topics => self.topics(),
            Operation::Reopen => {
                self.session.log.close().expect("a sound disk");
                self.note(self.now());
                self.history.check_answers();
                self.open(Ending::Clean);
            }
            Operation::Kill => {
                self.storage = self.storage.process_kill();
                self.note(self.now());
                self.open(Ending::Killed);
            }
        }
    }

    fn open(&mut self, ending: Ending) {
        self.session =
            Session::open(&self.storage, &self.clock, &small_options()).expect("a sound disk");
        let statement = self.session.statement.clone();
        self.history
            .check_opened(&self.session.log, statement.as_ref(), ending)
            .expect("readable");
        self.read(Sequence::FIRST, 10_000);
        self.topics();
    }

    fn read(&mut self, from: Sequence, bytes_max: usize) {
        let end = self.session.log.bounds().written_end;
        let mut expected = self.kept.iter().filter(|kept| kept.sequence >= from);
        let mut at = from;
        loop {
            match self.session.log.read(at, end, bytes_max).expect("readable") {
                Found::Records(chunk) => {
                    for record in chunk.iter() {
                        let kept = expected.next().expect("no more than was written");
                        assert_eq!(record.sequence, kept.sequence);
                        assert_eq!(record.appended_at.0, kept.appended_at);
                        assert_eq!(record.topic, kept.topic);
                        assert_eq!(record.field.len() as u64, kept.bytes);
                    }
                    at = chunk.last.next();
                }
                Found::End => break,
                Found::Damaged { damage, .. } => panic!("{damage}"),
            }
        }
        assert!(expected.next().is_none(), "not all was read");
        self.history
            .read(&self.session.log, from, end, bytes_max)
            .expect("readable");
    }

    // LOG-09, REL-12
    fn seek_time(&self, at: prop::sample::Index, off: i64) {
        let base = if self.kept.is_empty() {
            self.now()
        } else {
            at.get(&self.kept).appended_at
        };
        let time = base.saturating_add_signed(off);
        let expected = self
            .kept
            .iter()
            .find(|kept| kept.appended_at >= time)
            .map_or(self.session.log.bounds().written_end, |kept| kept.sequence);
        let found = self.session.log.seek_time(Micros(time)).expect("readable");
        assert_eq!(found, expected, "time {time}");
    }

    fn seek_topic(&self, from: Sequence, topics: u8) {
        let wanted =
            move |name: &str| (0..6).any(|bit| topics & (1 << bit) != 0 && topic(bit) == name);
        let log = &self.session.log;
        let written_end = log.bounds().written_end;
        for end in [written_end, Sequence::MAX, from.advance(3)] {
            let expected = self
                .kept
                .iter()
                .find(|kept| kept.sequence >= from && kept.sequence < end && wanted(&kept.topic))
                .map(|kept| kept.sequence);
            let mut reader = log.topic_reader(Box::new(wanted));
            let found = match reader.read(from, end, 1).expect("readable") {
                Found::Records(chunk) => Some(chunk.base),
                Found::Damaged { damage, .. } => panic!("{damage}"),
                Found::End => None,
            };
            assert_eq!(
                found, expected,
                "from {from} below {end}, topics {topics:b}"
            );
        }
    }

    fn topics(&self) {
        let mut expected: BTreeMap<&str, TopicSummary> = BTreeMap::new();
        for kept in &self.kept {
            let summary = expected.entry(&kept.topic).or_insert_with(|| TopicSummary {
                topic: kept.topic.clone(),
                records: 0,
                bytes: 0,
                first: kept.sequence,
                last: kept.sequence,
            });
            summary.records += 1;
            summary.bytes += kept.bytes;
            summary.last = kept.sequence;
        }
        let found = self.session.log.topics().expect("readable");
        assert_eq!(found, expected.into_values().collect::<Vec<_>>());
    }
}

proptest! {
    // PROPTEST_CASES=2000 is the long run.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    })]

    // REL-06, LOG-09, REL-12
    #[test]
    fn the_log_equals_a_vector(operations in prop::collection::vec(operation(), 1..100)) {
        let mut pair = Pair::new();
        for operation in operations {
            pair.apply(operation);
        }
        pair.commit();
        pair.read(Sequence::FIRST, 5000);
        pair.topics();
    }
}
