//! The log alone, each figure beside what the machine can do in the same run.
//!
//! Claims: a synced append in groups costs at most 25 % more than plain write + fdatasync of the
//! same bytes (PERF-01, "the engine alone"); replay reads at memory speed (PERF-02); opening does
//! not grow with the log (PERF-07). What encryption at rest costs stands beside the plain log.
//! Written down in docs/performance.md.
//!
//! `cargo bench --bench log`; `ARQONBUS_BENCH_DIR` chooses the disk (default: the target folder).

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run must stop")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arqonbus::log::{
    Append, AppendError, AppendSink, Appended, Chunk, Clock, Committer, Durability, Encryption,
    Environment, Error, Found, Log, MasterKeys, Micros, NewRecord, NewSegments, Observer, Options,
    OsEntropy, RealStorage, Sequence, Writer,
};
use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use tempfile::TempDir;

const ENVELOPE_BYTES: usize = 1024;

#[derive(Debug)]
struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Micros {
        #[expect(clippy::disallowed_methods, reason = "the clock itself")]
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

#[derive(Debug)]
struct Unobserved;

impl Observer for Unobserved {
    fn written(&self, _group: &Chunk) {}
    fn durable(&self, _durable_end: Sequence) {}
    fn poisoned(&self, reason: &str) {
        panic!("the log failed under the benchmark: {reason}");
    }
}

/// Counts what is acknowledged, and lets the producer wait for it.
#[derive(Debug, Default)]
struct Acknowledged {
    records: Mutex<u64>,
    changed: Condvar,
    failed: AtomicU64,
}

impl AppendSink for Acknowledged {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        match outcome {
            Ok(appended) => {
                let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
                *records += appended.last.next().since(appended.first);
                self.changed.notify_one();
            }
            Err(_) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Acknowledged {
    fn wait_for(&self, count: u64) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        while *records < count {
            records = self
                .changed
                .wait(records)
                .unwrap_or_else(PoisonError::into_inner);
        }
        assert_eq!(self.failed.load(Ordering::Relaxed), 0, "appends failed");
    }
}

fn directory() -> TempDir {
    let parent = std::env::var_os("ARQONBUS_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    tempfile::tempdir_in(parent).unwrap()
}

/// A log, and the same encrypted.
fn both() -> [(&'static str, Options); 2] {
    let line = MasterKeys::generate("bench", &OsEntropy).unwrap();
    let encryption = Encryption {
        masters: Arc::new(MasterKeys::parse("the benchmark", &line).unwrap()),
        new_segments: NewSegments::Encrypted,
        entropy: Arc::new(OsEntropy),
    };
    let encrypted = Options {
        encryption: Some(encryption),
        ..Options::default()
    };
    [("", Options::default()), ("_encrypted", encrypted)]
}

fn open(dir: &TempDir) -> Log {
    open_with(dir, &Options::default())
}

fn open_with(dir: &TempDir, options: &Options) -> Log {
    let environment = Environment {
        storage: Arc::new(RealStorage),
        clock: Arc::new(WallClock),
        committer: Committer::start(2),
    };
    let writer = Writer {
        node: 1,
        clock_key: "bench1/main".to_owned(),
    };
    loop {
        let observer = Arc::new(Unobserved);
        match Log::open(&environment, dir.path(), &writer, options, observer) {
            Ok((log, _)) => return log,
            // A log that was dropped without a close lets go when its last chore is done.
            Err(Error::Locked { .. }) => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => panic!("{error}"),
        }
    }
}

fn records(count: usize, bytes: usize, topics: usize) -> Vec<NewRecord> {
    let envelope = Bytes::from(vec![b'x'; bytes]);
    (0..count)
        .map(|number| NewRecord {
            topic: format!("bench.topic.{}", number % topics).into(),
            clock_entries: Bytes::new(),
            stamp: Bytes::new(),
            envelope: envelope.clone(),
        })
        .collect()
}

fn fill(log: &Log, count: u64, topics: usize) {
    let sink = Arc::new(Acknowledged::default());
    let batch = records(1000, ENVELOPE_BYTES, topics);
    let mut sent = 0;
    while sent < count {
        append(log, &sink, batch.clone(), Durability::Written);
        sent += batch.len() as u64;
        sink.wait_for(sent);
    }
}

fn append(log: &Log, sink: &Arc<Acknowledged>, records: Vec<NewRecord>, durability: Durability) {
    let sink = Arc::clone(sink) as Arc<dyn AppendSink>;
    log.append(Append {
        records,
        durability,
        then: None,
        sink,
        token: 0,
    })
    .unwrap();
}

/// PERF-01: one synced group of n records, and the same bytes by plain write + fdatasync into a
/// file that was zeroed before.
fn synced_append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("synced_append");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(4));
    for count in [1, 16, 64, 256, 1000] {
        let bytes = count * ENVELOPE_BYTES;
        group.throughput(Throughput::Bytes(bytes as u64));

        for (suffix, options) in both() {
            let dir = directory();
            let log = open_with(&dir, &options);
            let sink = Arc::new(Acknowledged::default());
            let batch = records(count, ENVELOPE_BYTES, 1);
            let mut sent = 0;
            group.bench_function(BenchmarkId::new(format!("log{suffix}"), count), |bencher| {
                bencher.iter_batched(
                    || batch.clone(),
                    |batch| {
                        sent += count as u64;
                        append(&log, &sink, batch, Durability::Synced);
                        sink.wait_for(sent);
                    },
                    BatchSize::SmallInput,
                );
            });
            log.close().unwrap();
        }

        let dir = directory();
        let file = zeroed_file(&dir, 256 << 20);
        let plain = vec![b'x'; bytes];
        let mut at = 0;
        group.bench_function(BenchmarkId::new("write_fdatasync", count), |bencher| {
            bencher.iter(|| {
                if at + bytes as u64 > 256 << 20 {
                    at = 0;
                }
                file.write_all_at(&plain, at).unwrap();
                file.sync_data().unwrap();
                at += bytes as u64;
            });
        });
    }
    group.finish();
}

fn zeroed_file(dir: &TempDir, len: usize) -> File {
    let path = dir.path().join("plain");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path);
    let file = file.unwrap();
    file.write_all_at(&vec![0; len], 0).unwrap();
    file.sync_data().unwrap();
    file
}

const RECORDS: u64 = 250_000;

/// PERF-02, PERF-10: reading 256 MiB back, all of it and a topic that is 1 % of it, and the same
/// files by plain read(2).
fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    group
        .sample_size(10)
        .throughput(Throughput::Bytes(RECORDS * ENVELOPE_BYTES as u64));
    for (suffix, options) in both() {
        let dir = directory();
        let log = open_with(&dir, &options);
        fill(&log, RECORDS, 100);
        log.close().unwrap();
        replay_log(&mut group, &log, suffix);
        if suffix.is_empty() {
            replay_plainly(&mut group, &dir);
        }
    }
    group.finish();
}

fn replay_log(group: &mut BenchmarkGroup<'_, WallTime>, log: &Log, suffix: &str) {
    let end = log.bounds().durable_end;
    group.bench_function(format!("log{suffix}"), |bencher| {
        bencher.iter(|| {
            let mut at = Sequence::FIRST;
            let mut bytes = 0;
            while let Found::Records(chunk) = log.read(at, end, 256 << 10).unwrap() {
                bytes += chunk.records.len();
                at = chunk.last.next();
            }
            assert!(bytes as u64 >= RECORDS * ENVELOPE_BYTES as u64);
        });
    });
    group.bench_function(format!("topic_of_1_percent{suffix}"), |bencher| {
        bencher.iter(|| {
            let mut reader = log.topic_reader(Box::new(|topic| topic == "bench.topic.7"));
            let mut at = Sequence::FIRST;
            let mut count = 0;
            while let Found::Records(chunk) = reader.read(at, end, 256 << 10).unwrap() {
                count += chunk.iter().count() as u64;
                at = chunk.last.next();
            }
            assert_eq!(count, RECORDS / 100);
        });
    });
}

fn replay_plainly(group: &mut BenchmarkGroup<'_, WallTime>, dir: &TempDir) {
    group.bench_function("plain_read", |bencher| {
        let mut buffer = vec![0; 1 << 20];
        bencher.iter(|| {
            let mut total = 0;
            for entry in std::fs::read_dir(dir.path()).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_none_or(|extension| extension != "seg") {
                    continue;
                }
                let file = File::open(path).unwrap();
                let mut at = 0;
                loop {
                    let len = file.read_at(&mut buffer, at).unwrap();
                    if len == 0 {
                        break;
                    }
                    at += len as u64;
                    total += len;
                }
            }
            assert!(total as u64 >= RECORDS * ENVELOPE_BYTES as u64);
        });
    });
}

/// PERF-07, LOG-09: opening a log that nobody closed, at two sizes; finding a sequence in it.
fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open_after_crash");
    group.sample_size(10);
    for mebibytes in [64_u64, 512] {
        let dir = directory();
        let log = open(&dir);
        fill(&log, mebibytes * 1000, 1);
        drop(log);
        group.bench_function(
            BenchmarkId::from_parameter(format!("{mebibytes} MiB")),
            |bencher| {
                bencher.iter(|| {
                    let log = open(&dir);
                    let end = log.bounds().durable_end;
                    let last = end.previous().unwrap();
                    assert!(matches!(log.read(last, end, 1).unwrap(), Found::Records(_)));
                });
            },
        );
        let log = open(&dir);
        let end = log.bounds().durable_end;
        let mut at = 1;
        group.bench_function(
            BenchmarkId::new("seek", format!("{mebibytes} MiB")),
            |bencher| {
                bencher.iter(|| {
                    // A stride that visits all segments.
                    at = (at + 7_919) % (end.get() - 1) + 1;
                    let sequence = Sequence::at_least_first(at);
                    assert!(matches!(
                        log.read(sequence, end, 1).unwrap(),
                        Found::Records(_)
                    ));
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, synced_append, replay, recovery);
criterion_main!(benches);
