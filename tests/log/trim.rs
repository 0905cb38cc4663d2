//! Removing the front of a log, and using its blocks again.

use arqonbus::log::{Durability, Error, Found, Log, RealStorage, Sequence};

use crate::session::{Session, SimClock, record, small_options};
use crate::sim_storage::SimStorage;

fn sequence(value: u64) -> Sequence {
    Sequence::new(value).expect("a position")
}

/// Several segments of records, each with its sequence in the payload.
fn filled(storage: &SimStorage) -> Session {
    let clock = SimClock::new();
    let session = Session::open(storage, &clock, &small_options()).expect("a sound disk");
    fill(&session, 1..=400);
    assert!(session.log.status().segments > 4, "several segments");
    session
}

fn fill(session: &Session, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        let payload = [sequence.to_le_bytes().as_slice(), &[7; 400]].concat();
        let records = vec![record("t", &payload)];
        session
            .append(sequence, records, Durability::Synced, None)
            .expect("queued");
        session.committer.run_until_idle();
        session.committer.run_chores();
    }
}

/// The sequences from `from` to the end, each seen to hold its own payload.
fn read_all(log: &Log, from: u64) -> Vec<u64> {
    let end = log.bounds().durable_end;
    let mut at = sequence(from);
    let mut found = Vec::new();
    loop {
        match log.read(at, end, 4096).expect("readable") {
            Found::Records(chunk) => {
                for record in chunk.iter() {
                    let expected = record.sequence.get().to_le_bytes();
                    let held = record.record.windows(8).any(|window| window == expected);
                    assert!(held, "{:?} holds its own payload", record.sequence);
                    assert!(record.is_intact());
                    found.push(record.sequence.get());
                }
                at = chunk.last.next();
            }
            Found::End => return found,
            Found::Damaged { damage, .. } => panic!("{damage}"),
        }
    }
}

// LOG-09, LOG-10
#[test]
fn trimmed_records_are_out_of_range_and_the_rest_stays() {
    let storage = SimStorage::new(1);
    let session = filled(&storage);
    let before = session.log.status();
    let first = session.log.trim(sequence(200)).expect("trimmed").get();
    assert!((2..=200).contains(&first), "whole segments only: {first}");
    assert!(session.log.status().segments < before.segments);
    assert_eq!(session.log.bounds().first.get(), first);
    let asked = session.log.read(Sequence::FIRST, Sequence::MAX, 1);
    assert!(
        matches!(asked, Err(Error::OutOfRange { first: f, .. }) if f.get() == first),
        "{asked:?}"
    );
    assert_eq!(
        read_all(&session.log, first),
        (first..=400).collect::<Vec<_>>()
    );

    session.log.close().expect("closed");
    let clock = SimClock::new();
    let again = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
    assert_eq!(again.log.bounds().first.get(), first);
    assert_eq!(
        read_all(&again.log, first),
        (first..=400).collect::<Vec<_>>()
    );
}

// LOG-01, LOG-10: a file that is used again shows nothing of what was in it.
#[test]
fn retired_segment_is_used_again_and_shows_nothing_of_its_past() {
    let storage = SimStorage::new(2);
    let session = filled(&storage);
    session.log.trim(sequence(300)).expect("trimmed");
    let names = |storage: &SimStorage| -> Vec<String> {
        let name = |path: &std::path::PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        storage.files().keys().filter_map(name).collect()
    };
    assert!(
        names(&storage).contains(&"retired.tmp".to_owned()),
        "{:?}",
        names(&storage)
    );
    fill(&session, 401..=800);
    assert!(
        !names(&storage).contains(&"retired.tmp".to_owned()),
        "it was used"
    );
    let first = session.log.bounds().first.get();
    assert_eq!(
        read_all(&session.log, first),
        (first..=800).collect::<Vec<_>>()
    );

    let storage = storage.process_kill();
    drop(session);
    let clock = SimClock::new();
    let again = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
    assert_eq!(again.log.status().read_only, None);
    assert_eq!(
        read_all(&again.log, first),
        (first..=800).collect::<Vec<_>>()
    );
}

// LOG-10: bytes that a reader still holds are never overwritten.
#[test]
fn segment_that_a_reader_still_holds_is_not_used_again() {
    use arqonbus::log::{Access, Storage as _};
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = RealStorage
        .create(&dir.path().join("file"))
        .expect("a file");
    file.write_at(0, b"0123456789").expect("written");
    let held = file.read(2, 3).expect("read");
    assert!(file.is_shared());
    drop(held);
    assert!(!file.is_shared());
    let other = RealStorage.open(&dir.path().join("file"), Access::Read);
    assert!(!other.expect("opened").is_shared());
}

// PERF-10, LOG-09: a topic reader gives exactly what reading everything and filtering gives.
#[test]
fn topic_reader_gives_what_a_filter_over_all_gives() {
    let storage = SimStorage::new(3);
    let clock = SimClock::new();
    let session = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
    let topics = ["a", "b.rare", "c"];
    for number in 0_u64..500 {
        let topic = if number % 50 == 7 {
            topics[1]
        } else {
            topics[usize::from(number % 3 == 0) * 2]
        };
        let records = vec![record(topic, &[1; 300]); 1 + usize::from(number % 4 == 0)];
        session
            .append(number, records, Durability::Synced, None)
            .expect("queued");
        session.committer.run_until_idle();
        session.committer.run_chores();
    }
    let log = &session.log;
    let end = log.bounds().durable_end;
    for wanted in [&["a"][..], &["b.rare"], &["a", "c"], &["none"]] {
        for from in [1, 2, 77, 300, end.get() - 1] {
            for bytes_max in [1, 1000, 1 << 20] {
                let owned: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                let accept = move |topic: &str| owned.iter().any(|name| name == topic);
                let mut reader = log.topic_reader(Box::new(accept));
                let mut found = Vec::new();
                let mut at = sequence(from);
                while let Found::Records(chunk) = reader.read(at, end, bytes_max).expect("read") {
                    found.extend(chunk.iter().map(|record| record.sequence.get()));
                    at = chunk.last.next();
                }
                let expected = naive(log, from, wanted);
                assert_eq!(found, expected, "{wanted:?} from {from} by {bytes_max}");
            }
        }
    }
}

fn naive(log: &Log, from: u64, wanted: &[&str]) -> Vec<u64> {
    let end = log.bounds().durable_end;
    let mut at = sequence(from);
    let mut found = Vec::new();
    while let Found::Records(chunk) = log.read(at, end, 4096).expect("readable") {
        let wanted = chunk.iter().filter(|record| wanted.contains(&record.topic));
        found.extend(wanted.map(|record| record.sequence.get()));
        at = chunk.last.next();
    }
    found
}

// REL-06: the same while the log grows behind the reader.
#[test]
fn topic_reader_goes_on_when_the_log_grows() {
    let storage = SimStorage::new(4);
    let clock = SimClock::new();
    let session = Session::open(&storage, &clock, &small_options()).expect("a sound disk");
    let mut reader = session.log.topic_reader(Box::new(|topic| topic == "t"));
    let mut at = Sequence::FIRST;
    let mut seen = Vec::new();
    for round in 0..40 {
        fill(&session, round * 10 + 1..=round * 10 + 10);
        let end = session.log.bounds().durable_end;
        while let Found::Records(chunk) = reader.read(at, end, 900).expect("read") {
            seen.extend(chunk.iter().map(|record| record.sequence.get()));
            at = chunk.last.next();
        }
    }
    assert_eq!(seen, (1..=400).collect::<Vec<_>>());
}
