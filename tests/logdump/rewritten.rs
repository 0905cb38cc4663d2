//! Logs of version 2: headers that stand twice, segments that were written again, lost records,
//! bodies that are compressed or encrypted, forks.

use std::path::{Path, PathBuf};

use arqonbus::log::batch::{HEADER_BYTES, MAGIC};
use arqonbus::log::extract::{Extraction, Settings};
use arqonbus::log::offline::Directory;
use arqonbus::log::scan::Scanned;
use arqonbus::log::segment::{self, HEADER_COPY_AT, Origin, SegmentHeader};
use arqonbus::log::{
    Committer, DataKey, Encryption, Environment, Keyring, Log, MasterKeys, NewSegments, Options,
    OsEntropy, RealStorage, Sequence, Unthrottled, Writer,
};
use serde_json::Value;
use std::sync::Arc;

use crate::made::{Dice, Made, Run, Ticking, change, closed_log, copy, fill, logdump, segments};

const RECORDS: u64 = 400;
const KEY_ID: [u8; 16] = [0xab; 16];

struct Place {
    dir: tempfile::TempDir,
    log: PathBuf,
    text: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("acme/main");
        let text = log.display().to_string();
        Self { dir, log, text }
    }

    fn closed() -> Self {
        let place = Self::new();
        closed_log(&place.log, RECORDS);
        place
    }

    /// Without a third of its records.
    fn extracted(compression: Option<i32>, keyring: Keyring) -> Self {
        let place = Self::new();
        let source = place.dir.path().join("source/main");
        closed_log(&source, RECORDS);
        let log = Directory::open(&RealStorage, &source).unwrap();
        let settings = Settings {
            segment_bytes: 16 << 10,
            index_interval_bytes: 512,
            compression,
        };
        let target = &place.log;
        let mut extraction =
            Extraction::create(&RealStorage, target, &log, keyring, &OsEntropy, settings).unwrap();
        for scanned in log.segments.iter().flat_map(|segment| segment.scan()) {
            let Scanned::Batch(batch) = scanned else {
                continue;
            };
            let kept = batch.records().filter(|one| is_kept(one.sequence.get()));
            for record in kept {
                assert!(extraction.put(&batch.header, &record).unwrap());
            }
        }
        let end = Sequence::new(RECORDS + 1).unwrap();
        assert!(extraction.finish(end).unwrap().segments > 2);
        place
    }

    fn verify(&self) -> (Run, Value) {
        let run = logdump(&["verify", &self.text]);
        let json = logdump(&["verify", &self.text, "--output", "json"]).json();
        (run, json["logs"][0].clone())
    }
}

/// Makes good again what was changed.
fn while_changed(path: &Path, how: impl FnOnce(&mut Vec<u8>), look: impl FnOnce()) {
    let before = std::fs::read(path).unwrap();
    change(path, how);
    look();
    change(path, |bytes| *bytes = before);
}

fn is_kept(sequence: u64) -> bool {
    !sequence.is_multiple_of(3)
}

fn encrypting() -> Keyring {
    let key = DataKey::new([7; 32]);
    Keyring::new(vec![(KEY_ID, key)], Some(KEY_ID), Arc::new(OsEntropy))
}

fn classes(log: &Value) -> Vec<&str> {
    let findings = log["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|finding| finding["class"].as_str().unwrap())
        .collect()
}

/// Where batches begin.
fn batches(bytes: &[u8]) -> Vec<usize> {
    (4096..bytes.len() - HEADER_BYTES)
        .filter(|&at| bytes[at..].starts_with(&MAGIC))
        .collect()
}

/// Gives a changed header of a batch a good checksum.
fn seal(bytes: &mut [u8], at: usize) {
    let crc = crc32fast::hash(&bytes[at + 8..at + HEADER_BYTES]);
    bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
}

// LOG-20, TOOL-03: a header that a node puts back, a copy that nobody needs now, and a header that
// is gone are three things.
#[test]
fn the_two_headers_are_told_apart() {
    let place = Place::closed();
    for file in segments(&place.log) {
        let flip = |at: usize| move |bytes: &mut Vec<u8>| bytes[at] ^= 4;
        while_changed(&file, flip(33), || {
            let (run, log) = place.verify();
            assert_eq!(run.code, 1, "{}", run.stdout);
            assert_eq!(classes(&log), ["header"], "{}", run.stdout);
            assert!(run.stdout.contains("MENDABLE"), "{}", run.stdout);
            let shown = logdump(&["cat", &place.text, "--output", "json"]);
            assert_eq!(shown.code, 0, "{}", shown.stderr);
            assert_eq!(shown.sequences(), (1..=RECORDS).collect::<Vec<_>>());
            assert!(logdump(&["ls", &place.text]).stdout.contains("bad header"));
        });
        while_changed(&file, flip(HEADER_COPY_AT + 33), || {
            let (run, log) = place.verify();
            assert_eq!(
                (run.code, classes(&log)),
                (1, vec!["copy"]),
                "{}",
                run.stdout
            );
            let file = file.display().to_string();
            let dumped = logdump(&["hexdump", &file]);
            assert!(dumped.stdout.contains("copy base"), "{}", dumped.stdout);
        });
        let both = |bytes: &mut Vec<u8>| {
            bytes[33] ^= 4;
            bytes[HEADER_COPY_AT + 33] ^= 4;
        };
        while_changed(&file, both, || {
            let (run, log) = place.verify();
            assert_eq!(run.code, 1, "{}", run.stdout);
            assert!(classes(&log).contains(&"damage"), "{}", run.stdout);
        });
        while_changed(&file, flip(700), || {
            let (run, log) = place.verify();
            assert_eq!(
                (run.code, classes(&log)),
                (1, vec!["damage"]),
                "{}",
                run.stdout
            );
        });
    }
    assert_eq!(place.verify().0.code, 0);
}

// TOOL-03: holes are counted; every verb reads around them, compressed or not.
#[test]
fn segments_with_holes_are_read_by_every_verb() {
    let kept: Vec<u64> = (1..=RECORDS).filter(|&one| is_kept(one)).collect();
    for compression in [None, Some(3)] {
        let place = Place::extracted(compression, Keyring::default());
        let (run, log) = place.verify();
        assert_eq!(run.code, 0, "{}", run.stdout);
        assert_eq!(log["records"], kept.len());
        assert_eq!(log["holes"], RECORDS - kept.len() as u64);
        let shown = logdump(&["cat", &place.text, "--output", "json"]);
        assert_eq!((shown.code, shown.sequences()), (0, kept.clone()));
        let from = logdump(&["cat", &place.text, "--output", "json", "--from", "300"]);
        assert_eq!(from.sequences()[0], 301);
        let found = logdump(&["grep", "\"n\":200,", &place.text, "--output", "json"]);
        assert_eq!((found.code, found.sequences()), (0, vec![200]));
        let one = logdump(&["show", "200", &place.text, "--output", "json"]);
        assert_eq!(one.json()["record"]["sequence"], 200, "{}", one.stdout);
        assert_eq!(logdump(&["show", "201", &place.text]).code, 1, "a hole");
        let stats = &logdump(&["stats", &place.text, "--output", "json"]).json()["logs"][0];
        assert_eq!(stats["records"], kept.len());
        let compressed = stats["compression"].as_f64().unwrap() > 2.0;
        assert_eq!(compressed, compression.is_some(), "{stats}");
        let past = logdump(&["causal", "past", "200", &place.text]);
        assert_eq!(past.code, 0, "{}{}", past.stdout, past.stderr);
        let listed = logdump(&["ls", &place.text]);
        assert_eq!(listed.code, 0, "{}", listed.stdout);
        assert_eq!(
            listed.stdout.contains("compressed "),
            compression.is_some(),
            "{}",
            listed.stdout
        );
        let indexes = logdump(&["index", &place.text, "--output", "json"]).json();
        assert_eq!(indexes["indexes"][0]["state"], "good");
        let dumped = logdump(&["hexdump", "200", &place.text]);
        assert!(dumped.stdout.contains("holes"), "{}", dumped.stdout);
        let is_decoded = dumped.stdout.contains("zstd frame");
        assert_eq!(is_decoded, compression.is_some(), "{}", dumped.stdout);
    }
}

// LOG-20: what is missing of a rewritten segment, or around it, is not taken for holes.
#[test]
fn missing_ends_and_missing_segments_are_no_holes() {
    let place = Place::extracted(None, Keyring::default());
    let files = segments(&place.log);
    let zero_the_last_batch = |bytes: &mut Vec<u8>| {
        let last = batches(bytes).pop().unwrap();
        bytes[last..].fill(0);
    };
    while_changed(&files[1], zero_the_last_batch, || {
        let (run, _) = place.verify();
        assert_eq!(run.code, 1, "{}", run.stdout);
        assert!(run.stdout.contains("end of the batches"), "{}", run.stdout);
    });
    for (gone, said) in [
        (&files[1], "end of the segment"),
        (files.last().unwrap(), "next segment"),
    ] {
        let bytes = std::fs::read(gone).unwrap();
        std::fs::remove_file(gone).unwrap();
        let (run, _) = place.verify();
        assert_eq!(run.code, 1, "{}", run.stdout);
        assert!(run.stdout.contains(said), "{said}: {}", run.stdout);
        copy_bytes(gone, &bytes);
    }
    assert_eq!(place.verify().0.code, 0);
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's file need not be durable"
)]
fn copy_bytes(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

// LOG-03, TOOL-03: after a repair, what is lost is told by every verb that meets it, and nothing
// is called damaged.
#[test]
fn a_repaired_log_is_well_and_names_what_is_lost() {
    let place = Place::closed();
    let file = segments(&place.log).swap_remove(1);
    change(&file, |bytes| bytes[9000..9200].fill(0xee));
    let good = logdump(&["cat", &place.text, "--output", "json"]).sequences();
    let lost = RECORDS - good.len() as u64;
    assert!(lost > 0, "something is lost");
    let environment = Environment {
        storage: Arc::new(RealStorage),
        clock: Ticking::new(),
        committer: Committer::manual(),
    };
    let writer = Writer {
        node: 7,
        clock_key: "n7/main".to_owned(),
    };
    let options = Options::default();
    let statement = Log::repair(&environment, &place.log, &writer, &options, &Unthrottled).unwrap();
    assert!(statement.is_some());

    let (run, log) = place.verify();
    assert_eq!(run.code, 0, "{}", run.stdout);
    assert_eq!(log["lost_sequences"], lost);
    assert!(run.stdout.contains("notice: lost: "), "{}", run.stdout);
    assert!(run.stdout.contains("quarantine: "), "{}", run.stdout);
    let listed = logdump(&["ls", &place.text]);
    assert_eq!(listed.code, 0, "{}", listed.stdout);
    for said in ["are lost: ", "quarantine: ", "loss statement: "] {
        assert!(listed.stdout.contains(said), "{said}: {}", listed.stdout);
    }
    let shown = logdump(&["cat", &place.text, "--output", "json"]);
    assert_eq!((shown.code, shown.sequences()), (0, good));
    assert!(shown.stderr.contains("are lost: "), "{}", shown.stderr);
    let at = log["lost"][0]["offset"].to_string();
    let file = log["lost"][0]["file"].as_str().unwrap();
    let dumped = logdump(&["hexdump", file, "--offset", &at]);
    assert_eq!(dumped.code, 0, "{}", dumped.stdout);
    assert!(dumped.stdout.contains("lost records"), "{}", dumped.stdout);
    assert!(dumped.stdout.contains("put aside in"), "{}", dumped.stdout);
    let compared = logdump(&["diff", &place.text, &place.text, "--output", "json"]);
    assert_eq!(compared.code, 0, "{}", compared.stdout);
}

// LOG-14, TOOL-03: without the key nothing is called damaged, and what is damaged still is found.
#[test]
fn a_locked_log_says_so_and_is_still_checked() {
    let place = Place::extracted(Some(3), encrypting());
    let key = "ab".repeat(16);
    let (run, log) = place.verify();
    assert_eq!(run.code, 0, "{}", run.stdout);
    assert!(log["locked_sequences"].as_u64().unwrap() > 300, "{log}");
    let why = format!("encrypted with data key {key}, but the file `keys` beside it");
    assert_eq!(run.stdout.matches(&why).count(), 1, "{}", run.stdout);
    let listed = logdump(&["ls", &place.text]);
    assert_eq!(listed.code, 0, "{}", listed.stdout);
    assert!(listed.stdout.contains(&key), "{}", listed.stdout);
    for arguments in [
        &["cat", &place.text][..],
        &["stats", &place.text],
        &["causal", "past", "200", &place.text],
        &["extract", &place.text, &format!("{}.part", place.text)],
        &["diff", &place.text, &place.text],
    ] {
        let run = logdump(arguments);
        let said = format!("{}{}", run.stdout, run.stderr);
        assert_eq!(run.code, 1, "{arguments:?}: {said}");
        let times = said.matches(&why).count();
        let logs = arguments.iter().filter(|one| **one == place.text).count();
        assert_eq!(times, logs, "{arguments:?}: {said}");
        assert!(!said.contains("damage in"), "{arguments:?}: {said}");
    }
    for verb in ["show", "hexdump"] {
        let run = logdump(&[verb, "200", &place.text]);
        let said = &run.stderr;
        assert_eq!((run.code, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains("sequence 200, unless it was"), "{said}");
        assert!(said.contains(".seg, ") && said.contains(&why), "{said}");
        let run = logdump(&[verb, "9000", &place.text]);
        assert!(run.stderr.contains("9000 is not here"), "{}", run.stderr);
    }
    let file = segments(&place.log).swap_remove(0);
    let text = file.display().to_string();
    let dumped = logdump(&["hexdump", &text]);
    for said in ["nonce", "encrypted", "tag", "(locked)", &key] {
        assert!(dumped.stdout.contains(said), "{said}: {}", dumped.stdout);
    }
    while_changed(
        &file,
        |bytes| bytes[4300] ^= 1,
        || {
            let (run, _) = place.verify();
            assert_eq!(run.code, 1, "{}", run.stdout);
            assert!(run.stdout.contains("body checksum"), "{}", run.stdout);
        },
    );
}

// LOG-14: with the key, offline tools see what the log sees.
#[test]
fn an_encrypted_log_can_be_unlocked() {
    let place = Place::extracted(None, encrypting());
    let mut log = Directory::open(&RealStorage, &place.log).unwrap();
    assert!(log.segments.iter().all(|segment| segment.is_locked()));
    log.unlock(&encrypting());
    let mut sequences = Vec::new();
    for segment in &log.segments {
        assert!(!segment.is_locked());
        for scanned in segment.scan() {
            let Scanned::Batch(batch) = scanned else {
                continue;
            };
            sequences.extend(batch.records().map(|record| record.sequence.get()));
        }
    }
    let kept: Vec<u64> = (1..=RECORDS).filter(|&one| is_kept(one)).collect();
    assert_eq!(sequences, kept);
}

// TOOL-03: the segments of a fork may have several identities, if they say whose.
#[test]
fn a_fork_is_no_mixture_of_logs() {
    let place = Place::closed();
    let log = Directory::open(&RealStorage, &place.log).unwrap();
    let last = log.segments.last().unwrap();
    let of_parent = last.header.clone().unwrap();
    let batches = last.scan().filter_map(|scanned| match scanned {
        Scanned::Batch(batch) => Some(batch),
        Scanned::Damaged(_) | Scanned::End(_) => None,
    });
    let close = batches.last().unwrap();
    let base = close.header.end();
    let origin = Origin {
        log_id: of_parent.log_id,
        end: base,
    };
    let capacity = 8192;
    let own = SegmentHeader {
        log_id: [9; 16],
        base,
        epoch: close.header.epoch,
        previous_root: close.next_chain,
        created_at: close.header.appended_at,
        capacity,
        origin: Some(origin),
        ..of_parent
    };
    let begin = |own: &SegmentHeader| {
        let mut bytes = own.block();
        bytes.resize(8192, 0);
        copy_bytes(&place.log.join(segment::file_name(base)), &bytes);
    };
    begin(&own);
    let (run, _) = place.verify();
    assert_eq!(run.code, 0, "{}", run.stdout);
    let listed = logdump(&["ls", &place.text]);
    assert!(listed.stdout.contains("fork of "), "{}", listed.stdout);
    let foreign = Origin {
        log_id: [8; 16],
        ..origin
    };
    for origin in [None, Some(foreign)] {
        begin(&SegmentHeader {
            origin,
            ..own.clone()
        });
        let (run, _) = place.verify();
        assert_eq!(run.code, 1, "{}", run.stdout);
        assert!(run.stdout.contains("log id"), "{}", run.stdout);
    }
}

// LOG-17, TOOL-03: every version that was ever released is well, and shown as what it is.
#[test]
fn fixtures_of_every_version_are_well() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/log");
    let mut seen = 0;
    for (version, number) in [("v1", "1"), ("v2", "2")] {
        for entry in std::fs::read_dir(fixtures.join(version)).unwrap() {
            // A log beside which nothing can be written by mistake.
            let place = Place::new();
            copy(&entry.unwrap().path(), &place.log);
            let (run, _) = place.verify();
            assert_eq!(run.code, 0, "{}", run.stdout);
            let file = segments(&place.log)[0].display().to_string();
            let dumped = logdump(&["hexdump", &file, "--output", "json"]);
            assert_eq!(dumped.code, 0, "{}", dumped.stderr);
            let rows = dumped.json()["rows"].as_array().unwrap().clone();
            let has = |field: &str, value: &str| {
                rows.iter()
                    .any(|row| row["field"] == field && row["value"] == value)
            };
            assert!(has("version", number), "{rows:?}");
            let is_twice = rows.iter().any(|row| row["field"] == "copy");
            assert_eq!(is_twice, version == "v2");
            seen += 1;
        }
    }
    assert_eq!(seen, 6);
}

// LOG-20: bits that are wrong under a good checksum, where only a bug can have put them, and bits
// that are wrong anywhere in headers, copies and bodies: nothing panics.
#[test]
fn wrong_bits_in_version_2_never_panic() {
    let mut dice = Dice::new(3);
    let logs = [
        Place::extracted(None, Keyring::default()),
        Place::extracted(Some(3), Keyring::default()),
        Place::extracted(Some(3), encrypting()),
    ];
    for round in 0..120 {
        let place = &logs[round % logs.len()];
        let bad = place.dir.path().join(format!("bad-{round}/main"));
        copy(&place.log, &bad);
        let files = segments(&bad);
        let file = &files[dice.below(files.len())];
        let mut is_sealed = false;
        change(file, |bytes| {
            let all = batches(bytes);
            let batch = all[dice.below(all.len())];
            let bit = 1 << dice.below(8);
            let kind = dice.below(4);
            is_sealed = kind > 1;
            match kind {
                0 => bytes[dice.below(256)] ^= bit,
                1 => {
                    let at = dice.below(256);
                    bytes[at] ^= bit;
                    bytes[HEADER_COPY_AT + dice.below(256)] ^= bit;
                }
                2 => {
                    bytes[batch + 8 + dice.below(56)] ^= bit;
                    seal(bytes, batch);
                }
                _ => {
                    bytes[batch + 28] ^= bit;
                    seal(bytes, batch);
                }
            }
        });
        let log = bad.display().to_string();
        let verified = logdump(&["verify", &log, "--output", "json"]);
        // Under a good checksum a number may as well be another.
        let may_pass = i32::from(!is_sealed);
        assert!(
            (may_pass..=1).contains(&verified.code),
            "round {round}: {}",
            verified.stdout
        );
        let sequence = (dice.below(400) + 1).to_string();
        let file = file.display().to_string();
        let target = format!("{log}.part");
        let verb: &[&str] = match round % 8 {
            0 => &["ls", &log],
            1 => &["cat", &log],
            2 => &["stats", &log],
            3 => &["hexdump", &file, "--whole"],
            4 => &["show", &sequence, &log],
            5 => &["causal", "past", &sequence, &log],
            6 => &["diff", &log, &log],
            _ => &["recover", &log],
        };
        assert!(logdump(verb).code <= 1, "round {round}: {verb:?}");
        let extracted = logdump(&["extract", &log, &target]);
        assert!(extracted.code <= 1, "round {round}: {}", extracted.stderr);
        // Whatever it was made of, the new log is a valid one.
        let verified = logdump(&["verify", &target]);
        assert_eq!(verified.code, 0, "round {round}: {}", verified.stdout);
        std::fs::remove_dir_all(bad.parent().unwrap()).unwrap();
    }
}

// LOG-14, TOOL-03: what cannot be read is neither the same nor a part of anything, and a record
// that differs elsewhere still counts.
#[test]
fn a_locked_log_is_not_compared() {
    let locked = Place::extracted(None, encrypting());
    let plain = Place::extracted(None, Keyring::default());
    let compare = |a: &Place, b: &Place, more: &[&str]| {
        logdump(&[&["diff", a.text.as_str(), b.text.as_str()], more].concat())
    };
    for (a, b, only) in [
        (&locked, &locked, "of A and "),
        (&locked, &plain, "of A are encrypted"),
        (&plain, &locked, "of B are encrypted"),
    ] {
        let run = compare(a, b, &[]);
        assert_eq!(run.code, 1, "{}", run.stdout);
        let verdict = run.stdout.lines().last().unwrap();
        assert!(verdict.starts_with("not comparable: "), "{verdict}");
        assert!(verdict.contains(only), "{verdict}");
        let run = compare(a, b, &["--output", "json"]);
        let found = run.json();
        assert_eq!((run.code, &found["same"]), (1, &Value::Bool(false)));
        assert_eq!(found["relation"], "not_comparable", "{found}");
        assert_eq!(found["why"], verdict);
        assert!(found["first_divergence"].is_null(), "{found}");
        let kept = (1..=RECORDS).filter(|&one| is_kept(one)).count();
        let hidden = if std::ptr::eq(a, b) { 0 } else { kept };
        assert_eq!(found["records"]["not_compared"], hidden, "{found}");
    }
    // The first segment is readable, all others are encrypted.
    let half = locked.dir.path().join("half/main");
    copy(&plain.log, &half);
    for (encrypted, file) in segments(&locked.log).iter().zip(segments(&half)).skip(1) {
        std::fs::copy(encrypted, file).unwrap();
    }
    let half = half.display().to_string();
    let run = logdump(&["diff", &half, &plain.text, "--output", "json"]);
    let found = run.json();
    assert_eq!(found["relation"], "not_comparable", "{found}");
    assert!(found["records"]["same"].as_u64().unwrap() > 0, "{found}");
    let longer = plain.dir.path().join("longer/main");
    closed_log(&longer, RECORDS);
    let longer = longer.display().to_string();
    let run = logdump(&["diff", &half, &longer, "--output", "json"]);
    let found = run.json();
    // Before the first encrypted batch the longer log has records that were left out here.
    assert!(
        found["only_in_b"]["records"].as_u64().unwrap() > 0,
        "{found}"
    );
    assert_eq!(found["relation"], "not_comparable", "{found}");
    // What is encrypted was not asked for.
    let first = found["b"]["first"].to_string();
    let run = logdump(&["diff", &half, &longer, "--to", &first, "--output", "json"]);
    assert_ne!(run.json()["relation"], "not_comparable", "{}", run.stdout);
}

// LOG-14, TOOL-03: every verb names the master key that is wanted, once, and after shredding says
// that none will do.
#[test]
fn the_reason_is_that_of_the_file_of_keys() {
    const LINE: &str = "old:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let place = Place::new();
    let options = Options {
        segment_bytes: 16 << 10,
        segment_bytes_first: 16 << 10,
        encryption: Some(Encryption {
            masters: Arc::new(MasterKeys::parse("the test", LINE).unwrap()),
            new_segments: NewSegments::Encrypted,
            entropy: Arc::new(OsEntropy),
        }),
        ..Options::default()
    };
    let made = Made::with(&place.log, &options);
    fill(&made, RECORDS);
    assert!(segments(&place.log).len() > 2);
    let other = place.dir.path().join("other-keys");
    copy_bytes(&other, LINE.replace("old:AAEC", "new:HxwX").as_bytes());
    let good = place.dir.path().join("good-keys");
    copy_bytes(&good, LINE.as_bytes());
    for file in [&other, &good] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let (other, good) = (other.display().to_string(), good.display().to_string());
    let said_once = |keys: &[&str], why: &str| {
        for verb in [
            &["cat", &place.text][..],
            &["show", "200", &place.text],
            &["hexdump", "200", &place.text],
            &["causal", "past", "200", &place.text],
            &["diff", &place.text, &place.log.display().to_string()],
        ] {
            let run = logdump(&[verb, keys].concat());
            let said = format!("{}{}", run.stdout, run.stderr);
            assert_eq!(run.code, 1, "{verb:?}: {said}");
            let is_named = said.contains("by master key old (id ");
            assert_eq!(is_named, !why.contains("destroyed"), "{verb:?}: {said}");
            let logs = if verb[0] == "diff" { 2 } else { 1 };
            assert_eq!(said.matches(why).count(), logs, "{verb:?}: {said}");
        }
    };
    said_once(&[], "; give --key-file with that key");
    let with_other = ["--key-file", other.as_str()];
    said_once(&with_other, "; given: new (id ");
    let with_good = ["--key-file", good.as_str()];
    let shown = logdump(&[&["show", "200", &place.text][..], &with_good].concat());
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));

    let environment = Environment {
        storage: Arc::new(RealStorage),
        clock: Ticking::new(),
        committer: Arc::clone(&made.committer),
    };
    made.log.shred(&environment).unwrap();
    said_once(&with_good, "destroyed on purpose");
    for verb in ["cat", "ls", "verify"] {
        let run = logdump(&[&[verb, &place.text][..], &with_good].concat());
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(said.contains("destroyed on purpose"), "{verb}: {said}");
        assert!(!said.contains("--key-file"), "{verb}: {said}");
    }
}
