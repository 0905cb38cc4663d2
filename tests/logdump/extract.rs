//! `logdump extract`: a new log of some of the records, that a node can go on with.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use arqonbus::log::extract::{Extraction, Settings};
use arqonbus::log::offline::Directory;
use arqonbus::log::scan::Scanned;
use arqonbus::log::{Durability, Found, Keyring, OsEntropy, RealStorage, Sequence};

use crate::made::{Made, change, closed_log, logdump, record, segments};

const RECORDS: u64 = 400;

struct Place {
    _dir: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("acme/main");
        closed_log(&source, RECORDS);
        Self {
            source,
            target: dir.path().join("acme/part"),
            _dir: dir,
        }
    }

    fn source(&self) -> String {
        self.source.display().to_string()
    }

    fn target(&self) -> String {
        self.target.display().to_string()
    }

    /// Extracts with `filters`, and what that said.
    fn extract(&self, filters: &[&str]) -> serde_json::Value {
        let (source, target) = (self.source(), self.target());
        let mut arguments = vec!["extract", &source, &target, "--output", "json"];
        arguments.extend_from_slice(filters);
        let run = logdump(&arguments);
        assert_eq!(run.code, 0, "{filters:?}: {}{}", run.stdout, run.stderr);
        run.json()
    }
}

/// All sequences that the library reads of the log in `dir`, which it opens and closes.
fn read_by_the_library(dir: &Path) -> Vec<u64> {
    let made = Made::open(dir, 32 << 10);
    let status = made.log.status();
    assert_eq!(status.read_only, None);
    let (mut at, end) = (status.bounds.first, status.bounds.durable_end);
    let mut sequences = Vec::new();
    while at < end {
        match made.log.read(at, end, 3000).unwrap() {
            Found::Records(chunk) => {
                sequences.extend(chunk.iter().map(|record| record.sequence.get()));
                at = chunk.last.next();
            }
            Found::Damaged { damage, .. } => panic!("{damage}"),
            Found::End => break,
        }
    }
    made.close();
    sequences
}

fn cat(log: &str, filters: &[&str]) -> String {
    let mut arguments = vec!["cat", log, "--output", "hex"];
    arguments.extend_from_slice(filters);
    let run = logdump(&arguments);
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.stdout
}

// TOOL-03: byte for byte the selected records, in a log that every other verb finds well.
#[test]
fn the_new_log_holds_what_was_selected_and_is_valid() {
    for filters in [
        &[][..],
        &["--topic", "quake.*"],
        &["--from", "100", "--to", "250"],
        &["--key", "k3", "--segment-bytes", "3000"],
        &[
            "--topic",
            "quake.ak",
            "--segment-bytes",
            "9000",
            "--compress",
        ],
        &["--header", "parity=1", "--compress=19"],
        &["--topic", "nothing.here"],
    ] {
        let place = Place::new();
        let said = place.extract(filters);
        let (source, target) = (place.source(), place.target());
        let selection: Vec<&str> = filters
            .iter()
            .copied()
            .take_while(|word| !word.contains("segment") && !word.contains("compress"))
            .collect();
        let wanted = cat(&source, &selection);
        assert_eq!(cat(&target, &[]), wanted, "{filters:?}");
        assert_eq!(said["records"], wanted.lines().count(), "{filters:?}");
        assert_eq!(said["next"], RECORDS + 1, "{filters:?}");

        let verified = logdump(&["verify", &target, "--output", "json"]);
        assert_eq!(verified.code, 0, "{filters:?}: {}", verified.stdout);
        let log = &verified.json()["logs"][0];
        assert_eq!(log["notices"], serde_json::json!([]), "{filters:?}");
        assert_eq!(
            log["holes"].as_u64().unwrap() + log["records"].as_u64().unwrap(),
            RECORDS,
            "{filters:?}"
        );

        let mut diff = vec!["diff", &source, &target];
        diff.extend_from_slice(&selection);
        if wanted.is_empty() {
            let other = format!("{target}.text");
            let run = logdump(&[&["extract", &source, &other], filters].concat());
            assert_eq!(run.code, 0, "{}", run.stderr);
            assert!(run.stderr.contains("no record is selected"), "{filters:?}");
            let said = logdump(&diff).stdout;
            assert!(said.ends_with("neither holds a record\n"), "{said}");
        }
        assert_eq!(logdump(&diff).code, 0, "{filters:?}");
        let whole = logdump(&["diff", &source, &target]).code;
        assert_eq!(whole == 0, selection.is_empty(), "{filters:?}");

        let ended = logdump(&["recover", &target, "--output", "json"]).json();
        assert_eq!(ended["logs"][0]["ending"], "clean", "{filters:?}");
    }
}

// TOOL-03: segments are as long as was asked for.
#[test]
fn segments_are_bounded() {
    let place = Place::new();
    let said = place.extract(&["--segment-bytes", "5000"]);
    let files = segments(&place.target);
    assert_eq!(said["segments"], files.len());
    assert!(files.len() > 10, "{}", files.len());
    for file in files {
        let len = std::fs::metadata(&file).unwrap().len();
        // Header block, and the batch that was begun below the bound.
        assert!(
            len < 4096 + 5000 + 4000,
            "{} has {len} bytes",
            file.display()
        );
    }
    let listed = logdump(&["ls", &place.target()]);
    assert_eq!(listed.code, 0, "{}", listed.stdout);
    assert!(listed.stdout.contains("rewritten 1"), "{}", listed.stdout);
}

// TOOL-03: a node goes on with it, behind every sequence that the old log has given out.
#[test]
fn the_library_goes_on_with_the_new_log() {
    for more in [&[][..], &["--compress"]] {
        let place = Place::new();
        let mut filters = vec!["--topic", "quake.>", "--segment-bytes", "8000"];
        filters.extend_from_slice(more);
        place.extract(&filters);
        let kept: Vec<u64> = (1..=RECORDS).filter(|sequence| sequence % 3 != 2).collect();
        assert_eq!(read_by_the_library(&place.target), kept);

        let made = Made::open(&place.target, 32 << 10);
        for first in [RECORDS + 1, RECORDS + 6] {
            made.batch((first..first + 5).map(record).collect(), Durability::Synced);
        }
        made.close();
        let expected: Vec<u64> = kept.into_iter().chain(RECORDS + 1..=RECORDS + 10).collect();
        assert_eq!(read_by_the_library(&place.target), expected);
        let verified = logdump(&["verify", &place.target()]);
        assert_eq!(verified.code, 0, "{}", verified.stdout);

        // And once more, from a log that was extracted already.
        let again = place.target.with_file_name("again");
        let (from, to) = (place.target(), again.display().to_string());
        let run = logdump(&["extract", &from, &to, "--from", "200"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert_eq!(cat(&to, &[]), cat(&from, &["--from", "200"]));
        assert_eq!(logdump(&["verify", &to]).code, 0);
    }
}

// TOOL-03: what is there already is not touched.
#[test]
fn a_directory_with_something_in_it_is_refused() {
    let place = Place::new();
    let (source, target) = (place.source(), place.target());
    std::fs::create_dir_all(place.target.join("below")).unwrap();
    let run = logdump(&["extract", &source, &target]);
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("is not empty"), "{}", run.stderr);
    std::fs::remove_dir(place.target.join("below")).unwrap();
    assert_eq!(logdump(&["extract", &source, &target]).code, 0);
    let before = segments(&place.target);
    assert_eq!(logdump(&["extract", &source, &target]).code, 2);
    assert_eq!(segments(&place.target), before);
    let onto_itself = logdump(&["extract", &source, &source]);
    assert_eq!(onto_itself.code, 2, "{}", onto_itself.stderr);
}

// TOOL-03: a crash in the middle leaves nothing under the name, and does not hinder the next run.
#[test]
fn an_extraction_that_was_interrupted_is_no_log() {
    let place = Place::new();
    let log = Directory::open(&RealStorage, &place.source).unwrap();
    let settings = Settings {
        segment_bytes: 4000,
        ..Settings::default()
    };
    let begin = || {
        let mut extraction = Extraction::create(
            &RealStorage,
            &place.target,
            &log,
            Keyring::default(),
            &OsEntropy,
            settings,
        )
        .unwrap();
        for scanned in log.segments[0].scan() {
            let Scanned::Batch(batch) = scanned else {
                continue;
            };
            for record in batch.records() {
                assert!(extraction.put(&batch.header, &record).unwrap());
                // What goes back is not taken.
                assert!(!extraction.put(&batch.header, &record).unwrap());
            }
        }
        extraction
    };
    let built = place.target.with_file_name(".part.extracting");
    // As a process that is killed: nothing is cleaned up.
    let _never_dropped = ManuallyDrop::new(begin());
    assert!(segments(&built).len() > 1, "some of it is on the disk");
    assert!(!place.target.exists());
    // As one that gives up.
    drop(begin());
    assert!(!built.exists());
    let _never_dropped = ManuallyDrop::new(begin());
    place.extract(&["--topic", "quake.ci"]);
    assert!(!built.exists());
    assert_eq!(logdump(&["verify", &place.target()]).code, 0);
}

// TOOL-03, LOG-20: of a damaged log everything good is written, and what is lost stays named.
#[test]
fn a_damaged_log_gives_a_valid_one_that_names_what_is_lost() {
    let place = Place::new();
    let first = segments(&place.source).swap_remove(0);
    change(&first, |bytes| {
        let at = (9000..bytes.len())
            .find(|&at| bytes[at..].starts_with(b"AQB\x01"))
            .unwrap();
        bytes[at + 100..at + 200].fill(0xee);
    });
    let (source, target) = (place.source(), place.target());
    let run = logdump(&["extract", &source, &target]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("body checksum"), "{}", run.stderr);
    let good = logdump(&["cat", &source, "--output", "json"]).sequences();
    let shown = logdump(&["cat", &target, "--output", "json"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert_eq!(shown.sequences(), good);
    assert!(shown.stderr.contains(" lost: "), "{}", shown.stderr);

    let verified = logdump(&["verify", &target, "--output", "json"]);
    assert_eq!(verified.code, 0, "{}", verified.stdout);
    let log = &verified.json()["logs"][0];
    let lost = RECORDS - good.len() as u64;
    assert!(lost > 0, "something is lost");
    assert_eq!(log["lost_sequences"], lost);
    assert_eq!(log["holes"], 0);

    let made = Made::open(&place.target, 32 << 10);
    let end = made.log.bounds().durable_end;
    let missing = (1..=RECORDS).find(|one| !good.contains(one)).unwrap();
    let found = made.log.read(Sequence::new(missing).unwrap(), end, 3000);
    assert!(matches!(found, Ok(Found::Damaged { .. })), "{found:?}");
    made.close();
}
