//! How fast `logdump` goes over a log in the page cache. Long; run it on its own:
//! `cargo test --release --test logdump speed -- --ignored --nocapture`.

use std::process::{Command, Stdio};
use std::time::Instant;

use arqonbus::log::Durability;
use arqonbus::proto::v1::{Envelope, Event, envelope};
use bytes::Bytes;
use prost::Message as _;

use crate::made::Made;

const BYTES: usize = 512 << 20;
const PAYLOAD_BYTES: usize = 1024;
const BATCH: usize = 256;

// PERF-12: at least 1 GB/s, claimed in docs/performance.md.
#[test]
#[ignore = "long: writes and reads half a gigabyte"]
#[expect(
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "the result is for a person"
)]
fn verify_and_cat_keep_up_with_memory() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("dev/main");
    let made = Made::open(&log, 64 << 20);
    let data = format!(r#"{{"place":"{}"}}"#, "x".repeat(PAYLOAD_BYTES - 12));
    let event = Event {
        r#type: "quake".to_owned(),
        data: data.into(),
    };
    let mut envelope = Envelope {
        producer_id: "usgs".to_owned(),
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    };
    for batch in 0..BYTES / PAYLOAD_BYTES / BATCH {
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
    let log = log.display().to_string();
    for arguments in [
        &["verify", &log][..],
        &["cat", &log, "--output", "proto", "--topic", "quake.*"],
        &["cat", &log, "--output", "json"],
        &["cat", &log, "--topic", "nothing.here"],
        &["ls", &log],
        &["stats", &log],
    ] {
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
}
