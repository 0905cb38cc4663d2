//! Logs with bytes changed, zeroed or cut off: nothing panics, every good record is still shown,
//! every bad place is named.

use std::ops::Range;
use std::path::{Path, PathBuf};

use arqonbus::log::RealStorage;
use arqonbus::log::batch::HEADER_BYTES;
use arqonbus::log::offline::Directory;
use arqonbus::log::scan::Scanned;

use crate::made::{Dice, change, closed_log, copy, logdump, segments};

const RECORDS: u64 = 500;

/// A batch or a mark of the undamaged log.
struct Piece {
    bytes: Range<usize>,
    base: u64,
    durable_through: u64,
}

/// What the undamaged segment holds.
struct Map {
    path: PathBuf,
    pieces: Vec<Piece>,
    records: Vec<(Range<usize>, u64)>,
    len: usize,
}

fn maps(dir: &Path) -> Vec<Map> {
    let log = Directory::open(&RealStorage, dir).unwrap();
    log.segments
        .iter()
        .map(|segment| {
            let mut map = Map {
                path: segment.path.clone(),
                pieces: Vec::new(),
                records: Vec::new(),
                len: segment.bytes.len(),
            };
            for scanned in segment.scan() {
                let Scanned::Batch(batch) = scanned else {
                    continue;
                };
                let start = usize::try_from(batch.offset.0).unwrap();
                let len = usize::try_from(batch.header.file_len()).unwrap();
                map.pieces.push(Piece {
                    bytes: start..start + len,
                    base: batch.header.base.get(),
                    durable_through: batch.header.durable_through,
                });
                let mut at = start + HEADER_BYTES;
                for record in batch.records() {
                    map.records
                        .push((at..at + record.field.len(), record.sequence.get()));
                    at += record.field.len();
                }
            }
            map
        })
        .collect()
}

/// Changes a stretch of the file at random; the bytes that now differ, or none.
fn damage(path: &Path, dice: &mut Dice) -> Option<Range<usize>> {
    let before = std::fs::read(path).unwrap();
    change(path, |bytes| {
        let data_end = bytes.iter().rposition(|&byte| byte != 0).unwrap_or(0) + 1;
        // Nine in ten where the data is.
        let end = if dice.below(10) < 9 {
            data_end
        } else {
            bytes.len()
        };
        let at = dice.below(end);
        let len = (dice.below(3) * dice.below(800) + 1).min(bytes.len() - at);
        match dice.below(4) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at..at + len].fill(0),
            2 => {
                for byte in &mut bytes[at..at + len] {
                    *byte = u8::try_from(dice.below(256)).unwrap();
                }
            }
            _ => bytes.truncate(at),
        }
    });
    let after = std::fs::read(path).unwrap();
    if after.len() < before.len() {
        return Some(after.len()..before.len());
    }
    let differs = |at: &usize| before[*at] != after[*at];
    let first = (0..before.len()).find(differs)?;
    let last = (0..before.len()).rfind(differs)?;
    Some(first..last + 1)
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Records that no damage has touched are printed by cat, and nothing that was never there.
fn assert_good_records_are_shown(
    log: &str,
    maps: &[Map],
    bad: &[(usize, Range<usize>)],
    case: &str,
) {
    let run = logdump(&["cat", log, "--output", "json"]);
    let shown = run.sequences();
    for (at, map) in maps.iter().enumerate() {
        for (bytes, sequence) in &map.records {
            let is_hit = bad
                .iter()
                .any(|(hit, range)| *hit == at && overlap(range, bytes));
            let is_shown = shown.binary_search(sequence).is_ok();
            // A damaged stretch may be narrower than what was changed to the same values.
            assert!(
                is_shown || is_hit,
                "{case}: record {sequence} at {bytes:?} is not shown"
            );
        }
    }
    assert!(shown.is_sorted(), "{case}: {shown:?}");
    assert!(
        shown
            .iter()
            .all(|sequence| (1..=RECORDS).contains(sequence)),
        "{case}"
    );
}

/// What must be said of a damage: `None` if it can be a torn tail.
fn named_place(map: &Map, is_last: bool, bad: &Range<usize>) -> Option<Range<u64>> {
    let as_u64 = |range: Range<usize>| range.start as u64..range.end as u64;
    if bad.start < 4096 || bad.end == map.len {
        // In the header block, or cut off: named where it is, or at the file's end.
        return Some(0..map.len as u64 + 1);
    }
    let hit = map.pieces.iter().find(|piece| overlap(&piece.bytes, bad));
    let data_end = map.pieces.last().map_or(4096, |piece| piece.bytes.end);
    let Some(hit) = hit else {
        return (!is_last).then(|| as_u64(data_end..map.len));
    };
    let flushed = map
        .pieces
        .iter()
        .any(|piece| !overlap(&piece.bytes, bad) && piece.durable_through >= hit.base);
    // The log was closed: records that are missing since are no torn tail.
    let held_records = hit.base <= RECORDS;
    (!is_last || flushed || held_records).then(|| as_u64(hit.bytes.clone()))
}

fn assert_named(log: &str, map: &Map, place: Option<Range<u64>>, case: &str) {
    let run = logdump(&["verify", log]);
    let json = logdump(&["verify", log, "--output", "json"]).json();
    let Some(place) = place else {
        let notices = json["logs"][0]["notices"].to_string();
        assert_eq!(run.code, 0, "{case}: {}", run.stdout);
        assert!(notices.contains("torn tail"), "{case}: {}", run.stdout);
        return;
    };
    assert_eq!(run.code, 1, "{case}: {}", run.stdout);
    let file = map.path.file_name().unwrap().to_str().unwrap();
    let findings = json["logs"][0]["findings"].as_array().unwrap();
    let named = findings.iter().any(|finding| {
        finding["file"].as_str().unwrap().ends_with(file)
            && place.contains(&finding["offset"].as_u64().unwrap())
    });
    assert!(
        named,
        "{case}: {place:?} of {file} is not named in {}",
        run.stdout
    );
    assert!(run.stdout.contains(file), "{case}");
}

fn every_verb(log: &str, dice: &mut Dice) {
    let sequence = (dice.below(500) + 1).to_string();
    let offset = dice.below(40_000).to_string();
    for arguments in [
        &["ls", log][..],
        &["ls", log, "--output", "json"],
        &["cat", log],
        &["cat", log, "--output", "proto", "--tail", "9"],
        &[
            "cat", log, "--from", &sequence, "--topic", "quake.>", "--key", "k1",
        ],
        &["stats", log],
        &["index", log, "--topics", "--points"],
        &["recover", log],
        &["show", &sequence, log],
        &["hexdump", &sequence, log, "--whole"],
        &["hexdump", log, "--whole"],
        &["hexdump", log, "--offset", &offset, "--output", "json"],
        &["grep", "n", log],
    ] {
        // `logdump` itself sees to it that none of them panics.
        assert!(logdump(arguments).code <= 1, "{arguments:?}");
    }
}

// LOG-20, LOG-08, TOOL-03: one damage at a time, in any place.
#[test]
fn one_damage_is_named_and_the_rest_is_shown() {
    let mut dice = Dice::new(1);
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good/main");
    closed_log(&good, RECORDS);
    let maps = maps(&good);
    assert!(maps.len() >= 4, "{} segments", maps.len());
    for round in 0..250 {
        let bad = dir.path().join(format!("bad-{round}/main"));
        copy(&good, &bad);
        let at = dice.below(maps.len());
        let file = segments(&bad).swap_remove(at);
        let Some(range) = damage(&file, &mut dice) else {
            continue;
        };
        let log = bad.display().to_string();
        let case = format!("round {round}, segment {at}, bytes {range:?}");
        let hits = [(at, range.clone())];
        assert_good_records_are_shown(&log, &maps, &hits, &case);
        let place = named_place(&maps[at], at + 1 == maps.len(), &range);
        assert_named(&log, &maps[at], place, &case);
        if round % 10 == 0 {
            every_verb(&log, &mut dice);
        }
        std::fs::remove_dir_all(bad.parent().unwrap()).unwrap();
    }
}

// LOG-20: several at once.
#[test]
fn many_damages_leave_the_rest_readable() {
    let mut dice = Dice::new(2);
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good/main");
    closed_log(&good, RECORDS);
    let maps = maps(&good);
    for round in 0..60 {
        let bad = dir.path().join(format!("bad-{round}/main"));
        copy(&good, &bad);
        let mut hits = Vec::new();
        for _ in 0..=dice.below(12) {
            let at = dice.below(maps.len());
            let file = segments(&bad).swap_remove(at);
            if std::fs::metadata(&file).unwrap().len() > 0
                && let Some(range) = damage(&file, &mut dice)
            {
                hits.push((at, range));
            }
        }
        let log = bad.display().to_string();
        let case = format!("round {round}, {hits:?}");
        assert_good_records_are_shown(&log, &maps, &hits, &case);
        logdump(&["verify", &log]);
        every_verb(&log, &mut dice);
        std::fs::remove_dir_all(bad.parent().unwrap()).unwrap();
    }
}

// LOG-20: a single file, with nothing beside it that could help.
#[test]
fn a_lone_segment_without_header_still_shows_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acme/main");
    closed_log(&log, RECORDS);
    let map = maps(&log).swap_remove(1);
    let lone = dir.path().join("lone.seg");
    std::fs::copy(&map.path, &lone).unwrap();
    change(&lone, |bytes| bytes[..4096].fill(0xa5));
    let lone = lone.display().to_string();
    let shown = logdump(&["cat", &lone, "--output", "json"]);
    assert_eq!(shown.code, 1, "the damage is told");
    let expected: Vec<u64> = map.records.iter().map(|(_, sequence)| *sequence).collect();
    assert_eq!(shown.sequences(), expected);
    assert_eq!(logdump(&["verify", &lone]).code, 1);
}

// LOG-20
#[test]
fn bytes_that_were_never_a_segment_do_no_harm() {
    let mut dice = Dice::new(3);
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acme/main");
    std::fs::create_dir_all(&log).unwrap();
    let path = log.join("00000000000000000001.seg");
    let text = log.display().to_string();
    for (round, len) in [0, 1, 63, 127, 128, 4095, 4096, 4097, 4160, 30_000]
        .into_iter()
        .enumerate()
    {
        for kind in 0..3 {
            std::fs::File::create(&path).unwrap();
            change(&path, |bytes| {
                bytes.resize(len, 0);
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = match kind {
                        0 => 0,
                        1 => u8::try_from(dice.below(256)).unwrap(),
                        _ => b"AQB\x01\x0a\x10\x08\x01"[at % 8],
                    };
                }
            });
            assert_eq!(
                logdump(&["verify", &text]).code,
                1,
                "round {round}, kind {kind}"
            );
            every_verb(&text, &mut dice);
        }
    }
}

// TOOL-03: an index that is damaged, or another segment's, is named.
#[test]
fn a_wrong_index_is_named() {
    let mut dice = Dice::new(4);
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acme/main");
    closed_log(&log, RECORDS);
    let text = log.display().to_string();
    let index = segments(&log)[0].with_extension("idx");
    let good = std::fs::read(&index).unwrap();
    for _ in 0..40 {
        let (at, bit) = (dice.below(good.len()), dice.below(8));
        change(&index, |bytes| bytes[at] ^= 1 << bit);
        let run = logdump(&["verify", &text]);
        assert_eq!(run.code, 1, "bit {bit} of byte {at}");
        assert!(run.stdout.contains(".idx: byte "), "{}", run.stdout);
        assert_eq!(logdump(&["index", &text]).code, 1);
        change(&index, |bytes| bytes.clone_from(&good));
    }
    let other = segments(&log)[1].with_extension("idx");
    std::fs::copy(other, &index).unwrap();
    let run = logdump(&["verify", &text]);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout.contains("expected an index of this segment"),
        "{}",
        run.stdout
    );
    // Without the file all is well: it is built again when it is needed.
    std::fs::remove_file(&index).unwrap();
    assert_eq!(logdump(&["verify", &text]).code, 0);
}

// TOOL-03, LOG-08: a segment that is gone is missed.
#[test]
fn a_missing_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acme/main");
    closed_log(&log, RECORDS);
    let all = segments(&log);
    std::fs::remove_file(&all[1]).unwrap();
    let run = logdump(&["verify", &log.display().to_string()]);
    assert_eq!(run.code, 1, "{}", run.stdout);
    let before = all[0].file_name().unwrap().to_str().unwrap();
    assert!(
        run.stdout.contains(before) && run.stdout.contains("end of the segment"),
        "{}",
        run.stdout
    );
}
