//! Reading and seeking at the edges of a log.

use arqonbus::log::{AppendError, Durability, Error, Found, Log, Micros, Sequence};

use crate::session::{Event, START, Session, SimClock, record, small_options};
use crate::sim_storage::SimStorage;

fn sequence(value: u64) -> Sequence {
    Sequence::new(value).expect("a position")
}

fn filled(count: u64) -> (Session, std::sync::Arc<SimClock>) {
    let clock = SimClock::new();
    let session =
        Session::open(&SimStorage::new(1), &clock, &small_options()).expect("a sound disk");
    for index in 0..count {
        clock.set(Micros(START + 1_000 * (index + 1)));
        session
            .append(
                index,
                vec![record("t", &[7; 600])],
                Durability::Synced,
                None,
            )
            .expect("queued");
        session.committer.run_until_idle();
    }
    (session, clock)
}

fn records(log: &Log, from: u64, end: u64, bytes_max: usize) -> Vec<u64> {
    match log
        .read(sequence(from), sequence(end), bytes_max)
        .expect("readable")
    {
        Found::Records(chunk) => {
            let found: Vec<u64> = chunk.iter().map(|record| record.sequence.get()).collect();
            assert_eq!(found.first(), Some(&chunk.base.get()));
            assert_eq!(found.last(), Some(&chunk.last.get()));
            found
        }
        Found::End => Vec::new(),
        Found::Damaged { damage, .. } => panic!("{damage}"),
    }
}

// LOG-09
#[test]
fn an_empty_log_has_an_end_and_nothing_else() {
    let (session, _clock) = filled(0);
    let log = &session.log;
    let bounds = log.bounds();
    assert_eq!(
        (bounds.first, bounds.durable_end, bounds.written_end),
        (Sequence::FIRST, Sequence::FIRST, Sequence::FIRST)
    );
    assert_eq!(records(log, 1, u64::MAX, 1000), [] as [u64; 0]);
    assert_eq!(log.seek_time(Micros(0)).expect("readable"), Sequence::FIRST);
    assert_eq!(
        log.seek_time(Micros(u64::MAX)).expect("readable"),
        Sequence::FIRST
    );
    assert_eq!(log.topics().expect("readable"), []);
}

// LOG-09
#[test]
fn reads_stop_at_the_end_asked_for_and_at_the_end_there_is() {
    let (session, _clock) = filled(100);
    let log = &session.log;
    assert!(log.status().segments > 2, "the log must span segments");
    for from in [1, 2, 30, 99, 100] {
        assert_eq!(
            records(log, from, 101, 1)[0],
            from,
            "at least one record, however large"
        );
        assert_eq!(
            records(log, from, from, 10_000),
            [] as [u64; 0],
            "an empty range"
        );
        assert_eq!(records(log, from, from + 1, 10_000), [from]);
    }
    assert_eq!(records(log, 101, u64::MAX, 1000), [] as [u64; 0]);
    assert_eq!(records(log, u64::MAX, u64::MAX, 1000), [] as [u64; 0]);
    let mut at = 1;
    while at < 101 {
        let found = records(log, at, u64::MAX, 2_500);
        assert_eq!(found[0], at);
        assert!(
            found.len() <= 5,
            "{} records of 600 bytes in 2,500",
            found.len()
        );
        at = found[found.len() - 1] + 1;
    }
    assert_eq!(at, 101);
}

// LOG-09
#[test]
fn a_time_is_found_exactly() {
    let (session, clock) = filled(100);
    let log = &session.log;
    let at = |after| {
        log.seek_time(Micros(START + after))
            .expect("readable")
            .get()
    };
    assert_eq!(log.seek_time(Micros(0)).expect("readable").get(), 1);
    for index in [1, 2, 49, 50, 99, 100] {
        assert_eq!(at(1_000 * index), index, "the very moment");
        assert_eq!(at(1_000 * index - 1), index, "just before");
        assert_eq!(at(1_000 * index + 1), index + 1, "just after");
    }
    assert_eq!(
        log.seek_time(Micros(u64::MAX)).expect("readable").get(),
        101
    );
    // REL-12: the wall clock goes back; the order of records does not.
    clock.set(Micros(5));
    session
        .append(100, vec![record("t", &[7; 600])], Durability::Synced, None)
        .expect("queued");
    session.committer.run_until_idle();
    assert_eq!(at(100_000), 100);
    assert_eq!(at(50_000), 50);
}

// LOG-09: before the start there is nothing, and the answer says where something is. Sequences
// start at 1, so on a log that was never trimmed no position lies before the start.
#[test]
fn the_first_position_is_always_readable() {
    let (session, _clock) = filled(3);
    let found = session
        .log
        .read(Sequence::at_least_first(0), Sequence::MAX, 1);
    assert!(!matches!(found, Err(Error::OutOfRange { .. })), "{found:?}");
}

// A batch that no segment can hold is refused at once, as the caller's fault, and does no harm.
#[test]
fn a_batch_larger_than_a_segment_is_refused() {
    let (session, _clock) = filled(1);
    let too_large = vec![record("t", &vec![0; 100 << 10])];
    let refused = session.append(1, too_large, Durability::Synced, None);
    let Err(AppendError::TooLarge { bytes, limit }) = refused else {
        panic!("{refused:?}");
    };
    assert!(bytes > limit, "{bytes} of {limit}");

    // As much as it says it can take, it takes, whole.
    let overhead = bytes - (100 << 10);
    let largest = vec![record("t", &vec![1; limit - overhead])];
    session
        .append(2, largest, Durability::Synced, None)
        .expect("as large as allowed");
    session.committer.run_until_idle();
    let answered = session
        .scribe
        .take()
        .into_iter()
        .any(|event| matches!(event, Event::Answered(2, Ok(_))));
    assert!(answered, "the largest batch was not stored");
    assert_eq!(records(&session.log, 2, 3, 1), [2]);
}

// An envelope may be empty, and so may be the shortest topic but one.
#[test]
fn the_smallest_record_comes_back() {
    let (session, _clock) = filled(0);
    session
        .append(0, vec![record("t", b"")], Durability::Synced, None)
        .expect("queued");
    session.committer.run_until_idle();
    assert_eq!(records(&session.log, 1, 2, 1), [1]);
}
