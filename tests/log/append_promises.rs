//! What an acknowledgement promises holds at the moment it is given: the disk itself is asked.

use std::path::Path;
use std::sync::{Arc, Mutex};

use arqonbus::log::{
    Append, AppendError, AppendSink, Appended, Committer, Durability, Environment, Log,
};
use bytes::Bytes;

use crate::session::{DIR, Scribe, Session, SimClock, record, small_options, writer};
use crate::sim_storage::SimStorage;

/// What was answered, and whether the envelope would have survived a power cut just then.
#[derive(Debug)]
struct Answer {
    token: u64,
    outcome: Result<Appended, AppendError>,
    on_disk: bool,
}

/// Looks at the disk whenever it is told something.
#[derive(Debug)]
struct Inspector {
    storage: SimStorage,
    answers: Mutex<Vec<Answer>>,
}

impl AppendSink for Inspector {
    fn appended(&self, token: u64, outcome: Result<Appended, AppendError>) {
        let on_disk = self.storage.is_durable(&envelope(token));
        self.answers
            .lock()
            .expect("answers are kept without panic")
            .push(Answer {
                token,
                outcome,
                on_disk,
            });
    }
}

fn envelope(token: u64) -> Bytes {
    Bytes::from(format!("<the only envelope of batch {token:08}>"))
}

struct Inspected {
    session: Session,
    inspector: Arc<Inspector>,
}

impl Inspected {
    fn open(storage: &SimStorage) -> Self {
        Self {
            session: Session::open(storage, &SimClock::new(), &small_options())
                .expect("a sound disk"),
            inspector: Arc::new(Inspector {
                storage: storage.clone(),
                answers: Mutex::default(),
            }),
        }
    }

    fn append(&self, token: u64, durability: Durability, then: Option<Durability>) {
        self.session
            .log
            .append(Append {
                records: vec![record("t", &envelope(token))],
                durability,
                then,
                sink: Arc::<Inspector>::clone(&self.inspector),
                token,
            })
            .expect("queued");
    }

    /// The first append that is acknowledged as written also flushes, to reserve sequences.
    fn reserve(&self) {
        self.append(1000, Durability::Written, None);
        self.commit();
    }

    fn commit(&self) -> Vec<Answer> {
        self.session.committer.run_until_idle();
        std::mem::take(&mut self.inspector.answers.lock().expect("no panic"))
    }
}

fn level(answer: &Answer) -> (u64, Durability) {
    let appended = answer.outcome.as_ref().expect("a sound disk");
    (answer.token, appended.durability)
}

// LOG-01
#[test]
fn synced_is_answered_only_when_it_is_on_the_disk() {
    let storage = SimStorage::new(1);
    let log = Inspected::open(&storage);
    for round in 0..200 {
        for token in round * 10..round * 10 + 1 + round % 7 {
            log.append(token, Durability::Synced, None);
        }
        for answer in log.commit() {
            assert_eq!(level(&answer).1, Durability::Synced);
            assert!(answer.on_disk, "{answer:?}");
        }
    }
}

// LOG-01: who asks for less does not wait for the flush, and is not told more than he asked for.
#[test]
fn written_is_answered_before_the_flush() {
    let storage = SimStorage::new(1);
    let log = Inspected::open(&storage);
    log.reserve();
    // Queued first, so that all three make one group.
    log.append(2, Durability::Synced, None);
    log.append(0, Durability::Written, None);
    log.append(1, Durability::Written, Some(Durability::Synced));
    let answers = log.commit();
    let order: Vec<_> = answers.iter().map(level).collect();
    for token in [0, 1] {
        let first = answers
            .iter()
            .find(|answer| answer.token == token)
            .expect("answered");
        assert_eq!(level(first).1, Durability::Written);
        assert!(!first.on_disk, "batch {token} waited for the flush");
    }
    for token in [1, 2] {
        let last = answers
            .iter()
            .rfind(|answer| answer.token == token)
            .expect("answered");
        assert_eq!(level(last).1, Durability::Synced);
        assert!(last.on_disk, "{last:?}");
    }
    assert_eq!(order.len(), 4, "{order:?}");
}

// LOG-01: it is deferred, not forgotten.
#[test]
fn a_flush_that_nobody_waits_for_comes_by_itself() {
    let storage = SimStorage::new(1);
    let log = Inspected::open(&storage);
    log.reserve();
    log.append(0, Durability::Written, None);
    assert_eq!(log.commit().len(), 1);
    assert_eq!(log.session.log.bounds().durable_end.get(), 2);
    assert_eq!(log.session.log.bounds().written_end.get(), 3);
    log.session.committer.run_chores();
    assert_eq!(log.session.log.bounds().durable_end.get(), 3);
    assert!(storage.is_durable(&envelope(0)));
}

// LOG-01, LOG-02
#[test]
fn no_batch_of_a_failed_flush_is_answered_as_synced() {
    for failing in 1..20 {
        let storage = SimStorage::new(failing);
        let log = Inspected::open(&storage);
        storage.fail_sync(usize::try_from(failing).expect("small"));
        let mut answers = Vec::new();
        let mut told = false;
        for token in 0..60 {
            let appended = log.session.log.append(Append {
                records: vec![record("t", &envelope(token))],
                durability: if token % 2 == 0 {
                    Durability::Synced
                } else {
                    Durability::Written
                },
                then: (token % 2 == 1).then_some(Durability::Synced),
                sink: Arc::<Inspector>::clone(&log.inspector),
                token,
            });
            if appended.is_err() {
                told = true;
                break;
            }
            answers.extend(log.commit());
            log.session.committer.run_chores();
        }
        for answer in &answers {
            if let Ok(appended) = &answer.outcome
                && appended.durability == Durability::Synced
            {
                assert!(answer.on_disk, "sync {failing} failed: {answer:?}");
            }
        }
        assert!(
            told || answers.iter().any(|answer| answer.outcome.is_err()),
            "sync {failing} failed and nobody was told"
        );
    }
}

// LOG-01, with real commit threads and several producers.
#[test]
fn synced_is_on_the_disk_whichever_thread_commits() {
    const PRODUCERS: u64 = 4;
    const EACH: u64 = 50;
    let storage = SimStorage::new(1);
    let environment = Environment {
        storage: Arc::new(storage.clone()),
        clock: SimClock::new(),
        committer: Committer::start(2),
    };
    let scribe = Arc::new(Scribe::default());
    let (log, _) = Log::open(
        &environment,
        Path::new(DIR),
        &writer(),
        &small_options(),
        scribe,
    )
    .expect("a sound disk");
    let inspector = Arc::new(Inspector {
        storage,
        answers: Mutex::default(),
    });
    std::thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let (log, inspector) = (log.clone(), Arc::clone(&inspector));
            scope.spawn(move || {
                for index in 0..EACH {
                    let token = producer * EACH + index;
                    log.append(Append {
                        records: vec![record("t", &envelope(token))],
                        durability: Durability::Synced,
                        then: None,
                        sink: Arc::<Inspector>::clone(&inspector),
                        token,
                    })
                    .expect("queued");
                }
            });
        }
    });
    // Closing waits for what is queued.
    log.close().expect("a sound disk");
    let answers = inspector.answers.lock().expect("no panic");
    assert_eq!(answers.len() as u64, PRODUCERS * EACH);
    assert!(
        answers
            .iter()
            .all(|answer| answer.outcome.is_ok() && answer.on_disk)
    );
    let mut order: Vec<_> = answers
        .iter()
        .map(|answer| {
            (
                answer.token / EACH,
                answer.outcome.clone().expect("checked").first,
            )
        })
        .collect();
    order.sort_unstable();
    order.dedup();
    assert_eq!(
        order.len() as u64,
        PRODUCERS * EACH,
        "a sequence was given twice"
    );
}

// Getting the next segment ready and running out of the present one may happen at the same time,
// on two threads.
#[test]
fn segments_turn_over_under_load_without_loss() {
    for round in 0..20 {
        let storage = SimStorage::slow(round);
        let environment = Environment {
            storage: Arc::new(storage.clone()),
            clock: SimClock::new(),
            committer: Committer::start(2),
        };
        let scribe = Arc::new(Scribe::default());
        let (log, _) = Log::open(
            &environment,
            Path::new(DIR),
            &writer(),
            &small_options(),
            scribe,
        )
        .expect("a sound disk");
        let inspector = Arc::new(Inspector {
            storage: storage.clone(),
            answers: Mutex::default(),
        });
        for token in 0..60 {
            let records = (0..4).map(|_| record("t", &[7; 900])).collect::<Vec<_>>();
            let mut append = Append {
                records,
                durability: Durability::Synced,
                then: None,
                sink: Arc::<Inspector>::clone(&inspector),
                token,
            };
            append.records.push(record("t", &envelope(token)));
            log.append(append).expect("queued");
        }
        log.close().expect("a sound disk");
        drop((log, environment));
        let answers = inspector.answers.lock().expect("no panic");
        assert!(
            answers
                .iter()
                .all(|answer| answer.outcome.is_ok() && answer.on_disk)
        );
        let session =
            Session::open(&storage, &SimClock::new(), &small_options()).expect("a sound disk");
        assert_eq!(session.statement, None, "round {round}");
        let topics = session.log.topics().expect("readable");
        assert_eq!(topics[0].records, 60 * 5, "round {round}");
    }
}

// LOG-01, REL-14: a log that is all that is left of its environment still writes.
#[test]
fn a_log_keeps_its_commit_threads() {
    let scribe = Arc::new(Scribe::default());
    let environment = Environment {
        storage: Arc::new(SimStorage::new(5)),
        clock: SimClock::new(),
        committer: Committer::start(1),
    };
    let path = Path::new(DIR);
    let observer = Arc::<Scribe>::clone(&scribe);
    let opened = Log::open(&environment, path, &writer(), &small_options(), observer);
    let (log, _) = opened.expect("a sound disk");
    drop(environment);
    log.append(Append {
        records: vec![record("t", b"x")],
        durability: Durability::Synced,
        then: None,
        sink: scribe,
        token: 1,
    })
    .expect("queued");
    // Waits for what is queued, which nobody would write without the threads.
    log.close().expect("closed");
    assert_eq!(log.bounds().durable_end.get(), 2);
}

// LOG-07, REL-14: the last handle may be dropped by one of the log's own threads.
#[test]
fn a_log_that_is_dropped_under_way_lets_go_of_its_lock() {
    let storage = SimStorage::new(6);
    for _ in 0..20 {
        let scribe = Arc::new(Scribe::default());
        let environment = Environment {
            storage: Arc::new(storage.clone()),
            clock: SimClock::new(),
            committer: Committer::start(1),
        };
        let observer = Arc::<Scribe>::clone(&scribe);
        let started = std::time::Instant::now();
        let log = loop {
            let observer = Arc::<Scribe>::clone(&observer);
            match Log::open(
                &environment,
                Path::new(DIR),
                &writer(),
                &small_options(),
                observer,
            ) {
                Ok((log, _)) => break log,
                Err(error) => {
                    assert!(started.elapsed().as_secs() < 20, "still: {error}");
                    std::thread::yield_now();
                }
            }
        };
        drop(environment);
        for durability in [Durability::Written, Durability::Synced] {
            log.append(Append {
                records: vec![record("t", b"x")],
                durability,
                then: None,
                sink: Arc::<Scribe>::clone(&scribe),
                token: 1,
            })
            .expect("queued");
        }
    }
}
