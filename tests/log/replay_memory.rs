//! Replay of any amount runs in constant memory (PERF-11).
//!
//! A log of 128 MiB is replayed again and again by a process of its own, whose memory is measured:
//! 2 GiB in the short run, `ARQONBUS_REPLAY_GIB` in the long one:
//!
//! ```text
//! ARQONBUS_REPLAY_GIB=100 cargo test --release --test log replay_memory
//! ```

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arqonbus::log::{
    Append, Committer, Durability, Environment, Found, Log, NewRecord, Options, RealStorage,
};
use bytes::Bytes;

use crate::session::{Scribe, SimClock, writer};

const LOG_BYTES: u64 = 128 << 20;
const ENVELOPE_BYTES: usize = 1024;
const CHILD: &str = "ARQONBUS_REPLAY_CHILD";
/// What a replay may take beyond what it had taken after its first round.
const GROWTH_MAX: u64 = 8 << 20;

fn open(dir: &Path, committer: &Arc<Committer>, scribe: &Arc<Scribe>) -> Log {
    let environment = Environment {
        storage: Arc::new(RealStorage),
        clock: SimClock::new(),
        committer: Arc::clone(committer),
    };
    let observer = Arc::<Scribe>::clone(scribe);
    let options = Options {
        segment_bytes: 16 << 20,
        ..Options::default()
    };
    let opened = Log::open(&environment, dir, &writer(), &options, observer);
    opened.expect("the directory can be written").0
}

/// Memory of this process that no file backs.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| {
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.expect("a number") << 10
}

fn replay(log: &Log) -> u64 {
    let bounds = log.bounds();
    let (mut at, mut bytes) = (bounds.first, 0);
    while at < bounds.durable_end {
        match log.read(at, bounds.durable_end, 1 << 20).expect("readable") {
            Found::Records(chunk) => {
                bytes += chunk.records.len() as u64;
                at = chunk.last.next();
            }
            Found::Damaged { damage, .. } => panic!("{damage}"),
            Found::End => break,
        }
    }
    bytes
}

/// The process that replays; a test only so that it can be started.
#[test]
fn replaying_process() {
    let Ok(dir) = std::env::var(CHILD) else {
        return;
    };
    let scribe = Arc::new(Scribe::default());
    let log = open(Path::new(&dir), &Committer::manual(), &scribe);
    let gib = std::env::var("ARQONBUS_REPLAY_GIB").map_or(2, |gib| gib.parse().expect("a number"));
    let mut replayed = replay(&log);
    let after_one = anonymous_bytes();
    let mut most = after_one;
    while replayed < gib << 30 {
        replayed += replay(&log);
        most = most.max(anonymous_bytes());
    }
    assert!(
        most <= after_one + GROWTH_MAX,
        "{most} bytes while replaying {gib} GiB, {after_one} after the first round"
    );
    log.close().expect("a sound disk");
}

// PERF-11, LOG-19
#[test]
fn replay_takes_no_more_memory_the_longer_it_lasts() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let scribe = Arc::new(Scribe::default());
    let committer = Committer::manual();
    let log = open(dir.path(), &committer, &scribe);
    let envelope = Bytes::from(vec![7; ENVELOPE_BYTES]);
    let record = NewRecord {
        topic: Bytes::from_static(b"replayed"),
        clock_entries: Bytes::new(),
        stamp: Bytes::new(),
        envelope,
    };
    for token in 0..LOG_BYTES / (512 * ENVELOPE_BYTES as u64) {
        log.append(Append {
            records: vec![record.clone(); 512],
            durability: Durability::Written,
            then: None,
            sink: Arc::<Scribe>::clone(&scribe),
            token,
        })
        .expect("queued");
        committer.run_until_idle();
        scribe.take();
    }
    log.close().expect("a sound disk");
    drop(log);
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(["--exact", "replay_memory::replaying_process"])
        .env(CHILD, dir.path())
        .output()
        .expect("it starts");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
