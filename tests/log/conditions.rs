//! Conditions are judged where sequences are given, in order, and see what is before them.

use std::sync::{Arc, Mutex};

use arqonbus::log::{
    Append, AppendError, Condition, Durability, Judgement, NewRecord, Options, Sequence, Standing,
};

use crate::session::{Event, Scribe, Session, SimClock, record, small_options};
use crate::sim_storage::SimStorage;

/// Stored only while `topic` ends at `last`.
#[derive(Debug)]
struct EndsAt {
    topic: &'static str,
    last: u64,
}

impl Condition for EndsAt {
    fn judge(&mut self, standing: &mut Standing<'_>, _: &mut Vec<NewRecord>) -> Judgement {
        let found = standing.last_of(self.topic).expect("a sound disk");
        let found = found.map_or(0, Sequence::get);
        if found == self.last {
            Judgement::Store
        } else {
            Judgement::Refuse {
                expected: self.last,
                found,
            }
        }
    }

    fn settled(&mut self, _: Option<Sequence>) {}
}

/// Repeats what is stored at `of`, and keeps what it was told.
#[derive(Debug)]
struct Repeats {
    of: Option<u64>,
    told: Arc<Mutex<Vec<Option<Sequence>>>>,
}

impl Condition for Repeats {
    fn judge(&mut self, _: &mut Standing<'_>, _: &mut Vec<NewRecord>) -> Judgement {
        match self.of.and_then(Sequence::new) {
            Some(sequence) => Judgement::Duplicate {
                first: sequence,
                last: sequence,
            },
            None => Judgement::Store,
        }
    }

    fn settled(&mut self, first: Option<Sequence>) {
        self.told.lock().expect("no panic").push(first);
    }
}

fn append(session: &Session, token: u64, topic: &str, durability: Durability) -> Append {
    Append {
        records: vec![record(topic, format!("<{token}>").as_bytes())],
        durability,
        then: None,
        sink: Arc::<Scribe>::clone(&session.scribe),
        token,
    }
}

fn put(session: &Session, token: u64, topic: &str, condition: impl Condition + 'static) {
    let append = append(session, token, topic, Durability::Synced);
    let queued = session.log.queue_if(append, Box::new(condition));
    queued.expect("queued");
}

/// What was answered, by token.
fn answers(session: &Session) -> Vec<(u64, Result<u64, AppendError>)> {
    session.log.start();
    session.committer.run_until_idle();
    let mut answers: Vec<_> = session
        .scribe
        .take()
        .into_iter()
        .filter_map(|event| match event {
            Event::Answered(token, outcome) => {
                Some((token, outcome.map(|appended| appended.first.get())))
            }
            Event::Written(_) | Event::Durable(_) | Event::Poisoned(_) => None,
        })
        .collect();
    answers.sort_by_key(|(token, _)| *token);
    answers
}

fn open(storage: &SimStorage, options: &Options) -> Session {
    Session::open(storage, &SimClock::new(), options).expect("a sound disk")
}

// BRK-07: also where all of them are in one group, each sees those before it.
#[test]
fn of_those_who_expect_the_same_one_is_stored() {
    let storage = SimStorage::new(1);
    let session = open(&storage, &small_options());
    for token in 0..5 {
        let condition = EndsAt {
            topic: "a",
            last: 0,
        };
        put(&session, token, "a", condition);
    }
    let other = append(&session, 5, "b", Durability::Synced);
    session.log.queue(other).expect("queued");
    put(
        &session,
        6,
        "a",
        EndsAt {
            topic: "a",
            last: 1,
        },
    );
    put(
        &session,
        7,
        "c",
        EndsAt {
            topic: "b",
            last: 2,
        },
    );
    let refused = |expected, found| Err(AppendError::ConditionNotMet { expected, found });
    let expected: Vec<_> = [(0, Ok(1))]
        .into_iter()
        .chain((1..5).map(|token| (token, refused(0, 1))))
        .chain([(5, Ok(2)), (6, Ok(3)), (7, Ok(4))])
        .collect();
    assert_eq!(answers(&session), expected);
    // Of those refused no byte is there.
    assert_eq!(session.log.bounds().written_end.get(), 5);
    // A group of which nothing is stored writes nothing.
    let used = session.log.used_bytes();
    put(
        &session,
        8,
        "a",
        EndsAt {
            topic: "a",
            last: 1,
        },
    );
    assert_eq!(answers(&session), [(8, refused(1, 3))]);
    assert_eq!(session.log.used_bytes(), used);
}

// BRK-07: what it says is what all segments say, through seals, trims and openings.
#[test]
fn the_last_sequence_of_a_topic_is_that_of_all_segments() {
    let storage = SimStorage::new(2);
    let mut session = open(&storage, &small_options());
    let mut lasts = std::collections::BTreeMap::new();
    let mut token = 0;
    for round in 0..60_u64 {
        for step in 0..20 {
            // Some topics every time, some once in a while, some never again.
            let topic = match step {
                0 => format!("once.{round}"),
                1 => format!("rare.{}", round % 7),
                _ => format!("often.{}", step % 3),
            };
            let last = lasts.get(&topic).copied();
            assert_eq!(session.log.last_of(&topic).expect("reads"), last, "{topic}");
            let mut append = append(&session, token, &topic, Durability::Synced);
            append.records[0].envelope = vec![7; 300].into();
            session.log.append(append).expect("queued");
            let stored = answers(&session)[0].1.clone().expect("stored");
            lasts.insert(topic, Sequence::new(stored).expect("a position"));
            token += 1;
        }
        match round % 10 {
            3 => session.log.know_lasts().expect("reads"),
            6 => {
                let first = session
                    .log
                    .trim(Sequence::at_least_first(token / 2))
                    .expect("trims");
                lasts.retain(|_, last| *last >= first);
            }
            8 => {
                session.log.close().expect("closes");
                session = open(&storage, &small_options());
            }
            _ => {}
        }
        assert!(!session.log.knows_lasts() || round % 10 != 8);
        for topic in ["once.0", "once.30", "rare.3", "often.1", "never"] {
            let last = lasts.get(topic).copied();
            assert_eq!(session.log.last_of(topic).expect("reads"), last, "{topic}");
        }
    }
    assert!(
        session.log.status().segments > 5,
        "it was to be sealed often"
    );
}

// MSG-04: a repetition is acknowledged in its place, when the original is on disk.
#[test]
fn a_repetition_waits_for_its_original() {
    let storage = SimStorage::new(3);
    let session = open(&storage, &small_options());
    let told = Arc::new(Mutex::new(Vec::new()));
    let condition = |of| Repeats {
        of,
        told: Arc::clone(&told),
    };
    put(&session, 0, "a", condition(None));
    put(&session, 1, "a", condition(Some(1)));
    put(&session, 2, "a", condition(None));
    assert_eq!(answers(&session), [(0, Ok(1)), (1, Ok(1)), (2, Ok(2))]);
    // The latest of a group first.
    let settled: Vec<_> = std::mem::take(&mut *told.lock().expect("no panic"));
    assert_eq!(settled, [Sequence::new(2), Sequence::new(1)]);

    // What is only written is flushed for whoever wants it on disk.
    let written = append(&session, 3, "a", Durability::Written);
    session.log.queue(written).expect("queued");
    assert_eq!(answers(&session), [(3, Ok(3))]);
    let again = append(&session, 4, "a", Durability::Written);
    session
        .log
        .queue_if(again, Box::new(condition(Some(3))))
        .expect("queued");
    assert_eq!(answers(&session), [(4, Ok(3))]);
    put(&session, 5, "a", condition(Some(3)));
    assert_eq!(answers(&session), [(5, Ok(3))]);
    assert_eq!(session.log.bounds().durable_end.get(), 4);
}

// MSG-04: what cannot be flushed is not acknowledged to whoever repeats it either.
#[test]
fn a_repetition_fails_with_its_original() {
    let storage = SimStorage::new(4);
    let session = open(&storage, &small_options());
    let told = Arc::new(Mutex::new(Vec::new()));
    put(
        &session,
        0,
        "a",
        EndsAt {
            topic: "a",
            last: 0,
        },
    );
    assert_eq!(answers(&session), [(0, Ok(1))]);
    storage.fail_sync(1);
    put(
        &session,
        1,
        "a",
        EndsAt {
            topic: "a",
            last: 1,
        },
    );
    let repeats = |of| Repeats {
        of: Some(of),
        told: Arc::clone(&told),
    };
    put(&session, 2, "a", repeats(2));
    put(&session, 3, "a", repeats(1));
    let answers = answers(&session);
    let unknown = |answer: &Result<u64, AppendError>| {
        matches!(answer, Err(AppendError::Indeterminate { .. }))
    };
    assert!(
        unknown(&answers[0].1) && unknown(&answers[1].1),
        "{answers:?}"
    );
    assert_eq!(answers[2], (3, Ok(1)));
}
