//! The log's memory has bounds, whatever producers and readers do.

use arqonbus::log::{AppendError, Durability, Found, Sequence};

use crate::session::{Event, Session, SimClock, record, small_options};
use crate::sim_storage::SimStorage;

// LOG-19
#[test]
fn the_tail_stays_within_its_bound_and_old_records_come_from_the_files() {
    let options = small_options();
    let session =
        Session::open(&SimStorage::new(1), &SimClock::new(), &options).expect("a sound disk");
    for token in 0..300 {
        session
            .append(
                token,
                vec![record("t", &[1; 900])],
                Durability::Synced,
                None,
            )
            .expect("queued");
        session.committer.run_until_idle();
        let held = session.log.status().tail_bytes;
        assert!(
            held <= options.tail_bytes,
            "{held} bytes after {token} appends"
        );
    }
    let end = session.log.bounds().durable_end;
    assert!(session.log.in_tail(end.previous().expect("not empty")));
    assert!(!session.log.in_tail(Sequence::FIRST));
    let found = session.log.read(Sequence::FIRST, end, 1).expect("readable");
    assert!(matches!(found, Found::Records(chunk) if chunk.base == Sequence::FIRST));
}

// LOG-19: one group larger than the tail must not stay in it.
#[test]
fn a_group_larger_than_the_tail_is_still_readable() {
    let options = small_options();
    let session =
        Session::open(&SimStorage::new(1), &SimClock::new(), &options).expect("a sound disk");
    let records = (0..20).map(|_| record("t", &[1; 900])).collect();
    session
        .append(0, records, Durability::Synced, None)
        .expect("queued");
    session.committer.run_until_idle();
    let held = session.log.status().tail_bytes;
    assert!(
        held <= options.tail_bytes,
        "{held} bytes of {}",
        options.tail_bytes
    );
    let mut at = Sequence::FIRST;
    while let Found::Records(chunk) = session.log.read(at, Sequence::MAX, 4000).expect("readable") {
        assert_eq!(chunk.base, at);
        at = chunk.last.next();
    }
    assert_eq!(at.get(), 21);
}

// LOG-19: what waits for the disk is bounded; who comes too late is told, and may come again.
#[test]
fn producers_faster_than_the_disk_are_refused_as_busy() {
    let options = small_options();
    let session =
        Session::open(&SimStorage::new(1), &SimClock::new(), &options).expect("a sound disk");
    let mut accepted = 0_u64;
    let refused = loop {
        match session.append(
            accepted,
            vec![record("t", &[1; 900])],
            Durability::Synced,
            None,
        ) {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
        let waiting = session.log.status().waiting_bytes;
        assert!(
            waiting <= options.waiting_bytes_max,
            "{waiting} bytes are waiting"
        );
        assert!(accepted < 10_000, "never refused");
    };
    assert!(matches!(refused, AppendError::Busy { .. }), "{refused:?}");
    assert!(
        accepted > 100,
        "refused after {accepted} batches of 900 bytes"
    );

    session.committer.run_until_idle();
    let answered = session.scribe.take().into_iter();
    let answered = answered
        .filter(|event| matches!(event, Event::Answered(_, Ok(_))))
        .count();
    assert_eq!(
        answered as u64, accepted,
        "what was accepted was not answered"
    );
    assert_eq!(session.log.status().waiting_bytes, 0);
    session
        .append(
            accepted,
            vec![record("t", &[1; 900])],
            Durability::Synced,
            None,
        )
        .expect("there is room again");
}
