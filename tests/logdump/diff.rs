//! `logdump diff`: copies, beginnings, holes, other segments, changed records, damage.

use std::path::{Path, PathBuf};

use arqonbus::log::{Durability, NewRecord};
use arqonbus::proto::v1::{Envelope, Event, envelope};
use bytes::Bytes;
use prost::Message as _;
use serde_json::{Value, json};

use crate::made::{Made, Run, change, closed_log, copy, fill, logdump, record, segments};

struct Pair {
    _dir: tempfile::TempDir,
    a: PathBuf,
    b: PathBuf,
}

fn pair() -> Pair {
    let dir = tempfile::tempdir().unwrap();
    Pair {
        a: dir.path().join("a/dev/main"),
        b: dir.path().join("b/dev/main"),
        _dir: dir,
    }
}

impl Pair {
    fn diff(&self, more: &[&str]) -> Run {
        diff(&self.a, &self.b, more)
    }
}

fn diff(a: &Path, b: &Path, more: &[&str]) -> Run {
    let (a, b) = (a.display().to_string(), b.display().to_string());
    logdump(&[&["diff", a.as_str(), b.as_str()], more].concat())
}

fn json_of(run: &Run, code: i32) -> Value {
    assert_eq!(run.code, code, "{}{}", run.stdout, run.stderr);
    run.json()
}

/// `records`, one batch each.
fn log_of(dir: &Path, records: Vec<NewRecord>) {
    let made = Made::open(dir, 32 << 10);
    for record in records {
        made.batch(vec![record], Durability::Synced);
    }
    made.close();
}

// TOOL-03: what counts is the records, not how they lie in segments.
#[test]
fn logs_with_other_segments_are_the_same() {
    let logs = pair();
    closed_log(&logs.a, 500);
    let made = Made::open(&logs.b, 64 << 10);
    fill(&made, 500);
    made.close();
    assert_ne!(segments(&logs.a).len(), segments(&logs.b).len());
    // Making a segment takes a look at the clock, which ticks with every look.
    let run = logs.diff(&["--ignore", "time"]);
    assert_eq!(run.code, 0, "{}", run.stdout);
    assert!(
        run.stdout.ends_with("both hold the same 500 records\n"),
        "{}",
        run.stdout
    );
    let found = json_of(&logs.diff(&["--ignore", "time", "-o", "json"]), 0);
    assert_eq!(found["same"], true);
    assert_eq!(found["relation"], "same");
    assert_eq!(found["records"]["same"], 500);
    assert_eq!(found["a"]["last"], 500);
    assert!(found["first_divergence"].is_null());
}

// TOOL-03
#[test]
fn one_log_may_be_the_beginning_of_the_other() {
    let logs = pair();
    closed_log(&logs.a, 100);
    closed_log(&logs.b, 130);
    let found = json_of(&logs.diff(&["-o", "json"]), 1);
    assert_eq!(found["relation"], "a_is_the_beginning_of_b");
    let first = json!({ "sequence": 101, "topic": "orders.eu.paid", "kind": "only_in_b" });
    assert_eq!(found["first_divergence"], first);
    let only = json!({
        "records": 30,
        "ranges": 1,
        "listed": [{ "first": 101, "last": 130, "records": 30 }],
    });
    assert_eq!(found["only_in_b"], only);
    assert_eq!(found["topics"][0]["topic"], "orders.eu.paid");
    assert_eq!(found["topics"][0]["only_in_b"], 10);
    let turned = diff(&logs.b, &logs.a, &[]);
    assert_eq!(turned.code, 1);
    assert!(
        turned.stdout.contains("B is the beginning of A")
            && turned
                .stdout
                .contains("only in A: 30 records in 1 range\n  101 to 130 (30 records)"),
        "{}",
        turned.stdout
    );
    // The part that both have is the same.
    assert_eq!(logs.diff(&["--to", "100"]).code, 0);
    assert_eq!(logs.diff(&["--from", "100", "--topic", "quake.ci"]).code, 1);
}

// TOOL-03: a segment is a log too, and what lies before it is missing.
#[test]
fn a_segment_is_a_part_of_its_log() {
    let logs = pair();
    closed_log(&logs.a, 500);
    let segment = segments(&logs.a).remove(1);
    let found = json_of(&diff(&segment, &logs.a, &["-o", "json"]), 1);
    assert_eq!(found["relation"], "a_is_a_part_of_b");
    assert_eq!(found["only_in_a"]["records"], 0);
    assert_eq!(found["only_in_b"]["ranges"], 2);
    assert_eq!(found["first_divergence"]["sequence"], 1);
}

// TOOL-03: a segment in the middle that is gone leaves a hole, which is a range.
#[test]
fn a_hole_is_one_range() {
    let logs = pair();
    closed_log(&logs.a, 500);
    copy(&logs.a, &logs.b);
    let (hole, next) = (&segments(&logs.b)[1], &segments(&logs.b)[2]);
    let base = |path: &Path| -> u64 {
        let name = path.file_stem().unwrap().to_str().unwrap();
        name.parse().unwrap()
    };
    let (first, last) = (base(hole), base(next) - 1);
    std::fs::remove_file(hole).unwrap();
    let found = json_of(&logs.diff(&["-o", "json"]), 1);
    assert_eq!(found["relation"], "b_is_a_part_of_a");
    let listed = json!([{ "first": first, "last": last, "records": last + 1 - first }]);
    assert_eq!(found["only_in_a"]["listed"], listed);
    assert_eq!(found["only_in_b"]["records"], 0);
}

/// A record whose parts are what the test says.
fn made_of(envelope: &Envelope, clock: &[u8], stamp: &[u8]) -> NewRecord {
    NewRecord {
        topic: Bytes::from_static(b"quake.ak"),
        clock_entries: Bytes::copy_from_slice(clock),
        stamp: Bytes::copy_from_slice(stamp),
        envelope: envelope.encode_to_vec().into(),
    }
}

fn event(data: &str) -> Envelope {
    let event = Event {
        r#type: "quake".to_owned(),
        data: data.to_owned().into(),
    };
    Envelope {
        key: "k".to_owned(),
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    }
}

// TOOL-03: what differs is named: envelope, clock, stamp, encoding.
#[test]
fn a_differing_record_is_named_with_its_parts() {
    let logs = pair();
    let entry = b"\x0a\x06\x0a\x02n9\x10\x05";
    let plain = || made_of(&event("{}"), b"", b"");
    let mut reordered = plain();
    // The same fields in another order mean the same.
    let (key, rest) = (b"\xa2\x02\x01k", event("{}"));
    let rest = Envelope {
        key: String::new(),
        ..rest
    };
    reordered.envelope = [&key[..], &rest.encode_to_vec()].concat().into();
    let other = Envelope {
        key: "other".to_owned(),
        headers: [("h".to_owned(), "1".to_owned())].into(),
        ..event("[1]")
    };
    log_of(&logs.a, vec![plain(), plain(), plain(), plain(), plain()]);
    log_of(
        &logs.b,
        vec![
            plain(),
            made_of(&other, b"", b""),
            made_of(&event("{}"), entry, b""),
            made_of(&event("{}"), b"", b"\x32\x04usgs"),
            reordered,
        ],
    );
    let found = json_of(&logs.diff(&["-o", "json"]), 1);
    assert_eq!(found["relation"], "diverged");
    assert_eq!(found["first_divergence"]["sequence"], 2);
    assert_eq!(found["first_divergence"]["kind"], "different");
    let parts = json!({ "clock": 1, "stamp": 1, "envelope": 1, "encoding": 1 });
    assert_eq!(found["different"]["parts"], parts);
    let listed = &found["different"]["listed"];
    let change = |part: &str, field: &str, a: &str, b: &str| json!({ "part": part, "field": field, "a": a, "b": b });
    let envelope = json!([
        change("envelope", "key", "k", "other"),
        change("envelope", "header h", "-", "1"),
        change("envelope", "payload", "{}", "[1]"),
    ]);
    assert_eq!(listed[0]["changes"], envelope);
    assert_eq!(
        listed[1]["changes"],
        json!([change("clock", "n9", "-", "5")])
    );
    let stamp = json!([change("stamp", "producer", "", "usgs")]);
    assert_eq!(listed[2]["changes"], stamp);
    assert_eq!(listed[3]["changes"][0]["part"], "encoding");
    let text = logs.diff(&["--limit", "2"]).stdout;
    for part in [
        "first divergence: 2 (quake.ak), different",
        "different: 4 records, in clock 1, stamp 1, envelope 1, encoding 1",
        "    envelope key: k | other\n",
        "… and 2 more",
        "the logs have diverged",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let ignored = logs.diff(&["--ignore", "clock,stamp,encoding", "-o", "json"]);
    assert_eq!(json_of(&ignored, 1)["different"]["records"], 1);
    let all = ["--ignore", "clock,stamp,encoding,envelope"];
    assert_eq!(logs.diff(&all).code, 0);
}

// TOOL-03: two appends of the same at different times.
#[test]
fn a_differing_time_is_a_difference_of_its_own() {
    let logs = pair();
    log_of(&logs.a, vec![record(1), record(2)]);
    let made = Made::open(&logs.b, 32 << 10);
    made.batch(vec![record(1), record(2)], Durability::Synced);
    made.close();
    let found = json_of(&logs.diff(&["-o", "json"]), 1);
    assert_eq!(found["different"]["parts"], json!({ "time": 1 }));
    let changes = &found["different"]["listed"][0]["changes"];
    assert_eq!(changes[0]["field"], "appended_at");
    assert_eq!(logs.diff(&["--ignore", "time"]).code, 0);
}

// TOOL-03, LOG-20: damage is said, and what is good around it is compared.
#[test]
fn damage_is_said_and_the_rest_is_compared() {
    let logs = pair();
    closed_log(&logs.a, 500);
    copy(&logs.a, &logs.b);
    change(&segments(&logs.b)[0], |bytes| {
        bytes[9_000..9_300].fill(0x55)
    });
    let found = json_of(&logs.diff(&["-o", "json"]), 1);
    assert_eq!(found["relation"], "b_is_a_part_of_a");
    assert_eq!(found["b"]["damaged_places"], 1);
    assert_eq!(found["a"]["damaged_places"], 0);
    let missing = found["only_in_a"]["records"].as_u64().unwrap();
    assert!((1..=4).contains(&missing), "{found}");
    let bad = &found["b"]["damages"][0];
    let lost = &found["only_in_a"]["listed"][0];
    assert!(bad["first"].as_u64() <= lost["first"].as_u64(), "{found}");
    assert!(bad["last"].as_u64() >= lost["last"].as_u64(), "{found}");
    let text = logs.diff(&[]).stdout;
    assert!(text.contains("damaged: "), "{text}");
    // Both damaged alike hold the same, but are not well.
    change(&segments(&logs.a)[0], |bytes| {
        bytes[9_000..9_300].fill(0x55)
    });
    let found = json_of(&logs.diff(&["-o", "json"]), 1);
    assert_eq!(found["same"], true);
}

// TOOL-03
#[test]
fn only_two_single_logs_can_be_compared() {
    let logs = pair();
    closed_log(&logs.a, 10);
    closed_log(&logs.b, 10);
    let tenant = logs.b.parent().unwrap();
    closed_log(&tenant.join("other"), 5);
    let run = diff(&logs.a, tenant, &[]);
    assert_eq!(run.code, 2, "{}", run.stdout);
    assert!(run.stderr.contains("holds 2 logs"), "{}", run.stderr);
    assert_eq!(logs.diff(&["--output", "hex"]).code, 2);
    assert_eq!(diff(&logs.a, Path::new("/nonexistent"), &[]).code, 2);
    let alone = logs.a.parent().unwrap();
    assert_eq!(diff(alone, &logs.b, &[]).code, 0);
}
