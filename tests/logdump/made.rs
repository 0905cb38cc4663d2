//! Makes log directories with the library, and runs the program on them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arqonbus::log::{
    Append, AppendError, AppendSink, Appended, Chunk, Clock, Committer, Durability, Environment,
    Log, Micros, NewRecord, Observer, Options, RealStorage, Sequence, Writer,
};
use arqonbus::proto::v1::{Envelope, Event, envelope};
use bytes::Bytes;
use prost::Message as _;

/// 2018-01-31T01:49:59.65Z
pub(crate) const BEGAN: u64 = 1_517_363_399_650_000;

/// Ticks one second at a time.
#[derive(Debug)]
pub(crate) struct Ticking(AtomicU64);

impl Ticking {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(BEGAN)))
    }
}

impl Clock for Ticking {
    fn now(&self) -> Micros {
        Micros(self.0.fetch_add(1_000_000, Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Deaf;

impl Observer for Deaf {
    fn written(&self, _group: &Chunk) {}
    fn durable(&self, _durable_end: Sequence) {}
    fn poisoned(&self, _reason: &str) {}
}

impl AppendSink for Deaf {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        outcome.unwrap();
    }
}

/// A log in the making; every step happens when it is called for.
pub(crate) struct Made {
    pub(crate) log: Log,
    pub(crate) committer: Arc<Committer>,
}

impl Made {
    pub(crate) fn open(dir: &Path, segment_bytes: u64) -> Self {
        Self::growing(dir, segment_bytes, segment_bytes)
    }

    /// The first segment may be smaller than the later ones.
    pub(crate) fn growing(dir: &Path, segment_bytes_first: u64, segment_bytes: u64) -> Self {
        let options = Options {
            segment_bytes,
            segment_bytes_first,
            index_interval_bytes: 512,
            ..Options::default()
        };
        Self::with(dir, &options)
    }

    pub(crate) fn with(dir: &Path, options: &Options) -> Self {
        let committer = Committer::manual();
        let environment = Environment {
            storage: Arc::new(RealStorage),
            clock: Ticking::new(),
            committer: Arc::clone(&committer),
        };
        let writer = Writer {
            node: 7,
            clock_key: "n7/main".to_owned(),
        };
        let (log, _) = Log::open(&environment, dir, &writer, options, Arc::new(Deaf)).unwrap();
        Self { log, committer }
    }

    /// Commits `records` as one batch.
    pub(crate) fn batch(&self, records: Vec<NewRecord>, durability: Durability) {
        let append = Append {
            records,
            durability,
            then: None,
            sink: Arc::new(Deaf),
            token: 0,
        };
        self.log.append(append).unwrap();
        self.committer.run_until_idle();
    }

    /// As an idle node does it: marks, indexes.
    pub(crate) fn rest(&self) {
        self.committer.run_chores();
    }

    pub(crate) fn close(self) {
        self.rest();
        self.log.close().unwrap();
    }
}

/// The record that stands at `sequence` in every log made here.
pub(crate) fn record(sequence: u64) -> NewRecord {
    let topic = ["quake.ak", "quake.ci", "orders.eu.paid"][usize::try_from(sequence % 3).unwrap()];
    let event = Event {
        r#type: "quake".to_owned(),
        data: format!(
            r#"{{"n":{sequence},"place":"{} km from here"}}"#,
            sequence * 7 % 1000
        )
        .into(),
    };
    let envelope = Envelope {
        id: format!("01900000-0000-7000-8000-{sequence:012}"),
        topic: topic.to_owned(),
        producer_id: "usgs".to_owned(),
        key: format!("k{}", sequence % 5),
        timestamp: 1_795_312_823_278,
        headers: [("parity".to_owned(), (sequence % 2).to_string())].into(),
        payload: Some(envelope::Payload::Event(event)),
        ..Envelope::default()
    };
    NewRecord {
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        clock_entries: Bytes::new(),
        stamp: Bytes::new(),
        envelope: envelope.encode_to_vec().into(),
    }
}

/// A log of `count` records in batches of several sizes and small segments, closed cleanly.
pub(crate) fn closed_log(dir: &Path, count: u64) {
    let made = Made::open(dir, 32 << 10);
    fill(&made, count);
    made.close();
}

pub(crate) fn fill(made: &Made, count: u64) {
    let mut next = 1;
    while next <= count {
        let size = (next * 7 % 11 + 1).min(count + 1 - next);
        made.batch(
            (next..next + size).map(record).collect(),
            Durability::Synced,
        );
        next += size;
        if next % 16 == 0 {
            made.rest();
        }
    }
}

/// Runs `logdump`; fails if it panicked.
pub(crate) fn logdump(arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_logdump"))
        .args(arguments)
        .env_remove("LOGDUMP_OUTPUT")
        .output()
        .unwrap();
    let run = Run::of(&output);
    assert_ne!(
        run.code, 101,
        "logdump {arguments:?} panicked: {}",
        run.stderr
    );
    assert!(
        !run.stderr.contains("panicked"),
        "logdump {arguments:?}: {}",
        run.stderr
    );
    run
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) bytes: Vec<u8>,
}

impl Run {
    fn of(output: &Output) -> Self {
        Self {
            // A signal is no exit code: it must not pass for one.
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout.clone(),
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(crate) fn sequences(&self) -> Vec<u64> {
        self.lines()
            .iter()
            .map(|line| line["sequence"].as_u64().unwrap())
            .collect()
    }
}

/// The segment files of `dir`, oldest first.
pub(crate) fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "seg"))
        .filter(|path| !path.ends_with("prepared.seg"))
        .collect();
    paths.sort_unstable();
    paths
}

/// A copy of the log in `from`.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Changes the file at `path`.
pub(crate) fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's file need not be durable"
    )]
    std::fs::write(path, bytes).unwrap();
}

/// Splitmix64: the same numbers for the same seed, everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    /// From `LOGDUMP_SEED` if it is set; prints the seed, so that a failure can be repeated.
    #[expect(
        clippy::print_stderr,
        reason = "shown by the test runner when the test fails"
    )]
    pub(crate) fn new(otherwise: u64) -> Self {
        let set = std::env::var("LOGDUMP_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = set.unwrap_or(otherwise);
        eprintln!("LOGDUMP_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % end as u64).unwrap()
    }
}
