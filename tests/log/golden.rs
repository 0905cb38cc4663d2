//! Logs written by every released version of the format are read as they were written.
//!
//! `tests/fixtures/log/v1/` was written once, by
//!
//! ```text
//! ARQONBUS_WRITE_GOLDEN=1 cargo test --test log golden
//! ```
//!
//! and is never written again: a change of the format gets a new version and a new directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arqonbus::log::{
    Committer, Durability, Environment, Error, Found, Log, Micros, NewRecord, Options, RealStorage,
    Sequence,
};
use bytes::Bytes;

use crate::session::{DIR, Scribe, Session, SimClock, small_options, writer};
use crate::sim_storage::SimStorage;

const RECORDS: u64 = 120;
const TOPICS: [&str; 4] = ["quake.ak", "quake.ci.deep", "order.created", "a"];

fn directory(ending: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/log/v1")
        .join(ending)
}

fn options() -> Options {
    Options {
        segment_bytes: 16 << 10,
        segment_bytes_first: 16 << 10,
        ..small_options()
    }
}

fn topic(sequence: u64) -> &'static str {
    TOPICS[usize::try_from(sequence % 4).expect("small")]
}

fn envelope(sequence: u64) -> Vec<u8> {
    let len = usize::try_from(sequence * 37 % 300).expect("small");
    (0..len)
        .map(|at| (at as u64 ^ sequence).to_le_bytes()[0])
        .collect()
}

fn appended_at(sequence: u64) -> Micros {
    Micros(1_700_000_000_000_000 + 250_000 * (sequence.div_ceil(3)))
}

fn write(ending: &str) {
    let dir = directory(ending);
    assert!(
        !dir.exists(),
        "{} is there; versions are written once",
        dir.display()
    );
    let clock = SimClock::new();
    let committer = Committer::manual();
    let scribe = Arc::new(Scribe::default());
    let environment = Environment {
        storage: Arc::new(RealStorage),
        clock: Arc::<SimClock>::clone(&clock),
        committer: Arc::clone(&committer),
    };
    let (log, _) = Log::open(
        &environment,
        &dir,
        &writer(),
        &options(),
        Arc::<Scribe>::clone(&scribe),
    )
    .expect("the directory can be written");
    let sequences: Vec<u64> = (1..=RECORDS).collect();
    for batch in sequences.chunks(3) {
        clock.set(appended_at(batch[0]));
        let records = batch.iter().map(|&sequence| NewRecord {
            topic: Bytes::from_static(topic(sequence).as_bytes()),
            clock_entries: Bytes::new(),
            stamp: Bytes::new(),
            envelope: Bytes::from(envelope(sequence)),
        });
        log.append(arqonbus::log::Append {
            records: records.collect(),
            durability: Durability::Synced,
            then: None,
            sink: Arc::<Scribe>::clone(&scribe),
            token: 0,
        })
        .expect("queued");
        committer.run_until_idle();
    }
    if ending == "closed" {
        log.close().expect("the directory can be written");
    } else {
        // As a killed process leaves it. The copy is taken while the log is open.
        let copy = dir.with_extension("copy");
        std::fs::create_dir(&copy).expect("the directory can be written");
        for entry in std::fs::read_dir(&dir).expect("readable") {
            let entry = entry.expect("readable");
            std::fs::copy(entry.path(), copy.join(entry.file_name())).expect("writable");
        }
        drop(log);
        std::fs::remove_dir_all(&dir).expect("writable");
        #[expect(
            clippy::disallowed_methods,
            reason = "a fixture need not survive a power cut"
        )]
        std::fs::rename(copy, dir).expect("writable");
    }
}

fn load(ending: &str) -> SimStorage {
    let storage = SimStorage::new(1);
    for entry in std::fs::read_dir(directory(ending)).expect("the fixture is there") {
        let entry = entry.expect("readable");
        let bytes = std::fs::read(entry.path()).expect("readable");
        storage.place(&Path::new(DIR).join(entry.file_name()), bytes);
    }
    storage
}

fn check(ending: &str) {
    let session = Session::open(&load(ending), &SimClock::new(), &options())
        .unwrap_or_else(|error| panic!("{ending}: {error:?}"));
    assert_eq!(session.statement.is_some(), ending == "killed");
    assert_eq!(session.log.status().read_only, None);
    let end = session.log.bounds().written_end;
    let mut at = Sequence::FIRST;
    while let Found::Records(chunk) = session.log.read(at, end, 5000).expect("readable") {
        for record in chunk.iter() {
            let sequence = record.sequence.get();
            assert_eq!(record.sequence, at, "{ending}");
            assert_eq!(
                record.appended_at,
                appended_at(sequence),
                "{ending}: {sequence}"
            );
            assert_eq!(record.topic, topic(sequence), "{ending}: {sequence}");
            let content = &record.record[..record.record.len() - 5];
            assert!(
                content.ends_with(&envelope(sequence)),
                "{ending}: {sequence}"
            );
            at = at.next();
        }
    }
    assert_eq!(at.get(), RECORDS + 1, "{ending}");
    let topics = session.log.topics().expect("readable");
    assert!(
        topics.iter().all(|topic| topic.records == RECORDS / 4),
        "{topics:?}"
    );
    let middle = session.log.seek_time(appended_at(61)).expect("readable");
    assert_eq!(middle.get(), 61, "{ending}");
}

// LOG-17
#[test]
fn version_1_is_read_as_it_was_written() {
    for ending in ["closed", "killed"] {
        if std::env::var_os("ARQONBUS_WRITE_GOLDEN").is_some() {
            write(ending);
        }
        check(ending);
    }
}

// LOG-17: what this program does not know it refuses, with the version it found, and leaves alone.
#[test]
fn a_later_version_is_refused_by_name() {
    let storage = load("closed");
    let files = storage.files();
    let segments = files.iter().filter(|(path, bytes)| {
        path.extension().is_some_and(|extension| extension == "seg")
            && bytes.starts_with(b"ARQONSEG")
    });
    for (path, bytes) in segments {
        let storage = load("closed");
        let mut later = bytes.clone();
        later[8] = 3;
        storage.plant(path, later);
        let before = storage.files();
        let refused = Session::open(&storage, &SimClock::new(), &options());
        let Err(Error::Version {
            path: named,
            found,
            supported,
        }) = refused
        else {
            panic!("{}: {refused:?}", path.display());
        };
        assert_eq!((&named, found, supported), (path, 3, 2));
        for (path, bytes) in before {
            if path.extension().is_some_and(|extension| extension == "seg") {
                assert_eq!(
                    storage.files()[&path],
                    bytes,
                    "{} was changed",
                    path.display()
                );
            }
        }
    }
}
