//! What the verbs show of a good log.

use crate::made::{Made, change, closed_log, logdump, record, segments};
use arqonbus::log::Durability;

fn path(dir: &tempfile::TempDir) -> (std::path::PathBuf, String) {
    let log = dir.path().join("acme/main");
    let text = log.display().to_string();
    (log, text)
}

// TOOL-03: the same fields as `arqon consume --output json`, names from the directories.
#[test]
fn cat_prints_the_objects_that_consume_prints() {
    let dir = tempfile::tempdir().unwrap();
    let (log, text) = path(&dir);
    closed_log(&log, 100);
    let run = logdump(&["cat", &text, "--output", "json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(run.sequences(), (1..=100).collect::<Vec<_>>());
    let first = &run.lines()[0];
    let keys: Vec<&str> = first
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "sequence",
        "appended_at",
        "topic",
        "id",
        "tenant",
        "reality",
        "producer",
        "key",
        "clock",
        "headers",
        "payload",
    ];
    assert_eq!(keys[..expected.len()], expected);
    assert_eq!(first["tenant"], "acme");
    assert_eq!(first["reality"], "main");
    assert_eq!(first["topic"], "quake.ci");
    assert_eq!(first["clock"], serde_json::json!({ "n7/main": 1 }));
    assert_eq!(first["headers"]["parity"], "1");
    assert_eq!(first["payload"]["n"], 1);
    assert!(
        first["appended_at"]
            .as_str()
            .unwrap()
            .starts_with("2018-01-31T01:"),
        "{first}"
    );

    let renamed = logdump(&[
        "cat",
        &text,
        "-o",
        "json",
        "--tenant",
        "t",
        "--reality",
        "r",
    ]);
    assert_eq!(renamed.lines()[0]["tenant"], "t");
    assert_eq!(renamed.lines()[0]["reality"], "r");
}

// TOOL-03
#[test]
fn cat_selects_by_topic_place_key_and_header() {
    let dir = tempfile::tempdir().unwrap();
    let (log, text) = path(&dir);
    closed_log(&log, 300);
    let cat = |more: &[&str]| {
        let run = logdump(&[&["cat", text.as_str(), "--output", "json"], more].concat());
        assert_eq!(run.code, 0, "{more:?}: {}", run.stderr);
        run.sequences()
    };
    let all = |wanted: fn(u64) -> bool| (1..=300).filter(|&n| wanted(n)).collect::<Vec<u64>>();
    assert_eq!(cat(&["--topic", "quake.*"]), all(|n| n % 3 != 2));
    assert_eq!(cat(&["--topic", "orders.>"]), all(|n| n % 3 == 2));
    assert_eq!(cat(&["--topic", "quake.ak"]), all(|n| n % 3 == 0));
    assert_eq!(
        cat(&["--from", "200", "--to", "210"]),
        (200..=210).collect::<Vec<_>>()
    );
    assert_eq!(cat(&["--from", "250", "--limit", "3"]), [250, 251, 252]);
    assert_eq!(cat(&["--tail", "4"]), [297, 298, 299, 300]);
    assert_eq!(cat(&["--key", "k3", "--to", "20"]), [3, 8, 13, 18]);
    assert_eq!(
        cat(&["--header", "parity=0", "--key", "k0", "--to", "40"]),
        [10, 20, 30, 40]
    );
    assert_eq!(cat(&["--from", "2999-01-01T00:00:00Z"]), [0; 0]);
    let id = "01900000-0000-7000-8000-000000000123";
    assert_eq!(cat(&["--id", id]), [123]);
    assert_eq!(cat(&["--trace-id", &id.replace('-', "")]), [123]);
    assert_eq!(
        cat(&["--producer", "usgs", "--type", "quake", "--to", "3"]),
        [1, 2, 3]
    );
    for nothing in ["--id", "--trace-id", "--producer", "--type", "--schema"] {
        assert_eq!(cat(&[nothing, "other"]), [0; 0], "{nothing}");
    }

    // A time selects the batches that were appended then, of which this is one.
    let lines = logdump(&["cat", &text, "--output", "json"]).lines();
    let time = lines[149]["appended_at"].as_str().unwrap();
    let same: Vec<u64> = lines
        .iter()
        .filter(|line| line["appended_at"] == time)
        .map(|line| line["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(cat(&["--from", time, "--to", time]), same);
    assert!(same.contains(&150));
}

// TOOL-03
#[test]
fn every_form_holds_the_same_records() {
    use arqonbus::proto::v1;
    use prost::Message as _;
    let dir = tempfile::tempdir().unwrap();
    let (log, text) = path(&dir);
    closed_log(&log, 20);
    let proto = logdump(&["cat", &text, "--output", "proto"]);
    let deliver = v1::Deliver::decode(&*proto.bytes).unwrap();
    assert_eq!(deliver.records.len(), 20);
    let records: Vec<v1::Record> = deliver
        .records
        .iter()
        .map(|bytes| v1::Record::decode(&**bytes).unwrap())
        .collect();
    assert!((1..=20).eq(records.iter().map(|record| record.sequence)));
    assert!(records[4].envelope == record(5).envelope);

    let hex = logdump(&["cat", &text, "--output", "hex", "--limit", "1"]).stdout;
    let expected: String = deliver.records[0]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, format!("1 {expected}\n"));

    let lines = logdump(&["cat", &text]).stdout;
    assert_eq!(lines.lines().count(), 20);
    assert!(
        lines.lines().next().unwrap().contains(r#"{"n":1,"#),
        "{lines}"
    );
    assert!(!lines.contains('\u{1b}'), "colours in a pipe");
}

// TOOL-03, LOG-07: a log that is open is looked at like any other, and nothing is written.
#[test]
fn an_open_log_can_be_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let (log, text) = path(&dir);
    let made = Made::open(&log, 64 << 10);
    made.batch((1..=9).map(record).collect(), Durability::Synced);
    let contents = || {
        let mut files: Vec<_> = std::fs::read_dir(&log)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (std::fs::read(&path).unwrap(), path))
            .collect();
        files.sort_unstable();
        files
    };
    let before = contents();
    for verb in ["ls", "cat", "stats", "verify", "index", "recover"] {
        assert_eq!(logdump(&[verb, &text]).code, 0, "{verb}");
    }
    assert!(before == contents());
    made.close();
}

// TOOL-03
#[test]
fn ls_and_stats_count_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (log, text) = path(&dir);
    closed_log(&log, 600);
    let listed = logdump(&["ls", &text, "--output", "json"]).json();
    let segments = listed["logs"][0]["segments"].as_array().unwrap();
    assert!(segments.len() >= 3, "{listed}");
    let records: u64 = segments
        .iter()
        .map(|segment| segment["records"].as_u64().unwrap())
        .sum();
    assert_eq!(records, 600);
    assert!(
        segments.iter().all(|segment| segment["health"] == "good"),
        "{listed}"
    );
    let (last, sealed) = segments.split_last().unwrap();
    assert_eq!(last["state"], "closed");
    assert!(
        sealed.iter().all(|segment| segment["index"] == "good"),
        "{listed}"
    );
    assert!(sealed.iter().all(|segment| segment["state"] == "sealed"));
    let text_form = logdump(&["ls", &text]).stdout;
    assert!(text_form.contains("600 records"), "{text_form}");

    let stats = logdump(&["stats", &text, "--output", "json"]).json();
    let stats = &stats["logs"][0];
    assert_eq!(stats["records"], 600);
    assert_eq!(stats["duplicate_ids"], 0);
    assert_eq!(stats["topics"].as_array().unwrap().len(), 3);
    assert_eq!(stats["topics"][1]["records"], 200);
    assert!(logdump(&["stats", &text]).stdout.contains("quake.ak"));
}

// TOOL-03: the index verb holds every index file against its segment.
#[test]
fn index_agrees_with_the_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (log, text) = path(&dir);
    closed_log(&log, 600);
    let run = logdump(&["index", &text, "--output", "json"]);
    assert_eq!(run.code, 0);
    let shown = run.json();
    let states: Vec<&str> = shown["indexes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["state"].as_str().unwrap())
        .collect();
    let (last, sealed) = states.split_last().unwrap();
    assert_eq!(*last, "missing");
    assert!(
        !sealed.is_empty() && sealed.iter().all(|state| *state == "good"),
        "{states:?}"
    );
    let text_form = logdump(&["index", &text, "--topics", "--points"]).stdout;
    assert!(text_form.contains("orders.eu.paid"), "{text_form}");
}

// TOOL-03
#[test]
fn show_grep_and_hexdump_find_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let (log, text) = path(&dir);
    closed_log(&log, 50);
    let shown = logdump(&["show", "17", &text]);
    assert_eq!(shown.code, 0);
    for part in [
        "n7/main 17",
        "k2",
        "orders.eu.paid",
        "parity = 1",
        "\"n\": 17",
        "2026-11-22T02:00:23.278000Z, 1795312823278 ms since 1970",
        "good",
    ] {
        assert!(
            shown.stdout.contains(part),
            "{part} is missing in {}",
            shown.stdout
        );
    }
    let json = logdump(&["show", &text, "17", "--output", "json"]).json();
    assert_eq!(json["record"]["payload"]["n"], 17);
    assert_eq!(json["crc_stored"], json["crc_computed"]);
    assert_eq!(logdump(&["show", "51", &text]).code, 1);

    let found = logdump(&["grep", r#""n":1[0-9],"#, &text, "--output", "json"]);
    assert_eq!(found.sequences(), (10..=19).collect::<Vec<_>>());
    assert_eq!(logdump(&["grep", "nowhere", &text]).code, 1);

    let dump = logdump(&["hexdump", "17", &text]);
    assert_eq!(dump.code, 0, "{}", dump.stderr);
    for part in [
        "header_crc",
        "body_crc",
        "durable_through",
        "sequence",
        "envelope",
        "crc",
    ] {
        assert!(
            dump.stdout.contains(part),
            "{part} is missing in {}",
            dump.stdout
        );
    }
    assert!(!dump.stdout.contains("WRONG"), "{}", dump.stdout);
    let whole = logdump(&["hexdump", &text, "--whole"]);
    assert!(whole.stdout.contains("ARQONSEG") && !whole.stdout.contains("WRONG"));
}

// TOOL-03: a data directory, and a single file under any name.
#[test]
fn data_directories_and_single_files_are_logs_too() {
    let dir = tempfile::tempdir().unwrap();
    for (reality, count) in [("main", 30), ("other", 12)] {
        closed_log(&dir.path().join("acme").join(reality), count);
    }
    let data = dir.path().display().to_string();
    let run = logdump(&["cat", &data, "--output", "json"]);
    assert_eq!(run.lines().len(), 42);
    assert_eq!(run.lines()[30]["reality"], "other");
    let verified = logdump(&["verify", &data]);
    assert_eq!(verified.code, 0, "{}", verified.stdout);

    let copy = dir.path().join("copy-of-a-segment");
    std::fs::copy(&segments(&dir.path().join("acme/main"))[0], &copy).unwrap();
    let copy = copy.display().to_string();
    assert_eq!(
        logdump(&["cat", &copy, "--output", "json"]).lines().len(),
        30
    );
    assert_eq!(logdump(&["verify", &copy]).code, 0);
}

// TOOL-03: an index file is no damaged segment.
#[test]
fn an_index_file_stands_for_its_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = path(&dir);
    closed_log(&log, 600);
    let index = segments(&log)[0].with_extension("idx");
    let index = index.display().to_string();
    let run = logdump(&["index", &index]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    let run = logdump(&["cat", &index]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("is an index file"), "{}", run.stderr);
}

// TOOL-03
#[test]
fn a_file_that_is_no_segment_is_not_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("passwd");
    std::fs::File::create(&file).unwrap();
    change(&file, |bytes| {
        bytes.extend(b"root:x:0:0:root:/root:/bin/bash\n")
    });
    let run = logdump(&["cat", &file.display().to_string()]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("is not a segment"), "{}", run.stderr);
    assert!(!run.stderr.contains("damage"), "{}", run.stderr);
}

// TOOL-03
#[test]
fn recover_says_who_has_the_log_open() {
    let dir = tempfile::tempdir().unwrap();
    let (log, text) = path(&dir);
    let made = Made::open(&log, 64 << 10);
    made.batch((1..=9).map(record).collect(), Durability::Synced);
    let run = logdump(&["recover", &text]);
    let owner = format!("pid {}", std::process::id());
    assert!(run.stdout.contains(&owner), "{}", run.stdout);
    assert!(run.stdout.contains("a crash now"), "{}", run.stdout);
    made.close();
    let run = logdump(&["recover", &text]);
    assert!(!run.stdout.contains("open in"), "{}", run.stdout);
}

// TOOL-03: only verbs that look for something fail when it is not there.
#[test]
fn cat_of_nothing_is_well_and_grep_of_nothing_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (log, text) = path(&dir);
    closed_log(&log, 20);
    for more in [&[][..], &["--tail", "3"]] {
        let run = logdump(&[&["cat", &text, "--topic", "nowhere"], more].concat());
        assert_eq!((run.code, run.stdout.as_str()), (0, ""));
        assert_eq!(run.stderr, "logdump: no record is selected\n");
    }
    assert_eq!(logdump(&["cat", &text, "--tail", "1"]).stderr, "");
    assert_eq!(logdump(&["cat", &text, "--limit", "0"]).stderr, "");
    assert_eq!(logdump(&["grep", "no such thing", &text]).code, 1);
    let run = logdump(&["version", "--output", "json"]);
    assert!(run.stdout.contains("\"version\""), "{}", run.stdout);
}

// TOOL-03: exit codes of the command-line contract.
#[test]
fn wrong_usage_has_its_own_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = dir.path().display().to_string();
    for arguments in [
        &["verify"][..],
        &["verify", "/nonexistent"],
        &["verify", &nothing],
        &["cat", &nothing, "--topic", "a..b"],
        &["ls", &nothing, "--output", "proto"],
        &["frobnicate"],
        &["show", "5"],
    ] {
        assert_eq!(logdump(arguments).code, 2, "{arguments:?}");
    }
    assert!(logdump(&["verify", "--help"]).stdout.contains("Examples:"));
}

// TOOL-03: whoever has seen enough may go.
#[test]
fn a_closed_pipe_ends_quietly() {
    use std::process::{Command, Stdio};
    let dir = tempfile::tempdir().unwrap();
    let (log, text) = path(&dir);
    closed_log(&log, 3000);
    let mut child = Command::new(env!("CARGO_BIN_EXE_logdump"))
        .args(["cat", &text, "--output", "hex"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
