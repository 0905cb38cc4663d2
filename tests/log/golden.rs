//! Logs written by every released version of the format are read as they were written.
//!
//! The directories of each version were written once, when it was the current one, by
//!
//! ```text
//! ARQONBUS_WRITE_GOLDEN=1 cargo test --test log every_version_is_read
//! ```
//!
//! and are never written again: a change of the format gets a new version and a new directory.
//!
//! | directory | what |
//! | --- | --- |
//! | `closed` | a log that was closed |
//! | `killed` | the same log, copied while it was open |
//! | `rewritten` | version 2: what is left of `closed` without two of its topics |
//! | `compressed` | version 2: the same, with compressed bodies |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arqonbus::log::extract::{Extraction, Settings};
use arqonbus::log::offline::Directory;
use arqonbus::log::scan::Scanned;
use arqonbus::log::{
    Committer, Durability, Entropy, Environment, Error, Found, Keyring, Log, Micros, NewRecord,
    Options, RealStorage, Sequence,
};
use bytes::Bytes;

use crate::session::{DIR, Scribe, Session, SimClock, record, small_options, writer};
use crate::sim_storage::SimStorage;

const RECORDS: u64 = 120;
const TOPICS: [&str; 4] = ["quake.ak", "quake.ci.deep", "order.created", "a"];

/// The version that new directories are of.
const CURRENT: &str = "v2";

/// Version and name.
type Fixture = (&'static str, &'static str);

fn directory((version, name): Fixture) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/log")
        .join(version)
        .join(name)
}

/// What is left in the fixtures that were rewritten.
fn is_kept(sequence: u64) -> bool {
    topic(sequence).starts_with("quake.")
}

/// Random numbers that are always the same.
#[derive(Debug)]
struct Foretold;

impl Entropy for Foretold {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0x5a);
    }
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

fn write(name: &'static str) {
    let dir = directory((CURRENT, name));
    if dir.exists() {
        return;
    }
    match name {
        "closed" | "killed" => write_log(&dir, name),
        "rewritten" => write_extract(&dir, None),
        "compressed" => write_extract(&dir, Some(19)),
        other => panic!("{other} is no fixture"),
    }
    // Those of this machine and of this run tell nothing to others.
    for name in ["LOCK", "session", "prepared.seg"] {
        if dir.join(name).exists() {
            std::fs::remove_file(dir.join(name)).expect("writable");
        }
    }
}

fn write_extract(dir: &Path, compression: Option<i32>) {
    let source = Directory::open(&RealStorage, &directory((CURRENT, "closed"))).expect("readable");
    let settings = Settings {
        segment_bytes: 4 << 10,
        index_interval_bytes: 1 << 10,
        compression,
    };
    let keyring = Keyring::default();
    let mut extraction =
        Extraction::create(&RealStorage, dir, &source, keyring, &Foretold, settings)
            .expect("the directory can be written");
    for scanned in source.segments.iter().flat_map(|segment| segment.scan()) {
        let Scanned::Batch(batch) = scanned else {
            continue;
        };
        for record in batch.records() {
            if is_kept(record.sequence.get()) {
                let put = extraction.put(&batch.header, &record).expect("writable");
                assert!(put, "{} goes on where the last one ended", record.sequence);
            }
        }
    }
    let end = Sequence::FIRST.advance(RECORDS);
    let done = extraction.finish(end).expect("writable");
    assert!(done.segments >= 3, "{done:?}");
}

fn write_log(dir: &Path, ending: &str) {
    let dir = dir.to_owned();
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

fn load(fixture: Fixture) -> SimStorage {
    let storage = SimStorage::new(1);
    for entry in std::fs::read_dir(directory(fixture)).expect("the fixture is there") {
        let entry = entry.expect("readable");
        let bytes = std::fs::read(entry.path()).expect("readable");
        storage.place(&Path::new(DIR).join(entry.file_name()), bytes);
    }
    storage
}

/// Reads all of it and goes on with it.
fn check(fixture: Fixture) {
    let is_rewritten = matches!(fixture.1, "rewritten" | "compressed");
    let session = Session::open(&load(fixture), &SimClock::new(), &options())
        .unwrap_or_else(|error| panic!("{fixture:?}: {error:?}"));
    assert_eq!(session.statement.is_some(), fixture.1 == "killed");
    assert_eq!(session.log.status().read_only, None);
    let end = session.log.bounds().written_end;
    let mut expected = (1..=RECORDS).filter(|&sequence| !is_rewritten || is_kept(sequence));
    let mut at = Sequence::FIRST;
    while let Found::Records(chunk) = session.log.read(at, end, 5000).expect("readable") {
        for record in chunk.iter() {
            let sequence = record.sequence.get();
            assert_eq!(Some(sequence), expected.next(), "{fixture:?}");
            assert_eq!(
                record.appended_at,
                appended_at(sequence),
                "{fixture:?}: {sequence}"
            );
            assert_eq!(record.topic, topic(sequence), "{fixture:?}: {sequence}");
            let content = &record.record[..record.record.len() - 5];
            assert!(
                content.ends_with(&envelope(sequence)),
                "{fixture:?}: {sequence}"
            );
            at = record.sequence.next();
        }
    }
    assert_eq!(expected.next(), None, "{fixture:?}");
    assert_eq!(end.get(), RECORDS + 1, "{fixture:?}");
    let topics = session.log.topics().expect("readable");
    assert_eq!(topics.len(), if is_rewritten { 2 } else { 4 });
    assert!(
        topics.iter().all(|topic| topic.records == RECORDS / 4),
        "{topics:?}"
    );
    let middle = session.log.seek_time(appended_at(61)).expect("readable");
    assert_eq!(middle.get(), 61, "{fixture:?}");
    go_on(&session, fixture);
}

fn go_on(session: &Session, fixture: Fixture) {
    let end = session.log.bounds().written_end;
    let records = vec![record("quake.ak", b"behind")];
    let appended = session.append(1, records, Durability::Synced, None);
    appended.unwrap_or_else(|error| panic!("{fixture:?}: {error}"));
    session.committer.run_until_idle();
    let new_end = session.log.bounds().durable_end;
    assert_eq!(new_end, end.next(), "{fixture:?}");
    let found = session.log.read(end, new_end, 5000).expect("readable");
    let Found::Records(chunk) = found else {
        panic!("{fixture:?}: {found:?}");
    };
    let last = chunk.iter().next().expect("a record was appended");
    assert_eq!(
        (last.sequence, last.topic),
        (end, "quake.ak"),
        "{fixture:?}"
    );
}

// LOG-17
#[test]
fn every_version_is_read_as_it_was_written() {
    let current = ["closed", "killed", "rewritten", "compressed"];
    if std::env::var_os("ARQONBUS_WRITE_GOLDEN").is_some() {
        current.into_iter().for_each(write);
    }
    for name in ["closed", "killed"] {
        check(("v1", name));
    }
    for name in current {
        check((CURRENT, name));
    }
}

// LOG-17: what this program does not know it refuses, with the version it found, and leaves alone.
#[test]
fn a_later_version_is_refused_by_name() {
    let storage = load((CURRENT, "closed"));
    let files = storage.files();
    let segments = files.iter().filter(|(path, bytes)| {
        path.extension().is_some_and(|extension| extension == "seg")
            && bytes.starts_with(b"ARQONSEG")
    });
    for (path, bytes) in segments {
        let storage = load((CURRENT, "closed"));
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
