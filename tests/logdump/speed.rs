//! How fast `logdump` goes over a log in the page cache. Long; run it on its own:
//! `cargo test --release --test logdump speed -- --ignored --nocapture`.
//!
//! With `LOGDUMP_SPEED_DIR` set, the logs are made there if they are not there yet, and kept.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use arqonbus::log::Durability;
use arqonbus::proto::v1::{Envelope, Event, envelope};
use bytes::Bytes;
use prost::Message as _;

use crate::made::Made;

const BYTES: usize = 512 << 20;
const BATCH: usize = 256;

/// 1 KiB of JSON in one string.
fn long() -> String {
    format!(r#"{{"place":"{}"}}"#, "x".repeat(1012))
}

/// 1 KiB of JSON as earthquakes come: many short members, white space, escapes.
fn quake() -> String {
    let station =
        r#"{"code": "AK17", "lat": 61.3464, "lon": -149.9552, "ok": true, "note": null}, "#;
    let stations = station.repeat(11);
    let head = r#"{"mag": 4.1, "place": "12km NNW of \"Talkeetna\"", "time": 1517363399650, "#;
    format!(
        r#"{head}"url": "http://earthquake.usgs.gov/x", "stations": [{}]}}"#,
        stations.trim_end_matches(", ")
    )
}

fn fill(log: &Path, data: &str) {
    let made = Made::open(log, 64 << 20);
    let event = Event {
        r#type: "quake".to_owned(),
        data: data.to_owned().into(),
    };
    let mut envelope = Envelope {
        producer_id: "usgs".to_owned(),
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    };
    for batch in 0..BYTES / data.len() / BATCH {
        let records = (0..BATCH).map(|at| {
            envelope.id = format!("01900000-0000-7000-8000-{:012}", batch * BATCH + at);
            arqonbus::log::NewRecord {
                topic: Bytes::from_static(b"quake.ak"),
                clock_entries: Bytes::new(),
                stamp: Bytes::new(),
                envelope: envelope.encode_to_vec().into(),
            }
        });
        made.batch(records.collect(), Durability::Written);
        if batch % 64 == 0 {
            made.rest();
        }
    }
    made.close();
}

#[expect(
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "the result is for a person"
)]
fn measure(arguments: &[&str]) {
    let run = || {
        let program = env!("CARGO_BIN_EXE_logdump");
        let status = Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{arguments:?}");
    };
    // Once for the page cache.
    run();
    let began = Instant::now();
    run();
    let seconds = began.elapsed().as_secs_f64();
    eprintln!(
        "{:5.2} GB/s  logdump {}",
        BYTES as f64 / 1e9 / seconds,
        arguments.join(" ")
    );
}

// PERF-12: at least 1 GB/s, claimed in docs/performance.md.
#[test]
#[ignore = "long: writes and reads a gigabyte"]
fn verify_and_cat_keep_up_with_memory() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("LOGDUMP_SPEED_DIR")
        .map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    for (name, data) in [("long", long()), ("quake", quake())] {
        let log = dir.join(name).join("main");
        if !log.exists() {
            fill(&log, &data);
        }
        let log = log.display().to_string();
        for arguments in [
            &["verify", &log][..],
            &["cat", &log, "--output", "proto"],
            &["cat", &log, "--output", "json"],
            &["cat", &log, "--output", "text"],
            &["cat", &log, "--output", "hex"],
            &["cat", &log, "--topic", "nothing.here"],
            &["ls", &log],
            &["stats", &log],
        ] {
            measure(arguments);
        }
    }
}
