//! Causal questions to the files of a log, against the clocks that `cat` shows.

use std::collections::BTreeMap;
use std::path::Path;

use arqonbus::log::{Durability, NewRecord};
use arqonbus::proto::clock::{Causality, ProducerClock};
use arqonbus::proto::v1::VectorClock;
use prost::Message as _;
use serde_json::Value;

use crate::made::{Dice, Made, Run, change, logdump, record, segments};

const RECORDS: u64 = 300;
const KEY: &str = "n7/main";

/// A log of several small segments, whose producers learn from records that the dice choose.
fn history(dir: &Path) {
    let made = Made::open(dir, 16 << 10);
    let mut dice = Dice::new(7);
    let mut producers: Vec<ProducerClock> = (0..4)
        .map(|index| ProducerClock::new(format!("p{index}"), 0))
        .collect();
    let mut clocks: Vec<VectorClock> = Vec::new();
    for sequence in 1..=RECORDS {
        let clock = &mut producers[dice.below(4)];
        if dice.below(3) > 0 && !clocks.is_empty() {
            let near = clocks.len().min(20);
            let seen = &clocks[clocks.len() - 1 - dice.below(near)];
            let entries = seen.entries.iter();
            clock.learn(entries.map(|(name, counter)| (name.as_str(), *counter)));
        }
        let mut sent = if dice.below(8) == 0 {
            VectorClock::default()
        } else {
            clock.tick()
        };
        // As the broker does it: its own entry is its own.
        sent.entries.remove(KEY);
        made.batch(
            vec![NewRecord {
                clock_entries: sent.encode_to_vec().into(),
                ..record(sequence)
            }],
            Durability::Synced,
        );
        sent.entries.insert(KEY.to_owned(), sequence);
        clocks.push(sent);
    }
    made.close();
}

/// The clocks as `cat` shows them.
fn clocks(dir: &str) -> BTreeMap<u64, VectorClock> {
    let run = logdump(&["cat", dir, "--output", "json"]);
    let clock = |line: &Value| {
        let entries = line["clock"].as_object().unwrap();
        let entries = entries
            .iter()
            .map(|(name, counter)| (name.clone(), counter.as_u64().unwrap()))
            .collect();
        (line["sequence"].as_u64().unwrap(), VectorClock { entries })
    };
    run.lines().iter().map(clock).collect()
}

fn asked(dir: &str, question: &[&str]) -> Run {
    logdump(&[&["causal", "--output", "json"], question, &[dir]].concat())
}

fn sequences(answer: &Value) -> Vec<u64> {
    let records = answer["records"].as_array().unwrap();
    records
        .iter()
        .map(|record| record["sequence"].as_u64().unwrap())
        .collect()
}

/// Asks about `of` and checks both answers; what could not be read, as the answers say.
fn check(dir: &str, clocks: &BTreeMap<u64, VectorClock>, of: u64) -> (u64, u64) {
    let text = of.to_string();
    let related = |wanted: &[Causality]| -> Vec<u64> {
        let of = &clocks[&of];
        clocks
            .iter()
            .filter(|(_, clock)| wanted.contains(&clock.compare(of)))
            .map(|(sequence, _)| *sequence)
            .collect()
    };
    let past = asked(dir, &["past", &text, "--limit", "10000"]);
    let mut before = related(&[Causality::Before]);
    before.reverse();
    let (code, past) = (past.code, past.json());
    assert_eq!(sequences(&past), before, "past of {of}");
    let damaged = past["damaged"].as_u64().unwrap();
    assert_eq!(code, i32::from(damaged > 0));
    assert_eq!(past["complete"], damaged == 0);

    let beside = asked(dir, &["concurrent", &text, "--limit", "10000"]).json();
    let mut concurrent = related(&[Causality::Concurrent]);
    concurrent.sort_by_key(|sequence| (sequence.abs_diff(of), *sequence));
    assert_eq!(sequences(&beside), concurrent, "concurrent with {of}");
    (damaged, beside["damaged"].as_u64().unwrap())
}

// MSG-07, TOOL-03: the files give what the clocks in them say, over all segments.
#[test]
fn the_past_and_what_is_concurrent_are_as_the_clocks_say() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acme/main");
    history(&log);
    assert!(segments(&log).len() > 3);
    let log = log.to_str().unwrap();
    let clocks = clocks(log);
    assert_eq!(clocks.len(), usize::try_from(RECORDS).unwrap());
    for of in [1, 2, 100, 177, RECORDS] {
        assert_eq!(check(log, &clocks, of), (0, 0));
    }
    let ordered = |from: &u64| clocks[from].compare(&clocks[&RECORDS]) == Causality::Before;
    let from = (1..RECORDS).find(ordered).unwrap().to_string();
    let path = asked(
        log,
        &["path", &from, &RECORDS.to_string(), "--limit", "1000"],
    )
    .json();
    assert_eq!(
        (&path["relation"], &path["complete"]),
        (&"before".into(), &true.into())
    );
    let steps = sequences(&path);
    assert_eq!(steps.last(), Some(&RECORDS));
    assert!(steps.len() > 2, "{steps:?}");
    let before = |a: &u64, b: &u64| clocks[a].compare(&clocks[b]) == Causality::Before;
    for step in steps.windows(2) {
        let between = |x: &u64| before(&step[0], x) && before(x, &step[1]);
        assert!(before(&step[0], &step[1]), "{step:?}");
        assert_eq!(clocks.keys().find(|x| between(x)), None, "{step:?}");
    }
    let dot = logdump(&["causal", "past", &from, log, "-o", "dot"]);
    assert!(
        dot.stdout.starts_with("digraph causality {"),
        "{}",
        dot.stdout
    );
    let text = logdump(&["causal", "past", "177", log, "--limit", "2"]);
    assert_eq!(text.stdout.lines().count(), 5, "{}", text.stdout);
    let heads: Vec<&str> = text.stdout.split_whitespace().take(6).collect();
    assert_eq!(
        heads.join(" "),
        "SEQUENCE APPENDED_AT TOPIC PRODUCER ID DIRECT_CAUSES"
    );
    assert!(
        text.stdout.contains("2 records happened before 177."),
        "{}",
        text.stdout
    );
}

// MSG-07, TOOL-03: where records cannot be read an answer is not called complete.
#[test]
fn damage_that_may_hide_an_answer_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("acme/main");
    history(&log);
    let all = segments(&log);
    let text = log.to_str().unwrap();
    let good = clocks(text);
    // The tenth record of the third segment.
    let base = |at: usize| -> u64 {
        let path: &Path = &all[at];
        path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
    };
    let hit = base(2) + 10;
    let needle = format!("01900000-0000-7000-8000-{hit:012}");
    change(&all[2], |bytes| {
        let at = bytes
            .windows(needle.len())
            .position(|window| window == needle.as_bytes());
        bytes[at.unwrap()] ^= 1;
    });
    let left = clocks(text);
    assert_eq!(left.len(), good.len() - 1);
    assert_eq!(check(text, &left, RECORDS), (1, 1));
    assert_eq!(check(text, &left, hit + 1), (1, 1));
    assert_eq!(check(text, &left, hit - 1), (0, 1));
    let of = asked(text, &["past", &hit.to_string()]);
    assert_eq!((of.code, of.stdout.as_str()), (1, ""));
    assert!(of.stderr.contains("is damaged"), "{}", of.stderr);

    // A whole segment that is gone, behind the one that is damaged.
    std::fs::remove_file(&all[3]).unwrap();
    let gone = base(4) - base(3);
    let left = clocks(text);
    assert_eq!(check(text, &left, RECORDS), (1 + gone, 1 + gone));
    assert_eq!(check(text, &left, base(3) - 1), (1, 1 + gone));
}

// TOOL-03
#[test]
fn a_causal_question_that_cannot_be_meant_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for reality in ["one", "two"] {
        crate::made::closed_log(&dir.path().join("acme").join(reality), 5);
    }
    let all = dir.path().to_str().unwrap();
    let one = dir.path().join("acme/one");
    let one = one.to_str().unwrap();
    let two = asked(all, &["past", "3"]);
    assert_eq!(two.code, 2, "{}", two.stderr);
    assert!(two.stderr.contains("holds 2 logs"), "{}", two.stderr);
    assert_eq!(asked(one, &["past", "0"]).code, 2);
    assert_eq!(logdump(&["causal", "past", "3", one, "-o", "hex"]).code, 2);
    let dot = logdump(&["ls", one, "-o", "dot"]);
    assert_eq!(dot.code, 2);
    assert!(dot.stderr.contains("logdump causal"), "{}", dot.stderr);
    let absent = asked(one, &["past", "6"]);
    assert_eq!((absent.code, absent.stdout.as_str()), (1, ""));
    assert!(absent.stderr.contains("no record 6"), "{}", absent.stderr);
    let past = asked(one, &["past", "5"]);
    assert_eq!(past.code, 0);
    assert_eq!(sequences(&past.json()), [4, 3, 2, 1]);
}
